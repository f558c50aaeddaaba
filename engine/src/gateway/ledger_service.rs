//! The Ledger service.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use karat_content::ContentStore;
use karat_ledger::AssetView;
use karat_proto::convert::{self, Refused};
use karat_proto::served::ledger_server::Ledger;
use karat_proto::v1::AckLevel;
use karat_proto::{limits, served, v1};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use super::acks::Client;
use super::admission::admit;
use super::submit::{self, Outcomes, has_more_to_wait_for, is_about_an_asset, level_of, log_ack};
use super::wire::asset_to_wire;
use super::{Gateway, read_answer, refusal_status, watch};
use crate::stage_counts::Way;

type Answer<T> = Result<Response<T>, Status>;

/// Serves `karat.v1.Ledger`.
pub struct LedgerService {
    pub(super) gateway: Arc<Gateway>,
}

fn page(limit: u32, default: usize) -> Result<usize, Status> {
    match limit as usize {
        0 => Ok(default),
        limit if limit <= limits::PAGE_ROWS_MAX => Ok(limit),
        limit => Err(Status::invalid_argument(format!(
            "limit is {limit}, at most {} rows make a page",
            limits::PAGE_ROWS_MAX
        ))),
    }
}

fn refused(refused: Refused) -> Status {
    refusal_status(&refused)
}

pub(super) fn store_status(error: karat_store::StoreError) -> Status {
    Status::internal(format!("store: {error}"))
}

impl LedgerService {
    fn find(&self, asset: u64) -> Result<AssetView, Status> {
        self.gateway
            .core
            .view
            .asset(asset)
            .ok_or_else(|| Status::not_found(format!("there is no asset {asset}")))
    }

    fn find_batch(&self, number: u64) -> Result<v1::Batch, Status> {
        if let Some(batch) = self.gateway.core.view.batches.read().get(number) {
            return Ok(batch.clone());
        }
        match self.gateway.store.batch(number).map_err(store_status)? {
            Some(row) => v1::Batch::decode(row).map_err(|error| {
                Status::data_loss(format!("batch {number} in the store: {error}"))
            }),
            None => Err(Status::not_found(format!("there is no batch {number}"))),
        }
    }
}

#[tonic::async_trait]
impl Ledger for LedgerService {
    type SubmitStream = Outcomes;
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn submit(
        &self,
        request: Request<Streaming<served::SubmitRequest>>,
    ) -> Answer<Self::SubmitStream> {
        self.gateway.verifier()?;
        let stream = self.gateway.take_stream()?;
        Ok(Response::new(submit::open(
            self.gateway.clone(),
            request.into_inner(),
            stream,
        )))
    }

