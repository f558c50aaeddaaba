//! Every acknowledged command against the target's events: each accepted one is there once and did what it asked for,
//! nothing else happened to the run's accounts, and refused ones left no trace.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use karat_proto::realm::RealmChannel;
use karat_proto::v1::event::Kind;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::{Account, limits, v1};
use serde::{Deserialize, Serialize};
use tokio::time::error::Elapsed;
use tonic::Status;

use crate::books::Problems;
use crate::client::chain;
use crate::records::{Record, Records};
use crate::scenario::changes;
use crate::setup::World;
use crate::truth::Patience;

/// Longest wait for more events.
const SILENCE: Duration = Duration::from_secs(60);

/// What was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsChecked {
    /// Accepted commands that were found, with the changes they asked for.
    pub found: u64,
    /// Refused commands that left no trace.
    pub refused: u64,
    /// Commands without an outcome that took effect all the same: the target died, or its answer was lost, after they
    /// were logged.
    pub unanswered_applied: u64,
    /// Commands that were not looked for, because there were too many to keep.
    pub left_out: u64,
    /// Last sequence that was looked at.
    pub up_to_sequence: u64,
}

/// What the events say the run's commands left.
#[derive(Default)]
pub struct Left {
    /// Owner and version of every asset that was touched, and the sequence of its last change of owner.
    pub assets: HashMap<u64, LeftAsset>,
    /// What each account gained or lost.
    pub balances: HashMap<Account, i128>,
}

/// One asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftAsset {
    /// Its owner.
    pub owner: Account,
    /// Sequence of the command that gave it.
    pub sequence: u64,
}

/// What belongs to the run.
pub struct Ours<'a> {
    /// What it made.
    pub world: &'a World,
    /// Its accounts.
    pub accounts: &'a [Vec<Account>],
    /// Part of its ids.
    pub run: u64,
}

/// Reads the target's events from the run's first sequence to its last, and compares.
pub async fn check(
    channel: RealmChannel,
    ours: &Ours<'_>,
    records: &Records,
    problems: &mut Problems,
) -> (EventsChecked, Left) {
    let (answered, unanswered) = records.sorted();
    let last_sequence = answered.last().map_or(0, |record| record.sequence);
    let mut check = Check::new(ours, answered, unanswered, problems);
    check.checked.left_out = records.left_out;
    // What has no outcome may lie behind everything that has one.
    let last_sequence = match check.unanswered.is_empty() {
        true => last_sequence,
        false => match applied(&channel, ours).await {
            Ok(sequence) => last_sequence.max(sequence),
            Err(cause) => {
                check.problem(format!("asset {}: {cause}", ours.world.kept_asset));
                last_sequence
            }
        },
    };
    if last_sequence > 0
        && let Err(cause) = check.read(&channel, last_sequence).await
    {
        check.problem(format!(
            "the events up to sequence {last_sequence} could not be read beyond {}: {cause}",
            check.seen
        ));
        return (check.checked, check.left);
    }
    check.finish()
}

/// The last sequence that the target has applied.
///
/// # Errors
/// When it does not answer.
pub async fn applied(channel: &RealmChannel, ours: &Ours<'_>) -> Result<u64, String> {
    let kept_asset = v1::GetAssetRequest {
        asset: ours.world.kept_asset,
    };
    let ledger = LedgerClient::new(channel.clone());
    let asking = channel.ask(|| {
        let mut ledger = ledger.clone();
        async move { ledger.get_asset(kept_asset).await }
    });
    let answer = Patience::default().ask(asking).await?;
    Ok(answer.applied_seq)
}

