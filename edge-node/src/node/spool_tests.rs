use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::spool::*;
use karat_proto::v1;

const COMMITMENT: [u8; 32] = [7; 32];

fn open(folder: &Path, assets_max: usize) -> Spool {
    Spool::open(folder, 3, &COMMITMENT, assets_max).unwrap()
}

fn asset(index: u64, bytes: usize) -> v1::EdgeAsset {
    v1::EdgeAsset {
        collection: 3,
        content: vec![index as u8; bytes].into(),
        ..Default::default()
    }
}

fn add(spool: &mut Spool, count: usize, bytes: usize) -> u64 {
    let first = spool.reserve(count).unwrap();
    let assets: Vec<_> = (first..)
        .take(count)
        .map(|index| (index, asset(index, bytes)))
        .collect();
    spool.append(&assets).unwrap();
    first
}

fn take_all(spool: &mut Spool) -> Vec<u64> {
    let taken = spool.take(usize::MAX, usize::MAX).unwrap();
    taken.iter().map(|one| one.index).collect()
}

/// Drops the spool as a killed process does, without closing it.
fn kill_and_open(spool: Spool, folder: &Path, assets_max: usize) -> Spool {
    drop(spool);
    open(folder, assets_max)
}

#[test]
fn a_log_cut_at_any_byte_keeps_every_whole_frame_before_and_no_index_is_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path(), 100);
    add(&mut spool, 3, 20);
    spool.end(&[1]).unwrap();
    spool.next_attempt(2).unwrap();
    add(&mut spool, 2, 30);
    drop(spool);
    let whole = std::fs::read(folder.path().join("spool.log")).unwrap();
    let mut most_open = 0;
    for length in 0..=whole.len() {
        std::fs::write(folder.path().join("spool.log"), &whole[..length]).unwrap();
        let mut spool = open(folder.path(), 100);
        assert!(spool.cut_bytes() < 8 + 1024);
        assert_eq!(
            std::fs::metadata(folder.path().join("spool.log"))
                .unwrap()
                .len()
                + spool.cut_bytes(),
            length as u64
        );
        let taken = spool.take(100, usize::MAX).unwrap();
        for one in &taken {
            let bytes = if one.index < 3 { 20 } else { 30 };
            assert_eq!(one.asset.content, asset(one.index, bytes).content);
        }
        most_open = most_open.max(taken.len());
        assert!(spool.next_index() >= 5);
        // What follows a cut is as good as ever.
        let first = add(&mut spool, 1, 10);
        let mut spool = kill_and_open(spool, folder.path(), 100);
        assert!(take_all(&mut spool).contains(&first));
        std::fs::remove_file(folder.path().join("index.json")).unwrap();
        std::fs::write(
            folder.path().join("index.json"),
            format!(
                r#"{{"format":1,"collection":3,"commitment":"{}","used_below":5}}"#,
                hex::encode(COMMITMENT)
            ),
        )
        .unwrap();
    }
    assert_eq!(most_open, 4);
}

#[test]
fn a_flipped_byte_never_gives_an_asset_with_other_content() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path(), 100);
    add(&mut spool, 4, 16);
    drop(spool);
    let whole = std::fs::read(folder.path().join("spool.log")).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        std::fs::write(folder.path().join("spool.log"), &bytes).unwrap();
        let mut spool = open(folder.path(), 100);
        assert!(spool.open_count() < 4);
        for one in spool.take(100, usize::MAX).unwrap() {
            assert_eq!(one.asset.content, asset(one.index, 16).content);
        }
    }
}

#[test]
fn damage_behind_a_running_nodes_back_is_an_error_and_not_an_asset() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path(), 100);
    add(&mut spool, 1, 16);
    let path = folder.path().join("spool.log");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = spool.take(1, usize::MAX).unwrap_err();
    assert!(
        matches!(error, SpoolError::Damaged { offset: 0, .. }),
        "{error}"
    );
}

#[test]
fn a_clean_end_skips_no_index_and_an_unclean_one_at_most_a_reservation() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path(), 2_000);
    add(&mut spool, 10, 1);
    spool.close().unwrap();
    let mut spool = open(folder.path(), 2_000);
    assert_eq!(spool.next_index(), 10);
    let mut seen: std::collections::BTreeSet<u64> = take_all(&mut spool).into_iter().collect();
    for _ in 0..5 {
        let before = spool.next_index();
        spool = kill_and_open(spool, folder.path(), 2_000);
        assert!(spool.next_index() <= before + INDEXES_A_RESERVATION);
        let first = add(&mut spool, 3, 1);
        assert!(
            (first..first + 3).all(|index| seen.insert(index)),
            "an index was used again"
        );
    }
}

#[test]
fn attempts_change_the_id_and_survive_a_kill_and_a_rewrite() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path(), 10);
    let index = add(&mut spool, 1, 1);
    let id = |spool: &mut Spool| spool.take(1, 1).unwrap()[0].asset.id.clone();
    assert_eq!(id(&mut spool)[..], mint_id(3, index, 0).0);
    spool.next_attempt(index).unwrap();
    let mut spool = kill_and_open(spool, folder.path(), 10);
    assert_eq!(id(&mut spool)[..], mint_id(3, index, 1).0);
    spool.next_attempt(index).unwrap();
    spool.close().unwrap();
    assert_eq!(id(&mut open(folder.path(), 10))[..], mint_id(3, index, 2).0);
}

