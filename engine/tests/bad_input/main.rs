//! Bad input ends in a clear refusal, and nothing that was accepted before is lost.
#![allow(clippy::unwrap_used, clippy::panic)]

mod clients;
#[path = "../common/mod.rs"]
mod common;
mod content;
mod form;
mod rules;

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use common::{
    MODEL, Realm, account, assert_refused, command, lineage, mint, png, spec, trading_spec,
};
use karat_engine::core::fresh_id;
use karat_proto::v1::command::Kind;
use karat_proto::v1::edge_client::EdgeClient;
use karat_proto::v1::edge_request::Kind as Up;
use karat_proto::v1::edge_response::Kind as Down;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::{AckLevel, AssetState};
use karat_proto::{Code, limits, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// The largest amount that the ledger takes.
const AMOUNT_MAX: u64 = i64::MAX as u64;
