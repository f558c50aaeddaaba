//! The operator's binary as people and scripts use it: help, the demonstration, a folder that nobody runs, a running engine,
//! exit codes, kills and a full disk.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{MODEL, account, command, mint, models_dir, spec};
use karat_proto::v1::command::Kind;
use karat_proto::v1::ledger_client::LedgerClient;
use karat_proto::v1::{AckLevel, AssetState};
use karat_proto::{limits, v1};
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

fn karat() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
    for name in ["KARAT_SERVER", "KARAT_DATA", "KARAT_LOG"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    karat().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs it, expects this exit code, and no control codes in what goes to a pipe.
fn expect(code: i32, arguments: &[&str]) -> (String, String) {
    let output = run(arguments);
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}\n{out}\n{error}"
    );
    for told in [&out, &error] {
        let control = told
            .chars()
            .find(|one| one.is_control() && *one != '\n' && *one != '\t');
        assert_eq!(control, None, "{arguments:?}\n{told}");
    }
    if code == 0 {
        assert!(!out.is_empty(), "{arguments:?} says nothing");
    } else {
        assert!(
            error.starts_with("karat: ") || error.starts_with("error: "),
            "{arguments:?}\n{error}"
        );
    }
    (out, error)
}

fn json(arguments: &[&str]) -> Value {
    let mut arguments = arguments.to_vec();
    arguments.push("--json");
    let (out, _) = expect(0, &arguments);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{out}"))
}

// Help.

/// Calls `leaf` with the help of every command that has no commands below it.
fn walk(path: &[String], leaf: &mut dyn FnMut(&[String], &str)) {
    let arguments: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
    let (help, _) = expect(0, &arguments);
    assert!(help.contains("Usage: karat"), "{help}");
    let mut below = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .peekable();
    if below.peek().is_none() {
        return leaf(path, &help);
    }
    for line in below.take_while(|line| !line.is_empty()) {
        let name = line.split_whitespace().next().unwrap().to_owned();
        if name != "help" {
            walk(&[path, &[name]].concat(), leaf);
        }
    }
}

#[test]
fn the_help_of_every_command_shows_an_example_of_it() {
    let mut leaves = 0;
    walk(&[], &mut |path, help| {
        let example = help
            .split("Example")
            .nth(1)
            .unwrap_or_else(|| panic!("{path:?} has no example\n{help}"));
        let shown = example.contains("karat") && example.contains(&path.join(" "));
        assert!(shown, "{path:?} is not in its example\n{help}");
        leaves += 1;
    });
    assert!(leaves >= 20, "{leaves}");
    expect(0, &["--version"]);
}

// Exit codes.

#[test]
fn wrong_usage_and_configuration_end_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("karat.toml");
    std::fs::write(&config, "[gateway]\nlisten = \"0.0.0.0:7400\"\n").unwrap();
    let config = config.to_str().unwrap();
    for arguments in [
        &["nonsense"][..],
        &["asset", "show", "seventeen"],
        &["asset", "list"],
        &["asset", "list", "--owner", "ann", "--collection", "1"],
        &["dev", "--assets", "-3"],
        &["serve", "--config", config],
        &["serve", "--config", "/nowhere/karat.toml"],
        &["config", "check", config],
        &["status", "--server", "not an address"],
        &["dev", "--models", "/nowhere"],
    ] {
        expect(2, arguments);
    }
    let (_, error) = expect(2, &["config", "check", config]);
    assert!(error.contains("gateway.listen"), "{error}");
    std::fs::write(config, "[gateway]\nlisten = \"127.0.0.1:0\"\n").unwrap();
    expect(0, &["config", "check", config]);
    expect(0, &["config", "print"]);
    let defaults = json(&["config", "print"]);
    assert_eq!(defaults["gateway"]["listen"], "127.0.0.1:7400");
}

#[test]
fn what_cannot_be_reached_ends_with_3_and_says_what_to_try() {
    // Bound, so that nobody else is given the port, and not listened at.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let free = bound.local_addr().unwrap();
    let server = format!("http://{free}");
    let (_, error) = expect(3, &["status", "--server", &server]);
    assert!(
        error.contains(&server) && error.contains("--data"),
        "{error}"
    );
    expect(3, &["asset", "show", "1", "--data", "/nowhere"]);
    expect(3, &["log", "verify", "/nowhere"]);
    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("thesis.txt"), "years of work").unwrap();
    let foreign = foreign.path().to_str().unwrap();
    for arguments in [
        &["status", "--data", foreign][..],
        &["log", "verify", foreign],
        &["store", "rebuild", "--data", foreign],
    ] {
        let (_, error) = expect(3, arguments);
        assert!(error.contains("not a Karat data folder"), "{error}");
    }
}