    async fn execute(&self, request: Request<v1::ExecuteRequest>) -> Answer<v1::ExecuteResponse> {
        self.gateway.verifier()?;
        let now = Instant::now();
        let request = request.into_inner();
        let level = level_of(request.ack).map_err(refused)?;
        let command = request
            .command
            .ok_or_else(|| Status::invalid_argument("command is not set"))?;
        let core = &self.gateway.core;
        let mut digest = Duration::ZERO;
        let prepared = admit(&*core.content, command, &mut digest).map_err(|refusal| {
            self.gateway.count_door_refusal(refusal.code);
            refused(refusal)
        })?;
        let id = prepared.command.id;
        let about_an_asset = is_about_an_asset(&prepared.command.kind);
        if matches!(level, AckLevel::Verified | AckLevel::Settled) && !self.gateway.acks.has_room(1)
        {
            return Err(Status::resource_exhausted(
                "too many outcomes wait for verdicts and settlement; try again in a second",
            ));
        }
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let reply = Box::new(move |answer| {
            let _ = sender.send(answer);
        });
        core.submit_to_work_off(vec![prepared], log_ack(level), reply)
            .map_err(|(error, _)| refused(crate::core::submit_refusal(&error)))?;
        core.work_off();
        let answer = receiver
            .await
            .map_err(|_| Status::unavailable("the engine is stopping"))?
            .map_err(|error| refused(crate::core::submit_refusal(&error)))?;
        let outcome = *answer
            .outcomes
            .first()
            .ok_or_else(|| Status::internal("the sequencer gave no outcome"))?;
        let logged = if level == AckLevel::Sequenced {
            level
        } else {
            AckLevel::Durable
        };
        self.gateway.latencies.record(logged, now.elapsed(), 1);
        let way = Way {
            received: now,
            digest,
            times: answer.times,
        };
        let at_sequenced = logged == AckLevel::Sequenced;
        self.gateway.stages.record(&way.stages(), at_sequenced);
        let mut wire = convert::outcome_to_wire(&id, &outcome);
        let mut reached = logged;
        if matches!(level, AckLevel::Verified | AckLevel::Settled)
            && has_more_to_wait_for(&outcome)
            && about_an_asset
        {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let done = Box::new(move |reached, why: &'static str| {
                let _ = sender.send((reached, why));
            });
            // Goes with this call, whether it is answered or its client goes away.
            let call = Arc::new(());
            let here = Arc::downgrade(&call);
            let client = Some(Client { done, here });
            self.gateway.acks.wait(&outcome, level, now, client);
            let (at, why) = receiver
                .await
                .map_err(|_| Status::unavailable("the engine is stopping"))?;
            reached = at;
            if !why.is_empty() {
                wire.message = why.to_owned();
            }
        }
        Ok(Response::new(v1::ExecuteResponse {
            ack: reached.into(),
            outcome: Some(wire),
        }))
    }

    async fn get_asset(
        &self,
        request: Request<v1::GetAssetRequest>,
    ) -> Answer<v1::GetAssetResponse> {
        let age = self.gateway.age();
        let asset = self.find(request.into_inner().asset)?;
        let view = &self.gateway.core.view;
        Ok(read_answer(
            age,
            v1::GetAssetResponse {
                asset: Some(asset_to_wire(view, &asset)),
                applied_seq: view.applied_seq(),
            },
        ))
    }

    async fn list_assets(
        &self,
        request: Request<v1::ListAssetsRequest>,
    ) -> Answer<v1::ListAssetsResponse> {
        let age = self.gateway.age();
        let request = request.into_inner();
        let limit = page(request.limit, 100)?;
        let after = (request.after != 0).then_some(request.after);
        let store = &self.gateway.store;
        let view = &self.gateway.core.view;
        let (ids, owner) = match (request.owner.is_empty(), request.collection) {
            (false, 0) => {
                let owner = convert::account(&request.owner, "owner").map_err(refused)?;
                let ids = store
                    .assets_of_owner(&owner.0, after, limit)
                    .map_err(store_status)?;
                (ids, Some(owner))
            }
            (true, collection) if collection != 0 => {
                let ids = store
                    .assets_of_collection(collection, after, limit)
                    .map_err(store_status)?;
                (ids, None)
            }
            _ => {
                return Err(Status::invalid_argument(
                    "name an owner or a collection, not both",
                ));
            }
        };
        let next_after = if ids.len() == limit {
            ids.last().copied().unwrap_or(0)
        } else {
            0
        };
        let assets = ids
            .into_iter()
            .filter_map(|id| view.asset(id))
            // The store's list may lag behind the ledger; what is shown is true now.
            .filter(|asset| owner.is_none_or(|owner| asset.owner == owner))
            .map(|asset| asset_to_wire(view, &asset))
            .collect();
        let projected_seq = store.projected_seq().map_err(store_status)?;
        Ok(read_answer(
            age,
            v1::ListAssetsResponse {
                assets,
                next_after,
                projected_seq,
            },
        ))
    }

    async fn get_history(
        &self,
        request: Request<v1::GetHistoryRequest>,
    ) -> Answer<v1::GetHistoryResponse> {
        let age = self.gateway.age();
        let request = request.into_inner();
        let limit = page(request.limit, 100)?;
        self.find(request.asset)?;
        let after = match (request.after_sequence, request.after_index) {
            (0, _) => None,
            (sequence, index) => Some((sequence, u16::try_from(index).unwrap_or(u16::MAX))),
        };
        let store = &self.gateway.store;
        let rows = store
            .history(request.asset, after, limit)
            .map_err(store_status)?;
        let more = rows.len() == limit;
        let events = rows
            .iter()
            .map(|row| match karat_ledger::codec::decode_event(&row.row) {
                Ok((event, _)) => Ok(convert::event_to_wire(&event)),
                Err(error) => Err(Status::data_loss(format!("history in the store: {error}"))),
            })
            .collect::<Result<_, Status>>()?;
        let projected_seq = store.projected_seq().map_err(store_status)?;
        Ok(read_answer(
            age,
            v1::GetHistoryResponse {
                events,
                more,
                projected_seq,
            },
        ))
    }

    async fn get_content(
        &self,
        request: Request<v1::GetContentRequest>,
    ) -> Answer<v1::GetContentResponse> {
        let age = self.gateway.age();
        let asset = self.find(request.into_inner().asset)?;
        let shows = self
            .gateway
            .core
            .view
            .collection(asset.collection)
            .is_some_and(|collection| collection.spec.pending_rule.show);
        let looked_at = !matches!(
            asset.state,
            karat_proto::event::AssetState::Pending | karat_proto::event::AssetState::Rejected
        );
        if !shows && !looked_at {
            return Err(Status::failed_precondition(
                "the asset's collection does not show assets before a verdict accepts them",
            ));
        }
        let digest = asset.content.digest;
        match self.gateway.core.content.get(&digest) {
            Ok(Some(content)) => Ok(read_answer(
                age,
                v1::GetContentResponse {
                    content,
                    cid: karat_content::cid_of(&digest),
                },
            )),
            Ok(None) => Err(Status::data_loss(format!(
                "content {} of asset {} is not stored",
                karat_content::cid_of(&digest),
                asset.id
            ))),
            Err(error) => Err(Status::data_loss(error.to_string())),
        }
    }

    async fn get_account(
        &self,
        request: Request<v1::GetAccountRequest>,
    ) -> Answer<v1::GetAccountResponse> {
        let age = self.gateway.age();
        let account =
            convert::account(&request.into_inner().account, "account").map_err(refused)?;
        let balance = self.gateway.core.view.balance(&account);
        Ok(read_answer(age, v1::GetAccountResponse { balance }))
    }

    async fn get_collection(
        &self,
        request: Request<v1::GetCollectionRequest>,
    ) -> Answer<v1::GetCollectionResponse> {
        let age = self.gateway.age();
        let number = request.into_inner().collection;
        let entry = self
            .gateway
            .core
            .view
            .collection(number)
            .ok_or_else(|| Status::not_found(format!("there is no collection {number}")))?;
        Ok(read_answer(
            age,
            v1::GetCollectionResponse {
                collection: number,
                creator: Bytes::copy_from_slice(&entry.creator.0),
                spec: Some(convert::spec_to_wire(&entry.spec)),
                minted: entry.minted.load(std::sync::atomic::Ordering::Relaxed),
            },
        ))
    }

    async fn get_proof(
        &self,
        request: Request<v1::GetProofRequest>,
    ) -> Answer<v1::GetProofResponse> {
        let age = self.gateway.age();
        let asset = request.into_inner().asset;
        self.find(asset)?;
        let Some(number) = self
            .gateway
            .store
            .assets_batch(asset)
            .map_err(store_status)?
        else {
            return Err(Status::failed_precondition(format!(
                "asset {asset} is in no sealed batch yet; try again after the next one"
            )));
        };
        let batch = self.find_batch(number)?;
        let proof = self
            .gateway
            .settlement
            .proof(&batch, asset)
            .await
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(read_answer(age, proof))
    }

    async fn get_batch(
        &self,
        request: Request<v1::GetBatchRequest>,
    ) -> Answer<v1::GetBatchResponse> {
        let age = self.gateway.age();
        let batch = self.find_batch(request.into_inner().number)?;
        Ok(read_answer(
            age,
            v1::GetBatchResponse { batch: Some(batch) },
        ))
    }

    async fn list_batches(
        &self,
        request: Request<v1::ListBatchesRequest>,
    ) -> Answer<v1::ListBatchesResponse> {
        let age = self.gateway.age();
        let request = request.into_inner();
        let limit = page(request.limit, 20)?;
        let mut batches = self
            .gateway
            .core
            .view
            .batches
            .read()
            .newest(request.before, limit);
        let oldest = batches.last().map_or(request.before, |batch| batch.number);
        let missing = limit - batches.len();
        if missing > 0 && oldest != 1 {
            let after = (oldest != 0).then_some(oldest);
            let rows = self
                .gateway
                .store
                .batches(after, karat_store::Order::NewestFirst, missing)
                .map_err(store_status)?;
            for (number, row) in rows {
                batches.push(v1::Batch::decode(row).map_err(|error| {
                    Status::data_loss(format!("batch {number} in the store: {error}"))
                })?);
            }
        }
        Ok(read_answer(age, v1::ListBatchesResponse { batches }))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let age = self.gateway.age();
        let request = request.into_inner();
        let account = match request.account.is_empty() {
            true => None,
            false => Some(convert::account(&request.account, "account").map_err(refused)?),
        };
        let filter = watch::Filter {
            asset: request.asset,
            collection: request.collection,
            account,
        };
        let stream = self.gateway.take_stream()?;
        let events = watch::open(
            self.gateway.core.clone(),
            request.from_sequence,
            filter,
            stream,
        );
        Ok(read_answer(age, Box::pin(events)))
    }
}
