//! The command line of `hyperregistry`.
//!
//! A failure is printed to standard error, with its causes, and ends with status 1; a misused command line with 2.
//! `serve` prints one line to standard output when it listens, and nothing else.

use crate::audit::AuditLog;
use crate::auth::{AnonymousAccess, Authorizer, PolicyFile, htpasswd_entry};
use crate::backup_command::BackupCommand;
use crate::check_command::{self, CheckBlobsArgs};
use crate::command_docs::{self, Shell};
use crate::config::{Config, LogFormat, REFERENCE};
use crate::config_command::ConfigCommand;
use crate::environment;
use crate::events_command::{EventsArgs, TagCommand};
use crate::gc_command::{self, GcArgs};
use crate::import_command::{self, ImportCommand};
use crate::key_command::KeyCommand;
use crate::listen_on::ListenOn;
use crate::log::LineWriter;
use crate::log_level;
use crate::metric_list;
use crate::migrate_command::{self, MigrateArgs};
use crate::open_store::{self, Opened};
use crate::otlp::{self, Exporter};
use crate::policy_command::{self, PolicyCommand};
use crate::quota_command::QuotaCommand;
use crate::reload::{self, ConfigFile, Reload};
use crate::restore_command::{self, RestoreArgs};
use crate::retention_command::RetentionCommand;
use crate::standard_io::{chain, print, read_password};
use crate::status::{self, StatusArgs};
use crate::store_args::StoreArgs;
use crate::token_command::TokenCommand;
use crate::undelete_command::UndeleteCommand;
use crate::webhook;
use crate::webhook_command::WebhookCommand;
use crate::webhook_config;
use crate::{ClientAuth, HangUps, Listener, Registry, ServerOptions, TrustedProxy, serve};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use hyper_sdk::{Error, ErrorDetail, Result};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

/// An OCI registry server
#[derive(Debug, Parser)]
#[command(name = "hyperregistry", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves a folder as a registry
    Serve(Box<ServeArgs>),
    /// Says whether a running server is ready, and shows its counts; ends with status 1 if it is not
    Status(StatusArgs),
    /// Removes what nothing keeps from a store, once; a server may use the store meanwhile
    Gc(GcArgs),
    /// Deletes old tags by the rules of a configuration file, and explains what becomes of a tag
    #[command(subcommand)]
    Retention(RetentionCommand),
    /// Brings back what was deleted lately (`undelete.window`), lists it, or lets it go for good
    #[command(subcommand)]
    Undelete(UndeleteCommand),
    /// Shows what namespaces use of their quotas, and checks that it is counted right
    #[command(subcommand)]
    Quota(QuotaCommand),
    /// Prints what has changed in a store, as far as it was recorded (`events.enabled`)
    Events(EventsArgs),
    /// Lists webhooks and how far they are, sends events again, and tries a webhook
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Shows what a tag has named
    #[command(subcommand)]
    Tag(TagCommand),
    /// Reads all blobs of a store, and reports those that are damaged; a server may use the store meanwhile
    ///
    /// A blob is damaged when its bytes are missing, do not match its digest, or have another size than the database says. The
    /// command ends with status 1 when a blob is damaged or cannot be read.
    Check(CheckBlobsArgs),
    /// Makes, lists, checks and removes backups of a store
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Fills an empty store from a backup
    ///
    /// Every digest is verified. A server refuses the store until the restore has ended; one that was interrupted goes on when the
    /// command is run again.
    Restore(RestoreArgs),
    /// Copies a store into an empty one that keeps its content in another way
    ///
    /// Every digest is verified, and the source stays as it is. A server may serve it meanwhile, but what is pushed to it after the
    /// begin is not copied. A copy that was interrupted goes on when the command is run again.
    Migrate(Box<MigrateArgs>),
    /// Imports images into a store; a server may use the store meanwhile
    ///
    /// An import can be run again, also after it was interrupted: what the store has is not copied again, and tags that changed
    /// in the source are brought up to date. The command ends with status 1 when something cannot be imported.
    #[command(subcommand)]
    Import(ImportCommand),
    /// Checks a registry against the rules of the distribution specification
    ///
    /// Each rule is a named case. The cases push small content into two repositories of any registry, read it back, and remove
    /// it as far as the registry lets them. The command ends with status 1 when the registry breaks a rule that it must keep.
    #[cfg(feature = "conformance")]
    Conformance(crate::conformance::ConformanceArgs),
    /// Checks and explains configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Checks and explains policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Makes, lists and removes API tokens, with which machines log in
    #[command(subcommand)]
    Token(TokenCommand),
    /// Makes keys with which a registry signs its tokens, and shows their public part
    #[command(subcommand)]
    Key(KeyCommand),
    /// Prints an htpasswd entry for a user, whose password is read from standard input
    Htpasswd(HtpasswdArgs),
    /// Prints a script that completes commands and options in a shell
    Completions(CompletionsArgs),
    /// Prints the reference of the program as Markdown
    #[command(hide = true)]
    Reference,
    /// Prints the reference of the metrics as Markdown
    #[command(hide = true)]
    MetricsReference,
    /// Writes the manual pages into a folder
    #[command(hide = true)]
    Man(ManArgs),
}

