//! Registries and web servers for tests that do whatever a test says: answer well, badly, slowly or never.

use hyper_sdk::Digest;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Read as _, Result, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The head of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Head {
    pub(crate) method: String,
    /// The path with the query; the whole address when the request came to a proxy.
    pub(crate) target: String,
    /// The headers, names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.target.contains(part)
    }

    /// How many bytes come after it.
    pub(crate) fn length(&self) -> usize {
        self.header("content-length").parse().unwrap_or(0)
    }
}

/// The connection of one request, which is closed after the answer.
pub(crate) struct Wire {
    reader: BufReader<TcpStream>,
    out: TcpStream,
}

impl Wire {
    /// So many bytes of the body of the request.
    pub(crate) fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.out.write_all(bytes.as_ref())
    }

    /// A status and headers, a line each, without the empty line at their end.
    pub(crate) fn head(&mut self, status: u16, headers: &str) -> Result<()> {
        let lines: String = headers.lines().map(|line| format!("{}\r\n", line.trim())).collect();
        self.send(format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{lines}"))
    }

    /// A whole answer.
    pub(crate) fn answer(&mut self, status: u16, headers: &str, body: impl AsRef<[u8]>) -> Result<()> {
        self.head(status, headers)?;
        self.send(format!("Content-Length: {}\r\n\r\n", body.as_ref().len()))?;
        self.send(body)
    }

    /// Sends something repeatedly until the peer disconnects.
    pub(crate) fn flood(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        loop {
            self.send(&bytes)?;
        }
    }

    /// Keeps the connection open and says nothing.
    pub(crate) fn hold(&self) -> Result<()> {
        std::thread::sleep(std::time::Duration::from_secs(3600));
        Ok(())
    }
}

/// A server on loopback that ends with the test.
pub(crate) struct Peer {
    /// Its host and port.
    pub(crate) host: String,
    seen: Arc<Mutex<Vec<Head>>>,
}

