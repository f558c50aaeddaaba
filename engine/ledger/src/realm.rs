//! The realm itself: genesis, policy, pause, and ticks that let time pass.

use crate::apply::{Applied, Step};
use crate::retries::RETRY_ENTRIES_MAX;
use crate::state::Ledger;
use karat_proto::command::{Genesis, Policy};
use karat_proto::event::{EventKind, RealmOpened};
use karat_proto::limits;
use karat_proto::signing::is_model_key;
use karat_proto::{Account, Code};

/// Who holds which role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// May do what operators do.
    pub operator: Account,
    /// Whose verdicts count.
    pub verifier: Account,
    /// Who reports batches.
    pub settler: Account,
}

/// What genesis set, and what the operator changed since.
#[derive(Clone, Debug)]
pub(crate) struct Realm {
    pub(crate) name: String,
    pub(crate) roles: Roles,
    pub(crate) policy: Policy,
    pub(crate) paused: bool,
}

impl Ledger {
    pub(crate) fn genesis(&mut self, step: &mut Step<'_>, genesis: &Genesis) -> Applied {
        let roles = Roles {
            operator: genesis.operator,
            verifier: genesis.verifier,
            settler: genesis.settler,
        };
        let everybody_is_somebody =
            ![roles.operator, roles.verifier, roles.settler].contains(&Account::NOBODY);
        let name_fits = (1..=limits::NAME_BYTES_MAX).contains(&genesis.realm.len());
        if !everybody_is_somebody || !name_fits {
            return Err(Code::BadGenesis.into());
        }
        if genesis.policy.version != 1 || !policy_fits(&genesis.policy) {
            return Err(Code::BadPolicy.into());
        }
        check_model_keys(&genesis.policy)?;
        step.emit(EventKind::RealmOpened {
            opened: Box::new(RealmOpened {
                realm: genesis.realm.clone(),
                operator: roles.operator,
                verifier: roles.verifier,
                settler: roles.settler,
            }),
        });
        step.emit(EventKind::PolicySet {
            policy: Box::new(genesis.policy.clone()),
        });
        self.realm = Some(Realm {
            name: genesis.realm.clone(),
            roles,
            policy: genesis.policy.clone(),
            paused: false,
        });
        Ok(0)
    }

    pub(crate) fn set_policy(&mut self, step: &mut Step<'_>, policy: &Policy) -> Applied {
        let Some(realm) = &mut self.realm else {
            return Err(Code::BadGenesis.into());
        };
        if Some(policy.version) != realm.policy.version.checked_add(1) || !policy_fits(policy) {
            return Err(Code::BadPolicy.into());
        }
        check_model_keys(policy)?;
        realm.policy = policy.clone();
        step.emit(EventKind::PolicySet {
            policy: Box::new(policy.clone()),
        });
        Ok(0)
    }

    /// Pausing a paused realm is accepted and changes nothing.
    pub(crate) fn pause(&mut self, step: &mut Step<'_>, paused: bool) -> Applied {
        let Some(realm) = &mut self.realm else {
            return Err(Code::BadGenesis.into());
        };
        if realm.paused != paused {
            realm.paused = paused;
            step.emit(EventKind::Paused { paused });
        }
        Ok(0)
    }

    /// First the draws that are due, then the batch's age: what the draws changed is in the batch that the tick cuts.
    pub(crate) fn tick(&mut self, step: &mut Step<'_>, base_fee_wei: u64) -> Applied {
        self.batches.base_fee_wei = base_fee_wei;
        self.draw_due_windows(step);
        self.cut_aged_batch(step);
        Ok(0)
    }
}

/// Whether a policy agrees with itself. The retry window must leave half of the memory to what is not settled yet.
fn policy_fits(policy: &Policy) -> bool {
    policy.accept_below_ppm <= policy.reject_above_ppm
        && policy.reject_above_ppm <= limits::PPM
        && policy.reexecution_sample_ppm <= limits::PPM
        && (1..=limits::BATCH_CHANGES_MAX).contains(&policy.batch_changes_max)
        && policy.retry_window_commands <= RETRY_ENTRIES_MAX / 2
        && policy.near_duplicate_below_ppm <= limits::DISTANCE_PPM_MAX
        && policy.drift_review_above_ppm <= limits::DISTANCE_PPM_MAX
}

/// Keys that can sign, each once; at least one where signatures are demanded, since nothing could be promoted otherwise.
fn check_model_keys(policy: &Policy) -> Result<(), Code> {
    let keys = &policy.model_keys;
    let all_differ = (1..keys.len()).all(|place| !keys[..place].contains(&keys[place]));
    let fits = keys.len() <= limits::MODEL_KEYS_MAX
        && all_differ
        && keys.iter().all(is_model_key)
        && !(policy.require_signed_models && keys.is_empty());
    match fits {
        true => Ok(()),
        false => Err(Code::BadModelKeys),
    }
}
