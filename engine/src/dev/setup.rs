//! What the demonstration needs in a realm: approved models, a collection, and players with money.

use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use karat_edge_node::manifest::Manifest;
use karat_edge_node::seeds::Secret;
use karat_proto::v1::command::Kind;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::operator_client::OperatorClient;
use karat_proto::{Account, Code, CollectionId, limits, v1};
use tonic::transport::Channel;

use crate::cli::{CliError, registration};
use crate::view::View;

/// Name of the collection.
const COLLECTION: &str = "relics";
/// Account that creates it and mints into it.
const CREATOR: &str = "relic-studio";
/// Players of the crowd.
pub const PLAYERS: usize = 48;
/// What each player begins with, minor units.
const PURSE: u64 = 1_000_000;
/// Window of a fair draw: long enough that claims meet, short enough to watch.
const CLAIM_WINDOW_MS: u64 = 250;

/// The prepared realm.
#[derive(Clone)]
pub struct Setup {
    /// The collection.
    pub collection: CollectionId,
    /// Who mints into it.
    pub creator: Account,
    /// Behind its seeds.
    pub secret: Secret,
    /// Folder of its generator.
    pub generator: PathBuf,
    /// The generator's manifest.
    pub manifest: Manifest,
}

/// A player's account.
pub fn player(number: usize) -> Account {
    Account::from_name(&format!("player-{number:03}"))
}

fn failed(what: &str) -> impl FnOnce(tonic::Status) -> CliError + '_ {
    move |status| CliError::Failed(format!("{what}: {}", status.message()))
}

/// Brings the realm there; what is there already stays.
///
/// # Errors
/// When a model folder is damaged or the realm refuses.
pub async fn prepare(
    view: &View,
    channel: Channel,
    operator: Account,
    generators: &[PathBuf],
    auditors: &[PathBuf],
    edge_dir: &Path,
) -> Result<Setup, CliError> {
    let mut ledger = LedgerClient::new(channel.clone());
    let mut operators = OperatorClient::new(channel);
    for folder in generators.iter().chain(auditors) {
        approve(view, &mut operators, folder).await?;
    }
    let generator = generators.first().cloned().ok_or_else(|| {
        CliError::Usage("no generator in the models' folder; see --models".into())
    })?;
    let manifest =
        Manifest::load(&generator).map_err(|error| CliError::Usage(error.to_string()))?;
    let secret = load_or_make_secret(edge_dir)?;
    let creator = Account::from_name(CREATOR);
    let existing = view
        .collections()
        .into_iter()
        .find(|(_, entry)| entry.spec.name == COLLECTION && entry.creator == creator);
    let collection = match existing {
        Some((number, _)) => number,
        None => {
            let spec = spec_of(&manifest, &secret, creator);
            let kind = Kind::CreateCollection(v1::CreateCollection { spec: Some(spec) });
            let outcome = enter(&mut ledger, creator, kind).await?;
            for number in 0..PLAYERS {
                let deposit = v1::Deposit {
                    account: bytes(&player(number)),
                    amount: PURSE,
                };
                enter(&mut ledger, operator, Kind::Deposit(deposit)).await?;
            }
            u32::try_from(outcome.subject).map_err(|_| {
                CliError::Failed("the collection's number has more than 32 bits".into())
            })?
        }
    };
    Ok(Setup {
        collection,
        creator,
        secret,
        generator,
        manifest,
    })
}

/// An account's bytes.
pub fn bytes(account: &Account) -> Bytes {
    Bytes::copy_from_slice(&account.0)
}

async fn enter(
    ledger: &mut LedgerClient<Channel>,
    actor: Account,
    kind: Kind,
) -> Result<v1::Outcome, CliError> {
    let command = v1::Command {
        id: crate::core::fresh_id(),
        actor: bytes(&actor),
        format: limits::COMMAND_FORMAT,
        kind: Some(kind),
    };
    let request = v1::ExecuteRequest {
        ack: v1::AckLevel::Durable.into(),
        command: Some(command),
    };
    let answer = ledger
        .execute(request)
        .await
        .map_err(failed("prepare the realm"))?
        .into_inner();
    let outcome = answer.outcome.unwrap_or_default();
    if outcome.code != Code::Accepted as u32 {
        return Err(CliError::Failed(format!(
            "prepare the realm: {}",
            outcome.message
        )));
    }
    Ok(outcome)
}

async fn approve(
    view: &View,
    operators: &mut OperatorClient<Channel>,
    folder: &Path,
) -> Result<(), CliError> {
    let manifest = Manifest::load(folder).map_err(|error| CliError::Usage(error.to_string()))?;
    let registration = registration(&manifest)?;
    let known = view
        .models()
        .iter()
        .any(|model| model.digest == manifest.digest);
    let changes: &[v1::ModelChange] = match (known, view.is_approved(&manifest.digest)) {
        (_, true) => &[],
        (true, false) => &[v1::ModelChange::Promote],
        (false, false) => &[v1::ModelChange::Register, v1::ModelChange::Promote],
    };
    for change in changes {
        let request = v1::ChangeModelRequest {
            change: (*change).into(),
            ..registration.clone()
        };
        let answer = operators
            .change_model(request)
            .await
            .map_err(failed("approve a model"))?
            .into_inner();
        let outcome = answer.outcome.unwrap_or_default();
        if outcome.code != Code::Accepted as u32 {
            return Err(CliError::Failed(format!(
                "approve {}: {}",
                folder.display(),
                outcome.message
            )));
        }
    }
    Ok(())
}

fn spec_of(manifest: &Manifest, secret: &Secret, creator: Account) -> v1::CollectionSpec {
    let rules = manifest.trait_rules();
    v1::CollectionSpec {
        name: COLLECTION.into(),
        supply_cap: 1_000_000_000,
        traits: manifest
            .traits
            .iter()
            .map(|one| v1::TraitSpec {
                name: one.name.clone(),
                values: one.values.clone(),
                weights: one.weights.clone(),
            })
            .collect(),
        exclusions: rules
            .exclusions
            .iter()
            .map(|(first, second)| v1::Exclusion {
                first_trait: first.0.into(),
                first_value: first.1.into(),
                second_trait: second.0.into(),
                second_value: second.1.into(),
            })
            .collect(),
        value_caps: Vec::new(),
        claim_window_ms: CLAIM_WINDOW_MS,
        pending_rule: Some(v1::PendingRule {
            trade: false,
            settle: false,
            show: true,
        }),
        seed_commitment: Bytes::copy_from_slice(&secret.commitment()),
        royalty_basis_points: 250,
        royalty_receiver: bytes(&creator),
    }
}

/// The secret behind the collection's seeds: made once, readable by its owner only.
fn load_or_make_secret(dir: &Path) -> Result<Secret, CliError> {
    let path = dir.join("collection.secret");
    let failed =
        |error: std::io::Error| CliError::Unreachable(format!("{}: {error}", path.display()));
    if path.exists() {
        let text = std::fs::read_to_string(&path).map_err(failed)?;
        return Secret::from_hex(text.trim())
            .map_err(|error| CliError::Unreachable(format!("{}: {error}", path.display())));
    }
    std::fs::create_dir_all(dir).map_err(failed)?;
    let secret: [u8; 32] = rand::random();
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&path).map_err(failed)?;
    file.write_all(hex::encode(secret).as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    Ok(Secret::from_bytes(secret))
}
