//! Seeded commands in every kind that players and agents send, each of which the ledger accepts when all are applied in the
//! order in which they were made.

use std::collections::VecDeque;

use bytes::Bytes;
use karat_proto::command::{ClaimRule, CollectionSpec, Command, PendingRule, Policy, TraitSpec};
use karat_proto::v1::{self, command::Kind as Wire};
use karat_proto::{Account, AssetId, CommandId, convert};

use crate::kind::Kind;

const OPERATOR: Account = Account([1; 20]);
const VERIFIER: Account = Account([2; 20]);
const SETTLER: Account = Account([3; 20]);
const CREATOR: Account = Account([4; 20]);
const MODEL: [u8; 32] = [8; 32];
const COLLECTION: u32 = 1;
/// Each account's balance at the beginning, minor units: more than any run here spends.
const BALANCE: u64 = 1_000_000_000;
/// Assets that a [`Kind::ExchangeOfEightLegs`] moves; each is paid for with a leg of its own.
const BUNDLE: usize = 4;

/// A command as the log holds it and as the ledger takes it.
#[derive(Clone, Debug)]
pub struct Made {
    /// Encoded.
    pub body: Bytes,
    /// Decoded from it.
    pub command: Command,
}

/// What is known of an asset without asking the ledger. Index plus 1 is its id.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Nobody for an asset that is open for claims, or ended.
    owner: Account,
    version: u32,
}

/// Makes commands. It keeps its own books, so it needs no answer from the ledger: the same seed and the same calls make
/// the same commands.
#[derive(Clone, Debug)]
pub struct Workload {
    random: u64,
    made: u64,
    accounts: u64,
    assets: Vec<Held>,
    unclaimed: VecDeque<AssetId>,
    /// The next asset for a verdict; those before it have one.
    unjudged: AssetId,
}

impl Workload {
    /// A workload over `accounts` accounts, at least 2.
    pub fn new(accounts: u64) -> Workload {
        assert!(accounts >= 2, "nobody to trade with");
        Workload {
            random: 0x1234_5678_9abc_def1,
            made: 0,
            accounts,
            assets: Vec::new(),
            unclaimed: VecDeque::new(),
            unjudged: 1,
        }
    }

    /// The commands with which a log begins: realm, collection, and a model that may mint. Batches are cut by their size
    /// alone.
    pub fn opening(&mut self) -> Vec<Made> {
        let policy = Policy {
            batch_age_ms_max: u64::MAX,
            ..Policy::default()
        };
        let genesis = v1::Genesis {
            realm: "bench".into(),
            operator: bytes_of(&OPERATOR),
            verifier: bytes_of(&VERIFIER),
            settler: bytes_of(&SETTLER),
            policy: Some(convert::policy_to_wire(&policy)),
        };
        let spec = Some(convert::spec_to_wire(&collection()));
        let digest = Bytes::from_static(&MODEL);
        let register = v1::RegisterModel {
            digest: digest.clone(),
            name: "bench".into(),
            role: v1::ModelRole::Generator as i32,
            ..Default::default()
        };
        vec![
            self.command(OPERATOR, Wire::Genesis(genesis)),
            self.command(
                CREATOR,
                Wire::CreateCollection(v1::CreateCollection { spec }),
            ),
            self.command(OPERATOR, Wire::RegisterModel(register)),
            self.command(OPERATOR, Wire::PromoteModel(v1::PromoteModel { digest })),
        ]
    }

    /// The command that gives the account with this number, below the count of accounts, its first balance.
    pub fn first_deposit(&mut self, number: u64) -> Made {
        self.deposit(account(number), BALANCE)
    }

    /// The next command of a kind.
    ///
    /// # Panics
    /// When a claim, verdict or burn is asked for and no asset is left for it.
    pub fn make(&mut self, kind: Kind) -> Made {
        match kind {
            Kind::Deposit => {
                let account = self.somebody();
                self.deposit(account, 1)
            }
            Kind::MintOwned => {
                let owner = self.somebody();
                self.mint(owner)
            }
            Kind::MintUnowned => self.mint(Account::NOBODY),
            Kind::Revise => self.revise(),
            Kind::Transfer => self.transfer(),
            Kind::Claim => self.claim(),
            Kind::Exchange => self.exchange(1),
            Kind::ExchangeOfEightLegs => self.exchange(BUNDLE),
            Kind::Verdict => self.verdict(),
            Kind::Burn => self.burn(),
            Kind::Mixed => match self.next() % 100 {
                0..70 => self.transfer(),
                70..85 => self.exchange(1),
                85..95 => self.claim(),
                _ => self.mint(Account::NOBODY),
            },
        }
    }

