//! The whole way over gRPC: mint, verdict, claim, exchange, redeem, settlement and proof; acks, watchers, the review desk,
//! the operator's means; restarts, snapshots, rebuilding and orphans.
#![allow(clippy::unwrap_used, clippy::panic)]

mod acks;
#[path = "../common/mod.rs"]
mod common;
mod edge;
mod looks;
mod people;
mod restarts;
mod watchers;
mod way;

use std::path::Path;

use bytes::Bytes;
use common::{
    MODEL, Realm, account, assert_refused, command, eventually, lineage, mint, png, spec,
    trading_spec,
};
use karat_engine::data_folder::DataFolder;
use karat_engine::machine::LedgerMachine;
use karat_engine::{digests, snapshots};
use karat_ledger::Ledger;
use karat_proto::v1::command::Kind;
use karat_proto::v1::event::Kind as Happened;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::{AckLevel, AssetState, BatchStage, SettlementState};
use karat_proto::{Code, v1};
use karat_sequencer::read_blocks;
use karat_settlement::{Leaf, LeafKind, merkle};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

fn kind_name(event: &v1::Event) -> &'static str {
    match event.kind.as_ref().unwrap() {
        Happened::Minted(_) => "minted",
        Happened::Verified(_) => "verified",
        Happened::Reviewed(_) => "reviewed",
        Happened::ClaimEntered(_) => "claim entered",
        Happened::ClaimLost(_) => "claim lost",
        Happened::Transferred(_) => "transferred",
        Happened::Redeemed(_) => "redeemed",
        Happened::SettlementDue(_) => "due",
        _ => "other",
    }
}

/// Everything that a watcher sees up to what is applied now.
async fn watch_until(realm: &mut Realm, request: v1::WatchRequest) -> Vec<v1::Event> {
    let applied_seq = realm.service.gateway.core.view.applied_seq();
    let mut stream = realm.ledger.watch(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    loop {
        let seen = stream.message().await.unwrap().unwrap();
        events.extend(seen.events);
        if seen.seen_sequence >= applied_seq {
            return events
                .into_iter()
                .filter(|event| event.sequence <= applied_seq)
                .collect();
        }
    }
}
