//! A channel to a realm that moves between small processes.

#![allow(missing_docs, clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use karat_proto::realm::{
    CODE_HEADER, LEADER_HEADER, REALM_HEADER, RETRY_HEADER, RealmChannel, code_of,
};
use karat_proto::v1::host_client::HostClient;
use karat_proto::v1::host_server::{Host, HostServer};
use karat_proto::{Code, v1};
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

/// Where the realm is by what a process says.
#[derive(Clone)]
enum Says {
    Here,
    At(String),
    /// Nobody has it, for so many requests; then it is here.
    NobodyFor(u32),
}

struct Answers {
    address: String,
    says: Arc<Mutex<Says>>,
}

#[tonic::async_trait]
impl Host for Answers {
    async fn list_realms(
        &self,
        request: Request<v1::ListRealmsRequest>,
    ) -> Result<Response<v1::ListRealmsResponse>, Status> {
        let mut refused = Status::failed_precondition("not here");
        let metadata = refused.metadata_mut();
        let code = match request.metadata().get(REALM_HEADER) {
            Some(name) if name == "north" => Code::RealmElsewhere,
            _ => Code::UnknownRealm,
        };
        metadata.insert(CODE_HEADER, (code as u16).to_string().parse().unwrap());
        if code == Code::UnknownRealm {
            return Err(refused);
        }
        let mut says = self.says.lock().unwrap();
        match &mut *says {
            Says::Here | Says::NobodyFor(0) => {
                return Ok(Response::new(v1::ListRealmsResponse {
                    address: self.address.clone(),
                    ..Default::default()
                }));
            }
            Says::At(leader) => metadata.insert(LEADER_HEADER, leader.parse().unwrap()),
            Says::NobodyFor(requests) => {
                *requests -= 1;
                metadata.insert(RETRY_HEADER, "1".parse().unwrap())
            }
        };
        Err(refused)
    }
}

/// A process; it ends when it is dropped, and with it every connection.
struct Process {
    /// `HOST:PORT`
    address: String,
    says: Arc<Mutex<Says>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Process {
    fn start(says: Says) -> Process {
        let says = Arc::new(Mutex::new(says));
        let (told, tell) = std::sync::mpsc::channel::<SocketAddr>();
        let (end, ended) = oneshot::channel::<()>();
        let shared = says.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
                let address = incoming.local_addr().unwrap();
                let answers = Answers {
                    address: address.to_string(),
                    says: shared,
                };
                told.send(address).unwrap();
                let serving = Server::builder()
                    .add_service(HostServer::new(answers))
                    .serve_with_incoming(incoming);
                tokio::select! {
                    served = serving => served.unwrap(),
                    _ = ended => {}
                }
            });
        });
        Process {
            address: tell.recv().unwrap().to_string(),
            says,
            end: Some(end),
            thread: Some(thread),
        }
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    fn at(&self) -> Says {
        Says::At(self.address.clone())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn channel(realm: Option<&str>, process: &Process) -> RealmChannel {
    let realm = realm.map(|name| name.parse().unwrap());
    let address = format!("http://{}", process.address);
    RealmChannel::new(realm, &address, |address| {
        Endpoint::from_shared(address.to_owned())
    })
    .unwrap()
}

/// Which process answers.
async fn who(channel: &RealmChannel) -> Result<String, Status> {
    let host = HostClient::new(channel.clone());
    let answer = channel.ask(|| {
        let mut host = host.clone();
        async move { host.list_realms(v1::ListRealmsRequest {}).await }
    });
    Ok(answer.await?.into_inner().address)
}

#[tokio::test]
async fn a_realm_is_followed_wherever_it_goes_and_every_clone_goes_along() {
    let (first, second) = (Process::start(Says::Here), Process::start(Says::Here));
    let channel = channel(Some("north"), &first);
    channel.connect().await.unwrap();
    assert_eq!(who(&channel).await.unwrap(), first.address);
    first.say(second.at());
    let clone = channel.clone();
    assert_eq!(who(&channel).await.unwrap(), second.address);
    assert_eq!(clone.address(), format!("http://{}", second.address));
    // Nobody has it for a while, then the first one again.
    second.say(Says::NobodyFor(3));
    assert_eq!(who(&clone).await.unwrap(), second.address);
    first.say(Says::Here);
    second.say(first.at());
    assert_eq!(who(&channel).await.unwrap(), first.address);
}

#[tokio::test]
async fn a_process_that_is_gone_is_left_for_those_that_were_heard_of() {
    let (first, second) = (Process::start(Says::Here), Process::start(Says::Here));
    first.say(second.at());
    let channel = channel(Some("north"), &first);
    channel.find().await.unwrap();
    assert_eq!(who(&channel).await.unwrap(), second.address);
    first.say(Says::Here);
    drop(second);
    assert_eq!(who(&channel).await.unwrap(), first.address);
}

#[tokio::test]
async fn an_unknown_realm_and_a_request_without_one_are_answered_at_once() {
    let process = Process::start(Says::NobodyFor(u32::MAX));
    let unknown = who(&channel(Some("south"), &process)).await.unwrap_err();
    assert_eq!(code_of(&unknown), Some(Code::UnknownRealm));
    let nameless = who(&channel(None, &process)).await.unwrap_err();
    assert_eq!(code_of(&nameless), Some(Code::UnknownRealm));
    let gone = channel(None, &process);
    drop(process);
    assert!(gone.connect().await.is_err());
    assert_eq!(
        who(&gone).await.unwrap_err().code(),
        tonic::Code::Unavailable
    );
}
