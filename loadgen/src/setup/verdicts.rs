//! The agents' arrears after setup.

use std::time::{Duration, Instant};

use karat_proto::realm::RealmChannel;
use karat_proto::v1;
use karat_proto::v1::ledger_client::LedgerClient;

use crate::error::LoadError;

/// Minted assets whose verdict is waited for.
const VERDICTS_LOOKED_AT: usize = 16;
/// Longest wait for the first of these verdicts.
const FIRST_VERDICT_WAIT: Duration = Duration::from_secs(3);
/// Longest wait for all of them.
const VERDICTS_WAIT: Duration = Duration::from_secs(120);

/// Waits until the agents are through with what was minted, so that a run does not measure their arrears, and says so
/// when they reject it. A target without agents is known by nothing happening for a while.
pub(super) async fn wait(channel: &RealmChannel, minted: &[u64]) -> Result<(), LoadError> {
    let ledger = LedgerClient::new(channel.clone());
    let step = "verdicts on the minted assets";
    let since = Instant::now();
    let mut seen_verdict = false;
    // Evenly over all of them, the last one included.
    let stride = minted.len().div_ceil(VERDICTS_LOOKED_AT).max(1);
    for asset in minted.iter().rev().step_by(stride).rev() {
        loop {
            let request = v1::GetAssetRequest { asset: *asset };
            let asked = channel.ask(|| {
                let mut ledger = ledger.clone();
                async move { ledger.get_asset(request).await }
            });
            let answer = asked
                .await
                .map_err(|status| LoadError::in_setup(step, &status))?;
            match answer.into_inner().asset.unwrap_or_default().state() {
                v1::AssetState::Pending => {}
                v1::AssetState::Rejected => {
                    return Err(LoadError::Setup {
                        step,
                        cause: format!(
                            "the target's agents rejected asset {asset}, so nothing could be done with it; \
                             `karat asset show {asset}` says why"
                        ),
                    });
                }
                _ => {
                    seen_verdict = true;
                    break;
                }
            }
            let patience = match seen_verdict {
                true => VERDICTS_WAIT,
                false => FIRST_VERDICT_WAIT,
            };
            if since.elapsed() > patience {
                if seen_verdict {
                    eprintln!(
                        "the agents still work on what setup minted; the run goes on beside them"
                    );
                }
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}
