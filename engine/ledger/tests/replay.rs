//! The same commands give the same state: from any snapshot, in any blocks, in every build.

#![allow(clippy::unwrap_used)]

mod common;

use common::generate::{self, Recipe};
use common::*;
use karat_ledger::{Ledger, SnapshotError};
use karat_proto::Digest;
use karat_proto::command::Command;
use proptest::prelude::*;

/// A run of commands, each with its time and its block's hash.
type Log = Vec<(u64, Digest, Command)>;

fn record(recipes: &[Recipe]) -> (World, Log) {
    let mut world = World::empty();
    let mut log = Log::new();
    for (actor, kind) in generate::opening() {
        let command = world.command(actor, kind);
        log.push((world.time_ms, world.block_hash, command.clone()));
        world.apply(&command);
    }
    for recipe in recipes {
        let command = generate::command(&mut world, *recipe);
        log.push((world.time_ms, world.block_hash, command.clone()));
        world.apply(&command);
    }
    (world, log)
}

fn replay(ledger: &mut Ledger, log: &[(u64, Digest, Command)]) {
    let mut events = Vec::new();
    for (time_ms, block_hash, command) in &log[ledger.applied_seq() as usize..] {
        let context = karat_ledger::ApplyContext {
            sequence: ledger.applied_seq() + 1,
            time_ms: *time_ms,
            block_hash,
        };
        ledger.apply(&context, command, &mut events);
    }
}

