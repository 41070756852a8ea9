//! The commands `hyperregistry token`: API tokens for machines, in the metadata of a store. Servers of the store may run
//! meanwhile.

use crate::auth::{TokenOwner, api_token, has_user, is_login_entry, is_owner_entry, is_unseen};
use crate::config::Config;
use crate::config_command;
use crate::open_store;
use crate::standard_io::print;
use crate::store_args::MetadataArgs;
use crate::units::Expiry;
use clap::{Args, Subcommand, ValueEnum};
use hyper_sdk::clock::{Clock as _, SystemClock, rfc3339};
use hyper_sdk::store::meta::{SqlMeta, TokenRecord, TokenStore as _};
use hyper_sdk::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;

/// The tokens of one query of the list.
const PAGE: usize = 1000;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes a token and prints it, once
    ///
    /// The token is the password of its user for `docker login` and its like, and a bearer token. It allows what the user may do
    /// and its scopes have.
    Add(AddArgs),
    /// Lists the tokens, without their secrets; also the refresh tokens that clients got for a password, and logins in a browser
    Ls(ListArgs),
    /// Removes tokens; servers refuse them within two seconds
    Rm(RemoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// User whose rights the token has at most
    user: String,
    /// What the token may do: a pattern for repositories as in a policy, and pull, push, delete or `*`, such as
    /// `team/**:pull,push`. Repeatable
    #[arg(long, value_name = "PATTERN:ACTIONS", required = true)]
    scope: Vec<String>,
    /// Name of the token, for people
    #[arg(long)]
    name: Option<String>,
    /// When the token expires: in so many days or hours, such as `30d` or `12h`, or `never`
    #[arg(long, value_name = "TIME", default_value = "90d")]
    expires: Expiry,
    /// How the token is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    store: MetadataArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only the tokens of this user
    #[arg(long)]
    user: Option<String>,
    /// How the tokens are printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    store: MetadataArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Id of the token, as `token ls` shows it
    #[arg(required = true)]
    id: Vec<String>,
    #[command(flatten)]
    store: MetadataArgs,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people; a new token alone on its line
    Text,
    /// For programs
    Json,
}

impl TokenCommand {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<()> {
        hyper_sdk::runtime::start()?.block_on(async {
            match self {
                Self::Add(args) => args.run().await,
                Self::Ls(args) => args.run().await,
                Self::Rm(args) => args.run().await,
            }
        })
    }
}

async fn open(args: MetadataArgs) -> Result<(Config, SqlMeta)> {
    let config = args.load()?;
    config.check()?;
    let meta = open_store::metadata(&config).await?;
    Ok((config, meta))
}

impl AddArgs {
    async fn run(self) -> Result<()> {
        let now = SystemClock.now();
        let expires = self.expires.at(now)?;
        let (token, mut record) =
            api_token(&self.user, self.name.as_deref().unwrap_or_default(), &self.scope, now, expires)?;
        let (config, meta) = open(self.store).await?;
        owner(&config, &self.user).await?.write(&mut record);
        meta.add_token(&record).await?;
        match self.format {
            Format::Text => {
                let until = record
                    .expires
                    .map_or("never expires".to_owned(), |at| format!("expires at {}", rfc3339(at)));
                let _ = writeln!(
                    std::io::stderr(),
                    "token {} of {} {until}; it is not shown again",
                    record.id,
                    record.user
                );
                print(&format!("{}\n", token.expose()))
            }
            Format::Json => {
                let mut shown = as_json(&record);
                shown["token"] = token.expose().into();
                print(&format!("{shown:#}\n"))
            }
        }
    }
}

/// Whose a token of this user is: that of the file, or of the directory, one of which must have the user. Without both it is that of a
/// file that is not in the configuration.
async fn owner(config: &Config, user: &str) -> Result<TokenOwner> {
    let file = config.auth.htpasswd.as_ref();
    let gone = |what: &str| {
        Error::new(ErrorKind::NotFound, format!("{what} does not have this user")).with_context("user", user)
    };
    let in_file = file.map(|path| has_user(path, user)).transpose()?;
    if in_file == Some(true) {
        return Ok(TokenOwner::File);
    }
    // Only now: its password may be readable for the server alone.
    match config_command::directory(config)? {
        Some(directory) => match directory.look_up(user).await? {
            Some(person) => Ok(TokenOwner::Directory(Some(person.entry.clone()))),
            None => Err(gone("the directory (`auth.ldap`)")),
        },
        None if in_file.is_none() => Ok(TokenOwner::File),
        None => {
            let path = file.map(|path| path.display().to_string()).unwrap_or_default();
            Err(gone("the file of users").with_context("path", path))
        }
    }
}

