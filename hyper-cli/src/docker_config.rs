//! Writes credentials where Docker keeps them: `config.json`, or the credential helper that it names.
//!
//! ```json
//! {"auths": {"registry.example": {"auth": "base64 of user:password"}},
//!  "credsStore": "NAME", "credHelpers": {"registry.example": "NAME"}}
//! ```
//! Every other field of the file survives. The file is replaced whole, readable by its owner alone. Docker Hub is
//! `https://index.docker.io/v1/` there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_sdk::reference::RegistryHost;
use hyper_sdk::{Error, ErrorKind, Result};
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// A `config.json`.
#[derive(Debug)]
pub(crate) struct DockerConfig {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl DockerConfig {
    /// Reads the file of a folder; one that does not exist is empty.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is no JSON object, so that it is never overwritten by accident.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let fields = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Error::invalid("the file of credentials is not a JSON object")
                    .with_context("path", path.display())
                    .with_source(e)
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Map::new(),
            Err(e) => return Err(Error::io("cannot read the file of credentials", &path, e)),
        };
        Ok(Self { path, fields })
    }

    /// Keeps a user and a password for a host, and says where.
    pub(crate) fn store(&mut self, host: &RegistryHost, user: &str, password: &str) -> Result<String> {
        let key = key(host);
        if let Some(helper) = self.helper(&key) {
            let input = json!({"ServerURL": key, "Username": user, "Secret": password});
            run_helper(&helper, "store", &input.to_string())?;
            return Ok(format!("docker-credential-{helper}"));
        }
        let auth = STANDARD.encode(format!("{user}:{password}"));
        self.auths()?.insert(key, json!({ "auth": auth }));
        self.write()?;
        Ok(self.path.display().to_string())
    }

    /// Forgets what is kept for a host, and says whether there was anything.
    pub(crate) fn erase(&mut self, host: &RegistryHost) -> Result<bool> {
        let key = key(host);
        let mut found = false;
        if let Some(helper) = self.helper(&key) {
            run_helper(&helper, "erase", &key)?;
            found = true;
        }
        if self.fields.contains_key("auths") && self.auths()?.remove(&key).is_some() {
            self.write()?;
            found = true;
        }
        Ok(found)
    }

    fn helper(&self, key: &str) -> Option<String> {
        let own = self.fields.get("credHelpers").and_then(|h| h.get(key));
        let name = own.or_else(|| self.fields.get("credsStore"))?.as_str()?;
        (!name.is_empty()).then(|| name.to_owned())
    }

    fn auths(&mut self) -> Result<&mut Map<String, Value>> {
        let path = self.path.display().to_string();
        self.fields.entry("auths").or_insert_with(|| json!({})).as_object_mut().ok_or_else(|| {
            Error::invalid("`auths` in the file of credentials is not an object").with_context("path", path)
        })
    }

    fn write(&self) -> Result<()> {
        let failed = |e: std::io::Error| Error::io("cannot write the file of credentials", &self.path, e);
        // A link, as dotfile managers make it, stays one.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        let mut text = serde_json::to_vec_pretty(&self.fields)
            .map_err(|e| Error::internal("the credentials cannot be written as JSON").with_source(e))?;
        text.push(b'\n');
        file.write_all(&text).map_err(failed)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|e| failed(e.error))?;
        Ok(())
    }
}

fn key(host: &RegistryHost) -> String {
    if host.as_str() == hyper_sdk::reference::DEFAULT_HOST { DOCKER_HUB.to_owned() } else { host.to_string() }
}

/// Runs `docker-credential-NAME ACTION` with text on its standard input. What it says is told, what it got is not.
fn run_helper(name: &str, action: &str, input: &str) -> Result<()> {
    let program = format!("docker-credential-{name}");
    let failed = |e: std::io::Error| {
        Error::io("cannot run the credential helper", &program, e).with_context("action", action)
    };
    let mut child = Command::new(&program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&output.stdout).trim().chars().take(200).collect();
    Err(Error::new(ErrorKind::CommandFailed, format!("the credential helper failed: {said}"))
        .with_context("program", program)
        .with_context("action", action))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> RegistryHost {
        RegistryHost::parse(text).unwrap()
    }

    #[test]
    fn credentials_come_and_go_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, r#"{"proxies": {"a": 1}}"#).unwrap();
        let mut config = DockerConfig::open(folder.path()).unwrap();
        config.store(&host("r.example:5000"), "me", "secret").unwrap();
        config.store(&host("docker.io"), "me", "hub").unwrap();
        let text: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(text["proxies"]["a"], 1);
        assert_eq!(text["auths"]["r.example:5000"]["auth"], STANDARD.encode("me:secret"));
        assert_eq!(text["auths"][DOCKER_HUB]["auth"], STANDARD.encode("me:hub"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut config = DockerConfig::open(folder.path()).unwrap();
        assert!(config.erase(&host("docker.io")).unwrap());
        assert!(!config.erase(&host("docker.io")).unwrap());
    }

    #[test]
    fn a_damaged_file_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), "[]").unwrap();
        assert_eq!(DockerConfig::open(folder.path()).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
