use std::fs;

use super::*;

/// A folder with one file that is no real model: nothing here runs it.
fn folder(change: impl Fn(String) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = b"the bytes of a model";
    fs::write(folder.path().join("model.onnx"), model).unwrap();
    let text = format!(
        r#"
format = 2
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
bytes = {}
exact = false
ladder = true
precision = "float32"
cost_us = 900
quality = 0.9900
distance = 0
backend_tolerance = 0.25
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
        "9d0dfc4b397be69dbc3f8b65144d241ed935164f8795660cf7b0ae17f7aaacca",
        "an approved model would need to be approved again"
    );
    assert_eq!(base, digest("cost_us = 900", "cost_us = 1200.5"));
    assert_eq!(base, digest("quality = 0.9900", "quality = 1"));
    assert_eq!(base, digest("distance = 0", "distance = 0.5"));
    for (from, to) in [
        ("1.0.0", "1.0.1"),
        ("\"blade\"", "\"sword\""),
        ("[3, 1]", "[3, 2]"),
        ("tolerance = 0.25", "tolerance = 0.2500000001"),
        ("tolerance = 0.25", "tolerance = 0"),
        ("float32", "int8"),
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
        ("exact = false", "exact = false\nint4 = true"),
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
    for (format, advice) in [(1, "make the manifest again"), (3, "use a newer build")] {
        let other = format!("format = {format}\nnew_key = 1");
        let error = load(|text| text.replace("format = 2", &other)).unwrap_err();
        assert!(matches!(error, ManifestError::Format { found, .. } if found == format));
        assert!(error.to_string().contains(advice), "{error}");
    }
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
        ("sha256 = \"", "sha256 = \"0", "variants[0].sha256"),
        ("bytes = ", "bytes = 99999999", "variants[0].bytes"),
        (
            "exact = false",
            "exact = true",
            "variants[0].backend_tolerance",
        ),
        (
            "tolerance = 0.25",
            "tolerance = inf",
            "variants[0].backend_tolerance",
        ),
        (
            "tolerance = 0.25",
            "tolerance = -0.1",
            "variants[0].backend_tolerance",
        ),
        (
            "tolerance = 0.25",
            "tolerance = 200",
            "variants[0].backend_tolerance",
        ),
        ("distance = 0", "distance = nan", "variants[0].distance"),
        ("distance = 0", "distance = -1", "variants[0].distance"),
        ("quality = 0.9900", "quality = 1.5", "variants[0].quality"),
        ("ladder = true", "ladder = false", "variants.full.ladder"),
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

const LIMITS: &str = "
[auditor]
accept_below_ppm = 8
reject_above_ppm = 9
near_duplicate_ppm = 250000
drift_window = 256
drift_alarm_ppm = 500000
";

fn reference() -> String {
    let row = |value: &str| vec![value; EMBEDDING_LENGTH].join(", ");
    format!(
        "[reference]\nmean = [{}]\ndeviation = [{}]\n",
        row("-0.5"),
        row("2")
    )
}

fn auditor(tables: &str) -> Result<Manifest, ManifestError> {
    load(|text| {
        text.replace("role = \"generator\"", "role = \"auditor\"")
            .replace("ladder = true", "ladder = false")
            + tables
    })
}

#[test]
fn an_auditor_brings_its_thresholds_and_its_reference() {
    let manifest = auditor(&(LIMITS.to_owned() + &reference())).unwrap();
    let reference = manifest.reference.unwrap();
    assert_eq!(
        (reference.mean, reference.deviation),
        ([-0.5; 32], [2.0; 32])
    );
    assert_eq!(manifest.auditor.unwrap().drift_window, 256);
    let limits = LIMITS.replace("250000", "250001");
    let other_limits = auditor(&(limits + &self::reference())).unwrap();
    let other_reference =
        auditor(&(LIMITS.to_owned() + &self::reference().replace("[2,", "[2.5,")));
    assert_ne!(manifest.digest, other_limits.digest);
    assert_ne!(manifest.digest, other_reference.unwrap().digest);
}

fn drift_reference(variant: &str) -> String {
    let rows = reference()
        .replace("[reference]", "")
        .replace("-0.5", "0.25");
    format!("[[drift_references]]\nvariant = \"{variant}\"{rows}")
}

#[test]
fn an_auditor_may_bring_references_of_single_variants() {
    let whole = LIMITS.to_owned() + &reference();
    let plain = auditor(&whole).unwrap();
    let with = auditor(&format!(
        "{whole}{}{}",
        drift_reference("a"),
        drift_reference("b")
    ))
    .unwrap();
    let of = &with.drift_references;
    assert_eq!(
        of.iter()
            .map(|one| one.variant.as_str())
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(of[1].reference.mean, [0.25; 32]);
    assert_eq!(of[1].reference.deviation, [2.0; 32]);
    assert!(plain.drift_references.is_empty());
    let renamed = auditor(&format!(
        "{whole}{}{}",
        drift_reference("a"),
        drift_reference("c")
    ));
    let digests = [plain.digest, with.digest, renamed.unwrap().digest];
    assert!(digests[0] != digests[1] && digests[1] != digests[2] && digests[0] != digests[2]);
    let one = drift_reference("a");
    for (tables, key) in [
        (one.repeat(2), "drift_references[1].variant"),
        (drift_reference(""), "drift_references[0].variant"),
        (
            one.replace("[0.25,", "[nan,"),
            "drift_references[0].mean[0]",
        ),
        (
            one.replace("[2,", "[0,"),
            "drift_references[0].deviation[0]",
        ),
        (one.replace("[2,", "["), "drift_references[0].deviation"),
    ] {
        let error = auditor(&(whole.clone() + &tables)).unwrap_err();
        assert!(
            matches!(&error, ManifestError::Value { key: found, .. } if found == key),
            "{key}: {error}"
        );
    }
    let many: String = (0..=VARIANTS_MOST)
        .map(|number| drift_reference(&number.to_string()))
        .collect();
    for error in [auditor(&(whole + &many)), load(|text| text + &one)] {
        let error = error.unwrap_err();
        assert!(
            matches!(&error, ManifestError::Value { key, .. } if key == "drift_references"),
            "{error}"
        );
    }
}

#[test]
fn an_auditor_without_them_or_with_senseless_ones_is_refused_with_the_key() {
    let whole = LIMITS.to_owned() + &reference();
    for (from, to, key) in [
        ("accept_below_ppm = 8", "accept_below_ppm = 10", "auditor"),
        (
            "reject_above_ppm = 9",
            "reject_above_ppm = 1000001",
            "auditor",
        ),
        ("ppm = 250000", "ppm = 0", "auditor.near_duplicate_ppm"),
        (
            "ppm = 500000",
            "ppm = 4000000000",
            "auditor.drift_alarm_ppm",
        ),
        ("window = 256", "window = 1", "auditor.drift_window"),
        ("window = 256", "window = 65537", "auditor.drift_window"),
        ("mean = [-0.5", "mean = [nan", "reference.mean[0]"),
        ("mean = [-0.5,", "mean = [", "reference.mean"),
        (
            "deviation = [2,",
            "deviation = [2, 2,",
            "reference.deviation",
        ),
        (
            "deviation = [2, 2,",
            "deviation = [2, 0,",
            "reference.deviation[1]",
        ),
        (
            "deviation = [2, 2,",
            "deviation = [2, inf,",
            "reference.deviation[1]",
        ),
    ] {
        let changed = whole.replace(from, to);
        assert_ne!(changed, whole);
        let error = auditor(&changed).unwrap_err();
        assert!(
            matches!(&error, ManifestError::Value { key: found, .. } if found == key),
            "{to}: {error}"
        );
    }
    for (tables, key) in [(reference(), "auditor"), (LIMITS.to_owned(), "reference")] {
        let error = auditor(&tables).unwrap_err();
        assert!(matches!(&error, ManifestError::Value { key: found, .. } if found == key));
    }
}

#[test]
fn a_generator_has_neither_thresholds_nor_a_reference_and_an_auditor_no_ladder() {
    for (tables, key) in [(reference(), "reference"), (LIMITS.to_owned(), "auditor")] {
        let error = load(|text| text + &tables).unwrap_err();
        assert!(matches!(&error, ManifestError::Value { key: found, .. } if found == key));
    }
    let error = load(|text| text.replace("\"generator\"", "\"auditor\"") + LIMITS + &reference())
        .unwrap_err();
    assert!(
        matches!(&error, ManifestError::Value { key, .. } if key == "variants[0].ladder"),
        "{error}"
    );
}

#[test]
fn an_exact_default_needs_no_ladder() {
    let manifest = load(|text| {
        text.replace("ladder = true", "ladder = false")
            .replace("exact = false", "exact = true")
            .replace("tolerance = 0.25", "tolerance = 0")
    })
    .unwrap();
    assert!(manifest.is_exact("full"));
}
