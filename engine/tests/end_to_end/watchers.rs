//! Watchers: order, resuming, slowness.

use super::*;

/// Deposits through one stream; returns the last sequence.
async fn deposits(realm: &mut Realm, count: usize) -> u64 {
    let (sender, receiver) = mpsc::channel(4);
    let mut outcomes = realm
        .ledger
        .submit(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let mut last = 0;
    for _ in 0..count / 1000 {
        let deposit = || {
            Kind::Deposit(v1::Deposit {
                account: account("ann"),
                amount: 1,
            })
        };
        let commands = (0..1000).map(|_| command("operator", deposit())).collect();
        sender
            .send(v1::SubmitRequest {
                ack: AckLevel::Durable.into(),
                commands,
            })
            .await
            .unwrap();
        let answer = outcomes.message().await.unwrap().unwrap();
        assert!(answer.outcomes.iter().all(|outcome| outcome.code == 0));
        last = answer
            .outcomes
            .iter()
            .map(|outcome| outcome.sequence)
            .max()
            .unwrap();
    }
    last
}

fn assert_dense(events: &[v1::Event]) {
    for pair in events.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        let follows = if before.sequence == after.sequence {
            after.index == before.index + 1
        } else {
            after.sequence > before.sequence && after.index == 0
        };
        assert!(
            follows,
            "{}.{} after {}.{}",
            after.sequence, after.index, before.sequence, before.index
        );
        assert!(before.time_ms <= after.time_ms);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_every_event_in_order_and_resumes_without_gap_or_double() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(trading_spec()).await;
    for number in 0..10 {
        realm.mint(collection, "ann", number).await;
    }
    let last = deposits(&mut realm, 5000).await;
    let whole = watch_until(
        &mut realm,
        v1::WatchRequest {
            from_sequence: 1,
            ..Default::default()
        },
    )
    .await;
    assert_dense(&whole);
    assert_eq!((whole[0].sequence, kind_name(&whole[0])), (1, "other"));
    let deposited = whole
        .iter()
        .filter(|event| matches!(event.kind, Some(Happened::Deposited(_))))
        .count();
    assert_eq!(deposited, 5000);
    // In pieces: each watcher is dropped after its first message, the next one goes on after what was seen.
    let mut pieces: Vec<v1::Event> = Vec::new();
    let mut from_sequence = 0;
    let mut streams = 0;
    while from_sequence <= last {
        let request = v1::WatchRequest {
            from_sequence,
            ..Default::default()
        };
        let mut stream = realm.ledger.watch(request).await.unwrap().into_inner();
        let seen = stream.message().await.unwrap().unwrap();
        pieces.extend(seen.events);
        assert!(seen.seen_sequence >= from_sequence);
        from_sequence = seen.seen_sequence + 1;
        streams += 1;
    }
    assert!(streams > 1);
    let common_length = whole.len().min(pieces.len());
    assert_eq!(pieces[..common_length], whole[..common_length]);
    assert_dense(&pieces);
    // After a restart the stream is the same.
    let mut realm = realm.stop().await.start().await;
    let again = watch_until(&mut realm, v1::WatchRequest::default()).await;
    assert_eq!(again[..whole.len()], whole[..]);
    assert_dense(&again);
    // Filters only leave out.
    let request = v1::WatchRequest {
        account: account("ann"),
        ..Default::default()
    };
    let of_ann = watch_until(&mut realm, request).await;
    assert!(of_ann.len() >= 5010 && of_ann.len() < again.len());
    let request = v1::WatchRequest {
        collection,
        ..Default::default()
    };
    let of_collection = watch_until(&mut realm, request).await;
    let minted = of_collection
        .iter()
        .filter(|event| kind_name(event) == "minted")
        .count();
    assert_eq!(minted, 10);
    assert!(
        !of_collection
            .iter()
            .any(|event| matches!(event.kind, Some(Happened::Deposited(_))))
    );
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_stops_nobody_and_misses_nothing() {
    let mut realm = Realm::start().await;
    let channel = Endpoint::from_shared(format!("http://{}", realm.service.address))
        .unwrap()
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .connect()
        .await
        .unwrap();
    let request = v1::WatchRequest {
        from_sequence: 1,
        ..Default::default()
    };
    let mut slow = LedgerClient::new(channel)
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    assert!(slow.message().await.unwrap().is_some());
    // Far more than the windows and the waiting messages hold.
    let last = deposits(&mut realm, 100_000).await;
    let fast = watch_until(
        &mut realm,
        v1::WatchRequest {
            from_sequence: last - 10,
            ..Default::default()
        },
    )
    .await;
    assert!(fast.len() >= 11);
    let mut events = 0;
    let mut before = (0, 0);
    loop {
        let seen = slow.message().await.unwrap().unwrap();
        for event in &seen.events {
            assert!((event.sequence, event.index) > before);
            before = (event.sequence, event.index);
            events += u64::from(matches!(event.kind, Some(Happened::Deposited(_))));
        }
        if seen.seen_sequence >= last {
            break;
        }
    }
    assert!(events >= 99_000, "{events}");
    realm.stop().await;
}
