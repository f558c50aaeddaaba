//! A realm in memory behind the real services: just enough rules to load, and faults that the truth check must find.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use karat_proto::v1::command::Kind;
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
    /// Every so many-th exchange loses a unit of its price.
    pub short_change_every: u64,
    /// Every asset is rejected, as by agents that do not like it.
    pub reject_all: bool,
    /// Every so many-th command is refused because the queue is full.
    pub overload_every: u64,
}

#[derive(Default)]
struct State {
    faults: Faults,
    sequence: u64,
    transfers: u64,
    exchanges: u64,
    commands: u64,
    collections: Vec<Bytes>,
    contents: HashSet<Bytes>,
    models: Vec<v1::Model>,
    assets: Vec<Bytes>,
    balances: HashMap<Bytes, u64>,
}

/// The realm; it ends with the process.
#[derive(Clone)]
pub struct Realm {
    state: Arc<Mutex<State>>,
}

impl Realm {
    /// Starts one on a free port and returns its address.
    pub fn start(faults: Faults) -> String {
        let realm = Realm {
            state: Arc::new(Mutex::new(State {
                faults,
                ..State::default()
            })),
        };
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
                    .add_service(OperatorServer::new(realm))
                    .serve_with_incoming(incoming.with_nodelay(Some(true)))
                    .await
                    .unwrap();
            });
        });
        format!("http://{}", receiver.recv().unwrap())
    }

    fn apply(&self, command: v1::Command) -> v1::Outcome {
        self.state.lock().unwrap().apply(command)
    }
}

impl State {
    fn apply(&mut self, command: v1::Command) -> v1::Outcome {
        self.commands += 1;
        if hits(self.faults.overload_every, self.commands) {
            return v1::Outcome {
                id: command.id,
                code: Code::Overloaded as u32,
                retry_after_ms: 1,
                ..v1::Outcome::default()
            };
        }
        self.sequence += 1;
        let (code, subject) = match self.change(&command.actor, command.kind.unwrap()) {
            Ok(subject) => (Code::Accepted, subject),
            Err(code) => (code, 0),
        };
        v1::Outcome {
            id: command.id,
            sequence: self.sequence,
            code: code as u32,
            subject,
            ..v1::Outcome::default()
        }
    }

    fn change(&mut self, actor: &Bytes, kind: Kind) -> Result<u64, Code> {
        match kind {
            Kind::CreateCollection(_) => {
                self.collections.push(actor.clone());
                Ok(self.collections.len() as u64)
            }
            Kind::Mint(mint) => {
                let creator = self.collections.get(mint.collection as usize - 1);
                if creator.ok_or(Code::UnknownCollection)? != actor {
                    return Err(Code::NotCreator);
                }
                let model = mint.lineage.unwrap().model;
                if !self
                    .models
                    .iter()
                    .any(|one| one.digest == model && one.stage() == v1::ModelStage::Approved)
                {
                    return Err(Code::ModelNotApproved);
                }
                if !mint.content.is_empty() {
                    let digest = sha2::Sha256::digest(&mint.content);
                    assert_eq!(mint.digest[..], digest[..]);
                    self.contents.insert(mint.digest.clone());
                }
                if !self.contents.contains(&mint.digest) {
                    return Err(Code::ContentMissing);
                }
                self.assets.push(mint.owner);
                Ok(self.assets.len() as u64)
            }
            Kind::Deposit(deposit) => {
                if *actor != Account::from_name("operator").0[..] {
                    return Err(Code::NotAllowed);
                }
                *self.balances.entry(deposit.account).or_default() += deposit.amount;
                Ok(0)
            }
            Kind::Transfer(transfer) => {
                self.transfers += 1;
                let forget = hits(self.faults.forget_transfer_every, self.transfers);
                let owner = self.owner(transfer.asset)?;
                if *owner != *actor {
                    return Err(Code::NotOwner);
                }
                if !forget {
                    *owner = transfer.to;
                }
                Ok(transfer.asset)
            }
            Kind::Claim(claim) => {
                let owner = self.owner(claim.asset)?;
                if !owner.is_empty() {
                    return Err(Code::AlreadyOwned);
                }
                *owner = actor.clone();
                Ok(claim.asset)
            }
            Kind::Exchange(exchange) => {
                self.exchanges += 1;
                let lost = u64::from(hits(self.faults.short_change_every, self.exchanges));
                let [given, paid] = &exchange.legs[..] else {
                    return Err(Code::BadExchange);
                };
                if *self.owner(given.asset)? != given.from {
                    return Err(Code::NotOwner);
                }
                let payer = self.balances.get_mut(&paid.from).unwrap();
                *payer = payer
                    .checked_sub(paid.amount)
                    .ok_or(Code::InsufficientFunds)?;
                *self.balances.entry(paid.to.clone()).or_default() += paid.amount - lost;
                *self.owner(given.asset)? = given.to.clone();
                Ok(0)
            }
            other => panic!("{other:?} is not part of any scenario"),
        }
    }

    fn owner(&mut self, asset: u64) -> Result<&mut Bytes, Code> {
        let place = (asset as usize).checked_sub(1).ok_or(Code::UnknownAsset)?;
        self.assets.get_mut(place).ok_or(Code::UnknownAsset)
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
            let outcomes = request.commands.into_iter().map(|one| realm.apply(one));
            Ok(v1::SubmitResponse {
                ack: request.ack,
                outcomes: outcomes.collect(),
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn execute(&self, request: Request<v1::ExecuteRequest>) -> Answer<v1::ExecuteResponse> {
        let request = request.into_inner();
        Ok(Response::new(v1::ExecuteResponse {
            ack: request.ack,
            outcome: Some(self.apply(request.command.unwrap())),
        }))
    }

    async fn get_asset(
        &self,
        request: Request<v1::GetAssetRequest>,
    ) -> Answer<v1::GetAssetResponse> {
        let asset = request.into_inner().asset;
        let mut state = self.state.lock().unwrap();
        let owner = state
            .owner(asset)
            .map_err(|_| Status::not_found("no such asset"))?
            .clone();
        let asset_state = match state.faults.reject_all {
            true => v1::AssetState::Rejected,
            false => v1::AssetState::Active,
        };
        Ok(Response::new(v1::GetAssetResponse {
            asset: Some(v1::Asset {
                asset,
                owner,
                version: 1,
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
    async fn watch(&self, _: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        not_here()
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
