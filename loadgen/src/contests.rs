//! Who won the assets that every stream claims: one winner each, whom every loser is told.

use crate::books::{Place, Problems};

/// The claim that won an asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Won {
    /// Its sequence.
    pub sequence: u64,
    /// Its place in the run.
    pub place: Place,
    /// Whose it was: an account of that stream.
    pub account: u16,
}

struct Lost {
    contest: u32,
    place: Place,
    winner_sequence: u64,
    winner_id: [u8; 16],
}

/// The contested assets of a run.
#[derive(Default)]
pub struct Contests {
    run: u64,
    assets: Vec<u64>,
    won: Vec<Option<Won>>,
    /// Losers whose winner has not been heard of yet.
    lost: Vec<Lost>,
}

impl Contests {
    /// Of these assets.
    pub fn new(run: u64, assets: &[u64]) -> Contests {
        Contests {
            run,
            assets: assets.to_vec(),
            won: vec![None; assets.len()],
            lost: Vec::new(),
        }
    }

    /// An accepted claim.
    pub fn won(&mut self, contest: u32, won: Won, problems: &mut Problems) {
        if let Some(earlier) = self.won[contest as usize].replace(won) {
            let asset = self.assets[contest as usize];
            let [one, other] = [won, earlier].map(|won| hex::encode(self.id(won.place)));
            problems.note(|| {
                format!("asset {asset} was given to two claims: commands {one} and {other}")
            });
        }
    }

    /// A refused one, with the winner that its outcome names.
    pub fn lost(
        &mut self,
        contest: u32,
        place: Place,
        winner: (u64, &[u8]),
        problems: &mut Problems,
    ) {
        let Ok(winner_id) = winner.1.try_into() else {
            let id = hex::encode(self.id(place));
            problems
                .note(|| format!("command {id}: lost a claim, and its outcome names no winner"));
            return;
        };
        let lost = Lost {
            contest,
            place,
            winner_sequence: winner.0,
            winner_id,
        };
        match self.won[contest as usize] {
            Some(won) => self.check(&lost, won, problems),
            None => self.lost.push(lost),
        }
    }

    /// Checks the losers whose winner came after them, and returns every asset with its winner.
    pub fn close(mut self, problems: &mut Problems) -> Vec<(u64, Option<Won>)> {
        for lost in std::mem::take(&mut self.lost) {
            match self.won[lost.contest as usize] {
                Some(won) => self.check(&lost, won, problems),
                None => {
                    let (id, winner) = (self.id(lost.place), lost.winner_id);
                    problems.note(|| {
                        format!(
                            "command {}: lost to {}, of which no acceptance was heard",
                            hex::encode(id),
                            hex::encode(winner)
                        )
                    });
                }
            }
        }
        self.assets.into_iter().zip(self.won).collect()
    }

    fn check(&self, lost: &Lost, won: Won, problems: &mut Problems) {
        let winner = self.id(won.place);
        if (lost.winner_sequence, lost.winner_id) == (won.sequence, winner) {
            return;
        }
        problems.note(|| {
            format!(
                "command {}: told that {} won at sequence {}, but {} did at {}",
                hex::encode(self.id(lost.place)),
                hex::encode(lost.winner_id),
                lost.winner_sequence,
                hex::encode(winner),
                won.sequence
            )
        });
    }

    fn id(&self, place: Place) -> [u8; 16] {
        place.id(self.run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::command_id;

    fn place(number: u64) -> Place {
        Place::new(0, number)
    }

    fn won(number: u64, sequence: u64) -> Won {
        Won {
            sequence,
            place: place(number),
            account: 0,
        }
    }

    #[test]
    fn losers_that_are_told_the_winner_are_right_before_and_after_it_is_known() {
        let (mut contests, mut problems) = (Contests::new(7, &[50, 51]), Problems::default());
        let winner = command_id(7, 0, 3);
        contests.lost(0, place(4), (10, &winner), &mut problems);
        contests.won(0, won(3, 10), &mut problems);
        contests.lost(0, place(5), (10, &winner), &mut problems);
        assert_eq!(
            contests.close(&mut problems),
            [(50, Some(won(3, 10))), (51, None)]
        );
        assert_eq!(problems, Problems::default());
    }

    #[test]
    fn two_winners_a_wrong_winner_and_none_are_named() {
        let (mut contests, mut problems) = (Contests::new(7, &[50, 51]), Problems::default());
        contests.won(0, won(3, 10), &mut problems);
        contests.won(0, won(4, 11), &mut problems);
        contests.lost(0, place(5), (9, &command_id(7, 0, 9)), &mut problems);
        contests.lost(0, place(6), (0, &[]), &mut problems);
        contests.lost(1, place(7), (8, &command_id(7, 0, 8)), &mut problems);
        contests.close(&mut problems);
        let named = problems.named.join("\n");
        for part in [
            "two claims",
            "won at sequence 9",
            "names no winner",
            "no acceptance",
        ] {
            assert!(named.contains(part), "{named}");
        }
        assert_eq!(problems.count, 4);
    }
}
