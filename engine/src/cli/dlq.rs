//! `karat dlq`: what the topic of commands held that was not taken, or was refused.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{CliError, Common};

/// The realm of a command that names none.
const DEFAULT_REALM: &str = "main";

// No doc comment: as a flattened struct's it would become the commands' own description.
#[derive(Debug, Args)]
pub struct Place {
    /// Brokers, as kafka://HOST:PORT
    #[arg(long, default_value = "kafka://127.0.0.1:9092")]
    log: String,
    /// Prefix of the realm's topics
    #[arg(long, default_value = "karat")]
    prefix: String,
    /// Configuration of the realm's engine, instead of the two: also says how the brokers let in, and names the realm
    #[arg(long, conflicts_with_all = ["log", "prefix"])]
    config: Option<PathBuf>,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// One line each: number, code, place on the topic of commands, reason
    #[command(after_help = "Example: karat dlq list --log kafka://127.0.0.1:19092")]
    List {
        #[command(flatten)]
        place: Place,
        /// First number
        #[arg(long, default_value_t = 0)]
        from: i64,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// One of them, with its bytes in hex
    #[command(after_help = "Example: karat dlq show 3 --log kafka://127.0.0.1:19092")]
    Show {
        /// Its number
        number: i64,
        #[command(flatten)]
        place: Place,
    },
    /// Put one on the topic of commands again
    #[command(
        after_help = "A command that was refused under its id is answered with the same refusal again, because an id names one outcome.\n\nExample: karat dlq retry 3 --log kafka://127.0.0.1:19092"
    )]
    Retry {
        /// Its number
        number: i64,
        #[command(flatten)]
        place: Place,
    },
}

/// The realm that is asked for, or else this one.
fn realm(common: &Common, otherwise: &str) -> String {
    common
        .realm
        .as_ref()
        .map_or_else(|| otherwise.to_owned(), ToString::to_string)
}

/// Says that this build cannot do it.
#[cfg(not(feature = "kafka"))]
pub fn run(common: &Common, command: DlqCommand) -> Result<(), CliError> {
    let (what, place) = match command {
        DlqCommand::List { place, from, limit } => (format!("list {limit} from {from}"), place),
        DlqCommand::Show { number, place } => (format!("show {number}"), place),
        DlqCommand::Retry { number, place } => (format!("retry {number}"), place),
    };
    let file = place
        .config
        .map_or(place.log, |file| file.display().to_string());
    Err(CliError::Usage(format!(
        "{what}: this build has no Kafka and cannot reach {file} ({}.{}); build with `--features kafka`",
        place.prefix,
        realm(common, DEFAULT_REALM)
    )))
}

/// Runs the command.
#[cfg(feature = "kafka")]
pub fn run(common: &Common, command: DlqCommand) -> Result<(), CliError> {
    use serde_json::json;

    use super::{describe, print_json};

    match command {
        DlqCommand::List { place, from, limit } => {
            let letters = open(common, &place)?
                .read(from, limit)
                .map_err(|error| CliError::Unreachable(error.to_string()))?;
            if common.json {
                let shown: Vec<_> = letters.iter().map(|letter| shown(letter, false)).collect();
                print_json(&json!({ "dead_letters": shown }));
            } else {
                for letter in &letters {
                    sayln!(
                        "{}  code {}  from {}:{}  {} bytes  {}",
                        letter.number,
                        letter.code,
                        letter.source.0,
                        letter.source.1,
                        letter.bytes.len(),
                        letter.reason
                    );
                }
            }
        }
        DlqCommand::Show { number, place } => {
            let letter = find(&open(common, &place)?, number)?;
            if common.json {
                print_json(&shown(&letter, true));
            } else {
                say!("{}", describe::lines(&shown(&letter, true), 0));
            }
        }
        DlqCommand::Retry { number, place } => {
            let letters = open(common, &place)?;
            let letter = find(&letters, number)?;
            letters
                .retry(&letter)
                .map_err(|error| CliError::No(error.to_string()))?;
            if common.json {
                print_json(&json!({ "retried": number }));
            } else {
                sayln!("{number} is on the topic of commands again");
            }
        }
    }
    Ok(())
}

#[cfg(feature = "kafka")]
fn open(common: &Common, place: &Place) -> Result<crate::kafka::DeadLetters, CliError> {
    use crate::config::{Config, KafkaSettings};
    use crate::realm_log::LogPlace;

    let letters = |settings: &KafkaSettings, realm: &str| {
        crate::kafka::topics(settings, realm)
            .map(crate::kafka::DeadLetters::new)
            .map_err(|error| CliError::Usage(error.to_string()))
    };
    if let Some(file) = &place.config {
        let config = Config::load(file).map_err(|error| CliError::Usage(error.to_string()))?;
        return letters(&config.log.kafka, &realm(common, &config.realm.name));
    }
    let LogPlace::Topic { brokers, .. } = LogPlace::parse(&place.log).map_err(CliError::Usage)?
    else {
        let log = &place.log;
        return Err(CliError::Usage(format!(
            "--log {log}: it must look like kafka://HOST:PORT"
        )));
    };
    let settings = KafkaSettings {
        brokers,
        topic_prefix: place.prefix.clone(),
        ..KafkaSettings::default()
    };
    letters(&settings, &realm(common, DEFAULT_REALM))
}

#[cfg(feature = "kafka")]
fn find(
    letters: &crate::kafka::DeadLetters,
    number: i64,
) -> Result<crate::kafka::DeadLetter, CliError> {
    let found = letters
        .read(number, 1)
        .map_err(|error| CliError::Unreachable(error.to_string()))?;
    found
        .into_iter()
        .find(|letter| letter.number == number)
        .ok_or_else(|| CliError::No(format!("there is no dead letter {number}")))
}

#[cfg(feature = "kafka")]
fn shown(letter: &crate::kafka::DeadLetter, bytes: bool) -> serde_json::Value {
    let mut shown = serde_json::json!({
        "number": letter.number,
        "code": letter.code,
        "reason": letter.reason,
        "source_partition": letter.source.0,
        "source_offset": letter.source.1,
        "sequence": letter.sequence,
        "size": letter.bytes.len(),
        "cut_from": letter.cut_from,
    });
    if bytes && let Some(fields) = shown.as_object_mut() {
        fields.insert("bytes".into(), super::hexadecimal(&letter.bytes).into());
    }
    shown
}
