//! deploy/karat.toml names every key with its default and says what it means.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use karat_engine::config::Config;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/karat.toml");

#[test]
fn the_file_of_defaults_is_the_default_configuration() {
    assert_eq!(Config::load(Path::new(FILE)).unwrap(), Config::default());
}

#[test]
fn the_file_of_defaults_names_every_key() {
    let written: toml::Table = std::fs::read_to_string(FILE).unwrap().parse().unwrap();
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    assert_eq!(written, defaults);
}

#[test]
fn every_key_of_the_file_stands_below_a_comment() {
    let text = std::fs::read_to_string(FILE).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2) {
        let is_key = pair[1].contains(" = ") && !pair[1].starts_with('#');
        assert!(
            !is_key || pair[0].starts_with("# "),
            "{} has no comment",
            pair[1]
        );
    }
}