#[derive(Clone, Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Address and port to listen on; `:5000` means every address, port 0 lets the system choose. `http://` before it means no
    /// TLS, `https://` TLS. `unix:PATH` is a socket of the file system. Repeatable [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<ListenOn>,
    /// Certificate for TLS, PEM; read again when it changes, like the other files of TLS
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Key of the certificate, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Authorities of client certificates, PEM; a client certificate then stands for its user
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Whether clients must have a certificate: required or optional [default: required]
    #[arg(long, value_name = "MODE")]
    client_auth: Option<ClientAuth>,
    /// Revoked client certificates, PEM
    #[arg(long, value_name = "FILE")]
    client_crl: Option<PathBuf>,
    /// Proxy whose `X-Forwarded-For`, `-Proto` and `-Host` are believed: an address, a network such as 10.0.0.0/28, or `unix` for
    /// the sockets. Repeatable [default: none for addresses of clients, all for scheme and host]
    #[arg(long, value_name = "PROXY")]
    trusted_proxy: Vec<TrustedProxy>,
    /// File of users, with bcrypt or argon2 hashes
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// Policy, TOML: who may do what in which repository; takes the place of --anonymous. SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// What clients without credentials may do: none, pull or full [default: full, none with --htpasswd]
    #[arg(long, value_name = "ACCESS")]
    anonymous: Option<AnonymousAccess>,
    /// Refuses every write
    #[arg(long)]
    read_only: bool,
    /// Accepts manifests whose blobs or manifests are missing
    #[arg(long)]
    sparse: bool,
    /// Form of the log: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Level of the log, or a filter; SIGHUP reads that of the configuration file again [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// File that gets a line of JSON for each change: who made it, what it is, and from where
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct HtpasswdArgs {
    /// Name of the user
    user: String,
    /// Cost of the bcrypt hash: one more doubles the work
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(8..=16))]
    cost: u32,
}

