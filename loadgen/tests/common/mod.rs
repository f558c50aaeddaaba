//! A realm in memory behind the real services: just enough rules to load, and faults that the truth check must find.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use karat_proto::v1::command::Kind;
use karat_proto::v1::edge_request::Kind as Up;
use karat_proto::v1::edge_response::Kind as Down;
use karat_proto::v1::edge_server::{Edge, EdgeServer};
use karat_proto::v1::event::Kind as Told;
use karat_proto::v1::ledger_server::{Ledger, LedgerServer};
use karat_proto::v1::operator_server::{Operator, OperatorServer};
use karat_proto::{Account, Code, v1};
use sha2::Digest as _;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

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
}

struct Held {
    owner: Bytes,
    version: u32,
    /// Id and sequence of the command that gave it its owner.
    won_by: (Bytes, u64),
}

#[derive(Default)]
struct State {
    faults: Faults,
    sequence: u64,
    transfers: u64,
    exchanges: u64,
    lost_claims: u64,
    refusals: u64,
    commands: u64,
    collections: Vec<Bytes>,
    contents: HashSet<Bytes>,
    models: Vec<v1::Model>,
    assets: Vec<Held>,
    balances: HashMap<Bytes, u64>,
    events: Vec<v1::Event>,
}

/// The realm; it ends with the process.
#[derive(Clone)]
pub struct Realm {
    state: Arc<Mutex<State>>,
}

/// A refusal: its code, and the winner of a lost race.
struct No(Code, Option<(Bytes, u64)>);

impl From<Code> for No {
    fn from(code: Code) -> No {
        No(code, None)
    }
}

impl Realm {
    /// Starts one on a free port and returns its address.
    pub fn start(faults: Faults) -> String {
        Realm::with(faults).serve()
    }

    /// One that nobody serves yet.
    pub fn with(faults: Faults) -> Realm {
        Realm {
            state: Arc::new(Mutex::new(State {
                faults,
                ..State::default()
            })),
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
                Server::builder()
                    .add_service(LedgerServer::new(realm.clone()))
                    .add_service(EdgeServer::new(realm.clone()))
                    .add_service(OperatorServer::new(realm))
                    .serve_with_incoming(incoming.with_nodelay(Some(true)))
                    .await
                    .unwrap();
            });
        });
        format!("http://{}", receiver.recv().unwrap())
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

    fn dies(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.faults.die_after != 0 && state.commands >= state.faults.die_after
    }
}

impl State {
    fn apply(&mut self, command: v1::Command) -> v1::Outcome {
        self.commands += 1;
        let refused_at_the_door = |id: Bytes, code: Code| v1::Outcome {
            id,
            code: code as u32,
            retry_after_ms: 1,
            ..v1::Outcome::default()
        };
        if hits(self.faults.overload_every, self.commands) {
            return refused_at_the_door(command.id, Code::Overloaded);
        }
        if matches!(&command.kind, Some(Kind::Transfer(one)) if one.to.len() != 20) {
            return refused_at_the_door(command.id, Code::Malformed);
        }
        self.sequence += 1;
        let kind = command.kind.unwrap();
        let (code, subject, winner) = match self.change(&command.id, &command.actor, kind) {
            Ok(subject) => (Code::Accepted, subject, None),
            Err(No(code, winner)) => {
                self.refusals += 1;
                if hits(self.faults.refuse_and_do_every, self.refusals) {
                    self.currency_moved(&command.actor, &command.actor, 1);
                }
                (code, 0, winner)
            }
        };
        let (winner_id, winner_sequence) = winner.unwrap_or_default();
        v1::Outcome {
            id: command.id,
            sequence: self.sequence,
            code: code as u32,
            subject,
            winner_id,
            winner_sequence,
            ..v1::Outcome::default()
        }
    }

    fn tell(&mut self, kind: Told) {
        self.events.push(v1::Event {
            sequence: self.sequence,
            kind: Some(kind),
            ..v1::Event::default()
        });
    }

