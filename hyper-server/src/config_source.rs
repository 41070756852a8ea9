//! Reads the configuration: from a TOML file, with the variables of the environment over it.
//!
//! An unknown key is an error that names the key and its line; an unknown variable one that names the variable.

use crate::config::Config;
use crate::config_schema;
use crate::environment::Environment;
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::{Error, Result, ResultExt as _};
use std::path::Path;

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

impl Config {
    /// Reads a file, or the defaults, with the environment of the process over it. The values are not checked against each
    /// other yet: flags may come.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::NotFound`] or [`hyper_sdk::ErrorKind::Io`] when the file cannot be read;
    /// [`hyper_sdk::ErrorKind::Invalid`] with the line and the key, or the variable, that is wrong.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self> {
        Self::load_from(path, Kinds::FilesAndPipes)
    }

    /// Reads a file while the server runs: a pipe could keep it waiting, and has been read to its end already.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub(crate) fn load_again(path: &Path) -> Result<Self> {
        Self::load_from(Some(path), Kinds::Files)
    }

    /// Reads the file alone, or takes the defaults: for commands with two configurations, both of which a variable would change.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub(crate) fn load_alone(path: Option<&Path>) -> Result<Self> {
        Self::load_with(&Environment::default(), path, Kinds::FilesAndPipes)
    }

    fn load_from(path: Option<&Path>, kinds: Kinds) -> Result<Self> {
        Self::load_with(&Environment::of_process()?, path, kinds)
    }

    fn load_with(environment: &Environment, path: Option<&Path>, kinds: Kinds) -> Result<Self> {
        let Some(path) = path else { return environment.over("") };
        let text = small_file::read_text(path, "the configuration", MAX_FILE, kinds)?;
        // Alone first: of a file the line is known, and a mistake in it is not one of the environment.
        Self::read(&text).context("path", path.display())?;
        environment.over(&text)
    }

    /// Reads the text of a file. The values are not checked against each other.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] with the line and the key that is wrong.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let config = toml::from_str(text).map_err(|e: toml::de::Error| {
            let line = e.span().map_or(1, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            let what = e.message().trim().replace('\n', " ");
            match text.lines().nth(line - 1).and_then(|line| line.split_once('=')) {
                Some((key, _)) if !what.contains(&format!("`{}`", key.trim())) => Error::invalid(format!(
                    "configuration line {line}: `{}`: {what}",
                    key.trim().escape_debug()
                )),
                _ => Error::invalid(format!("configuration line {line}: {what}")),
            }
        })?;
        match toml::from_str(text).ok().and_then(|file| config_schema::misused_table(&file)) {
            Some(name) => {
                Err(Error::invalid(format!("the configuration key `{name}` is a table: write [{name}]")))
            }
            None => Ok(config),
        }
    }

    /// Reads and checks the text of a file.
    #[cfg(test)]
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let config = Self::read(text)?;
        config.check()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_configuration_error_names_the_line_and_the_key() {
        for (text, parts) in [
            ("listen = \"x\"", vec!["line 1", "`listen`", "HOST:PORT"]),
            ("read-only = \"x\"", vec!["line 1", "`read-only`"]),
            ("data = \"\"", vec!["`data`", "folder"]),
            ("trusted-proxies = [\"proxy\"]", vec!["trusted-proxies", "`proxy`", "10.0.0.0/8"]),
            ("public-url = \"registry.example.com\"", vec!["public-url", "https://"]),
            ("public-url = \"https://a/b\"", vec!["public-url", "path"]),
            ("listen = []", vec!["`listen`"]),
            ("socket-mode = \"888\"", vec!["line 1", "0660"]),
            ("listen = \"https://:1\"", vec!["https://:1", "--tls-cert"]),
            ("[tls]\nkey = \"x\"", vec!["tls.certificate"]),
            ("[tls]\ncertificate = \"x\"", vec!["tls.key"]),
            ("[tls]\nclient-ca = \"x\"", vec!["client certificates need TLS"]),
            ("[tls]\nclient-auth = \"maybe\"", vec!["line 2", "required or optional"]),
            ("[tls]\nclient-name = \"o\"", vec!["line 2", "cn, dns, email or uri"]),
            (
                "listen = \"http://:1\"\n[tls]\ncertificate = \"x\"\nkey = \"y\"",
                vec!["no listener speaks TLS"],
            ),
            ("[metrics]\nusers-only = true", vec!["metrics.users-only", "auth.htpasswd"]),
            ("read-only = false\nlisten-on = \"127.0.0.1:1\"", vec!["line 2", "listen-on"]),
            ("[auth]\nhtpaswd = \"x\"", vec!["line 2", "htpaswd"]),
            ("[auth]\n\nanonymous = \"some\"", vec!["line 3", "none, pull or full"]),
            ("[limits]\nmanifest = \"4 parsecs\"", vec!["line 2", "invalid size"]),
            ("[limits]\nheader-timeout = \"5\"", vec!["line 2", "invalid duration"]),
            ("[limits.address]\nreads = \"fast\"", vec!["line 2", "`reads`", "50/s burst 200"]),
            ("[limits.user]\nuploads-at-once = 0", vec!["line 2", "uploads-at-once"]),
            ("[limits.user]\nbytes = 0", vec!["line 2", "bytes"]),
            ("[limits.user]\ndownload = \"50\"", vec!["line 2", "50MiB/s"]),
            ("[limits.user]\nupload = \"1KiB/s\"", vec!["line 2", "`upload`", "at least 16KiB/s"]),
            ("[limits]\nconnections = 0", vec!["limits.connections", "must not be 0"]),
            ("[scrub]\nrate = 1", vec!["scrub.rate", "64KiB"]),
            ("[log]\nformat = \"xml\"", vec!["line 2", "text or json"]),
            (
                "[database]\nurl = \"postgres://ada:s3cret@db:x/a\"",
                vec!["database.url", "postgres://USER@HOST"],
            ),
            ("[database]\nurl = \"postgres://db/a?pool=1\"", vec!["database.url", "`pool`"]),
            ("[database]\npassword-file = \"a\"", vec!["database.password-file", "database.url"]),
            ("[database]\nconnections = 2", vec!["database.connections", "at least 3"]),
            ("[nonsense]", vec!["line 1", "nonsense"]),
            ("limits = []", vec!["`limits`", "write [limits]"]),
            ("[limits]\nuser = []", vec!["`limits.user`", "[limits.user]"]),
            ("cors = [[\"*\"]]", vec!["`cors`", "table"]),
            ("[cors]\norigins = [\"ui\"]", vec!["cors.origins", "browsers"]),
            ("a = ", vec!["line 1"]),
        ] {
            let e = Config::parse(text).unwrap_err().to_string();
            assert!(!e.contains("s3cret"), "{e}");
            for part in parts {
                assert!(e.contains(part), "{text}: {e}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text: String) {
            let _ = Config::parse(&text);
        }
    }
}
