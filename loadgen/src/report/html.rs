//! The report as one page that needs nothing else: no script, no font, no image from anywhere.

use std::fmt::Write as _;
use std::path::Path;

use super::Report;
use super::picture::{Axis, Line, chart, escape};
use crate::error::LoadError;
use crate::recorder::Percentiles;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2024;--soft:#5b646e;--line:#d8dde3;--paper:#fff;--a:#0b6bcb;--b:#b3261e;--c:#8a6d00;--d:#6b7580}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa4af;--line:#333b44;--paper:#14171a;--a:#6ab0ff;--b:#ff8a80;--c:#e5c04a;--d:#8b95a1}}
body{margin:2rem auto;max-width:50rem;padding:0 1rem;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .5rem}p{margin:.4rem 0}.soft{color:var(--soft)}
.bad{border-left:4px solid var(--b);padding-left:.8rem}.good{border-left:4px solid var(--a);padding-left:.8rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.25rem .5rem;border-bottom:1px solid var(--line);overflow-wrap:anywhere}th:first-child,td:first-child{text-align:left}
th{font-weight:600;color:var(--soft)}.wide{overflow-x:auto}
figure{margin:0}svg{width:100%;height:auto}svg text{fill:var(--soft);font-size:11px}.up{text-anchor:end}.across{text-anchor:middle}
.grid{stroke:var(--line);stroke-width:1}polyline{fill:none;stroke-width:1.8;stroke-linejoin:round}
polyline.a{stroke:var(--a)}polyline.b{stroke:var(--b)}polyline.c{stroke:var(--c)}polyline.d{stroke:var(--d);stroke-dasharray:5 4}
figcaption{color:var(--soft);font-size:.85rem}figcaption span{margin-right:1rem}figcaption i{display:inline-block;width:1.2rem;height:3px;margin-right:.35rem;vertical-align:middle;background:var(--d)}
.a i{background:var(--a)}.b i{background:var(--b)}.c i{background:var(--c)}";

/// Writes the page.
///
/// # Errors
/// When the file cannot be written.
pub fn write(report: &Report, path: &Path) -> Result<(), LoadError> {
    std::fs::write(path, page(report)).map_err(|error| LoadError::file(path, error))
}

/// The page.
pub fn page(report: &Report) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = write_page(&mut out, report);
    out
}

fn write_page(out: &mut String, report: &Report) -> std::fmt::Result {
    let settings = &report.settings;
    let title = format!("{} of {}", report.kind, settings.scenario);
    writeln!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Karat: {0}</title><style>{STYLE}</style></head><body>\n<h1>Karat: {0}</h1>",
        escape(&title)
    )?;
    writeln!(
        out,
        "<p class=\"soft\">{} commands a second asked for ({}), {} accepted a second over {} s, ack {}, target {}</p>",
        escape(&settings.rate),
        escape(&settings.arrivals),
        thousands(report.counts.accepted_a_second),
        settings.seconds,
        escape(&settings.ack),
        escape(&settings.target)
    )?;
    write_verdict(out, report)?;
    writeln!(out, "<h2>Latency from the intended time, microseconds</h2>")?;
    write_latencies(out, report)?;
    write_curve(out, report)?;
    write_time(out, report)?;
    write_refusals(out, report)?;
    write_books(out, report)?;
    write_settings(out, report)?;
    writeln!(out, "</body></html>")
}

fn write_verdict(out: &mut String, report: &Report) -> std::fmt::Result {
    let books = &report.books;
    match books.closed() {
        true => writeln!(
            out,
            "<p class=\"good\">The books close: {} commands sent, {} accepted, {} refused, none without an outcome.</p>",
            books.sent, books.accepted, books.refused
        )?,
        false => {
            writeln!(
                out,
                "<p class=\"bad\">The books do not close: {} problems.</p><ul>",
                books.problems.count
            )?;
            for problem in books.problems.named.iter().take(20) {
                writeln!(out, "<li>{}</li>", escape(problem))?;
            }
            writeln!(out, "</ul>")?;
        }
    }
    let reasons = [
        ("The run ended early", books.broken.clone()),
        (
            "The generator was a bottleneck",
            report.generator_bottleneck.clone(),
        ),
        ("The rate was not generated", report.rate_missed.clone()),
        ("Not all was sent", report.not_sent()),
    ];
    for (what, reason) in reasons {
        if let Some(reason) = reason {
            writeln!(out, "<p class=\"bad\">{what}: {}</p>", escape(&reason))?;
        }
    }
    Ok(())
}