impl ListArgs {
    async fn run(self) -> Result<()> {
        let (_, meta) = open(self.store).await?;
        let mut found: Vec<TokenRecord> = Vec::new();
        let mut last: Option<String> = None;
        loop {
            let page = meta.tokens(last.as_deref(), PAGE).await?;
            last = page.items.last().map(|token| token.id.clone());
            found.extend(
                page.items
                    .into_iter()
                    .filter(|token| self.user.as_ref().is_none_or(|user| token.user == *user)),
            );
            if !page.more {
                break;
            }
        }
        found.sort_by(|a, b| (&a.user, a.created, &a.id).cmp(&(&b.user, b.created, &b.id)));
        match self.format {
            Format::Text => print(&table(&found, SystemClock.now())),
            Format::Json => print(&format!("{:#}\n", Value::from_iter(found.iter().map(as_json)))),
        }
    }
}

impl RemoveArgs {
    async fn run(self) -> Result<()> {
        let (_, meta) = open(self.store).await?;
        let mut unknown = Vec::new();
        for id in self.id {
            if !meta.remove_token(&id).await? {
                unknown.push(id);
            }
        }
        match unknown.is_empty() {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::NotFound,
                "no token has this id: `hyperregistry token ls` lists them",
            )
            .with_context("id", unknown.join(" "))),
        }
    }
}

/// Whether it is a token for machines, the login of a client with a password, or one in a browser.
fn kind(token: &TokenRecord) -> &'static str {
    match token.bound_to {
        Some(_) if token.scopes.iter().any(|scope| is_login_entry(scope)) => "login",
        Some(_) => "refresh",
        None => "api",
    }
}

/// What the token is for.
fn scopes(token: &TokenRecord) -> Vec<&str> {
    let is_scope = |scope: &&str| !is_login_entry(scope) && !is_owner_entry(scope);
    token.scopes.iter().map(String::as_str).filter(is_scope).collect()
}

/// Whose an API token is.
fn of(token: &TokenRecord) -> Option<&'static str> {
    let owner = TokenOwner::of(&token.scopes).filter(|_| token.bound_to.is_none())?;
    Some(match owner {
        TokenOwner::File => "file",
        TokenOwner::Directory(_) => "directory",
    })
}

fn as_json(token: &TokenRecord) -> Value {
    json!({
        "id": token.id,
        "user": token.user,
        "name": token.name,
        "scopes": scopes(token),
        "created": rfc3339(token.created),
        "expires": token.expires.map(rfc3339),
        "used": token.used.map(rfc3339),
        "kind": kind(token),
        "of": of(token),
    })
}

/// The tokens for people, one a line.
fn table(tokens: &[TokenRecord], now: i64) -> String {
    let time = |at: Option<i64>| at.map_or("never".to_owned(), rfc3339);
    let head = ["ID", "KIND", "USER", "NAME", "EXPIRES", "USED", "SCOPES"].map(str::to_owned);
    let rows = tokens.iter().map(|token| {
        let is_over = token.expires.is_some_and(|at| at <= now);
        let expires = match kind(token) {
            "refresh" => "when unused".to_owned(),
            _ if is_over => "expired".to_owned(),
            _ => time(token.expires),
        };
        // A client chooses it.
        let name: String = token.name.chars().filter(|c| !is_unseen(*c)).collect();
        let name = if name.is_empty() { "-".to_owned() } else { name };
        [
            token.id.clone(),
            kind(token).to_owned(),
            token.user.clone(),
            name,
            expires,
            time(token.used),
            scopes(token).join(" "),
        ]
    });
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(rows).collect();
    let widths: Vec<usize> =
        (0..6).map(|n| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", row[6]);
    }
    text
}
