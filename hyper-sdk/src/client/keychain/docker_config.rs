//! The credentials file of Docker (`config.json`) and of Podman (`auth.json`).
//!
//! ```json
//! { "auths":       { "KEY": { "auth": "BASE64(user:password)", "identitytoken": "…", "registrytoken": "…" } },
//!   "credHelpers": { "HOST": "NAME" },
//!   "credsStore":  "NAME" }
//! ```
//!
//! A key is a host, with Podman also `HOST/namespace[/…]`, with old Dockers a URL such as
//! `https://index.docker.io/v1/`. The order of the search: a namespace of the repository, longest first; the helper of the
//! host; the store of all hosts; the host. The file is written whole, by rename, readable by its owner only, and keeps
//! every unknown field.

use super::{CredentialHelper, Credentials, Keychain};
use crate::reference::{DEFAULT_HOST, RegistryHost, RepositoryName};
use crate::small_file::{self, Kinds};
use crate::stale_files;
use crate::{Error, ErrorKind, Result};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MAX_FILE: u64 = 16 * 1024 * 1024;
/// The key of Docker Hub in credentials.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// A keychain in a file of Docker's or Podman's format, which need not exist.
///
/// ```
/// use hyper_sdk::client::keychain::{Credentials, DockerConfig, Keychain as _};
/// use hyper_sdk::reference::RegistryHost;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// # let folder = tempfile::tempdir()?;
/// # let home = folder.path();
/// let keychain = DockerConfig::new(home.join(".docker/config.json"));
/// let host = RegistryHost::parse("registry.example.com")?;
/// assert_eq!(keychain.get(&host, None).await?, Credentials::Anonymous);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DockerConfig {
    path: PathBuf,
    helper_folders: Vec<PathBuf>,
    helper_timeout: Duration,
}