fn write_latencies(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        out,
        "<div class=\"wide\"><table><tr><th></th><th>count</th><th>mean</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th>\
         <th>p99.99</th><th>max</th></tr>"
    )?;
    for (level, latency) in &report.levels {
        write_latency(out, level, latency)?;
    }
    if let Some(floor) = &report.floor {
        write_latency(out, "floor (echo, same messages)", &floor.latency)?;
        let ratio = |of: fn(&Percentiles) -> f64| match of(&floor.latency) {
            0.0 => "-".into(),
            floor => format!("{:.2}x", of(&report.latency) / floor),
        };
        writeln!(
            out,
            "<tr><td>over the floor</td><td></td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            ratio(|one| one.mean_us),
            ratio(|one| one.p50_us),
            ratio(|one| one.p90_us),
            ratio(|one| one.p99_us),
            ratio(|one| one.p99_9_us),
            ratio(|one| one.p99_99_us),
            ratio(|one| one.max_us)
        )?;
    }
    write_latency(out, "refusals", &report.refusal_latency)?;
    write_latency(out, "messages sent late by", &report.scheduling_error)?;
    writeln!(out, "</table></div>")
}

fn write_latency(out: &mut String, name: &str, latency: &Percentiles) -> std::fmt::Result {
    if latency.count == 0 {
        return Ok(());
    }
    write!(
        out,
        "<tr><td>{}</td><td>{}</td>",
        escape(name),
        thousands(latency.count as f64)
    )?;
    for value in [
        latency.mean_us,
        latency.p50_us,
        latency.p90_us,
        latency.p99_us,
        latency.p99_9_us,
        latency.p99_99_us,
        latency.max_us,
    ] {
        write!(out, "<td>{}</td>", thousands(value))?;
    }
    writeln!(out, "</tr>")
}

/// Across: how rare, by powers of ten. Up: latency, by powers of ten.
fn write_curve(out: &mut String, report: &Report) -> std::fmt::Result {
    let rarity = |curve: &[(f64, f64)]| -> Vec<(f64, f64)> {
        // 100 % is infinitely rare: the largest value is drawn at one in all.
        let most = 10f64.powi(7);
        curve
            .iter()
            .map(|(share, us)| ((1.0 / (1.0 - share).max(1.0 / most)).min(most), *us))
            .collect()
    };
    let floor = report.floor.as_ref();
    let mut lines = Vec::new();
    let count = report.latency.count.max(10) as f64;
    lines.push(Line {
        name: "this run",
        class: "a",
        points: rarity(&report.curve),
    });
    if let Some(floor) = floor {
        lines.push(Line {
            name: "floor",
            class: "d",
            points: rarity(&floor.curve),
        });
    }
    let all = || lines.iter().flat_map(|line| &line.points);
    let least = all().map(|point| point.1).fold(f64::MAX, f64::min);
    let most = all().map(|point| point.1).fold(0.0, f64::max);
    if report.curve.is_empty() {
        return Ok(());
    }
    let across = Axis::powers_of_ten(1.0, count.min(1e7), |rarity| match rarity {
        1.0 => "0 %".into(),
        rarity => format!("{} %", 100.0 - 100.0 / rarity),
    });
    let up = Axis::powers_of_ten(least, most, duration);
    writeln!(out, "<h2>Latency over percentiles</h2>")?;
    out.push_str(&chart("latency over percentiles", &across, &up, &lines));
    Ok(())
}

fn write_time(out: &mut String, report: &Report) -> std::fmt::Result {
    let seconds = &report.seconds;
    if seconds.is_empty() {
        return Ok(());
    }
    let line = |name, class, of: fn(&crate::recorder::Second) -> f64| Line {
        name,
        class,
        points: seconds
            .iter()
            .map(|second| (second.at_s as f64, of(second)))
            .collect(),
    };
    let latency = [
        line("p50", "a", |second| second.p50_us),
        line("p99", "c", |second| second.p99_us),
        line("max", "b", |second| second.max_us),
    ];
    let most = seconds.iter().map(|one| one.max_us).fold(1.0, f64::max);
    let some = seconds.iter().map(|one| one.p50_us).filter(|us| *us > 0.0);
    let least = some.fold(most, f64::min);
    let whole = seconds.len() as f64;
    let across = Axis::linear(whole, |second| format!("{second} s"));
    let up = Axis::powers_of_ten(least, most, duration);
    writeln!(
        out,
        "<h2>Latency over time</h2><p class=\"soft\">By the second in which outcomes came in; the first {} s are warm-up.</p>",
        report.settings.warm_up_seconds
    )?;
    out.push_str(&chart("latency over time", &across, &up, &latency));

    let rates = [
        line("accepted", "a", |second| second.accepted as f64),
        line("refused", "b", |second| second.refused as f64),
        line("skipped", "c", |second| second.skipped as f64),
        line("sent", "d", |second| second.sent as f64),
    ];
    let rates_most = rates
        .iter()
        .flat_map(|line| &line.points)
        .map(|point| point.1)
        .fold(1.0, f64::max);
    let up = Axis::linear(rates_most, thousands);
    writeln!(out, "<h2>Commands a second</h2>")?;
    out.push_str(&chart("commands a second over time", &across, &up, &rates));
    Ok(())
}

