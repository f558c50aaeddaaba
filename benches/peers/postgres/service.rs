//! The service: messages to calls of `apply`, rows to outcomes, and the reads that `karat-load` closes its books with.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use karat_loadgen::floor::execute_by_submit;
use karat_proto::v1::command::Kind;
use karat_proto::v1::ledger_server::Ledger;
use karat_proto::v1::operator_server::Operator;
use karat_proto::{Code, v1};
use prost::Message as _;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};
use tonic::{Request, Response, Status, Streaming};

use crate::events::events_of;
use crate::pool::Pool;

/// How often a transaction that met another one is tried again.
const RETRIES_MAX: u32 = 10;
/// Events in one message of `Watch`.
const EVENTS: usize = 1_000;

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Karat's `Ledger`, kept by PostgreSQL.
#[derive(Clone)]
pub struct Peer {
    /// Commits are flushed before they are answered.
    pub durable: Arc<Pool>,
    /// Commits are answered before they are flushed.
    pub sequenced: Arc<Pool>,
    /// Row locks; else optimistic versions.
    pub locked: bool,
}

/// What `apply` is called with, a column an argument.
#[derive(Default)]
struct Batch {
    ids: Vec<Bytes>,
    kinds: Vec<i32>,
    assets: Vec<i64>,
    versions: Vec<i32>,
    actors: Vec<Bytes>,
    others: Vec<Option<Bytes>>,
    amounts: Vec<i64>,
    bodies: Vec<Vec<u8>>,
    /// Of all exchanges, one after another.
    legs: Vec<v1::Leg>,
}

impl Batch {
    fn new(mut commands: Vec<v1::Command>) -> Result<Batch, Status> {
        // Rows are locked in one order everywhere, so that no two messages wait for each other. Commands on one asset stay
        // in theirs. Of a message with exchanges `apply` locks everything at once.
        let exchanges = |command: &v1::Command| matches!(command.kind, Some(Kind::Exchange(_)));
        if !commands.iter().any(exchanges) {
            commands.sort_by_key(|command| match &command.kind {
                Some(Kind::Claim(claim)) => claim.asset,
                Some(Kind::Transfer(transfer)) => transfer.asset,
                _ => 0,
            });
        }
        let mut batch = Batch::default();
        for command in commands {
            batch.bodies.push(command.encode_to_vec());
            batch.push(command)?;
        }
        Ok(batch)
    }

    fn push(&mut self, command: v1::Command) -> Result<(), Status> {
        let (mut asset, mut version, mut other, mut amount) = (0, 0, None, 0);
        let kind = match command.kind {
            Some(Kind::Claim(claim)) => {
                (asset, version) = (claim.asset, claim.version);
                1
            }
            Some(Kind::Transfer(transfer)) => {
                (asset, version) = (transfer.asset, transfer.version);
                other = Some(transfer.to);
                2
            }
            Some(Kind::Mint(mint)) => {
                other = Some(mint.owner).filter(|owner| !owner.is_empty());
                3
            }
            Some(Kind::Deposit(deposit)) => {
                amount = deposit.amount;
                other = Some(deposit.account);
                4
            }
            Some(Kind::CreateCollection(_)) => 5,
            Some(Kind::Exchange(exchange)) => {
                let agreed = |leg: &v1::Leg| {
                    leg.from == command.actor || exchange.consents.contains(&leg.from)
                };
                let all_agreed = exchange.legs.iter().all(agreed);
                amount = self.legs.len() as u64 + 1;
                version = exchange.legs.len() as u32;
                self.legs.extend(exchange.legs);
                if all_agreed { 6 } else { 7 }
            }
            _ => {
                return Err(Status::unimplemented(
                    "this peer takes claims, transfers, exchanges, mints, deposits and new collections: say --scenario \
                     claim-stampede, exchange-legs or mint",
                ));
            }
        };
        self.ids.push(command.id);
        self.kinds.push(kind);
        self.assets.push(asset as i64);
        self.versions.push(version as i32);
        self.actors.push(command.actor);
        self.others.push(other);
        self.amounts.push(amount as i64);
        Ok(())
    }
}

pub(crate) fn failed(error: &Error) -> Status {
    let text = match error.as_db_error() {
        Some(told) => told.to_string(),
        None => error.to_string(),
    };
    Status::unavailable(format!("PostgreSQL: {text}"))
}

/// Whether the transaction met another one: a deadlock, or a command that is applied twice at once.
fn for_now(error: &Error) -> bool {
    let met = [
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::UNIQUE_VIOLATION,
    ];
    error.code().is_some_and(|code| met.contains(code))
}

