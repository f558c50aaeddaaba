//! Exchanges: many legs, assets and currency, all or nothing.
//!
//! All legs take effect at once: what an account receives in an exchange can pay for what it gives in it. Every leg is
//! checked against the state before the exchange, then every leg is applied, in order.

use crate::apply::{Applied, Refusal, Step};
use crate::currency::AMOUNT_MAX;
use crate::state::Ledger;
use crate::state::accounts::AccountIndex;
use karat_proto::command::{Exchange, Leg};
use karat_proto::event::{EventKind, TransferCause};
use karat_proto::{Account, Code, limits};

/// What an exchange leaves an account with, against before. 64 amounts of at most 2^63 fit with room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NetPosition {
    account: Account,
    /// The account's number, if it has one yet.
    number: Option<AccountIndex>,
    change: i128,
}

impl Ledger {
    pub(crate) fn exchange(&mut self, step: &mut Step<'_>, exchange: &Exchange) -> Applied {
        check_form(step.actor, exchange)?;
        for leg in &exchange.legs {
            if let Leg::Asset {
                asset: id,
                version,
                from,
                ..
            } = leg
            {
                let asset = self.owned_asset(*id, *version, from)?;
                self.check_tradable(*id, asset)?;
            }
        }
        self.check_currency(exchange)?;

        for leg in &exchange.legs {
            match leg {
                Leg::Asset {
                    asset, from, to, ..
                } => {
                    let winner = step.change();
                    self.hand_over(step, *asset, (from, to), TransferCause::Exchange, winner);
                }
                Leg::Currency { from, to, amount } => {
                    step.emit_made(|| EventKind::CurrencyMoved {
                        from: *from,
                        to: *to,
                        amount: *amount,
                    });
                }
            }
        }
        self.move_currency();
        Ok(0)
    }

    /// Fills the scratch with every account's net change, and refuses what an account cannot pay.
    fn check_currency(&mut self, exchange: &Exchange) -> Result<(), Refusal> {
        self.exchange_scratch.clear();
        let mut gross: u64 = 0;
        for leg in &exchange.legs {
            let Leg::Currency { from, to, amount } = *leg else {
                continue;
            };
            gross = gross
                .checked_add(amount)
                .filter(|sum| *sum <= AMOUNT_MAX)
                .ok_or(Code::BadAmount)?;
            self.add_net(from, -i128::from(amount));
            self.add_net(to, i128::from(amount));
        }
        for net in &mut self.exchange_scratch {
            net.number = self.accounts.find(&net.account);
            let balance = net.number.map_or(0, |number| self.accounts.balance(number));
            if i128::from(balance) + net.change < 0 {
                return Err(Code::InsufficientFunds.into());
            }
        }
        Ok(())
    }

    /// At most 128 accounts: looking along them is cheaper than hashing.
    fn add_net(&mut self, account: Account, change: i128) {
        let known = self
            .exchange_scratch
            .iter_mut()
            .find(|net| net.account == account);
        match known {
            Some(net) => net.change += change,
            None => self.exchange_scratch.push(NetPosition {
                account,
                number: None,
                change,
            }),
        }
    }

    /// Applies the net changes that were checked. The sum of balances stays, so none can pass the largest amount.
    fn move_currency(&mut self) {
        for place in 0..self.exchange_scratch.len() {
            let net = self.exchange_scratch[place];
            let number = match net.number {
                Some(number) => number,
                None => self.accounts.intern(&net.account),
            };
            let balance = i128::from(self.accounts.balance(number)) + net.change;
            debug_assert!((0..=i128::from(AMOUNT_MAX)).contains(&balance));
            self.accounts.set_balance(number, balance as u64);
        }
    }
}

/// What can be refused without looking at the state.
fn check_form(actor: Account, exchange: &Exchange) -> Result<(), Refusal> {
    let legs = &exchange.legs;
    // More consents than legs cannot all be needed, and looking through them must stay short.
    let too_long = legs.len() > limits::EXCHANGE_LEGS_MAX
        || exchange.consents.len() > limits::EXCHANGE_LEGS_MAX;
    if legs.is_empty() || too_long {
        return Err(Code::BadExchange.into());
    }
    for (place, leg) in legs.iter().enumerate() {
        let (from, to) = match *leg {
            Leg::Asset {
                asset, from, to, ..
            } => {
                let named_before = legs[..place].iter().any(
                    |other| matches!(other, Leg::Asset { asset: named, .. } if *named == asset),
                );
                if named_before {
                    return Err(Refusal::about(Code::BadExchange, asset));
                }
                (from, to)
            }
            Leg::Currency { from, to, amount } => {
                if amount == 0 || amount > AMOUNT_MAX {
                    return Err(Code::BadAmount.into());
                }
                (from, to)
            }
        };
        if from == to {
            return Err(Code::BadExchange.into());
        }
        if to.is_nobody() {
            return Err(Code::BadReceiver.into());
        }
        // Nobody cannot agree, even when a consent says so: what nobody owns is open for claims and for nothing else.
        let agreed = from == actor || exchange.consents.contains(&from);
        if from.is_nobody() || !agreed {
            return Err(Code::ConsentMissing.into());
        }
    }
    Ok(())
}
