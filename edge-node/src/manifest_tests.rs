use std::fs;

use super::*;

/// A folder with one file that is no real model: nothing here runs it.
fn folder(change: impl Fn(String) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = b"the bytes of a model";
    fs::write(folder.path().join("model.onnx"), model).unwrap();
    let text = format!(
        r#"
format = 1
name = "relics"
version = "1.0.0"
role = "generator"
licence = "Apache-2.0"
image_width = 64
image_height = 64
latent_length = 16
seed = 7
default_variant = "full"

[[traits]]
name = "kind"
values = ["blade", "shield"]
weights = [3, 1]

[[traits]]
name = "material"
values = ["steel", "gold", "wood"]
weights = [5, 2, 1]

[[exclusions]]
trait = "kind"
value = "shield"
other_trait = "material"
other_value = "wood"

[[variants]]
name = "full"
file = "model.onnx"
sha256 = "{}"
exact = false
cost_us = 900
quality = 0.9900
bytes = {}
"#,
        hex::encode(Sha256::digest(model)),
        model.len()
    );
    fs::write(folder.path().join(MANIFEST_FILE), change(text)).unwrap();
    folder
}

fn load(change: impl Fn(String) -> String) -> Result<Manifest, ManifestError> {
    Manifest::load(folder(change).path())
}

#[test]
fn a_sound_folder_is_read_whole() {
    let manifest = load(|text| text).unwrap();
    assert_eq!(
        (
            manifest.role,
            manifest.one_hot_length(),
            manifest.pixel_bytes()
        ),
        (Role::Generator, 5, 12_288)
    );
    let rules = manifest.trait_rules();
    assert_eq!(rules.cardinalities, [2, 3]);
    assert_eq!(rules.exclusions, [((0, 1), (1, 2))]);
    assert_eq!(manifest.value_index("material", "gold"), Some((1, 1)));
    assert!(!manifest.is_exact("full"));
    assert!(matches!(
        manifest.variant("tiny"),
        Err(ManifestError::UnknownVariant { .. })
    ));
}

#[test]
fn the_digest_names_the_model_and_not_what_was_measured() {
    let digest = |from: &str, to: &str| load(|text| text.replace(from, to)).unwrap().digest;
    let base = digest("", "");
    assert_eq!(
        hex::encode(base),
        "6f1d75d4509c5df127a04778109ba72868a13505b2ecc04e87292a9fbc0d0481",
        "an approved model would need to be approved again"
    );
    assert_eq!(base, digest("cost_us = 900", "cost_us = 1200.5"));
    assert_eq!(base, digest("quality = 0.9900", "quality = 1"));
    for (from, to) in [
        ("1.0.0", "1.0.1"),
        ("\"blade\"", "\"sword\""),
        ("[3, 1]", "[3, 2]"),
        ("exact = false", "exact = true"),
        ("other_value = \"wood\"", "other_value = \"gold\""),
        ("latent_length = 16", "latent_length = 8"),
        ("seed = 7", "seed = 8"),
    ] {
        assert_ne!(base, digest(from, to), "{to}");
    }
}

#[test]
fn an_altered_file_is_refused_with_both_digests() {
    let folder = folder(|text| text);
    let file = folder.path().join("model.onnx");
    fs::write(&file, b"the bytes of a mOdel").unwrap();
    let error = Manifest::load(folder.path()).unwrap_err();
    assert!(matches!(&error, ManifestError::Altered { file: named, .. } if *named == file));
    let text = error.to_string();
    assert!(
        text.contains(&hex::encode(Sha256::digest(b"the bytes of a model"))),
        "{text}"
    );
    assert!(
        text.contains(&hex::encode(Sha256::digest(b"the bytes of a mOdel"))),
        "{text}"
    );
}

#[test]
fn a_file_cut_short_or_missing_is_refused_by_name() {
    let folder = folder(|text| text);
    let file = folder.path().join("model.onnx");
    fs::write(&file, b"the bytes").unwrap();
    let error = Manifest::load(folder.path()).unwrap_err();
    assert!(matches!(
        error,
        ManifestError::Length {
            expected_bytes: 20,
            found_bytes: 9,
            ..
        }
    ));
    fs::remove_file(&file).unwrap();
    let error = Manifest::load(folder.path()).unwrap_err();
    assert!(
        matches!(error, ManifestError::Read { .. }) && error.to_string().contains("model.onnx")
    );
}