#[test]
fn ids_are_blake3_of_the_domain_collection_and_index() {
    let mut bytes = b"karat.edge.mint".to_vec();
    bytes.extend(3u32.to_be_bytes());
    bytes.extend(9u64.to_be_bytes());
    assert_eq!(mint_id(3, 9, 0).0, blake3::hash(&bytes).as_bytes()[..16]);
    assert_ne!(mint_id(3, 9, 0), mint_id(3, 9, 1));
    assert_ne!(mint_id(3, 9, 0), mint_id(4, 9, 0));
}

#[test]
fn what_does_not_fit_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path(), 3);
    add(&mut spool, 2, 1);
    let error = spool
        .append(&[(5, asset(5, 1)), (6, asset(6, 1))])
        .unwrap_err();
    assert!(matches!(
        error,
        SpoolError::Full {
            count: 2,
            open: 2,
            most: 3
        }
    ));
    let error = spool.append(&[(5, asset(5, 1 << 20))]).unwrap_err();
    assert!(matches!(error, SpoolError::TooLarge { index: 5, .. }));
    assert_eq!(spool.open_count(), 2);
}

#[test]
fn messages_are_bounded_in_bytes_but_never_empty() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path(), 10);
    add(&mut spool, 4, 1_000);
    assert_eq!(spool.take(10, 2_500).unwrap().len(), 2);
    assert_eq!(spool.take(10, 1).unwrap().len(), 1);
}

#[test]
fn the_log_stays_within_its_bound_however_many_assets_pass() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path(), 64);
    for _ in 0..200 {
        let first = add(&mut spool, 32, 6_000);
        spool.end(&(first..first + 31).collect::<Vec<_>>()).unwrap();
        if spool.open_count() > 30 {
            let open = take_all(&mut spool);
            spool.end(&open).unwrap();
        }
        let bytes = std::fs::metadata(folder.path().join("spool.log"))
            .unwrap()
            .len();
        // At most the bound, and what was added before it was looked at.
        assert!(bytes <= DEAD_BYTES_MAX + 3 * 64 * 7_000, "{bytes}");
    }
}

#[test]
fn a_folder_in_use_of_another_collection_or_with_an_unknown_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path(), 10);
    add(&mut spool, 1, 1);
    let in_use = Spool::open(folder.path(), 3, &COMMITMENT, 10).unwrap_err();
    assert!(matches!(in_use, SpoolError::InUse { .. }));
    drop(spool);
    for (collection, commitment) in [(4, COMMITMENT), (3, [8; 32])] {
        let other = Spool::open(folder.path(), collection, &commitment, 10).unwrap_err();
        assert!(matches!(other, SpoolError::Other { .. }), "{other}");
    }
    let index = folder.path().join("index.json");
    let good = std::fs::read_to_string(&index).unwrap();
    for text in ["", "{}", &good.replace("\"format\": 1", "\"format\": 2")] {
        std::fs::write(&index, text).unwrap();
        let bad = Spool::open(folder.path(), 3, &COMMITMENT, 10).unwrap_err();
        assert!(matches!(bad, SpoolError::Index { .. }), "{bad}");
    }
    std::fs::remove_file(&index).unwrap();
    let bad = Spool::open(folder.path(), 3, &COMMITMENT, 10).unwrap_err();
    assert!(matches!(bad, SpoolError::Index { .. }), "{bad}");
}

#[derive(Debug, Clone)]
enum Step {
    Add(usize),
    Take(usize),
    End(usize),
    Again(usize),
    GiveBack,
    Kill,
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1usize..6).prop_map(Step::Add),
        3 => (1usize..8).prop_map(Step::Take),
        3 => (0usize..6).prop_map(Step::End),
        1 => (0usize..6).prop_map(Step::Again),
        1 => Just(Step::GiveBack),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever happens, exactly what was added and not ended is open, in order, with its attempt.
    #[test]
    fn any_course_of_work_keeps_exactly_what_is_open(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = open(folder.path(), 1_000);
        let mut expected: BTreeMap<u64, u32> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Add(count) => {
                    let first = add(&mut spool, count, 10);
                    for index in first..first + count as u64 {
                        prop_assert_eq!(expected.insert(index, 0), None);
                    }
                }
                Step::Take(count) => {
                    spool.take(count, usize::MAX).unwrap();
                }
                Step::End(nth) => {
                    if let Some(index) = expected.keys().nth(nth).copied() {
                        spool.end(&[index]).unwrap();
                        expected.remove(&index);
                    }
                }
                Step::Again(nth) => {
                    if let Some(index) = expected.keys().nth(nth).copied() {
                        spool.next_attempt(index).unwrap();
                        *expected.get_mut(&index).unwrap() += 1;
                    }
                }
                Step::GiveBack => spool.give_all_back(),
                Step::Kill => spool = kill_and_open(spool, folder.path(), 1_000),
                Step::Close => {
                    spool.close().unwrap();
                    spool = open(folder.path(), 1_000);
                }
            }
            prop_assert_eq!(spool.open_count(), expected.len());
        }
        spool.give_all_back();
        let taken = spool.take(usize::MAX, usize::MAX).unwrap();
        let found: Vec<_> = taken.iter().map(|one| (one.index, one.asset.id.clone())).collect();
        let wanted: Vec<_> = expected
            .iter()
            .map(|(index, attempt)| (*index, mint_id(3, *index, *attempt).0.to_vec().into()))
            .collect();
        prop_assert_eq!(found, wanted);
    }
}
