//! What a run needs before it can begin: a model that may mint, a collection, currency, assets.
//!
//! Everything is the run's own (accounts, collection, assets), so that nobody else's commands can change what its commands
//! come to, and any number of runs can load one realm.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_proto::v1::command::Kind;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::operator_client::OperatorClient;
use karat_proto::{Account, Code, convert, limits, v1};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::args::{LoadArgs, Mode, Verdict};
use crate::books::command_id;
use crate::client::{StreamPlan, account_bytes, chain};
use crate::error::LoadError;
use crate::lanes::EdgeSide;
use crate::scenario::{
    Action, CONTENT, Holdings, MintForm, NOBODY, Player, ScenarioFile, Stage, TRAITS,
    content_digest,
};

/// Currency that each account is given, minor units.
pub const DEPOSIT: u64 = 1_000_000_000;
/// Commands of setup carry this stream number in their ids: runs have at most 256 streams.
const SETUP_STREAM: u16 = u16::MAX;
/// Commands in one message of setup.
const BATCH: usize = 256;
/// Messages of setup in flight: small enough for any queue.
const MESSAGES_IN_FLIGHT: usize = 8;
/// Commands prepared at a time.
const CHUNK: usize = 64 * BATCH;
/// How often an overloaded target is asked again.
const RETRIES_MAX: u32 = 100;
/// Longest wait for one answer of setup.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Minted assets whose verdict is waited for.
const VERDICTS_LOOKED_AT: usize = 16;
/// Longest wait for the first of these verdicts.
const FIRST_VERDICT_WAIT: Duration = Duration::from_secs(3);
/// Longest wait for all of them.
const VERDICTS_WAIT: Duration = Duration::from_secs(120);

/// Images that an edge node sends, one after another.
const IMAGES: usize = 64;
/// Accounts of all streams together, unless each would have fewer than four: every balance is read at the end.
const ACCOUNTS_MAX: u64 = 4096;

/// A run, ready to begin.
pub struct Ready {
    /// What the target was given; all zero for the floor.
    pub world: World,
    /// The streams.
    pub streams: Vec<StreamPlan>,
    /// Accounts of each stream, in the order of its holdings.
    pub accounts: Vec<Vec<Account>>,
    /// Assets that every stream claims.
    pub contested: Vec<u64>,
    /// For edge nodes.
    pub edge: EdgeSide,
}

/// What a run made in the target before it began: enough to look for it again later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// The run's collection.
    pub collection: u32,
    /// An asset that no command of the run can change.
    pub kept_asset: u64,
    /// Currency that each account began with, minor units.
    pub deposit: u64,
    /// Accounts of each stream.
    pub accounts_a_stream: u64,
    /// The last sequence of what was prepared: the run's commands come after it.
    pub prepared_sequence: u64,
}

/// The streams of a floor: the same commands, on assets that are nowhere.
///
/// # Errors
/// When the arguments contradict each other.
pub fn pretend(args: &LoadArgs, file: &Rc<ScenarioFile>, run: u64) -> Result<Ready, LoadError> {
    let accounts = accounts(args, file, run)?;
    let form = MintForm {
        creator: account_bytes(&creator(run)),
        collection: 1,
        model: Bytes::copy_from_slice(&load_model()),
        digest: Bytes::copy_from_slice(&content_digest()),
    };
    let mut holdings = empty_holdings(&accounts);
    let mut contested = Vec::new();
    if needs_world(file) {
        for (number, place) in places(args, file, &accounts).into_iter().enumerate() {
            put(&mut holdings, &mut contested, place, number as u64 + 2, 0);
        }
    }
    let stage = Stage {
        file: file.clone(),
        form,
        kept: 1,
        contested: contested.clone().into(),
        streams: accounts.len() as u64,
    };
    Ok(Ready {
        world: World::default(),
        edge: edge_side(args, &stage.form)?,
        streams: stream_plans(args, &stage, holdings),
        accounts,
        contested,
    })
}

