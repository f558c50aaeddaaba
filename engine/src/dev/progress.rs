//! What a person sees while the demonstration runs.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use karat_edge_node::node::NodeSnapshot;
use karat_proto::v1;

use super::books::{Books, Tally};
use super::summary::latency_text;
use crate::cli::similarity_state;

/// Everything one picture shows.
pub struct Picture<'a> {
    /// Since the start.
    pub elapsed: Duration,
    /// The edge node.
    pub node: &'a NodeSnapshot,
    /// The books' counts.
    pub tally: Tally,
    /// The books.
    pub books: &'a Books,
    /// Positions and figures.
    pub status: &'a v1::GetStatusResponse,
    /// Gas of settled batches by their leaves.
    pub gas_an_asset: Option<f64>,
    /// Commands of the crowd: sent, refused.
    pub crowd: (u64, u64),
}

/// Draws pictures: in place on a terminal, as plain lines elsewhere.
pub struct Progress {
    terminal: bool,
    drawn_lines: usize,
    last_line: Option<Duration>,
}

/// Between plain lines.
const LINE_PAUSE: Duration = Duration::from_secs(2);

impl Progress {
    /// For standard output, or for standard error when standard output is for machines.
    pub fn new(json: bool) -> Progress {
        let terminal = !json && std::io::stdout().is_terminal();
        Progress {
            terminal,
            drawn_lines: 0,
            last_line: None,
        }
    }

    /// Draws; without a terminal only when the pause since the last line is over, or at the end.
    pub fn draw(&mut self, picture: &Picture<'_>, at_end: bool, json: bool) {
        if self.terminal {
            let text = block(picture);
            let mut out = std::io::stdout().lock();
            if self.drawn_lines > 0 {
                // Up to where the last picture began, and clear to the end of the screen.
                let _ = write!(out, "\x1b[{}A\x1b[J", self.drawn_lines);
            }
            let _ = out.write_all(text.as_bytes());
            let _ = out.flush();
            self.drawn_lines = text.lines().count();
            return;
        }
        let due = self
            .last_line
            .is_none_or(|last| picture.elapsed >= last + LINE_PAUSE);
        if !due && !at_end {
            return;
        }
        self.last_line = Some(picture.elapsed);
        let line = line(picture);
        if json {
            eprintln!("{line}");
        } else {
            sayln!("{line}");
        }
    }
}

fn gas(picture: &Picture<'_>) -> String {
    picture
        .gas_an_asset
        .map_or("-".into(), |gas| format!("{gas:.0}"))
}

fn figure(status: &v1::GetStatusResponse, name: &str) -> u64 {
    let found = status.figures.iter().find(|figure| figure.name == name);
    found.map_or(0, |figure| figure.value)
}

/// Near-duplicates and doubles.
fn alike(status: &v1::GetStatusResponse) -> u64 {
    figure(status, "near_duplicates_total") + figure(status, "content_doubles_total")
}

/// Where the drift of each collection stands, a line each.
pub fn drift(status: &v1::GetStatusResponse) -> Vec<String> {
    status
        .similarity
        .iter()
        .map(|one| {
            let last = one.drift_ppm.last().map_or("-".into(), |ppm| format!("{ppm} ppm"));
            format!(
                "drift of collection {}: {last}, {} ({} of {} into the next window, alarm above {} ppm)",
                one.collection,
                similarity_state(one),
                one.counted,
                one.window,
                one.drift_alarm_ppm
            )
        })
        .collect()
}

fn line(picture: &Picture<'_>) -> String {
    let Picture {
        node,
        tally,
        books,
        status,
        ..
    } = picture;
    format!(
        "{:6.1}s generated {}{} sequenced {} verified {} rejected {} review {} traded {} settled {} refused {} gas/asset {} | {} | {}",
        picture.elapsed.as_secs_f64(),
        node.generated,
        if node.variant.is_empty() {
            String::new()
        } else {
            format!(" by {}{}", node.variant, steps_text(node))
        },
        status.applied_seq,
        books.verified,
        tally.rejected,
        tally.in_review,
        books.traded,
        tally.settled,
        node.refused_count(),
        gas(picture),
        latency_text(&status.latencies),
        node.budget.line(),
    )
}

/// How often the node changed its variant; nothing where it never did.
pub fn steps_text(node: &NodeSnapshot) -> String {
    match (node.steps_down, node.steps_up) {
        (0, 0) => String::new(),
        (down, up) => format!(" ({down} down, {up} up)"),
    }
}

fn block(picture: &Picture<'_>) -> String {
    let Picture {
        node,
        tally,
        books,
        status,
        ..
    } = picture;
    let maker = if node.variant.is_empty() {
        "loads its model".to_owned()
    } else {
        format!(
            "{}{} on {}, {} us an image",
            node.variant,
            steps_text(node),
            node.backend,
            node.generate_p50_us
        )
    };
    let mut text = format!(
        "\n  {:>7.1} s   edge node: {maker}\n\n",
        picture.elapsed.as_secs_f64(),
    );
    let rows = [
        (
            "generated",
            node.generated,
            format!(
                "{} spoiled on purpose, {} in the spool",
                node.spoiled, node.spooled
            ),
        ),
        (
            "sequenced",
            status.applied_seq,
            format!(
                "durable {}, in the store {}",
                status.durable_seq, status.projected_seq
            ),
        ),
        (
            "verified",
            books.verified,
            format!("{} waiting for a verdict", tally.pending),
        ),
        ("rejected", tally.rejected, String::new()),
        ("in review", tally.in_review, "karat review list".into()),
        ("refused", node.refused_count(), String::new()),
        ("alike", alike(status), drift(status).join("; ")),
        (
            "traded",
            books.traded,
            format!(
                "{} revised, {} redeemed, {} claims lost; crowd sent {}, {} refused",
                books.revised, books.redeemed, books.claims_lost, picture.crowd.0, picture.crowd.1
            ),
        ),
        (
            "settled",
            tally.settled,
            format!("gas an asset {}", gas(picture)),
        ),
    ];
    for (name, count, note) in rows {
        text.push_str(&format!("  {name:<10} {count:>9}   {note}\n"));
    }
    text.push_str(
        "\n  ack          count        p50        p99      p99.9        max   microseconds\n",
    );
    for one in &status.latencies {
        let level = v1::AckLevel::try_from(one.ack).map_or("?", |level| level.as_str_name());
        text.push_str(&format!(
            "  {:<10} {:>7} {:>10} {:>10} {:>10} {:>10}\n",
            level.trim_start_matches("ACK_LEVEL_"),
            one.count,
            one.p50_us,
            one.p99_us,
            one.p999_us,
            one.max_us
        ));
    }
    text.push_str(&format!("\n{}", node.budget.table()));
    text
}
