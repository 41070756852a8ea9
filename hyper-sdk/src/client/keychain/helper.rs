//! Credential helpers: programs `docker-credential-NAME` with the verbs `get`, `store`, `erase` and `list`.
//!
//! The protocol is Docker's: the verb is the only argument, the input is a server's URL or JSON, the output is JSON. No
//! shell is involved, the program is looked for in given folders only, its output is capped and its time is limited.

use super::{Credentials, Secret};
use crate::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MAX_OUTPUT: u64 = 1024 * 1024;
const MAX_MESSAGE: usize = 300;
/// How many bytes of a helper's standard error are kept.
const MAX_STDERR: usize = 4096;
/// How long standard error may stay open after the helper has ended, because another process holds it.
const STDERR_GRACE: Duration = Duration::from_millis(300);
/// The user name of a secret that is a refresh token.
const TOKEN_USER: &str = "<token>";

/// A credential helper: a program that stores credentials.
#[derive(Clone, Debug)]
pub struct CredentialHelper {
    name: String,
    search: Vec<PathBuf>,
    timeout: Duration,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "ServerURL", default)]
    server: String,
    username: String,
    secret: String,
}

impl CredentialHelper {
    /// The helper `docker-credential-NAME`, looked for in `search` in order, which may take `timeout` for each call.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the name is not a plain file name.
    pub fn new(name: &str, search: impl IntoIterator<Item = PathBuf>, timeout: Duration) -> Result<Self> {
        let plain =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !plain {
            return Err(Error::invalid(
                "the name of a credential helper is letters, digits, `.`, `_` and `-`",
            )
            .with_context("helper", name.escape_debug()));
        }
        Ok(Self { name: name.to_owned(), search: search.into_iter().collect(), timeout })
    }

    /// The credentials for a server; [`Credentials::Anonymous`] when the helper has none.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such program, [`ErrorKind::Timeout`],
    /// [`ErrorKind::CommandFailed`] when it fails for another reason than having none, [`ErrorKind::Invalid`] when its
    /// output is not what the protocol says.
    pub async fn get(&self, server: &str) -> Result<Credentials> {
        let output = match self.run("get", server.as_bytes()).await? {
            Ok(output) => output,
            Err(message) if message.contains("not found") => return Ok(Credentials::Anonymous),
            Err(message) => return Err(self.failed("get", &message)),
        };
        // The parser's message could quote the secret: it is left out.
        let entry: Entry = serde_json::from_slice(&output).map_err(|_| self.malformed("get"))?;
        Ok(if entry.username == TOKEN_USER {
            Credentials::IdentityToken(entry.secret.into())
        } else if entry.username.is_empty() && entry.secret.is_empty() {
            Credentials::Anonymous
        } else {
            Credentials::Basic { username: entry.username, password: entry.secret.into() }
        })
    }

    /// Stores credentials for a server.
    ///
    /// # Errors
    /// As [`CredentialHelper::get`], and [`ErrorKind::Unsupported`] for credentials without a name or refresh token.
    pub async fn store(&self, server: &str, credentials: &Credentials) -> Result<()> {
        let (username, secret): (&str, &Secret) = match credentials {
            Credentials::Basic { username, password } => (username, password),
            Credentials::IdentityToken(token) => (TOKEN_USER, token),
            _ => {
                return Err(Error::unsupported(
                    "a credential helper stores only passwords and refresh tokens",
                ));
            }
        };
        let entry = Entry {
            server: server.to_owned(),
            username: username.to_owned(),
            secret: secret.expose().to_owned(),
        };
        let input = serde_json::to_vec(&entry)
            .map_err(|_| Error::internal("the credentials cannot be written as JSON"))?;
        let stored = self.run("store", &input).await?.map(|_| ());
        stored.map_err(|message| self.failed("store", &without_secret(message, secret)))
    }

    /// Removes the credentials for a server. That there are none is not an error.
    ///
    /// # Errors
    /// As [`CredentialHelper::get`].
    pub async fn erase(&self, server: &str) -> Result<()> {
        match self.run("erase", server.as_bytes()).await? {
            Err(message) if !message.contains("not found") => Err(self.failed("erase", &message)),
            _ => Ok(()),
        }
    }

    /// The servers that the helper has credentials for, with their user names.
    ///
    /// # Errors
    /// As [`CredentialHelper::get`].
    pub async fn list(&self) -> Result<BTreeMap<String, String>> {
        let output = self.run("list", b"").await?.map_err(|c| self.failed("list", &c))?;
        serde_json::from_slice(&output).map_err(|_| self.malformed("list"))
    }

