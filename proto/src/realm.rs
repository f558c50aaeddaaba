//! The way to a realm, which may be in any process of a group and moves from one to another.
//!
//! A request names its realm in the header [`REALM_HEADER`]. A process that does not have the realm refuses before it reads
//! anything else, and says who has it where it knows. [`RealmChannel`] names the realm and goes where it was said to be;
//! [`Search`] says whether and when a request is made again. Commands carry ids, so making them again is safe.

use std::fmt;
use std::future::{Future, poll_fn};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use thiserror::Error;
use tonic::body::Body;
use tonic::codegen::http::{self, HeaderMap, HeaderValue};
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::{Channel, Endpoint, Error as TransportError};
use tonic::{Response, Status};

use crate::Code;
use crate::v1;
use crate::v1::operator_client::OperatorClient;

/// The header in which a request names its realm.
pub const REALM_HEADER: &str = "karat-realm";
/// The header of a refusal that has its [`Code`].
pub const CODE_HEADER: &str = "karat-code";
/// The header of a refusal that says who leads the realm, `HOST:PORT`.
pub const LEADER_HEADER: &str = "karat-leader";
/// The header of a refusal that says when to ask again, milliseconds.
pub const RETRY_HEADER: &str = "karat-retry-after-ms";

/// A request is made again so often. With the pauses below that is two minutes, and no move takes so long: a killed
/// process is missed after seconds.
const ASKS_MAX: u32 = 240;
/// Shortest and longest pause before a request is made again.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Longest pause that a refusal can ask for.
const ASKED_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Addresses that a channel remembers; the first one always.
const ADDRESSES_MAX: usize = 16;

/// A realm's name, as a request carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealmName(HeaderValue);

/// What is no realm's name.
#[derive(Debug, Error)]
#[error("{0:?} is no realm's name: 1 to 64 letters, digits, dots, hyphens and underscores")]
pub struct RealmNameError(String);

impl FromStr for RealmName {
    type Err = RealmNameError;

    fn from_str(text: &str) -> Result<RealmName, RealmNameError> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let is_name = (1..=64).contains(&text.len()) && text.bytes().all(is_part);
        let value = is_name.then(|| HeaderValue::from_str(text).ok()).flatten();
        let refused = || RealmNameError(text.to_owned());
        value.map(RealmName).ok_or_else(refused)
    }
}

impl fmt::Display for RealmName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0.to_str().unwrap_or_default())
    }
}

/// The code of a refusal; `None` for a failure, and for a code that this build does not know.
pub fn code_of(status: &Status) -> Option<Code> {
    let number = status.metadata().get(CODE_HEADER)?.to_str().ok()?;
    Code::from_number(number.parse().ok()?)
}

/// Whether an outcome with this code says nothing about the command, which may even be in the log: its realm moves, or
/// another process leads it.
pub fn is_away(code: Code) -> bool {
    matches!(
        code,
        Code::RealmElsewhere | Code::NotLeader | Code::Unavailable
    )
}

/// Whether the same request may be answered later or elsewhere. A status without a code is a connection that was lost; an
/// engine that follows a leader it does not know stays what it is.
fn is_status_away(status: &Status) -> bool {
    let metadata = status.metadata();
    if !metadata.contains_key(CODE_HEADER) {
        return matches!(
            status.code(),
            tonic::Code::Unavailable
                | tonic::Code::Cancelled
                | tonic::Code::Unknown
                | tonic::Code::Internal
        );
    }
    match code_of(status) {
        Some(Code::NotLeader) => metadata.contains_key(LEADER_HEADER),
        code => code.is_some_and(is_away),
    }
}

/// How often one request is made again, and with which pauses. Begins anew with every answer.
#[derive(Clone, Debug)]
pub struct Search {
    asked: u32,
    asks_max: u32,
}

impl Search {
    /// The pause before the request is made again; `None` when that is no use any more.
    pub fn pause(&mut self) -> Option<Duration> {
        if self.asked == self.asks_max {
            return None;
        }
        // Ten doublings are far beyond the bound.
        let pause = PAUSE_MIN.saturating_mul(1 << self.asked.min(10));
        self.asked += 1;
        Some(pause.min(PAUSE_MAX))
    }

