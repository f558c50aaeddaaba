//! Scenario files: what players do in which proportion, as TOML.
//!
//! `loadgen/scenario/*.toml` are built in and chosen by name; any other file by its path. A file is checked whole before
//! anything is sent.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::Action;
use crate::error::LoadError;

/// Version of the form. A newer one is refused, never guessed at.
const FORMAT: u32 = 1;
const WEIGHT_MAX: u32 = 1_000_000;
/// Above this exponent the first of a thousand takes nine of ten already.
const ZIPF_MAX: f64 = 4.0;
/// An exchange has two legs for each asset, and at most 64.
const EXCHANGE_ASSETS_MAX: u32 = 32;
const PHASES_MAX: usize = 64;

/// The built-in scenarios, by name.
pub const BUILT_IN: [(&str, &str); 9] = [
    ("trade", include_str!("../../scenario/trade.toml")),
    ("mint", include_str!("../../scenario/mint.toml")),
    ("mixed", include_str!("../../scenario/mixed.toml")),
    (
        "claim-stampede",
        include_str!("../../scenario/claim-stampede.toml"),
    ),
    (
        "exchange-legs",
        include_str!("../../scenario/exchange-legs.toml"),
    ),
    (
        "revise-storm",
        include_str!("../../scenario/revise-storm.toml"),
    ),
    ("mixed-day", include_str!("../../scenario/mixed-day.toml")),
    ("hot-owner", include_str!("../../scenario/hot-owner.toml")),
    (
        "dead-letter-flood",
        include_str!("../../scenario/dead-letter-flood.toml"),
    ),
];

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioFile {
    /// Version of this form: 1.
    format: u32,
    /// Its name in reports.
    pub name: String,
    /// What it is, in a sentence.
    pub about: String,
    /// What is there before the run.
    #[serde(default)]
    pub world: World,
    /// Who and what is chosen how often.
    #[serde(default)]
    pub popularity: Popularity,
    /// Weights of what is done, for the whole run. Without phases it must be there.
    #[serde(default)]
    pub mix: BTreeMap<Action, u32>,
    /// How exchanges look.
    #[serde(default)]
    pub exchange: Exchange,
    /// How assets are contested.
    #[serde(default)]
    pub contest: Contest,
    /// Parts of the measured time with a rate and a mix of their own.
    #[serde(default, rename = "phase")]
    pub phases: Vec<Phase>,
}

/// What is there before the run, beside the assets that `--assets` says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct World {
    /// Accounts of each stream, 4 to 1024; fewer where all streams together would have more than 4096.
    pub accounts: u64,
    /// Of the assets, one in so many belongs to nobody and waits for a claim; 0 for none.
    pub unowned_one_in: u64,
    /// Of the assets, one in so many is contested: every stream claims it; 0 for none, 1 for all.
    pub contested_one_in: u64,
}

impl Default for World {
    fn default() -> World {
        World {
            accounts: 64,
            unowned_one_in: 5,
            contested_one_in: 0,
        }
    }
}

/// Zipf exponents: 0 chooses evenly; at 1 the second is chosen half as often as the first, the third a third as often.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Popularity {
    /// Of the assets that change hands or are revised.
    pub assets: f64,
    /// Of the accounts that receive.
    pub accounts: f64,
}

/// How exchanges look: each asset is paid for with a leg of its own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exchange {
    /// Fewest assets in one, at least 1.
    pub assets_min: u32,
    /// Most assets in one, at most 32.
    pub assets_max: u32,
}

impl Default for Exchange {
    fn default() -> Exchange {
        Exchange {
            assets_min: 1,
            assets_max: 1,
        }
    }
}

/// How assets are contested.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Contest {
    /// After so many claims of all streams together the crowd moves on to the next asset.
    pub claims_an_asset: u64,
    /// So many assets are contested at a time.
    pub at_once: u64,
}

impl Default for Contest {
    fn default() -> Contest {
        Contest {
            claims_an_asset: 50,
            at_once: 4,
        }
    }
}