/// Prepares an engine for a run.
///
/// # Errors
/// Names the step that the target refused, and what it said.
pub async fn prepare(
    channel: Channel,
    args: &LoadArgs,
    file: &Rc<ScenarioFile>,
    operator: Account,
    verdict: Verdict,
    run: u64,
) -> Result<Ready, LoadError> {
    let mut setup = Setup {
        ledger: LedgerClient::new(channel.clone()),
        run,
        number: 0,
        last_sequence: 0,
    };
    if verdict == Verdict::Accept {
        crate::doubles::let_pass(channel.clone()).await?;
    }
    let accounts = accounts(args, file, run)?;
    let model = approved_model(channel).await?;
    let creator = creator(run);
    let spec = Kind::CreateCollection(v1::CreateCollection {
        spec: Some(collection_spec(run, verdict)),
    });
    let created = setup.execute("CreateCollection", creator, spec).await?;
    let form = MintForm {
        creator: account_bytes(&creator),
        collection: created.subject as u32,
        model,
        digest: Bytes::copy_from_slice(&content_digest()),
    };
    // The first mint brings the image; from its durable outcome on it is stored. Its asset stays with the creator.
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    let content = Bytes::from_static(CONTENT);
    let first = form.mint(form.creator.clone(), content, &mut random);
    let first = setup
        .execute("first Mint", creator, Kind::Mint(first))
        .await?;
    let mut minted = vec![first.subject];

    let mut holdings = empty_holdings(&accounts);
    let mut contested = Vec::new();
    let mut deposit = 0;
    if needs_world(file) {
        deposit = DEPOSIT;
        let deposits = accounts.iter().flatten().map(|account| {
            Kind::Deposit(v1::Deposit {
                account: account_bytes(account),
                amount: DEPOSIT,
            })
        });
        setup
            .submit_all("Deposit", operator, deposits.collect())
            .await?;
        for chunk in places(args, file, &accounts).chunks(CHUNK) {
            let mints = chunk.iter().map(|place| {
                let owner = match *place {
                    Place::Held { stream, owner } => holdings[stream].account(owner),
                    Place::Contested => Bytes::new(),
                };
                Kind::Mint(form.mint(owner, Bytes::new(), &mut random))
            });
            let outcomes = setup.submit_all("Mint", creator, mints.collect()).await?;
            for (place, outcome) in chunk.iter().zip(outcomes) {
                let (asset, sequence) = (outcome.subject, outcome.sequence);
                put(&mut holdings, &mut contested, *place, asset, sequence);
                minted.push(asset);
            }
        }
    }
    setup.await_verdicts(&minted).await?;
    let stage = Stage {
        file: file.clone(),
        form,
        kept: first.subject,
        contested: contested.clone().into(),
        streams: accounts.len() as u64,
    };
    Ok(Ready {
        world: World {
            collection: stage.form.collection,
            kept_asset: stage.kept,
            deposit,
            accounts_a_stream: accounts[0].len() as u64,
            prepared_sequence: setup.last_sequence,
        },
        edge: edge_side(args, &stage.form)?,
        streams: stream_plans(args, &stage, holdings),
        accounts,
        contested,
    })
}

/// Whether the scenario does more than mint.
fn needs_world(file: &ScenarioFile) -> bool {
    file.does(|action| action != Action::Mint)
}

fn creator(run: u64) -> Account {
    Account::from_name(&format!("load-{run:016x}-creator"))
}

/// The accounts of one stream of a run.
pub fn accounts_of_stream(run: u64, stream: u64, count: u64) -> Vec<Account> {
    let account = |number| Account::from_name(&format!("load-{run:016x}-{stream}-{number}"));
    (0..count).map(account).collect()
}

fn accounts(
    args: &LoadArgs,
    file: &ScenarioFile,
    run: u64,
) -> Result<Vec<Vec<Account>>, LoadError> {
    let lanes = args.lanes()?;
    let a_stream = (ACCOUNTS_MAX / lanes).min(file.world.accounts).max(4);
    Ok((0..lanes)
        .map(|stream| accounts_of_stream(run, stream, a_stream))
        .collect())
}

fn empty_holdings(accounts: &[Vec<Account>]) -> Vec<Holdings> {
    accounts
        .iter()
        .map(|of_stream| Holdings::new(of_stream))
        .collect()
}

/// Where an asset of the beginning goes.
#[derive(Clone, Copy)]
enum Place {
    Held { stream: usize, owner: u16 },
    Contested,
}

