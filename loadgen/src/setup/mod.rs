//! What a run needs before it can begin: a model that may mint, a collection, currency, assets.
//!
//! Everything is the run's own (accounts, collection, assets), so that nobody else's commands can change what its commands
//! come to, and any number of runs can load one realm.

mod images;
mod places;
mod realm;
mod sender;
mod verdicts;

use std::rc::Rc;

use bytes::Bytes;
use karat_proto::realm::RealmChannel;
use karat_proto::v1::command::Kind;
use karat_proto::{Account, v1};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use self::images::edge_side;
use self::places::{Place, accounts, empty_holdings, places, put};
use self::realm::{approved_model, collection_spec, load_model};
use self::sender::{CHUNK, Sender};
use crate::args::{LoadArgs, Verdict};
use crate::client::{StreamPlan, account_bytes};
use crate::error::LoadError;
use crate::lanes::EdgeSide;
use crate::scenario::{
    Action, CONTENT, Holdings, MintForm, Player, ScenarioFile, Stage, content_digest,
};

pub use self::places::accounts_of_stream;

/// Currency that each account is given, minor units.
pub const DEPOSIT: u64 = 1_000_000_000;

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
    channel: RealmChannel,
    args: &LoadArgs,
    file: &Rc<ScenarioFile>,
    operator: Account,
    verdict: Verdict,
    run: u64,
) -> Result<Ready, LoadError> {
    let mut setup = Sender::new(channel.clone(), run);
    if verdict == Verdict::Accept {
        crate::doubles::let_pass(&channel).await?;
    }
    let accounts = accounts(args, file, run)?;
    let model = approved_model(&channel).await?;
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
    verdicts::wait(&channel, &minted).await?;
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
            prepared_sequence: setup.last_sequence(),
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
