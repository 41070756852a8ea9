//! Engines that run containers, docker and podman: images are loaded over the API that both speak.
//!
//! ```text
//!   GET /_ping    POST /images/load (a tar)    GET /version, /info, /images/json, /images/ID/json
//! ```

use crate::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use futures::Stream;
use reqwest::{Body, Client, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How long an engine may take to answer a short question.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most that is read of an answer.
const MAX_ANSWER: usize = 16 << 20;
/// How many images of an engine are looked at for layers that it has.
const MAX_IMAGES: usize = 200;

/// An engine that runs containers, by its address.
///
/// ```
/// use hyper_sdk::client::Engine;
///
/// let engine: Engine = "unix:///run/user/1000/podman/podman.sock".parse()?;
/// assert_eq!(engine.to_string(), "unix:///run/user/1000/podman/podman.sock");
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine(Address);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Socket(PathBuf),
    /// Host and port.
    Tcp(String),
}

/// Where engines may listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineAddresses {
    /// The address that was asked for.
    pub named: Option<String>,
    /// Whether TLS was asked for, which is not supported.
    pub tls: bool,
    /// The sockets that engines usually have, in the order in which they are tried.
    pub usual: Vec<PathBuf>,
}

impl EngineAddresses {
    /// The address that `DOCKER_HOST` or `CONTAINER_HOST` names, or else the sockets of docker and podman.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let named = variable("DOCKER_HOST").or_else(|| variable("CONTAINER_HOST"));
        let run = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
        let own = |name: &str| run.as_ref().map(|run| run.join(name));
        let usual = [
            Some("/var/run/docker.sock".into()),
            own("docker.sock"),
            own("podman/podman.sock"),
            Some("/run/podman/podman.sock".into()),
        ];
        Self {
            named: named.map(|name| name.to_string_lossy().into_owned()),
            tls: variable("DOCKER_TLS_VERIFY").is_some(),
            usual: usual.into_iter().flatten().collect(),
        }
    }

    /// The engine of the address that was asked for, or else the first that answers; `None` when none does.
    ///
    /// # Errors
    /// When the address that was asked for is none, or no engine answers there.
    pub async fn find(&self) -> Result<Option<Engine>> {
        if let Some(named) = &self.named {
            let engine: Engine = named.parse()?;
            if self.tls && matches!(engine.0, Address::Tcp(_)) {
                return Err(Error::unsupported(format!(
                    "DOCKER_TLS_VERIFY asks for TLS to {engine}, which is not supported yet: use a socket"
                )));
            }
            engine.ping().await?;
            return Ok(Some(engine));
        }
        for path in &self.usual {
            let engine = Engine(Address::Socket(path.clone()));
            if path.exists() && engine.ping().await.is_ok() {
                return Ok(Some(engine));
            }
        }
        Ok(None)
    }
}

impl FromStr for Engine {
    type Err = Error;