// The demonstration, its folder, and an engine on it.

#[test]
fn the_demonstration_closes_its_books_and_its_folder_answers_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let models = models_dir();
    let models = models.to_str().unwrap();
    let dev = |assets: &'static str| {
        vec![
            "dev", "--assets", assets, "--data", data, "--port", "0", "--models", models,
        ]
    };
    let summary = json(&dev("30"));
    let count = |name: &str| {
        summary[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name}\n{summary:#}"))
    };
    assert_eq!(summary["books_close"], true, "{summary:#}");
    assert!(count("generated") >= 30);
    let ended = count("settled")
        + count("rejected")
        + count("in_review")
        + count("refused")
        + count("burned_unsettled");
    assert_eq!(count("generated"), ended, "{summary:#}");
    // Plain lines, in the same folder: it goes on where it was.
    let (out, _) = expect(0, &dev("5"));
    assert!(
        out.contains("recovered to sequence") && out.contains("the books close"),
        "{out}"
    );
    let status = json(&["status", "--data", data]);
    let applied_seq = status["applied_seq"].as_u64().unwrap();
    assert!(applied_seq > 35, "{status:#}");
    let listed = json(&[
        "asset",
        "list",
        "--collection",
        "1",
        "--limit",
        "1000",
        "--data",
        data,
    ]);
    let assets = listed["assets"].as_array().unwrap();
    assert!(assets.len() >= 35);
    let shown = json(&["asset", "show", "1", "--data", data]);
    assert_eq!(shown["asset"], 1);
    assert_eq!(shown["history"][0]["kind"], "minted");
    assert!(
        shown["lineage"]["model"]
            .as_str()
            .unwrap()
            .starts_with("0x")
    );
    // The crowd may have revised it; each version has at most one verdict.
    let versions = shown["version"].as_u64().unwrap() as usize;
    let verdicts = shown["verdicts"].as_array().unwrap().len();
    assert!((1..=versions).contains(&verdicts), "{shown:#}");
    let (out, _) = expect(0, &["asset", "show", "1", "--data", data]);
    assert!(out.contains("verdicts:") && out.contains("minted"), "{out}");
    let image = folder.path().join("1.png");
    expect(
        0,
        &[
            "asset",
            "image",
            "1",
            "--out",
            image.to_str().unwrap(),
            "--data",
            data,
        ],
    );
    let bytes = std::fs::read(&image).unwrap();
    assert_eq!(
        karat_content::cid_of(&karat_content::digest_of(&bytes)),
        shown["cid"].as_str().unwrap()
    );
    for arguments in [
        &["asset", "show", "99999"][..],
        &["batch", "show", "99999"],
        &["proof", "99999"],
    ] {
        let (_, error) = expect(1, &[arguments, &["--data", data]].concat());
        assert!(error.contains("99999"), "{error}");
    }
    let (_, error) = expect(
        1,
        &[
            "asset",
            "image",
            "99999",
            "--out",
            "/tmp/never.png",
            "--data",
            data,
        ],
    );
    assert!(error.contains("99999"), "{error}");
    // Nothing gets into a folder that is only read.
    let (_, error) = expect(1, &["realm", "pause", "--data", data]);
    assert!(error.contains("only reads"), "{error}");
    let verified = json(&["log", "verify", data]);
    assert_eq!(verified["last_sequence"], applied_seq);
    assert_eq!(verified["recorded_different"], 0);
    assert!(
        verified["recorded_equal"].as_u64().unwrap() >= 2,
        "{verified:#}"
    );
    let rebuilt = json(&["store", "rebuild", "--data", data]);
    assert_eq!(rebuilt["projected_seq"], applied_seq);
    assert_eq!(
        json(&[
            "asset",
            "list",
            "--collection",
            "1",
            "--limit",
            "1000",
            "--data",
            data
        ]),
        listed
    );
    assert_eq!(json(&["asset", "show", "1", "--data", data]), shown);

    on_a_running_engine(folder.path(), data, models, assets);
}

