use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::manifest::MANIFEST_FILE;
use karat_proto::signing::SigningKey;

/// A copy of the committed auditor.
fn folder() -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/relics-auditor");
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

fn secret(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn key(number: u8) -> ModelKey {
    secret(number).verifying_key().to_bytes()
}

fn signed(manifest: &Manifest, number: u8) -> SignatureFile {
    SignatureFile {
        digest: manifest.digest,
        signature: ModelSignature::make(
            &secret(number),
            &manifest.digest,
            role_of(manifest),
            &name_of(manifest),
        ),
    }
}

fn write(manifest: &Manifest, text: &str) {
    fs::write(manifest.folder.join(SIGNATURE_FILE), text).unwrap();
}

fn refusal(trust: &ModelTrust, manifest: &Manifest) -> String {
    trust.check(manifest).unwrap_err().to_string()
}

#[test]
fn an_unsigned_folder_is_taken_only_where_nothing_is_demanded() {
    let folder = folder();
    let manifest = Manifest::load(folder.path()).unwrap();
    assert_eq!(ModelTrust::default().check(&manifest).unwrap(), None);
    assert_eq!(ModelTrust::of(vec![]).check(&manifest).unwrap(), None);
    let error = refusal(&ModelTrust::of(vec![key(1)]), &manifest);
    assert!(
        error.contains("not signed") && error.contains("karat model sign"),
        "{error}"
    );
}

#[test]
fn a_signature_counts_only_by_a_trusted_key() {
    let folder = folder();
    let manifest = Manifest::load(folder.path()).unwrap();
    let file = signed(&manifest, 1);
    write(&manifest, &file.to_text());
    for trust in [
        ModelTrust::default(),
        ModelTrust::of(vec![key(2), key(1)]),
        ModelTrust {
            keys: vec![key(1)],
            required: false,
        },
    ] {
        assert_eq!(trust.check(&manifest).unwrap(), Some(file.signature));
    }
    for required in [false, true] {
        let trust = ModelTrust {
            keys: vec![key(2)],
            required,
        };
        let error = refusal(&trust, &manifest);
        assert!(
            error.contains(&hex::encode(key(1))) && error.contains(&hex::encode(key(2))),
            "{error}"
        );
    }
}

#[test]
fn what_was_altered_after_signing_is_refused() {
    let folder = folder();
    let manifest = Manifest::load(folder.path()).unwrap();
    let file = signed(&manifest, 1);
    write(&manifest, &file.to_text());
    let path = folder.path().join(MANIFEST_FILE);
    let text = fs::read_to_string(&path).unwrap();
    let version = format!("version = \"{}\"", manifest.version);
    fs::write(&path, text.replace(&version, "version = \"9.9.9\"")).unwrap();
    let altered = Manifest::load(folder.path()).unwrap();
    let error = refusal(&ModelTrust::default(), &altered);
    for part in [
        hex::encode(manifest.digest),
        hex::encode(altered.digest),
        "restore".to_owned(),
    ] {
        assert!(error.contains(&part), "{error}");
    }
    // With the digest written over, the signature itself gives it away; and so do role and name.
    let relabelled = SignatureFile {
        digest: altered.digest,
        ..file
    };
    write(&manifest, &relabelled.to_text());
    assert!(matches!(
        ModelTrust::default().check(&altered),
        Err(SignatureError::Wrong { .. })
    ));
    write(&manifest, &file.to_text());
    let other_role = Manifest {
        role: Role::Generator,
        ..manifest.clone()
    };
    let other_name = Manifest {
        version: "1".to_owned(),
        ..manifest
    };
    for other in [other_role, other_name] {
        assert!(matches!(
            ModelTrust::default().check(&other),
            Err(SignatureError::Wrong { .. })
        ));
    }
}

#[test]
fn a_file_that_is_no_signature_is_refused_with_what_is_wrong() {
    let folder = folder();
    let manifest = Manifest::load(folder.path()).unwrap();
    let text = signed(&manifest, 1).to_text();
    let without = |field: &str| {
        let kept = text.lines().filter(|line| !line.starts_with(field));
        kept.map(|line| format!("{line}\n")).collect::<String>()
    };
    let digest = hex::encode(manifest.digest);
    for (content, part) in [
        (String::new(), "format"),
        ("\u{1}".to_owned(), "manifest.sig"),
        (without("signature"), "signature"),
        (without("public_key"), "public_key"),
        (format!("{text}more = 1\n"), "more"),
        (text.replace("format = 1", "format = 2"), "format 2"),
        (
            text.replace("key_id = \"", "key_id = \"00"),
            "16 hexadecimal digits",
        ),
        (
            text.replace(&hex::encode(key(1)), &hex::encode(key(2))),
            "key_id",
        ),
        (text.replace(&digest, &digest[..62]), "digest must be 64"),
        (text.replace(&digest, &"z".repeat(64)), "digest must be 64"),
        (
            format!("{text}#{}", "x".repeat(4096)),
            "more than 4096 bytes",
        ),
    ] {
        write(&manifest, &content);
        let error = refusal(&ModelTrust::default(), &manifest);
        assert!(error.contains(part), "{content}\n{error}");
        assert!(error.contains("manifest.sig"), "{error}");
    }
    fs::write(folder.path().join(SIGNATURE_FILE), b"\xff\xfe").unwrap();
    let error = refusal(&ModelTrust::default(), &manifest);
    assert!(error.contains("UTF-8"), "{error}");
    fs::remove_file(folder.path().join(SIGNATURE_FILE)).unwrap();
    fs::create_dir(folder.path().join(SIGNATURE_FILE)).unwrap();
    let error = refusal(&ModelTrust::default(), &manifest);
    assert!(error.contains("cannot read"), "{error}");
}

#[test]
fn a_key_is_64_digits_that_are_a_key() {
    let text = hex::encode(key(1));
    assert_eq!(parse_key(&text), Ok(key(1)));
    assert_eq!(parse_key(&format!("0x{text}")), Ok(key(1)));
    let identity = format!("01{}", "00".repeat(31));
    for bad in ["", "12", &text[1..], &"g".repeat(64), &identity] {
        assert!(parse_key(bad).is_err(), "{bad}");
    }
}

/// The committed auditor and its folder, kept for as long as the tests run.
fn shared() -> &'static (tempfile::TempDir, Manifest) {
    static SHARED: OnceLock<(tempfile::TempDir, Manifest)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let folder = folder();
        let manifest = Manifest::load(folder.path()).unwrap();
        (folder, manifest)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,300}") {
        let _ = SignatureFile::parse(&text, Path::new("manifest.sig"));
    }

    #[test]
    fn fields_of_any_length_are_read_or_refused(
        format in 0..3_u32,
        key_id in "[0-9a-fA-F]{0,18}",
        public_key in "[0-9a-f]{60,66}",
        digest in "[0-9a-f]{60,66}",
        signature in "[0-9a-f]{126,130}",
    ) {
        let text = format!(
            "format = {format}\nkey_id = \"{key_id}\"\npublic_key = \"{public_key}\"\ndigest = \"{digest}\"\n\
             signature = \"{signature}\"\n"
        );
        if let Ok(file) = SignatureFile::parse(&text, Path::new("manifest.sig")) {
            prop_assert_eq!(hex::encode(file.signature.key), public_key);
            prop_assert_eq!(hex::encode(file.digest), digest);
        }
    }

    #[test]
    fn what_was_written_is_read_back(digest in any::<[u8; 32]>(), seed in any::<u8>(), rest in any::<[u8; 32]>()) {
        let mut signature = [0; SIGNATURE_BYTES];
        signature[..32].copy_from_slice(&rest);
        signature[32..].copy_from_slice(&digest);
        let file = SignatureFile { digest, signature: ModelSignature { key: key(seed), signature } };
        let read = SignatureFile::parse(&file.to_text(), Path::new("manifest.sig")).unwrap();
        prop_assert_eq!(read, file);
    }

    #[test]
    fn a_changed_byte_gives_no_other_signature(at in any::<prop::sample::Index>(), with in 0x20..0x7f_u8) {
        let (_, manifest) = shared();
        let file = signed(manifest, 1);
        let mut bytes = file.to_text().into_bytes();
        let place = at.index(bytes.len());
        bytes[place] = with;
        let text = String::from_utf8(bytes).unwrap();
        if let Ok(read) = SignatureFile::parse(&text, Path::new("manifest.sig")) {
            let holds = read.signature.is_of(&manifest.digest, role_of(manifest), &name_of(manifest));
            prop_assert_eq!(holds && read.digest == manifest.digest, read == file, "{}", text);
        }
    }
}
