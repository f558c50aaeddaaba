//! The kinds of commands that are measured.

/// What a command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Currency for an account.
    Deposit,
    /// A new asset that somebody owns.
    MintOwned,
    /// A new asset that is open for claims.
    MintUnowned,
    /// New content and traits for an asset, by its owner.
    Revise,
    /// An asset from its owner to another account.
    Transfer,
    /// An asset that nobody owns, for the first who asks.
    Claim,
    /// One asset against currency: 2 legs.
    Exchange,
    /// Four assets of four owners, each against currency: 8 legs.
    ExchangeOfEightLegs,
    /// A verdict that accepts an asset, without findings.
    Verdict,
    /// The end of an asset.
    Burn,
    /// 70 % transfers, 15 % exchanges, 10 % claims, 5 % mints that are open for claims, in random order.
    Mixed,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 11] = [
        Kind::Deposit,
        Kind::MintOwned,
        Kind::MintUnowned,
        Kind::Revise,
        Kind::Transfer,
        Kind::Claim,
        Kind::Exchange,
        Kind::ExchangeOfEightLegs,
        Kind::Verdict,
        Kind::Burn,
        Kind::Mixed,
    ];

    /// Name in a table of figures.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Deposit => "deposit",
            Kind::MintOwned => "mint_owned",
            Kind::MintUnowned => "mint_unowned",
            Kind::Revise => "revise",
            Kind::Transfer => "transfer",
            Kind::Claim => "claim",
            Kind::Exchange => "exchange",
            Kind::ExchangeOfEightLegs => "exchange_8_legs",
            Kind::Verdict => "verdict",
            Kind::Burn => "burn",
            Kind::Mixed => "mixed",
        }
    }
}