    fn made(&mut self, asset: u64, version: u32, owner: Bytes, of: v1::Mint) -> v1::AssetMade {
        v1::AssetMade {
            asset,
            collection: of.collection,
            owner,
            version,
            lineage: of.lineage,
            ..v1::AssetMade::default()
        }
    }

    fn hand_over(&mut self, id: &Bytes, asset: u64, to: &Bytes, cause: v1::TransferCause) {
        let sequence = self.sequence;
        let held = &mut self.assets[asset as usize - 1];
        let from = std::mem::replace(&mut held.owner, to.clone());
        held.won_by = (id.clone(), sequence);
        let version = held.version;
        self.tell(Told::Transferred(v1::Transferred {
            asset,
            version,
            from,
            to: to.clone(),
            cause: cause.into(),
        }));
    }

    fn currency_moved(&mut self, from: &Bytes, to: &Bytes, amount: u64) {
        self.tell(Told::CurrencyMoved(v1::CurrencyMoved {
            from: from.clone(),
            to: to.clone(),
            amount,
        }));
    }

    fn change(&mut self, id: &Bytes, actor: &Bytes, kind: Kind) -> Result<u64, No> {
        match kind {
            Kind::CreateCollection(_) => {
                self.collections.push(actor.clone());
                Ok(self.collections.len() as u64)
            }
            Kind::Mint(mint) => self.mint(id, actor, mint),
            Kind::Deposit(deposit) => {
                if *actor != Account::from_name("operator").0[..] {
                    return Err(Code::NotAllowed.into());
                }
                *self.balances.entry(deposit.account).or_default() += deposit.amount;
                Ok(0)
            }
            Kind::Transfer(transfer) => {
                self.owned(transfer.asset, transfer.version, actor)?;
                self.transfers += 1;
                let cause = v1::TransferCause::Transfer;
                if !hits(self.faults.forget_transfer_every, self.transfers) {
                    self.hand_over(id, transfer.asset, &transfer.to, cause);
                }
                if hits(self.faults.extra_transfer_every, self.transfers) {
                    self.hand_over(id, transfer.asset, actor, cause);
                }
                Ok(transfer.asset)
            }
            Kind::Revise(revise) => {
                self.owned(revise.asset, revise.version, actor)?;
                let version = revise.version + 1;
                self.assets[revise.asset as usize - 1].version = version;
                let of = v1::Mint {
                    lineage: revise.lineage,
                    ..v1::Mint::default()
                };
                let made = self.made(revise.asset, version, Bytes::new(), of);
                self.tell(Told::Revised(made));
                Ok(revise.asset)
            }
            Kind::Claim(claim) => {
                let held = self.held(claim.asset, claim.version)?;
                if !held.owner.is_empty() {
                    let mut winner = held.won_by.clone();
                    self.lost_claims += 1;
                    if hits(self.faults.wrong_winner_every, self.lost_claims) {
                        winner.1 += 1;
                    }
                    return Err(No(Code::AlreadyOwned, Some(winner)));
                }
                self.hand_over(id, claim.asset, actor, v1::TransferCause::Claim);
                Ok(claim.asset)
            }
            Kind::Exchange(exchange) => self.exchange(id, actor, &exchange),
            other => panic!("{other:?} is not part of any scenario"),
        }
    }