    /// What the settler reports about batches that were cut, given as number and count of changes: their roots, their
    /// transactions and that they are final. Without it the ledger may forget no id.
    pub fn settle(&mut self, batches: impl IntoIterator<Item = (u64, u32)>) -> Vec<Made> {
        let digest = Bytes::from_static(&[5; 32]);
        let mut made = Vec::new();
        for (number, leaves) in batches {
            let sealed = v1::BatchSealed {
                number,
                root: digest.clone(),
                payload: digest.clone(),
                leaves,
            };
            let committed = v1::BatchCommitted {
                number,
                transaction: digest.clone(),
                chain_block: number,
                gas_used: 1,
                fee_wei: Bytes::from_static(&[1]),
            };
            made.extend([
                self.command(SETTLER, Wire::BatchSealed(sealed)),
                self.command(SETTLER, Wire::BatchCommitted(committed)),
                self.command(SETTLER, Wire::BatchFinal(v1::BatchFinal { number })),
            ]);
        }
        made
    }

    /// A command that leaves nothing behind but its id in the retry memory.
    pub fn tick(&mut self) -> Made {
        self.command(OPERATOR, Wire::Tick(v1::Tick { base_fee_wei: 0 }))
    }

    /// Assets that wait for a claim.
    pub fn unclaimed(&self) -> usize {
        self.unclaimed.len()
    }

    fn next(&mut self) -> u64 {
        // xorshift64*: any cheap stream will do.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn somebody(&mut self) -> Account {
        account(self.next() % self.accounts)
    }

    fn somebody_but(&mut self, other: Account) -> Account {
        loop {
            let somebody = self.somebody();
            if somebody != other {
                return somebody;
            }
        }
    }

    /// An asset that has an owner, as its place in the books.
    fn owned(&mut self) -> usize {
        // Most assets have one: burning and minting for claims leave at least half.
        loop {
            let place = (self.next() % self.assets.len() as u64) as usize;
            if !self.assets[place].owner.is_nobody() {
                return place;
            }
        }
    }

