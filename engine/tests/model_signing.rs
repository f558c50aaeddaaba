//! Signed models from the key to the registry: what is signed gets in under a policy that demands it, and what is unsigned,
//! altered or signed by somebody else is refused with what to do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use common::{Realm, config, models_dir, start_error};
use karat_edge_node::manifest::{MANIFEST_FILE, Manifest};
use karat_edge_node::signature::{ModelTrust, SIGNATURE_FILE};
use karat_engine::cli::registration;
use karat_engine::config::Config;
use karat_proto::{Code, v1};
use serde_json::Value;
use tempfile::TempDir;

/// Runs `karat` and expects this exit code; gives what it says on both ways out.
fn karat(code: i32, arguments: &[&str]) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
    for name in ["KARAT_SERVER", "KARAT_DATA", "KARAT_LOG"] {
        command.env_remove(name);
    }
    let output = command
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}\n{out}\n{error}"
    );
    (out, error)
}

fn json(arguments: &[&str]) -> Value {
    let (out, _) = karat(0, &[arguments, &["--json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{out}"))
}

/// A folder with a copy of the committed auditor in it, and two keys.
struct Studio {
    folder: TempDir,
    /// Public keys of `studio.key` and `other.key`.
    studio: String,
    other: String,
}

impl Studio {
    fn new() -> Studio {
        let folder = tempfile::tempdir().unwrap();
        copy(
            &models_dir().join("relics-auditor"),
            &folder.path().join("models/auditor"),
        );
        let key = |name: &str| {
            let file = folder.path().join(name);
            let made = json(&["model", "keygen", "--out", file.to_str().unwrap()]);
            made["public_key"].as_str().unwrap().to_owned()
        };
        let (studio, other) = (key("studio.key"), key("other.key"));
        Studio {
            folder,
            studio,
            other,
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn models(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    fn model(&self) -> String {
        self.path("models/auditor")
    }

    fn sign(&self, key: &str) {
        let key = self.path(key);
        karat(0, &["model", "sign", &self.model(), "--key", &key]);
    }

    fn digest(&self) -> String {
        format!("0x{}", hex::encode(self.manifest().digest))
    }

    fn manifest(&self) -> Manifest {
        Manifest::load(self.model()).unwrap()
    }

    /// Gives the manifest another version, which is another digest.
    fn alter_manifest(&self) {
        let path = self
            .folder
            .path()
            .join("models/auditor")
            .join(MANIFEST_FILE);
        let text = fs::read_to_string(&path).unwrap();
        let version = format!("version = \"{}\"", self.manifest().version);
        fs::write(&path, text.replace(&version, "version = \"9.9.9\"")).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn server(realm: &Realm) -> String {
    format!("http://{}", realm.service.address)
}

/// Who signed the model, as `karat model list` says it.
fn signed_by(server: &str, digest: &str) -> Value {
    let listed = json(&["model", "list", "--server", server]);
    let models = listed["models"].as_array().unwrap();
    let model = models.iter().find(|model| model["digest"] == digest);
    model.unwrap_or_else(|| panic!("{digest} is not in {listed:#}"))["signed_by"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_model_gets_in_under_a_policy_that_demands_it_and_no_other_does() {
    let studio = Studio::new();
    let realm = Realm::start().await;
    let at = server(&realm);
    let (folder, digest) = (studio.model(), studio.digest());
    let refused = |arguments: &[&str], code: Code| {
        let (_, error) = karat(1, &[arguments, &["--server", &at]].concat());
        let expected = format!("{}: {}", code.name(), code.hint());
        assert!(error.contains(&expected), "{error}");
    };
    let done = |arguments: &[&str]| {
        karat(0, &[arguments, &["--server", &at]].concat());
    };
    let register = ["model", "register", &folder];
    let set_policy = ["realm", "set-policy"];

    // Known before the demand, and unsigned.
    done(&register);
    assert_eq!(signed_by(&at, &digest), Value::Null);
    let demand = [&set_policy[..], &["--require-signed-models"]].concat();
    refused(&demand, Code::BadModelKeys);
    done(&[&demand[..], &["--model-key", &studio.studio]].concat());
    let policy = json(&["realm", "policy", "--server", &at]);
    assert_eq!(policy["require_signed_models"], true, "{policy:#}");
    assert_eq!(policy["model_keys"][0], format!("0x{}", studio.studio));
    assert_eq!(policy["version"], 2);

    refused(&register, Code::ModelUnsigned);
    refused(&["model", "promote", &digest], Code::ModelUnsigned);
    studio.sign("other.key");
    refused(&register, Code::ModelKeyUnknown);
    studio.sign("studio.key");
    done(&register);
    assert_eq!(signed_by(&at, &digest), format!("0x{}", studio.studio));
    refused(&register, Code::ModelExists);

    // The key is taken back before the model was promoted, and given again.
    let key = |public: &str| done(&[&set_policy[..], &["--model-key", public]].concat());
    key(&studio.other);
    refused(&["model", "promote", &digest], Code::ModelKeyUnknown);
    key(&studio.studio);
    done(&["model", "promote", &digest]);
    let unlist = [&set_policy[..], &["--no-model-keys"]].concat();
    refused(&unlist, Code::BadModelKeys);

    // What replays the log, and what reads the snapshot, know the same.
    let stopped = realm.close().await;
    let realm = stopped.start().await;
    assert_eq!(
        signed_by(&server(&realm), &digest),
        format!("0x{}", studio.studio)
    );
    let realm = realm.stop().await.start().await;
    let at = server(&realm);
    assert_eq!(signed_by(&at, &digest), format!("0x{}", studio.studio));
    let policy = json(&["realm", "policy", "--server", &at]);
    assert_eq!(policy["model_keys"][0], format!("0x{}", studio.studio));
    karat(
        0,
        &[
            &unlist[..],
            &["--require-signed-models=false", "--server", &at],
        ]
        .concat(),
    );
    realm.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_altered_is_refused_before_it_is_sent_and_by_the_ledger_if_it_is() {
    let studio = Studio::new();
    let mut realm = Realm::start().await;
    let at = server(&realm);
    let folder = studio.model();
    studio.sign("studio.key");
    let sound = registration(&studio.manifest()).unwrap();
    let verify = ["model", "verify", folder.as_str()];
    let register = ["model", "register", &folder, "--server", &at];
    let told = json(&[&verify[..], &["--key", &studio.studio]].concat());
    assert_eq!(told["public_key"], studio.studio);
    assert_eq!(told["digest"], studio.digest());
    let (_, error) = karat(1, &[&verify[..], &["--key", &studio.other]].concat());
    assert!(error.contains("not trusted"), "{error}");

    // An ONNX file with one byte of another value.
    let onnx = studio.folder.path().join("models/auditor/auditor.onnx");
    let bytes = fs::read(&onnx).unwrap();
    let mut altered = bytes.clone();
    altered[bytes.len() / 2] ^= 1;
    fs::write(&onnx, &altered).unwrap();
    for arguments in [&verify[..], &register[..]] {
        let (_, error) = karat(1, arguments);
        assert!(
            error.contains("auditor.onnx") && error.contains("sha256"),
            "{error}"
        );
    }
    fs::write(&onnx, &bytes).unwrap();

    // A signature that is none.
    let signature = studio
        .folder
        .path()
        .join("models/auditor")
        .join(SIGNATURE_FILE);
    let text = fs::read_to_string(&signature).unwrap();
    fs::write(&signature, "signed = true\n").unwrap();
    for arguments in [&verify[..], &register[..]] {
        let (_, error) = karat(1, arguments);
        assert!(
            error.contains("manifest.sig") && error.contains("karat model sign"),
            "{error}"
        );
    }
    fs::write(&signature, text).unwrap();
    karat(0, &verify);

    // A manifest that says something else than what was signed.
    studio.alter_manifest();
    for arguments in [&verify[..], &register[..]] {
        let (_, error) = karat(1, arguments);
        assert!(error.contains("restore the manifest"), "{error}");
    }

    // Whoever goes past the command line meets the ledger.
    let mut forged = sound.clone();
    forged.digest = Bytes::copy_from_slice(&studio.manifest().digest);
    let renamed = v1::ChangeModelRequest {
        name: "another 1.0".into(),
        ..sound.clone()
    };
    let other_role = v1::ChangeModelRequest {
        role: v1::ModelRole::Generator.into(),
        ..sound.clone()
    };
    for request in [forged, renamed, other_role] {
        let answer = realm.operator.change_model(request).await.unwrap();
        let outcome = answer.into_inner().outcome.unwrap();
        assert_eq!(outcome.code, Code::ModelSignatureBad as u32, "{outcome:?}");
    }
    for (key, signature) in [(31, 64), (32, 63), (0, 64), (32, 0)] {
        let malformed = v1::ChangeModelRequest {
            key: sound.key.slice(..key),
            signature: sound.signature.slice(..signature),
            ..sound.clone()
        };
        let status = realm.operator.change_model(malformed).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
        let field = if key == 32 {
            "signature must have 64"
        } else {
            "key must have 32"
        };
        assert!(status.message().contains(field), "{status:?}");
    }
    let answer = realm.operator.change_model(sound).await.unwrap();
    assert_eq!(answer.into_inner().outcome.unwrap().code, 0);
    realm.stop().await;
}

#[test]
fn keys_and_folders_that_cannot_be_used_say_why() {
    let studio = Studio::new();
    let folder = studio.model();
    let key = studio.path("studio.key");
    let (_, error) = karat(2, &["model", "keygen", "--out", &key]);
    assert!(error.contains("never overwritten"), "{error}");
    let (_, error) = karat(1, &["model", "verify", &folder]);
    assert!(error.contains("not signed"), "{error}");
    let absent = studio.path("absent.key");
    let sign = |key: &str, part: &str| {
        let (_, error) = karat(2, &["model", "sign", &folder, "--key", key]);
        assert!(error.contains(part), "{error}");
    };
    sign(&absent, "absent.key");
    let mode = |bits| std::os::unix::fs::PermissionsExt::from_mode(bits);
    let manifest = format!("{folder}/{MANIFEST_FILE}");
    fs::set_permissions(&manifest, mode(0o644)).unwrap();
    sign(&manifest, "chmod 600");
    let wrong = studio.path("wrong.key");
    fs::write(&wrong, "this is no key").unwrap();
    fs::set_permissions(&wrong, mode(0o600)).unwrap();
    sign(&wrong, "no key for models");
    for arguments in [
        &["model", "sign", "/nowhere", "--key", &key][..],
        &["model", "verify", "/nowhere"],
        &["model", "verify", &folder, "--key", "12"],
        &["realm", "set-policy", "--model-key", "zz"],
    ] {
        karat(2, arguments);
    }
    // The signature goes beside the manifest, and signing again gives the same bytes.
    studio.sign("studio.key");
    let signature = studio
        .folder
        .path()
        .join("models/auditor")
        .join(SIGNATURE_FILE);
    let first = fs::read(&signature).unwrap();
    studio.sign("studio.key");
    assert_eq!(fs::read(&signature).unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_demands_signed_models_starts_on_no_others() {
    let studio = Studio::new();
    let home = tempfile::tempdir().unwrap();
    let demanding = Config {
        models: karat_engine::config::ModelsConfig {
            keys: vec![studio.studio.clone()],
            require_signed: true,
        },
        data: karat_engine::config::DataConfig {
            dir: home.path().join("data"),
            models_dir: studio.models(),
        },
        ..config(home.path())
    };
    demanding.check().unwrap();
    let error = start_error(demanding.clone()).await.to_string();
    assert!(
        error.contains("models/auditor") && error.contains("karat model sign"),
        "{error}"
    );
    studio.sign("other.key");
    let error = start_error(demanding.clone()).await.to_string();
    assert!(
        error.contains("not trusted") && error.contains(&studio.studio),
        "{error}"
    );
    studio.sign("studio.key");

    let realm = Realm::start_with(|config| *config = demanding.clone()).await;
    let policy = realm.service.gateway.core.view.policy();
    assert!(policy.require_signed_models);
    assert_eq!(
        ModelTrust::of(policy.model_keys.clone()),
        demanding.models.trust()
    );
    let stopped = realm.stop().await;

    // A signature that is there is checked by every engine.
    studio.alter_manifest();
    let lax = Config {
        models: karat_engine::config::ModelsConfig::default(),
        ..stopped.config.clone()
    };
    let error = start_error(lax.clone()).await.to_string();
    assert!(error.contains("restore the manifest"), "{error}");
    fs::remove_file(
        studio
            .folder
            .path()
            .join("models/auditor")
            .join(SIGNATURE_FILE),
    )
    .unwrap();
    let error = start_error(stopped.config.clone()).await.to_string();
    assert!(error.contains("not signed"), "{error}");
}

#[test]
fn a_configuration_lists_only_keys_that_are_keys() {
    let key = |number: u8| {
        let secret = karat_proto::signing::SigningKey::from_bytes(&[number; 32]);
        hex::encode(secret.verifying_key().to_bytes())
    };
    let with = |keys: Vec<String>, require_signed| {
        let mut config = Config::default();
        config.models.keys = keys;
        config.models.require_signed = require_signed;
        config.check().map_err(|error| error.to_string())
    };
    assert_eq!(with(vec![key(1), key(2)], true), Ok(()));
    assert_eq!(with((1..=16).map(key).collect(), false), Ok(()));
    for (keys, require_signed) in [
        (vec![], true),
        (vec!["12".to_owned()], false),
        (vec!["00".repeat(32)], false),
        (vec![key(1), key(1)], false),
        ((1..=17).map(key).collect(), true),
    ] {
        let error = with(keys, require_signed).unwrap_err();
        assert!(error.contains("models.keys"), "{error}");
    }
}