    fn mint(&mut self, id: &Bytes, actor: &Bytes, mint: v1::Mint) -> Result<u64, No> {
        let creator = self.collections.get(mint.collection as usize - 1);
        if creator.ok_or(Code::UnknownCollection)? != actor {
            return Err(Code::NotCreator.into());
        }
        let model = &mint.lineage.as_ref().unwrap().model;
        let approved =
            |one: &v1::Model| one.digest == *model && one.stage() == v1::ModelStage::Approved;
        if !self.models.iter().any(approved) {
            return Err(Code::ModelNotApproved.into());
        }
        if !mint.content.is_empty() {
            let digest = Bytes::copy_from_slice(&sha2::Sha256::digest(&mint.content));
            assert!(mint.digest.is_empty() || mint.digest == digest);
            self.contents.insert(digest);
        } else if !self.contents.contains(&mint.digest) {
            return Err(Code::ContentMissing.into());
        }
        self.assets.push(Held {
            owner: mint.owner.clone(),
            version: 1,
            won_by: (id.clone(), self.sequence),
        });
        let asset = self.assets.len() as u64;
        let made = self.made(asset, 1, mint.owner.clone(), mint);
        self.tell(Told::Minted(made));
        Ok(asset)
    }

    fn exchange(&mut self, id: &Bytes, actor: &Bytes, exchange: &v1::Exchange) -> Result<u64, No> {
        for leg in &exchange.legs {
            if leg.from != *actor && !exchange.consents.contains(&leg.from) {
                return Err(Code::ConsentMissing.into());
            }
            if leg.asset != 0 {
                self.owned(leg.asset, leg.version, &leg.from)?;
            } else if self.balances.get(&leg.from).copied().unwrap_or(0) < leg.amount {
                return Err(Code::InsufficientFunds.into());
            }
        }
        self.exchanges += 1;
        let lost = u64::from(hits(self.faults.short_change_every, self.exchanges));
        for leg in &exchange.legs {
            if leg.asset != 0 {
                let cause = v1::TransferCause::Exchange;
                self.hand_over(id, leg.asset, &leg.to, cause);
                continue;
            }
            *self.balances.get_mut(&leg.from).unwrap() -= leg.amount;
            *self.balances.entry(leg.to.clone()).or_default() += leg.amount - lost;
            self.currency_moved(&leg.from, &leg.to, leg.amount);
        }
        Ok(0)
    }

    fn held(&mut self, asset: u64, version: u32) -> Result<&mut Held, No> {
        let place = (asset as usize).checked_sub(1).ok_or(Code::UnknownAsset)?;
        let held = self.assets.get_mut(place).ok_or(Code::UnknownAsset)?;
        match held.version == version {
            true => Ok(held),
            false => Err(Code::StaleVersion.into()),
        }
    }

    fn owned(&mut self, asset: u64, version: u32, by: &Bytes) -> Result<(), No> {
        match self.held(asset, version)?.owner == *by {
            true => Ok(()),
            false => Err(Code::NotOwner.into()),
        }
    }
}

fn hits(every: u64, count: u64) -> bool {
    every != 0 && count.is_multiple_of(every)
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("this realm is small"))
}