impl DockerConfig {
    /// The keychain in the file `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), helper_folders: Vec::new(), helper_timeout: Duration::from_secs(30) }
    }

    /// Looks for credential helpers in these folders, in order. Without folders, a helper in the file is an error.
    #[must_use]
    pub fn helper_folders(mut self, folders: impl IntoIterator<Item = PathBuf>) -> Self {
        self.helper_folders = folders.into_iter().collect();
        self
    }

    /// How long a credential helper may take. The default is 30 s.
    #[must_use]
    pub fn helper_timeout(mut self, timeout: Duration) -> Self {
        self.helper_timeout = timeout;
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stores credentials for a host, or for a namespace or repository of it: with the helper that the file names, or else
    /// in the file.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file cannot be written, [`ErrorKind::Invalid`] when it is damaged, and the errors of
    /// the helper.
    pub async fn store(
        &self,
        host: &RegistryHost,
        namespace: Option<&RepositoryName>,
        credentials: &Credentials,
    ) -> Result<()> {
        let file = self.read().await?;
        if namespace.is_none()
            && let Some(helper) = self.helper_of(&file, host)?
        {
            return helper.store(&server_name(host), credentials).await;
        }
        let mut entry = Map::new();
        match credentials {
            Credentials::Basic { username, password } => {
                if username.contains(':') {
                    return Err(Error::invalid("a user name with a colon cannot be stored"));
                }
                let auth = STANDARD.encode(format!("{username}:{}", password.expose()));
                entry.insert("auth".to_owned(), auth.into());
            }
            Credentials::IdentityToken(token) => {
                entry.insert("auth".to_owned(), STANDARD.encode("<token>:").into());
                entry.insert("identitytoken".to_owned(), token.expose().into());
            }
            Credentials::Bearer(token) => {
                entry.insert("registrytoken".to_owned(), token.expose().into());
            }
            Credentials::Anonymous => return self.erase(host, namespace).await.map(|_| ()),
        }
        let keys = keys_to_write(host, namespace);
        self.change(move |file| {
            let auths = object(file, "auths")?;
            // A key in another spelling would count, too.
            for key in &keys {
                auths.remove(key);
            }
            let key = keys.into_iter().next().unwrap_or_default();
            auths.insert(key, Value::Object(entry));
            Ok(true)
        })
        .await
        .map(|_| ())
    }

    /// Removes the credentials for a host or a namespace of it, from the helper and from the file. Returns whether the file
    /// had any, or a helper was asked.
    ///
    /// # Errors
    /// As [`DockerConfig::store`].
    pub async fn erase(&self, host: &RegistryHost, namespace: Option<&RepositoryName>) -> Result<bool> {
        let file = self.read().await?;
        let mut asked = false;
        if namespace.is_none()
            && let Some(helper) = self.helper_of(&file, host)?
        {
            helper.erase(&server_name(host)).await?;
            asked = true;
        }
        let keys = keys_to_write(host, namespace);
        let removed = self
            .change(move |file| {
                let Some(auths) = file.get_mut("auths").and_then(Value::as_object_mut) else {
                    return Ok(false);
                };
                let before = auths.len();
                auths.retain(|key, _| !keys.contains(key));
                Ok(auths.len() != before)
            })
            .await?;
        Ok(asked || removed)
    }

    /// The entries of the file and its `credsStore`, by key, with the user name where it is known.
    ///
    /// # Errors
    /// As [`DockerConfig::store`].
    pub async fn list(&self) -> Result<BTreeMap<String, Option<String>>> {
        let file = self.read().await?;
        let mut all = BTreeMap::new();
        if let Some(auths) = file.get("auths").and_then(Value::as_object) {
            for (key, entry) in auths {
                // Docker leaves an empty entry for credentials in its store.
                let user = match entry_credentials(key, entry)? {
                    Credentials::Basic { username, .. } => Some(username),
                    _ => None,
                };
                all.insert(key.clone(), user);
            }
        }
        if let Some(name) = file.get("credsStore").and_then(Value::as_str).filter(|n| !n.is_empty()) {
            for (server, user) in self.helper(name)?.list().await? {
                all.insert(server, Some(user));
            }
        }
        Ok(all)
    }

    fn helper(&self, name: &str) -> Result<CredentialHelper> {
        CredentialHelper::new(name, self.helper_folders.clone(), self.helper_timeout)
    }

    fn helper_of(&self, file: &Map<String, Value>, host: &RegistryHost) -> Result<Option<CredentialHelper>> {
        let helpers = file.get("credHelpers").and_then(Value::as_object);
        let own = helpers.and_then(|h| host_keys(host).iter().find_map(|k| h.get(k)?.as_str()));
        let name = own.or_else(|| file.get("credsStore")?.as_str()).filter(|n| !n.is_empty());
        name.map(|name| self.helper(name)).transpose()
    }

    async fn read(&self) -> Result<Map<String, Value>> {
        let path = self.path.clone();
        blocking(move || read_file(&path)).await
    }

    /// Writes the file if `change` returns that it changed something.
    async fn change(
        &self,
        change: impl FnOnce(&mut Map<String, Value>) -> Result<bool> + Send + 'static,
    ) -> Result<bool> {
        let path = self.path.clone();
        blocking(move || {
            // A link is followed, not replaced.
            let path = std::fs::canonicalize(&path).unwrap_or(path);
            let mut file = read_file(&path)?;
            if !change(&mut file)? {
                return Ok(false);
            }
            write_file(&path, &file)?;
            Ok(true)
        })
        .await
    }
}

