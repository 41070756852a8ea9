//! How users of a directory are found: the options, checked and parsed.

use super::dn::{Dn, DnTemplate};
use super::filter::{Filter, Place, Values};
use super::groups::Groups;
use super::message::Scope;
use super::options::LdapOptions;
use super::server::Server;
use hyper_sdk::client::{read_authorities, tls_config};
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::{Error, Result, ResultExt as _, Secret};
use rustls::ClientConfig;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest file of a password.
const MAX_PASSWORD: u64 = 4096;

/// What is known of a directory before it is asked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) servers: Vec<Server>,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) account: Option<Account>,
    pub(super) users: Users,
    filter: Filter,
    pub(super) user_attribute: String,
    pub(super) groups: Option<Groups>,
}

/// The account of the registry.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) dn: String,
    file: PathBuf,
}

/// Where the entry of a user is.
#[derive(Debug)]
pub(super) enum Users {
    /// At this name.
    At(DnTemplate),
    /// Somewhere below this one.
    Below(String),
}

impl Settings {
    /// Reads the options, and the files that they name.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that says which setting is wrong, and why a file cannot be used.
    pub(super) fn new(options: &LdapOptions) -> Result<Self> {
        options.check()?;
        let servers = options
            .urls
            .iter()
            .map(|url| Server::parse(url, options.start_tls, options.allow_plain))
            .collect::<Result<_>>()?;
        let roots =
            options.authorities.iter().map(|path| read_authorities(path)).collect::<Result<Vec<_>>>()?;
        let dn = |key: &'static str, text: &str| match Dn::parse(text) {
            Some(_) => Ok(()),
            None => {
                Err(Error::invalid(format!("`{key}` is no distinguished name: `{}`", text.escape_debug())))
            }
        };
        let users = match (&options.user_dn, &options.base) {
            (Some(template), _) => Users::At(DnTemplate::parse(template).context("key", "user-dn")?),
            (None, base) => {
                let base = base.clone().unwrap_or_default();
                dn("base", &base)?;
                Users::Below(base)
            }
        };
        let default = match &users {
            Users::At(_) => "(objectClass=*)".to_owned(),
            Users::Below(_) => format!("({}={{user}})", options.user_attribute),
        };
        let filter = options.filter.clone().unwrap_or(default);
        let filter = Filter::parse(&filter).context("key", "filter")?;
        if matches!(users, Users::Below(_)) && !filter.has(Place::User) {
            return Err(Error::invalid(
                "`filter` must compare an attribute with the name of the user: `(uid={user})`",
            ));
        }
        if filter.has(Place::Dn) {
            return Err(Error::invalid(
                "`filter` must not have `{dn}`, which is not known before the search",
            ));
        }
        let account = match (&options.bind_dn, &options.bind_password_file) {
            (Some(name), Some(file)) => Some(Account { dn: name.clone(), file: file.clone() }),
            _ => None,
        };
        if let Some(account) = &account {
            read_password(&account.file)?;
        }
        Ok(Self {
            servers,
            tls: Arc::new(tls_config(&roots)?),
            account,
            users,
            filter,
            user_attribute: options.user_attribute.clone(),
            groups: Groups::new(options)?,
        })
    }

    /// Where to search for a user: the base, how far below it, and the filter.
    pub(super) fn search(&self, user: &str) -> (String, Scope, Vec<u8>) {
        let (base, scope) = match &self.users {
            Users::At(template) => (template.of(user), Scope::Entry),
            Users::Below(base) => (base.clone(), Scope::Tree),
        };
        (base, scope, self.filter.encode(&Values { user, dn: "" }))
    }

    /// The name with which a user binds before anything is read; `None` when the entry is found first.
    pub(super) fn binds_as(&self, user: &str) -> Option<String> {
        match (&self.users, &self.account) {
            (Users::At(template), None) => Some(template.of(user)),
            _ => None,
        }
    }
}

impl Account {
    /// The password of now.
    ///
    /// # Errors
    /// Why the file cannot be read.
    pub(super) async fn password(&self) -> Result<Secret> {
        let file = self.file.clone();
        tokio::task::spawn_blocking(move || read_password(&file)).await.map_err(|e| {
            Error::internal("reading the password of the directory was interrupted").with_source(e)
        })?
    }
}

fn read_password(path: &Path) -> Result<Secret> {
    let text = small_file::read_text(path, "the password of the directory", MAX_PASSWORD, Kinds::Files)?;
    match text.lines().next().unwrap_or_default() {
        "" => Err(Error::invalid("the file of the password of the directory is empty")
            .with_context("path", path.display())),
        password => Ok(password.into()),
    }
}
