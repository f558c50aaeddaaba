//! The books of a run: what became of every asset that it minted.

use std::collections::HashMap;

use karat_proto::event::{AssetState, Event, EventKind, TransferCause};
use karat_proto::{AssetId, CollectionId};

/// What became of an asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pending,
    Active,
    InReview,
    Rejected,
    Burned,
    Settled,
}

#[derive(Debug)]
struct Entry {
    fate: Fate,
    /// Sequence at which its settled form was first due; 0 before.
    due_sequence: u64,
}

/// Counts of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Assets minted.
    pub minted: u64,
    /// No verdict yet.
    pub pending: u64,
    /// Accepted, in no final batch yet.
    pub active: u64,
    /// Waiting for people, never settled.
    pub in_review: u64,
    /// Rejected, never settled.
    pub rejected: u64,
    /// Ended by their owners before they were settled.
    pub burned: u64,
    /// Were in a final batch.
    pub settled: u64,
}

impl Tally {
    /// Assets of which nothing more is expected by itself.
    pub fn ended(&self) -> u64 {
        self.in_review + self.rejected + self.burned + self.settled
    }
}

/// Follows the assets of one collection from a sequence on.
#[derive(Debug)]
pub struct Books {
    collection: CollectionId,
    entries: HashMap<AssetId, Entry>,
    /// Verdicts that accepted.
    pub verified: u64,
    /// Assets that changed hands.
    pub traded: u64,
    /// Assets that were given new content.
    pub revised: u64,
    /// Assets that left for the chain.
    pub redeemed: u64,
    /// Claims that lost a draw.
    pub claims_lost: u64,
}

impl Books {
    /// Empty books of one collection.
    pub fn new(collection: CollectionId) -> Books {
        Books {
            collection,
            entries: HashMap::new(),
            verified: 0,
            traded: 0,
            revised: 0,
            redeemed: 0,
            claims_lost: 0,
        }
    }

    /// Takes an event of the stream.
    pub fn take(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Minted {
                asset, collection, ..
            } if *collection == self.collection => {
                self.entries.insert(
                    *asset,
                    Entry {
                        fate: Fate::Pending,
                        due_sequence: 0,
                    },
                );
            }
            EventKind::Verified { asset, state, .. } => {
                self.verified += u64::from(*state == AssetState::Active);
                self.set(*asset, *state);
            }
            EventKind::Reviewed {
                asset, accepted, ..
            } => {
                let state = if *accepted {
                    AssetState::Active
                } else {
                    AssetState::Rejected
                };
                self.set(*asset, state);
            }
            EventKind::Revised { asset, .. } => {
                self.revised += 1;
                self.set(*asset, AssetState::Pending);
            }
            EventKind::Burned { asset } => self.set(*asset, AssetState::Burned),
            EventKind::Redeemed { .. } => self.redeemed += 1,
            EventKind::Transferred { cause, .. } => {
                self.traded += u64::from(matches!(
                    cause,
                    TransferCause::Transfer | TransferCause::Claim | TransferCause::Exchange
                ));
            }
            EventKind::ClaimLost { .. } => self.claims_lost += 1,
            EventKind::SettlementDue { asset, .. } => {
                if let Some(entry) = self.entries.get_mut(asset)
                    && entry.due_sequence == 0
                {
                    entry.due_sequence = event.sequence;
                }
            }
            EventKind::BatchFinal { settled_seq, .. } => {
                for entry in self.entries.values_mut() {
                    if entry.due_sequence != 0 && entry.due_sequence <= *settled_seq {
                        entry.fate = Fate::Settled;
                    }
                }
            }
            _ => {}
        }
    }

    fn set(&mut self, asset: AssetId, state: AssetState) {
        let Some(entry) = self.entries.get_mut(&asset) else {
            return;
        };
        // Settled once counts as settled, whatever its owners do with it afterwards.
        if entry.fate == Fate::Settled {
            return;
        }
        entry.fate = match state {
            AssetState::Pending | AssetState::Frozen => Fate::Pending,
            AssetState::Active | AssetState::Redeemed => Fate::Active,
            AssetState::InReview => Fate::InReview,
            AssetState::Rejected => Fate::Rejected,
            AssetState::Burned => Fate::Burned,
        };
    }

    /// The counts now.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally {
            minted: self.entries.len() as u64,
            ..Tally::default()
        };
        for entry in self.entries.values() {
            *match entry.fate {
                Fate::Pending => &mut tally.pending,
                Fate::Active => &mut tally.active,
                Fate::InReview => &mut tally.in_review,
                Fate::Rejected => &mut tally.rejected,
                Fate::Burned => &mut tally.burned,
                Fate::Settled => &mut tally.settled,
            } += 1;
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use karat_proto::command::Decision;
    use karat_proto::event::{LeafKind, Made};
    use karat_proto::{Account, command};

    use super::*;

    fn event(sequence: u64, kind: EventKind) -> Event {
        Event {
            sequence,
            index: 0,
            time_ms: 0,
            kind,
        }
    }

    fn minted(asset: AssetId) -> Event {
        let lineage = command::Lineage {
            model: [0; 32],
            variant: String::new(),
            seed: [0; 32],
            hash: [0; 32],
        };
        event(
            asset,
            EventKind::Minted {
                asset,
                collection: 1,
                owner: Account::NOBODY,
                made: Box::new(Made {
                    content: command::Content {
                        digest: [0; 32],
                        size: 1,
                    },
                    traits: command::Traits::default(),
                    lineage,
                    metadata: [0; 32],
                }),
            },
        )
    }

    fn judged(asset: AssetId, sequence: u64, state: AssetState) -> Event {
        event(
            sequence,
            EventKind::Verified {
                asset,
                version: 1,
                decision: Decision::Accept,
                corruption_ppm: 0,
                findings: Vec::new(),
                state,
            },
        )
    }

    #[test]
    fn every_minted_asset_has_one_place_and_a_settled_one_keeps_it() {
        let mut books = Books::new(1);
        for asset in 1..=3 {
            books.take(&minted(asset));
        }
        books.take(&judged(1, 4, AssetState::Active));
        books.take(&judged(2, 5, AssetState::Rejected));
        books.take(&event(
            6,
            EventKind::SettlementDue {
                asset: 1,
                collection: 1,
                owner: Account::NOBODY,
                version: 1,
                metadata: [0; 32],
                kind: LeafKind::Held,
            },
        ));
        let before = books.tally();
        assert_eq!((before.active, before.rejected, before.pending), (1, 1, 1));
        books.take(&event(
            7,
            EventKind::BatchFinal {
                number: 1,
                settled_seq: 6,
            },
        ));
        books.take(&event(8, EventKind::Burned { asset: 1 }));
        let after = books.tally();
        assert_eq!((after.settled, after.ended(), after.minted), (1, 2, 3));
    }
}