/// A part of the measured time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Its share of the measured time; the shares need not sum to 1.
    pub share: f64,
    /// Its rate over the run's rate.
    #[serde(default = "one")]
    pub rate: f64,
    /// Its weights; without, the scenario's.
    #[serde(default)]
    pub mix: BTreeMap<Action, u32>,
}

fn one() -> f64 {
    1.0
}

impl ScenarioFile {
    /// A built-in scenario by its name, or a file by its path.
    ///
    /// # Errors
    /// When there is none, or it says something that cannot be played.
    pub fn load(name_or_path: &str) -> Result<ScenarioFile, LoadError> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
            return ScenarioFile::parse(name_or_path, text);
        }
        if !name_or_path.contains(['/', '.']) {
            let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            return Err(LoadError::Scenario {
                path: name_or_path.into(),
                cause: format!(
                    "there is none of this name; there are {}, or give the path of a .toml file",
                    names.join(", ")
                ),
            });
        }
        let text = std::fs::read_to_string(Path::new(name_or_path)).map_err(|error| {
            LoadError::Scenario {
                path: name_or_path.into(),
                cause: error.to_string(),
            }
        })?;
        ScenarioFile::parse(name_or_path, &text)
    }

    /// Reads one; `path` is for errors.
    ///
    /// # Errors
    /// When it is no scenario, or says something that cannot be played.
    pub fn parse(path: &str, text: &str) -> Result<ScenarioFile, LoadError> {
        let failed = |cause: String| LoadError::Scenario {
            path: path.into(),
            cause,
        };
        let file: ScenarioFile = toml::from_str(text).map_err(|error| failed(error.to_string()))?;
        file.check().map_err(failed)?;
        Ok(file)
    }

    /// Weights of a part of the run: its own, or the scenario's.
    pub fn mix_of<'a>(&'a self, phase: &'a Phase) -> &'a BTreeMap<Action, u32> {
        match phase.mix.is_empty() {
            true => &self.mix,
            false => &phase.mix,
        }
    }

    /// Shares of the phases, and their rates over the run's.
    pub fn phase_rates(&self) -> Vec<(f64, f64)> {
        self.phases
            .iter()
            .map(|phase| (phase.share, phase.rate))
            .collect()
    }

    /// Whether any part of it does this.
    pub fn does(&self, action: impl Fn(Action) -> bool) -> bool {
        let own = self.phases.is_empty() || self.phases.iter().any(|phase| phase.mix.is_empty());
        let mixes = self.phases.iter().map(|phase| &phase.mix);
        mixes
            .chain(own.then_some(&self.mix))
            .flatten()
            .any(|(one, weight)| *weight > 0 && action(*one))
    }

    fn check(&self) -> Result<(), String> {
        let within =
            |name: &str, value: f64, least: f64, most: f64| match (least..=most).contains(&value) {
                true => Ok(()),
                false => Err(format!("{name} is {value}, it must be {least} to {most}")),
            };
        if self.format != FORMAT {
            return Err(format!(
                "format is {}, this build reads {FORMAT}",
                self.format
            ));
        }
        if self.name.is_empty() || self.name.len() > 64 {
            return Err("name must have 1 to 64 bytes".into());
        }
        within("world.accounts", self.world.accounts as f64, 4.0, 1024.0)?;
        within("popularity.assets", self.popularity.assets, 0.0, ZIPF_MAX)?;
        within(
            "popularity.accounts",
            self.popularity.accounts,
            0.0,
            ZIPF_MAX,
        )?;
        let most = f64::from(EXCHANGE_ASSETS_MAX);
        let least = f64::from(self.exchange.assets_min);
        within("exchange.assets_min", least, 1.0, most)?;
        within(
            "exchange.assets_max",
            f64::from(self.exchange.assets_max),
            least,
            most,
        )?;
        within(
            "contest.claims_an_asset",
            self.contest.claims_an_asset as f64,
            1.0,
            1e9,
        )?;
        within("contest.at_once", self.contest.at_once as f64, 1.0, 1e6)?;
        if self.phases.len() > PHASES_MAX {
            return Err(format!(
                "{} phases, there may be {PHASES_MAX}",
                self.phases.len()
            ));
        }
        for phase in &self.phases {
            within(
                &format!("share of phase {:?}", phase.name),
                phase.share,
                1e-6,
                1e6,
            )?;
            within(
                &format!("rate of phase {:?}", phase.name),
                phase.rate,
                0.01,
                100.0,
            )?;
            check_mix(&format!("phase {:?}", phase.name), self.mix_of(phase))?;
        }
        if self.phases.is_empty() {
            check_mix("the scenario", &self.mix)?;
        }
        if self.does(|action| action == Action::Contest) && self.world.contested_one_in == 0 {
            return Err(
                "it contests assets, but world.contested_one_in is 0: there are none".into(),
            );
        }
        let own_assets = |action| {
            use Action::{Claim, Exchange, Revise, Transfer};
            matches!(action, Transfer | Exchange | Claim | Revise)
        };
        if self.world.contested_one_in == 1 && self.does(own_assets) {
            return Err(
                "it trades assets, but world.contested_one_in is 1: the streams have none of their own"
                    .into(),
            );
        }
        Ok(())
    }
}

