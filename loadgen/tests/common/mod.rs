//! A realm in memory behind the real services: just enough rules to load, and faults that the truth check must find.

#![allow(dead_code)] // Each test program uses its part.

mod rules;
mod services;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use karat_proto::realm::{CODE_HEADER, LEADER_HEADER, REALM_HEADER};
use karat_proto::v1::edge_server::EdgeServer;
use karat_proto::v1::ledger_server::LedgerServer;
use karat_proto::v1::operator_server::OperatorServer;
use karat_proto::{Code, v1};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Status};

use rules::State;

/// What the realm does wrong on purpose; 0 for never.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    /// Every so many-th transfer is accepted and forgotten.
    pub forget_transfer_every: u64,
    /// Every so many-th transfer is carried out twice: to the receiver, and from there to nobody it was meant for.
    pub extra_transfer_every: u64,
    /// Every so many-th exchange loses a unit of its price.
    pub short_change_every: u64,
    /// Every so many-th lost claim names a winner that did not win.
    pub wrong_winner_every: u64,
    /// Every so many-th refusal changes something all the same.
    pub refuse_and_do_every: u64,
    /// Every asset is rejected, as by agents that do not like it.
    pub reject_all: bool,
    /// Every so many-th command is refused because the queue is full.
    pub overload_every: u64,
    /// The stream ends with an error after so many commands of streams; what was applied is not answered.
    pub die_after: u64,
    /// Events are not told.
    pub no_events: bool,
    /// It follows another one from the beginning, as an engine does whose leader is somebody else.
    pub follows: bool,
    /// It leads until it has taken so many commands of streams and calls.
    pub leads_for: u64,
    /// After every so many commands it moves to the next process of its group; what was applied then is not answered.
    pub moves_every: u64,
}

/// The name of a realm that a group of processes shares.
pub const NAME: &str = "north";

/// The realm; it ends with the process.
#[derive(Clone)]
pub struct Realm {
    state: Arc<Mutex<State>>,
    /// Addresses of the processes that share it; none for a realm of one process, which need not be named.
    group: Arc<Mutex<Vec<String>>>,
    /// Which of them this one is.
    place: usize,
}

impl Realm {
    /// Starts one on a free port and returns its address.
    pub fn start(faults: Faults) -> String {
        Realm::with(faults).serve()
    }

    /// One that nobody serves yet.
    pub fn with(faults: Faults) -> Realm {
        Realm {
            state: Arc::new(Mutex::new(State::with(faults))),
            group: Arc::default(),
            place: 0,
        }
    }

    /// Serves it on a free port, also a second time, as an engine that was started again; returns the address.
    pub fn serve(&self) -> String {
        let realm = self.clone();
        let (sender, receiver) = std::sync::mpsc::channel::<SocketAddr>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
                sender.send(incoming.local_addr().unwrap()).unwrap();
                let at_door = realm.clone();
                let door = move |request| at_door.let_in(request);
                Server::builder()
                    .add_service(LedgerServer::with_interceptor(realm.clone(), door.clone()))
                    .add_service(EdgeServer::with_interceptor(realm.clone(), door.clone()))
                    .add_service(OperatorServer::with_interceptor(realm, door))
                    .serve_with_incoming(incoming.with_nodelay(Some(true)))
                    .await
                    .unwrap();
            });
        });
        format!("http://{}", receiver.recv().unwrap())
    }

    /// Serves it in so many processes, each on a free port; returns their addresses.
    pub fn serve_group(&self, count: usize) -> Vec<String> {
        let process = |place| Realm {
            place,
            ..self.clone()
        };
        let addresses: Vec<String> = (0..count).map(|place| process(place).serve()).collect();
        self.group.lock().unwrap().clone_from(&addresses);
        addresses
    }

    /// Where it is now: a process of its group, by number.
    fn at(&self) -> usize {
        let state = self.state.lock().unwrap();
        let moves = state.commands.checked_div(state.faults.moves_every);
        moves.unwrap_or(0) as usize % self.group.lock().unwrap().len().max(1)
    }

    /// Whether this process has it.
    fn is_here(&self) -> bool {
        self.at() == self.place
    }

    /// As the door of a host.
    fn let_in(&self, request: Request<()>) -> Result<Request<()>, Status> {
        let group = self.group.lock().unwrap().clone();
        if group.is_empty() {
            return Ok(request);
        }
        let refused = |code: Code| {
            let mut status = Status::failed_precondition(code.name());
            let number = (code as u16).to_string().parse().unwrap();
            status.metadata_mut().insert(CODE_HEADER, number);
            status
        };
        if request
            .metadata()
            .get(REALM_HEADER)
            .is_none_or(|name| name != NAME)
        {
            return Err(refused(Code::UnknownRealm));
        }
        let at = self.at();
        if at == self.place {
            return Ok(request);
        }
        let mut status = refused(Code::RealmElsewhere);
        let leader = group[at].trim_start_matches("http://").parse().unwrap();
        status.metadata_mut().insert(LEADER_HEADER, leader);
        Err(status)
    }

    /// Changes what it does wrong.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().unwrap().faults = faults;
    }

    /// Forgets the last so many events, as a machine would that lost what it had not flushed.
    pub fn lose_events(&self, count: usize) {
        let mut state = self.state.lock().unwrap();
        let left = state.events.len() - count;
        state.events.truncate(left);
    }

    fn apply(&self, command: v1::Command) -> v1::Outcome {
        self.state.lock().unwrap().apply(command)
    }

    /// What a command comes to, and its events.
    pub fn apply_and_tell(&self, command: v1::Command) -> (v1::Outcome, Vec<v1::Event>) {
        let mut state = self.state.lock().unwrap();
        let before = state.events.len();
        let outcome = state.apply(command);
        (outcome, state.events[before..].to_vec())
    }

    /// Whether it takes no command any more, because another one leads.
    fn follows(&self) -> bool {
        let state = self.state.lock().unwrap();
        let for_a_while = state.faults.leads_for;
        state.faults.follows || (for_a_while != 0 && state.commands >= for_a_while)
    }

    /// Whether what it has just applied is not answered.
    fn dies(&self) -> bool {
        let dead = {
            let state = self.state.lock().unwrap();
            state.faults.die_after != 0 && state.commands >= state.faults.die_after
        };
        dead || !self.is_here()
    }
}