impl Peer {
    /// Answers requests with a function, which reads their bodies as far as it needs them.
    pub(crate) fn start(answer: impl Fn(&Head, &mut Wire) -> Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (answer, seen): (_, Arc<Mutex<Vec<Head>>>) = (Arc::new(answer), Arc::default());
        let log = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log) = (answer.clone(), log.clone());
                std::thread::spawn(move || serve(stream, &*answer, &log));
            }
        });
        Self { host, seen }
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Head> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    answer: &(dyn Fn(&Head, &mut Wire) -> Result<()> + Send + Sync),
    log: &Mutex<Vec<Head>>,
) -> Option<()> {
    let mut wire = Wire { reader: BufReader::new(stream.try_clone().ok()?), out: stream };
    let mut line = String::new();
    wire.reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let mut head = Head { method: words.next()?.to_owned(), ..Head::default() };
    words.next()?.clone_into(&mut head.target);
    loop {
        line.clear();
        wire.reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        head.headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    log.lock().unwrap().push(head.clone());
    let _ = answer(&head, &mut wire);
    // What was not read would reset the connection, and the answer with it.
    let _ = wire.out.shutdown(std::net::Shutdown::Write);
    let mut rest = [0; 4096];
    while wire.reader.read(&mut rest).is_ok_and(|count| count > 0) {}
    Some(())
}

/// A repository, and a tag or digest there.
type Key = (String, String);

/// A registry that keeps to the protocol and keeps everything in memory.
#[derive(Default)]
pub(crate) struct Registry {
    blobs: Mutex<HashMap<Key, Vec<u8>>>,
    manifests: Mutex<HashMap<Key, (String, Vec<u8>)>>,
    uploads: Mutex<HashMap<String, Vec<u8>>>,
    next: AtomicU64,
    /// How many bytes of blobs were sent to it.
    pub(crate) sent: AtomicU64,
}

impl Registry {
    /// The manifest of a repository under a tag or digest.
    pub(crate) fn manifest(&self, repository: &str, reference: &str) -> serde_json::Value {
        let all = self.manifests.lock().unwrap();
        serde_json::from_slice(&all[&(repository.to_owned(), reference.to_owned())].1).unwrap()
    }

    /// The digest of the only layer of an image.
    pub(crate) fn layer(&self, repository: &str, reference: &str) -> String {
        self.manifest(repository, reference)["layers"][0]["digest"].as_str().unwrap().to_owned()
    }

    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Vec<u8> {
        self.blobs.lock().unwrap()[&(repository.to_owned(), digest.to_owned())].clone()
    }

    /// Gives it a blob.
    pub(crate) fn put(&self, repository: &str, bytes: &[u8]) {
        let key = (repository.to_owned(), Digest::sha256(bytes).to_string());
        self.blobs.lock().unwrap().insert(key, bytes.to_vec());
    }

    /// Gives it a manifest.
    pub(crate) fn put_manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) {
        for reference in [tag, Digest::sha256(bytes).as_str()] {
            let key = (repository.to_owned(), reference.to_owned());
            self.manifests.lock().unwrap().insert(key, (kind.to_owned(), bytes.to_vec()));
        }
    }

    /// Appends to an upload, and says how long it is.
    pub(crate) fn append(&self, id: &str, bytes: &[u8]) -> usize {
        self.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        let mut uploads = self.uploads.lock().unwrap();
        let upload = uploads.entry(id.to_owned()).or_default();
        upload.extend_from_slice(bytes);
        upload.len()
    }

    pub(crate) fn uploaded(&self, id: &str) -> usize {
        self.uploads.lock().unwrap().get(id).map_or(0, Vec::len)
    }

    /// Answers a request as it should be.
    pub(crate) fn answer(&self, head: &Head, wire: &mut Wire) -> Result<()> {
        let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
        let query: HashMap<String, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.replace("%3A", ":").replace("%2F", "/")))
            .collect();
        let Some(path) = path.strip_prefix("/v2/").filter(|path| !path.is_empty()) else {
            return wire.answer(200, "", "");
        };
        let (repository, place) = if let Some(parts) = path.split_once("/manifests/") {
            return self.answer_manifest(head, wire, parts);
        } else if let Some(parts) = path.split_once("/blobs/uploads/") {
            parts
        } else {
            let Some((repository, digest)) = path.split_once("/blobs/") else {
                return wire.answer(404, "", "");
            };
            return self.answer_blob(head, wire, repository, digest);
        };
        let session = |id: &str| format!("Location: /v2/{repository}/blobs/uploads/{id}");
        let key = |digest: &String| (repository.to_owned(), digest.clone());
        match head.method.as_str() {
            "POST" => {
                if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from")) {
                    let mut blobs = self.blobs.lock().unwrap();
                    if let Some(blob) = blobs.get(&(from.clone(), digest.clone())).cloned() {
                        blobs.insert(key(digest), blob);
                        return wire.answer(201, &format!("Location: /v2/{repository}/blobs/{digest}"), "");
                    }
                }
                let id = format!("{:032x}", self.next.fetch_add(1, Ordering::SeqCst));
                self.uploads.lock().unwrap().insert(id.clone(), Vec::new());
                wire.answer(202, &format!("{}\nRange: 0-0", session(&id)), "")
            }
            "GET" => {
                let last = self.uploaded(place).saturating_sub(1);
                wire.answer(204, &format!("{}\nRange: 0-{last}", session(place)), "")
            }
            "PATCH" | "PUT" => {
                let range = head.header("content-range");
                let first = range.split('-').next().and_then(|number| number.parse().ok());
                if first.is_some_and(|first: usize| first != self.uploaded(place)) {
                    let last = self.uploaded(place).saturating_sub(1);
                    return wire.answer(416, &format!("{}\nRange: 0-{last}", session(place)), "");
                }
                let length = self.append(place, &wire.take(head.length())?);
                let Some(digest) = query.get("digest") else {
                    return wire.answer(202, &format!("{}\nRange: 0-{}", session(place), length - 1), "");
                };
                let bytes = self.uploads.lock().unwrap().remove(place).unwrap_or_default();
                if Digest::sha256(&bytes).as_str() != digest {
                    let body = r#"{"errors":[{"code":"DIGEST_INVALID","message":"wrong digest"}]}"#;
                    return wire.answer(400, "Content-Type: application/json", body);
                }
                self.blobs.lock().unwrap().insert(key(digest), bytes);
                wire.answer(201, &format!("Location: /v2/{repository}/blobs/{digest}"), "")
            }
            _ => wire.answer(204, "", ""),
        }
    }

    fn answer_manifest(&self, head: &Head, wire: &mut Wire, (name, what): (&str, &str)) -> Result<()> {
        let key = |reference: &str| (name.to_owned(), reference.to_owned());
        if head.method == "PUT" {
            let (kind, bytes) = (head.header("content-type").to_owned(), wire.take(head.length())?);
            let digest = Digest::sha256(&bytes).to_string();
            self.put_manifest(name, what, &kind, &bytes);
            return wire.answer(201, &format!("Docker-Content-Digest: {digest}"), "");
        }
        let Some((kind, bytes)) = self.manifests.lock().unwrap().get(&key(what)).cloned() else {
            return wire.answer(404, "", "");
        };
        let digest = Digest::sha256(&bytes);
        wire.head(200, &format!("Content-Type: {kind}\nDocker-Content-Digest: {digest}"))?;
        wire.send(format!("Content-Length: {}\r\n\r\n", bytes.len()))?;
        if head.method == "HEAD" { Ok(()) } else { wire.send(bytes) }
    }

    fn answer_blob(&self, head: &Head, wire: &mut Wire, repository: &str, digest: &str) -> Result<()> {
        let key = (repository.to_owned(), digest.to_owned());
        let Some(bytes) = self.blobs.lock().unwrap().get(&key).cloned() else {
            return wire.answer(404, "", "");
        };
        if head.method == "HEAD" {
            wire.head(200, "")?;
            return wire.send(format!("Content-Length: {}\r\n\r\n", bytes.len()));
        }
        let range = head.header("range").strip_prefix("bytes=").and_then(|range| range.split_once('-'));
        match range.and_then(|(first, _)| first.parse::<usize>().ok()) {
            Some(first) => {
                let range = format!("Content-Range: bytes {first}-{}/{}", bytes.len() - 1, bytes.len());
                wire.answer(206, &range, &bytes[first..])
            }
            None => wire.answer(200, "", bytes),
        }
    }
}