type Answer<T> = Result<Response<T>, Status>;
type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Ledger for Realm {
    type SubmitStream = Responses<v1::SubmitResponse>;
    type WatchStream = Responses<v1::WatchResponse>;

    async fn submit(
        &self,
        request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Answer<Self::SubmitStream> {
        let realm = self.clone();
        let answers = request.into_inner().map(move |request| {
            let request = request?;
            let outcomes: Vec<_> = request
                .commands
                .into_iter()
                .map(|one| realm.apply(one))
                .collect();
            if realm.dies() {
                return Err(Status::unavailable("the realm dies on purpose"));
            }
            Ok(v1::SubmitResponse {
                ack: request.ack,
                outcomes,
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn execute(&self, request: Request<v1::ExecuteRequest>) -> Answer<v1::ExecuteResponse> {
        let request = request.into_inner();
        let outcome = self.apply(request.command.unwrap());
        if outcome.sequence == 0 {
            let mut refused = Status::resource_exhausted("refused at the door");
            let code = outcome.code.to_string().parse().unwrap();
            refused.metadata_mut().insert("karat-code", code);
            return Err(refused);
        }
        Ok(Response::new(v1::ExecuteResponse {
            ack: request.ack,
            outcome: Some(outcome),
        }))
    }

    async fn get_asset(
        &self,
        request: Request<v1::GetAssetRequest>,
    ) -> Answer<v1::GetAssetResponse> {
        let asset = request.into_inner().asset;
        let state = self.state.lock().unwrap();
        let held = state
            .assets
            .get(asset as usize - 1)
            .ok_or(Status::not_found("no such asset"))?;
        let (owner, version) = (held.owner.clone(), held.version);
        let asset_state = match state.faults.reject_all {
            true => v1::AssetState::Rejected,
            false => v1::AssetState::Active,
        };
        Ok(Response::new(v1::GetAssetResponse {
            asset: Some(v1::Asset {
                asset,
                owner,
                version,
                state: asset_state.into(),
                ..v1::Asset::default()
            }),
            applied_seq: state.sequence,
        }))
    }

    async fn get_account(
        &self,
        request: Request<v1::GetAccountRequest>,
    ) -> Answer<v1::GetAccountResponse> {
        let state = self.state.lock().unwrap();
        let balance = state.balances.get(&request.into_inner().account).copied();
        Ok(Response::new(v1::GetAccountResponse {
            balance: balance.unwrap_or(0),
        }))
    }

    async fn list_assets(
        &self,
        _: Request<v1::ListAssetsRequest>,
    ) -> Answer<v1::ListAssetsResponse> {
        not_here()
    }
    async fn get_history(
        &self,
        _: Request<v1::GetHistoryRequest>,
    ) -> Answer<v1::GetHistoryResponse> {
        not_here()
    }
    async fn get_content(
        &self,
        _: Request<v1::GetContentRequest>,
    ) -> Answer<v1::GetContentResponse> {
        not_here()
    }
    async fn get_collection(
        &self,
        _: Request<v1::GetCollectionRequest>,
    ) -> Answer<v1::GetCollectionResponse> {
        not_here()
    }
    async fn get_proof(&self, _: Request<v1::GetProofRequest>) -> Answer<v1::GetProofResponse> {
        not_here()
    }
    async fn get_batch(&self, _: Request<v1::GetBatchRequest>) -> Answer<v1::GetBatchResponse> {
        not_here()
    }
    async fn list_batches(
        &self,
        _: Request<v1::ListBatchesRequest>,
    ) -> Answer<v1::ListBatchesResponse> {
        not_here()
    }
    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let from = request.into_inner().from_sequence;
        let state = self.state.lock().unwrap();
        if state.faults.no_events {
            return not_here();
        }
        let events = state.events.iter().filter(|event| event.sequence >= from);
        let events: Vec<v1::Event> = events.cloned().collect();
        let mut messages: Vec<_> = events
            .chunks(100)
            .map(|events| v1::WatchResponse {
                events: events.to_vec(),
                // The last command's events may go on in the next message.
                seen_sequence: events.last().unwrap().sequence - 1,
            })
            .collect();
        messages.push(v1::WatchResponse {
            events: Vec::new(),
            seen_sequence: state.sequence,
        });
        // As of an engine: it does not end by itself.
        let messages = futures::stream::iter(messages.into_iter().map(Ok));
        Ok(Response::new(Box::pin(
            messages.chain(futures::stream::pending()),
        )))
    }
}

#[tonic::async_trait]
impl Edge for Realm {
    type ConnectStream = Responses<v1::EdgeResponse>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::EdgeRequest>>,
    ) -> Answer<Self::ConnectStream> {
        const CREDITS: u32 = 8;
        let mut requests = request.into_inner();
        let Some(Up::Hello(hello)) = requests.message().await?.unwrap().kind else {
            return Err(Status::invalid_argument("no Hello"));
        };
        let down = |kind| Ok(v1::EdgeResponse { kind: Some(kind) });
        let credits = move |amount| down(Down::Credits(v1::Credits { amount }));
        let welcome = down(Down::Welcome(v1::Welcome {
            realm: "small".into(),
            approved_models: hello.models.into_iter().map(|one| one.digest).collect(),
            credits_max: CREDITS,
        }));
        let realm = self.clone();
        let actor = hello.account;
        let answers = requests.flat_map(move |request| {
            let Some(Up::Assets(assets)) = request.unwrap().kind else {
                panic!("a second Hello");
            };
            let amount = assets.assets.len() as u32;
            assert!((1..=CREDITS).contains(&amount), "more than the credits");
            let outcomes = assets.assets.into_iter().map(|asset| {
                realm.apply(v1::Command {
                    id: asset.id,
                    actor: actor.clone(),
                    format: 1,
                    kind: Some(Kind::Mint(v1::Mint {
                        collection: asset.collection,
                        owner: asset.owner,
                        traits: asset.traits,
                        lineage: asset.lineage,
                        content: asset.content,
                        ..v1::Mint::default()
                    })),
                })
            });
            let outcomes: Vec<v1::Outcome> = outcomes.collect();
            // As the engine does: first when they are applied, then when they are durable.
            let answer = |ack: v1::AckLevel| {
                down(Down::Outcomes(v1::EdgeOutcomes {
                    outcomes: outcomes.clone(),
                    ack: ack.into(),
                    ..v1::EdgeOutcomes::default()
                }))
            };
            futures::stream::iter([
                answer(v1::AckLevel::Sequenced),
                answer(v1::AckLevel::Durable),
                credits(amount),
            ])
        });
        let first = futures::stream::iter([welcome, credits(CREDITS)]);
        Ok(Response::new(Box::pin(first.chain(answers))))
    }
}

#[tonic::async_trait]
impl Operator for Realm {
    async fn list_models(
        &self,
        _: Request<v1::ListModelsRequest>,
    ) -> Answer<v1::ListModelsResponse> {
        Ok(Response::new(v1::ListModelsResponse {
            models: self.state.lock().unwrap().models.clone(),
        }))
    }

    async fn change_model(
        &self,
        request: Request<v1::ChangeModelRequest>,
    ) -> Answer<v1::OperatorResponse> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        match request.change() {
            v1::ModelChange::Register => state.models.push(v1::Model {
                digest: request.digest,
                name: request.name,
                role: request.role,
                stage: v1::ModelStage::Registered.into(),
                ..Default::default()
            }),
            v1::ModelChange::Promote => {
                let model = state
                    .models
                    .iter_mut()
                    .find(|one| one.digest == request.digest);
                model.unwrap().set_stage(v1::ModelStage::Approved);
            }
            other => panic!("{other:?} is not part of setup"),
        }
        Ok(Response::new(v1::OperatorResponse {
            outcome: Some(v1::Outcome::default()),
        }))
    }

    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Answer<v1::GetStatusResponse> {
        not_here()
    }
    async fn set_paused(&self, _: Request<v1::SetPausedRequest>) -> Answer<v1::OperatorResponse> {
        not_here()
    }
    async fn set_frozen(&self, _: Request<v1::SetFrozenRequest>) -> Answer<v1::OperatorResponse> {
        not_here()
    }
    async fn lease_reviews(
        &self,
        _: Request<v1::LeaseReviewsRequest>,
    ) -> Answer<v1::LeaseReviewsResponse> {
        not_here()
    }
    async fn decide_review(
        &self,
        _: Request<v1::DecideReviewRequest>,
    ) -> Answer<v1::OperatorResponse> {
        not_here()
    }
    async fn get_policy(&self, _: Request<v1::GetPolicyRequest>) -> Answer<v1::GetPolicyResponse> {
        not_here()
    }
    async fn set_policy(&self, _: Request<v1::SetPolicyRequest>) -> Answer<v1::OperatorResponse> {
        not_here()
    }
    async fn collect_content(
        &self,
        _: Request<v1::CollectContentRequest>,
    ) -> Answer<v1::CollectContentResponse> {
        not_here()
    }
}