fn put(
    holdings: &mut [Holdings],
    contested: &mut Vec<u64>,
    place: Place,
    asset: u64,
    sequence: u64,
) {
    match place {
        Place::Held { stream, owner } => holdings[stream].put(asset, owner, sequence),
        Place::Contested => contested.push(asset),
    }
}

/// The assets that are there before the run, in the order of minting: at least two for each stream.
fn places(args: &LoadArgs, file: &ScenarioFile, accounts: &[Vec<Account>]) -> Vec<Place> {
    let world = &file.world;
    let lanes = accounts.len() as u64;
    let contested =
        |number: u64| world.contested_one_in != 0 && number.is_multiple_of(world.contested_one_in);
    let mut places = Vec::new();
    let mut held = 0;
    let enough = |held: u64| held >= 2 * lanes || world.contested_one_in == 1;
    while (places.len() as u64) < args.assets || !enough(held) {
        if contested(places.len() as u64) {
            places.push(Place::Contested);
            continue;
        }
        let (stream, of_stream) = ((held % lanes) as usize, held / lanes);
        held += 1;
        let unowned = world.unowned_one_in;
        let owner = match unowned != 0 && of_stream % unowned == unowned - 1 {
            true => NOBODY,
            false => (of_stream % accounts[stream].len() as u64) as u16,
        };
        places.push(Place::Held { stream, owner });
    }
    places
}

