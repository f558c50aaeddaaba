//! Prints how many commands a second the ledger applies on one core, by kind and mixed, and how many bytes a live asset takes.
//!
//! `cargo run --release -p karat-ledger --example commands_per_second -- [assets] [--one-by-one]` (default 1,000,000)
//!
//! Commands are announced with `look_ahead`, as by a caller that has a block at hand; not so with `--one-by-one`.
//!
//! Commands are made beforehand, in pieces, and are not timed; encoding for the digest and remembering ids are. Time is taken
//! from outside, around `apply`. Each rate is over all of a kind's commands, not the best piece; on a machine that does
//! other things as well, the rate by processor time says what the core could have done.

use karat_ledger::{ApplyContext, Ledger};
use karat_proto::command::*;
use karat_proto::event::Event;
use karat_proto::{Account, Code, CommandId};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; only sizes are counted beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller keeps `GlobalAlloc`'s contract, which is the system allocator's own.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const OPERATOR: Account = Account([1; 20]);
const VERIFIER: Account = Account([2; 20]);
const SETTLER: Account = Account([3; 20]);
const CREATOR: Account = Account([4; 20]);
const PIECE: u64 = 10_000;
const ACCOUNTS: u64 = 100_000;

/// Time by the clock, and time that this thread had a core.
#[derive(Default)]
struct Taken {
    wall: Duration,
    processor: Duration,
}

impl Taken {
    /// Processor time of this thread so far, as Linux counts it; 0 elsewhere.
    fn now() -> Taken {
        let nanoseconds = std::fs::read_to_string("/proc/thread-self/schedstat")
            .ok()
            .and_then(|text| text.split_whitespace().next()?.parse().ok())
            .unwrap_or(0);
        Taken {
            wall: Duration::ZERO,
            processor: Duration::from_nanos(nanoseconds),
        }
    }
}

struct Bench {
    ledger: Ledger,
    events: Vec<Event>,
    made: u64,
    random: u64,
    /// Owner of each asset, to make commands that are accepted.
    owners: Vec<Account>,
    /// Whether commands are announced before they are applied, as the engine does with a block's.
    ahead: bool,
}

impl Bench {
    fn next(&mut self) -> u64 {
        // xorshift64*: any cheap stream will do.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn somebody(&mut self) -> Account {
        account(self.next() % ACCOUNTS)
    }

