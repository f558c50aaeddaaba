//! What a run needs before it can begin: a model that may mint, a collection, currency, assets.
//!
//! Everything is the run's own (accounts, collection, assets), so that nobody else's commands can change what its commands
//! come to, and any number of runs can load one realm.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use karat_proto::v1::command::Kind;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::operator_client::OperatorClient;
use karat_proto::{Account, Code, convert, limits, v1};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use sha2::Digest as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::args::{LoadArgs, ScenarioName, Verdict};
use crate::books::command_id;
use crate::client::{StreamPlan, account_bytes, chain};
use crate::error::LoadError;
use crate::scenario::{
    CONTENT, Holdings, MintForm, Mints, Mixed, NOBODY, Scenario, TRAITS, Trades, content_digest,
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
/// Every so many-th asset is minted without an owner, to be claimed.
const OPEN_EVERY: u64 = 5;

/// A run, ready to begin.
pub struct Ready {
    /// The collection of the run; 0 for the floor.
    pub collection: u32,
    /// The streams.
    pub streams: Vec<StreamPlan>,
    /// Accounts of each stream, in the order of its holdings.
    pub accounts: Vec<Vec<Account>>,
    /// Currency that each account began with, minor units.
    pub deposit: u64,
}

/// The streams of a floor: the same commands, on assets that are nowhere.
pub fn pretend(args: &LoadArgs, run: u64) -> Ready {
    let accounts = accounts(args, run);
    let form = MintForm {
        creator: account_bytes(&creator(run)),
        collection: 1,
        model: Bytes::copy_from_slice(&load_model()),
        digest: Bytes::copy_from_slice(&content_digest()),
    };
    let mut holdings = empty_holdings(args, &accounts);
    if trades(args) {
        for (number, (stream, owner)) in places(args).enumerate() {
            holdings[stream].put(number as u64 + 1, owner, 0);
        }
    }
    Ready {
        collection: 0,
        streams: stream_plans(args, &form, holdings),
        accounts,
        deposit: 0,
    }
}

/// Prepares an engine for a run.
///
/// # Errors
/// Names the step that the target refused, and what it said.
pub async fn prepare(
    channel: Channel,
    args: &LoadArgs,
    operator: Account,
    verdict: Verdict,
    run: u64,
) -> Result<Ready, LoadError> {
    let mut setup = Setup {
        ledger: LedgerClient::new(channel.clone()),
        run,
        number: 0,
    };
    if verdict == Verdict::Accept {
        crate::doubles::let_pass(channel.clone()).await?;
    }
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
    // The first mint brings the image; from its durable outcome on it is stored. Its asset is nobody's and not traded.
    let mut random = ChaCha8Rng::seed_from_u64(args.seed);
    let first = form.mint(Bytes::new(), Bytes::from_static(CONTENT), &mut random);
    let first = setup
        .execute("first Mint", creator, Kind::Mint(first))
        .await?;
    let mut minted = vec![first.subject];

    let accounts = accounts(args, run);
    let mut holdings = empty_holdings(args, &accounts);
    let mut deposit = 0;
    if trades(args) {
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
        let places: Vec<_> = places(args).collect();
        for chunk in places.chunks(CHUNK) {
            let mints = chunk.iter().map(|(stream, owner)| {
                let owner = holdings[*stream].account(*owner);
                Kind::Mint(form.mint(owner, Bytes::new(), &mut random))
            });
            let outcomes = setup.submit_all("Mint", creator, mints.collect()).await?;
            for ((stream, owner), outcome) in chunk.iter().zip(outcomes) {
                holdings[*stream].put(outcome.subject, *owner, outcome.sequence);
                minted.push(outcome.subject);
            }
        }
    }
    setup.await_verdicts(&minted).await?;
    Ok(Ready {
        collection: form.collection,
        streams: stream_plans(args, &form, holdings),
        accounts,
        deposit,
    })
}

fn trades(args: &LoadArgs) -> bool {
    args.scenario != ScenarioName::Mint
}

fn creator(run: u64) -> Account {
    Account::from_name(&format!("load-{run:016x}-creator"))
}

/// At most 1,024 accounts in all, so that every balance can be read at the end.
fn accounts(args: &LoadArgs, run: u64) -> Vec<Vec<Account>> {
    let a_stream = (1024 / args.streams).clamp(4, 64);
    let account =
        |stream, number| Account::from_name(&format!("load-{run:016x}-{stream}-{number}"));
    (0..args.streams)
        .map(|stream| {
            (0..a_stream)
                .map(|number| account(stream, number))
                .collect()
        })
        .collect()
}

fn empty_holdings(args: &LoadArgs, accounts: &[Vec<Account>]) -> Vec<Holdings> {
    accounts
        .iter()
        .map(|of_stream| Holdings::new(of_stream, trades(args)))
        .collect()
}

/// Stream and owner of each asset that is there before the run, in the order of minting.
fn places(args: &LoadArgs) -> impl Iterator<Item = (usize, u16)> {
    let streams = args.streams;
    let a_stream = (1024 / streams).clamp(4, 64);
    (0..args.assets.max(2 * streams)).map(move |number| {
        let of_stream = number / streams;
        let owner = match of_stream % OPEN_EVERY {
            4 => NOBODY,
            _ => (of_stream % a_stream) as u16,
        };
        ((number % streams) as usize, owner)
    })
}

fn stream_plans(args: &LoadArgs, form: &MintForm, holdings: Vec<Holdings>) -> Vec<StreamPlan> {
    let plan = |(stream, holdings): (usize, Holdings)| {
        // An odd factor keeps the streams' seeds apart for every seed of the run.
        let seed = args
            .seed
            .wrapping_add((stream as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let scenario: Box<dyn Scenario> = match args.scenario {
            ScenarioName::Trade => Box::new(Trades::new(seed)),
            ScenarioName::Mint => Box::new(Mints::new(form.clone(), seed)),
            ScenarioName::Mixed => Box::new(Mixed::new(form.clone(), seed)),
        };
        StreamPlan { holdings, scenario }
    };
    holdings.into_iter().enumerate().map(plan).collect()
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
