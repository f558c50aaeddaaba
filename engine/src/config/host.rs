//! Configuration of a process that holds many realms.

use karat_proto::limits;
use serde::{Deserialize, Serialize};

use super::{ConfigError, in_topic};

/// Many realms over many processes: `karat host`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// The realms of the group, wherever they are. `realm.name` does not count in a host.
    pub realms: Vec<String>,
    /// The realm of requests that name none; empty for none, unless there is only one.
    pub default_realm: String,
    /// The consumer group whose members share the realms.
    pub group: String,
    /// A member that the group has not heard for so long loses its realms to the others.
    pub session_timeout_ms: u64,
    /// Realms that this process holds at once.
    pub realms_max: usize,
    /// Realms that are started at once.
    pub starts_at_once: usize,
    /// How long a realm that is to be given up may take to be finished, flushed and handed on.
    pub hand_over_ms: u64,
    /// Newest snapshots of a realm that are kept for others.
    pub snapshots_kept: usize,
}

impl Default for HostConfig {
    fn default() -> HostConfig {
        HostConfig {
            realms: Vec::new(),
            default_realm: String::new(),
            group: "karat-hosts".into(),
            session_timeout_ms: 6_000,
            realms_max: 16,
            starts_at_once: 2,
            hand_over_ms: 60_000,
            snapshots_kept: 2,
        }
    }
}

impl HostConfig {
    /// The realm of requests that name none.
    pub fn realm_of_nameless(&self) -> Option<&str> {
        match (self.default_realm.as_str(), self.realms.as_slice()) {
            ("", [only]) => Some(only),
            ("", _) => None,
            (named, _) => Some(named),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, found: String, expected: &str| {
            Err(ConfigError::OutOfRange {
                key,
                found,
                expected: expected.to_owned(),
            })
        };
        let most = limits::HOST_REALMS_MAX;
        if self.realms.len() > most {
            let found = format!("{} realms", self.realms.len());
            return refuse("host.realms", found, &format!("at most {most}"));
        }
        for (place, realm) in self.realms.iter().enumerate() {
            // It is a folder's name as well.
            if !in_topic(realm) || realm.len() > 64 || realm.starts_with('.') {
                let expected =
                    "1 to 64 letters, digits, dots, hyphens and underscores each, no dot first";
                return refuse("host.realms", realm.clone(), expected);
            }
            if self.realms[..place].contains(realm) {
                return refuse("host.realms", format!("{realm} twice"), "each realm once");
            }
        }
        if !self.default_realm.is_empty() && !self.realms.contains(&self.default_realm) {
            let expected = "one of host.realms, or empty";
            return refuse("host.default_realm", self.default_realm.clone(), expected);
        }
        if !in_topic(&self.group) || self.group.len() > 128 {
            let expected = "1 to 128 letters, digits, dots, hyphens and underscores";
            return refuse("host.group", self.group.clone(), expected);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(realms: &[&str], default_realm: &str) -> HostConfig {
        HostConfig {
            realms: realms.iter().map(|realm| (*realm).to_owned()).collect(),
            default_realm: default_realm.to_owned(),
            ..HostConfig::default()
        }
    }

    #[test]
    fn a_realm_is_a_part_of_a_topic_and_a_folder_and_is_named_once() {
        assert!(of(&["a", "b.c-d_e", &"x".repeat(64)], "a").check().is_ok());
        for (realms, default_realm) in [
            (vec!["a", "a"], ""),
            (vec![".."], ""),
            (vec!["a/b"], ""),
            (vec![""], ""),
            (vec!["a"], "b"),
        ] {
            assert!(of(&realms, default_realm).check().is_err(), "{realms:?}");
        }
        assert!(of(&["x".repeat(65).as_str()], "").check().is_err());
    }

    #[test]
    fn who_names_no_realm_means_the_default_or_the_only_one() {
        assert_eq!(of(&["a"], "").realm_of_nameless(), Some("a"));
        assert_eq!(of(&["a", "b"], "").realm_of_nameless(), None);
        assert_eq!(of(&["a", "b"], "b").realm_of_nameless(), Some("b"));
    }
}
