//! Variables of the environment that set keys of the configuration: `HYPERREGISTRY_LIMITS_PAGE` sets `page` in `[limits]`.
//!
//! # Invariants
//! - A variable that begins with `HYPERREGISTRY_` and names no key is an error: a misspelt one is never silently without effect.
//!   The variables that Kubernetes makes for a service of this name are not ours.
//! - No two keys have the same variable; a test says so.
//! - An error names the variable, and never shows the value of a key that may hold a secret.

use crate::config::Config;
use crate::config_schema::{Key, Kind, keys};
use hyper_sdk::{Error, Result};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::sync::LazyLock;

/// What the names of all variables begin with.
const PREFIX: &str = "HYPERREGISTRY_";

/// Variables that commands read for a flag of theirs.
const OF_FLAGS: [&str; 1] = ["HYPERREGISTRY_DATABASE"];

/// The keys with their variables.
static KEYS: LazyLock<Vec<(String, Key)>> =
    LazyLock::new(|| keys().into_iter().map(|key| (variable(&key), key)).collect());

/// The variables of the environment that set keys.
#[derive(Debug, Default)]
pub(crate) struct Environment(Vec<(&'static (String, Key), String)>);

impl Environment {
    /// Those of the process.
    ///
    /// # Errors
    /// Those of [`Environment::from_variables`].
    pub(crate) fn of_process() -> Result<Self> {
        Self::from_variables(std::env::vars_os())
    }

    /// Those among some variables. An empty one counts as not set.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] for a variable with our prefix that names no key, or that is not UTF-8.
    pub(crate) fn from_variables(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self> {
        let mut set = Vec::new();
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
            if value.is_empty() || OF_FLAGS.contains(&name) || is_of_kubernetes(name) {
                continue;
            }
            let Some(key) = KEYS.iter().find(|(variable, _)| variable == name) else {
                return Err(unknown(name));
            };
            let value = value.into_string().map_err(|_| {
                Error::invalid(format!("the value of the environment variable {name} is not UTF-8"))
            })?;
            set.push((key, value));
        }
        Ok(Self(set))
    }

    /// The configuration of a file, whose text is valid, with these variables over it. The values are not checked against
    /// each other.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the variable.
    pub(crate) fn over(&self, text: &str) -> Result<Config> {
        let mut merged: toml::Table = toml::from_str(text).map_err(|e| Error::invalid(e.message()))?;
        for ((name, key), value) in &self.0 {
            let failed = |why: &str| {
                let path = key.path.join(".");
                Error::invalid(format!("the environment variable {name}, for the key `{path}`: {why}"))
            };
            let value = read(key.kind, value).map_err(failed)?;
            // Alone, as the error of the whole would not say which variable it is.
            let mut alone = toml::Table::new();
            insert(&mut alone, &key.path, value.clone());
            alone
                .try_into::<Config>()
                .map_err(|e| failed(e.message().trim().lines().next().unwrap_or("the value is not valid")))?;
            insert(&mut merged, &key.path, value);
        }
        merged.try_into().map_err(|e: toml::de::Error| Error::invalid(e.message().trim()))
    }
}

/// The name of the variable of a key.
fn variable(key: &Key) -> String {
    format!("{PREFIX}{}", key.path.join("_").replace('-', "_").to_uppercase())
}

fn read(kind: Kind, value: &str) -> Result<toml::Value, &'static str> {
    Ok(match kind {
        Kind::Text => toml::Value::String(value.to_owned()),
        Kind::Boolean => toml::Value::Boolean(value.trim().parse().map_err(|_| "write true or false")?),
        Kind::Integer => toml::Value::Integer(value.trim().parse().map_err(|_| "write a number")?),
        Kind::List => toml::Value::Array(value.split(',').map(|part| part.trim().into()).collect()),
    })
}

fn insert(table: &mut toml::Table, path: &[String], value: toml::Value) {
    let [tables @ .., name] = path else { return };
    let mut table = table;
    for name in tables {
        let inner = table.entry(name.clone()).or_insert_with(|| toml::Table::new().into());
        let Some(inner) = inner.as_table_mut() else { return };
        table = inner;
    }
    table.insert(name.clone(), value);
}

/// Whether Kubernetes makes such a variable for a service whose name is ours, or begins with it: `…_SERVICE_HOST`,
/// `…_SERVICE_PORT`, `…_SERVICE_PORT_HTTP`, `…_PORT`, `…_PORT_5000_TCP`, `…_PORT_5000_TCP_ADDR`.
fn is_of_kubernetes(name: &str) -> bool {
    let of_port = |tail: &str| {
        let mut parts = tail.split('_');
        parts.next().is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
            && parts.next().is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT")
        || name.match_indices("_PORT_").any(|(at, found)| of_port(&name[at + found.len()..]))
}

fn unknown(name: &str) -> Error {
    let mut message =
        format!("the environment variable {} sets no key of the configuration", name.escape_debug());
    let nearest = KEYS.iter().map(|(variable, _)| (distance(name, variable), variable)).min();
    if let Some((_, variable)) = nearest.filter(|(distance, _)| *distance <= 4) {
        let _ = write!(message, ": is it {variable}?");
    }
    Error::invalid(message)
}

/// How many letters must be added, removed or changed to make one text the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A table of the variables, as Markdown.
pub(crate) fn reference() -> String {
    let mut page = String::from("| variable | key |\n| --- | --- |\n");
    for (variable, key) in KEYS.iter() {
        let _ = writeln!(page, "| `{variable}` | `{}` |", key.path.join("."));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn over(text: &str, variables: &[(&str, &str)]) -> Result<Config> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        Environment::from_variables(variables)?.over(text)
    }

    #[test]
    fn variables_come_over_the_file() {
        let file = "data = \"a\"\nsparse = true\n[limits]\npage = 7\nbody-timeout = \"1s\"";
        let config = over(
            file,
            &[
                ("HYPERREGISTRY_LISTEN", "http://127.0.0.1:1, unix:/run/x"),
                ("HYPERREGISTRY_SPARSE", "false"),
                ("HYPERREGISTRY_LIMITS_PAGE", "9"),
                ("HYPERREGISTRY_LIMITS_MANIFEST", "1MiB"),
                ("HYPERREGISTRY_LIMITS_USER_READS", "5/s"),
                ("HYPERREGISTRY_TRUSTED_PROXIES", "10.0.0.7"),
                ("HYPERREGISTRY_DATA", ""),
                ("HYPERREGISTRYDATA", "x"),
                ("PATH", "/bin"),
            ],
        );
        let config = config.unwrap();
        assert_eq!(
            config.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["http://127.0.0.1:1", "unix:/run/x"]
        );
        assert_eq!((config.sparse, config.limits.page, config.limits.manifest.0), (false, 9, 1 << 20));
        assert_eq!(config.limits.body_timeout.0.as_secs(), 1);
        assert!(config.limits.user.reads.is_some());
        assert_eq!(config.trusted_proxies.unwrap()[0].to_string(), "10.0.0.7");
        assert_eq!(config.data.to_str(), Some("a"));
    }

    #[test]
    fn a_faulty_variable_is_named() {
        for (variable, value, parts) in [
            (
                "HYPERREGISTRY_LIMIT_PAGE",
                "1",
                vec!["HYPERREGISTRY_LIMIT_PAGE", "is it HYPERREGISTRY_LIMITS_PAGE?"],
            ),
            ("HYPERREGISTRY_SOMETHING_ELSE", "1", vec!["HYPERREGISTRY_SOMETHING_ELSE", "no key"]),
            ("HYPERREGISTRY_LIMITS", "1", vec!["HYPERREGISTRY_LIMITS"]),
            ("HYPERREGISTRY_SPARSE", "yes", vec!["HYPERREGISTRY_SPARSE", "`sparse`", "true or false"]),
            (
                "HYPERREGISTRY_LIMITS_PAGE",
                "many",
                vec!["HYPERREGISTRY_LIMITS_PAGE", "`limits.page`", "number"],
            ),
            ("HYPERREGISTRY_LIMITS_PAGE", "-1", vec!["HYPERREGISTRY_LIMITS_PAGE"]),
            ("HYPERREGISTRY_LIMITS_BODY_TIMEOUT", "5", vec!["`limits.body-timeout`", "invalid duration"]),
            ("HYPERREGISTRY_LISTEN", "127.0.0.1:1,,", vec!["HYPERREGISTRY_LISTEN"]),
            ("HYPERREGISTRY_LOG_FORMAT", "xml", vec!["HYPERREGISTRY_LOG_FORMAT", "text or json"]),
        ] {
            let error = over("", &[(variable, value)]).unwrap_err().to_string();
            for part in parts {
                assert!(error.contains(part), "{variable}={value}: {error}");
            }
        }
        let secret = over("", &[("HYPERREGISTRY_DATABASE_URL", "postgres://ada:s3cret@db:x/a")]);
        let error = secret.and_then(|config| config.check()).unwrap_err().to_string();
        assert!(error.contains("database.url") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn variables_of_flags_and_of_kubernetes_are_left_alone() {
        for name in [
            "HYPERREGISTRY_DATABASE",
            "HYPERREGISTRY_SERVICE_HOST",
            "HYPERREGISTRY_SERVICE_PORT",
            "HYPERREGISTRY_SERVICE_PORT_HTTP",
            "HYPERREGISTRY_PORT",
            "HYPERREGISTRY_PORT_5000_TCP",
            "HYPERREGISTRY_PORT_5000_TCP_ADDR",
            "HYPERREGISTRY_METRICS_PORT_9090_TCP_PROTO",
            "HYPERREGISTRY_METRICS_SERVICE_HOST",
        ] {
            over("", &[(name, "tcp://10.0.0.1:5000")]).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        assert!(over("", &[("HYPERREGISTRY_PORT_NUMBER", "5000")]).is_err());
    }

    #[test]
    fn every_key_has_a_variable_of_its_own_that_kubernetes_does_not_make() {
        let variables: BTreeSet<_> = KEYS.iter().map(|(variable, _)| variable.as_str()).collect();
        assert_eq!(variables.len(), KEYS.len());
        assert!(variables.len() > 50, "{}", variables.len());
        for variable in variables {
            assert!(!is_of_kubernetes(variable) && !OF_FLAGS.contains(&variable), "{variable}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_utf_8_is_an_error_that_names_its_variable() {
        use std::os::unix::ffi::OsStringExt as _;
        let broken = OsString::from_vec(vec![0xff]);
        let error = Environment::from_variables([("HYPERREGISTRY_DATA".into(), broken.clone())]).unwrap_err();
        assert!(error.to_string().contains("HYPERREGISTRY_DATA"), "{error}");
        assert!(Environment::from_variables([("OTHER".into(), broken)]).is_ok());
    }

    proptest! {
        #[test]
        fn any_value_of_any_key_is_read_without_a_panic(key in 0..50usize, value: String) {
            let _ = over("", &[(&KEYS[key].0, &value)]);
        }
    }
}