fn snapshot(ledger: &Ledger) -> Vec<u8> {
    let mut bytes = Vec::new();
    ledger.write_snapshot(&mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn announcing_commands_changes_nothing_whatever_the_blocks(
        recipes in prop::collection::vec(any::<Recipe>(), 1..200),
        block in 1..40_usize,
        beyond in any::<usize>(),
    ) {
        let (world, log) = record(&recipes);
        let mut announced = Ledger::new();
        for part in log.chunks(block) {
            let commands: Vec<Command> = part.iter().map(|(_, _, command)| command.clone()).collect();
            for (place, (time_ms, block_hash, command)) in part.iter().enumerate() {
                announced.look_ahead(&commands, place);
                announced.look_ahead(&commands, beyond);
                let context = karat_ledger::ApplyContext {
                    sequence: announced.applied_seq() + 1,
                    time_ms: *time_ms,
                    block_hash,
                };
                announced.apply(&context, command, &mut Vec::new());
            }
        }
        prop_assert_eq!(announced.digest(), world.ledger.digest());
        prop_assert_eq!(snapshot(&announced), snapshot(&world.ledger));
    }

    #[test]
    fn a_snapshot_and_the_tail_equal_the_whole_log(
        recipes in prop::collection::vec(any::<Recipe>(), 1..500),
        at in any::<prop::sample::Index>(),
    ) {
        let (world, log) = record(&recipes);
        let mut begun = Ledger::new();
        let cut = at.index(log.len());
        replay(&mut begun, &log[..cut]);
        let bytes = snapshot(&begun);
        let mut resumed = Ledger::read_snapshot(&mut bytes.as_slice()).unwrap();
        prop_assert_eq!(snapshot(&resumed), bytes);
        prop_assert_eq!(resumed.digest(), begun.digest());
        replay(&mut resumed, &log);
        prop_assert_eq!(resumed.digest(), world.ledger.digest());
        prop_assert_eq!(resumed.state_digest(), world.ledger.state_digest());
        prop_assert_eq!(resumed.counts(), world.ledger.counts());
    }

    #[test]
    fn a_flipped_byte_or_a_cut_is_found_in_a_snapshot(
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let bytes = snapshot(&world().ledger);
        let mut flipped = bytes.clone();
        flipped[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(Ledger::read_snapshot(&mut flipped.as_slice()).is_err());
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert!(Ledger::read_snapshot(&mut &cut[..]).is_err());
    }
}

#[test]
fn a_snapshot_of_a_newer_format_is_refused_by_name() {
    let mut bytes = snapshot(&world().ledger);
    bytes[8] = 3;
    let error = Ledger::read_snapshot(&mut bytes.as_slice()).unwrap_err();
    assert!(matches!(error, SnapshotError::UnknownFormat { found: 3 }));
    assert!(error.to_string().contains("format 3"), "{error}");
    let error = Ledger::read_snapshot(&mut &b"something else"[..]).unwrap_err();
    assert!(matches!(error, SnapshotError::NotASnapshot));
}

#[test]
fn a_snapshot_of_many_frames_is_read_back() {
    let mut world = world();
    let mut events = Vec::new();
    for _ in 0..5000 {
        let command = world.command(CREATOR, mint(2, BOB, &[0, 0]));
        let context = karat_ledger::ApplyContext {
            sequence: world.ledger.applied_seq() + 1,
            time_ms: 1000,
            block_hash: &[0; 32],
        };
        world.ledger.apply(&context, &command, &mut events);
        world.next_id += 1;
    }
    let bytes = snapshot(&world.ledger);
    assert!(
        bytes.len() > 600_000,
        "more than two frames: {}",
        bytes.len()
    );
    let read = Ledger::read_snapshot(&mut bytes.as_slice()).unwrap();
    assert_eq!(snapshot(&read), bytes);
    karat_ledger::invariants::check_all(&read).unwrap();
    // It is given back in more pieces than that, so that nobody waits for all of it.
    let mut pieces = 0;
    read.free(&mut || pieces += 1);
    assert!(pieces > 4, "{pieces}");
}

#[test]
fn cutting_the_same_commands_into_other_blocks_gives_the_same_digest() {
    // Blocks show in their hash, which only draws use: without claims, other hashes must change nothing. How many commands a caller applies between two reads of the digest must not matter either.
    let (_, log) = record(&generate::recipes(5, 600));
    let undrawn: Log = log
        .into_iter()
        .filter(|(_, _, command)| !matches!(command.kind, karat_proto::CommandKind::Claim { .. }))
        .collect();
    let mut whole = Ledger::new();
    replay(&mut whole, &undrawn);
    let mut in_pieces = Ledger::new();
    for end in (0..undrawn.len()).step_by(7).chain([undrawn.len()]) {
        let piece: Log = undrawn[..end]
            .iter()
            .map(|(time_ms, _, command)| (*time_ms, [end as u8; 32], command.clone()))
            .collect();
        replay(&mut in_pieces, &piece);
        in_pieces.digest();
    }
    assert_eq!(in_pieces.applied_seq(), whole.applied_seq());
    assert_eq!(in_pieces.digest(), whole.digest());
    assert_eq!(in_pieces.state_digest(), whole.state_digest());
}

#[test]
fn announcing_commands_changes_nothing() {
    let (world, log) = record(&generate::recipes(6, 400));
    let commands: Vec<Command> = log.iter().map(|(_, _, command)| command.clone()).collect();
    let mut ledger = Ledger::new();
    for (place, entry) in log.iter().enumerate() {
        ledger.look_ahead(&commands, place);
        ledger.look_ahead(&commands, commands.len() - place);
        ledger.look_ahead(&commands, usize::MAX);
        replay(&mut ledger, &log[..=place]);
        assert_eq!(entry.2.id, commands[place].id);
    }
    assert_eq!(ledger.digest(), world.ledger.digest());
    assert_eq!(ledger.state_digest(), world.ledger.state_digest());
}

/// The digests of 3,000 commands from a fixed seed. A change here means that logs written before replay differently: the
/// format of events, outcomes or snapshots, or a rule, changed. Debug and release builds must both give these.
#[test]
fn a_fixed_list_of_commands_gives_the_digests_of_old() {
    let (world, _) = record(&generate::recipes(2024, 3000));
    let found = format!(
        "events {}\nstate {}\n",
        hex(&world.ledger.digest()),
        hex(&world.ledger.state_digest())
    );
    let counts = world.ledger.counts();
    assert!(
        counts.batches_final > 5 && counts.accepted > 500,
        "{counts:?}"
    );
    let golden = include_str!("golden/digests.txt");
    assert_eq!(found, golden, "{counts:?}");
}

fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
