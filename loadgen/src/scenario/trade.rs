//! Trades among a stream's accounts: transfers, exchanges of an asset for currency, claims.

use karat_proto::v1;
use karat_proto::v1::command::Kind;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{Draft, Effect, Holdings, Scenario};

/// Assets of a run are minted in version 1, and no scenario here revises.
const VERSION: u32 = 1;
/// Prices are 1 to this, minor units; accounts begin with enough for 10 million of them.
const PRICE_MAX: u32 = 100;

/// Trades without end, on assets chosen evenly.
pub struct Trades {
    random: ChaCha8Rng,
}

impl Trades {
    /// With this seed.
    pub fn new(seed: u64) -> Trades {
        Trades {
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    fn claim(&mut self, holdings: &mut Holdings) -> Option<Draft> {
        let to = self.random.random_range(0..holdings.account_count());
        let row = holdings.take_open(to)?;
        Some(Draft {
            actor: holdings.account(to),
            command: Kind::Claim(v1::Claim {
                asset: holdings.asset(row),
                version: VERSION,
            }),
            effect: Effect::Claim { row, to },
        })
    }

    /// An account other than `owner`.
    fn other(&mut self, owner: u16, accounts: u16) -> u16 {
        let step = self.random.random_range(1..accounts);
        (owner + step) % accounts
    }
}

impl Scenario for Trades {
    fn next(&mut self, holdings: &mut Holdings) -> Draft {
        let tenth = self.random.random_range(0..10u8);
        if tenth == 9
            && let Some(draft) = self.claim(holdings)
        {
            return draft;
        }
        let start = self.random.random_range(0..holdings.rows().len());
        // When the ledger lets nothing be traded, its refusals are the result: send one more.
        let row = holdings.tradable(start).unwrap_or(start as u32);
        let owner = holdings.believed(row).min(holdings.account_count() - 1);
        let receiver = self.other(owner, holdings.account_count());
        holdings.believe(row, receiver);
        let (from, to) = (holdings.account(owner), holdings.account(receiver));
        let asset = holdings.asset(row);
        if tenth < 7 || tenth == 9 {
            return Draft {
                actor: from,
                command: Kind::Transfer(v1::Transfer {
                    asset,
                    version: VERSION,
                    to,
                }),
                effect: Effect::Transfer { row, to: receiver },
            };
        }
        let amount = self.random.random_range(1..=PRICE_MAX);
        let legs = vec![
            v1::Leg {
                from: from.clone(),
                to: to.clone(),
                asset,
                version: VERSION,
                amount: 0,
            },
            v1::Leg {
                from: to.clone(),
                to: from.clone(),
                asset: 0,
                version: 0,
                amount: u64::from(amount),
            },
        ];
        Draft {
            actor: from,
            command: Kind::Exchange(v1::Exchange {
                legs,
                consents: vec![to],
            }),
            effect: Effect::Exchange {
                row,
                seller: owner,
                buyer: receiver,
                amount,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::NOBODY;
    use super::*;
    use karat_proto::Account;

    fn holdings() -> Holdings {
        let accounts: Vec<Account> = (0..8)
            .map(|n| Account::from_name(&format!("a{n}")))
            .collect();
        let mut holdings = Holdings::new(&accounts, true);
        for asset in 1..=100 {
            let owner = if asset % 5 == 0 {
                NOBODY
            } else {
                (asset % 8) as u16
            };
            holdings.put(asset, owner, asset);
        }
        holdings
    }

    #[test]
    fn one_seed_gives_the_same_commands_again() {
        let (mut first, mut second) = (holdings(), holdings());
        let (mut one, mut two) = (Trades::new(3), Trades::new(3));
        for _ in 0..1_000 {
            let (a, b) = (one.next(&mut first), two.next(&mut second));
            assert_eq!((a.actor, a.command), (b.actor, b.command));
        }
    }

    #[test]
    fn every_trade_is_one_that_the_ledger_must_accept_when_all_before_it_were() {
        let mut holdings = holdings();
        let mut trades = Trades::new(5);
        let mut owners: std::collections::HashMap<u64, bytes::Bytes> = holdings
            .rows()
            .iter()
            .map(|row| (row.asset, holdings.account(row.owner)))
            .collect();
        for _ in 0..5_000 {
            let draft = trades.next(&mut holdings);
            match draft.command {
                Kind::Transfer(transfer) => {
                    assert_eq!(owners[&transfer.asset], draft.actor);
                    assert_ne!(transfer.to, draft.actor);
                    owners.insert(transfer.asset, transfer.to);
                }
                Kind::Claim(claim) => {
                    assert!(owners[&claim.asset].is_empty());
                    owners.insert(claim.asset, draft.actor);
                }
                Kind::Exchange(exchange) => {
                    let (given, paid) = (&exchange.legs[0], &exchange.legs[1]);
                    assert_eq!(owners[&given.asset], draft.actor);
                    assert_eq!((&given.from, &given.to), (&paid.to, &paid.from));
                    assert_eq!(exchange.consents, std::slice::from_ref(&given.to));
                    assert!(paid.amount >= 1 && paid.asset == 0);
                    owners.insert(given.asset, given.to.clone());
                }
                other => panic!("{other:?} is no trade"),
            }
        }
        assert!(owners.values().all(|owner| !owner.is_empty()));
    }
}