#[async_trait]
impl Keychain for DockerConfig {
    async fn get(&self, host: &RegistryHost, repository: Option<&RepositoryName>) -> Result<Credentials> {
        let file = self.read().await?;
        let empty = Map::new();
        let auths = file.get("auths").and_then(Value::as_object).unwrap_or(&empty);
        for key in namespace_keys(host, repository) {
            if let Some(entry) = auths.get(&key) {
                let found = entry_credentials(&key, entry)?;
                if found != Credentials::Anonymous {
                    return Ok(found);
                }
            }
        }
        if let Some(helper) = self.helper_of(&file, host)? {
            let found = helper.get(&server_name(host)).await?;
            if found != Credentials::Anonymous {
                return Ok(found);
            }
        }
        let exact = host_keys(host).into_iter().find_map(|key| auths.get_key_value(&key));
        let found = exact.or_else(|| auths.iter().find(|(key, _)| is_url_of(key, host)));
        found.map_or(Ok(Credentials::Anonymous), |(key, entry)| entry_credentials(key, entry))
    }
}

/// The name of a host for a helper.
fn server_name(host: &RegistryHost) -> String {
    if host.as_str() == DEFAULT_HOST { HUB_KEY.to_owned() } else { host.to_string() }
}

/// The keys that a host may have; the first one is written.
fn host_keys(host: &RegistryHost) -> Vec<String> {
    if host.as_str() == DEFAULT_HOST {
        return [HUB_KEY, "docker.io", "index.docker.io", "registry-1.docker.io"].map(str::to_owned).into();
    }
    vec![host.to_string()]
}

fn keys_to_write(host: &RegistryHost, namespace: Option<&RepositoryName>) -> Vec<String> {
    match namespace {
        Some(namespace) => vec![format!("{host}/{namespace}")],
        None => host_keys(host),
    }
}

/// `HOST/a/b`, `HOST/a` for the repository `a/b`.
fn namespace_keys(host: &RegistryHost, repository: Option<&RepositoryName>) -> Vec<String> {
    let mut keys = Vec::new();
    let mut rest = repository.map(RepositoryName::as_str);
    while let Some(namespace) = rest {
        keys.push(format!("{host}/{namespace}"));
        rest = namespace.rsplit_once('/').map(|(parent, _)| parent);
    }
    keys
}

/// Whether a key of an old Docker, a URL, is of this host.
fn is_url_of(key: &str, host: &RegistryHost) -> bool {
    let Some(rest) = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")) else {
        return false;
    };
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    matches!(path.trim_end_matches('/'), "" | "v1" | "v2") && host_keys(host).iter().any(|k| k == name)
}

fn entry_credentials(key: &str, entry: &Value) -> Result<Credentials> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Credentials::IdentityToken(token.into()));
    }
    if let Some(token) = text("registrytoken") {
        return Ok(Credentials::Bearer(token.into()));
    }
    let Some(auth) = text("auth") else {
        return Ok(match (text("username"), text("password")) {
            (Some(username), Some(password)) => Credentials::basic(username, password),
            _ => Credentials::Anonymous,
        });
    };
    let damaged = || {
        Error::invalid("`auth` in the file of credentials is not base64 of user:password")
            .with_context("key", key)
    };
    let decoded = STANDARD.decode(auth.trim()).map_err(|_| damaged())?;
    let pair = String::from_utf8(decoded).map_err(|_| damaged())?;
    let (username, password) = pair.split_once(':').ok_or_else(damaged)?;
    Ok(Credentials::basic(username, password.trim_end_matches('\0')))
}

/// The object in a field, made when it is not there.
fn object<'a>(file: &'a mut Map<String, Value>, name: &str) -> Result<&'a mut Map<String, Value>> {
    let value = file.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value
        .as_object_mut()
        .ok_or_else(|| Error::invalid(format!("`{name}` in the file of credentials is not an object")))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("the work on the file of credentials did not end").with_source(e))?
}

fn read_file(path: &Path) -> Result<Map<String, Value>> {
    let text = match small_file::read(path, "the file of credentials", MAX_FILE, Kinds::Files) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Map::new()),
        other => other?,
    };
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    // The parser's message could quote a secret: only the position of the error is passed on.
    serde_json::from_slice(&text).map_err(|e| {
        Error::invalid("the file of credentials is not a JSON object")
            .with_context("path", path.display())
            .with_context("line", e.line())
    })
}

