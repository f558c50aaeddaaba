//! Makes time pass: submits a tick when the ledger has a deadline that lies behind, and not otherwise.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use karat_proto::v1::command::Kind;
use karat_proto::{limits, v1};
use karat_sequencer::Ack;
use karat_settlement::ChainClient;
use tokio::sync::watch as signal;

use crate::core::Core;
use crate::verifier::now_ms;

/// How often deadlines are looked at: what a claim window or a batch's age may overrun by.
const LOOK: Duration = Duration::from_millis(25);
/// While a batch waits for a lower fee, the fee is reported this often.
const FEE_LOOKS: u32 = 40;

/// Ticks until `stop` is set or the log fails.
pub async fn run(core: Arc<Core>, chain: ChainClient, mut stop: signal::Receiver<bool>) {
    let mut looks = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stop.changed() => return,
        }
        looks += 1;
        let waits_for_fee = core.view.policy().batch_base_fee_wei_max > 0
            && core.view.deadline_ms() != u64::MAX
            && looks % FEE_LOOKS == 0;
        if core.view.deadline_ms() > now_ms() && !waits_for_fee {
            continue;
        }
        let base_fee_wei = match core.view.policy().batch_base_fee_wei_max {
            0 => 0,
            _ => base_fee(&chain).await,
        };
        let tick = v1::Command {
            id: crate::core::fresh_id(),
            actor: Bytes::copy_from_slice(&core.roles.operator.0),
            format: limits::COMMAND_FORMAT,
            kind: Some(Kind::Tick(v1::Tick { base_fee_wei })),
        };
        if let Err(refused) = core.execute(tick, Ack::Sequenced).await
            && refused.code == karat_proto::Code::Unavailable
        {
            return;
        }
    }
}

/// The chain's base fee, wei; 0 when it cannot be asked, which the ledger reads as unknown.
async fn base_fee(chain: &ChainClient) -> u64 {
    match chain
        .transport()
        .request("eth_gasPrice", serde_json::json!([]))
        .await
    {
        Ok(price) => price
            .as_str()
            .and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok())
            .unwrap_or(0),
        Err(error) => {
            tracing::warn!(%error, "the chain does not say its fee");
            0
        }
    }
}