    fn command(&mut self, actor: Account, kind: Wire) -> Made {
        self.made += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.next().to_le_bytes());
        id[8..].copy_from_slice(&self.made.to_le_bytes());
        match convert::encode_command(convert::new_command(CommandId(id), actor, kind)) {
            Ok((body, command)) => Made { body, command },
            Err(refused) => panic!("the workload made a malformed command: {refused}"),
        }
    }

    fn deposit(&mut self, account: Account, amount: u64) -> Made {
        let account = bytes_of(&account);
        self.command(OPERATOR, Wire::Deposit(v1::Deposit { account, amount }))
    }

    /// Digest of content that does not exist, and trait values.
    fn content(&mut self) -> (Bytes, Bytes) {
        let random = self.next();
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&random.to_le_bytes());
        let values = [0, 8, 16, 24].map(|shift| (random >> shift) as u8 % 8);
        (
            Bytes::copy_from_slice(&digest),
            Bytes::copy_from_slice(&values),
        )
    }

    fn mint(&mut self, owner: Account) -> Made {
        self.assets.push(Held { owner, version: 1 });
        if owner.is_nobody() {
            self.unclaimed.push_back(self.assets.len() as u64);
        }
        let (digest, traits) = self.content();
        let mint = v1::Mint {
            collection: COLLECTION,
            owner: match owner.is_nobody() {
                true => Bytes::new(),
                false => bytes_of(&owner),
            },
            digest: digest.clone(),
            size: 3000,
            traits,
            lineage: Some(lineage(digest)),
            content: Bytes::new(),
        };
        self.command(CREATOR, Wire::Mint(mint))
    }

    fn revise(&mut self) -> Made {
        let place = self.owned();
        let Held { owner, version } = self.assets[place];
        self.assets[place].version += 1;
        let (digest, traits) = self.content();
        let revise = v1::Revise {
            asset: place as u64 + 1,
            version,
            collection: COLLECTION,
            digest: digest.clone(),
            size: 3000,
            traits,
            lineage: Some(lineage(digest)),
            content: Bytes::new(),
        };
        self.command(owner, Wire::Revise(revise))
    }

    fn transfer(&mut self) -> Made {
        let place = self.owned();
        let Held { owner, version } = self.assets[place];
        let to = self.somebody_but(owner);
        self.assets[place].owner = to;
        let transfer = v1::Transfer {
            asset: place as u64 + 1,
            version,
            to: bytes_of(&to),
        };
        self.command(owner, Wire::Transfer(transfer))
    }

    fn claim(&mut self) -> Made {
        let Some(asset) = self.unclaimed.pop_front() else {
            panic!("no asset is left to claim: mint more of them unowned");
        };
        let actor = self.somebody();
        let held = &mut self.assets[asset as usize - 1];
        held.owner = actor;
        let version = held.version;
        self.command(actor, Wire::Claim(v1::Claim { asset, version }))
    }

    /// `assets` assets for one buyer, each against 1 of currency, asked for by the buyer.
    fn exchange(&mut self, assets: usize) -> Made {
        let buyer = self.somebody();
        let mut legs = Vec::with_capacity(2 * assets);
        let mut consents = Vec::with_capacity(assets);
        while consents.len() < assets {
            let place = self.owned();
            let Held { owner, version } = self.assets[place];
            // An asset that was just bought is the buyer's, so none comes twice.
            if owner == buyer {
                continue;
            }
            self.assets[place].owner = buyer;
            let (seller, buyer) = (bytes_of(&owner), bytes_of(&buyer));
            legs.push(v1::Leg {
                from: seller.clone(),
                to: buyer.clone(),
                asset: place as u64 + 1,
                version,
                amount: 0,
            });
            legs.push(v1::Leg {
                from: buyer,
                to: seller.clone(),
                asset: 0,
                version: 0,
                amount: 1,
            });
            consents.push(seller);
        }
        self.command(buyer, Wire::Exchange(v1::Exchange { legs, consents }))
    }

    fn verdict(&mut self) -> Made {
        let asset = self.unjudged;
        let Some(held) = self.assets.get(asset as usize - 1) else {
            panic!("no asset is left to judge: mint more of them");
        };
        let version = held.version;
        self.unjudged += 1;
        let verdict = v1::Verdict {
            asset,
            version,
            policy_version: 1,
            decision: v1::Decision::Accept as i32,
            corruption_ppm: 1000,
            findings: Vec::new(),
        };
        self.command(VERIFIER, Wire::Verdict(verdict))
    }

    fn burn(&mut self) -> Made {
        let place = self.owned();
        let Held { owner, version } = self.assets[place];
        self.assets[place].owner = Account::NOBODY;
        let asset = place as u64 + 1;
        self.command(owner, Wire::Burn(v1::Burn { asset, version }))
    }
}

fn account(number: u64) -> Account {
    let mut bytes = [0xaa; 20];
    // Multiplying by an odd number gives every account another beginning.
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    Account(bytes)
}

fn bytes_of(account: &Account) -> Bytes {
    Bytes::copy_from_slice(&account.0)
}

fn lineage(seed: Bytes) -> v1::Lineage {
    v1::Lineage {
        model: Bytes::from_static(&MODEL),
        variant: "int8".into(),
        seed,
    }
}

/// Four traits of eight values; claims go to the first in order; pending assets may do everything.
fn collection() -> CollectionSpec {
    let traits = ["background", "body", "eyes", "hat"]
        .map(|name| TraitSpec {
            name: name.into(),
            values: (0..8).map(|value| format!("value {value}")).collect(),
            weights: vec![1; 8],
        })
        .to_vec();
    CollectionSpec {
        name: "bench".into(),
        supply_cap: u64::MAX,
        traits,
        exclusions: vec![],
        value_caps: vec![],
        claim_rule: ClaimRule::First,
        pending_rule: PendingRule {
            trade: true,
            settle: true,
            show: true,
        },
        seed_commitment: [0; 32],
        royalty_basis_points: 0,
        royalty_receiver: Account::NOBODY,
    }
}
