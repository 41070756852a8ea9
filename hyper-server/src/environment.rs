//! Variables of the environment that set keys of the configuration: `HYPERREGISTRY_LIMITS_PAGE` sets `page` in `[limits]`.
//!
//! # Invariants
//! - A variable that begins with `HYPERREGISTRY_` and names no key is an error: a misspelt one is never silently without effect.
//!   The variables that Kubernetes makes for a service of this name are not ours: they are known by the address and the port
//!   that it always sets.
//! - No two keys have the same variable; a test says so.
//! - An error names the variable, and never shows the value of a key that may hold a secret.

use crate::config::Config;
use crate::config_schema::{Key, Kind, keys};
use hyper_sdk::{Error, Result};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::LazyLock;

/// What the names of all variables begin with.
const PREFIX: &str = "HYPERREGISTRY_";

/// A short name of one variable, and that variable.
const SHORT: (&str, &str) = ("HYPERREGISTRY_DATABASE", "HYPERREGISTRY_DATABASE_URL");

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
        let ours = variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let mut ours: BTreeMap<String, OsString> =
            ours.filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty()).collect();
        let services = services(&ours);
        ours.retain(|name, _| !services.iter().any(|service| is_of_service(name, service)));
        if let Some(value) = ours.remove(SHORT.0) {
            if ours.get(SHORT.1).is_some_and(|other| *other != value) {
                return Err(Error::invalid(format!(
                    "the environment variables {} and {} mean the same key and have two values",
                    SHORT.0, SHORT.1
                )));
            }
            ours.insert(SHORT.1.to_owned(), value);
        }
        let mut set = Vec::new();
        for (name, value) in ours {
            let Some(key) = KEYS.iter().find(|(variable, _)| *variable == name) else {
                return Err(unknown(&name));
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
            insert(&mut alone, &key.path, value.clone()).map_err(failed)?;
            alone
                .try_into::<Config>()
                .map_err(|e| failed(e.message().trim().lines().next().unwrap_or("the value is not valid")))?;
            insert(&mut merged, &key.path, value).map_err(failed)?;
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
        // Files of variables and of secrets end with a line.
        Kind::Text => toml::Value::String(value.trim_end_matches(['\r', '\n']).to_owned()),
        Kind::Boolean => toml::Value::Boolean(value.trim().parse().map_err(|_| "write true or false")?),
        Kind::Integer => toml::Value::Integer(value.trim().parse().map_err(|_| "write a number")?),
        Kind::List => toml::Value::Array(value.split(',').map(|part| part.trim().into()).collect()),
    })
}

fn insert(table: &mut toml::Table, path: &[String], value: toml::Value) -> Result<(), &'static str> {
    let [tables @ .., name] = path else { return Err("the key has no name") };
    let mut table = table;
    for name in tables {
        let inner = table.entry(name.clone()).or_insert_with(|| toml::Table::new().into());
        table = inner.as_table_mut().ok_or("the file has something else than a table there")?;
    }
    table.insert(name.clone(), value);
    Ok(())
}

/// What the variables of services of Kubernetes begin with: each has an address and a port.
fn services(variables: &BTreeMap<String, OsString>) -> Vec<String> {
    let text = |name: &str| variables.get(name).and_then(|value| value.to_str());
    let bases = variables.keys().filter_map(|name| name.strip_suffix("_SERVICE_HOST"));
    let is_service = |base: &&str| {
        text(&format!("{base}_SERVICE_HOST")).is_some_and(|host| host.parse::<IpAddr>().is_ok())
            && text(&format!("{base}_SERVICE_PORT")).is_some_and(|port| port.parse::<u16>().is_ok())
    };
    bases.filter(is_service).map(str::to_owned).collect()
}

/// Whether Kubernetes makes such a variable for a service: `…_SERVICE_HOST`, `…_SERVICE_PORT`, `…_SERVICE_PORT_HTTP`, `…_PORT`,
/// `…_PORT_5000_TCP`, `…_PORT_5000_TCP_ADDR`.
fn is_of_service(name: &str, service: &str) -> bool {
    let Some(rest) = name.strip_prefix(service) else { return false };
    let is_of_port = |rest: &str| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(|port| port.parse::<u16>().is_ok())
            && parts.next().is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol))
            && parts.next().is_none_or(|what| ["PORT", "PROTO", "ADDR"].contains(&what))
            && parts.next().is_none()
    };
    ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"].contains(&rest)
        || rest.starts_with("_SERVICE_PORT_")
        || rest.strip_prefix("_PORT_").is_some_and(is_of_port)
}

