//! `karat realm`: what an operator does to a realm as a whole, or to one asset in it.

use bytes::Bytes;
use clap::Subcommand;
use karat_edge_node::signature::parse_key;
use karat_proto::signing::ModelKey;
use karat_proto::v1;
use serde_json::json;

use super::{Backend, CliError, Common, describe, hexadecimal, print_json};

/// What to do with the realm.
#[derive(Debug, Subcommand)]
pub enum RealmCommand {
    /// Refuse players' commands until resumed
    #[command(after_help = "Example: karat realm pause")]
    Pause,
    /// Take players' commands again
    #[command(after_help = "Example: karat realm resume")]
    Resume,
    /// Stop one asset from acting
    #[command(after_help = "Example: karat realm freeze 17 --reason 'stolen account'")]
    Freeze {
        /// The asset
        asset: u64,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// Let it act again
    #[command(after_help = "Example: karat realm unfreeze 17")]
    Unfreeze {
        /// The asset
        asset: u64,
    },
    /// The policy in force
    #[command(after_help = "Example: karat realm policy --json")]
    Policy,
    /// Change parts of the policy; the rest stays
    #[command(after_help = "Example: karat realm set-policy --batch-age-ms-max 5000")]
    SetPolicy(PolicyArgs),
}

/// Parts of a policy.
#[derive(Debug, clap::Args)]
pub struct PolicyArgs {
    /// A corruption score below this accepts, parts per million
    #[arg(long)]
    accept_below_ppm: Option<u32>,
    /// A score at or above this rejects, parts per million
    #[arg(long)]
    reject_above_ppm: Option<u32>,
    /// Share of assets generated again, parts per million
    #[arg(long)]
    reexecution_sample_ppm: Option<u32>,
    /// Changed assets that fill a batch
    #[arg(long)]
    batch_changes_max: Option<u32>,
    /// Age of the oldest change at which a batch is cut, milliseconds
    #[arg(long)]
    batch_age_ms_max: Option<u64>,
    /// Base fee above which an age cut waits, wei; 0 for no limit
    #[arg(long)]
    batch_base_fee_wei_max: Option<u64>,
    /// ... but never longer than this, milliseconds
    #[arg(long)]
    batch_deferral_ms_max: Option<u64>,
    /// Later commands for which an id is remembered at least
    #[arg(long)]
    retry_window_commands: Option<u64>,
    /// An asset nearer than this to another of its collection goes to people, millionths of a deviation of the auditor's
    /// reference, at most 16000000; 0 for no such comparison
    #[arg(long)]
    near_duplicate_below_ppm: Option<u32>,
    /// While a collection's last window has drifted further than this its assets go to people, millionths, at most
    /// 16000000; 0 for never
    #[arg(long)]
    drift_review_above_ppm: Option<u32>,
    /// Public key whose signatures of models count, 64 hex digits; several times for several. They replace the ones there
    /// are, at most 16
    #[arg(long = "model-key", value_parser = parse_key, conflicts_with = "no_model_keys")]
    model_keys: Vec<ModelKey>,
    /// Remove every model key: any key's signature is taken again
    #[arg(long)]
    no_model_keys: bool,
    /// Whether models must be signed by a model key to be registered or promoted
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    require_signed_models: Option<bool>,
}

impl PolicyArgs {
    fn change(&self, policy: &mut v1::Policy) {
        fn set<T: Copy>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        set(&mut policy.accept_below_ppm, self.accept_below_ppm);
        set(&mut policy.reject_above_ppm, self.reject_above_ppm);
        set(
            &mut policy.reexecution_sample_ppm,
            self.reexecution_sample_ppm,
        );
        set(&mut policy.batch_changes_max, self.batch_changes_max);
        set(&mut policy.batch_age_ms_max, self.batch_age_ms_max);
        set(
            &mut policy.batch_base_fee_wei_max,
            self.batch_base_fee_wei_max,
        );
        set(
            &mut policy.batch_deferral_ms_max,
            self.batch_deferral_ms_max,
        );
        set(
            &mut policy.retry_window_commands,
            self.retry_window_commands,
        );
        set(
            &mut policy.near_duplicate_below_ppm,
            self.near_duplicate_below_ppm,
        );
        set(
            &mut policy.drift_review_above_ppm,
            self.drift_review_above_ppm,
        );
        set(
            &mut policy.require_signed_models,
            self.require_signed_models,
        );
        if self.no_model_keys || !self.model_keys.is_empty() {
            let keys = self.model_keys.iter();
            policy.model_keys = keys.map(|key| Bytes::copy_from_slice(key)).collect();
        }
        policy.version += 1;
    }
}

/// Runs the command.
pub async fn run(common: &Common, command: RealmCommand) -> Result<(), CliError> {
    let mut backend = Backend::open(common).await?;
    let operator = &mut backend.operator;
    let answer = match command {
        RealmCommand::Pause => {
            operator
                .set_paused(v1::SetPausedRequest { paused: true })
                .await?
        }
        RealmCommand::Resume => {
            operator
                .set_paused(v1::SetPausedRequest { paused: false })
                .await?
        }
        RealmCommand::Freeze { asset, reason } => {
            operator
                .set_frozen(v1::SetFrozenRequest {
                    asset,
                    frozen: true,
                    reason,
                })
                .await?
        }
        RealmCommand::Unfreeze { asset } => {
            let reason = String::new();
            operator
                .set_frozen(v1::SetFrozenRequest {
                    asset,
                    frozen: false,
                    reason,
                })
                .await?
        }
        RealmCommand::Policy => {
            let policy = operator
                .get_policy(v1::GetPolicyRequest {})
                .await?
                .into_inner()
                .policy;
            return print_policy(common, &policy.unwrap_or_default());
        }
        RealmCommand::SetPolicy(args) => {
            let policy = operator
                .get_policy(v1::GetPolicyRequest {})
                .await?
                .into_inner()
                .policy;
            let mut policy = policy.unwrap_or_default();
            args.change(&mut policy);
            operator
                .set_policy(v1::SetPolicyRequest {
                    policy: Some(policy),
                })
                .await?
        }
    };
    print_outcome(common, answer.into_inner().outcome)
}

fn print_policy(common: &Common, policy: &v1::Policy) -> Result<(), CliError> {
    let shown = json!({
        "version": policy.version,
        "accept_below_ppm": policy.accept_below_ppm,
        "reject_above_ppm": policy.reject_above_ppm,
        "reexecution_sample_ppm": policy.reexecution_sample_ppm,
        "batch_changes_max": policy.batch_changes_max,
        "batch_age_ms_max": policy.batch_age_ms_max,
        "batch_base_fee_wei_max": policy.batch_base_fee_wei_max,
        "batch_deferral_ms_max": policy.batch_deferral_ms_max,
        "retry_window_commands": policy.retry_window_commands,
        "near_duplicate_below_ppm": policy.near_duplicate_below_ppm,
        "drift_review_above_ppm": policy.drift_review_above_ppm,
        "model_keys": policy.model_keys.iter().map(|key| hexadecimal(key)).collect::<Vec<_>>(),
        "require_signed_models": policy.require_signed_models,
    });
    if common.json {
        print_json(&shown)
    } else {
        say!("{}", describe::lines(&shown, 0))
    }
    Ok(())
}

/// Prints an operator command's outcome; a refusal is exit code 1.
pub fn print_outcome(common: &Common, outcome: Option<v1::Outcome>) -> Result<(), CliError> {
    let outcome = outcome.unwrap_or_default();
    if common.json {
        print_json(
            &json!({"sequence": outcome.sequence, "code": outcome.code, "message": outcome.message}),
        );
    }
    if outcome.code != 0 {
        return Err(CliError::No(outcome.message));
    }
    if !common.json {
        sayln!("done, sequence {}", outcome.sequence);
    }
    Ok(())
}
