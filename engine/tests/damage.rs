//! Damaged, foreign and contradictory folders, files and settings: the start stops with what is wrong, where, and what to
//! do; or it goes on without what is lost and says so.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use common::{Realm, Stopped, files_below, spec};
use karat_engine::config::{Config, ConfigError};
use karat_engine::data_folder::DataFolder;
use karat_engine::digests;
use karat_engine::machine::LedgerMachine;
use karat_ledger::Ledger;
use karat_proto::v1;
use karat_proto::v1::command::Kind;
use sha2::Digest as _;

// The data folder.

/// A realm with some assets, stopped.
async fn stopped(assets: u32) -> Stopped {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    for number in 0..assets {
        realm.mint(collection, "ann", number).await;
    }
    realm.stop().await
}

fn assert_names(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "{text:?} does not name {wanted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_engine_on_a_data_folder_is_refused_and_the_first_goes_on() {
    let mut realm = Realm::start().await;
    let error = common::start_error(realm.config.clone()).await;
    assert_names(
        &error.to_string(),
        &["in use", &realm.config.data.dir.display().to_string()],
    );
    realm.deposit("ann", 3).await;
    let mut realm = realm.stop().await.start().await;
    assert_eq!(realm.balance("ann").await, 3);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_a_newer_format_is_left_alone() {
    let stopped = stopped(1).await;
    let format = stopped.data().join("FORMAT");
    std::fs::write(&format, "2\n").unwrap();
    let before = files_below(stopped.data());
    let error = stopped.start_error().await.to_string();
    assert_names(
        &error,
        &[
            "format 2",
            "up to 1",
            "update karat",
            &stopped.data().display().to_string(),
        ],
    );
    assert_eq!(files_below(stopped.data()), before);
    std::fs::write(&format, "1\n").unwrap();
    let mut realm = stopped.start().await;
    assert_eq!(realm.asset(1).await.version, 1);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_folder_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = common::config(folder.path());
    std::fs::create_dir(&config.data.dir).unwrap();
    std::fs::write(config.data.dir.join("thesis.txt"), "years of work").unwrap();
    let error = common::start_error(config.clone()).await.to_string();
    assert_names(
        &error,
        &[
            "not a Karat data folder",
            &config.data.dir.display().to_string(),
        ],
    );
    assert_eq!(
        files_below(&config.data.dir),
        vec![config.data.dir.join("thesis.txt")]
    );
    // The same with a FORMAT file that is none of ours.
    std::fs::write(config.data.dir.join("FORMAT"), "A4 paper").unwrap();
    let error = common::start_error(config.clone()).await.to_string();
    assert_names(&error, &["not a Karat data folder"]);
    assert_eq!(files_below(&config.data.dir).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_another_realm_is_refused() {
    let mut stopped = stopped(1).await;
    stopped.config.realm.name = "other".into();
    let error = stopped.start_error().await.to_string();
    assert_names(&error, &["main", "other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_damaged_in_the_middle_stops_the_start_with_file_and_offset() {
    let stopped = stopped(40).await;
    let segment = fullest(&stopped.data().join("journal"));
    let whole = std::fs::read(&segment).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for at in [end / 4, end / 2, end * 3 / 4] {
        let mut damaged = whole.clone();
        for byte in &mut damaged[at..at + 8] {
            *byte ^= 0xa5;
        }
        std::fs::write(&segment, &damaged).unwrap();
        let error = stopped.start_error().await.to_string();
        assert_names(
            &error,
            &[segment.file_name().unwrap().to_str().unwrap(), "offset"],
        );
        // It is not touched: whoever has a copy can put it back.
        assert!(
            std::fs::read(&segment).unwrap() == damaged,
            "the damaged file was changed"
        );
    }
    std::fs::write(&segment, &whole).unwrap();
    let mut realm = stopped.start().await;
    assert_eq!(realm.asset(40).await.version, 1);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_passed_over_and_the_log_gives_the_same() {
    let stopped = stopped(5).await;
    for snapshot in files_below(&stopped.data().join("snapshots")) {
        let mut bytes = std::fs::read(&snapshot).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(&snapshot, bytes).unwrap();
    }
    let mut realm = stopped.start().await;
    assert_eq!(realm.service.opened.snapshot_sequence, 0);
    assert_names(
        &realm.service.opened.notes.join("\n"),
        &["passed over", "snapshot"],
    );
    assert_eq!(realm.asset(5).await.owner, common::account("ann"));
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_and_said_so_and_projections_that_knew_more_are_put_right() {
    let mut realm = Realm::start().await;
    let collection = realm.prepare(spec()).await;
    for number in 0..5 {
        let asset = realm.mint(collection, "ann", number).await;
        realm.until_state(asset, v1::AssetState::InReview).await;
    }
    for _ in 0..5 {
        realm.deposit("ann", 1).await;
    }
    let freeze = v1::Freeze {
        asset: 1,
        reason: "lost with the tail".into(),
    };
    realm.accepted("operator", Kind::Freeze(freeze)).await;
    realm.until_projected().await;
    let stopped = realm.stop().await;
    let segment = fullest(&stopped.data().join("journal"));
    let mut bytes = std::fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end - 10..=end].fill(0);
    std::fs::write(&segment, bytes).unwrap();
    let mut realm = stopped.start().await;
    assert_names(
        &realm.service.opened.notes.join("\n"),
        &["were cut from", &segment.display().to_string(), "offset"],
    );
    assert_eq!(realm.asset(1).await.state(), v1::AssetState::InReview);
    // Sequences are given again; no reader may see what stood there before.
    realm.deposit("bob", 7).await;
    let asset = realm.mint(collection, "ann", 6).await;
    realm.until_state(asset, v1::AssetState::InReview).await;
    realm.until_projected().await;
    let request = v1::GetHistoryRequest {
        asset: 1,
        ..Default::default()
    };
    let history = realm
        .ledger
        .get_history(request)
        .await
        .unwrap()
        .into_inner()
        .events;
    let frozen = |event: &v1::Event| matches!(event.kind, Some(v1::event::Kind::Frozen(_)));
    assert!(!history.is_empty() && !history.iter().any(frozen));
    let applied_seq = realm.service.gateway.core.view.applied_seq();
    let request = v1::WatchRequest::default();
    let mut events = realm.ledger.watch(request).await.unwrap().into_inner();
    let mut deposited = Vec::new();
    loop {
        let seen = events.message().await.unwrap().unwrap();
        for event in seen.events {
            if let Some(v1::event::Kind::Deposited(deposit)) = event.kind {
                deposited.push(deposit.amount);
            }
        }
        if seen.seen_sequence >= applied_seq {
            break;
        }
    }
    assert_eq!(deposited, [1, 1, 1, 1, 1, 7]);
    drop(events);
    let mut realm = realm.stop().await.start().await;
    assert_eq!(
        (realm.balance("ann").await, realm.balance("bob").await),
        (5, 7)
    );
    let stopped = realm.stop().await;
    // No digest of what was lost is held against the log that came after.
    let folder = DataFolder::open(stopped.data()).unwrap();
    let recorded = digests::read(&folder.digests()).unwrap();
    let mut machine = LedgerMachine::checking(Ledger::new(), recorded);
    let blocks = karat_sequencer::read_blocks(&folder.journal(), 1).unwrap();
    karat_sequencer::replay(blocks, 1, &mut machine).unwrap();
    assert_eq!(machine.checked().first_difference, None);
    assert!(machine.checked().equal > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_stream_of_events_is_made_again_from_the_log() {
    let stopped = stopped(5).await;
    let file = fullest(&stopped.data().join("events"));
    let mut bytes = std::fs::read(&file).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end / 2] ^= 0x55;
    std::fs::write(&file, bytes).unwrap();
    let mut realm = stopped.start().await;
    let mut events = realm
        .ledger
        .watch(v1::WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut minted = 0;
    while minted < 5 {
        let seen = events.message().await.unwrap().unwrap();
        let made = |event: &&v1::Event| matches!(event.kind, Some(v1::event::Kind::Minted(_)));
        minted += seen.events.iter().filter(made).count();
    }
    drop(events);
    realm.stop().await;
}

/// The file with the most bytes that are not zero.
fn fullest(dir: &Path) -> PathBuf {
    files_below(dir)
        .into_iter()
        .max_by_key(|path| {
            std::fs::read(path)
                .unwrap()
                .iter()
                .filter(|byte| **byte != 0)
                .count()
        })
        .unwrap()
}

// Content.

fn only_pack(data: &Path) -> PathBuf {
    let mut packs = files_below(&data.join("content"));
    packs.retain(|path| path.extension().is_some_and(|extension| extension == "kpk"));
    assert_eq!(packs.len(), 1, "{packs:?}");
    packs.remove(0)
}

async fn content(realm: &mut Realm, asset: u64) -> Result<bytes::Bytes, tonic::Status> {
    let answer = realm
        .ledger
        .get_content(v1::GetContentRequest { asset })
        .await?;
    Ok(answer.into_inner().content)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_pack_costs_the_altered_content_only() {
    let stopped = stopped(3).await;
    let pack = only_pack(stopped.data());
    let mut bytes = std::fs::read(&pack).unwrap();
    let second = common::png(1);
    let at = bytes
        .windows(second.len())
        .position(|window| window == &second[..])
        .unwrap();
    bytes[at + second.len() / 2] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let mut realm = stopped.start().await;
    let status = content(&mut realm, 2).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DataLoss, "{status}");
    assert_names(
        status.message(),
        &[&pack.display().to_string(), "offset", "altered"],
    );
    assert_eq!(content(&mut realm, 1).await.unwrap(), common::png(0));
    assert_eq!(content(&mut realm, 3).await.unwrap(), common::png(2));
    // The same bytes again heal it.
    realm.mint(1, "ann", 1).await;
    assert_eq!(content(&mut realm, 2).await.unwrap(), second);
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pack_is_named_and_the_realm_can_go_on_without_it() {
    let stopped = stopped(3).await;
    let pack = only_pack(stopped.data());
    std::fs::remove_file(&pack).unwrap();
    // Its index tells that it was there: somebody should look for it before going on.
    let index = pack.with_file_name("index-000001.idx");
    let error = stopped.start_error().await.to_string();
    let (pack, index_name) = (pack.display().to_string(), index.display().to_string());
    assert_names(&error, &[&pack, &index_name, "3 objects", "restore"]);
    std::fs::remove_file(&index).unwrap();
    let mut realm = stopped.start().await;
    let status = content(&mut realm, 2).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DataLoss, "{status}");
    let cid = realm.asset(2).await.cid;
    assert_names(status.message(), &[&cid, "asset 2", "not stored"]);
    // Everything else goes on, new content included.
    let asset = realm.mint(1, "ann", 9).await;
    assert_eq!(content(&mut realm, asset).await.unwrap(), common::png(9));
    realm.stop().await;
}

// Configuration.

fn load(text: &str) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("karat.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(&path)
}

#[test]
fn a_configuration_with_unknown_keys_wrong_types_or_units_is_refused_with_its_place() {
    for (text, wanted) in [
        ("[gateway]\nport = 7400\n", vec!["port", "line 2"]),
        ("[gatway]\n", vec!["gatway", "line 1"]),
        // A unit that the key does not have, in the key or in the value.
        (
            "[policy]\nbatch_age_seconds_max = 5\n",
            vec!["batch_age_seconds_max", "line 2"],
        ),
        (
            "[policy]\n\nbatch_age_ms_max = \"5s\"\n",
            vec!["batch_age_ms_max", "line 3", "u64"],
        ),
        ("[agents]\npermits = -1\n", vec!["permits", "line 2"]),
        ("[agents]\npermits = 1.5\n", vec!["permits", "line 2"]),
        (
            "[gateway]\nlisten = \"localhost\"\n",
            vec!["listen", "line 2"],
        ),
        ("[gateway\n", vec!["line 1"]),
    ] {
        let error = load(text).unwrap_err();
        assert!(matches!(error, ConfigError::Malformed { .. }), "{error}");
        assert_names(&error.to_string(), &["karat.toml"]);
        assert_names(&error.to_string(), &wanted);
    }
    let absent = Config::load(Path::new("/nowhere/karat.toml"))
        .unwrap_err()
        .to_string();
    assert_names(&absent, &["/nowhere/karat.toml"]);
    assert_eq!(load("").unwrap(), Config::default());
}

#[test]
fn a_value_out_of_its_range_is_refused_with_the_range() {
    for (text, wanted) in [
        (
            "[gateway]\nstreams_max = 0\n",
            vec!["gateway.streams_max", "0", "1 to 1048576"],
        ),
        (
            "[agents]\nworkers = 100000\n",
            vec!["agents.workers", "100000", "1 to 64"],
        ),
        (
            "[log]\nsegment_bytes = 1048576\n",
            vec!["log.segment_bytes", "1048576"],
        ),
        (
            "[log]\nkind = \"tape\"\n",
            vec!["log.kind", "tape", "journal"],
        ),
        (
            "[settlement]\nchain = \"paper\"\n",
            vec!["settlement.chain", "paper", "embedded"],
        ),
        (
            "[policy]\nbatch_changes_max = 65537\n",
            vec!["policy.batch_changes_max", "65537"],
        ),
        (
            "[policy]\naccept_below_ppm = 2000000\n",
            vec!["policy.accept_below_ppm", "2000000"],
        ),
        (
            "[policy]\naccept_below_ppm = 9\nreject_above_ppm = 8\n",
            vec!["policy", "accept_below_ppm"],
        ),
        ("[realm]\nname = \"\"\n", vec!["realm.name", "1 to 64"]),
        (
            "[realm]\noperator = \"0x12\"\n",
            vec!["realm.operator", "0x12", "40 hex digits"],
        ),
        (
            "[gateway]\nlisten = \"0.0.0.0:7400\"\n",
            vec!["gateway.listen", "0.0.0.0:7400", "loopback", "allow_remote"],
        ),
    ] {
        let error = load(text).unwrap_err();
        assert!(matches!(error, ConfigError::OutOfRange { .. }), "{error}");
        assert_names(&error.to_string(), &wanted);
    }
    assert!(load("[gateway]\nlisten = \"0.0.0.0:7400\"\nallow_remote = true\n").is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_value_of_every_range_can_be_used() {
    let mut realm = Realm::start_with(|config| {
        for least in LEAST {
            let mut text = toml::Table::try_from(&*config).unwrap();
            let (section, key) = least.0.split_once('.').unwrap();
            let section = text.get_mut(section).unwrap().as_table_mut().unwrap();
            let known = section.insert(key.into(), toml::Value::Integer(least.1));
            assert!(known.is_some(), "{} is no key", least.0);
            *config = text.clone().try_into().unwrap();
            config.check().unwrap();
            let section = text
                .get_mut(least.0.split_once('.').unwrap().0)
                .unwrap()
                .as_table_mut()
                .unwrap();
            section.insert(key.into(), toml::Value::Integer(least.1 - 1));
            let below: Result<Config, _> = text.try_into();
            assert!(
                below.is_err() || below.unwrap().check().is_err(),
                "{} is not the least",
                least.0
            );
        }
    })
    .await;
    let collection = realm.prepare(spec()).await;
    for number in 0..3 {
        let asset = realm.mint(collection, "ann", number).await;
        realm.accept(asset).await;
        realm.until_settled(asset).await;
    }
    realm.stop().await;
}

/// Keys with the least value that they may have.
const LEAST: [(&str, i64); 16] = [
    ("gateway.streams_max", 1),
    ("gateway.in_flight_a_stream_max", 1024),
    ("gateway.waiting_outcomes_max", 1),
    ("gateway.edge_credits_max", 1),
    ("log.segment_bytes", 32 << 20),
    ("log.queue_commands_max", 16_384),
    ("log.queue_bytes_max", 16 << 20),
    ("agents.permits", 1),
    ("agents.workers", 1),
    ("agents.batch_max", 1),
    ("agents.stall_ms", 100),
    ("agents.review_lease_seconds", 1),
    ("settlement.confirmations", 0),
    ("settlement.block_ms", 1),
    ("snapshot.keep", 1),
    ("policy.batch_changes_max", 1),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_refused_before_anything_is_touched() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = common::config(folder.path());
    config.gateway.listen = address;
    let error = common::start_error(config.clone()).await.to_string();
    assert_names(&error, &[&address.to_string(), "in use", "--port"]);
    assert!(!config.data.dir.exists());
}

// Models.

fn copy_models(to: &Path) {
    for file in files_below(&common::models_dir()) {
        let name = file.strip_prefix(common::models_dir()).unwrap().to_owned();
        let wanted = ["manifest.toml"].contains(&name.file_name().unwrap().to_str().unwrap())
            || name
                .extension()
                .is_some_and(|extension| extension == "onnx");
        if wanted {
            std::fs::create_dir_all(to.join(&name).parent().unwrap()).unwrap();
            std::fs::copy(&file, to.join(&name)).unwrap();
        }
    }
}

/// The ONNX files that manifests name, those of the folder with this role first.
fn model_file(models: &Path, role: &str) -> PathBuf {
    let folder = files_below(models)
        .into_iter()
        .find(|path| {
            path.ends_with("manifest.toml")
                && std::fs::read_to_string(path)
                    .unwrap()
                    .contains(&format!("role = \"{role}\""))
        })
        .unwrap();
    let text = std::fs::read_to_string(&folder).unwrap();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("file = \""))
        .unwrap()
        .trim_end_matches('"');
    folder.with_file_name(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_file_that_is_cut_altered_or_absent_stops_the_start_by_name() {
    for role in ["generator", "auditor"] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = common::config(folder.path());
        config.data.models_dir = folder.path().join("models");
        copy_models(&config.data.models_dir);
        let file = model_file(&config.data.models_dir, role);
        let whole = std::fs::read(&file).unwrap();
        let name = file.display().to_string();
        std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        let error = common::start_error(config.clone()).await.to_string();
        assert_names(
            &error,
            &[&name, "expected", "found", &whole.len().to_string()],
        );
        let mut altered = whole.clone();
        altered[whole.len() / 2] ^= 1;
        std::fs::write(&file, &altered).unwrap();
        let error = common::start_error(config.clone()).await.to_string();
        assert_names(&error, &[&name, "sha256"]);
        std::fs::remove_file(&file).unwrap();
        let error = common::start_error(config.clone()).await.to_string();
        assert_names(&error, &[&name]);
        assert!(
            !config.data.dir.exists(),
            "the data folder was made before the models were checked"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_with_other_inputs_or_without_sense_stops_the_start_by_name() {
    let generator = std::fs::read(model_file(&common::models_dir(), "generator")).unwrap();
    for content in [generator, b"not a model".to_vec()] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = common::config(folder.path());
        config.data.models_dir = folder.path().join("models");
        copy_models(&config.data.models_dir);
        let file = model_file(&config.data.models_dir, "auditor");
        // The manifest tells the truth about the file, which is no auditor.
        let manifest = file.with_file_name("manifest.toml");
        let whole = std::fs::read(&file).unwrap();
        let digest = |bytes: &[u8]| hex::encode(sha2::Sha256::digest(bytes));
        let text = std::fs::read_to_string(&manifest)
            .unwrap()
            .replace(&digest(&whole), &digest(&content))
            .replace(
                &format!("bytes = {}", whole.len()),
                &format!("bytes = {}", content.len()),
            );
        std::fs::write(&manifest, text).unwrap();
        std::fs::write(&file, &content).unwrap();
        let error = common::start_error(config.clone()).await.to_string();
        assert_names(&error, &["auditor"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_folder_of_models_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = common::config(folder.path());
    config.data.models_dir = folder.path().join("nowhere");
    let error = common::start_error(config.clone()).await.to_string();
    assert_names(&error, &["nowhere", "models_dir"]);
    // One without an auditor cannot verify anything.
    std::fs::create_dir(&config.data.models_dir).unwrap();
    let error = common::start_error(config.clone()).await.to_string();
    assert_names(&error, &["nowhere", "auditor", "models_dir"]);
    assert!(!config.data.dir.exists());
}
