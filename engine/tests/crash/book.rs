//! What the clients know: every command that was sent, and what was answered. Checked against itself at every answer.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use karat_proto::v1::AckLevel;
use karat_proto::{Code, v1};

pub type Id = [u8; 16];

/// What a client was told about one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub sequence: u64,
    pub code: u32,
    pub subject: u64,
}

pub struct Sent {
    pub command: v1::Command,
    pub told: Option<Told>,
}

#[derive(Default)]
pub struct Book {
    pub sent: HashMap<Id, Sent>,
    /// Ids in the order of sending.
    pub ids: Vec<Id>,
    /// Ids by the sequence that their first outcome has.
    pub by_sequence: BTreeMap<u64, Id>,
    /// Told since the model took what was told.
    pub fresh: Vec<Id>,
    /// Largest sequence whose batch a client was told to be final.
    pub settled_told: u64,
    /// Answers, resends and what was refused at the door.
    pub answers: u64,
    pub resent_unknown: u64,
    pub replayed: u64,
    pub refused_at_the_door: u64,
    pub codes: BTreeMap<u32, u64>,
    pub levels: BTreeMap<i32, u64>,
}

pub fn id_of(bytes: &Bytes) -> Id {
    bytes[..].try_into().unwrap()
}

impl Book {
    /// Notes a command before it is sent.
    pub fn sending(&mut self, command: &v1::Command) {
        let id = id_of(&command.id);
        let sent = Sent {
            command: command.clone(),
            told: None,
        };
        assert!(
            self.sent.insert(id, sent).is_none(),
            "an id was chosen twice"
        );
        self.ids.push(id);
    }

    /// Commands whose outcome nobody knows, in the order of sending.
    pub fn unknown(&self) -> Vec<v1::Command> {
        let sent = self.ids.iter().map(|id| &self.sent[id]);
        sent.filter(|sent| sent.told.is_none())
            .map(|sent| sent.command.clone())
            .collect()
    }

    /// Takes an answer; true when it is the first outcome of its command. Fails on everything that contradicts an earlier one.
    pub fn answered(&mut self, reached: AckLevel, outcome: &v1::Outcome) -> bool {
        let id = id_of(&outcome.id);
        let told = Told {
            sequence: outcome.sequence,
            code: outcome.code,
            subject: outcome.subject,
        };
        if outcome.sequence == 0 {
            self.refused_at_the_door += 1;
            let code = Code::from_number(outcome.code as u16).unwrap();
            assert!(
                matches!(
                    code,
                    Code::Overloaded | Code::Unavailable | Code::RateLimited
                ),
                "refused at the door with {code:?}: {}",
                outcome.message
            );
            return false;
        }
        self.answers += 1;
        *self.levels.entry(reached.into()).or_default() += 1;
        assert_ne!(
            outcome.code,
            Code::IdReused as u32,
            "its own id was taken for another's: {outcome:?}"
        );
        if outcome.replayed {
            self.replayed += 1;
        }
        if reached == AckLevel::Settled && outcome.code == 0 {
            self.settled_told = self.settled_told.max(outcome.sequence);
        }
        let sent = self.sent.get_mut(&id).unwrap();
        if let Some(before) = sent.told {
            assert_eq!(before, told, "a command has two outcomes: {outcome:?}");
            assert!(
                outcome.replayed,
                "a command was applied twice: {before:?}, then {outcome:?}"
            );
            return false;
        }
        sent.told = Some(told);
        if let Some(other) = self.by_sequence.insert(told.sequence, id) {
            panic!(
                "sequence {} was given to {} and to {}",
                told.sequence,
                hex::encode(other),
                hex::encode(id)
            );
        }
        *self.codes.entry(outcome.code).or_default() += 1;
        self.fresh.push(id);
        true
    }

    /// Largest sequence that a client was told.
    pub fn last_sequence(&self) -> u64 {
        self.by_sequence
            .last_key_value()
            .map_or(0, |(sequence, _)| *sequence)
    }
}
