//! The tables `[[webhook]]` of the configuration: who is told of events.

use crate::units::TimeSpan;
use crate::webhook::{Webhook, WebhookFormat};
use base64::Engine as _;
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::store::EventKind;
use hyper_sdk::{Error, RepositoryPattern, Result, ResultExt as _, Secret, TextPattern};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest file of secrets or of an address.
const MAX_FILE: u64 = 64 << 10;
/// The largest file of authorities.
const MAX_CA: u64 = 4 << 20;
/// The most secrets: one, and the one that replaces it.
const MAX_SECRETS: usize = 2;

/// A webhook. It needs an address.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct WebhookConfig {
    /// Its name: the place in the events is kept under it.
    pub(crate) name: String,
    /// The address, when it has no secret.
    url: Option<HiddenText>,
    /// The file of the address, when it has a secret.
    url_file: Option<PathBuf>,
    /// One CloudEvent a request, or the envelope of Docker's registry.
    #[serde(default)]
    format: FormatConfig,
    /// The kinds of events: names, or patterns such as `tag.*`; all without it.
    #[serde(default)]
    events: Vec<String>,
    /// The repositories: patterns as in a policy, such as `team/**`; all without it.
    #[serde(default)]
    repositories: Vec<String>,
    /// The file of the secret that signs requests. A second line is a second secret, while one replaces the other.
    secret_file: Option<PathBuf>,
    /// Headers of each request.
    #[serde(default)]
    headers: BTreeMap<String, HiddenText>,
    /// How long a request may take.
    #[serde(default = "timeout")]
    timeout: TimeSpan,
    /// How long an event is tried before it is given up, and the next one is sent.
    #[serde(default = "give_up")]
    give_up: TimeSpan,
    /// Authorities that are trusted besides those of the system, PEM.
    ca: Option<PathBuf>,
}

/// A text that may have a secret, and is never shown.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct HiddenText(String);

impl fmt::Debug for HiddenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HiddenText(…)")
    }
}

/// How a webhook gets events.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum FormatConfig {
    #[default]
    CloudEvents,
    Docker,
}

fn timeout() -> TimeSpan {
    TimeSpan(Duration::from_secs(10))
}

/// A day: an outage of a night is none, and an event that is in the way does not stop a webhook for long.
fn give_up() -> TimeSpan {
    TimeSpan(Duration::from_secs(24 * 60 * 60))
}

impl WebhookConfig {
    /// Checks what needs no file.
    fn check(&self) -> Result<()> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(is_plain) {
            return Err(Error::invalid("`name` must be 1 to 64 letters, digits, `.`, `_` or `-`"));
        }
        if self.url.is_some() == self.url_file.is_some() {
            return Err(Error::invalid("it needs one of `url` and `url-file`"));
        }
        if self.timeout.0 < Duration::from_secs(1) || self.timeout.0 > Duration::from_secs(300) {
            return Err(Error::invalid("`timeout` must be from 1s to 5m"));
        }
        let longest = Duration::from_secs(30 * 24 * 60 * 60);
        if self.give_up.0 < Duration::from_secs(60) || self.give_up.0 > longest {
            return Err(Error::invalid("`give-up` must be from 1m to 720h"));
        }
        self.kinds()?;
        self.patterns().map(drop)
    }

    fn kinds(&self) -> Result<Vec<EventKind>> {
        let mut kinds = Vec::new();
        for text in &self.events {
            let pattern = TextPattern::new(text);
            let found: Vec<EventKind> =
                EventKind::ALL.into_iter().filter(|kind| pattern.matches(kind.name())).collect();
            if found.is_empty() {
                let names = EventKind::ALL.map(EventKind::name).join(", ");
                let text = text.escape_debug();
                return Err(Error::invalid(format!(
                    "`{text}` in `events` is no kind of event: there are {names}"
                )));
            }
            kinds.extend(found.into_iter().filter(|kind| !kinds.contains(kind)).collect::<Vec<_>>());
        }
        Ok(kinds)
    }

    fn patterns(&self) -> Result<Vec<RepositoryPattern>> {
        let read = |text: &String| {
            RepositoryPattern::parse(text).map_err(|e| {
                Error::invalid(format!("`{}` in `repositories`: {}", text.escape_debug(), e.message()))
            })
        };
        self.repositories.iter().map(read).collect()
    }

    /// Reads the files.
    fn webhook(&self) -> Result<Webhook> {
        let url = match (&self.url, &self.url_file) {
            (Some(HiddenText(url)), _) => Secret::from(url.as_str()),
            (None, Some(file)) => {
                let lines = lines(file, "the address of a webhook")?;
                let [url] = &lines[..] else {
                    return Err(Error::invalid("the file of an address must have one line")
                        .with_context("path", file.display()));
                };
                url.clone()
            }
            (None, None) => Secret::from(""),
        };
        let secrets = match &self.secret_file {
            Some(file) => secrets(file)?,
            None => Vec::new(),
        };
        let authorities = match &self.ca {
            Some(file) => vec![small_file::read(file, "the authorities of a webhook", MAX_CA, Kinds::Files)?],
            None => Vec::new(),
        };
        Ok(Webhook {
            name: self.name.clone(),
            url,
            format: match self.format {
                FormatConfig::CloudEvents => WebhookFormat::CloudEvents,
                FormatConfig::Docker => WebhookFormat::Docker,
            },
            events: self.kinds()?,
            repositories: self.patterns()?,
            secrets,
            headers: self
                .headers
                .iter()
                .map(|(name, text)| (name.clone(), Secret::from(text.0.as_str())))
                .collect(),
            timeout: self.timeout.0,
            give_up: self.give_up.0,
            authorities,
        })
    }
}

