//! The gRPC services of the small realm.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use karat_proto::v1::command::Kind;
use karat_proto::v1::edge_request::Kind as Up;
use karat_proto::v1::edge_response::Kind as Down;
use karat_proto::v1::edge_server::Edge;
use karat_proto::v1::ledger_server::Ledger;
use karat_proto::v1::operator_server::Operator;
use karat_proto::{Code, v1};
use tonic::{Request, Response, Status, Streaming};

use super::Realm;

const NOT_LEADER: &str = "this realm is not the leader; 127.0.0.1:7499 is";

/// What a command comes to here, also where another one leads.
fn outcome_of(realm: &Realm, command: v1::Command) -> v1::Outcome {
    match realm.follows() {
        false => realm.apply(command),
        true => v1::Outcome {
            id: command.id,
            code: Code::NotLeader as u32,
            message: NOT_LEADER.into(),
            ..v1::Outcome::default()
        },
    }
}

/// A refusal at the door, as a call is answered.
fn refused_call(outcome: &v1::Outcome) -> Status {
    let mut refused = Status::resource_exhausted(format!("refused: {}", outcome.message));
    let code = outcome.code.to_string().parse().unwrap();
    refused.metadata_mut().insert("karat-code", code);
    refused
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
                .map(|one| outcome_of(&realm, one))
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
        let outcome = outcome_of(self, request.command.unwrap());
        if !self.is_here() {
            return Err(Status::unavailable("the realm moved meanwhile"));
        }
        if outcome.sequence == 0 {
            return Err(refused_call(&outcome));
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
            let assets = match request {
                Ok(v1::EdgeRequest {
                    kind: Some(Up::Assets(assets)),
                }) => assets,
                Ok(other) => panic!("{other:?} after the Hello"),
                // The client has gone.
                Err(_) => return futures::stream::iter(Vec::new()),
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
            if !realm.is_here() {
                let moved = Err(Status::unavailable("the realm moved meanwhile"));
                return futures::stream::iter(vec![moved]);
            }
            // As the engine does: first when they are applied, then when they are durable.
            let answer = |ack: v1::AckLevel| {
                down(Down::Outcomes(v1::EdgeOutcomes {
                    outcomes: outcomes.clone(),
                    ack: ack.into(),
                    ..v1::EdgeOutcomes::default()
                }))
            };
            futures::stream::iter(vec![
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
