//! A receiver of webhooks on this machine, and registries that tell it.

use super::support::Api;
use hyper_sdk::media_type;
use hyper_sdk::oci::ImageIndex;
use hyper_sdk::store::{MemoryStore, SharedEventLog, SharedStore};
use hyper_server::{Events, Registry, RegistryOptions, Webhook, WebhookFormat};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What the receiver does with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    Answer(u16),
    Waits(u64),
    Hangs,
    Closes,
}

#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    /// Whether it was answered with 200.
    pub(crate) taken: bool,
}

impl Received {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn shown(&self) -> String {
        let json = self.json();
        format!(
            "{} {}",
            json["type"].as_str().unwrap(),
            json["subject"].as_str().unwrap().split('@').next().unwrap()
        )
    }

    pub(crate) fn number(&self) -> u64 {
        self.json()["sequence"].as_str().unwrap().parse().unwrap()
    }
}

/// A receiver of requests on this machine.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    pub(crate) received: Arc<Mutex<Vec<Received>>>,
    pub(crate) script: Arc<Mutex<VecDeque<Does>>>,
    judge: Arc<Mutex<Option<Judge>>>,
}

/// The status of an answer to a body, if it is another one than 200.
type Judge = Box<dyn Fn(&str) -> Option<u16> + Send>;

impl Receiver {
    pub(crate) async fn start(script: &[Does]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook/secret-path", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(script.iter().copied().collect()));
        let receiver = Self { url, received: Arc::default(), script, judge: Arc::default() };
        let its = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let its = its.clone();
                tokio::spawn(async move { its.serve(stream).await });
            }
        });
        receiver
    }

    async fn serve(&self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        loop {
            let head = loop {
                if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at + 4;
                }
                match stream.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            };
            let text = String::from_utf8(buffer[..head].to_vec()).unwrap();
            let mut lines = text.lines();
            let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
            let headers: BTreeMap<String, String> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length: usize = headers["content-length"].parse().unwrap();
            while buffer.len() < head + length {
                if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let rest = buffer.split_off(head + length);
            let body = String::from_utf8(buffer.split_off(head)).unwrap();
            buffer = rest;
            let judged = self.judge.lock().unwrap().as_ref().and_then(|judge| judge(&body));
            let usual = Does::Answer(judged.unwrap_or(200));
            let does = self.script.lock().unwrap().pop_front().unwrap_or(usual);
            let taken = matches!(does, Does::Answer(200));
            self.received.lock().unwrap().push(Received { path, headers, body, taken });
            let answer = match does {
                Does::Answer(status) => {
                    format!("HTTP/1.1 {status} x\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n")
                }
                Does::Waits(seconds) => {
                    format!("HTTP/1.1 503 x\r\nretry-after: {seconds}\r\ncontent-length: 0\r\n\r\n")
                }
                Does::Hangs => return tokio::time::sleep(Duration::from_secs(3600)).await,
                Does::Closes => return,
            };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// Answers bodies with what this says, after the script.
    pub(crate) fn judge(&self, judge: impl Fn(&str) -> Option<u16> + Send + 'static) {
        *self.judge.lock().unwrap() = Some(Box::new(judge));
    }

    pub(crate) fn all(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    pub(crate) fn taken(&self) -> Vec<Received> {
        self.all().into_iter().filter(|one| one.taken).collect()
    }

    pub(crate) async fn wait_for(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !is_so(self) {
            let shown: Vec<String> =
                self.all().iter().map(|one| format!("{} {}", one.taken, one.body)).collect();
            assert!(Instant::now() < end, "{what}: {shown:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn wait_for_taken(&self, count: usize) {
        self.wait_for(&format!("{count} are taken"), |one| one.taken().len() >= count).await;
    }

    pub(crate) fn webhook(&self, name: &str) -> Webhook {
        Webhook {
            name: name.to_owned(),
            url: self.url.as_str().into(),
            format: WebhookFormat::CloudEvents,
            events: Vec::new(),
            repositories: Vec::new(),
            secrets: Vec::new(),
            headers: Vec::new(),
            timeout: Duration::from_secs(1),
            give_up: Duration::from_secs(3600),
            authorities: Vec::new(),
        }
    }
}

pub(crate) fn options(webhooks: Vec<Webhook>) -> RegistryOptions {
    RegistryOptions { events: Some(Events::default()), webhooks, ..RegistryOptions::default() }
}

/// Waits until the store knows the webhook: it begins with what happens next.
pub(crate) async fn known(log: &SharedEventLog) {
    while log.consumers().await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn api(webhooks: Vec<Webhook>) -> Api {
    let store: SharedStore = Arc::new(MemoryStore::default());
    let api = Api { registry: Registry::new(store, options(webhooks)).unwrap() };
    known(&api.registry.store().event_log().unwrap()).await;
    api
}

pub(crate) async fn push(url: &str, tag: &str, text: &str) {
    let mut index = ImageIndex::new(vec![]);
    index.annotations.insert("text".to_owned(), text.to_owned());
    let put = reqwest::Client::new().put(format!("{url}/v2/team/app/manifests/{tag}"));
    let put = put.header("content-type", media_type::OCI_INDEX).body(index.to_bytes());
    assert_eq!(put.send().await.unwrap().status(), 201);
}

pub(crate) fn config(folder: &Path, hooks: &[(&str, &Receiver)]) -> String {
    let secret = folder.join("secret");
    std::fs::write(&secret, "a-secret-that-is-hidden\n").unwrap();
    let table = |(name, receiver): &(&str, &Receiver)| {
        format!(
            "[[webhook]]\nname = \"{name}\"\nurl = \"{}\"\nsecret-file = {secret:?}\ntimeout = \"1s\"\n",
            receiver.url
        )
    };
    hooks.iter().map(table).collect()
}
