//! `karat-peer-postgres`: Karat's `Ledger` service in front of PostgreSQL, as a team would build it that has both: stored
//! commands, one function call and one transaction a message, a pool of connections. It answers what `karat-load` asks for
//! in scenarios of claims, transfers and mints, and nothing more.
//!
//! `DURABLE` commits with `synchronous_commit = on`, `SEQUENCED` with `off`.

mod events;
mod pool;
mod service;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use karat_proto::limits;
use karat_proto::v1::ledger_server::LedgerServer;
use karat_proto::v1::operator_server::OperatorServer;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::pool::Pool;
use crate::service::Peer;

/// As Karat's gateway has it.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

#[derive(Parser)]
#[command(about = "Karat's Ledger service in front of PostgreSQL, to be loaded by karat-load")]
struct Options {
    /// Folder of the server's Unix socket
    #[arg(long)]
    socket: PathBuf,
    /// How a row is kept from two changes at once
    #[arg(long, value_enum, default_value_t = Rule::Locked)]
    rule: Rule,
    /// Connections to PostgreSQL for each ack level
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Port on the loopback; 0 takes a free one, which is printed
    #[arg(long, default_value_t = 0)]
    port: u16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rule {
    /// The row is locked, looked at, changed (`SELECT ... FOR UPDATE`).
    Locked,
    /// The row is looked at, and changed if it still is as it was seen; else looked at again.
    Optimistic,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let connections = usize::from(options.connections);
    let setting = |commit| Pool::connect(&options.socket, connections, commit);
    let durable = setting("on").await.context("connect to PostgreSQL")?;
    let sequenced = setting("off").await.context("connect to PostgreSQL")?;
    let peer = Peer {
        durable: Arc::new(durable),
        sequenced: Arc::new(sequenced),
        locked: matches!(options.rule, Rule::Locked),
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}"))?;
    println!("listening on http://{}", listener.local_addr()?);
    Server::builder()
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .tcp_nodelay(true)
        .add_service(
            LedgerServer::new(peer.clone()).max_decoding_message_size(limits::MESSAGE_BYTES_MAX),
        )
        .add_service(OperatorServer::new(peer))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}