/// How the name of a file begins that is being written.
const STAGED: &str = ".credentials-";
/// After so long it is not being written any more.
const ABANDONED: std::time::Duration = std::time::Duration::from_secs(60 * 60);

fn is_staged(name: &str) -> bool {
    name.strip_prefix(STAGED).is_some_and(|id| crate::store::UploadId::parse(id).is_ok())
}

fn write_file(path: &Path, file: &Map<String, Value>) -> Result<()> {
    let failed = |e: std::io::Error| Error::io("cannot write the file of credentials", path, e);
    let text = serde_json::to_vec_pretty(file)
        .map_err(|_| Error::internal("the file of credentials cannot be written as JSON"))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Whatever the mask of the user: what is kept here is for nobody else.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    // What a killed process left has credentials in it.
    stale_files::remove(folder, ABANDONED, is_staged);
    let unique = crate::store::UploadId::random()?;
    let staged = folder.join(format!("{STAGED}{unique}"));
    let write = || {
        let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        out.write_all(&text)?;
        out.sync_all()?;
        std::fs::rename(&staged, path)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&staged);
        failed(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A process that is killed while it writes leaves credentials behind.
    #[tokio::test]
    async fn what_a_killed_process_left_goes_with_the_next_change() {
        let (folder, config) = file(serde_json::json!({}));
        let at = |name: &str| folder.path().join(name);
        let id = "0123456789abcdef0123456789abcdef";
        let names = [format!(".credentials-{id}"), ".credentials-mine".to_owned(), format!("{id}.json")];
        for name in &names {
            std::fs::write(at(name), "secret").unwrap();
        }
        config.store(&host("r.example"), None, &Credentials::basic("a", "b")).await.unwrap();
        assert!(names.iter().all(|name| at(name).exists()), "one that is young may be in use");
        for name in &names {
            let file = std::fs::File::options().write(true).open(at(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - 2 * ABANDONED).unwrap();
        }
        config.store(&host("r.example"), None, &Credentials::basic("a", "c")).await.unwrap();
        assert_eq!(names.map(|name| at(&name).exists()), [false, true, true]);
    }

    fn host(text: &str) -> RegistryHost {
        RegistryHost::parse(text).unwrap()
    }

    fn name(text: &str) -> RepositoryName {
        RepositoryName::parse(text).unwrap()
    }

    fn file(json: Value) -> (tempfile::TempDir, DockerConfig) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, json.to_string()).unwrap();
        (folder, DockerConfig::new(path))
    }

    fn auth(pair: &str) -> Value {
        serde_json::json!({ "auth": STANDARD.encode(pair) })
    }

    #[tokio::test]
    async fn keys_of_docker_and_podman_are_found() {
        let (_folder, config) = file(serde_json::json!({"auths": {
            "https://index.docker.io/v1/": auth("hub:p:w"),
            "https://old.example/v2/": auth("old:p"),
            "r.example": auth("host:p"),
            "r.example/team": auth("team:p"),
            "r.example/team/app": auth("app:p\0\0"),
            "t.example": {"auth": STANDARD.encode("x:"), "identitytoken": "refresh"},
            "b.example": {"registrytoken": "bearer"},
            "p.example": {"username": "plain", "password": "p"},
            "empty.example": {},
        }}));
        for (at, repository, expected) in [
            ("docker.io", "library/x", Credentials::basic("hub", "p:w")),
            ("old.example", "x", Credentials::basic("old", "p")),
            ("r.example", "other", Credentials::basic("host", "p")),
            ("r.example", "team/x/y", Credentials::basic("team", "p")),
            ("r.example", "team/app", Credentials::basic("app", "p")),
            ("r.example", "teamwork", Credentials::basic("host", "p")),
            ("t.example", "x", Credentials::IdentityToken("refresh".into())),
            ("b.example", "x", Credentials::Bearer("bearer".into())),
            ("p.example", "x", Credentials::basic("plain", "p")),
            ("empty.example", "x", Credentials::Anonymous),
            ("example", "x", Credentials::Anonymous),
        ] {
            assert_eq!(config.get(&host(at), Some(&name(repository))).await.unwrap(), expected, "{at}");
        }
    }

    #[tokio::test]
    async fn what_is_stored_is_private_and_keeps_the_rest() {
        let (_folder, config) =
            file(serde_json::json!({"auths": {"a.example": auth("a:b")}, "proxies": {"x": 1}}));
        let joe = Credentials::basic("joe", "hunter2");
        config.store(&host("r.example"), None, &joe).await.unwrap();
        config.store(&host("r.example"), Some(&name("team")), &Credentials::basic("t", "x")).await.unwrap();
        config.store(&host("docker.io"), None, &joe).await.unwrap();
        assert_eq!(config.get(&host("r.example"), None).await.unwrap(), joe);
        assert_eq!(config.get(&host("docker.io"), None).await.unwrap(), joe);
        let mode = std::fs::metadata(config.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let json: Value = serde_json::from_slice(&std::fs::read(config.path()).unwrap()).unwrap();
        assert_eq!(json["proxies"]["x"], 1);
        assert_eq!(json["auths"][HUB_KEY]["auth"], STANDARD.encode("joe:hunter2"));
        assert_eq!(config.list().await.unwrap().len(), 4);
        assert!(config.erase(&host("r.example"), None).await.unwrap());
        assert!(!config.erase(&host("r.example"), None).await.unwrap());
        assert_eq!(config.get(&host("r.example"), None).await.unwrap(), Credentials::Anonymous);
        assert_eq!(config.get(&host("a.example"), None).await.unwrap(), Credentials::basic("a", "b"));
    }

    #[tokio::test]
    async fn helpers_come_before_the_file() {
        let (folder, config) = file(serde_json::json!({
            "auths": {"r.example": auth("file:x"), "s.example": auth("file:x")},
            "credHelpers": {"r.example": "one"},
        }));
        let program = folder.path().join("docker-credential-one");
        let script = "#!/bin/sh\nread s; echo '{\"Username\":\"helper '$s'\",\"Secret\":\"x\"}'\n";
        crate::testing::write_program(&program, script).unwrap();
        let with = config.clone().helper_folders([folder.path().to_owned()]);
        assert_eq!(
            with.get(&host("r.example"), None).await.unwrap(),
            Credentials::basic("helper r.example", "x")
        );
        assert_eq!(with.get(&host("s.example"), None).await.unwrap(), Credentials::basic("file", "x"));
        assert_eq!(config.get(&host("r.example"), None).await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_damaged_file_is_an_error_and_a_missing_one_is_not() {
        let (folder, config) = file(serde_json::json!({"auths": {"r.example": {"auth": "***hunter2"}}}));
        let e = config.get(&host("r.example"), None).await.unwrap_err();
        assert!(e.kind() == ErrorKind::Invalid && !format!("{e:?}").contains("hunter2"));
        std::fs::write(config.path(), "{\"hunter2").unwrap();
        let e = config.get(&host("r.example"), None).await.unwrap_err();
        assert!(e.kind() == ErrorKind::Invalid && !format!("{e:?}").contains("hunter2"));
        let missing = DockerConfig::new(folder.path().join("no/config.json"));
        assert_eq!(missing.get(&host("r.example"), None).await.unwrap(), Credentials::Anonymous);
        missing.store(&host("r.example"), None, &Credentials::basic("a", "b")).await.unwrap();
        assert_eq!(missing.get(&host("r.example"), None).await.unwrap(), Credentials::basic("a", "b"));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(missing.path()), mode(&folder.path().join("no"))), (0o600, 0o700));
    }
}
