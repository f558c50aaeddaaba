//! Verdicts of the agents, and people's decisions about what the agents were unsure of.
//!
//! A verdict is for one version under the policy of now; anything else is void and the agents look again. Verdicts for
//! frozen assets are refused with `AssetFrozen`; `Unfrozen` says when a pending asset waits for one again.

use crate::apply::{Applied, Refusal, Step};
use crate::state::Ledger;
use crate::state::asset::{VerdictSummary, is_ended};
use karat_proto::command::{Decision, Verdict};
use karat_proto::event::{AssetState, EventKind, LeafKind};
use karat_proto::{AssetId, Code, limits};

impl Ledger {
    pub(crate) fn verdict(&mut self, step: &mut Step<'_>, verdict: &Verdict) -> Applied {
        let id = verdict.asset;
        let out_of_range =
            verdict.corruption_ppm > limits::PPM || verdict.findings.len() > limits::FINDINGS_MAX;
        if out_of_range {
            return Err(Refusal::about(Code::BadVerdict, id));
        }
        let policy_version = self.realm.as_ref().map_or(0, |realm| realm.policy.version);
        let asset = self
            .asset_record(id)
            .ok_or(Refusal::about(Code::UnknownAsset, id))?;
        if asset.state == AssetState::Frozen {
            return Err(Refusal::about(Code::AssetFrozen, id));
        }
        if asset.state != AssetState::Pending || asset.version != verdict.version {
            return Err(Refusal::lost_to(Code::VerdictVoid, id, Some(asset.last)));
        }
        if verdict.policy_version != policy_version {
            return Err(Refusal::about(Code::StalePolicy, id));
        }

        let state = match verdict.decision {
            Decision::Accept => AssetState::Active,
            Decision::Reject => AssetState::Rejected,
            Decision::Review => AssetState::InReview,
        };
        let summary = VerdictSummary {
            version: verdict.version,
            policy_version,
            corruption_ppm: verdict.corruption_ppm,
            decision: verdict.decision,
        };
        let change = step.change();
        if let Some(asset) = self.asset_record_mut(id) {
            asset.state = state;
            asset.last_verdict = Some(summary);
            asset.last = change;
        }
        self.count_state(Some(AssetState::Pending), state);
        step.emit_made(|| EventKind::Verified {
            asset: id,
            version: verdict.version,
            decision: verdict.decision,
            corruption_ppm: verdict.corruption_ppm,
            findings: verdict.findings.clone(),
            state,
        });
        self.settle_judged(step, id, state);
        Ok(id)
    }

    /// By the operator's account, for whichever reviewer the gateway vouches for.
    pub(crate) fn review_decision(
        &mut self,
        step: &mut Step<'_>,
        id: AssetId,
        version: u32,
        accepted: bool,
        reason: &str,
    ) -> Applied {
        if reason.len() > limits::TEXT_BYTES_MAX {
            return Err(Refusal::about(Code::TextTooLong, id));
        }
        let asset = self.living_asset(id, version)?;
        if asset.state != AssetState::InReview {
            return Err(Refusal::about(Code::NotInReview, id));
        }
        let state = match accepted {
            true => AssetState::Active,
            false => AssetState::Rejected,
        };
        let change = step.change();
        if let Some(asset) = self.asset_record_mut(id) {
            asset.state = state;
            asset.last = change;
        }
        self.count_state(Some(AssetState::InReview), state);
        step.emit(EventKind::Reviewed {
            asset: id,
            version,
            accepted,
            reviewer: step.actor,
            reason: reason.to_owned(),
        });
        self.settle_judged(step, id, state);
        Ok(id)
    }

    /// Acceptance makes the asset's form due, unless it was due while pending; rejection ends a form that was due before.
    fn settle_judged(&mut self, step: &mut Step<'_>, id: AssetId, state: AssetState) {
        if is_ended(state) {
            self.end_settled_form(step, id);
        } else if state == AssetState::Active {
            let settled_while_pending = self
                .asset_record(id)
                .and_then(|asset| self.collection_record(asset.collection))
                .is_some_and(|collection| collection.spec.pending_rule.settle);
            if !settled_while_pending {
                self.settlement_due(step, id, LeafKind::Held);
            }
        }
    }
}
