//! A fingerprint of what a command changes, made from the command and made again from its events: equal when the ledger
//! did what was asked, and nothing else.
//!
//! 64 bits without a secret: enough to find mistakes, no defence against somebody who looks for collisions.

use karat_proto::v1;
use karat_proto::v1::command::Kind;
use karat_proto::v1::event::Kind as EventKind;

/// The fingerprint of no change.
pub const NOTHING: u64 = 0;

const MINTED: u64 = 1;
const REVISED: u64 = 2;
const TRANSFERRED: u64 = 3;
const CURRENCY: u64 = 4;
const OTHER: u64 = 5;

/// Takes `value` in.
pub fn mix(fingerprint: u64, value: u64) -> u64 {
    // Multiplication spreads upwards, the shift brings it down again.
    let product = (fingerprint ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (product ^ (product >> 32)).wrapping_add(0x6A09_E667_F3BC_C909)
}

fn mix_bytes(fingerprint: u64, bytes: &[u8]) -> u64 {
    let start = mix(fingerprint, bytes.len() as u64);
    bytes.chunks(8).fold(start, |fingerprint, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(fingerprint, u64::from_le_bytes(word))
    })
}

fn transferred(so_far: u64, asset: u64, version: u32, from: &[u8], to: &[u8], cause: i32) -> u64 {
    let start = mix(mix(so_far, TRANSFERRED), asset);
    let start = mix(start, u64::from(version) << 8 | cause as u64);
    mix_bytes(mix_bytes(start, from), to)
}

fn currency(so_far: u64, from: &[u8], to: &[u8], amount: u64) -> u64 {
    let start = mix(mix(so_far, CURRENCY), amount);
    mix_bytes(mix_bytes(start, from), to)
}

fn minted(so_far: u64, collection: u32, owner: &[u8], lineage: Option<&v1::Lineage>) -> u64 {
    let start = mix(mix(so_far, MINTED), u64::from(collection));
    let seed = lineage.map_or(&[][..], |lineage| &lineage.seed);
    mix_bytes(mix_bytes(start, owner), seed)
}

fn revised(so_far: u64, asset: u64, version: u32, lineage: Option<&v1::Lineage>) -> u64 {
    let start = mix(mix(mix(so_far, REVISED), asset), u64::from(version));
    mix_bytes(start, lineage.map_or(&[][..], |lineage| &lineage.seed))
}

/// The number of a minted asset is only in its outcome: it is taken in when that comes.
pub fn with_number(fingerprint: u64, asset: u64) -> u64 {
    mix(fingerprint, asset)
}

/// What a mint changes, from its event, without its number: what [`of_command`] says of its command.
pub fn of_mint(made: &v1::AssetMade) -> Option<u64> {
    let lineage = made.lineage.as_ref()?;
    Some(minted(NOTHING, made.collection, &made.owner, Some(lineage)))
}

/// What a command changes when it is accepted. Of a mint, without its number: see [`with_number`].
pub fn of_command(actor: &[u8], kind: &Kind) -> u64 {
    let cause = |cause: v1::TransferCause| cause as i32;
    match kind {
        Kind::Mint(mint) => minted(NOTHING, mint.collection, &mint.owner, mint.lineage.as_ref()),
        Kind::Revise(revise) => revised(
            NOTHING,
            revise.asset,
            revise.version + 1,
            revise.lineage.as_ref(),
        ),
        Kind::Transfer(transfer) => transferred(
            NOTHING,
            transfer.asset,
            transfer.version,
            actor,
            &transfer.to,
            cause(v1::TransferCause::Transfer),
        ),
        Kind::Claim(claim) => transferred(
            NOTHING,
            claim.asset,
            claim.version,
            &[],
            actor,
            cause(v1::TransferCause::Claim),
        ),
        Kind::Exchange(exchange) => exchange.legs.iter().fold(NOTHING, |so_far, leg| {
            if leg.asset == 0 {
                return currency(so_far, &leg.from, &leg.to, leg.amount);
            }
            let exchanged = cause(v1::TransferCause::Exchange);
            transferred(
                so_far,
                leg.asset,
                leg.version,
                &leg.from,
                &leg.to,
                exchanged,
            )
        }),
        // No scenario sends others.
        _ => OTHER,
    }
}

