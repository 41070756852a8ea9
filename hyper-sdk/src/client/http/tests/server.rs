//! A scripted HTTP server: a function from requests to replies, faults included.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(super) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

/// What to answer.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    cut: Option<usize>,
    /// Close the connection after so many bytes of the request's body, without an answer.
    hang_up: Option<usize>,
    /// Fall silent after so many bytes of the body.
    stall: Option<usize>,
    /// Send the body by single bytes, with this pause between them.
    drip: Option<Duration>,
    /// Read nothing of the request's body, and do not answer.
    deaf: bool,
    delay: Duration,
    sink: Option<Arc<Mutex<Vec<u8>>>>,
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        let (headers, body) = (Vec::new(), Vec::new());
        let (cut, hang_up, stall, drip, deaf, sink) = (None, None, None, None, false, None);
        Self { status, headers, body, cut, hang_up, stall, drip, deaf, delay: Duration::ZERO, sink }
    }

    pub(super) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(super) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(super) fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    pub(super) fn stall(mut self, after: usize) -> Self {
        self.stall = Some(after);
        self
    }

    pub(super) fn drip(mut self, pause: Duration) -> Self {
        self.drip = Some(pause);
        self
    }

    pub(super) fn deaf(mut self) -> Self {
        self.deaf = true;
        self
    }

    pub(super) fn hang_up(mut self, after: usize) -> Self {
        self.hang_up = Some(after);
        self
    }

    pub(super) fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Appends the request's body to a buffer.
    pub(super) fn into_buffer(mut self, sink: &Arc<Mutex<Vec<u8>>>) -> Self {
        self.sink = Some(sink.clone());
        self
    }
}

type Script = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A server that lives as long as this value.
pub(super) struct Server {
    pub(super) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (script, seen): (Script, Arc<Mutex<Vec<Seen>>>) = (Arc::new(script), Arc::default());
        let log = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, log) = (script.clone(), log.clone());
                tokio::spawn(async move {
                    let _ = serve(stream, &script, &log).await;
                });
            }
        });
        Self { address, seen, task }
    }

    /// Every request so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Method and target of every request so far.
    pub(super) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    pub(super) fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|l| l.starts_with(line)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, script: &Script, log: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut seen = Seen::default();
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut words = line.split(' ');
    seen.method = words.next().unwrap_or_default().to_owned();
    seen.target = words.next().unwrap_or_default().to_owned();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        seen.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let reply = script(&seen);
    if reply.deaf {
        log.lock().unwrap().push(seen);
        std::future::pending::<()>().await;
        return Ok(());
    }
    let length: usize = seen.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    assert!(seen.header("transfer-encoding").is_none(), "the client knows the length of what it sends");
    let mut body = vec![0; reply.hang_up.unwrap_or(length).min(length)];
    stream.read_exact(&mut body).await?;
    if let Some(sink) = &reply.sink {
        sink.lock().unwrap().extend_from_slice(&body);
    }
    seen.body = body;
    let is_head = seen.method == "HEAD";
    log.lock().unwrap().push(seen);
    if reply.hang_up.is_some() {
        return Ok(());
    }
    tokio::time::sleep(reply.delay).await;
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !reply.headers.iter().any(|(n, _)| n == "Content-Length") && reply.status != 204 {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    stream.write_all((head + "\r\n").as_bytes()).await?;
    if !is_head {
        let end = reply.cut.or(reply.stall).unwrap_or(usize::MAX).min(reply.body.len());
        match reply.drip {
            None => stream.write_all(&reply.body[..end]).await?,
            Some(pause) => {
                for byte in &reply.body[..end] {
                    stream.write_all(&[*byte]).await?;
                    stream.flush().await?;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
    if reply.stall.is_some() {
        stream.flush().await?;
        std::future::pending::<()>().await;
    }
    stream.flush().await?;
    stream.get_mut().shutdown().await
}