fn write_refusals(out: &mut String, report: &Report) -> std::fmt::Result {
    if report.refusals.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<h2>Refusals by code</h2><table><tr><th>code</th><th>commands</th></tr>"
    )?;
    for (code, count) in &report.refusals {
        writeln!(
            out,
            "<tr><td>{}</td><td>{}</td></tr>",
            escape(code),
            thousands(*count as f64)
        )?;
    }
    writeln!(out, "</table>")
}

fn write_books(out: &mut String, report: &Report) -> std::fmt::Result {
    let books = &report.books;
    writeln!(out, "<h2>Books</h2><table>")?;
    for (kind, count) in books.sent_by_kind.iter().filter(|(_, count)| **count > 0) {
        row(out, &format!("sent: {kind}"), &count.to_string())?;
    }
    row(out, "accepted", &books.accepted.to_string())?;
    row(out, "refused", &books.refused.to_string())?;
    row(out, "without outcome", &books.unanswered.to_string())?;
    if let Some(deliveries) = &report.deliveries {
        row(
            out,
            "taken by the brokers",
            &deliveries.delivered.to_string(),
        )?;
        for (reason, count) in &deliveries.failed {
            row(out, &format!("not delivered: {reason}"), &count.to_string())?;
        }
    }
    if let Some(events) = &books.events {
        row(
            out,
            "found in the target's events",
            &events.found.to_string(),
        )?;
        row(out, "refused, without a trace", &events.refused.to_string())?;
        row(out, "not looked for", &events.left_out.to_string())?;
    }
    if let Some(checked) = &books.checked {
        row(out, "owners compared", &checked.assets.to_string())?;
        row(out, "balances compared", &checked.accounts.to_string())?;
        let sums = format!("{} of {}", checked.balance_sum, checked.deposit_sum);
        row(out, "sum of balances, of deposits", &sums)?;
    }
    row(out, "fingerprint of the commands", &report.commands)?;
    writeln!(out, "</table>")
}

fn write_settings(out: &mut String, report: &Report) -> std::fmt::Result {
    let settings = &report.settings;
    writeln!(out, "<h2>Settings and machine</h2><table>")?;
    let lanes = format!("{} x {}", settings.connections, settings.streams);
    for (name, value) in [
        ("mode", settings.mode.clone()),
        ("commands a message", settings.batch.to_string()),
        ("connections x streams", lanes),
        ("window, commands", settings.window.to_string()),
        ("assets before the run", settings.assets.to_string()),
        ("warm-up, s", settings.warm_up_seconds.to_string()),
        ("verdict", settings.verdict.clone()),
        ("slow watchers", settings.slow_watchers.to_string()),
        ("seed", settings.seed.to_string()),
        ("run id", settings.run_id.clone()),
        ("processors", report.machine.processors.to_string()),
        ("processor", report.machine.processor.clone()),
        ("kernel", report.machine.kernel.clone()),
    ] {
        row(out, name, &value)?;
    }
    if let Some(thread) = &report.generator {
        let shares = format!(
            "{:.0} % running, {:.0} % waiting for a processor",
            thread.ran * 100.0,
            thread.waited * 100.0
        );
        row(out, "generator's thread", &shares)?;
    }
    writeln!(out, "</table>")
}

fn row(out: &mut String, name: &str, value: &str) -> std::fmt::Result {
    writeln!(
        out,
        "<tr><td>{}</td><td>{}</td></tr>",
        escape(name),
        escape(value)
    )
}

fn duration(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{} s", us / 1e6),
        us if us >= 1e3 => format!("{} ms", us / 1e3),
        us => format!("{us} us"),
    }
}

/// With a comma between thousands, and a decimal below 100.
fn thousands(value: f64) -> String {
    if value < 100.0 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(1_234_567.4), "1,234,567");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(thousands(12.34), "12.3");
        assert_eq!(duration(10_000.0), "10 ms");
    }
}
