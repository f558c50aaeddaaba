//! What a command changes in the holdings of its stream if it is accepted.

/// Kinds of commands that scenarios send, as reports name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A mint.
    Mint,
    /// A transfer.
    Transfer,
    /// An exchange of assets for currency.
    Exchange,
    /// A claim of an asset that no other stream claims.
    Claim,
    /// A claim of an asset that every stream claims.
    Contest,
    /// A revision.
    Revise,
    /// A command that must be refused.
    Wrong,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Kind; 7] = [
        Kind::Mint,
        Kind::Transfer,
        Kind::Exchange,
        Kind::Claim,
        Kind::Contest,
        Kind::Revise,
        Kind::Wrong,
    ];

    /// As reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Mint => "mint",
            Kind::Transfer => "transfer",
            Kind::Exchange => "exchange",
            Kind::Claim => "claim",
            Kind::Contest => "contested claim",
            Kind::Revise => "revise",
            Kind::Wrong => "wrong on purpose",
        }
    }
}

/// What a command changes if it is accepted. Accounts and rows by their place in the stream's holdings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A new asset belongs to `owner`.
    Mint {
        /// Account.
        owner: u16,
    },
    /// The asset belongs to `to`.
    Transfer {
        /// Which.
        row: u32,
        /// To whom.
        to: u16,
    },
    /// Assets and currency change hands.
    Exchange {
        /// Where [`super::Holdings`] keeps its parts while it is under way.
        place: u32,
    },
    /// The asset that nobody owned belongs to `to`.
    Claim {
        /// Which.
        row: u32,
        /// To whom.
        to: u16,
    },
    /// The contested asset belongs to `to`, if nobody was faster.
    Contest {
        /// Its place among the contested assets of the run.
        place: u32,
        /// To whom.
        to: u16,
    },
    /// The asset has a new version.
    Revise {
        /// Which.
        row: u32,
        /// The new version.
        version: u32,
    },
    /// Nothing: it must be refused with this code.
    Wrong {
        /// Which.
        code: u16,
    },
}

impl Effect {
    /// Which kind of command has this effect.
    pub fn kind(&self) -> Kind {
        match self {
            Effect::Mint { .. } => Kind::Mint,
            Effect::Transfer { .. } => Kind::Transfer,
            Effect::Exchange { .. } => Kind::Exchange,
            Effect::Claim { .. } => Kind::Claim,
            Effect::Contest { .. } => Kind::Contest,
            Effect::Revise { .. } => Kind::Revise,
            Effect::Wrong { .. } => Kind::Wrong,
        }
    }
}

/// One asset of an exchange, and what is paid for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which.
    pub row: u32,
    /// Who gives it.
    pub seller: u16,
    /// Who pays for it.
    pub buyer: u16,
    /// How much, minor units.
    pub amount: u32,
}