#[derive(Debug, Args)]
struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, Args)]
struct ManArgs {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Runs the program on the arguments of the process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    match run(cli.command) {
        Ok(code) => code,
        Err(e) => {
            let hint = hint(&e).map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
            let _ = write!(std::io::stderr(), "error: {}\n{hint}", chain(&e));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Serve(args) => run_serve(*args),
        Command::Status(args) => {
            let is_ready = status::run(args)?;
            return Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Gc(args) => gc_command::run(args),
        Command::Retention(command) => command.run(),
        Command::Quota(command) => return command.run(),
        Command::Events(args) => args.run(),
        Command::Webhook(command) => command.run(),
        Command::Tag(command) => command.run(),
        Command::Undelete(command) => command.run(),
        Command::Check(args) => {
            let is_whole = check_command::run(args)?;
            return Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Backup(command) => return command.run(),
        Command::Restore(args) => return restore_command::run(args),
        Command::Migrate(args) => return migrate_command::run(*args),
        Command::Import(command) => {
            let is_whole = import_command::run(command)?;
            return Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        #[cfg(feature = "conformance")]
        Command::Conformance(args) => crate::conformance::run(args),
        Command::Config(command) => command.run(),
        Command::Policy(command) => {
            let answer = command.run()?;
            print(&answer.text)?;
            return Ok(if answer.is_yes { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Token(command) => command.run(),
        Command::Key(command) => command.run(),
        Command::Htpasswd(args) => htpasswd(&args),
        Command::Completions(args) => print(&command_docs::completions(Cli::command(), args.shell)),
        Command::Reference => print(&reference()),
        Command::MetricsReference => print(&metric_list::reference()),
        Command::Man(args) => command_docs::man_pages(Cli::command(), &args.folder),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// The hint for an error that a flag can avoid.
fn hint(e: &Error) -> Option<&'static str> {
    e.details()
        .any(|detail| matches!(detail, ErrorDetail::Listen { .. }))
        .then_some("another address is chosen with --listen, or with `listen` in the configuration file")
}

impl ServeArgs {
    /// The flags over the configuration of the file.
    fn over(self, in_file: Config) -> Result<Config> {
        let mut config = self.store.over(in_file)?;
        if !self.listen.is_empty() {
            config.listen = self.listen;
        }
        if !self.trusted_proxy.is_empty() {
            config.trusted_proxies = Some(self.trusted_proxy);
        }
        config.tls.certificate = self.tls_cert.or(config.tls.certificate);
        config.tls.key = self.tls_key.or(config.tls.key);
        config.tls.client_ca = self.client_ca.or(config.tls.client_ca);
        config.tls.client_crl = self.client_crl.or(config.tls.client_crl);
        config.tls.client_auth = self.client_auth.unwrap_or(config.tls.client_auth);
        config.auth.htpasswd = self.htpasswd.or(config.auth.htpasswd);
        config.auth.policy = self.policy.or(config.auth.policy);
        config.auth.anonymous = self.anonymous.or(config.auth.anonymous);
        config.read_only |= self.read_only;
        config.sparse |= self.sparse;
        config.log.format = self.log_format.unwrap_or(config.log.format);
        config.log.level = self.log_level.unwrap_or(config.log.level);
        config.log.audit = self.audit_log.or(config.log.audit);
        config.check()?;
        Ok(config)
    }
}

fn run_serve(args: ServeArgs) -> Result<()> {
    let runtime = hyper_sdk::runtime::start()?;
    // First: reading the files and opening the store may take a while, and the signal must not end the server meanwhile.
    let hang_ups = {
        let _inside = runtime.enter();
        HangUps::listen()?
    };
    let path = args.store.file().map(PathBuf::from);
    let config = args.clone().over(args.store.in_file()?)?;
    let log = LineWriter::start(std::io::stderr())?;
    let (exporter, listener) = {
        let _inside = runtime.enter();
        config.otlp.exporter()?.map(Exporter::start).transpose()?.unzip()
    };
    let level = log_level::start(&config.log, log.clone(), listener)?;
    if hang_ups.are_ignored() {
        tracing::warn!(
            "SIGHUP is ignored, as a program that nohup starts is told to: what a reload reads again takes a restart"
        );
    }
    let over = move |in_file| args.clone().over(in_file);
    let file = path.map(|path| ConfigFile::new(path, over, level, &config));
    let audit = config.log.audit.as_deref().map(AuditLog::open).transpose()?;
    let outcome = runtime.block_on(serve_until_signal(config, file, audit.clone(), hang_ups, exporter));
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    // After the tasks have ended: a change that was cut off has noted so.
    if let Some(audit) = audit {
        audit.close();
    }
    log.flush();
    outcome
}

async fn serve_until_signal(
    config: Config,
    file: Option<ConfigFile>,
    audit: Option<AuditLog>,
    hang_ups: HangUps,
    exporter: Option<Exporter>,
) -> Result<()> {
    let policy = config.auth.policy.as_deref().map(PolicyFile::open).transpose()?;
    let Opened { store, meta, secret, .. } = open_store::open(&config, config.upload_max_age()).await?;
    if !config.read_only && !store.capabilities().write {
        return Err(Error::unsupported(
            "the folder of the store is on a read-only file system: --read-only serves it as it is",
        )
        .with_context("data", config.data.display()));
    }
    let known = config.knows();
    let of_policy = policy.iter().flat_map(|policy| policy_command::warnings(policy, known));
    for warning in config.warnings().into_iter().chain(of_policy) {
        tracing::warn!("{warning}");
    }
    let mut options = config.registry();
    options.webhooks = webhook_config::webhooks(&config.webhook)?;
    for warning in webhook_config::warnings(&options.webhooks) {
        tracing::warn!("{warning}");
    }
    if let Some(log) = store.event_log().filter(|_| !config.read_only) {
        webhook::begin(&log, &options.webhooks).await?;
    }
    options.cors = config.cors.cors()?;
    options.token_key = Some(config.data.join("token.key"));
    options.token_secret = secret;
    let token_keys = config.auth.token.keys()?;
    options.token_keys = token_keys.clone();
    options.audit = audit;
    if options.htpasswd.is_some() || options.ldap.is_some() || options.login.is_some() {
        options.api_tokens = Some(Arc::new(meta));
    }
    options.authorizer = policy.clone().map(|policy| Arc::new(policy) as Arc<dyn Authorizer>);
    let place = store.to_string();
    let registry = Registry::new(store, options)?;
    if let Some(exporter) = &exporter {
        registry.show_spans(exporter.counts());
    }
    let tls = config.tls.open()?;
    if let Some(tls) = &tls {
        registry.show_tls(tls);
        tls.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    }
    let mut listeners = Vec::new();
    for listen in &config.listen {
        listeners.push(listen.bind(tls.as_ref(), config.socket_mode.0).await?);
    }
    // Bound now, for the same user as the others; it ends with this function.
    let answering = match &tls {
        Some(tls) => config.tls.acme.answer(tls, config.public_url.clone()).await?,
        None => None,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let addresses: Vec<String> = listeners.iter().map(Listener::url).collect::<Result<_>>()?;
    // At once: whoever waits for the first line may read no more.
    let lines = addresses.iter().map(|address| format!("hyperregistry listens on {address}\n"));
    let of_acme = answering.iter().map(|at| format!("hyperregistry answers ACME at {}\n", at.url));
    print(&lines.chain(of_acme).collect::<String>())?;
    tracing::info!(address = addresses.join(" "), store = %place, read_only = config.read_only, "started");
    let reload = Arc::new(Reload { file, registry: registry.clone(), policy, known, token_keys, tls });
    let asked_at = Arc::new(OnceLock::new());
    let asked_to_end = Arc::clone(&asked_at);
    let shutdown = async move {
        let ended = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        // The files of TLS are read again anyway, a moment later: a signal is how other programs are asked to do it now.
        let asked = futures::stream::unfold(hang_ups, |mut hang_ups: HangUps| async move {
            hang_ups.recv().await;
            Some(((), hang_ups))
        });
        reload::until(ended, asked, move || reload.run()).await;
        tracing::info!("stopping: requests in flight are answered first");
        let _ = asked_to_end.set(Instant::now());
    };
    let server = ServerOptions { connections: registry.connections().clone(), ..config.server() };
    let drain = server.drain_timeout;
    let served = serve(listeners, registry.clone(), server, shutdown).await;
    let last_deeds = async {
        registry.stop_webhooks().await;
        registry.note_last_pulls().await;
    };
    tokio::join!(last_deeds, otlp::finish(exporter, asked_at.get().copied(), drain));
    served?;
    tracing::info!("stopped");
    Ok(())
}

/// The page docs/reference/hyperregistry.md.
fn reference() -> String {
    let commands = command_docs::reference(Cli::command(), "hyper-server/src");
    format!(
        "{commands}\n## Configuration file\n\nThe file that `hyperregistry serve --config FILE` reads is TOML. \
         `hyperregistry config reference` prints it with every key at its default:\n\n```toml\n{REFERENCE}```\n\n\
         A size is a number of bytes or a text such as `\"64KiB\"` (units of 1024) or `\"2GB\"` (units of 1000). A time is a \
         text such as `\"500ms\"`, `\"30s\"`, `\"5m\"` or `\"24h\"`. `hyperregistry config schema` prints the JSON Schema of the file.\n\n\
         ## Environment variables\n\nEach key has a variable, which takes precedence over the file, as flags take precedence over \
         it. The entries of a list have commas between them. An empty variable counts as not set; one that names no key is an \
         error.\n\n{}",
        environment::reference()
    )
}

fn htpasswd(args: &HtpasswdArgs) -> Result<()> {
    print(&format!("{}\n", htpasswd_entry(&args.user, &read_password()?, args.cost)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_visible_command_and_option_has_help() {
        fn check(command: &clap::Command, missing: &mut Vec<String>) {
            for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
                if sub.get_about().is_none() {
                    missing.push(sub.get_name().to_owned());
                }
                let without_help = sub.get_arguments().filter(|a| !a.is_hide_set() && a.get_help().is_none());
                missing.extend(without_help.map(|a| format!("{} {}", sub.get_name(), a.get_id())));
                check(sub, missing);
            }
        }
        let mut missing = Vec::new();
        check(&Cli::command(), &mut missing);
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn the_reference_has_commands_flags_and_the_configuration() {
        let page = reference();
        for needle in
            ["## hyperregistry serve", "`--htpasswd FILE`", "## hyperregistry config check", REFERENCE]
        {
            assert!(page.contains(needle), "{needle}\n{page}");
        }
        assert!(!page.contains("hyperregistry man"));
    }

    #[test]
    fn flags_override_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "listen = \"127.0.0.1:1\"\ndata = \"a\"\n[auth]\nanonymous = \"pull\"")
            .unwrap();
        let file = file.to_str().unwrap();
        let cli = Cli::parse_from(["x", "serve", "--config", file, "--data", "b", "--read-only"]);
        let Command::Serve(args) = cli.command else { panic!() };
        let file = args.store.in_file().unwrap();
        let config = args.over(file).unwrap();
        assert_eq!(config.listen[0].to_string(), "127.0.0.1:1");
        assert_eq!(config.data, PathBuf::from("b"));
        assert_eq!(config.auth.anonymous, Some(AnonymousAccess::Pull));
        assert!(config.read_only);
        assert!(Cli::try_parse_from(["x", "serve", "--anonymous", "some"]).is_err());
    }
}
