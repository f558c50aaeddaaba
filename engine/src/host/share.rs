//! Which of the group's realms this process asks for: never more than it may hold.
//!
//! A group spreads its realms evenly over all who ask for them and knows nothing of their room. So a process asks for what it
//! holds and for as many others as it has room for; what it does not ask for falls to the others. Where there is room for
//! all, it asks for all, once. Otherwise it hears the leaders' signs of life, and a realm that nobody leads for a session
//! takes the place of one that somebody does among those that it asks for. A realm for which nobody has room is spoken of.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::door::Rooms;
use super::realm::Shared;
use crate::config::KafkaSettings;
use crate::kafka::group::Asker;
use crate::realm_log;

/// How often it is looked whether a realm has nobody. The group is asked for other realms at most so often.
const LOOK: Duration = Duration::from_secs(1);
/// How long a process that cannot hold all realms waits at its start to hear who leads what.
const HEARING_MAX: Duration = Duration::from_secs(2);
const HEARING_LOOK: Duration = Duration::from_millis(20);

/// A realm, as a process sees it that chooses.
struct Seen<'a> {
    name: &'a str,
    /// The group has given it to this process.
    is_held: bool,
    /// Where another process that leads it was heard.
    leader: Option<String>,
    /// Decides where nothing else does, so that processes do not all choose alike.
    lot: u64,
}

