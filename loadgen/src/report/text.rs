//! The report for people, on standard output.

use std::fmt::Write as _;

use super::Report;
use crate::recorder::Percentiles;

impl Report {
    /// The report for people.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let settings = &self.settings;
        writeln!(
            out,
            "{} {}  scenario {}  rate {} ({})  {}  batch {}  {} x {} streams  ack {}  window {}  {} s after {} s of warm-up  seed {}",
            self.kind,
            settings.target,
            settings.scenario,
            settings.rate,
            settings.arrivals,
            settings.mode,
            settings.batch,
            settings.connections,
            settings.streams,
            settings.ack,
            settings.window,
            settings.seconds,
            settings.warm_up_seconds,
            settings.seed
        )?;
        let counts = &self.counts;
        writeln!(
            out,
            "  accepted     {:.0} a second ({} sent, {} accepted, {} refused, {} skipped)",
            counts.accepted_a_second, counts.sent, counts.accepted, counts.refused, counts.skipped
        )?;
        match self.levels.len() {
            1 => write_percentiles(out, "latency", &self.latency)?,
            _ => {
                for (level, latency) in &self.levels {
                    write_percentiles(out, level, latency)?;
                }
            }
        }
        if counts.refused > 0 {
            write_percentiles(out, "refusals", &self.refusal_latency)?;
            for (code, count) in &self.refusals {
                writeln!(out, "    {code}: {count}")?;
            }
        }
        if let Some(deliveries) = &self.deliveries {
            write_percentiles(out, "broker took", &deliveries.latency)?;
            for (reason, count) in &deliveries.failed {
                writeln!(out, "    {count} messages were not delivered: {reason}")?;
            }
        }
        if let Some(watched) = &self.watched {
            writeln!(
                out,
                "  beside it    {} slow watchers, which read {} messages; {} of them were ended",
                watched.watchers,
                watched.messages,
                watched.ended.len()
            )?;
            for reason in &watched.ended {
                writeln!(out, "    {reason}")?;
            }
        }
        if settings.rate == "max" {
            writeln!(
                out,
                "  closed window: latency from the sending, so a stall hides what it kept from being sent"
            )?;
        } else {
            write_percentiles(out, "sent late by", &self.scheduling_error)?;
        }
        if let Some(not_sent) = self.not_sent() {
            writeln!(out, "  {not_sent}")?;
        }
        if let Some(thread) = &self.generator {
            writeln!(
                out,
                "  generator    ran {:.0} % of the time, waited {:.0} % for a processor",
                thread.ran * 100.0,
                thread.waited * 100.0
            )?;
        }
        if let Some(reason) = &self.generator_bottleneck {
            writeln!(out, "  THE GENERATOR WAS A BOTTLENECK: {reason}")?;
        }
        if let Some(reason) = &self.rate_missed {
            writeln!(out, "  THE RATE WAS NOT GENERATED: {reason}")?;
        }
        self.write_books(out)?;
        if let Some(floor) = &self.floor {
            writeln!(out)?;
            out.push_str(&floor.render());
            out.push_str(&crate::compare::render_one("floor", floor, "run", self));
        }
        Ok(())
    }

    fn write_books(&self, out: &mut String) -> std::fmt::Result {
        let books = &self.books;
        let kinds: Vec<String> = books
            .sent_by_kind
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        writeln!(
            out,
            "  books        {} sent ({}) = {} accepted + {} refused + {} without outcome; commands {}",
            books.sent,
            kinds.join(", "),
            books.accepted,
            books.refused,
            books.unanswered,
            self.commands
        )?;
        if books.followed.streams > 0 {
            writeln!(
                out,
                "  the realm moved: {} streams were opened again, {} commands sent again",
                books.followed.streams, books.followed.commands
            )?;
        }
        if let Some(events) = &books.events {
            write!(
                out,
                "  events       {} accepted commands found with what they asked for, {} refused ones left no trace",
                events.found, events.refused
            )?;
            if events.unanswered_applied > 0 {
                write!(
                    out,
                    ", {} without outcome took effect",
                    events.unanswered_applied
                )?;
            }
            if events.left_out > 0 {
                write!(out, ", {} not looked for (--records-max)", events.left_out)?;
            }
            writeln!(out)?;
        }
        if let Some(checked) = &books.checked {
            writeln!(
                out,
                "  state        owners of {} assets, balances of {} accounts (sum {} of {} deposited)",
                checked.assets, checked.accounts, checked.balance_sum, checked.deposit_sum
            )?;
        }
        if let Some(cause) = &books.broken {
            writeln!(
                out,
                "  THE RUN ENDED EARLY: {cause}\n  `karat-load check` asks the target, once it is there again, for what it acknowledged"
            )?;
        }
        if books.closed() {
            return writeln!(out, "  the books close");
        }
        writeln!(
            out,
            "  THE BOOKS DO NOT CLOSE: {} problems",
            books.problems.count
        )?;
        for problem in &books.problems.named {
            writeln!(out, "    {problem}")?;
        }
        let unnamed = books.problems.count - books.problems.named.len() as u64;
        if unnamed > 0 {
            writeln!(out, "    and {unnamed} more")?;
        }
        Ok(())
    }
}

fn write_percentiles(out: &mut String, name: &str, values: &Percentiles) -> std::fmt::Result {
    writeln!(
        out,
        "  {name:<12} p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  p99.99 {:.1}  max {:.1} us",
        values.p50_us,
        values.p90_us,
        values.p99_us,
        values.p99_9_us,
        values.p99_99_us,
        values.max_us
    )
}
