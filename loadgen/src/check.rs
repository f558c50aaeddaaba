//! `karat-load check`: does a target still hold what it acknowledged in a run?

use std::time::Duration;

use karat_proto::Account;
use karat_proto::realm::{RealmChannel, RealmName};

use crate::args::CheckArgs;
use crate::books::Problems;
use crate::client::connect;
use crate::error::LoadError;
use crate::records::Records;
use crate::report::{Report, Settings, books_path};
use crate::run::on_one_thread;
use crate::setup::{World, accounts_of_stream};
use crate::truth::events::{self, EventsChecked, Ours};
use crate::truth::{self, Checked, ExpectedAsset};

/// A target that goes on while it is asked is asked again, so often and with such a pause.
const ROUNDS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// What was found.
pub struct Recheck {
    /// Accepted commands that the run was told of.
    pub accepted: u64,
    /// Commands that the run sent and was told nothing about.
    pub unanswered: u64,
    /// By events.
    pub events: EventsChecked,
    /// By state.
    pub checked: Checked,
    /// What does not agree.
    pub problems: Problems,
    levels: String,
}

/// Asks the target.
///
/// # Errors
/// When the run cannot be read, has no books, or the target not be reached.
pub fn check(args: &CheckArgs) -> Result<Recheck, LoadError> {
    let report = Report::read(&args.run)?;
    let no_run = |cause: &str| LoadError::file(&args.run, cause);
    let world = report.books.world.as_ref().ok_or_else(|| {
        no_run("a floor left nothing that could be asked for: give the JSON of a run")
    })?;
    let settings = &report.settings;
    let run = u64::from_str_radix(&settings.run_id, 16)
        .map_err(|_| no_run("its run_id is not 16 hex digits"))?;
    let realm = match (&args.realm, &settings.realm) {
        (Some(named), _) => Some(named.clone()),
        (None, Some(kept)) => {
            let kept = kept.parse::<RealmName>();
            Some(kept.map_err(|error| no_run(&error.to_string()))?)
        }
        (None, None) => None,
    };
    let records = Records::read(&books_path(&args.run))?;
    let lanes = settings.connections * settings.streams;
    let accounts: Vec<Vec<Account>> = (0..lanes)
        .map(|stream| accounts_of_stream(run, stream, world.accounts_a_stream))
        .collect();
    let (answered, unanswered) = records.sorted();
    let accepted = answered.iter().filter(|record| record.code == 0).count() as u64;
    on_one_thread(async {
        let channel = connect(&args.target, realm.as_ref()).await?;
        let ours = Ours {
            world,
            accounts: &accounts,
            run,
        };
        let mut round = 1;
        // Commands that wait in a topic are taken once their engine is back: then the state is newer than the events that
        // were compared, and both are looked at again.
        let (problems, events, checked) = loop {
            let found = look(&channel, &ours, &records, world, settings).await;
            if found.0.count == 0 || round >= ROUNDS || unanswered.is_empty() {
                break found;
            }
            match events::applied(&channel, &ours).await {
                // Events that could not be read say nothing of where the target is.
                Ok(sequence) if (1..sequence).contains(&found.1.up_to_sequence) => {}
                _ => break found,
            }
            tokio::time::sleep(PAUSE).await;
            round += 1;
        };
        Ok(Recheck {
            accepted,
            unanswered: unanswered.len() as u64,
            events,
            checked,
            problems,
            levels: settings.ack.clone(),
        })
    })
}

/// Events and state, compared once.
async fn look(
    channel: &RealmChannel,
    ours: &Ours<'_>,
    records: &Records,
    world: &World,
    settings: &Settings,
) -> (Problems, EventsChecked, Checked) {
    let mut problems = Problems::default();
    let (events, left) = events::check(channel.clone(), ours, records, &mut problems).await;
    // With every event compared, what they leave is what must be there; of a part, only the part's end would be known.
    let whole = records.left_out == 0 && problems.count == 0;
    let mut checked = Checked::default();
    if whole {
        let assets: Vec<ExpectedAsset> = {
            let mut assets: Vec<_> = left.assets.iter().collect();
            // In an order that the sample can rely on.
            assets.sort_unstable_by_key(|(asset, _)| **asset);
            let expected = assets.into_iter().map(|(asset, one)| ExpectedAsset {
                asset: *asset,
                owner: match one.owner.is_nobody() {
                    true => bytes::Bytes::new(),
                    false => crate::client::account_bytes(&one.owner),
                },
                sequence: one.sequence,
            });
            expected.collect()
        };
        let balances: Vec<(Account, i128)> = ours
            .accounts
            .iter()
            .flatten()
            .map(|account| (*account, left.balances.get(account).copied().unwrap_or(0)))
            .collect();
        let (deposit, seed) = (world.deposit, settings.seed);
        let channel = channel.clone();
        checked = truth::check(channel, &assets, &balances, deposit, seed, &mut problems).await;
    }
    (problems, events, checked)
}

impl Recheck {
    /// Whether everything that was acknowledged is there.
    pub fn passed(&self) -> bool {
        self.problems.count == 0
    }

    /// For people.
    pub fn render(&self) -> String {
        let mut out = format!(
            "{} commands were acknowledged as accepted ({}); {} found again, {} refused ones left no trace\n",
            self.accepted, self.levels, self.events.found, self.events.refused
        );
        if self.unanswered > 0 {
            out.push_str(&format!(
                "{} were never answered; {} of them took effect all the same\n",
                self.unanswered, self.events.unanswered_applied
            ));
        }
        if self.events.left_out > 0 {
            out.push_str(&format!(
                "{} more were not kept by the run and not looked for (--records-max)\n",
                self.events.left_out
            ));
        }
        if self.checked.assets > 0 {
            out.push_str(&format!(
                "owners of {} assets and balances of {} accounts agree with the events (sum {} of {} deposited)\n",
                self.checked.assets,
                self.checked.accounts,
                self.checked.balance_sum,
                self.checked.deposit_sum
            ));
        }
        if self.passed() {
            out.push_str("everything that was acknowledged is there\n");
            return out;
        }
        out.push_str(&format!(
            "NOT EVERYTHING IS THERE: {} problems\n",
            self.problems.count
        ));
        for problem in &self.problems.named {
            out.push_str(&format!("  {problem}\n"));
        }
        out
    }
}