/// Names of realms to ask for: all that are held, and so many others that it may be `realms_max`. Those first that nobody
/// leads, then those that were asked for already, then those of the processes that lead most.
fn choose(seen: &[Seen<'_>], asked: &BTreeSet<String>, realms_max: usize) -> BTreeSet<String> {
    let mut loads: BTreeMap<&str, usize> = BTreeMap::new();
    for leader in seen.iter().filter_map(|one| one.leader.as_deref()) {
        *loads.entry(leader).or_default() += 1;
    }
    let (held, mut others): (Vec<_>, Vec<_>) = seen.iter().partition(|one| one.is_held);
    others.sort_by_key(|one| {
        let load = one.leader.as_deref().and_then(|leader| loads.get(leader));
        (
            one.leader.is_some(),
            !asked.contains(one.name),
            Reverse(load.copied().unwrap_or(0)),
            one.lot,
        )
    });
    let room = realms_max.saturating_sub(held.len());
    let chosen = held.into_iter().chain(others.into_iter().take(room));
    chosen.map(|one| one.name.to_owned()).collect()
}

/// What a process asks its group for, and what it knows of realms that nobody has.
pub struct Share {
    rooms: Arc<Rooms>,
    realms_max: usize,
    asked: BTreeSet<String>,
    /// Since when nobody was heard to lead a realm.
    alone_since: BTreeMap<String, Instant>,
    /// Of these people were told that nobody has them and there is no room here.
    told: BTreeSet<String>,
}

impl Share {
    /// The first choice. Where this process cannot hold all realms, it first hears for a moment who leads which.
    pub async fn begin(rooms: Arc<Rooms>, realms_max: usize) -> Share {
        let mut share = Share {
            rooms,
            realms_max,
            asked: BTreeSet::new(),
            alone_since: BTreeMap::new(),
            told: BTreeSet::new(),
        };
        if share.rooms.realms.len() > realms_max {
            let deadline = Instant::now() + HEARING_MAX;
            while !share.rooms.directory.has_heard_all() && Instant::now() < deadline {
                tokio::time::sleep(HEARING_LOOK).await;
            }
        }
        share.asked = choose(&share.seen(), &share.asked, realms_max);
        share
    }

    /// The log topics of what it asks for.
    pub fn topics(&self, settings: &KafkaSettings) -> Vec<String> {
        let topics = self.asked.iter();
        topics
            .map(|realm| realm_log::log_topic(settings, realm))
            .collect()
    }

    /// Looks again and again, until it is dropped.
    pub async fn keep(mut self, settings: KafkaSettings, asker: Asker, shared: Arc<Shared>) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.look(&shared) {
                asker.ask(self.topics(&settings));
            }
        }
    }

    fn seen(&self) -> Vec<Seen<'_>> {
        let realms = self.rooms.realms.iter();
        realms
            .map(|(name, realm)| Seen {
                name,
                is_held: realm.is_wanted(),
                leader: self.rooms.leader_elsewhere(name).map(|(leader, _)| leader),
                lot: rand::random(),
            })
            .collect()
    }

    /// Whether the group is to be asked for other realms than before.
    fn look(&mut self, shared: &Shared) -> bool {
        let rooms = self.rooms.clone();
        let seen = self.seen();
        let held = seen.iter().filter(|one| one.is_held).count();
        let mut alone: BTreeMap<String, Instant> = BTreeMap::new();
        for one in seen
            .iter()
            .filter(|one| !one.is_held && one.leader.is_none())
        {
            let since = self.alone_since.get(one.name).copied();
            alone.insert(one.name.to_owned(), since.unwrap_or_else(Instant::now));
        }
        // Whoever is to have it next needs a session to be given it, and to be heard.
        let without: BTreeSet<String> = alone
            .iter()
            .filter(|(_, since)| since.elapsed() >= rooms.session)
            .map(|(name, _)| name.clone())
            .collect();
        let has_room = held < self.realms_max;
        let chosen = match has_room && !without.is_subset(&self.asked) {
            true => choose(&seen, &self.asked, self.realms_max),
            false => self.asked.clone(),
        };
        drop(seen);
        self.alone_since = alone;
        self.told.retain(|realm| without.contains(realm));
        if !has_room {
            for realm in without.difference(&self.told) {
                (shared.say)(format!(
                    "realm {realm}: nobody has it, and this process holds as many as it may (host.realms_max = {}); \
                     start another host of the group, or let one hold more",
                    self.realms_max
                ));
            }
            self.told.clone_from(&without);
        }
        rooms.set_without_host(without);
        let is_new = chosen != self.asked;
        self.asked = chosen;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen<'a>(name: &'a str, is_held: bool, leader: &str, lot: u64) -> Seen<'a> {
        Seen {
            name,
            is_held,
            leader: (!leader.is_empty()).then(|| leader.to_owned()),
            lot,
        }
    }

    fn chosen(seen: &[Seen<'_>], asked: &[&str], realms_max: usize) -> Vec<String> {
        let asked = asked.iter().map(|one| (*one).to_owned()).collect();
        choose(seen, &asked, realms_max).into_iter().collect()
    }

    #[test]
    fn what_is_held_is_kept_and_a_realm_that_nobody_leads_comes_before_all_others() {
        let realms = [
            seen("a", true, "", 0),
            seen("b", false, "one:1", 1),
            seen("c", false, "one:1", 2),
            seen("d", false, "two:1", 0),
            seen("e", false, "", 9),
        ];
        assert_eq!(chosen(&realms, &["a"], 1), ["a"]);
        assert_eq!(chosen(&realms, &["a", "b"], 2), ["a", "e"]);
        // Then what was asked for before, and otherwise from who leads most.
        assert_eq!(chosen(&realms, &["a", "d"], 3), ["a", "d", "e"]);
        assert_eq!(chosen(&realms, &[], 3), ["a", "b", "e"]);
        assert_eq!(chosen(&realms, &[], 9), ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn who_has_chosen_chooses_the_same_again_whatever_the_lots_are() {
        let realms = |lots: [u64; 4]| {
            let [a, b, c, d] = lots;
            [
                seen("a", false, "", a),
                seen("b", false, "", b),
                seen("c", false, "one:1", c),
                seen("d", false, "one:1", d),
            ]
        };
        for realms_max in 1..4 {
            let first = choose(&realms([1, 2, 3, 4]), &BTreeSet::new(), realms_max);
            for lots in [[4, 3, 2, 1], [2, 1, 4, 3], [1, 2, 3, 4]] {
                assert_eq!(choose(&realms(lots), &first, realms_max), first);
            }
        }
    }
}