    /// The pause before a request that came to this is made again.
    ///
    /// # Errors
    /// With the status: when it is an answer, or when the realm was looked for too long, which its message then says.
    pub fn again(&mut self, status: Status) -> Result<Duration, Status> {
        if self.asks_max == 0 || !is_status_away(&status) {
            return Err(status);
        }
        let retry_after = status.metadata().get(RETRY_HEADER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = Duration::from_millis(retry_after.unwrap_or(0)).min(ASKED_PAUSE_MAX);
        match self.pause() {
            Some(pause) => Ok(pause.max(retry_after)),
            None => Err(Status::with_metadata(
                status.code(),
                format!(
                    "the realm was asked for {} times and was nowhere; the last answer: {}",
                    self.asked,
                    status.message()
                ),
                status.metadata().clone(),
            )),
        }
    }
}

/// A channel to the process that has a realm. Its clones go to the same place.
#[derive(Clone)]
pub struct RealmChannel {
    shared: Arc<Shared>,
}

type EndpointOf = dyn Fn(&str) -> Result<Endpoint, TransportError> + Send + Sync;

struct Shared {
    realm: Option<RealmName>,
    endpoint: Box<EndpointOf>,
    place: Mutex<Place>,
}

/// Where requests go now.
struct Place {
    channel: Channel,
    at: usize,
    /// Everywhere that the realm was said to be, the first address first.
    addresses: Vec<Arc<str>>,
}

impl RealmChannel {
    /// To the process at `address` first, `http://HOST:PORT`, over connections that `endpoint` describes. Without a realm
    /// it stays there, and [`RealmChannel::search`] ends with the first failure. Must run inside a runtime; connects when
    /// it is used.
    ///
    /// # Errors
    /// When the address is none.
    pub fn new(
        realm: Option<RealmName>,
        address: &str,
        endpoint: impl Fn(&str) -> Result<Endpoint, TransportError> + Send + Sync + 'static,
    ) -> Result<RealmChannel, TransportError> {
        let place = Place {
            channel: endpoint(address)?.connect_lazy(),
            at: 0,
            addresses: vec![address.into()],
        };
        Ok(RealmChannel {
            shared: Arc::new(Shared {
                realm,
                endpoint: Box::new(endpoint),
                place: Mutex::new(place),
            }),
        })
    }

    /// Opens a connection to where the realm was last said to be, in place of the one that is there.
    ///
    /// # Errors
    /// When nothing answers there; the next attempt goes to the next address that is known.
    pub async fn connect(&self) -> Result<(), TransportError> {
        let (address, _) = self.shared.now();
        let connected = (self.shared.endpoint)(&address)?.connect().await;
        match connected {
            Ok(channel) => {
                let mut place = self.shared.place();
                if place.address() == &address {
                    place.channel = channel;
                }
                Ok(())
            }
            Err(error) => {
                self.shared.lost(&address);
                Err(error)
            }
        }
    }

    /// Where requests go now.
    pub fn address(&self) -> String {
        self.shared.now().0.to_string()
    }

    /// Whether requests name a realm.
    pub fn names_realm(&self) -> bool {
        self.shared.realm.is_some()
    }

    /// A fresh count of how often a request is made again: two minutes' worth for a realm that is named, not once else.
    pub fn search(&self) -> Search {
        Search {
            asked: 0,
            asks_max: if self.names_realm() { ASKS_MAX } else { 0 },
        }
    }

    /// Makes a call, again and again while the realm moves.
    ///
    /// # Errors
    /// As the call, or when the realm was looked for too long.
    pub async fn ask<T, A>(&self, mut call: impl FnMut() -> A) -> Result<Response<T>, Status>
    where
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let mut search = self.search();
        loop {
            match call().await {
                Ok(answer) => return Ok(answer),
                Err(status) => tokio::time::sleep(search.again(status)?).await,
            }
        }
    }

    /// Goes to the process that has the realm; nothing to do for one that is not named.
    ///
    /// # Errors
    /// When nobody knows the realm, or it was looked for too long.
    pub async fn find(&self) -> Result<(), Status> {
        if !self.names_realm() {
            return Ok(());
        }
        let operator = OperatorClient::new(self.clone());
        let asked = self.ask(|| {
            let mut operator = operator.clone();
            async move { operator.get_policy(v1::GetPolicyRequest {}).await }
        });
        match asked.await {
            Err(status) if is_status_away(&status) => Err(status),
            Err(status) if code_of(&status) == Some(Code::UnknownRealm) => Err(status),
            // Whatever else was said, the realm said it.
            _ => Ok(()),
        }
    }
}

impl Place {
    fn address(&self) -> &Arc<str> {
        &self.addresses[self.at]
    }
}

impl Shared {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> (Arc<str>, Channel) {
        let place = self.place();
        (place.address().clone(), place.channel.clone())
    }

    /// Goes where an answer from `address` says that the realm is, if one is named.
    fn heard(&self, address: &Arc<str>, headers: &HeaderMap) {
        let leader = headers.get(LEADER_HEADER).and_then(|one| one.to_str().ok());
        if let (Some(leader), Some(_)) = (leader, &self.realm) {
            self.go(address, format!("http://{leader}").into());
        }
    }