    fn command(&mut self, actor: Account, kind: CommandKind) -> Command {
        self.made += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.next().to_le_bytes());
        id[8..].copy_from_slice(&self.made.to_le_bytes());
        Command {
            id: CommandId(id),
            actor,
            body_hash: id,
            kind,
        }
    }

    fn time(&mut self, commands: &[Command]) -> Taken {
        let processor = Taken::now().processor;
        let clock = Instant::now();
        self.apply(commands);
        Taken {
            wall: clock.elapsed(),
            processor: Taken::now().processor.saturating_sub(processor),
        }
    }

    fn apply(&mut self, commands: &[Command]) {
        for (place, command) in commands.iter().enumerate() {
            if self.ahead {
                self.ledger.look_ahead(commands, place);
            }
            let sequence = self.ledger.applied_seq() + 1;
            self.events.clear();
            let outcome = self.ledger.apply(
                &ApplyContext {
                    sequence,
                    time_ms: sequence / 1000,
                    block_hash: &[9; 32],
                },
                command,
                &mut self.events,
            );
            assert_eq!(outcome.code, Code::Accepted, "{command:?}");
        }
    }

    /// Applies `count` commands that `make` makes, and lets the settler keep up with the batches in between.
    fn run(&mut self, name: &str, count: u64, mut make: impl FnMut(&mut Bench) -> Command) {
        let mut taken = Taken::default();
        for _ in 0..count / PIECE {
            let commands: Vec<Command> = (0..PIECE).map(|_| make(self)).collect();
            let piece = self.time(&commands);
            taken.wall += piece.wall;
            taken.processor += piece.processor;
            self.settle();
        }
        let commands = (count / PIECE * PIECE) as f64;
        println!(
            "{name:<28} {:>10.0} commands/s, {:>10.0} a second of processor time",
            commands / taken.wall.as_secs_f64(),
            commands / taken.processor.as_secs_f64(),
        );
    }

    fn settle(&mut self) {
        let open: Vec<(u64, u32)> = self
            .ledger
            .open_batches()
            .map(|batch| (batch.number, batch.changes))
            .collect();
        for (number, leaves) in open {
            let sealed = CommandKind::BatchSealed(Box::new(BatchSealed {
                number,
                root: [5; 32],
                payload: [6; 32],
                leaves,
            }));
            let committed = CommandKind::BatchCommitted(Box::new(BatchCommitted {
                number,
                transaction: [7; 32],
                chain_block: 1,
                gas_used: 1,
                fee_wei: 1,
            }));
            for kind in [sealed, committed, CommandKind::BatchFinal { number }] {
                let command = self.command(SETTLER, kind);
                self.apply(&[command]);
            }
        }
    }

    fn mint(&mut self, owner: Account) -> Command {
        self.owners.push(owner);
        let random = self.next();
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&random.to_le_bytes());
        let values = [
            (random % 8) as u8,
            (random >> 8) as u8 % 8,
            (random >> 16) as u8 % 8,
            (random >> 24) as u8 % 8,
        ];
        let mint = Mint {
            collection: 1,
            owner,
            content: Content { digest, size: 3000 },
            traits: Traits::new(&values).unwrap_or_default(),
            lineage: Lineage {
                model: [8; 32],
                variant: "int8".into(),
                seed: digest,
                hash: digest,
            },
            metadata: digest,
        };
        self.command(CREATOR, CommandKind::Mint(Box::new(mint)))
    }

    fn asset(&mut self) -> usize {
        let assets = self.owners.len() as u64;
        (self.next() % assets) as usize
    }

    fn transfer(&mut self) -> Command {
        let place = self.asset();
        let owner = self.owners[place];
        let mut to = self.somebody();
        if to == owner {
            to = OPERATOR;
        }
        self.owners[place] = to;
        let asset = place as u64 + 1;
        self.command(
            owner,
            CommandKind::Transfer {
                asset,
                version: 1,
                to,
            },
        )
    }

    /// An asset against currency.
    fn exchange(&mut self) -> Command {
        let place = self.asset();
        let seller = self.owners[place];
        let mut buyer = self.somebody();
        while buyer == seller {
            buyer = self.somebody();
        }
        self.owners[place] = buyer;
        let exchange = Exchange {
            legs: Box::new([
                Leg::Asset {
                    asset: place as u64 + 1,
                    version: 1,
                    from: seller,
                    to: buyer,
                },
                Leg::Currency {
                    from: buyer,
                    to: seller,
                    amount: 1,
                },
            ]),
            consents: Box::new([buyer]),
        };
        self.command(seller, CommandKind::Exchange(exchange))
    }
}

fn account(number: u64) -> Account {
    let mut bytes = [0xaa; 20];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    Account(bytes)
}

fn main() {
    let assets: u64 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000);
    let mut bench = Bench {
        ledger: Ledger::new(),
        events: Vec::with_capacity(256),
        made: 0,
        random: 0x1234_5678_9abc_def1,
        owners: Vec::with_capacity(assets as usize * 2),
        ahead: !std::env::args().any(|argument| argument == "--one-by-one"),
    };
    open_realm(&mut bench);

    let before = ALLOCATED.load(Relaxed);
    let retries_before = bench.ledger.counts().retry_entries;
    bench.run("deposit", ACCOUNTS, |bench| {
        let account = account(bench.made % ACCOUNTS);
        let amount = 1_000_000;
        bench.command(OPERATOR, CommandKind::Deposit { account, amount })
    });
    bench.run("mint, owned", assets, |bench| {
        let owner = bench.somebody();
        bench.mint(owner)
    });
    let taken = ALLOCATED.load(Relaxed) - before;
    let counts = bench.ledger.counts();
    let retries = counts.retry_entries - retries_before;
    memory(&bench, taken, retries);

    bench.run("transfer", assets, Bench::transfer);
    bench.run("exchange, asset for currency", assets, Bench::exchange);
    let first_unowned = bench.owners.len();
    bench.run("mint, open for claims", assets / 2, |bench| {
        bench.mint(Account::NOBODY)
    });
    let mut unclaimed = first_unowned;
    let mut claim = |bench: &mut Bench| {
        let actor = bench.somebody();
        bench.owners[unclaimed] = actor;
        unclaimed += 1;
        let asset = unclaimed as u64;
        bench.command(actor, CommandKind::Claim { asset, version: 1 })
    };
    bench.run("claim, first in order", assets / 4, &mut claim);
    let mut turn = 0;
    // Only the first assets are traded here: the others may still be unclaimed.
    let mut beyond: Vec<Account> = bench.owners.split_off(first_unowned);
    bench.run("mixed", assets, |bench| {
        turn += 1;
        match turn % 4 {
            0 => {
                // The mint's asset has the next number of all; its owner is not needed again.
                let owner = bench.somebody();
                let command = bench.mint(owner);
                beyond.extend(bench.owners.pop());
                command
            }
            1 => bench.transfer(),
            2 => bench.exchange(),
            _ if unclaimed < first_unowned + (assets / 2) as usize => {
                let actor = bench.somebody();
                unclaimed += 1;
                let asset = unclaimed as u64;
                bench.command(actor, CommandKind::Claim { asset, version: 1 })
            }
            _ => bench.transfer(),
        }
    });
    println!("{:#?}", bench.ledger.counts());
    snapshot(&bench.ledger);
}

