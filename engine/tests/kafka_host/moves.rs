//! How long a realm is away while it moves, as its client sees it: a measurement, not a test.
//!
//! `KARAT_TEST_ACCOUNTS=1000000 cargo test --release -p karat-engine --features kafka --test kafka_host -- --ignored --nocapture`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use karat_proto::v1;
use karat_proto::v1::AckLevel;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use super::broker::is_there;
use super::common::eventually;
use super::group::{Group, Host, deposit, execute, spread, to};

/// The session of the default configuration.
const SESSION_MS: u64 = 6_000;
/// Moves of each kind.
const TURNS: usize = 3;
/// Commands in one request.
const REQUEST_COMMANDS: u64 = 1000;
/// A client that is refused asks again after so long.
const AGAIN: Duration = Duration::from_millis(2);
/// A client that has no answer asks again after so long.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What the client of a realm sees.
struct Client {
    realm: String,
    channels: Mutex<BTreeMap<String, Channel>>,
    /// From the last answer of a host to the first one of another.
    moves: Mutex<Vec<Duration>>,
    stop: AtomicBool,
}

impl Client {
    fn know(&self, host: &Host) {
        let mut channels = self.channels.lock();
        channels.insert(host.address.clone(), host.channel.clone());
    }

    fn channel(&self, address: &str) -> Channel {
        let mut channels = self.channels.lock();
        let connect = || {
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            endpoint.unwrap().connect_lazy()
        };
        let channel = channels.entry(address.to_owned()).or_insert_with(connect);
        channel.clone()
    }

    /// The host to ask after this one.
    fn next(&self, address: &str) -> String {
        let channels = self.channels.lock();
        let behind = channels.keys().find(|one| one.as_str() > address);
        behind.or(channels.keys().next()).unwrap().clone()
    }

    /// Enters one command after the other, each until it is acknowledged.
    async fn run(self: Arc<Client>) {
        let mut at = self.next("");
        let mut last: Option<(Instant, String)> = None;
        while !self.stop.load(Ordering::SeqCst) {
            let command = deposit("client", 1);
            loop {
                let asked = self.channel(&at);
                let asked = execute(&asked, &self.realm, &command);
                match tokio::time::timeout(ANSWER_MAX, asked).await {
                    Ok(Ok(_)) => break,
                    Ok(Err(status)) => {
                        let leader = status.metadata().get("karat-leader");
                        at = match leader.and_then(|leader| leader.to_str().ok()) {
                            Some(leader) => leader.to_owned(),
                            None => self.next(&at),
                        };
                    }
                    Err(_) => at = self.next(&at),
                }
                tokio::time::sleep(AGAIN).await;
            }
            let now = Instant::now();
            if let Some((answered, host)) = &last
                && *host != at
            {
                self.moves.lock().push(now - *answered);
            }
            last = Some((now, at.clone()));
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// How long the next realm that moves was away.
async fn next_move(clients: &[Arc<Client>]) -> Duration {
    eventually("a move", || async {
        clients.iter().find_map(|client| client.moves.lock().pop())
    })
    .await
}

/// Gives so many accounts something.
async fn fill(host: &Host, realm: &str, accounts: u64) {
    let requests = (0..accounts / REQUEST_COMMANDS).map(|request| v1::SubmitRequest {
        ack: AckLevel::Durable.into(),
        commands: (0..REQUEST_COMMANDS)
            .map(|index| deposit(&format!("{request} {index}"), 1))
            .collect(),
    });
    let requests: Vec<v1::SubmitRequest> = requests.collect();
    let stream = to(realm, futures::stream::iter(requests));
    let mut outcomes = host.ledger().submit(stream).await.unwrap().into_inner();
    while let Some(answer) = outcomes.message().await.unwrap() {
        for outcome in answer.outcomes {
            assert_eq!(outcome.code, 0, "{}", outcome.message);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn time_from_the_last_answer_of_one_host_to_the_first_of_the_next() {
    if !is_there() {
        return;
    }
    let accounts: u64 = std::env::var("KARAT_TEST_ACCOUNTS")
        .map_or(10_000, |text| text.parse().unwrap())
        .min(2_000_000);
    let mut group = Group::new(2);
    group.config.host.session_timeout_ms = SESSION_MS;
    let first = group.start("first").await;
    spread(&group, &[&first], 2).await;
    for realm in &group.realms {
        fill(&first, realm, accounts).await;
    }
    let clients: Vec<Arc<Client>> = group
        .realms
        .iter()
        .map(|realm| {
            Arc::new(Client {
                realm: realm.clone(),
                channels: Mutex::default(),
                moves: Mutex::default(),
                stop: AtomicBool::new(false),
            })
        })
        .collect();
    clients.iter().for_each(|client| client.know(&first));
    let running: Vec<_> = clients
        .iter()
        .map(|client| tokio::spawn(client.clone().run()))
        .collect();
    let print = |what: &str, away: Duration| {
        let away_ms = away.as_millis();
        println!("{accounts} accounts: {what}: away for {away_ms} ms");
    };
    for turn in 0..2 * TURNS {
        let mut second = group.start(&format!("second {turn}")).await;
        clients.iter().for_each(|client| client.know(&second));
        print("moved to a host that joined", next_move(&clients).await);
        spread(&group, &[&first, &second], 1).await;
        if turn < TURNS {
            second.signal("TERM");
            assert!(second.until_ended().await.success(), "{}", second.said());
            print("moved from a host that left", next_move(&clients).await);
        } else {
            second.kill();
            print("moved from a killed host", next_move(&clients).await);
        }
        let gone = &second.address;
        for client in &clients {
            client.channels.lock().remove(gone);
        }
        spread(&group, &[&first], 2).await;
        println!("{}", moved_text(&first, &second));
    }
    for client in &clients {
        client.stop.store(true, Ordering::SeqCst);
    }
    for client in running {
        client.await.unwrap();
    }
}

/// The last words of both hosts about their realms.
fn moved_text(first: &Host, second: &Host) -> String {
    let said = |host: &Host| -> Vec<String> {
        let said = host.said();
        let lines = said.lines().filter(|line| line.starts_with("realm "));
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        lines[lines.len().saturating_sub(2)..].to_vec()
    };
    let all = [said(second), said(first)].concat();
    all.iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
