//! A web server for tests: files with headers, and git repositories through `git http-backend`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `GET /path?query`.
    pub(crate) line: String,
    /// The headers, names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
}

/// The content and the headers of a file.
type File = (Vec<u8>, Vec<(String, String)>);

#[derive(Default)]
struct State {
    files: BTreeMap<String, File>,
    /// What `Authorization` has to be, for every path.
    authorization: Option<String>,
    repositories: Option<PathBuf>,
    /// Where every path is to be found instead.
    moved: Option<String>,
    seen: Vec<Seen>,
}

/// A server on loopback that ends with the test.
pub(crate) struct Web {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Web {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &shared));
            }
        });
        Self { state, port }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn file(&self, path: &str, content: impl Into<Vec<u8>>, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.state.lock().unwrap().files.insert(path.to_owned(), (content.into(), headers));
    }

    /// Serves the repositories in a folder.
    pub(crate) fn repositories(&self, folder: &Path) {
        self.state.lock().unwrap().repositories = Some(folder.to_owned());
    }

    pub(crate) fn require(&self, authorization: &str) {
        self.state.lock().unwrap().authorization = Some(authorization.to_owned());
    }

    /// Answers every request with the same path at another server.
    pub(crate) fn redirect(&self, to: &str) {
        self.state.lock().unwrap().moved = Some(to.to_owned());
    }

    /// The requests since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut out = stream.try_clone().ok()?;
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let length: u64 = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|e| e == "chunked") {
        body = chunked(&mut reader)?;
    } else {
        reader.take(length).read_to_end(&mut body).ok()?;
    }
    let (file, repositories, refused, moved) = {
        let mut state = state.lock().unwrap();
        state.seen.push(Seen { line: format!("{method} {target}"), headers: headers.clone() });
        let refused = state.authorization.as_ref().is_some_and(|a| headers.get("authorization") != Some(a));
        let moved = state.moved.clone();
        (state.files.get(&target).cloned(), state.repositories.clone(), refused, moved)
    };
    if refused {
        let head = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n";
        return write!(out, "{head}Content-Length: 0\r\nConnection: close\r\n\r\n").ok();
    }
    if let Some(to) = moved {
        let head = format!("HTTP/1.1 301 Moved Permanently\r\nLocation: {to}{target}\r\n");
        return write!(out, "{head}Content-Length: 0\r\nConnection: close\r\n\r\n").ok();
    }
    if let Some((content, more)) = file {
        let known = more.iter().any(|(n, v)| n == "ETag" && headers.get("if-none-match") == Some(v));
        let status = if known { "304 Not Modified" } else { "200 OK" };
        let content = if known { Vec::new() } else { content };
        write!(out, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", content.len())
            .ok()?;
        for (name, value) in more {
            write!(out, "{name}: {value}\r\n").ok()?;
        }
        out.write_all(b"\r\n").ok()?;
        return out.write_all(&content).ok();
    }
    match repositories {
        Some(folder) => git(&folder, &method, &target, &headers, &body, &mut out),
        None => write!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok(),
    }
}

fn chunked(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = u64::from_str_radix(size.trim(), 16).ok()?;
        reader.take(size).read_to_end(&mut body).ok()?;
        reader.read_line(&mut String::new()).ok()?;
        if size == 0 {
            return Some(body);
        }
    }
}

/// Answers as a CGI program does (RFC 3875).
fn git(
    folder: &Path,
    method: &str,
    target: &str,
    headers: &BTreeMap<String, String>,
    body: &[u8],
    out: &mut TcpStream,
) -> Option<()> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(body).ok()?;
    let answer = child.wait_with_output().ok()?.stdout;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.lines().find_map(|l| l.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    write!(out, "HTTP/1.1 {status}\r\nConnection: close\r\n{head}\r\n\r\n").ok()?;
    out.write_all(&answer[end + 4..]).ok()
}