fn outcome(row: &Row) -> Result<v1::Outcome, Error> {
    let code = row.try_get::<_, i32>("of_code")? as u32;
    let known = u16::try_from(code).ok().and_then(Code::from_number);
    Ok(v1::Outcome {
        id: bytes_of(row, "of_id")?,
        sequence: row.try_get::<_, i64>("of_sequence")? as u64,
        code,
        replayed: row.try_get("of_replayed")?,
        subject: row.try_get::<_, i64>("of_subject")? as u64,
        winner_id: bytes_of(row, "of_winner_id")?,
        winner_sequence: row
            .try_get::<_, Option<i64>>("of_winner_sequence")?
            .unwrap_or(0) as u64,
        message: match code {
            0 => String::new(),
            _ => known.map_or("", Code::name).into(),
        },
        retry_after_ms: 0,
    })
}

/// Empty for NULL.
fn bytes_of(row: &Row, column: &str) -> Result<Bytes, Error> {
    let bytes: Option<&[u8]> = row.try_get(column)?;
    Ok(Bytes::copy_from_slice(bytes.unwrap_or_default()))
}

impl Peer {
    fn pool(&self, ack: i32) -> Result<&Pool, Status> {
        match v1::AckLevel::try_from(ack) {
            Ok(v1::AckLevel::Sequenced) => Ok(&self.sequenced),
            Ok(v1::AckLevel::Durable) => Ok(&self.durable),
            _ => Err(Status::unimplemented(
                "this peer knows SEQUENCED and DURABLE",
            )),
        }
    }

    /// A message: one transaction.
    async fn apply(&self, request: v1::SubmitRequest) -> Result<v1::SubmitResponse, Status> {
        let pool = self.pool(request.ack)?;
        let batch = Batch::new(request.commands)?;
        let ids = slices(&batch.ids);
        let actors = slices(&batch.actors);
        let others: Vec<Option<&[u8]>> = batch.others.iter().map(Option::as_deref).collect();
        let legs = &batch.legs;
        let givers: Vec<&[u8]> = legs.iter().map(|leg| &leg.from[..]).collect();
        let takers: Vec<&[u8]> = legs.iter().map(|leg| &leg.to[..]).collect();
        let leg_assets: Vec<i64> = legs.iter().map(|leg| leg.asset as i64).collect();
        let leg_versions: Vec<i32> = legs.iter().map(|leg| leg.version as i32).collect();
        let leg_amounts: Vec<i64> = legs.iter().map(|leg| leg.amount as i64).collect();
        let arguments: [&(dyn ToSql + Sync); 14] = [
            &self.locked,
            &ids,
            &batch.kinds,
            &batch.assets,
            &batch.versions,
            &actors,
            &others,
            &batch.amounts,
            &batch.bodies,
            &givers,
            &takers,
            &leg_assets,
            &leg_versions,
            &leg_amounts,
        ];
        let mut tried = 0;
        let rows = loop {
            let taken = pool.take().await;
            let connection = taken.ok_or_else(|| Status::internal("the pool is closed"))?;
            match connection.client.query(&connection.apply, &arguments).await {
                Ok(rows) => break rows,
                Err(error) if for_now(&error) && tried < RETRIES_MAX => tried += 1,
                Err(error) => return Err(failed(&error)),
            }
        };
        let outcomes = rows.iter().map(outcome).collect::<Result<_, _>>();
        Ok(v1::SubmitResponse {
            ack: request.ack,
            outcomes: outcomes.map_err(|error| failed(&error))?,
        })
    }

    async fn read(
        &self,
        query: &str,
        arguments: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Status> {
        let taken = self.durable.take().await;
        let connection = taken.ok_or_else(|| Status::internal("the pool is closed"))?;
        let rows = connection.client.query(query, arguments).await;
        rows.map_err(|error| failed(&error))
    }
}

fn slices(all: &[Bytes]) -> Vec<&[u8]> {
    all.iter().map(|one| &one[..]).collect()
}

/// Methods that no run of `karat-load` against a peer needs, in the form that `async_trait` gives to the others.
macro_rules! not_built {
    ($($name:ident: $request:ident -> $response:ident;)*) => {$(
        fn $name<'a, 'b>(
            &'a self,
            _: Request<v1::$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<v1::$response>, Status>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented("this peer has no such call")) })
        }
    )*};
}

#[tonic::async_trait]
impl Ledger for Peer {
    type SubmitStream = Responses<v1::SubmitResponse>;
    type WatchStream = Responses<v1::WatchResponse>;