struct Check<'a> {
    accounts: HashSet<&'a [u8]>,
    collection: u32,
    run: u64,
    answered: std::iter::Peekable<std::vec::IntoIter<Record>>,
    /// By fingerprint; a mint's without its number.
    unanswered: HashMap<u64, Vec<Record>>,
    /// The command whose events are being read.
    sequence: u64,
    changes: u64,
    changes_of_mint: Option<u64>,
    touched: bool,
    seen: u64,
    /// Sequences of the events that were taken beyond `seen`: a watch that is opened again brings them once more.
    beyond: Vec<u64>,
    checked: EventsChecked,
    left: Left,
    problems: &'a mut Problems,
}

impl<'a> Check<'a> {
    fn new(
        ours: &Ours<'a>,
        answered: Vec<Record>,
        unanswered: Vec<Record>,
        problems: &'a mut Problems,
    ) -> Check<'a> {
        let mut by_changes: HashMap<u64, Vec<Record>> = HashMap::new();
        for record in unanswered {
            by_changes.entry(record.changes).or_default().push(record);
        }
        Check {
            accounts: ours
                .accounts
                .iter()
                .flatten()
                .map(|account| &account.0[..])
                .collect(),
            collection: ours.world.collection,
            run: ours.run,
            answered: answered.into_iter().peekable(),
            unanswered: by_changes,
            sequence: 0,
            changes: changes::NOTHING,
            changes_of_mint: None,
            touched: false,
            seen: ours.world.prepared_sequence,
            beyond: Vec::new(),
            checked: EventsChecked::default(),
            left: Left::default(),
            problems,
        }
    }

    fn problem(&mut self, text: String) {
        self.problems.note(|| text);
    }

    /// Reads up to `last_sequence`; where the realm moves meanwhile, goes on there.
    async fn read(&mut self, channel: &RealmChannel, last_sequence: u64) -> Result<(), String> {
        let mut search = channel.search();
        let ledger =
            LedgerClient::new(channel.clone()).max_decoding_message_size(limits::MESSAGE_BYTES_MAX);
        loop {
            let before = self.seen;
            let Err(status) = self.read_on(ledger.clone(), last_sequence).await else {
                return Ok(());
            };
            if self.seen > before {
                search = channel.search();
            }
            let pause = search.again(status).map_err(|status| chain(&status))?;
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads on behind what was seen, over one stream.
    async fn read_on(
        &mut self,
        mut ledger: LedgerClient<RealmChannel>,
        last_sequence: u64,
    ) -> Result<(), Status> {
        let request = v1::WatchRequest {
            from_sequence: self.seen + 1,
            ..v1::WatchRequest::default()
        };
        let silent = |what: String| move |_: Elapsed| Status::deadline_exceeded(what);
        let mut events = tokio::time::timeout(SILENCE, ledger.watch(request))
            .await
            .map_err(silent("the stream did not open".into()))??
            .into_inner();
        let mut taken_before = self.beyond.len();
        while self.seen < last_sequence {
            let nothing = format!("nothing came for {} s", SILENCE.as_secs());
            let message = tokio::time::timeout(SILENCE, events.message())
                .await
                .map_err(silent(nothing))??
                .ok_or_else(|| Status::unavailable("the target ended the stream"))?;
            for event in &message.events {
                if event.sequence > last_sequence {
                    break;
                }
                if taken_before > 0 {
                    taken_before -= 1;
                    continue;
                }
                self.take(event);
                self.beyond.push(event.sequence);
            }
            self.seen = self.seen.max(message.seen_sequence);
            self.beyond.retain(|sequence| *sequence > self.seen);
        }
        Ok(())
    }

    fn take(&mut self, event: &v1::Event) {
        if event.sequence != self.sequence {
            self.end_command();
            self.sequence = event.sequence;
        }
        let Some(kind) = &event.kind else {
            return;
        };
        if let Some(changes) = changes::with_event(self.changes, kind) {
            self.changes = changes;
            self.touched |= self.is_ours(kind);
            if let Kind::Minted(made) = kind {
                self.changes_of_mint = changes::of_mint(made);
            }
            self.keep(kind);
        }
    }

    fn is_ours(&self, kind: &Kind) -> bool {
        let ours = |account: &[u8]| self.accounts.contains(account);
        match kind {
            Kind::Minted(made) => made.collection == self.collection,
            Kind::Revised(made) => self.left.assets.contains_key(&made.asset),
            Kind::Transferred(one) => ours(&one.from) || ours(&one.to),
            Kind::CurrencyMoved(one) => ours(&one.from) || ours(&one.to),
            Kind::Deposited(one) => ours(&one.account),
            Kind::Withdrawn(one) => ours(&one.account),
            _ => false,
        }
    }

    /// What the state must be afterwards.
    fn keep(&mut self, kind: &Kind) {
        let account = |bytes: &[u8]| Account(bytes.try_into().unwrap_or([0; 20]));
        let sequence = self.sequence;
        match kind {
            Kind::Minted(made) if made.collection == self.collection => {
                let owner = account(&made.owner);
                self.left
                    .assets
                    .insert(made.asset, LeftAsset { owner, sequence });
            }
            Kind::Transferred(one) if self.is_ours(kind) => {
                let owner = account(&one.to);
                self.left
                    .assets
                    .insert(one.asset, LeftAsset { owner, sequence });
            }
            Kind::CurrencyMoved(one) if self.is_ours(kind) => {
                let amount = i128::from(one.amount);
                *self.left.balances.entry(account(&one.from)).or_default() -= amount;
                *self.left.balances.entry(account(&one.to)).or_default() += amount;
            }
            _ => {}
        }
    }

    /// All events of a command have been read.
    fn end_command(&mut self) {
        let sequence = self.sequence;
        self.pass_those_before(sequence);
        let changes = std::mem::replace(&mut self.changes, changes::NOTHING);
        let of_mint = self.changes_of_mint.take();
        let touched = std::mem::take(&mut self.touched);
        let record = self
            .answered
            .next_if(|record| record.sequence == sequence && sequence != 0);
        match record {
            Some(record) => self.compare(&record, changes),
            None => self.find_unanswered(of_mint.unwrap_or(changes), touched),
        }
    }

    /// Commands that lie before this sequence have no events.
    fn pass_those_before(&mut self, sequence: u64) {
        while let Some(record) = self.answered.next_if(|record| record.sequence < sequence) {
            self.compare(&record, changes::NOTHING);
        }
    }

    fn compare(&mut self, record: &Record, changes: u64) {
        let id = || hex::encode(record.id(self.run));
        let sequence = record.sequence;
        if record.code != 0 {
            if changes == changes::NOTHING {
                self.checked.refused += 1;
                return;
            }
            let text = format!(
                "command {}: refused, but changed something at sequence {sequence}",
                id()
            );
            return self.problem(text);
        }
        if changes == record.changes {
            self.checked.found += 1;
            return;
        }
        let what = match changes {
            changes::NOTHING => "nothing happened there",
            _ => "what happened there is not what it asked for",
        };
        let text = format!(
            "command {}: accepted at sequence {sequence}, but {what}",
            id()
        );
        self.problem(text);
    }

    /// Something happened, and no outcome says why.
    fn find_unanswered(&mut self, changes: u64, touched: bool) {
        let one = self.unanswered.get_mut(&changes).and_then(Vec::pop);
        if one.is_some() {
            self.checked.unanswered_applied += 1;
            return;
        }
        // What is not the run's belongs to other clients, or to the engine itself. Where records were left out, theirs are
        // not known.
        if !touched || self.checked.left_out > 0 {
            return;
        }
        let sequence = self.sequence;
        self.problem(format!(
            "sequence {sequence} changed something of this run, and no command of it was answered with that sequence"
        ));
    }

    fn finish(mut self) -> (EventsChecked, Left) {
        self.end_command();
        self.pass_those_before(u64::MAX);
        self.checked.up_to_sequence = self.seen;
        (self.checked, self.left)
    }
}
