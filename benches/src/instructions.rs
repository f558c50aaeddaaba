//! The table of instruction counts: what the hot functions take, and on what it was counted.
//!
//! A count repeats where a time does not, so a count that grew is code that grew. It is a count of one build on one kind of
//! processor all the same: the compiler, the C library (its `memcpy`) and the processor's abilities (hashes choose their
//! code by them) stand in the table as facts. Valgrind hides most of the processor: it shows every machine with AVX2 the
//! same synthetic one, without SHA instructions and AVX-512. Where the facts agree a growth is a failure; where they do not,
//! counts are shown and nothing is concluded.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What grew by more than this is named.
pub const GROWTH_PERCENT_MAX: u64 = 5;

/// Counts, and what they depend on beside the code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// By name: compiler, C library, processor as seen, and so on.
    pub facts: BTreeMap<String, String>,
    /// Instructions of one call, by the figure's name.
    pub counts: BTreeMap<String, u64>,
}

/// Why a text is no table.
#[derive(Debug, PartialEq, Eq)]
pub struct NoTable {
    line: String,
}

impl std::fmt::Display for NoTable {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "the line {:?} is neither `fact NAME VALUE` nor `NAME COUNT`",
            self.line
        )
    }
}

impl std::error::Error for NoTable {}

/// What a comparison found.
#[derive(Debug, PartialEq, Eq)]
pub struct Compared {
    /// A line for each figure and for what is wrong.
    pub text: String,
    /// Facts that differ, as `NAME: THERE in the table, HERE here`. With any, nothing is concluded from the counts.
    pub facts_differ: Vec<String>,
    /// Figures that grew too much, that have no line in the table, or whose line has no figure any more.
    pub wrong: Vec<String>,
}

impl Compared {
    /// Whether the counts say that something grew: never where they were taken on something else.
    pub fn failed(&self) -> bool {
        self.facts_differ.is_empty() && !self.wrong.is_empty()
    }
}

impl Table {
    /// As it is kept in a file.
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# Instructions of one call, counted by callgrind, and what they were counted on. Written by\n\
             #   cargo run --release -p karat-benches --example instructions -- --write\n",
        );
        for (name, value) in &self.facts {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "fact {name} {value}");
        }
        for (name, count) in &self.counts {
            let _ = writeln!(text, "{name} {count}");
        }
        text
    }

    /// Reads what [`Table::render`] wrote.
    ///
    /// # Errors
    /// Names the first line that is neither fact nor count.
    pub fn parse(text: &str) -> Result<Table, NoTable> {
        let mut table = Table::default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = || NoTable { line: line.into() };
            match line.split_once(' ').ok_or_else(bad)? {
                ("fact", rest) => {
                    let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
                    table.facts.insert(name.into(), value.into());
                }
                (name, count) => {
                    let count = count.trim().parse().map_err(|_| bad())?;
                    table.counts.insert(name.into(), count);
                }
            }
        }
        Ok(table)
    }

    /// What was counted now against this table.
    pub fn compare(&self, now: &Table) -> Compared {
        let mut text = String::new();
        let mut wrong = Vec::new();
        for (name, count) in &now.counts {
            let Some(before) = self.counts.get(name) else {
                wrong.push(format!("{name} is not in the table"));
                let _ = writeln!(text, "{name:<28} {count:>9}   not in the table");
                continue;
            };
            let percent = (*count as f64 / *before as f64 - 1.0) * 100.0;
            // In hundredths and whole numbers: exactly 5 % more is allowed everywhere.
            let share = |percent: u64| u128::from(*before) * u128::from(percent);
            let hundredfold = u128::from(*count) * 100;
            let note = if hundredfold > share(100 + GROWTH_PERCENT_MAX) {
                wrong.push(format!(
                    "{name} grew by {percent:.1} %, from {before} to {count} instructions"
                ));
                "  grew"
            } else if hundredfold < share(100 - GROWTH_PERCENT_MAX) {
                "  shrank: write the table again to keep it so"
            } else {
                ""
            };
            let _ = writeln!(
                text,
                "{name:<28} {count:>9}   table {before:>9}   {percent:>+6.1} %{note}"
            );
        }
        for name in self.counts.keys() {
            if !now.counts.contains_key(name) {
                wrong.push(format!("{name} is in the table and was not counted"));
            }
        }
        let names = self.facts.keys().chain(now.facts.keys());
        let names: std::collections::BTreeSet<&String> = names.collect();
        let value = |facts: &BTreeMap<String, String>, name: &String| {
            facts.get(name).map_or("nothing", String::as_str).to_owned()
        };
        let facts_differ = names
            .into_iter()
            .filter(|name| self.facts.get(*name) != now.facts.get(*name))
            .map(|name| {
                let (there, here) = (value(&self.facts, name), value(&now.facts, name));
                format!("{name}: {there} in the table, {here} here")
            })
            .collect();
        Compared {
            text,
            facts_differ,
            wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(processor: &str, counts: &[(&str, u64)]) -> Table {
        Table {
            facts: BTreeMap::from([("processor".into(), processor.into())]),
            counts: counts
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
        }
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let table = table("avx2 bmi2", &[("apply/claim", 900), ("decode/frame", 1)]);
        assert_eq!(Table::parse(&table.render()), Ok(table));
    }

    #[test]
    fn a_line_that_is_no_count_is_named() {
        let error = Table::parse("apply/claim many").unwrap_err().to_string();
        assert!(error.contains("apply/claim many"), "{error}");
        assert!(Table::parse("alone").is_err());
    }

    #[test]
    fn only_growth_beyond_five_percent_is_a_failure_and_is_named() {
        let before = table("avx2", &[("a", 1000), ("b", 1000), ("c", 1000)]);
        let within = before.compare(&table("avx2", &[("a", 1050), ("b", 950), ("c", 10)]));
        assert!(!within.failed(), "{within:?}");
        let beyond = before.compare(&table("avx2", &[("a", 1051), ("b", 1000), ("c", 1000)]));
        assert!(beyond.failed());
        assert_eq!(
            beyond.wrong,
            ["a grew by 5.1 %, from 1000 to 1051 instructions"]
        );
    }

    #[test]
    fn a_figure_that_is_missing_on_either_side_is_a_failure() {
        let before = table("avx2", &[("a", 1000)]);
        assert!(before.compare(&table("avx2", &[])).failed());
        let more = before.compare(&table("avx2", &[("a", 1000), ("b", 1)]));
        assert_eq!(more.wrong, ["b is not in the table"]);
    }

    #[test]
    fn on_another_processor_nothing_is_concluded_and_the_difference_is_named() {
        let before = table("avx2", &[("a", 1000)]);
        let there = before.compare(&table("sse4.2", &[("a", 9000)]));
        assert!(!there.failed());
        assert_eq!(
            there.facts_differ,
            ["processor: avx2 in the table, sse4.2 here"]
        );
        assert!(there.text.contains("+800.0 %"), "{}", there.text);
    }
}