/// The lines of a file of secrets, without those that are empty.
fn lines(file: &Path, what: &'static str) -> Result<Vec<Secret>> {
    let text = small_file::read_text(file, what, MAX_FILE, Kinds::FilesAndPipes)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(Secret::from).collect())
}

fn secrets(file: &Path) -> Result<Vec<Secret>> {
    let secrets = lines(file, "the secret of a webhook")?;
    let bad = |why: &str| Err(Error::invalid(why).with_context("path", file.display()));
    if secrets.is_empty() || secrets.len() > MAX_SECRETS {
        return bad("the file of a secret must have one line, or two while one secret replaces the other");
    }
    for secret in &secrets {
        if let Some(encoded) = secret.expose().strip_prefix("whsec_")
            && base64::engine::general_purpose::STANDARD.decode(encoded).is_err()
        {
            return bad("a secret that begins with `whsec_` must have base64 after it");
        }
    }
    Ok(secrets)
}

/// Checks the tables, without their files.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Invalid`] that says which one is wrong.
pub(crate) fn check(webhooks: &[WebhookConfig]) -> Result<()> {
    let mut names = BTreeSet::new();
    for (number, webhook) in webhooks.iter().enumerate() {
        let at = |e: Error| {
            Error::invalid(format!("the configuration table `webhook` {}: {}", number + 1, e.message()))
        };
        webhook.check().map_err(at)?;
        if !names.insert(&webhook.name) {
            return Err(at(Error::invalid(format!("another one has the name `{}`", webhook.name))));
        }
    }
    match webhooks.is_empty() || cfg!(feature = "webhooks") {
        true => Ok(()),
        false => Err(Error::unsupported("the configuration table `webhook` needs the feature `webhooks`")),
    }
}

/// The webhooks of these tables, with what is in their files.
///
/// # Errors
/// Those of reading; [`hyper_sdk::ErrorKind::Invalid`] for a file that is not what it should be.
pub(crate) fn webhooks(webhooks: &[WebhookConfig]) -> Result<Vec<Webhook>> {
    webhooks.iter().map(|webhook| webhook.webhook().context("webhook", &webhook.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::io::Write as _;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn a_webhook_is_read_with_its_files_and_shows_no_secret() {
        let (secret, url) = (file("whsec_c2VjcmV0\nsecond\n"), file("http://127.0.0.1:1/token-in-path\n"));
        let text = format!(
            "[[webhook]]\nname = \"ci\"\nurl-file = {:?}\nformat = \"docker\"\nevents = [\"tag.*\", \"tag.moved\", \
             \"manifest.pushed\"]\nrepositories = [\"team/**\"]\nsecret-file = {:?}\ntimeout = \"3s\"\n\
             [webhook.headers]\nauthorization = \"Bearer hidden\"\n",
            url.path(),
            secret.path()
        );
        let config = Config::parse(&text).unwrap();
        config.check().unwrap();
        assert!(config.registry().events.is_some(), "a webhook needs events");
        let [webhook] = &webhooks(&config.webhook).unwrap()[..] else { panic!() };
        assert_eq!(webhook.events.len(), 4);
        assert_eq!(webhook.secrets.len(), 2);
        assert_eq!(webhook.url.expose(), "http://127.0.0.1:1/token-in-path");
        let shown = format!("{config:?} {webhook:?}");
        for hidden in ["hidden", "c2VjcmV0", "second\"", "token-in-path"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }

    #[test]
    fn a_mistake_in_a_webhook_is_an_error_that_says_where() {
        let ok = "name = \"a\"\nurl = \"http://x\"\n";
        for (webhook, parts) in [
            ("url = \"http://x\"".to_owned(), &["`name`"][..]),
            ("name = \"a\"".to_owned(), &["webhook` 1", "`url`"]),
            ("name = \"a b\"\nurl = \"http://x\"".to_owned(), &["webhook` 1", "`name`"]),
            (format!("{ok}events = [\"tag.renamed\"]"), &["`tag.renamed`", "tag.moved"]),
            (format!("{ok}repositories = [\"Team\"]"), &["`Team`", "`repositories`"]),
            (format!("{ok}timeout = \"10ms\""), &["`timeout`"]),
            (format!("{ok}give-up = \"30s\""), &["`give-up`", "1m"]),
            (format!("{ok}format = \"xml\""), &["xml", "cloudevents"]),
            (format!("{ok}[[webhook]]\n{ok}"), &["webhook` 2", "name `a`"]),
            (format!("{ok}secret = \"x\""), &["secret-file"]),
        ] {
            let e = Config::parse(&format!("[[webhook]]\n{webhook}\n")).and_then(|config| config.check());
            let e = e.unwrap_err().to_string();
            for part in parts {
                assert!(e.contains(part), "{webhook}: {e}");
            }
        }
        for (text, part) in [("", "one line"), ("1\n2\n3\n", "one line"), ("whsec_???", "base64")] {
            let e = secrets(file(text).path()).unwrap_err().to_string();
            assert!(e.contains(part), "{e}");
        }
    }
}