fn unknown(name: &str) -> Error {
    let mut message =
        format!("the environment variable {} sets no key of the configuration", name.escape_debug());
    let own = |text: &str| text.strip_prefix(PREFIX).unwrap_or_default().to_owned();
    let nearest = KEYS.iter().map(|(variable, _)| (distance(&own(name), &own(variable)), variable)).min();
    let in_table = KEYS.iter().find(|(variable, _)| variable.starts_with(&format!("{name}_")));
    if name == "HYPERREGISTRY_CONFIG" {
        message.push_str(": --config names the file");
    } else if let Some((variable, _)) = in_table {
        let _ = write!(message, ": it is a table, whose keys have variables such as {variable}");
    } else if let Some((_, variable)) = nearest.filter(|(distance, _)| *distance <= 1 + own(name).len() / 6) {
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
        let short = if variable == SHORT.1 { format!(", `{}`", SHORT.0) } else { String::new() };
        let _ = writeln!(page, "| `{variable}`{short} | `{}` |", key.path.join("."));
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
                ("HYPERREGISTRY_AUTH_HTPASSWD", "/run/secrets/users\n"),
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
        assert_eq!(config.auth.htpasswd.unwrap().to_str(), Some("/run/secrets/users"));
        let hint = over("", &[("HYPERREGISTRY_FOO", "1")]).unwrap_err().to_string();
        assert!(!hint.contains("is it"), "{hint}");
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
            ("HYPERREGISTRY_LIMITS", "1", vec!["it is a table", "HYPERREGISTRY_LIMITS_"]),
            ("HYPERREGISTRY_CONFIG", "a.toml", vec!["--config names the file"]),
            ("HYPERREGISTRY_PORT", "8080", vec!["HYPERREGISTRY_PORT", "no key"]),
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
    fn the_short_name_of_the_database_is_its_variable() {
        let url = |variables: &[(&str, &str)]| {
            over("", variables).map(|config| config.database.url.map(|url| url.expose().to_owned()))
        };
        let (short, long) = SHORT;
        assert_eq!(url(&[(short, "postgres://a@b/c")]).unwrap().as_deref(), Some("postgres://a@b/c"));
        assert_eq!(url(&[(short, "")]).unwrap(), None);
        assert!(url(&[(short, "postgres://a@b/c"), (long, "postgres://a@b/c")]).is_ok());
        let error = url(&[(short, "postgres://a:s3cret@b/c"), (long, "postgres://a@b/c")]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(short) && error.contains(long) && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn variables_of_services_of_kubernetes_are_left_alone() {
        let service = [
            ("HYPERREGISTRY_SERVICE_HOST", "10.0.0.1"),
            ("HYPERREGISTRY_SERVICE_PORT", "5000"),
            ("HYPERREGISTRY_SERVICE_PORT_HTTP", "5000"),
            ("HYPERREGISTRY_PORT", "tcp://10.0.0.1:5000"),
            ("HYPERREGISTRY_PORT_5000_TCP", "tcp://10.0.0.1:5000"),
            ("HYPERREGISTRY_PORT_5000_TCP_PROTO", "tcp"),
            ("HYPERREGISTRY_PORT_5000_TCP_PORT", "5000"),
            ("HYPERREGISTRY_PORT_5000_TCP_ADDR", "10.0.0.1"),
            ("HYPERREGISTRY_METRICS_SERVICE_HOST", "fd00::1"),
            ("HYPERREGISTRY_METRICS_SERVICE_PORT", "9090"),
            ("HYPERREGISTRY_METRICS_PORT", "tcp://[fd00::1]:9090"),
        ];
        over("", &service).unwrap();
        // Without the address and the port that always come with them, they are mistakes of somebody.
        for (name, value) in service {
            assert!(over("", &[(name, value)]).is_err(), "{name}");
        }
        for name in
            ["HYPERREGISTRY_LISTEN_PORT", "HYPERREGISTRY_PORT_NUMBER", "HYPERREGISTRY_PORT_5000_TCP_X"]
        {
            assert!(over("", &[&service[..], &[(name, "1")]].concat()).is_err(), "{name}");
        }
    }

    #[test]
    fn every_key_has_a_variable_of_its_own_that_kubernetes_does_not_make() {
        let variables: BTreeSet<_> = KEYS.iter().map(|(variable, _)| variable.as_str()).collect();
        assert_eq!(variables.len(), KEYS.len());
        assert!(variables.len() > 50, "{}", variables.len());
        for variable in variables {
            assert!(!is_of_service(variable, "HYPERREGISTRY") && variable != SHORT.0, "{variable}");
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
        fn any_value_of_any_key_is_read_without_a_panic(key in 0..KEYS.len(), value: String) {
            let _ = over("", &[(&KEYS[key].0, &value)]);
        }
    }
}