#[test]
fn a_file_replaced_while_the_node_runs_is_not_read() {
    let folder = folder(|text| text);
    let manifest = Manifest::load(folder.path()).unwrap();
    fs::write(folder.path().join("model.onnx"), b"the bytes of a mOdel").unwrap();
    assert!(matches!(
        manifest.read_variant("full"),
        Err(ManifestError::Altered { .. })
    ));
}

#[test]
fn unknown_keys_are_refused_wherever_they_are() {
    for (from, to) in [
        ("seed = 7", "seed = 7\ncolour = 1"),
        ("weights = [3, 1]", "weights = [3, 1]\nrare = true"),
        ("exact = false", "exact = false\nint8 = true"),
        (
            "other_value = \"wood\"",
            "other_value = \"wood\"\nwhy = \"\"",
        ),
    ] {
        let error = load(|text| text.replace(from, to)).unwrap_err();
        assert!(
            matches!(error, ManifestError::Parse { .. })
                && error.to_string().contains("unknown field"),
            "{error}"
        );
    }
}

#[test]
fn another_format_is_told_apart_from_a_broken_file() {
    let error = load(|text| text.replace("format = 1", "format = 2\nnew_key = 1")).unwrap_err();
    assert!(matches!(error, ManifestError::Format { found: 2, .. }));
    assert!(matches!(
        load(|_| "format = ".into()),
        Err(ManifestError::Parse { .. })
    ));
}

#[test]
fn values_out_of_bounds_are_refused_with_their_key() {
    for (from, to, key) in [
        ("name = \"relics\"", "name = \"\"", "name"),
        ("image_width = 64", "image_width = 4096", "image_width"),
        ("latent_length = 16", "latent_length = 0", "latent_length"),
        (
            "latent_length = 16",
            "latent_length = 9999",
            "latent_length",
        ),
        (
            "file = \"model.onnx\"",
            "file = \"../model.onnx\"",
            "variants[0].file",
        ),
        (
            "file = \"model.onnx\"",
            "file = \"/etc/passwd\"",
            "variants[0].file",
        ),
        ("file = \"model.onnx\"", "file = \"..\"", "variants[0].file"),
        (
            "exact = false",
            "exact = false\ncost_us = 1\nquality = 1\nbytes = 1\n[[variants]]\nname = \"second\"\nfile = \"model.onnx\"\nsha256 = \"00\"\nexact = true",
            "variants[1].sha256",
        ),
        ("quality = 0.9900", "quality = nan", "variants[0].quality"),
        ("cost_us = 900", "cost_us = -1", "variants[0].cost_us"),
        ("weights = [3, 1]", "weights = [3]", "traits[0]"),
        (
            "\"blade\", \"shield\"",
            "\"shield\", \"shield\"",
            "traits[0]",
        ),
        ("name = \"material\"", "name = \"kind\"", "traits"),
        (
            "other_value = \"wood\"",
            "other_value = \"paper\"",
            "exclusions[0]",
        ),
    ] {
        let error = load(|text| text.replace(from, to)).unwrap_err();
        assert!(
            matches!(&error, ManifestError::Value { key: found, .. } if found == key),
            "{to}: {error}"
        );
    }
}

#[test]
fn a_manifest_over_its_bound_is_not_read() {
    let error = load(|text| text + &"#".repeat(MANIFEST_BYTES_MOST as usize)).unwrap_err();
    assert!(matches!(error, ManifestError::TooLarge { .. }));
}

#[test]
fn an_auditor_needs_thresholds_that_make_sense() {
    let auditor = |limits: &str| {
        load(|text| text.replace("role = \"generator\"", "role = \"auditor\"") + limits)
    };
    assert!(matches!(auditor(""), Err(ManifestError::Value { .. })));
    assert!(matches!(
        auditor("\n[auditor]\naccept_below_ppm = 9\nreject_above_ppm = 8\n"),
        Err(ManifestError::Value { .. })
    ));
    assert!(auditor("\n[auditor]\naccept_below_ppm = 8\nreject_above_ppm = 9\n").is_ok());
}
