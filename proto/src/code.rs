//! Refusal codes: stable numbers, a sentence with what to do, and the gRPC status that a unary call answers with.
//!
//! Numbers are never reused; a retired code keeps its line. 1-99 form, 100-199 the door, 200-299 assets,
//! 300-399 currency, 400-499 collections and models, 500-599 verification, 600-699 settlement, 700-799 realm.

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $status:ident, $hint:literal;)*) => {
        /// Why a command was refused, or that it was accepted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Code {
            $($(#[$doc])* $name = $number,)*
        }

        impl Code {
            /// Every code, in the order of their numbers.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The code with this number.
            pub fn from_number(number: u16) -> Option<Code> {
                match number {
                    $($number => Some(Code::$name),)*
                    _ => None,
                }
            }

            /// The name, as it stands in metrics, JSON and documents.
            pub fn name(self) -> &'static str {
                match self {
                    $(Code::$name => stringify!($name),)*
                }
            }

            /// What to do about it.
            pub fn hint(self) -> &'static str {
                match self {
                    $(Code::$name => $hint,)*
                }
            }

            /// The gRPC status of a unary call that ends so.
            pub fn status(self) -> Status {
                match self {
                    $(Code::$name => Status::$status,)*
                }
            }
        }
    };
}

/// The gRPC statuses that codes map to (numbers as gRPC has them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// 0.
    Ok = 0,
    /// 3.
    InvalidArgument = 3,
    /// 5.
    NotFound = 5,
    /// 6.
    AlreadyExists = 6,
    /// 7.
    PermissionDenied = 7,
    /// 8.
    ResourceExhausted = 8,
    /// 9.
    FailedPrecondition = 9,
    /// 10.
    Aborted = 10,
    /// 14.
    Unavailable = 14,
}