    /// Runs the program; the inner error is its message when it failed.
    fn run<'a>(
        &'a self,
        verb: &'a str,
        input: &'a [u8],
    ) -> BoxFuture<'a, Result<std::result::Result<Vec<u8>, String>>> {
        // Boxed: programs that call this do not compile it again.
        Box::pin(async move {
            let file = format!("docker-credential-{}", self.name);
            let program = self.search.iter().map(|folder| folder.join(&file)).find(|p| p.is_file());
            let program = program.ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "the credential helper is not installed")
                    .with_context("program", &file)
            })?;
            let io = |e: std::io::Error| Error::io("cannot run the credential helper", &program, e);
            let mut child = tokio::process::Command::new(&program)
                .arg(verb)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .map_err(io)?;
            let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
            let stderr = child.stderr.take().map(StderrReader::read);
            let talk = async {
                let write = async {
                    if let Some(mut stdin) = stdin {
                        // A helper may answer without reading its input.
                        let _ = stdin.write_all(input).await;
                        let _ = stdin.shutdown().await;
                    }
                };
                let read = async {
                    let mut output = Vec::new();
                    if let Some(stdout) = stdout {
                        stdout.take(MAX_OUTPUT + 1).read_to_end(&mut output).await?;
                    }
                    Ok::<_, std::io::Error>(output)
                };
                let ((), output) = tokio::join!(write, read);
                let output = output?;
                if output.len() as u64 > MAX_OUTPUT {
                    return Ok(None);
                }
                Ok::<_, std::io::Error>(Some((child.wait().await?, output)))
            };
            let ended = tokio::time::timeout(self.timeout, talk).await.map_err(|_| {
                Error::new(ErrorKind::Timeout, "the credential helper does not end in time")
                    .with_context("helper", &self.name)
            })?;
            let (status, output) = ended.map_err(io)?.ok_or_else(|| {
                Error::new(ErrorKind::TooLarge, "the output of the credential helper is too large")
                    .with_context("helper", &self.name)
            })?;
            if status.success() {
                return Ok(Ok(output));
            }
            // A failing helper writes the reason to standard output, and many write it to standard error.
            let stderr = match stderr {
                Some(stderr) => stderr.text().await,
                None => Vec::new(),
            };
            let messages = [one_line(&output), one_line(&stderr)];
            Ok(Err(messages
                .iter()
                .filter(|s| !s.is_empty())
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join("; ")))
        })
    }

    fn failed(&self, verb: &'static str, message: &str) -> Error {
        let why = if message.is_empty() { "it gives no reason" } else { message };
        Error::new(ErrorKind::CommandFailed, format!("the credential helper failed: {why}"))
            .with_context("helper", &self.name)
            .with_context("verb", verb)
    }

    fn malformed(&self, verb: &'static str) -> Error {
        Error::invalid("the credential helper's output is not the JSON of its protocol")
            .with_context("helper", &self.name)
            .with_context("verb", verb)
    }
}

/// The message of a helper without the secret that it got: a helper may repeat its input, also as JSON and in part.
fn without_secret(message: String, secret: &Secret) -> String {
    /// The longest part of a secret that may be shown.
    const SHORT: usize = 5;
    let plain = secret.expose();
    let json = serde_json::to_string(plain).unwrap_or_default();
    let forms = [json.trim_matches('"'), plain];
    let shown = forms.iter().fold(message, |shown, form| shown.replace(form, "…"));
    let holds_part = forms.iter().any(|form| {
        let form = form.as_bytes();
        let part = (SHORT + 1).min(form.len());
        part > 0 && form.windows(part).any(|part| shown.as_bytes().windows(part.len()).any(|w| w == part))
    });
    if holds_part { "its message has a part of the secret and is not shown".to_owned() } else { shown }
}

/// The beginning of a text in one line.
fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.trim().chars().take(MAX_MESSAGE).map(|c| if c.is_control() { ' ' } else { c });
    line.collect::<String>().trim().to_owned()
}

/// Reads the standard error of a helper to its end, so that the helper never waits, and keeps a part of it.
struct StderrReader {
    kept: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl StderrReader {
    fn read(mut stderr: tokio::process::ChildStderr) -> Self {
        let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
        let sink = kept.clone();
        let task = tokio::spawn(async move {
            let mut chunk = [0; 1024];
            while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
                let mut kept = sink.lock().unwrap_or_else(PoisonError::into_inner);
                let left = MAX_STDERR.saturating_sub(kept.len());
                kept.extend_from_slice(&chunk[..count.min(left)]);
            }
        });
        Self { kept, task }
    }

