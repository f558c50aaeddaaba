//! The door: one port, and each request goes to the realm that it names, before anything of it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use karat_proto::Code;
use karat_proto::convert::Refused;
use karat_proto::realm::{LEADER_HEADER, REALM_HEADER, RETRY_HEADER};
use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::metadata::MetadataValue;
use tonic::service::Routes;

use super::cut::Cut;
use super::realm::{Leading, Realm, State};
use crate::config::HostConfig;
use crate::gateway::refusal_status;
use crate::kafka::directory::Directory;

/// When to ask again for a realm that nobody has at the moment.
const RETRY_AFTER_MS: u64 = 500;
/// Services of the process, which no realm answers: health, reflection, and the host's own.
const OF_THE_PROCESS: [&str; 3] = ["/grpc.health.", "/grpc.reflection.", "/karat.v1.Host/"];

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// What the door knows.
pub struct Rooms {
    /// The group's realms.
    pub realms: BTreeMap<String, Arc<Realm>>,
    /// The realm of requests that name none.
    pub nameless: Option<String>,
    /// Where realms are.
    pub directory: Directory,
    /// Where this process is, as it tells others.
    pub advertised: String,
    /// A leader that was not heard for so long is not named any more.
    pub session: Duration,
    /// Realms that nobody was heard to lead for a session.
    without_host: Mutex<BTreeSet<String>>,
}

/// Brings each request to its realm.
#[derive(Clone)]
pub struct Door {
    /// What it knows.
    pub rooms: Arc<Rooms>,
    /// Answers what is the process's own.
    pub process: Routes,
}

impl Rooms {
    /// For these realms of the group, as the configuration says.
    pub fn new(
        config: &HostConfig,
        realms: BTreeMap<String, Arc<Realm>>,
        directory: Directory,
        advertised: String,
    ) -> Rooms {
        Rooms {
            realms,
            nameless: config.realm_of_nameless().map(str::to_owned),
            directory,
            advertised,
            session: Duration::from_millis(config.session_timeout_ms),
            without_host: Mutex::default(),
        }
    }

    /// Notes which realms nobody was heard to lead for a session.
    pub fn set_without_host(&self, realms: BTreeSet<String>) {
        *self.without_host.lock() = realms;
    }

    /// Whether nobody was heard to lead this realm for a session.
    pub fn is_without_host(&self, realm: &str) -> bool {
        self.without_host.lock().contains(realm)
    }

    /// How many realms nobody was heard to lead for a session.
    pub fn count_without_host(&self) -> u32 {
        u32::try_from(self.without_host.lock().len()).unwrap_or(u32::MAX)
    }

    /// Where the realm's leader says that it is, and its epoch, if it is another process and was heard lately.
    pub fn leader_elsewhere(&self, realm: &str) -> Option<(String, u64)> {
        let known = self.directory.leader(realm)?;
        let is_other = known.sign.address != self.advertised;
        let sign = known.sign.clone();
        (is_other && known.is_alive(self.session)).then_some((sign.address, sign.epoch))
    }

    fn realm_of(&self, request: &Request) -> Result<&Arc<Realm>, Status> {
        let named = request.headers().get(REALM_HEADER);
        let name = match (named, &self.nameless) {
            (Some(named), _) => named.to_str().unwrap_or_default(),
            (None, Some(nameless)) => nameless,
            (None, None) => {
                let message = "the request names no realm, and this process has several";
                return Err(refusal_status(&Refused::new(Code::UnknownRealm, message)));
            }
        };
        self.realms.get(name).ok_or_else(|| {
            let message = format!("this group has no realm \"{name}\"");
            refusal_status(&Refused::new(Code::UnknownRealm, message))
        })
    }

    /// Why a realm's request is not answered here, and who answers it.
    fn elsewhere(&self, realm: &Realm) -> Status {
        let name = realm.name();
        let leader = self.leader_elsewhere(name).map(|(address, _)| address);
        let message = match (&*realm.state(), &leader) {
            (State::Elsewhere, Some(leader)) => format!("{leader} has realm {name}"),
            (State::Elsewhere, None) => format!("nobody has realm {name} at the moment"),
            (State::Waiting(why), _) => format!("realm {name} waits here: {why}"),
            (State::Starting, _) => format!("realm {name} is being started here"),
            (State::Stopping | State::Leading(_), _) => {
                format!("realm {name} is leaving this process")
            }
        };
        let mut status = refusal_status(&Refused::new(Code::RealmElsewhere, message));
        let metadata = status.metadata_mut();
        match leader.and_then(|leader| MetadataValue::try_from(leader).ok()) {
            Some(leader) => metadata.insert(LEADER_HEADER, leader),
            None => metadata.insert(RETRY_HEADER, RETRY_AFTER_MS.into()),
        };
        status
    }
}

fn refuse(status: Status) -> BoxFuture<Response, Infallible> {
    Box::pin(std::future::ready(Ok(status.into_http())))
}

async fn answer(leading: Arc<Leading>, request: Request) -> Result<Response, Infallible> {
    let cut = leading.cut.clone();
    let request = request.map(|body| Cut::request(body, cut.clone()));
    let mut routes = leading.routes.clone();
    let answer = routes.call(request).await?;
    Ok(answer.map(|body| Cut::answer(body, cut)))
}

impl Service<Request> for Door {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let path = request.uri().path();
        if OF_THE_PROCESS.iter().any(|begins| path.starts_with(begins)) {
            let mut process = self.process.clone();
            return Box::pin(async move { process.call(request).await });
        }
        let realm = match self.rooms.realm_of(&request) {
            Ok(realm) => realm,
            Err(status) => return refuse(status),
        };
        match &*realm.state() {
            State::Leading(leading) => Box::pin(answer(leading.clone(), request)),
            _ => refuse(self.rooms.elsewhere(realm)),
        }
    }
}