/// The rest against an engine that runs on the same folder.
fn on_a_running_engine(folder: &Path, data: &str, models: &str, assets: &[Value]) {
    let config = folder.join("karat.toml");
    std::fs::write(
        &config,
        format!("[data]\nmodels_dir = {models:?}\n[policy]\nbatch_age_ms_max = 100\n"),
    )
    .unwrap();
    let engine = Serving::start(&[
        "serve",
        "--config",
        config.to_str().unwrap(),
        "--data",
        data,
        "--port",
        "0",
    ]);
    let server = engine.server.clone();
    let with = |arguments: &[&str]| -> Vec<String> {
        arguments
            .iter()
            .map(|one| (*one).to_owned())
            .chain(["--server".to_owned(), server.clone()])
            .collect()
    };
    let asked = |arguments: &[&str]| {
        json(
            &with(arguments)
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        )
    };
    let told = |code, arguments: &[&str]| {
        expect(
            code,
            &with(arguments)
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
        )
    };
    // The folder belongs to the engine.
    let (_, error) = expect(3, &["status", "--data", data]);
    assert!(
        error.contains("in use") && error.contains("--server"),
        "{error}"
    );
    // But its log can be checked beside it.
    assert_eq!(json(&["log", "verify", data])["recorded_different"], 0);
    assert_eq!(asked(&["status"])["realm"], "main");
    told(0, &["status"]);
    // One asset that is settled for certain, sooner or later, and that nobody touches any more; without one, what the agents
    // left to people is accepted.
    let active = assets.iter().find(|asset| asset["state"] == "active");
    let asset = match active {
        Some(asset) => asset["asset"].to_string(),
        None => {
            let open = asked(&["review", "lease", "--reviewer", "rita", "--limit", "1"]);
            let asset = open["reviews"][0]["asset"]["asset"].to_string();
            told(
                0,
                &[
                    "review",
                    "accept",
                    &asset,
                    "--reviewer",
                    "rita",
                    "--reason",
                    "clean",
                ],
            );
            asset
        }
    };
    let began = Instant::now();
    while asked(&["asset", "show", &asset])["settlement"] != "settled" {
        assert!(
            began.elapsed() < common::HANGS_AFTER,
            "asset {asset} was never settled"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let proof = asked(&["proof", &asset]);
    assert_eq!(proof["format"], "standard-v1-proof");
    let document: karat_settlement::ProofDocument = serde_json::from_value(proof.clone()).unwrap();
    assert_eq!(document.check().unwrap().asset.to_string(), asset);
    let (out, error) = told(0, &["proof", &asset]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), proof);
    assert!(error.contains("proved"), "{error}");
    let number = proof["batch"]["number"].to_string();
    let batch = asked(&["batch", "show", &number]);
    assert_eq!(
        (&batch["root"], &batch["stage"]),
        (&proof["root"], &Value::from("final"))
    );
    let listed = asked(&["batch", "list", "--limit", "1000"]);
    let rows = listed["batches"].as_array().or(listed.as_array()).unwrap();
    assert!(
        rows.iter()
            .any(|row| row["number"] == proof["batch"]["number"]),
        "{listed:#}"
    );
    // The operator's means.
    told(0, &["realm", "pause"]);
    assert_eq!(asked(&["status"])["paused"], true);
    told(0, &["realm", "resume"]);
    told(0, &["realm", "policy"]);
    told(0, &["model", "list"]);
    let (_, error) = told(1, &["realm", "unfreeze", &asset]);
    assert!(error.contains("NotFrozen"), "{error}");
    let (_, error) = told(1, &["review", "accept", &asset, "--reviewer", "rita"]);
    assert!(error.contains("NotInReview"), "{error}");
    engine.terminate();
    assert_eq!(json(&["log", "verify", data])["recorded_different"], 0);
}

/// `karat serve` in a process of its own; killed when dropped.
struct Serving {
    process: Child,
    server: String,
}

impl Serving {
    fn start(arguments: &[&str]) -> Serving {
        let mut started = karat();
        started.args(arguments);
        Serving::spawn(started)
    }

    fn spawn(mut started: Command) -> Serving {
        let mut process = started
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut read = String::new();
        let address = loop {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("it does not start:\n{read}"))
                .unwrap();
            if let Some(rest) = line.split(" at 127.0.0.1:").nth(1) {
                break rest.split(' ').next().unwrap().to_owned();
            }
            read += &line;
        };
        // Whatever else it says must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Serving {
            process,
            server: format!("http://127.0.0.1:{address}"),
        }
    }

    async fn client(&self) -> LedgerClient<Channel> {
        let channel = Endpoint::from_shared(self.server.clone())
            .unwrap()
            .connect()
            .await
            .unwrap();
        LedgerClient::new(channel)
    }

    /// As Ctrl-C: it must end by itself, with success.
    fn terminate(mut self) {
        let id = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn execute(
    ledger: &mut LedgerClient<Channel>,
    command: v1::Command,
    ack: AckLevel,
) -> v1::Outcome {
    let request = v1::ExecuteRequest {
        ack: ack.into(),
        command: Some(command),
    };
    ledger
        .execute(request)
        .await
        .unwrap()
        .into_inner()
        .outcome
        .unwrap()
}

/// Approves the model and creates the collection.
async fn prepare(ledger: &mut LedgerClient<Channel>) {
    let digest = Bytes::from_static(&MODEL);
    let register = v1::RegisterModel {
        digest: digest.clone(),
        name: "test".into(),
        role: v1::ModelRole::Generator.into(),
        ..Default::default()
    };
    for kind in [
        Kind::RegisterModel(register),
        Kind::PromoteModel(v1::PromoteModel { digest }),
    ] {
        assert_eq!(
            execute(ledger, command("operator", kind), AckLevel::Durable)
                .await
                .code,
            0
        );
    }
    let create = Kind::CreateCollection(v1::CreateCollection { spec: Some(spec()) });
    assert_eq!(
        execute(ledger, command("studio", create), AckLevel::Durable)
            .await
            .code,
        0
    );
}

fn write_config(folder: &Path) -> String {
    let path = folder.join("karat.toml");
    std::fs::write(&path, format!("[data]\nmodels_dir = {:?}\n", models_dir())).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_loses_nothing_that_it_acknowledged_and_applies_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path());
    let data = folder.path().join("data");
    let serve = [
        "serve",
        "--config",
        &config,
        "--data",
        data.to_str().unwrap(),
        "--port",
        "0",
    ];
    let mut acknowledged: Vec<(v1::Command, v1::Outcome)> = Vec::new();
    for round in 0..8u32 {
        let engine = Serving::start(&serve);
        let mut ledger = engine.client().await;
        if round == 0 {
            prepare(&mut ledger).await;
        }
        // Every command again: nothing is lost, nothing is applied twice.
        for (asked, first) in &acknowledged {
            let again = execute(&mut ledger, asked.clone(), AckLevel::Sequenced).await;
            assert_eq!(
                again,
                v1::Outcome {
                    replayed: true,
                    ..first.clone()
                }
            );
        }
        for (_, first) in &acknowledged {
            let request = v1::GetContentRequest {
                asset: first.subject,
            };
            ledger.get_content(request).await.unwrap();
        }
        let level = if round % 2 == 0 {
            AckLevel::Sequenced
        } else {
            AckLevel::Durable
        };
        for number in 0..=round {
            let asked = command(
                "studio",
                Kind::Mint(mint(1, "ann", round * 8 % 56 + number)),
            );
            let outcome = execute(&mut ledger, asked.clone(), level).await;
            assert_eq!(outcome.code, 0, "{}", outcome.message);
            acknowledged.push((asked, outcome));
        }
        // And something under way that nobody waits for.
        let mut hasty = ledger.clone();
        let unacknowledged = tokio::spawn(async move {
            for number in 0..50 {
                let asked = command("studio", Kind::Mint(mint(1, "bob", number)));
                let request = v1::ExecuteRequest {
                    ack: AckLevel::Durable.into(),
                    command: Some(asked),
                };
                let _ = hasty.execute(request).await;
            }
        });
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 7)).await;
        engine.kill();
        unacknowledged.await.unwrap();
    }
    let verified = json(&["log", "verify", data.to_str().unwrap()]);
    assert_eq!(verified["recorded_different"], 0, "{verified:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_new_content_and_keeps_everything_else() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path());
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    // No file may pass 80 MiB: a segment of the log has 64, the content pack grows beyond it.
    let script = format!(
        "trap '' XFSZ; ulimit -f 81920; exec {:?} serve --config {config:?} --data {data:?} --port 0",
        env!("CARGO_BIN_EXE_karat")
    );
    let mut limited = Command::new("bash");
    limited.args(["-c", &script]).stdin(Stdio::null());
    let engine = Serving::spawn(limited);
    let mut ledger = engine.client().await;
    prepare(&mut ledger).await;
    let mut accepted = Vec::new();
    let status = loop {
        // A PNG by its header, which is all that the door looks at.
        let mut content = common::png(0).to_vec();
        content.resize(limits::CONTENT_BYTES_MAX, 0);
        content[1000..1004].copy_from_slice(&(accepted.len() as u32).to_le_bytes());
        let wanted = v1::Mint {
            content: content.into(),
            ..mint(1, "ann", 0)
        };
        let request = v1::ExecuteRequest {
            ack: AckLevel::Durable.into(),
            command: Some(command("studio", Kind::Mint(wanted))),
        };
        match ledger.execute(request).await {
            Ok(answer) => accepted.push(answer.into_inner().outcome.unwrap().subject),
            Err(status) => break status,
        }
        assert!(accepted.len() < 400, "the disk is never full");
    };
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    assert!(
        status.message().contains("full") && status.message().contains("free space"),
        "{status}"
    );
    assert!(accepted.len() > 100);
    // Commands without content go on, and everything accepted is there.
    let deposit = Kind::Deposit(v1::Deposit {
        account: account("ann"),
        amount: 9,
    });
    assert_eq!(
        execute(&mut ledger, command("operator", deposit), AckLevel::Durable)
            .await
            .code,
        0
    );
    let last = *accepted.last().unwrap();
    let found = ledger
        .get_asset(v1::GetAssetRequest { asset: last })
        .await
        .unwrap()
        .into_inner()
        .asset
        .unwrap();
    assert_eq!(found.owner, account("ann"));
    engine.terminate();
    // With space, it goes on.
    let engine = Serving::start(&["serve", "--config", &config, "--data", data, "--port", "0"]);
    let mut ledger = engine.client().await;
    let minted = execute(
        &mut ledger,
        command("studio", Kind::Mint(mint(1, "ann", 1))),
        AckLevel::Durable,
    )
    .await;
    assert_eq!((minted.code, minted.subject), (0, last + 1));
    common::eventually("a verdict on it", || {
        let mut ledger = ledger.clone();
        async move {
            let request = v1::GetAssetRequest { asset: last + 1 };
            let asset = ledger
                .get_asset(request)
                .await
                .unwrap()
                .into_inner()
                .asset
                .unwrap();
            (asset.state() != AssetState::Pending).then_some(())
        }
    })
    .await;
    engine.terminate();
    assert_eq!(json(&["log", "verify", data])["recorded_different"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_a_realm_with_settings_of_its_own_is_read_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("karat.toml");
    let text = format!(
        "[realm]\nname = \"north\"\noperator = \"boss\"\n[settlement]\nchain_id = 4242\n[data]\nmodels_dir = {:?}\n",
        models_dir()
    );
    std::fs::write(&config, text).unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let serve = [
        "serve",
        "--config",
        config.to_str().unwrap(),
        "--data",
        data,
        "--port",
        "0",
    ];
    let engine = Serving::start(&serve);
    let deposit = Kind::Deposit(v1::Deposit {
        account: account("ann"),
        amount: 9,
    });
    let outcome = execute(
        &mut engine.client().await,
        command("boss", deposit),
        AckLevel::Durable,
    )
    .await;
    assert_eq!(outcome.code, 0, "{}", outcome.message);
    engine.terminate();
    let status = json(&["status", "--data", data]);
    assert_eq!(
        (&status["realm"], &status["chain_id"]),
        (&Value::from("north"), &Value::from(4242))
    );
    assert_eq!(json(&["log", "verify", data])["recorded_different"], 0);
    json(&["store", "rebuild", "--data", data]);
    Serving::start(&serve).terminate();
}

#[test]
fn a_demonstration_that_is_interrupted_says_what_goes_on_and_goes_on_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let models = models_dir();
    let arguments = |assets: Option<&'static str>| {
        let mut all = vec!["dev", "--port", "0", "--data", data.to_str().unwrap()];
        all.extend(["--models", models.to_str().unwrap()]);
        all.extend(assets.iter().flat_map(|count| ["--assets", count]));
        all
    };
    let mut child = karat()
        .args(arguments(None))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The first line of figures: assets are under way, and few have had the time to be settled.
    let first = lines.find(|line| line.as_ref().unwrap().contains("generated"));
    assert!(first.is_some());
    let interrupted = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupted.success());
    let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
    let last = rest.last().unwrap();
    assert!(last.starts_with("the books close"), "{rest:#?}");
    assert!(child.wait().unwrap().success());
    let summary: Value =
        serde_json::from_str(&expect(0, &[arguments(Some("3")), vec!["--json"]].concat()).0)
            .unwrap();
    assert_eq!(summary["books_close"], true, "{summary:#}");
    if let Some((_, going_on)) = last.split_once("so far: ") {
        assert!(going_on.contains("go on at the next start"), "{last}");
    }
}