codes! {
    /// Applied.
    Accepted = 0, Ok, "applied";

    /// The message could not be read.
    Malformed = 1, InvalidArgument, "a field is missing or has the wrong length; the message says which";
    /// `Command.format` is newer than this build.
    UnknownFormat = 2, InvalidArgument, "set Command.format to 1, or update the engine";
    /// The command is longer than the limit.
    CommandTooLarge = 3, InvalidArgument, "an encoded command may have 16 KiB; content travels in its own field";
    /// A request with no command.
    EmptyRequest = 4, InvalidArgument, "send 1 to 1024 commands in a request";
    /// A request with too many commands.
    TooManyCommands = 5, InvalidArgument, "send 1 to 1024 commands in a request";
    /// A text is too long.
    TextTooLong = 6, InvalidArgument, "names may have 64 bytes, texts 256";

    /// The content is not a PNG that the limits allow.
    ContentRefused = 100, InvalidArgument, "content must be a whole PNG within the size limits";
    /// The content's digest is not the one named.
    DigestMismatch = 101, InvalidArgument, "the digest must be sha2-256 of the content bytes";
    /// The command names content that is not stored.
    ContentMissing = 102, FailedPrecondition, "send the bytes in the command's content field";
    /// The queue is full.
    Overloaded = 103, ResourceExhausted, "wait retry_after_ms and send the same command again";
    /// This client sends faster than its rate.
    RateLimited = 104, ResourceExhausted, "slow down; the limit is per stream";
    /// The engine is stopping or its log failed.
    Unavailable = 105, Unavailable, "reconnect and send the same command again; its id makes that safe";
    /// This engine follows another one, which leads.
    NotLeader = 106, FailedPrecondition, "send the same command to the leader; the message names it where it is known";
    /// Another process leads the realm, or none does at the moment.
    RealmElsewhere = 107, FailedPrecondition, "send the same request to the process that the message names; where it names none, ask again after karat-retry-after-ms";
    /// The process knows no such realm, or the request names none.
    UnknownRealm = 108, NotFound, "name one of the group's realms in the metadata header karat-realm";

    /// No such asset.
    UnknownAsset = 200, NotFound, "check the asset's number";
    /// The asset has another version by now.
    StaleVersion = 201, Aborted, "read the asset again and decide anew";
    /// The actor does not own it.
    NotOwner = 202, PermissionDenied, "only the owner can do this";
    /// A pending asset of this collection may not do this.
    NotActive = 203, FailedPrecondition, "wait for the verdict";
    /// The asset is frozen.
    AssetFrozen = 204, FailedPrecondition, "the operator froze it";
    /// The asset has ended (rejected, burned or redeemed).
    AssetEnded = 205, FailedPrecondition, "nothing more can happen to it";
    /// Somebody owns it, so it cannot be claimed.
    AlreadyOwned = 206, Aborted, "another claim or transfer came first; the answer names it";
    /// The receiver is nobody or the owner already.
    BadReceiver = 207, InvalidArgument, "name another receiver";
    /// This account's claim already waits in the window.
    AlreadyClaimed = 208, AlreadyExists, "wait for the draw";
    /// The window holds as many claims as it can.
    ClaimWindowFull = 209, ResourceExhausted, "try again after the draw";
    /// The draw went to another claim.
    ClaimLost = 210, Aborted, "another claim won the draw";
    /// The asset is not frozen.
    NotFrozen = 211, FailedPrecondition, "only a frozen asset can be unfrozen";
    /// The asset has no review open.
    NotInReview = 212, FailedPrecondition, "only an asset in review can be decided";

    /// The account does not have that much.
    InsufficientFunds = 300, FailedPrecondition, "deposit first, or ask for less";
    /// An amount is 0 or a sum passes 64 bits.
    BadAmount = 301, InvalidArgument, "amounts are 1 to 2^63-1, and so is every sum of them";
    /// An exchange has no legs, names an asset twice, or gives to the giver.
    BadExchange = 302, InvalidArgument, "1 to 64 legs, each asset at most once, giver and receiver differ";
    /// A giver did not agree.
    ConsentMissing = 303, PermissionDenied, "every giver must be the actor or stand in consents";

    /// No such collection.
    UnknownCollection = 400, NotFound, "check the collection's number";
    /// Only the creator may do this.
    NotCreator = 401, PermissionDenied, "ask the collection's creator";
    /// The supply is used up.
    SupplyCapReached = 402, ResourceExhausted, "the collection is complete";
    /// Traits do not fit the collection's rules.
    TraitsRefused = 403, InvalidArgument, "one value for each trait, within its vocabulary, no excluded pair";
    /// A trait value's cap is used up.
    ValueCapReached = 404, ResourceExhausted, "choose another value";
    /// The collection's rules contradict themselves or pass a limit.
    BadCollection = 405, InvalidArgument, "check traits, weights, caps and exclusions";
    /// The revealed secret is not the committed one.
    SeedMismatch = 406, InvalidArgument, "sha2-256 of the secret must equal the commitment";
    /// No such model.
    UnknownModel = 407, NotFound, "register the model first";
    /// The model may not mint.
    ModelNotApproved = 408, FailedPrecondition, "the operator must promote the model";
    /// The model is there already.
    ModelExists = 409, AlreadyExists, "nothing to do";
    /// A retired model cannot come back.
    ModelRetired = 410, FailedPrecondition, "register a new version";
    /// The seed was revealed before.
    SeedRevealed = 411, AlreadyExists, "nothing to do";

    /// The policy demands signed models, and this one is not signed.
    ModelUnsigned = 412, FailedPrecondition, "sign its folder with `karat model sign` and register it again";
    /// The key that signed the model is not one of the policy's.
    ModelKeyUnknown = 413, PermissionDenied, "sign with one of the policy's keys, or list this one with `karat realm set-policy --model-key`";
    /// The signature is not of this digest, role and name by this key.
    ModelSignatureBad = 414, InvalidArgument, "the model or its signature was altered: restore the folder, or sign it again";

    /// The verdict is for another version or an asset that waits for none.
    VerdictVoid = 500, Aborted, "the asset changed; look at the new version";
    /// The verdict was reached under an older policy.
    StalePolicy = 501, Aborted, "look again under the new policy";
    /// The verdict's findings or scores are out of range.
    BadVerdict = 502, InvalidArgument, "scores are 0 to 1,000,000 ppm, findings at most 16";

    /// The batch number is not the next one.
    BatchOutOfOrder = 600, FailedPrecondition, "batches go in order through cut, sealed, committed, final";
    /// The leaves are not as many as the ledger counted.
    BatchMismatch = 601, FailedPrecondition, "the netting is wrong; rebuild the batch from the log";

    /// The id was used for another body.
    IdReused = 700, AlreadyExists, "choose a fresh id for every new command";
    /// The realm is paused.
    Paused = 701, Unavailable, "the operator paused the realm; try later";
    /// Only the operator, verifier or settler may do this.
    NotAllowed = 702, PermissionDenied, "this command belongs to another role";
    /// The realm is not opened yet, or opened already.
    BadGenesis = 703, FailedPrecondition, "genesis is the first command of a log and only that";
    /// The policy contradicts itself or its version does not follow on.
    BadPolicy = 704, InvalidArgument, "version must be the old one plus 1, thresholds in order, limits kept";
    /// As many ids are remembered as may be.
    RetryMemoryFull = 705, ResourceExhausted, "settlement lags behind; try again when it has caught up";
    /// The realm holds as many accounts, collections or models as it may, or an asset has had its last version.
    RealmFull = 706, ResourceExhausted, "a limit of the realm is reached for good; open another realm";
    /// The policy's model keys are too many, no Ed25519 keys, listed twice, or none while signatures are demanded.
    BadModelKeys = 707, InvalidArgument, "list 1 to 16 different Ed25519 public keys before demanding signed models";
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn every_number_leads_back_to_its_code() {
        for code in Code::ALL {
            assert_eq!(Code::from_number(*code as u16), Some(*code));
            assert!(!code.hint().is_empty());
        }
        assert!(
            Code::ALL
                .windows(2)
                .all(|pair| (pair[0] as u16) < (pair[1] as u16))
        );
    }
}
