//! `hyperregistry config`: checks and explains configuration files.

use crate::audit::AuditLog;
use crate::auth::{Directory, Issuers, Logins, PolicyFile};
use crate::config::{Config, REFERENCE};
use crate::config_schema;
use crate::issuer_config;
use crate::otlp;
use crate::standard_io::print;
use crate::throttle::{Throttle, Throttling};
use crate::{log_level, policy_command, webhook, webhook_config};
use clap::{Args, Subcommand};
use hyper_sdk::{Error, Result};
use std::io::Write as _;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Checks a configuration file, the variables of the environment, and the files that they name
    Check(CheckArgs),
    /// Prints a configuration file with every key at its default
    Reference,
    /// Prints the JSON Schema of the configuration file, with which editors complete and check it
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Configuration file, TOML [default: the variables alone]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigCommand {
    /// Runs the command.
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Check(args) => check(args),
            Self::Reference => print(REFERENCE),
            Self::Schema => print(&format!("{:#}\n", config_schema::schema())),
        }
    }
}

/// The directory of a configuration, which nobody has asked yet.
///
/// # Errors
/// What is wrong with the table, or with a file that it names.
pub(crate) fn directory(config: &Config) -> Result<Option<Directory>> {
    let guesses = Throttle::new(&Throttling::default()).guesses().clone();
    let directory = config.auth.ldap.options().map(|options| Directory::new(&options, guesses)).transpose();
    directory.map_err(|e| e.with_context("table", "auth.ldap"))
}

fn check(args: &CheckArgs) -> Result<()> {
    let config = Config::load(args.config.as_deref())?;
    config.check()?;
    log_level::filter(&config.log.level)?;
    if let Some(path) = &config.auth.htpasswd {
        crate::auth::check_htpasswd(path)?;
    }
    config.auth.token.keys()?;
    let issuers = Issuers::new(&issuer_config::issuers(&config.auth.issuer)?)?;
    directory(&config)?;
    if let Some(login) = config.auth.login.options() {
        if issuers.has_other(&login.issuer) {
            return Err(Error::invalid(
                "two issuers have the same name: that of [auth.login] and one of [[auth.issuer]]",
            ));
        }
        let root = config.registry().root().unwrap_or_default();
        Logins::check(&login, &root).map_err(|e| e.with_context("table", "auth.login"))?;
    }
    if let Some(path) = &config.log.audit {
        AuditLog::check(path)?;
    }
    let exporter = config.otlp.exporter().map_err(|e| e.with_context("table", "otlp"))?;
    exporter.iter().try_for_each(otlp::check)?;
    let webhooks = webhook_config::webhooks(&config.webhook)?;
    webhook::check(&webhooks)?;
    let policy = config.auth.policy.as_deref().map(PolicyFile::open).transpose()?;
    let of_policy = policy.iter().flat_map(|policy| policy_command::warnings(policy, config.knows()));
    let of_tls = config.tls.check_files()?;
    for warning in config
        .warnings()
        .into_iter()
        .chain(of_policy)
        .chain(config.auth.token.file_warnings())
        .chain(of_tls)
        .chain(webhook_config::warnings(&webhooks))
    {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    print("the configuration is valid\n")
}
