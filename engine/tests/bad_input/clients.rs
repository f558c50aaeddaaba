//! Clients that ask too much or read too little.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_of_one_client_are_refused_beyond_the_bound_and_others_are_served() {
    let mut realm = Realm::start_with(|config| config.gateway.streams_max = 50).await;
    let client = LedgerClient::new(common::connect(&realm.service).await);
    let mut opening = Vec::new();
    for _ in 0..10_000 {
        let mut client = client.clone();
        opening.push(tokio::spawn(async move {
            client.watch(v1::WatchRequest::default()).await
        }));
    }
    let mut open = Vec::new();
    let mut refused = 0;
    for one in opening {
        match one.await.unwrap() {
            Ok(stream) => open.push(stream.into_inner()),
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
                assert!(status.message().contains("50 streams are open"), "{status}");
                refused += 1;
            }
        }
    }
    assert_eq!((open.len(), refused), (50, 9950));
    // Calls that open no stream are answered, here and on another connection.
    realm.deposit("ann", 1).await;
    let (_kept, receiver) = mpsc::channel(1);
    let status = realm
        .ledger
        .submit(ReceiverStream::new(receiver))
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    // What is closed makes room.
    assert!(open[0].message().await.unwrap().is_some());
    drop(open);
    let ledger = realm.ledger.clone();
    common::eventually("room for a stream", || {
        let mut ledger = ledger.clone();
        async move {
            ledger
                .watch(v1::WatchRequest::default())
                .await
                .ok()
                .map(drop)
        }
    })
    .await;
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_no_outcomes_is_read_no_further_and_others_are_served() {
    let mut realm = Realm::start_with(|config| config.gateway.in_flight_a_stream_max = 1024).await;
    // 64 commands of about 320 bytes a request; what lies in the windows between client and engine is some 4 MiB.
    const REQUESTS: usize = 2000;
    const COMMANDS: usize = 64;
    let channel = Endpoint::from_shared(format!("http://{}", realm.service.address))
        .unwrap()
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .connect()
        .await
        .unwrap();
    let mut deaf = LedgerClient::new(channel);
    let (sender, receiver) = mpsc::channel(1);
    let mut outcomes = deaf
        .submit(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let view = realm.service.gateway.core.view.clone();
    let before = view.applied_seq();
    let taken = || (view.applied_seq() - before) as usize;
    let mut sent = 0;
    'sending: for _ in 0..REQUESTS {
        let freeze = || {
            Kind::Freeze(v1::Freeze {
                asset: 1,
                reason: "r".repeat(256),
            })
        };
        let commands = (0..COMMANDS)
            .map(|_| command("mallory", freeze()))
            .collect();
        let request = v1::SubmitRequest {
            ack: AckLevel::Sequenced.into(),
            commands,
        };
        // The engine reads no further when nothing moves although there is more to read; a slow one goes on after a while.
        let mut taken_before = None;
        let permit = loop {
            match tokio::time::timeout(Duration::from_secs(2), sender.reserve()).await {
                Ok(permit) => break permit.unwrap(),
                Err(_) if taken_before == Some(taken()) && taken() < sent * COMMANDS => {
                    break 'sending;
                }
                Err(_) => taken_before = Some(taken()),
            }
        };
        permit.send(request);
        sent += 1;
    }
    assert!(
        sent < REQUESTS,
        "every request was read though no outcome was"
    );
    assert!(
        taken() < sent * COMMANDS,
        "{} of {} commands were taken",
        taken(),
        sent * COMMANDS
    );
    // Others are served meanwhile.
    realm.deposit("ann", 7).await;
    assert_eq!(realm.balance("ann").await, 7);
    // When it reads at last, it gets one outcome for every command that it sent.
    drop(sender);
    let mut ids = HashSet::new();
    while let Some(answer) = outcomes.message().await.unwrap() {
        for outcome in answer.outcomes {
            assert_eq!(outcome.code, Code::NotAllowed as u32);
            assert!(ids.insert(outcome.id), "an outcome came twice");
        }
    }
    assert_eq!(ids.len(), sent * COMMANDS);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_its_rate_is_told_when_to_come_back() {
    let mut realm = Realm::start_with(|config| config.gateway.commands_a_second_max = 10).await;
    let (sender, receiver) = mpsc::channel(4);
    let mut outcomes = realm
        .ledger
        .submit(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let deposits = |count| {
        let deposit = || {
            Kind::Deposit(v1::Deposit {
                account: account("ann"),
                amount: 1,
            })
        };
        let commands = (0..count).map(|_| command("operator", deposit())).collect();
        v1::SubmitRequest {
            ack: AckLevel::Sequenced.into(),
            commands,
        }
    };
    sender.send(deposits(1000)).await.unwrap();
    let answer = outcomes.message().await.unwrap().unwrap();
    assert_eq!(answer.outcomes.len(), 1000);
    for outcome in &answer.outcomes {
        assert_refused(outcome, Code::RateLimited);
        assert!(outcome.retry_after_ms > 0);
    }
    sender.send(deposits(5)).await.unwrap();
    let answer = outcomes.message().await.unwrap().unwrap();
    assert!(answer.outcomes.iter().all(|outcome| outcome.code == 0));
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_that_wait_are_bounded_and_those_of_clients_that_have_gone_make_room() {
    let mut realm = Realm::start_with(|config| config.gateway.waiting_outcomes_max = 2).await;
    let collection = realm.prepare(spec()).await;
    let minting = move |number| command("studio", Kind::Mint(mint(collection, "ann", number)));
    let (sender, receiver) = mpsc::channel(1);
    let outcomes = realm
        .ledger
        .submit(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let request = |commands| v1::SubmitRequest {
        ack: AckLevel::Verified.into(),
        commands,
    };
    sender
        .send(request(vec![minting(0), minting(1)]))
        .await
        .unwrap();
    for asset in 1..=2 {
        realm.until_state(asset, AssetState::InReview).await;
    }
    // They wait once the log is flushed, which may be after their verdicts.
    let gateway = realm.service.gateway.clone();
    common::eventually("two waiting outcomes", || {
        let is_full = !gateway.acks.has_room(1);
        async move { is_full.then_some(()) }
    })
    .await;
    drop(gateway);
    // Both wait for people. Another one has no room, on a stream and alone; it may do with less.
    let status = realm
        .try_execute(minting(2), AckLevel::Settled)
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    let (other, receiver) = mpsc::channel(1);
    let stream = ReceiverStream::new(receiver);
    let mut answers = realm.ledger.submit(stream).await.unwrap().into_inner();
    other.send(request(vec![minting(2)])).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_refused(&answer.outcomes[0], Code::Overloaded);
    assert!(answer.outcomes[0].retry_after_ms > 0);
    let (_, outcome) = realm
        .try_execute(minting(2), AckLevel::Durable)
        .await
        .unwrap();
    assert_eq!((outcome.code, outcome.subject), (0, 3));
    // Their client goes away without its answers.
    drop((sender, outcomes));
    let mut ledger = realm.ledger.clone();
    let waiting = tokio::spawn(async move {
        loop {
            let command = Some(minting(3));
            let request = v1::ExecuteRequest {
                ack: AckLevel::Verified.into(),
                command,
            };
            match ledger.execute(request).await {
                Ok(answer) => return answer.into_inner().ack(),
                Err(status) => {
                    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}")
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    realm.accept(4).await;
    assert_eq!(waiting.await.unwrap(), AckLevel::Verified);
    realm.stop().await;
}
