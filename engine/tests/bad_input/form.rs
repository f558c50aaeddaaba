//! Commands, requests and queries of a wrong form.

use karat_proto::served::SubmitRequest;
use prost::Message as _;
use tokio_stream::StreamExt as _;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_command_over_its_size_limit_is_refused_and_its_id_stays_free() {
    let mut realm = Realm::start().await;
    let values: Vec<String> = (0..64).map(|value| format!("{value:064}")).collect();
    let traits = (0..16)
        .map(|number| v1::TraitSpec {
            name: format!("trait {number}"),
            values: values.clone(),
            weights: vec![1; 64],
        })
        .collect();
    let large = v1::CollectionSpec { traits, ..spec() };
    let kind = |spec| Kind::CreateCollection(v1::CreateCollection { spec: Some(spec) });
    let mut asked = command("studio", kind(large));
    let status = realm
        .refused_at_door(asked.clone(), Code::CommandTooLarge)
        .await;
    assert!(status.message().contains("16384"), "{status}");
    // It got no sequence, so its id was never used.
    asked.kind = Some(kind(spec()));
    let (_, outcome) = realm.try_execute(asked, AckLevel::Durable).await.unwrap();
    assert_eq!((outcome.code, outcome.replayed), (0, false));
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused_and_the_connection_lives_on() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    let mut huge = mint(collection, "ann", 1);
    huge.content = Bytes::from(vec![0; limits::MESSAGE_BYTES_MAX + 1]);
    let status = realm
        .try_execute(command("studio", Kind::Mint(huge)), AckLevel::Durable)
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status:?}");
    assert!(status.message().contains("too large"), "{status:?}");
    realm.mint(collection, "ann", 1).await;
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_format_a_missing_kind_and_malformed_fields_are_refused_by_name() {
    let mut realm = Realm::start().await;
    let deposit = || {
        Kind::Deposit(v1::Deposit {
            account: account("ann"),
            amount: 1,
        })
    };
    let newer = v1::Command {
        format: limits::COMMAND_FORMAT + 1,
        ..command("operator", deposit())
    };
    let status = realm.refused_at_door(newer, Code::UnknownFormat).await;
    assert!(status.message().contains("format 2"), "{status}");
    let empty = v1::Command {
        kind: None,
        ..command("operator", deposit())
    };
    let status = realm.refused_at_door(empty, Code::Malformed).await;
    assert!(status.message().contains("kind"), "{status}");
    for length in [0, 15, 17, 4096] {
        let id = Bytes::from(vec![1; length]);
        let status = realm
            .refused_at_door(
                v1::Command {
                    id,
                    ..command("operator", deposit())
                },
                Code::Malformed,
            )
            .await;
        assert!(
            status
                .message()
                .contains(&format!("id must have 16 bytes, has {length}")),
            "{status}"
        );
        let actor = Bytes::from(vec![1; length]);
        let status = realm
            .refused_at_door(
                v1::Command {
                    actor,
                    ..command("operator", deposit())
                },
                Code::Malformed,
            )
            .await;
        assert!(
            status.message().contains("actor must have 20 bytes"),
            "{status}"
        );
    }
    let to = Bytes::from_static(b"0xabc");
    let transfer = command(
        "ann",
        Kind::Transfer(v1::Transfer {
            asset: 1,
            version: 1,
            to,
        }),
    );
    let status = realm.refused_at_door(transfer, Code::Malformed).await;
    assert!(
        status.message().contains("to must have 20 bytes, has 5"),
        "{status}"
    );
    let long = v1::RegisterModel {
        digest: Bytes::from_static(&MODEL),
        name: "m".repeat(65),
        role: v1::ModelRole::Generator.into(),
        ..Default::default()
    };
    let status = realm
        .refused_at_door(
            command("operator", Kind::RegisterModel(long)),
            Code::TextTooLong,
        )
        .await;
    assert!(status.message().contains("65 bytes"), "{status}");
    let no_command = v1::ExecuteRequest {
        ack: AckLevel::Durable.into(),
        command: None,
    };
    let status = realm.ledger.execute(no_command).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let no_level = v1::ExecuteRequest {
        ack: 99,
        command: Some(command("operator", deposit())),
    };
    let status = realm.ledger.execute(no_level).await.unwrap_err();
    assert!(status.message().contains("99 is no ack level"), "{status}");
    assert_eq!(realm.balance("ann").await, 0);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_queries_are_refused() {
    let mut realm = Realm::start().await;
    let status = realm
        .ledger
        .get_asset(v1::GetAssetRequest { asset: 9 })
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (tonic::Code::NotFound, "there is no asset 9")
    );
    let wrong = v1::GetAccountRequest {
        account: Bytes::from_static(b"ann"),
    };
    let status = realm.ledger.get_account(wrong).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    for request in [
        v1::ListAssetsRequest::default(),
        v1::ListAssetsRequest {
            owner: account("ann"),
            collection: 1,
            ..Default::default()
        },
        v1::ListAssetsRequest {
            owner: Bytes::from_static(b"ann"),
            ..Default::default()
        },
        v1::ListAssetsRequest {
            collection: 1,
            limit: 1001,
            ..Default::default()
        },
    ] {
        let status = realm.ledger.list_assets(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
        assert!(!status.message().is_empty());
    }
    let wrong = v1::WatchRequest {
        account: Bytes::from_static(b"ann"),
        ..Default::default()
    };
    let status = realm.ledger.watch(wrong).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    let absent = realm
        .ledger
        .get_batch(v1::GetBatchRequest { number: 7 })
        .await
        .unwrap_err();
    assert_eq!(absent.code(), tonic::Code::NotFound);
    let absent = realm
        .ledger
        .get_proof(v1::GetProofRequest { asset: 7 })
        .await
        .unwrap_err();
    assert_eq!(absent.code(), tonic::Code::NotFound);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_stream_keep_their_order_whatever_their_size() {
    keep_their_order(Realm::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_keep_their_order_where_connections_have_threads_of_their_own() {
    keep_their_order(Realm::start_with(|config| config.gateway.threads = 2).await).await;
}

async fn keep_their_order(mut realm: Realm) {
    let sizes = [1, 3, 500, 1, 8, 9, 1, 1000, 2, 1];
    let requests = sizes.map(|size| v1::SubmitRequest {
        ack: AckLevel::Sequenced.into(),
        commands: (0..size)
            .map(|_| {
                let deposit = v1::Deposit {
                    account: account("ann"),
                    amount: 1,
                };
                command("operator", Kind::Deposit(deposit))
            })
            .collect(),
    });
    let sent: Vec<_> = requests
        .iter()
        .flat_map(|request| request.commands.iter().map(|command| command.id.clone()))
        .collect();
    let mut outcomes = realm
        .ledger
        .submit(tokio_stream::iter(requests))
        .await
        .unwrap()
        .into_inner();
    let mut answered = Vec::new();
    while answered.len() < sent.len() {
        answered.extend(outcomes.message().await.unwrap().unwrap().outcomes);
    }
    assert!(answered.iter().all(|outcome| outcome.code == 0));
    answered.sort_by_key(|outcome| outcome.sequence);
    let order: Vec<_> = answered.into_iter().map(|outcome| outcome.id).collect();
    assert_eq!(order, sent);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_refuses_empty_and_overfull_requests_and_goes_on() {
    let mut realm = Realm::start().await;
    let (sender, receiver) = mpsc::channel(4);
    let mut outcomes = realm
        .ledger
        .submit(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let deposit = || {
        command(
            "operator",
            Kind::Deposit(v1::Deposit {
                account: account("ann"),
                amount: 1,
            }),
        )
    };
    let request = |commands| v1::SubmitRequest {
        ack: AckLevel::Sequenced.into(),
        commands,
    };
    sender.send(request(vec![])).await.unwrap();
    let answer = outcomes.message().await.unwrap().unwrap();
    assert_eq!(answer.outcomes.len(), 1);
    assert_refused(&answer.outcomes[0], Code::EmptyRequest);
    sender
        .send(request((0..2000).map(|_| deposit()).collect()))
        .await
        .unwrap();
    let answer = outcomes.message().await.unwrap().unwrap();
    assert_eq!(answer.outcomes.len(), 1);
    assert_refused(&answer.outcomes[0], Code::TooManyCommands);
    assert!(
        answer.outcomes[0].message.contains("2000"),
        "{}",
        answer.outcomes[0].message
    );
    let bad_level = v1::SubmitRequest {
        ack: 42,
        commands: vec![deposit(), deposit()],
    };
    sender.send(bad_level).await.unwrap();
    let answer = outcomes.message().await.unwrap().unwrap();
    assert_eq!(answer.outcomes.len(), 2);
    answer
        .outcomes
        .iter()
        .for_each(|outcome| assert_refused(outcome, Code::Malformed));
    // One bad command among good ones: the good ones are taken.
    let mut mixed: Vec<_> = (0..3).map(|_| deposit()).collect();
    mixed[1].format = 9;
    let bad_id = mixed[1].id.clone();
    sender.send(request(mixed)).await.unwrap();
    let mut found = Vec::new();
    while found.len() < 3 {
        found.extend(outcomes.message().await.unwrap().unwrap().outcomes);
    }
    for outcome in &found {
        let expected = if outcome.id == bad_id {
            Code::UnknownFormat
        } else {
            Code::Accepted
        };
        assert_eq!(outcome.code, expected as u32, "{}", outcome.message);
        assert_eq!(outcome.sequence == 0, outcome.id == bad_id);
    }
    sender
        .send(request((0..1024).map(|_| deposit()).collect()))
        .await
        .unwrap();
    let answer = outcomes.message().await.unwrap().unwrap();
    assert_eq!(
        answer
            .outcomes
            .iter()
            .filter(|outcome| outcome.code == 0)
            .count(),
        1024
    );
    assert_eq!(realm.balance("ann").await, 1026);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_id_is_refused_with_another_body_and_replayed_with_the_same() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    let first = command("studio", Kind::Mint(mint(collection, "ann", 1)));
    let (_, minted) = realm
        .try_execute(first.clone(), AckLevel::Durable)
        .await
        .unwrap();
    assert_eq!(minted.code, 0);
    let other = v1::Command {
        id: first.id.clone(),
        ..command("studio", Kind::Mint(mint(collection, "bob", 1)))
    };
    let (_, refused) = realm
        .try_execute(other.clone(), AckLevel::Durable)
        .await
        .unwrap();
    assert_refused(&refused, Code::IdReused);
    let (_, again) = realm
        .try_execute(first.clone(), AckLevel::Durable)
        .await
        .unwrap();
    let replayed = v1::Outcome {
        replayed: true,
        ..minted.clone()
    };
    assert_eq!(again, replayed);
    // The memory of ids survives a restart, from the log and from a snapshot.
    let mut realm = realm.close().await.start().await;
    assert_eq!(
        realm
            .try_execute(first.clone(), AckLevel::Sequenced)
            .await
            .unwrap()
            .1,
        replayed
    );
    let mut realm = realm.stop().await.start().await;
    assert_eq!(
        realm
            .try_execute(first, AckLevel::Sequenced)
            .await
            .unwrap()
            .1,
        replayed
    );
    let (_, refused) = realm.try_execute(other, AckLevel::Durable).await.unwrap();
    assert_refused(&refused, Code::IdReused);
    let minted = realm
        .ledger
        .get_collection(v1::GetCollectionRequest { collection })
        .await
        .unwrap();
    assert_eq!(minted.into_inner().minted, 1);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_command_are_refused_and_the_others_of_their_request_are_taken() {
    let realm = Realm::start().await;
    let deposit = Kind::Deposit(v1::Deposit {
        account: account("ann"),
        amount: 1,
    });
    let garbage = Bytes::from_static(b"\xff\xff\xff\xff no command");
    let request = SubmitRequest {
        ack: AckLevel::Durable.into(),
        commands: vec![garbage, command("operator", deposit).encode_to_vec().into()],
    };
    let mut client = Grpc::new(common::connect(&realm.service).await);
    client.ready().await.unwrap();
    let codec = ProstCodec::<SubmitRequest, v1::SubmitResponse>::default();
    let path = PathAndQuery::from_static("/karat.v1.Ledger/Submit");
    let requests = Request::new(tokio_stream::iter([request]));
    let answers = client.streaming(requests, path, codec).await.unwrap();
    let answers: Vec<_> = answers.into_inner().collect().await;
    let outcomes: Vec<_> = answers
        .into_iter()
        .flat_map(|answer| answer.unwrap().outcomes)
        .collect();
    let [refused, accepted] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    assert_refused(refused, Code::Malformed);
    assert!(refused.id.is_empty(), "{refused:?}");
    assert_eq!(accepted.code, 0, "{accepted:?}");
    realm.stop().await;
}