fn stream_plans(args: &LoadArgs, stage: &Stage, holdings: Vec<Holdings>) -> Vec<StreamPlan> {
    let plan = |(stream, holdings): (usize, Holdings)| {
        // An odd factor keeps the streams' seeds apart for every seed of the run.
        let seed = args
            .seed
            .wrapping_add((stream as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (rows, accounts) = (holdings.rows().len(), holdings.account_count());
        let stream = stream as u64;
        StreamPlan {
            player: Player::new(stage.clone(), stream, rows, accounts.into(), seed),
            holdings,
        }
    };
    holdings.into_iter().enumerate().map(plan).collect()
}

/// Images that differ from the run's in bits which no eye and no auditor sees, so that each is content of its own.
fn edge_side(args: &LoadArgs, form: &MintForm) -> Result<EdgeSide, LoadError> {
    if args.mode != Mode::Edge {
        return Ok(EdgeSide::default());
    }
    let failed = |cause: String| LoadError::Setup {
        step: "images for the edge node",
        cause,
    };
    let mut reader = png::Decoder::new(std::io::Cursor::new(CONTENT))
        .read_info()
        .map_err(|error| failed(error.to_string()))?;
    let (width, height) = (reader.info().width, reader.info().height);
    let (color, depth) = (reader.info().color_type, reader.info().bit_depth);
    let mut pixels = vec![0; reader.output_buffer_size().unwrap_or_default()];
    reader
        .next_frame(&mut pixels)
        .map_err(|error| failed(error.to_string()))?;
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    let mut images = Vec::with_capacity(IMAGES);
    for _ in 0..IMAGES {
        let mut changed = pixels.clone();
        for _ in 0..16 {
            let place = random.random_range(0..changed.len());
            changed[place] ^= 1;
        }
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        encoder
            .write_header()
            .and_then(|mut writer| writer.write_image_data(&changed))
            .map_err(|error| failed(error.to_string()))?;
        images.push(bytes.into());
    }
    Ok(EdgeSide {
        account: form.creator.clone(),
        model: form.model.clone(),
        images,
    })
}

fn collection_spec(run: u64, verdict: Verdict) -> v1::CollectionSpec {
    let one_trait = |(name, values): &(&str, &[&str])| v1::TraitSpec {
        name: match verdict {
            Verdict::Accept => (*name).into(),
            Verdict::Review => format!("{name} that no auditor knows"),
        },
        values: values.iter().map(|value| (*value).into()).collect(),
        weights: vec![1; values.len()],
    };
    let mut secret = [0; 32];
    secret[..8].copy_from_slice(&run.to_be_bytes());
    v1::CollectionSpec {
        name: format!("load {run:016x}"),
        supply_cap: 1 << 40,
        traits: TRAITS.iter().map(one_trait).collect(),
        // Trading waits for no verdict; settlement does.
        pending_rule: Some(v1::PendingRule {
            trade: true,
            settle: false,
            show: false,
        }),
        seed_commitment: Bytes::copy_from_slice(&karat_proto::lineage::seed_commitment(&secret)),
        ..v1::CollectionSpec::default()
    }
}

/// Digest of the model that is registered when the realm has none: no files belong to it.
fn load_model() -> [u8; 32] {
    sha2::Sha256::digest(b"karat-load model").into()
}

/// A generator that may mint: one that is approved already, else the load model.
async fn approved_model(channel: Channel) -> Result<Bytes, LoadError> {
    let mut operator = OperatorClient::new(channel);
    let failed = |step, status: &tonic::Status| LoadError::Setup {
        step,
        cause: chain(status),
    };
    let models = operator
        .list_models(v1::ListModelsRequest {})
        .await
        .map_err(|status| failed("Operator.ListModels", &status))?
        .into_inner()
        .models;
    let approved = models.iter().find(|model| {
        model.role() == v1::ModelRole::Generator && model.stage() == v1::ModelStage::Approved
    });
    if let Some(model) = approved {
        return Ok(model.digest.clone());
    }
    let digest = Bytes::copy_from_slice(&load_model());
    for change in [v1::ModelChange::Register, v1::ModelChange::Promote] {
        let request = v1::ChangeModelRequest {
            change: change.into(),
            digest: digest.clone(),
            name: "karat-load".into(),
            role: v1::ModelRole::Generator.into(),
            ..Default::default()
        };
        let answer = operator
            .change_model(request)
            .await
            .map_err(|status| failed("Operator.ChangeModel", &status))?
            .into_inner();
        let outcome = answer.outcome.unwrap_or_default();
        if outcome.code != Code::ModelExists as u32 {
            check("Operator.ChangeModel", &outcome)?;
        }
    }
    Ok(digest)
}

struct Setup {
    ledger: LedgerClient<Channel>,
    run: u64,
    number: u64,
    last_sequence: u64,
}

impl Setup {
    fn command(&mut self, actor: Account, kind: Kind) -> v1::Command {
        let id = command_id(self.run, SETUP_STREAM, self.number);
        self.number += 1;
        convert::new_command(karat_proto::CommandId(id), actor, kind)
    }

    async fn execute(
        &mut self,
        step: &'static str,
        actor: Account,
        kind: Kind,
    ) -> Result<v1::Outcome, LoadError> {
        let request = v1::ExecuteRequest {
            ack: v1::AckLevel::Durable.into(),
            command: Some(self.command(actor, kind)),
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.ledger.execute(request))
            .await
            .map_err(|_| no_answer(step))?
            .map_err(|status| LoadError::Setup {
                step,
                cause: chain(&status),
            })?;
        let outcome = answer.into_inner().outcome.unwrap_or_default();
        check(step, &outcome)?;
        self.last_sequence = self.last_sequence.max(outcome.sequence);
        Ok(outcome)
    }

    /// Waits until the agents are through with what was minted, so that a run does not measure their arrears, and says so
    /// when they reject it. A target without agents is known by nothing happening for a while.
    async fn await_verdicts(&mut self, minted: &[u64]) -> Result<(), LoadError> {
        let step = "verdicts on the minted assets";
        let since = Instant::now();
        let mut seen_verdict = false;
        // Evenly over all of them, the last one included.
        let stride = minted.len().div_ceil(VERDICTS_LOOKED_AT).max(1);
        for asset in minted.iter().rev().step_by(stride).rev() {
            loop {
                let request = v1::GetAssetRequest { asset: *asset };
                let answer = self.ledger.get_asset(request).await;
                let answer = answer.map_err(|status| LoadError::Setup {
                    step,
                    cause: chain(&status),
                })?;
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

    /// Sends commands of one actor and returns their outcomes in the same order, all accepted.
    async fn submit_all(
        &mut self,
        step: &'static str,
        actor: Account,
        kinds: Vec<Kind>,
    ) -> Result<Vec<v1::Outcome>, LoadError> {
        let mut outcomes = vec![None; kinds.len()];
        let mut places = HashMap::with_capacity(kinds.len());
        let mut open = Vec::with_capacity(kinds.len());
        for (place, kind) in kinds.into_iter().enumerate() {
            let command = self.command(actor, kind);
            places.insert(command.id.clone(), place);
            open.push(command);
        }
        let mut retries = 0;
        while !open.is_empty() {
            let mut refused_for_now = HashSet::new();
            let mut wait_ms = 0;
            for outcome in self.submit_once(step, &open).await? {
                let place = places.get(&outcome.id).copied();
                let place = place.ok_or(LoadError::Setup {
                    step,
                    cause: format!(
                        "an outcome for {}, which was not sent",
                        hex::encode(&outcome.id)
                    ),
                })?;
                let for_now = [Code::Overloaded, Code::RateLimited]
                    .iter()
                    .any(|code| outcome.code == *code as u32);
                if for_now {
                    wait_ms = wait_ms.max(outcome.retry_after_ms).max(10);
                    refused_for_now.insert(outcome.id);
                } else {
                    check(step, &outcome)?;
                    self.last_sequence = self.last_sequence.max(outcome.sequence);
                    outcomes[place] = Some(outcome);
                }
            }
            open.retain(|command| refused_for_now.contains(&command.id));
            if !open.is_empty() {
                retries += 1;
                if retries > RETRIES_MAX {
                    return Err(LoadError::Setup {
                        step,
                        cause: format!(
                            "still overloaded after {RETRIES_MAX} retries; is something else loading it?"
                        ),
                    });
                }
                tokio::time::sleep(Duration::from_millis(u64::from(wait_ms.min(1_000)))).await;
            }
        }
        outcomes
            .into_iter()
            .map(|outcome| outcome.ok_or_else(|| no_answer(step)))
            .collect()
    }

    /// Sends each command once over one stream, a few messages at a time, and returns as many outcomes.
    async fn submit_once(
        &mut self,
        step: &'static str,
        commands: &[v1::Command],
    ) -> Result<Vec<v1::Outcome>, LoadError> {
        let failed = |status: tonic::Status| LoadError::Setup {
            step,
            cause: chain(&status),
        };
        let (sender, receiver) = mpsc::channel(MESSAGES_IN_FLIGHT);
        let mut responses = self
            .ledger
            .submit(ReceiverStream::new(receiver))
            .await
            .map_err(failed)?
            .into_inner();
        let mut outcomes = Vec::with_capacity(commands.len());
        let mut sent = 0;
        for message in commands.chunks(BATCH) {
            let request = v1::SubmitRequest {
                ack: v1::AckLevel::Durable.into(),
                commands: message.to_vec(),
            };
            // A closed channel shows below as a stream that ends too early.
            let _ = sender.send(request).await;
            sent += message.len();
            let all_sent = sent == commands.len();
            while outcomes.len() < sent
                && (all_sent || sent - outcomes.len() > MESSAGES_IN_FLIGHT * BATCH)
            {
                let response = tokio::time::timeout(ANSWER_TIMEOUT, responses.message())
                    .await
                    .map_err(|_| no_answer(step))?
                    .map_err(failed)?
                    .ok_or_else(|| no_answer(step))?;
                outcomes.extend(response.outcomes);
            }
        }
        Ok(outcomes)
    }
}

fn no_answer(step: &'static str) -> LoadError {
    LoadError::Setup {
        step,
        cause: "the target did not answer every command".into(),
    }
}

fn check(step: &'static str, outcome: &v1::Outcome) -> Result<(), LoadError> {
    if outcome.code == Code::Accepted as u32 {
        return Ok(());
    }
    let known = u16::try_from(outcome.code).ok().and_then(Code::from_number);
    let (name, hint) = known.map_or(("unknown code", ""), |code| (code.name(), code.hint()));
    Err(LoadError::Setup {
        step,
        cause: format!(
            "refused with {} {name} ({hint}) {}{}",
            outcome.code,
            outcome.message,
            if outcome.code == Code::NotAllowed as u32 {
                "; --operator must name the realm's operator account"
            } else {
                ""
            }
        ),
    })
}

const _: () = assert!(BATCH <= limits::REQUEST_COMMANDS_MAX);
