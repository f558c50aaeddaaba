//! The end of a run: what became of every asset, and whether the books close.

use std::collections::BTreeMap;

use karat_edge_node::node::NodeSnapshot;
use karat_proto::{Code, v1};
use serde_json::{Value, json};

use super::books::{Books, Tally};
use super::progress::steps_text;
use crate::cli::lower;

/// Everything the summary tells.
pub struct Summary {
    /// The edge node.
    pub node: NodeSnapshot,
    /// What became of the assets.
    pub tally: Tally,
    /// Positions and figures.
    pub status: v1::GetStatusResponse,
    /// Gas of settled batches by their leaves.
    pub gas_an_asset: Option<f64>,
    /// Length of the run, seconds.
    pub seconds: f64,
    /// Seconds until the first asset was settled.
    pub first_settled_seconds: Option<f64>,
}

/// Whether every asset of a run is accounted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BooksState {
    /// Generated = settled + rejected + in review + refused (+ burned before they were settled).
    Closed,
    /// The same with assets that have not ended yet: they are in the log or in the edge node's spool, and go on at the
    /// next start.
    GoOn,
    /// An asset was generated and nothing knows of it.
    Open,
}

impl Summary {
    /// Assets that a run before this one generated and this one minted.
    fn left_over(&self) -> u64 {
        let of_this_run = self
            .node
            .generated
            .saturating_sub(self.node.refused_count());
        self.tally.minted.saturating_sub(of_this_run)
    }

    /// Assets that this run answers for.
    fn generated(&self) -> u64 {
        self.node.generated + self.left_over()
    }

    /// Assets that were generated and are neither minted nor refused.
    fn on_the_way(&self) -> u64 {
        let refused = self.node.refused_count();
        self.generated().saturating_sub(self.tally.minted + refused)
    }

    /// Whether every asset is accounted for.
    pub fn books(&self) -> BooksState {
        let refused = self.node.refused_count();
        if self.generated() == self.tally.ended() + refused {
            BooksState::Closed
        } else if self.on_the_way() <= self.node.spooled {
            BooksState::GoOn
        } else {
            BooksState::Open
        }
    }

    /// For machines.
    pub fn to_json(&self, books: &Books) -> Value {
        let refused: serde_json::Map<String, Value> = self
            .node
            .refused
            .iter()
            .map(|(number, count)| {
                let name = Code::from_number(*number).map_or("Unknown", Code::name);
                (name.to_owned(), json!(count))
            })
            .collect();
        let tally = &self.tally;
        json!({
            "generated": self.generated(),
            "left_over_from_before": self.left_over(),
            "spoiled_on_purpose": self.node.spoiled,
            "made_by_variant": self.node.made_by.iter().cloned().collect::<BTreeMap<String, u64>>(),
            "ladder_steps": { "down": self.node.steps_down, "up": self.node.steps_up },
            "settled": tally.settled,
            "rejected": tally.rejected,
            "in_review": tally.in_review,
            "burned_unsettled": tally.burned,
            "refused": self.node.refused_count(),
            "refused_by_code": refused,
            "not_ended": { "pending": tally.pending, "active": tally.active, "in_spool": self.on_the_way() },
            "books_close": self.books() == BooksState::Closed,
            "accounted_for": self.books() != BooksState::Open,
            "traded": books.traded,
            "revised": books.revised,
            "redeemed": books.redeemed,
            "claims_lost": books.claims_lost,
            "gas_an_asset": self.gas_an_asset.map(f64::round),
            "seconds": (self.seconds * 1000.0).round() / 1000.0,
            "first_settled_seconds": self.first_settled_seconds,
            "resident_bytes": resident_bytes(),
            "budget": self.node.budget,
            "status": crate::cli::status_json(&self.status),
        })
    }

    /// For people.
    pub fn to_text(&self, books: &Books) -> String {
        let tally = &self.tally;
        let mut text = format!(
            "\n{} assets in {:.1} s: {} settled, {} rejected, {} in review, {} refused",
            self.generated(),
            self.seconds,
            tally.settled,
            tally.rejected,
            tally.in_review,
            self.node.refused_count()
        );
        if tally.burned > 0 {
            text.push_str(&format!(", {} burned", tally.burned));
        }
        let going_on = tally.pending + tally.active + self.on_the_way();
        if going_on > 0 {
            text.push_str(&format!(", {going_on} not ended yet"));
        }
        let made_by = self.node.made_by.iter();
        let made_by: Vec<String> = made_by
            .map(|(variant, count)| format!("{count} by {variant}"))
            .collect();
        for looks in super::progress::drift(&self.status) {
            text.push_str(&format!("\n{looks}"));
        }
        text.push_str(&format!(
            "\nmade in this run: {}{}",
            made_by.join(", "),
            steps_text(&self.node)
        ));
        text.push_str(&format!(
            "\n{} traded, {} revised, {} redeemed; gas an asset {}\n{}\n\n{}\n{}\n",
            books.traded,
            books.revised,
            books.redeemed,
            self.gas_an_asset
                .map_or("-".into(), |gas| format!("{gas:.0}")),
            latency_text(&self.status.latencies),
            self.node.budget.table(),
            match self.books() {
                BooksState::Closed => "the books close".to_owned(),
                BooksState::GoOn => format!(
                    "the books close so far: {going_on} assets go on at the next start, {} of them from the edge node's spool",
                    self.on_the_way()
                ),
                BooksState::Open => "the books DO NOT CLOSE".to_owned(),
            }
        ));
        text
    }
}

/// Latencies on one line.
pub fn latency_text(latencies: &[v1::AckLatency]) -> String {
    let parts: Vec<String> = latencies
        .iter()
        .map(|one| {
            let level = v1::AckLevel::try_from(one.ack).map_or("?", |level| level.as_str_name());
            format!(
                "{} p50 {} us p99 {} us",
                lower(level, "ACK_LEVEL_"),
                one.p50_us,
                one.p99_us
            )
        })
        .collect();
    if parts.is_empty() {
        "no answers yet".into()
    } else {
        parts.join(", ")
    }
}

/// Memory of this process, bytes; 0 where the system does not say.
pub fn resident_bytes() -> u64 {
    let Ok(text) = std::fs::read_to_string("/proc/self/status") else {
        return 0;
    };
    text.lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| {
            rest.trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<u64>()
                .ok()
        })
        .map_or(0, |kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_close_go_on_or_stay_open_by_where_every_asset_is() {
        let state = |generated, spooled, tally: Tally| {
            let node = NodeSnapshot {
                generated,
                spooled,
                refused: vec![(Code::Malformed as u16, 2)],
                ..NodeSnapshot::default()
            };
            Summary {
                node,
                tally,
                status: v1::GetStatusResponse::default(),
                gas_an_asset: None,
                seconds: 1.0,
                first_settled_seconds: None,
            }
            .books()
        };
        let ended = Tally {
            minted: 8,
            settled: 6,
            rejected: 1,
            in_review: 1,
            ..Tally::default()
        };
        assert_eq!(state(10, 0, ended), BooksState::Closed);
        // Minted, and its acknowledgement never came: in the spool as well.
        assert_eq!(state(10, 1, ended), BooksState::Closed);
        let under_way = Tally {
            minted: 10,
            pending: 1,
            active: 1,
            ..ended
        };
        assert_eq!(state(12, 0, under_way), BooksState::GoOn);
        assert_eq!(state(15, 3, under_way), BooksState::GoOn);
        assert_eq!(state(15, 2, under_way), BooksState::Open);
        // Two that an earlier run left in the spool.
        assert_eq!(state(10, 0, under_way), BooksState::GoOn);
    }
}