/// Takes one event of a command in. `None` for events that are no change of ownership, content or currency, such as
/// those of settlement.
pub fn with_event(so_far: u64, event: &EventKind) -> Option<u64> {
    Some(match event {
        EventKind::Minted(made) => {
            let fingerprint = minted(so_far, made.collection, &made.owner, made.lineage.as_ref());
            with_number(fingerprint, made.asset)
        }
        EventKind::Revised(made) => {
            revised(so_far, made.asset, made.version, made.lineage.as_ref())
        }
        EventKind::Transferred(one) => transferred(
            so_far,
            one.asset,
            one.version,
            &one.from,
            &one.to,
            one.cause,
        ),
        EventKind::CurrencyMoved(one) => currency(so_far, &one.from, &one.to, one.amount),
        EventKind::Deposited(_)
        | EventKind::Withdrawn(_)
        | EventKind::Burned(_)
        | EventKind::Redeemed(_)
        | EventKind::ClaimEntered(_) => mix(so_far, OTHER),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn account(number: u8) -> Bytes {
        Bytes::from(vec![number; 20])
    }

    fn transfer(asset: u64, version: u32, to: u8) -> Kind {
        Kind::Transfer(v1::Transfer {
            asset,
            version,
            to: account(to),
        })
    }

    fn event(asset: u64, version: u32, from: u8, to: u8) -> EventKind {
        EventKind::Transferred(v1::Transferred {
            asset,
            version,
            from: account(from),
            to: account(to),
            cause: v1::TransferCause::Transfer.into(),
        })
    }

    #[test]
    fn a_transfer_and_its_event_agree_and_any_difference_shows() {
        let asked = of_command(&account(1), &transfer(7, 3, 2));
        assert_eq!(with_event(NOTHING, &event(7, 3, 1, 2)), Some(asked));
        for other in [
            event(8, 3, 1, 2),
            event(7, 4, 1, 2),
            event(7, 3, 9, 2),
            event(7, 3, 1, 9),
        ] {
            assert_ne!(with_event(NOTHING, &other), Some(asked), "{other:?}");
        }
    }

    #[test]
    fn a_mint_agrees_with_its_event_under_its_number_only() {
        let lineage = Some(v1::Lineage {
            seed: Bytes::from(vec![5; 32]),
            ..v1::Lineage::default()
        });
        let mint = Kind::Mint(v1::Mint {
            collection: 4,
            owner: account(1),
            lineage: lineage.clone(),
            ..v1::Mint::default()
        });
        let asked = of_command(&account(9), &mint);
        let made = EventKind::Minted(v1::AssetMade {
            asset: 77,
            collection: 4,
            owner: account(1),
            version: 1,
            lineage,
            ..v1::AssetMade::default()
        });
        assert_eq!(with_event(NOTHING, &made), Some(with_number(asked, 77)));
        assert_ne!(with_event(NOTHING, &made), Some(with_number(asked, 78)));
    }

    #[test]
    fn an_exchange_agrees_with_its_events_in_their_order() {
        let legs = vec![
            v1::Leg {
                from: account(1),
                to: account(2),
                asset: 5,
                version: 1,
                amount: 0,
            },
            v1::Leg {
                from: account(2),
                to: account(1),
                asset: 0,
                version: 0,
                amount: 40,
            },
        ];
        let asked = of_command(
            &account(2),
            &Kind::Exchange(v1::Exchange {
                legs,
                consents: vec![account(1)],
            }),
        );
        let moved = EventKind::Transferred(v1::Transferred {
            asset: 5,
            version: 1,
            from: account(1),
            to: account(2),
            cause: v1::TransferCause::Exchange.into(),
        });
        let paid = EventKind::CurrencyMoved(v1::CurrencyMoved {
            from: account(2),
            to: account(1),
            amount: 40,
        });
        let both = with_event(NOTHING, &moved).and_then(|so_far| with_event(so_far, &paid));
        assert_eq!(both, Some(asked));
        let turned = with_event(NOTHING, &paid).and_then(|so_far| with_event(so_far, &moved));
        assert_ne!(turned, Some(asked));
    }

    #[test]
    fn events_of_settlement_and_verdicts_are_no_change() {
        assert_eq!(
            with_event(3, &EventKind::BatchCut(v1::BatchCut::default())),
            None
        );
        assert_eq!(
            with_event(3, &EventKind::Verified(v1::Verified::default())),
            None
        );
        assert_eq!(
            with_event(3, &EventKind::SettlementDue(v1::SettlementDue::default())),
            None
        );
    }
}