    /// Nobody answers at `address`: goes on to the next one that is known.
    fn lost(&self, address: &Arc<str>) {
        let next = {
            let place = self.place();
            place.addresses[(place.at + 1) % place.addresses.len()].clone()
        };
        self.go(address, next);
    }

    /// Goes from one address to another, unless another request went already.
    fn go(&self, from: &Arc<str>, to: Arc<str>) {
        let mut place = self.place();
        if place.address() != from || *from == to {
            return;
        }
        // What is no address leads nowhere.
        let Ok(endpoint) = (self.endpoint)(&to) else {
            return;
        };
        let known = place.addresses.iter().position(|one| *one == to);
        place.at = known.unwrap_or_else(|| {
            if place.addresses.len() == ADDRESSES_MAX {
                place.addresses.remove(1);
            }
            place.addresses.push(to);
            place.addresses.len() - 1
        });
        place.channel = endpoint.connect_lazy();
    }
}

impl Service<http::Request<Body>> for RealmChannel {
    type Response = http::Response<Body>;
    type Error = TransportError;
    type Future = BoxFuture<Self::Response, Self::Error>;

    /// Always: the place may be another one when the request is made.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let shared = self.shared.clone();
        if let Some(RealmName(name)) = &shared.realm {
            request.headers_mut().insert(REALM_HEADER, name.clone());
        }
        Box::pin(async move {
            let (address, mut channel) = shared.now();
            let answer = match poll_fn(|context| channel.poll_ready(context)).await {
                Ok(()) => channel.call(request).await,
                Err(error) => Err(error),
            };
            match &answer {
                Ok(answer) => shared.heard(&address, answer.headers()),
                Err(_) => shared.lost(&address),
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: Code, retry_after_ms: u64) -> Status {
        let mut status = Status::failed_precondition("somewhere else");
        let metadata = status.metadata_mut();
        metadata.insert(CODE_HEADER, (code as u16).to_string().parse().unwrap());
        metadata.insert(RETRY_HEADER, retry_after_ms.to_string().parse().unwrap());
        status
    }

    #[test]
    fn a_realm_that_is_nowhere_is_looked_for_with_growing_pauses_and_not_for_ever() {
        let mut search = Search {
            asked: 0,
            asks_max: ASKS_MAX,
        };
        let mut pauses = Vec::new();
        let lost = loop {
            match search.again(refusal(Code::RealmElsewhere, 0)) {
                Ok(pause) => pauses.push(pause),
                Err(status) => break status,
            }
        };
        assert_eq!(pauses.len(), ASKS_MAX as usize);
        assert_eq!((pauses[0], pauses[9]), (PAUSE_MIN, PAUSE_MAX));
        assert!(pauses.is_sorted());
        let whole: Duration = pauses.iter().sum();
        assert!((100..140).contains(&whole.as_secs()), "{whole:?}");
        assert!(lost.message().contains("240 times"), "{lost:?}");
        assert!(lost.message().contains("somewhere else"), "{lost:?}");
        assert_eq!(code_of(&lost), Some(Code::RealmElsewhere));
    }

    #[test]
    fn answers_end_the_search_and_refusals_may_ask_for_a_longer_pause() {
        let mut search = Search {
            asked: 0,
            asks_max: 9,
        };
        let asked = search.again(refusal(Code::RealmElsewhere, 700)).unwrap();
        assert_eq!(asked, Duration::from_millis(700));
        let asked = search.again(refusal(Code::Unavailable, 3_600_000)).unwrap();
        assert_eq!(asked, ASKED_PAUSE_MAX);
        let mut follower = refusal(Code::NotLeader, 0);
        assert!(search.again(follower.clone()).is_err());
        let leader = "127.0.0.1:7400".parse().unwrap();
        follower.metadata_mut().insert(LEADER_HEADER, leader);
        assert!(search.again(follower).is_ok());
        for code in [Code::UnknownRealm, Code::Overloaded, Code::UnknownAsset] {
            assert!(search.again(refusal(code, 0)).is_err(), "{code:?}");
        }
        assert!(search.again(Status::not_found("no such asset")).is_err());
        assert!(search.again(Status::unavailable("connection lost")).is_ok());
        let mut nameless = Search {
            asked: 0,
            asks_max: 0,
        };
        let once = nameless.again(Status::unavailable("lost")).unwrap_err();
        assert_eq!(once.message(), "lost");
    }

    #[test]
    fn a_realms_name_is_a_part_of_a_topic() {
        for name in ["a", "north.2", "A-b_c"] {
            assert_eq!(RealmName::from_str(name).unwrap().to_string(), name);
        }
        for name in ["", "a b", "ü", "a/b", &"x".repeat(65)] {
            let refused = RealmName::from_str(name).unwrap_err().to_string();
            assert!(refused.contains("no realm's name"), "{refused}");
        }
    }
}