    async fn text(mut self) -> Vec<u8> {
        let _ = tokio::time::timeout(STDERR_GRACE, &mut self.task).await;
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for StderrReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn helper(folder: &Path, script: &str) -> CredentialHelper {
        let script = format!("#!/bin/sh\n{script}\n");
        crate::testing::write_program(&folder.join("docker-credential-test"), &script).unwrap();
        CredentialHelper::new("test", [folder.to_owned()], Duration::from_secs(10)).unwrap()
    }

    #[tokio::test]
    async fn a_helper_stores_gets_and_erases() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kept");
        let script = format!(
            r#"case $1 in store) cat > {0};; erase) rm {0};; list) echo '{{"r.example":"joe"}}';;
               get) cat {0} 2>/dev/null || {{ echo 'credentials not found in native keychain'; exit 1; }};; esac"#,
            kept.display()
        );
        let helper = helper(folder.path(), &script);
        assert_eq!(helper.get("r.example").await.unwrap(), Credentials::Anonymous);
        let joe = Credentials::basic("joe", "pass \"word\"");
        helper.store("r.example", &joe).await.unwrap();
        assert_eq!(helper.get("r.example").await.unwrap(), joe);
        assert_eq!(helper.list().await.unwrap()["r.example"], "joe");
        let token = Credentials::IdentityToken("refresh".into());
        helper.store("r.example", &token).await.unwrap();
        assert_eq!(helper.get("r.example").await.unwrap(), token);
        helper.erase("r.example").await.unwrap();
        assert_eq!(helper.get("r.example").await.unwrap(), Credentials::Anonymous);
    }

    #[tokio::test]
    async fn errors_of_a_helper_show_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let kind = async |script: &str| helper(folder.path(), script).get("x").await.unwrap_err();
        assert_eq!(kind("echo locked; exit 1").await.kind(), ErrorKind::CommandFailed);
        let told = kind("echo the vault is shut >&2; echo >&2; echo locked; exit 1").await.to_string();
        assert!(told.contains("failed: locked; the vault is shut (helper: test"), "{told}");
        let told = kind("head -c 100000 /dev/zero | tr '\\0' h >&2; { yes >&2; } >/dev/null & exit 1")
            .await
            .to_string();
        assert!(told.len() < 600 && told.contains("hhh"), "{told}");
        assert!(kind("exit 3").await.to_string().contains("gives no reason"));
        let secret = Credentials::basic("joe", "hunter2");
        let told = helper(folder.path(), "cat >&2; exit 1").store("r.example", &secret).await.unwrap_err();
        assert!(told.to_string().contains("joe") && !format!("{told:?}").contains("hunter2"), "{told}");
        // As JSON, longer than what is told of a complaint, and in pieces.
        let odd = format!("p\"w-{}\\secret", "0123456789".repeat(60));
        for (script, password) in [
            ("cat >&2; exit 1", odd.as_str()),
            ("cat >&2; exit 1", "p\"w-secret"),
            ("head -c 100 >&2; exit 1", &odd),
            ("cat >/dev/null; echo 'cannot keep 345678901'; exit 1", &odd),
        ] {
            let secret = Credentials::basic("joe", password);
            let told = helper(folder.path(), script).store("r.example", &secret).await.unwrap_err();
            for part in ["345678", "w-secret"] {
                assert!(!format!("{told} {told:?}").contains(part), "{script}: {told}");
            }
        }
        let garbled = kind("echo hunter2").await;
        assert_eq!(garbled.kind(), ErrorKind::Invalid);
        assert!(!format!("{garbled:?}").contains("hunter2"));
        assert_eq!(kind("exec cat /dev/zero").await.kind(), ErrorKind::TooLarge);
        let mut slow = helper(folder.path(), "exec sleep 100");
        slow.timeout = Duration::from_millis(100);
        assert_eq!(slow.get("x").await.unwrap_err().kind(), ErrorKind::Timeout);
        assert!(CredentialHelper::new("../evil", [], Duration::ZERO).is_err());
        let missing = CredentialHelper::new("none", [folder.path().to_owned()], Duration::ZERO).unwrap();
        assert_eq!(missing.get("x").await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