    /// Parses `unix://PATH`, or `tcp://HOST:PORT` for an engine without TLS.
    fn from_str(text: &str) -> Result<Self> {
        let address = match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Address::Socket(path.into()),
            Some(("tcp" | "http", host)) if !host.is_empty() => {
                Address::Tcp(host.trim_end_matches('/').to_owned())
            }
            _ => {
                return Err(Error::unsupported(format!(
                    "`{text}` is no address of an engine: use unix://PATH or tcp://HOST:PORT"
                )));
            }
        };
        Ok(Self(address))
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Address::Socket(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

/// A line of the answer to a load.
#[derive(Deserialize)]
struct Line {
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    #[serde(default)]
    components: Vec<Component>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    #[serde(default)]
    driver_status: Option<Vec<(String, String)>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    #[serde(rename = "RootFS")]
    root: Option<Root>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Root {
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Engine {
    fn client(&self) -> Result<Client> {
        let builder = Client::builder().no_proxy().connect_timeout(PATIENCE);
        let builder = match &self.0 {
            Address::Socket(path) => builder.unix_socket(path.clone()),
            Address::Tcp(_) => builder,
        };
        builder.build().map_err(|e| Error::internal("cannot make a client of the engine").with_source(e))
    }

    fn url(&self, path: &str) -> String {
        match &self.0 {
            Address::Socket(_) => format!("http://localhost{path}"),
            Address::Tcp(host) => format!("http://{host}{path}"),
        }
    }

    /// Whether the engine answers.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when it does not.
    pub async fn ping(&self) -> Result<()> {
        let answer = self.client()?.get(self.url("/_ping")).timeout(PATIENCE).send().await;
        let answer = answer.map_err(|e| self.unreachable(e))?;
        self.accepted(answer).await.map(drop)
    }

    /// Loads an archive of images.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the engine cannot be reached; [`ErrorKind::Invalid`] with what the engine says. The
    /// engine may have a part of the image when the future is dropped.
    pub(crate) async fn load(
        &self,
        archive: impl Stream<Item = Result<Bytes>> + Send + 'static,
    ) -> Result<()> {
        let request = self.client()?.post(self.url("/images/load?quiet=1"));
        let request = request.header("content-type", "application/x-tar").body(Body::wrap_stream(archive));
        let answer = request.send().await.map_err(|e| self.unreachable(e))?;
        let mut answer = self.accepted(answer).await?;
        let body = self.read(&mut answer).await?;
        for line in body.split(|byte| *byte == b'\n') {
            if let Ok(Line { error: Some(error) }) = serde_json::from_slice(line) {
                return Err(Error::invalid(format!("the engine does not load the image: {}", error.trim())));
            }
        }
        Ok(())
    }

    /// How many layers of an image need not be sent, because an image of the engine begins with them. Only docker with its
    /// own store of images loads an archive without them.
    ///
    /// # Errors
    /// When the engine does not answer as expected.
    pub(crate) async fn known_layers(&self, diff_ids: &[Digest]) -> Result<usize> {
        let client = self.client()?;
        let version: Version = self.get(&client, "/version").await?;
        if !version.components.iter().any(|component| component.name == "Engine") {
            return Ok(0);
        }
        let info: Info = self.get(&client, "/info").await?;
        let status = info.driver_status.unwrap_or_default();
        if status.iter().any(|(_, value)| value.starts_with("io.containerd.")) {
            return Ok(0);
        }
        let images: Vec<Listed> = self.get(&client, "/images/json").await?;
        let mut most = 0;
        for image in images.iter().take(MAX_IMAGES) {
            let found: Inspected = self.get(&client, &format!("/images/{}/json", image.id)).await?;
            let layers = found.root.and_then(|root| root.layers).unwrap_or_default();
            let common =
                layers.iter().zip(diff_ids).take_while(|(have, want)| *have == want.as_str()).count();
            most = most.max(common);
            if most == diff_ids.len() {
                break;
            }
        }
        Ok(most)
    }

    async fn get<T: DeserializeOwned>(&self, client: &Client, path: &str) -> Result<T> {
        let answer = client.get(self.url(path)).timeout(PATIENCE).send().await;
        let mut answer = self.accepted(answer.map_err(|e| self.unreachable(e))?).await?;
        let body = self.read(&mut answer).await?;
        serde_json::from_slice(&body).map_err(|e| {
            Error::invalid("the answer of the engine is not understood")
                .with_context("path", path)
                .with_source(e)
        })
    }

    /// The answer, when it is one of success.
    async fn accepted(&self, mut answer: Response) -> Result<Response> {
        #[derive(Deserialize)]
        struct Refusal {
            message: String,
        }
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let body = self.read(&mut answer).await?;
        let why = serde_json::from_slice::<Refusal>(&body).map(|refusal| refusal.message);
        let why = why.unwrap_or_else(|_| format!("it answered {}", answer.status()));
        Err(Error::invalid(format!("the engine refuses this: {why}")).with_context("engine", self))
    }

    async fn read(&self, answer: &mut Response) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(bytes) = answer.chunk().await.map_err(|e| self.unreachable(e))? {
            if body.len() + bytes.len() > MAX_ANSWER {
                return Err(Error::new(ErrorKind::TooLarge, "the answer of the engine is too long"));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    fn unreachable(&self, error: reqwest::Error) -> Error {
        Error::new(ErrorKind::Unavailable, "the engine cannot be reached")
            .with_context("engine", self)
            .with_source(error.without_url())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_or_refused_by_name() {
        for text in ["unix:///run/docker.sock", "tcp://127.0.0.1:2375"] {
            assert_eq!(text.parse::<Engine>().unwrap().to_string(), text);
        }
        assert_eq!("http://h:1/".parse::<Engine>().unwrap().to_string(), "tcp://h:1");
        for text in
            ["ssh://me@host", "npipe:////./pipe/docker", "unix://relative", "/run/docker.sock", "tcp://"]
        {
            let error = text.parse::<Engine>().unwrap_err();
            assert!(error.message().contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn variables_name_the_engine() {
        let of = |pairs: &[(&str, &str)]| {
            EngineAddresses::from_variables(|name| {
                pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
            })
        };
        assert_eq!(of(&[("DOCKER_HOST", "tcp://a:1"), ("CONTAINER_HOST", "x")]).named.unwrap(), "tcp://a:1");
        assert_eq!(of(&[("DOCKER_HOST", "")]).named, None);
        let usual = of(&[("XDG_RUNTIME_DIR", "/run/user/7")]).usual;
        assert!(usual.contains(&"/run/user/7/podman/podman.sock".into()), "{usual:?}");
        assert_eq!(of(&[]).usual.len(), 2);
    }

    #[tokio::test]
    async fn an_engine_that_is_named_has_to_answer() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent.sock");
        let named = Some(format!("unix://{}", absent.display()));
        let addresses = EngineAddresses { named, ..EngineAddresses::default() };
        let error = addresses.find().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("absent.sock"), "{error}");
        let usual = EngineAddresses { usual: vec![absent], ..EngineAddresses::default() };
        assert_eq!(usual.find().await.unwrap(), None);
        let named = Some("tcp://127.0.0.1:1".to_owned());
        let encrypted = EngineAddresses { named, tls: true, ..EngineAddresses::default() };
        assert_eq!(encrypted.find().await.unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