fn check_mix(whose: &str, mix: &BTreeMap<Action, u32>) -> Result<(), String> {
    if let Some((action, weight)) = mix.iter().find(|(_, weight)| **weight > WEIGHT_MAX) {
        return Err(format!(
            "weight {weight} of {} is above {WEIGHT_MAX}",
            action.name()
        ));
    }
    match mix.values().any(|weight| *weight > 0) {
        true => Ok(()),
        false => Err(format!(
            "the mix of {whose} has no weight above 0: nothing would be done"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        ScenarioFile::parse("mine.toml", text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn every_built_in_scenario_is_one_and_has_its_files_name() {
        for (name, _) in BUILT_IN {
            let file = ScenarioFile::load(name).unwrap();
            assert_eq!(file.name, name);
            assert!(file.about.len() > 20, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_played_is_refused_with_its_place() {
        let head = "format = 1\nname = \"mine\"\nabout = \"a test\"\n";
        for (text, reason) in [
            ("format = 1", "missing field `name`"),
            (&format!("{head}colour = 1"), "unknown field `colour`"),
            (
                &format!("{head}[mix]\nsteal = 1"),
                "unknown variant `steal`",
            ),
            (&format!("{head}[mix]\ntransfer = -1"), "line 5"),
            (
                &format!("{head}[mix]\ntransfer = 0"),
                "nothing would be done",
            ),
            (head, "nothing would be done"),
            (
                &format!("{head}[mix]\ncontest = 1"),
                "contested_one_in is 0",
            ),
            (
                &format!("{head}[world]\ncontested_one_in = 1\n[mix]\ntransfer = 1"),
                "none of their own",
            ),
            (
                &format!("{head}[mix]\nexchange = 1\n[exchange]\nassets_min = 9\nassets_max = 3"),
                "exchange.assets_max is 3",
            ),
            (
                &format!("{head}[mix]\ntransfer = 1\n[popularity]\nassets = 9.0"),
                "popularity.assets is 9",
            ),
            (
                &format!("{head}[mix]\ntransfer = 1\n[[phase]]\nname = \"a\"\nshare = 0.0"),
                "share of phase \"a\"",
            ),
            (
                "format = 2\nname = \"mine\"\nabout = \"a test\"\n[mix]\nmint = 1",
                "format is 2",
            ),
            ("format = ", "mine.toml"),
        ] {
            let error = refusal(text);
            assert!(error.contains(reason), "{text}\n{error}");
        }
    }

    #[test]
    fn a_name_that_is_none_lists_the_names() {
        let error = ScenarioFile::load("trading").unwrap_err().to_string();
        assert!(error.contains("claim-stampede"), "{error}");
        let error = ScenarioFile::load("./no/such.toml")
            .unwrap_err()
            .to_string();
        assert!(error.contains("./no/such.toml"), "{error}");
    }
}
