//! The tables `[[webhook]]` of the configuration: who is told of events.

use crate::units::TimeSpan;
use crate::webhook::{self, Webhook, WebhookFormat};
use base64::Engine as _;
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::store::{EventKind, docker_action};
use hyper_sdk::{Error, RepositoryPattern, Result, ResultExt as _, Secret, TextPattern};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest file of secrets or of an address.
const MAX_FILE: u64 = 64 << 10;
/// The largest file of authorities.
const MAX_CA: u64 = 4 << 20;
/// The shortest key of a signature, in bytes.
const LEAST_SECRET: usize = 16;
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
    /// Checks what needs no file. `blobs` is whether events of blobs are recorded.
    fn check(&self, blobs: bool) -> Result<()> {
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
        self.kinds(blobs)?;
        self.patterns().map(drop)
    }

    /// The kinds that it gets. A pattern by which it would get none is an error.
    fn kinds(&self, blobs: bool) -> Result<Vec<EventKind>> {
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
            let text = text.escape_debug();
            let is_recorded = |kind: &EventKind| blobs || !is_of_blob(*kind);
            if !found.iter().any(is_recorded) {
                return Err(Error::invalid(format!(
                    "`{text}` in `events` is about blobs, whose events are not recorded: set `blobs = true` in `[events]`"
                )));
            }
            let has_word = |kind: &EventKind| is_recorded(kind) && docker_action(*kind).is_some();
            if matches!(self.format, FormatConfig::Docker) && !found.iter().any(has_word) {
                return Err(Error::invalid(format!(
                    "`{text}` in `events` is nothing that `format = \"docker\"` can say: it has a word for manifest.pushed, \
                     manifest.deleted, tag.deleted and blobs"
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
            events: self.kinds(true)?,
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
        if webhook::key(secret).len() < LEAST_SECRET {
            return bad("a secret must have at least 16 bytes: `openssl rand -base64 32` prints one");
        }
    }
    Ok(secrets)
}

fn is_of_blob(kind: EventKind) -> bool {
    matches!(kind, EventKind::BlobPushed | EventKind::BlobMounted | EventKind::BlobDeleted)
}

/// What is valid, and shows more to others than many mean.
pub(crate) fn warnings(webhooks: &[Webhook]) -> Vec<String> {
    let is_open = |webhook: &&Webhook| is_open_way(webhook.url.expose());
    let warning = |webhook: &Webhook| {
        let headers = if webhook.headers.is_empty() { "" } else { ", and its `headers`" };
        format!(
            "the webhook `{}` gets events over plain HTTP: whoever is on the way reads the names of users and the addresses of \
             clients in them{headers}",
            webhook.name
        )
    };
    webhooks.iter().filter(is_open).map(warning).collect()
}

/// Whether requests to an address go over plain HTTP, and not only on this machine.
pub(crate) fn is_open_way(url: &str) -> bool {
    let url: Option<http::Uri> = url.parse().ok();
    url.is_some_and(|url| {
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_here = host == "localhost"
            || host.ends_with(".localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
        url.scheme_str() == Some("http") && !is_here
    })
}

/// Checks the tables, without their files.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Invalid`] that says which one is wrong.
pub(crate) fn check(webhooks: &[WebhookConfig], blobs: bool) -> Result<()> {
    let mut names = BTreeSet::new();
    for (number, webhook) in webhooks.iter().enumerate() {
        let at = |e: Error| {
            Error::invalid(format!("the configuration table `webhook` {}: {}", number + 1, e.message()))
        };
        webhook.check(blobs).map_err(at)?;
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
        let (secret, url) = (
            file("whsec_MDEyMzQ1Njc4OWFiY2RlZg==\nthe second secret\n"),
            file("http://127.0.0.1:1/token-in-path\n"),
        );
        let text = format!(
            "[[webhook]]\nname = \"ci\"\nurl-file = {:?}\nformat = \"docker\"\nevents = [\"tag.*\", \"manifest.*\", \
             \"manifest.pushed\"]\nrepositories = [\"team/**\"]\nsecret-file = {:?}\ntimeout = \"3s\"\n\
             [webhook.headers]\nauthorization = \"Bearer hidden\"\n",
            url.path(),
            secret.path()
        );
        let config = Config::parse(&text).unwrap();
        config.check().unwrap();
        assert!(config.registry().events.is_some(), "a webhook needs events");
        let [webhook] = &webhooks(&config.webhook).unwrap()[..] else { panic!() };
        assert_eq!(webhook.events.len(), 5);
        assert_eq!(webhook.secrets.len(), 2);
        assert_eq!(webhook.url.expose(), "http://127.0.0.1:1/token-in-path");
        let shown = format!("{config:?} {webhook:?}");
        for hidden in ["hidden", "MDEyMzQ1", "second", "token-in-path"] {
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
            (
                format!("{ok}format = \"docker\"\nevents = [\"tag.moved\"]"),
                &["`tag.moved`", "docker", "manifest.pushed"],
            ),
            (format!("{ok}events = [\"blob.*\"]"), &["`blob.*`", "`blobs = true`"]),
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
        for (text, part) in [
            ("", "one line"),
            ("1\n2\n3\n", "one line"),
            ("whsec_???", "base64"),
            ("whsec_", "16 bytes"),
            ("whsec_MDEyMzQ1Njc4OWFiY2Rl", "16 bytes"),
            ("0123456789abcde", "16 bytes"),
        ] {
            let e = secrets(file(text).path()).unwrap_err().to_string();
            assert!(e.contains(part), "{e}");
        }
    }

    #[test]
    fn plain_http_to_another_machine_is_warned_of() {
        let warnings_of = |rest: &str| {
            let text = format!("[[webhook]]\nname = \"a\"\n{rest}\n");
            warnings(&webhooks(&Config::parse(&text).unwrap().webhook).unwrap())
        };
        for url in [
            "https://x",
            "http://127.0.0.1:1/x",
            "http://[::1]/",
            "http://localhost",
            "http://a.localhost:80",
        ] {
            assert!(warnings_of(&format!("url = {url:?}")).is_empty(), "{url}");
        }
        let [one] = &warnings_of("url = \"http://ci.example.com/secret\"")[..] else { panic!() };
        assert!(one.contains("`a`") && !one.contains("secret") && !one.contains("headers"), "{one}");
        let two = warnings_of("url = \"http://10.0.0.1\"\nheaders = { authorization = \"x\" }");
        assert!(two[0].contains("`headers`"), "{two:?}");
        let file = file("http://10.0.0.1/x\n");
        assert_eq!(warnings_of(&format!("url-file = {:?}", file.path())).len(), 1);
    }
}
