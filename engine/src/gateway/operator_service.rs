//! The Operator service. Everything that changes state is a command in the operator's name.

use std::sync::Arc;

use bytes::Bytes;
use karat_proto::convert;
use karat_proto::v1::command::Kind;
use karat_proto::v1::operator_server::Operator;
use karat_proto::{limits, v1};
use karat_sequencer::Ack;
use tonic::{Request, Response, Status};

use super::wire::asset_to_wire;
use super::{Gateway, refusal_status};
use crate::view::ModelStage;

type Answer<T> = Result<Response<T>, Status>;

/// Serves `karat.v1.Operator`.
pub struct OperatorService {
    pub(super) gateway: Arc<Gateway>,
}

impl OperatorService {
    async fn enter(&self, kind: Kind) -> Answer<v1::OperatorResponse> {
        // A process that only reads a folder has no agents; no command gets in there.
        self.gateway.verifier()?;
        let core = &self.gateway.core;
        let wire = v1::Command {
            id: crate::core::fresh_id(),
            actor: Bytes::copy_from_slice(&core.roles.operator.0),
            format: limits::COMMAND_FORMAT,
            kind: Some(kind),
        };
        let id = convert::id_of(&wire).map_err(|refused| refusal_status(&refused))?;
        let outcome = core
            .execute(wire, Ack::Durable)
            .await
            .map_err(|refused| refusal_status(&refused))?;
        let outcome = Some(convert::outcome_to_wire(&id, &outcome));
        Ok(Response::new(v1::OperatorResponse { outcome }))
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Answer<v1::GetStatusResponse> {
        Ok(Response::new(crate::status::status(&self.gateway)))
    }

    async fn set_paused(
        &self,
        request: Request<v1::SetPausedRequest>,
    ) -> Answer<v1::OperatorResponse> {
        self.enter(Kind::Pause(v1::Pause {
            paused: request.into_inner().paused,
        }))
        .await
    }

    async fn set_frozen(
        &self,
        request: Request<v1::SetFrozenRequest>,
    ) -> Answer<v1::OperatorResponse> {
        let request = request.into_inner();
        let asset = request.asset;
        match request.frozen {
            true => {
                self.enter(Kind::Freeze(v1::Freeze {
                    asset,
                    reason: request.reason,
                }))
                .await
            }
            false => self.enter(Kind::Unfreeze(v1::Unfreeze { asset })).await,
        }
    }

    async fn lease_reviews(
        &self,
        request: Request<v1::LeaseReviewsRequest>,
    ) -> Answer<v1::LeaseReviewsResponse> {
        let request = request.into_inner();
        if request.limit > 100 {
            return Err(Status::invalid_argument(
                "limit: at most 100 reviews are leased at once",
            ));
        }
        if request.reviewer.is_empty() && !request.peek {
            return Err(Status::invalid_argument(
                "reviewer: name who takes the lease, or peek",
            ));
        }
        let limit = if request.limit == 0 {
            10
        } else {
            request.limit as usize
        };
        let (rows, open) = self
            .gateway
            .verifier()?
            .lease_reviews(&request.reviewer, limit, request.peek)
            .map_err(Status::failed_precondition)?;
        let view = &self.gateway.core.view;
        let reviews = rows
            .into_iter()
            .filter_map(|row| {
                let asset = view.asset(row.asset)?;
                Some(v1::Review {
                    asset: Some(asset_to_wire(view, &asset)),
                    verdict: row.verdict,
                    lease_until_ms: row.lease_until_ms,
                    reviewer: row.reviewer,
                })
            })
            .collect();
        Ok(Response::new(v1::LeaseReviewsResponse { reviews, open }))
    }

    async fn decide_review(
        &self,
        request: Request<v1::DecideReviewRequest>,
    ) -> Answer<v1::OperatorResponse> {
        let request = request.into_inner();
        self.gateway
            .verifier()?
            .check_lease(&request.reviewer, request.asset)
            .map_err(Status::failed_precondition)?;
        let answer = self
            .enter(Kind::ReviewDecision(v1::ReviewDecision {
                asset: request.asset,
                version: request.version,
                accepted: request.accepted,
                reason: format!("{}: {}", request.reviewer, request.reason),
            }))
            .await?;
        self.gateway
            .verifier()?
            .note_decision(&request.reviewer, request.asset, request.accepted);
        Ok(answer)
    }

    async fn change_model(
        &self,
        request: Request<v1::ChangeModelRequest>,
    ) -> Answer<v1::OperatorResponse> {
        let request = request.into_inner();
        let digest = request.digest;
        match v1::ModelChange::try_from(request.change) {
            Ok(v1::ModelChange::Register) => {
                let register = v1::RegisterModel {
                    digest,
                    name: request.name,
                    role: request.role,
                    key: request.key,
                    signature: request.signature,
                };
                self.enter(Kind::RegisterModel(register)).await
            }
            Ok(v1::ModelChange::Promote) => {
                self.enter(Kind::PromoteModel(v1::PromoteModel { digest }))
                    .await
            }
            Ok(v1::ModelChange::Retire) => {
                self.enter(Kind::RetireModel(v1::RetireModel { digest }))
                    .await
            }
            _ => Err(Status::invalid_argument(
                "change: 1 register, 2 promote, 3 retire",
            )),
        }
    }

    async fn list_models(
        &self,
        _request: Request<v1::ListModelsRequest>,
    ) -> Answer<v1::ListModelsResponse> {
        let models = self
            .gateway
            .core
            .view
            .models()
            .into_iter()
            .map(|model| v1::Model {
                digest: Bytes::copy_from_slice(&model.digest),
                name: model.name,
                role: convert::role_to_wire(model.role).into(),
                stage: match model.stage {
                    ModelStage::Registered => v1::ModelStage::Registered,
                    ModelStage::Approved => v1::ModelStage::Approved,
                    ModelStage::Retired => v1::ModelStage::Retired,
                }
                .into(),
                signed_by: model
                    .signed_by
                    .map_or_else(Bytes::new, |key| Bytes::copy_from_slice(&key)),
            })
            .collect();
        Ok(Response::new(v1::ListModelsResponse { models }))
    }

    async fn get_policy(
        &self,
        _request: Request<v1::GetPolicyRequest>,
    ) -> Answer<v1::GetPolicyResponse> {
        let policy = convert::policy_to_wire(&self.gateway.core.view.policy());
        Ok(Response::new(v1::GetPolicyResponse {
            policy: Some(policy),
        }))
    }

    async fn set_policy(
        &self,
        request: Request<v1::SetPolicyRequest>,
    ) -> Answer<v1::OperatorResponse> {
        self.enter(Kind::SetPolicy(v1::SetPolicy {
            policy: request.into_inner().policy,
        }))
        .await
    }

    async fn collect_content(
        &self,
        request: Request<v1::CollectContentRequest>,
    ) -> Answer<v1::CollectContentResponse> {
        let dry_run = request.into_inner().dry_run;
        let core = self.gateway.core.clone();
        // A folder that is only read takes no commands.
        let serving = self.gateway.verifier.is_some();
        let collecting = move || crate::orphans::collect(&core, dry_run, serving);
        let found = tokio::task::spawn_blocking(collecting)
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(found))
    }
}
