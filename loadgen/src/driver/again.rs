//! What was sent and has no outcome, kept to be sent again when the realm goes on elsewhere.
//!
//! Every command is kept until its outcome comes, so the window bounds them. Those that had taken effect before the realm
//! moved are answered with their first outcome, by their ids.

use std::collections::BTreeMap;

use karat_proto::v1;

use super::Driver;
use crate::lanes::Lane;

/// The commands of one stream that wait for their outcome.
#[derive(Default)]
pub(crate) struct Unanswered {
    /// By number; each with the place of its ack level in the plan.
    open: BTreeMap<u64, (u8, v1::Command)>,
    /// What is open before this number was sent more than once.
    again_below: u64,
}

impl Unanswered {
    /// Keeps commands with the numbers from `first` on.
    pub(super) fn keep(&mut self, first: u64, level: u8, commands: &[v1::Command]) {
        let numbered = (first..).zip(commands);
        let kept = numbered.map(|(number, command)| (number, (level, command.clone())));
        self.open.extend(kept);
    }

    /// Lets one go; whether it was sent more than once.
    pub(super) fn answered(&mut self, number: u64) -> bool {
        self.open.remove(&number);
        number < self.again_below
    }

    /// Everything that is open, in its order, in messages of one level and at most `batch` commands.
    fn messages(&self, batch: usize) -> Vec<(u8, Vec<v1::Command>)> {
        let mut messages: Vec<(u8, Vec<v1::Command>)> = Vec::new();
        for (level, command) in self.open.values() {
            match messages.last_mut() {
                Some((last, commands)) if last == level && commands.len() < batch => {
                    commands.push(command.clone());
                }
                _ => messages.push((*level, vec![command.clone()])),
            }
        }
        messages
    }
}

impl Driver {
    /// Whether a stream is still to be open.
    pub(crate) fn is_open(&self, stream: usize) -> bool {
        self.streams[stream].lane.is_some()
    }

    /// Nothing can be sent on a stream until it is opened again.
    pub(crate) fn away(&mut self, stream: usize) {
        if let Some(lane) = &mut self.streams[stream].lane {
            *lane = Lane::Away;
        }
    }

    /// Goes on with a stream that was opened again: what has no outcome is sent first, in its order.
    pub(crate) fn go_on(&mut self, stream: usize, mut opened: Lane) {
        let batch = self.plan.batch as usize;
        let one = &mut self.streams[stream];
        // Nobody sends any more once the run is over.
        let (Some(lane), Some(unanswered)) = (&mut one.lane, &mut one.unanswered) else {
            return;
        };
        unanswered.again_below = one.books.entered();
        self.followed.streams += 1;
        self.followed.commands += unanswered.open.len() as u64;
        for (level, commands) in unanswered.messages(batch) {
            let ack = self.plan.acks[usize::from(level)].to_wire();
            if opened.send(ack, commands).is_err() {
                opened = Lane::Away;
                break;
            }
        }
        *lane = opened;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn commands(numbers: std::ops::Range<u8>) -> Vec<v1::Command> {
        let command = |number: u8| v1::Command {
            id: Bytes::from(vec![number]),
            ..v1::Command::default()
        };
        numbers.map(command).collect()
    }

    #[test]
    fn what_has_no_outcome_comes_again_in_its_order_and_only_that() {
        let mut unanswered = Unanswered::default();
        unanswered.keep(0, 0, &commands(0..4));
        unanswered.keep(4, 1, &commands(4..6));
        unanswered.keep(6, 1, &commands(6..9));
        for number in [0, 2, 7] {
            assert!(!unanswered.answered(number));
        }
        let messages = unanswered.messages(3);
        let ids = |commands: &[v1::Command]| commands.iter().map(|one| one.id[0]).collect();
        let messages: Vec<(u8, Vec<u8>)> = messages
            .iter()
            .map(|(level, commands)| (*level, ids(commands)))
            .collect();
        assert_eq!(
            messages,
            [(0, vec![1, 3]), (1, vec![4, 5, 6]), (1, vec![8])]
        );
        unanswered.again_below = 9;
        unanswered.keep(9, 0, &commands(9..10));
        assert!(unanswered.answered(8));
        assert!(!unanswered.answered(9));
    }
}
