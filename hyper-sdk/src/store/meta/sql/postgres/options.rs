//! Where a database is, and how it is used.

use crate::{Error, Result};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::fmt;
use std::sync::Arc;

/// The parameters of a URL that have a meaning.
const PARAMETERS: &[&str] = &[
    "application_name",
    "dbname",
    "host",
    "options",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

/// What every connection sets, unless the URL has other `options`: a lock or a statement that takes longer is an error
/// instead of a request that hangs, and a process that stands still in a transaction loses the right to write.
///
/// And every statement searches in indexes, row by row, as it does in SQLite. PostgreSQL plans by averages, so it would sometimes
/// read a whole table instead, for a row that is rarer than others or a page that is shorter than it expects.
pub(super) const SETTINGS: &[(&str, &str)] = &[
    ("lock_timeout", "10s"),
    ("statement_timeout", "60s"),
    ("idle_in_transaction_session_timeout", "30s"),
    ("tcp_keepalives_idle", "15"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

/// Where a PostgreSQL database is, and how many connections to it are opened. Neither `Debug` nor `Display` shows the user
/// or the password.
///
/// ```
/// use hyper_sdk::store::meta::PostgresOptions;
///
/// # fn main() -> hyper_sdk::Result<()> {
/// let options = PostgresOptions::parse("postgres://registry:secret@db.example.com/registry?sslmode=verify-full")?;
/// assert_eq!(options.to_string(), "db.example.com:5432/registry");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PostgresOptions {
    pub(super) connect: PgConnectOptions,
    pub(super) connections: u32,
    pub(super) place: Arc<str>,
}

impl PostgresOptions {
    /// The default number of connections.
    pub const CONNECTIONS: u32 = 16;

    /// The smallest number of connections: one that writes, one that asks for the version, and one that reads.
    pub const MIN_CONNECTIONS: u32 = 3;

    /// Reads `postgres://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETERS`. A socket in a folder is `?host=/run/postgresql`.
    ///
    /// What the URL leaves out is taken from the environment, as by the programs of PostgreSQL: `PGPASSWORD`, `PGHOST`,
    /// `PGSSLMODE`, `PGPASSFILE`. `sslmode` is one of `disable`, `prefer` (the default), `require`, `verify-ca` and
    /// `verify-full`; the authorities are those of the web and those of the file `sslrootcert`, with which `require` is `verify-ca`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for another URL, and for a parameter without a meaning. The message does not show the
    /// URL, because it can have a password.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid(
                "the URL of the database is not like `postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full`",
            )
        };
        let url = url::Url::parse(text).map_err(|_| invalid())?;
        if !["postgres", "postgresql"].contains(&url.scheme()) {
            return Err(invalid());
        }
        for (key, _) in url.query_pairs() {
            if !PARAMETERS.contains(&&*key) && !key.starts_with("options[") {
                return Err(Error::invalid(format!(
                    "the URL of the database has the unknown parameter `{}`: the known ones are {}",
                    key.escape_debug(),
                    PARAMETERS.join(", ")
                )));
            }
        }
        // The error of the driver can show a value, but none that is secret: those are not parsed.
        let mut connect = PgConnectOptions::from_url(&url).map_err(|e| invalid().with_source(e))?;
        // Whoever names an authority wants the certificate to be checked.
        let has_authority = url.query_pairs().any(|(key, _)| key == "sslrootcert");
        if has_authority && matches!(connect.get_ssl_mode(), PgSslMode::Require) {
            connect = connect.ssl_mode(PgSslMode::VerifyCa);
        }
        for (key, value) in SETTINGS {
            if !connect.get_options().is_some_and(|options| sets(options, key)) {
                connect = connect.options([(*key, *value)]);
            }
        }
        if connect.get_application_name().is_none() {
            connect = connect.application_name("hyper");
        }
        let host = match connect.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => connect.get_host().to_owned(),
        };
        let database = connect.get_database().unwrap_or(connect.get_username());
        let place = format!("{host}:{}/{database}", connect.get_port()).into();
        Ok(Self { connect: connect.disable_statement_logging(), connections: Self::CONNECTIONS, place })
    }

    /// Sets the password.
    #[must_use]
    pub fn password(self, password: &str) -> Self {
        Self { connect: self.connect.password(password), ..self }
    }

    /// Sets the most connections that are open at once; fewer than [`Self::MIN_CONNECTIONS`] count as so many.
    #[must_use]
    pub fn connections(self, connections: u32) -> Self {
        Self { connections: connections.max(Self::MIN_CONNECTIONS), ..self }
    }
}

/// Whether options such as `-c name=value` or `--name=value` set the setting of this name.
fn sets(options: &str, name: &str) -> bool {
    options.split_ascii_whitespace().any(|word| {
        let word = word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).unwrap_or(word);
        let found = word.split_once('=').map_or(word, |(found, _)| found);
        found.replace('-', "_").eq_ignore_ascii_case(name)
    })
}

impl fmt::Display for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("place", &self.place)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_shows_the_password() {
        let options = PostgresOptions::parse("postgres://ada:s3cret@db:99/app?sslmode=require").unwrap();
        for text in [options.to_string(), format!("{options:?}")] {
            assert!(
                text.contains("db:99/app") && !text.contains("s3cret") && !text.contains("ada"),
                "{text}"
            );
        }
        let options = options.password("s3cret2");
        assert!(!format!("{options:?}").contains("s3cret2"));
        for wrong in [
            "postgres://ada:s3cret@db:port/app",
            "mysql://ada:s3cret@db/app",
            "ada:s3cret@db/app",
            "postgres://ada:s3cret@db/app?sslmode=s0me",
            "postgres://ada:s3cret@db/app?pool=5",
            "postgres://ada:s3cret@[::1/app",
        ] {
            let mut text = String::new();
            let error = PostgresOptions::parse(wrong).unwrap_err();
            let mut source: Option<&dyn std::error::Error> = Some(&error);
            while let Some(e) = source {
                text.push_str(&format!("{e} {e:?}"));
                source = e.source();
            }
            assert!(!text.contains("s3cret"), "{text}");
        }
        let error = PostgresOptions::parse("postgres://db/app?pool=5").unwrap_err();
        assert!(error.to_string().contains("`pool`"), "{error}");
    }

    #[test]
    fn a_socket_is_a_host() {
        let options = PostgresOptions::parse("postgres://ada@localhost/app?host=/run/pg").unwrap();
        assert_eq!(options.to_string(), "/run/pg:5432/app");
    }

    #[test]
    fn settings_of_the_url_come_first() {
        let options = PostgresOptions::parse("postgres://db/app?options=-c%20lock_timeout=1s").unwrap();
        let settings = options.connect.get_options().unwrap();
        assert!(settings.contains("lock_timeout=1s") && !settings.contains("10s"), "{settings}");
        assert!(settings.contains("statement_timeout=60s"), "{settings}");
        for (options, is_set) in [
            ("-c jit=on", true),
            ("-cjit=on", true),
            ("-c JIT=on", true),
            ("--jit=on", true),
            ("-c lock_timeout=1s --jit=on", true),
            ("-c jit_above_cost=5", false),
            ("-c search_path=jit", false),
            ("", false),
        ] {
            assert_eq!(sets(options, "jit"), is_set, "{options}");
        }
        assert!(sets("--enable-hashjoin=on", "enable_hashjoin"));
        assert!(!sets("-c deadlock_timeout=1s", "lock_timeout"));
    }
}