    async fn submit(
        &self,
        request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<Self::SubmitStream>, Status> {
        // Twice as many messages as connections: none is idle while one is answered.
        let at_once = 2 * self.durable.size();
        let peer = self.clone();
        let answers = request
            .into_inner()
            .map(move |request| {
                let peer = peer.clone();
                async move { peer.apply(request?).await }
            })
            .buffer_unordered(at_once);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn execute(
        &self,
        request: Request<v1::ExecuteRequest>,
    ) -> Result<Response<v1::ExecuteResponse>, Status> {
        execute_by_submit(request, |message| self.apply(message)).await
    }

    async fn get_asset(
        &self,
        request: Request<v1::GetAssetRequest>,
    ) -> Result<Response<v1::GetAssetResponse>, Status> {
        let asset = request.into_inner().asset;
        let query =
            "SELECT owner, version, (SELECT last_value FROM sequences) FROM asset WHERE id = $1";
        let rows = self.read(query, &[&(asset as i64)]).await?;
        let row = rows
            .first()
            .ok_or_else(|| Status::not_found(format!("no asset {asset}")))?;
        let read = || -> Result<v1::GetAssetResponse, Error> {
            Ok(v1::GetAssetResponse {
                asset: Some(v1::Asset {
                    asset,
                    owner: bytes_of(row, "owner")?,
                    version: row.try_get::<_, i32>("version")? as u32,
                    state: v1::AssetState::Active.into(),
                    ..v1::Asset::default()
                }),
                applied_seq: row.try_get::<_, i64>("last_value")? as u64,
            })
        };
        read().map(Response::new).map_err(|error| failed(&error))
    }

    async fn get_account(
        &self,
        request: Request<v1::GetAccountRequest>,
    ) -> Result<Response<v1::GetAccountResponse>, Status> {
        let account = request.into_inner().account;
        let query = "SELECT balance FROM account WHERE id = $1";
        let rows = self.read(query, &[&&account[..]]).await?;
        let balance = rows.first().map_or(Ok(0), |row| row.try_get::<_, i64>(0));
        let balance = balance.map_err(|error| failed(&error))? as u64;
        Ok(Response::new(v1::GetAccountResponse { balance }))
    }

    /// Everything that was accepted up to now, in the order of the sequences; then it ends.
    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let from = request.into_inner().from_sequence as i64;
        let last = self.read("SELECT last_value FROM sequences", &[]).await?;
        let last: i64 = last.first().map_or(0, |row| row.get(0));
        let query = "SELECT sequence, subject, body FROM command WHERE code = 0 AND sequence BETWEEN $1 AND $2 \
                     ORDER BY sequence";
        let rows = self.read(query, &[&from, &last]).await?;
        let mut messages = Vec::with_capacity(rows.len() / EVENTS + 1);
        for rows in rows.chunks(EVENTS) {
            let mut events = Vec::with_capacity(rows.len());
            for row in rows {
                events.extend(events_of(row)?);
            }
            messages.push(Ok(v1::WatchResponse {
                seen_sequence: events.last().map_or(0, |event| event.sequence),
                events,
            }));
        }
        messages.push(Ok(v1::WatchResponse {
            events: Vec::new(),
            seen_sequence: last as u64,
        }));
        Ok(Response::new(Box::pin(futures::stream::iter(messages))))
    }

    not_built! {
        list_assets: ListAssetsRequest -> ListAssetsResponse;
        get_history: GetHistoryRequest -> GetHistoryResponse;
        get_content: GetContentRequest -> GetContentResponse;
        get_collection: GetCollectionRequest -> GetCollectionResponse;
        get_proof: GetProofRequest -> GetProofResponse;
        get_batch: GetBatchRequest -> GetBatchResponse;
        list_batches: ListBatchesRequest -> ListBatchesResponse;
    }
}

#[tonic::async_trait]
impl Operator for Peer {
    /// One model that may mint: the peer checks no provenance.
    async fn list_models(
        &self,
        _: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        let model = v1::Model {
            digest: Bytes::from_static(&[1; 32]),
            name: "any".into(),
            role: v1::ModelRole::Generator.into(),
            stage: v1::ModelStage::Approved.into(),
            signed_by: Bytes::new(),
        };
        Ok(Response::new(v1::ListModelsResponse {
            models: vec![model],
        }))
    }

    not_built! {
        get_status: GetStatusRequest -> GetStatusResponse;
        set_paused: SetPausedRequest -> OperatorResponse;
        set_frozen: SetFrozenRequest -> OperatorResponse;
        lease_reviews: LeaseReviewsRequest -> LeaseReviewsResponse;
        decide_review: DecideReviewRequest -> OperatorResponse;
        change_model: ChangeModelRequest -> OperatorResponse;
        get_policy: GetPolicyRequest -> GetPolicyResponse;
        set_policy: SetPolicyRequest -> OperatorResponse;
        collect_content: CollectContentRequest -> CollectContentResponse;
    }
}
