//! Values of arguments: how commands travel, what is asked for, how fast.

use std::str::FromStr;

use clap::ValueEnum;
use karat_proto::v1;

/// How commands travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Streams of messages, each with a batch of commands.
    Submit,
    /// A call for each command; on one stream they may overtake each other.
    Execute,
    /// An edge node's stream: images, each against a credit. For scenarios that only mint.
    Edge,
    /// Messages of a Kafka producer: chosen by a kafka:// target.
    #[value(skip)]
    Kafka,
}

/// What the agents make of the assets of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verdict {
    /// They accept them, so that the whole system works beside the load: what is traded is due for settlement too.
    Accept,
    /// They know none of the traits and leave the assets to people: tradable, but nothing settles. The way from command to
    /// outcome alone.
    Review,
}

/// Ack levels by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ack {
    /// In the log's order and applied.
    Sequenced,
    /// Flushed to the disk.
    Durable,
    /// Accepted by a verdict.
    Verified,
    /// Final on chain.
    Settled,
}

impl Ack {
    /// As reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Ack::Sequenced => "sequenced",
            Ack::Durable => "durable",
            Ack::Verified => "verified",
            Ack::Settled => "settled",
        }
    }

    /// On the wire.
    pub fn to_wire(self) -> v1::AckLevel {
        match self {
            Ack::Sequenced => v1::AckLevel::Sequenced,
            Ack::Durable => v1::AckLevel::Durable,
            Ack::Verified => v1::AckLevel::Verified,
            Ack::Settled => v1::AckLevel::Settled,
        }
    }
}

/// How fast commands are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Open loop, commands a second.
    PerSecond(f64),
    /// Closed window.
    Max,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        if text == "max" {
            return Ok(Rate::Max);
        }
        match text.parse::<f64>() {
            Ok(rate) if (0.1..=10_000_000.0).contains(&rate) => Ok(Rate::PerSecond(rate)),
            _ => Err("a rate is 0.1 to 10000000 commands a second, or max".into()),
        }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rate::PerSecond(rate) => write!(out, "{rate}"),
            Rate::Max => out.write_str("max"),
        }
    }
}