fn open_realm(bench: &mut Bench) {
    let policy = Policy {
        batch_age_ms_max: u64::MAX,
        ..Policy::default()
    };
    let genesis = Genesis {
        realm: "bench".into(),
        operator: OPERATOR,
        verifier: VERIFIER,
        settler: SETTLER,
        policy,
    };
    let traits = ["background", "body", "eyes", "hat"]
        .map(|name| TraitSpec {
            name: name.into(),
            values: (0..8).map(|value| format!("value {value}")).collect(),
            weights: vec![1; 8],
        })
        .to_vec();
    let spec = CollectionSpec {
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
    };
    let digest = [8; 32];
    let role = ModelRole::Generator;
    let name = "bench".into();
    let setup = [
        (OPERATOR, CommandKind::Genesis(Box::new(genesis))),
        (CREATOR, CommandKind::CreateCollection(Box::new(spec))),
        (
            OPERATOR,
            CommandKind::RegisterModel(Box::new(RegisterModel {
                digest,
                name,
                role,
                signature: None,
            })),
        ),
        (OPERATOR, CommandKind::PromoteModel { digest }),
    ];
    for (actor, kind) in setup {
        let command = bench.command(actor, kind);
        bench.apply(&[command]);
    }
}

/// The retry memory is measured by itself: the same number of commands that leave nothing else behind.
fn memory(bench: &Bench, taken: usize, retries: u64) {
    let mut idle = Bench {
        ledger: Ledger::new(),
        events: Vec::new(),
        made: 0,
        random: 1,
        owners: vec![],
        ahead: false,
    };
    open_realm(&mut idle);
    let before = ALLOCATED.load(Relaxed);
    for _ in 0..retries {
        let command = idle.command(OPERATOR, CommandKind::Tick { base_fee_wei: 0 });
        idle.apply(&[command]);
    }
    let retry_bytes = ALLOCATED.load(Relaxed) - before;
    let assets = bench.ledger.counts().assets;
    println!(
        "{assets} assets, {} accounts: {} bytes an asset without the retry memory, {} bytes a remembered id ({retries} ids)",
        bench.ledger.counts().accounts,
        (taken - retry_bytes.min(taken)) as u64 / assets,
        retry_bytes as u64 / retries,
    );
}

fn snapshot(ledger: &Ledger) {
    let started = Instant::now();
    let mut bytes = Vec::new();
    if let Err(error) = ledger.write_snapshot(&mut bytes) {
        println!("{error}");
        return;
    }
    println!(
        "snapshot of {} MB written in {:?}",
        bytes.len() / 1_000_000,
        started.elapsed()
    );
    let started = Instant::now();
    match Ledger::read_snapshot(&mut bytes.as_slice()) {
        Ok(read) => {
            println!("read in {:?}", started.elapsed());
            assert_eq!(read.digest(), ledger.digest());
        }
        Err(error) => println!("{error}"),
    }
}
