//! A front before a server of S3, which does to each request what a test says.
//!
//! It speaks HTTP/1.1, one request a connection.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Act {
    /// It passes, and so does its answer.
    Pass,
    /// The server does not get it, and this is answered.
    Answer(u16, &'static str),
    /// The server answers, and the answer gets lost.
    LoseAnswer,
    /// The server does not get it, and nothing is answered.
    Drop,
    /// So many bytes of the body of the request pass, and then both connections end.
    CutRequest(usize),
    /// The server gets it after a time.
    Late(Duration),
    /// The server gets it when the test says so with [`Front::release`].
    Hold,
    /// So many bytes of the body of the answer pass, and then the connection ends.
    Cut(usize),
    /// The body of the answer comes in pieces of a kibibyte, with a pause before each.
    Slow(Duration),
}

/// A front. It ends with the runtime of the test.
#[derive(Debug)]
pub struct Front {
    /// Its address.
    pub host: String,
    seen: Arc<Mutex<Vec<String>>>,
    gate: Arc<Gate>,
}

/// What is held: a permit for each request that came, and one for each that may go.
#[derive(Debug)]
struct Gate {
    came: Semaphore,
    may_go: Semaphore,
}

impl Front {
    /// Starts a front before a server. `act` gets the method and the target of each request.
    ///
    /// # Panics
    /// When it cannot listen.
    #[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    pub async fn start(server: &str, act: impl Fn(&str, &str) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let gate = Arc::new(Gate { came: Semaphore::new(0), may_go: Semaphore::new(0) });
        let (act, server, noted) = (Arc::new(act), server.to_owned(), Arc::clone(&seen));
        let kept = Arc::clone(&gate);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (act, server, noted) = (Arc::clone(&act), server.clone(), Arc::clone(&noted));
                let gate = Arc::clone(&kept);
                tokio::spawn(async move {
                    // A client that has gone away is not the concern of a test.
                    let _ = pass(client, &server, &*act, &noted, &gate).await;
                });
            }
        });
        Self { host, seen, gate }
    }

    /// Waits until a request is held that no earlier call has waited for.
    pub async fn held(&self) {
        if let Ok(permit) = self.gate.came.acquire().await {
            permit.forget();
        }
    }

    /// Lets one request go that is held, or is going to be.
    pub fn release(&self) {
        self.gate.may_go.add_permits(1);
    }

    /// How many requests there were with this method and this text in their target.
    ///
    /// # Panics
    /// When a task of the front has panicked.
    #[must_use]
    #[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    pub fn count(&self, method: &str, part: &str) -> usize {
        let is_meant = |seen: &&String| {
            seen.split_once(' ').is_some_and(|(m, target)| m == method && target.contains(part))
        };
        self.seen.lock().unwrap().iter().filter(is_meant).count()
    }
}

#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
async fn pass(
    client: TcpStream,
    server: &str,
    act: &(dyn Fn(&str, &str) -> Act + Send + Sync),
    seen: &Mutex<Vec<String>>,
    gate: &Gate,
) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    let (head, length) = read_head(&mut client).await?;
    let mut body = vec![0; length];
    client.read_exact(&mut body).await?;
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    seen.lock().unwrap().push(format!("{method} {target}"));
    let act = act(method, target);
    match act {
        Act::Drop => return Ok(()),
        Act::Answer(status, code) => {
            let body = format!("<Error><Code>{code}</Code><Message>as the test says</Message></Error>");
            // What stands before a server has no code, and no number of the request.
            let number = if code.is_empty() { "" } else { "x-amz-request-id: 1\r\n" };
            let answer = format!(
                "HTTP/1.1 {status} x\r\nConnection: close\r\n{number}Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            return client.write_all(answer.as_bytes()).await;
        }
        Act::Late(time) => tokio::time::sleep(time).await,
        Act::Hold => {
            gate.came.add_permits(1);
            if let Ok(permit) = gate.may_go.acquire().await {
                permit.forget();
            }
        }
        _ => {}
    }
    let mut server = BufReader::new(TcpStream::connect(server).await?);
    server.write_all(&closing(&head)).await?;
    if let Act::CutRequest(most) = act {
        server.write_all(&body[..most.min(body.len())]).await?;
        return server.flush().await;
    }
    server.write_all(&body).await?;
    let (head, _) = read_head(&mut server).await?;
    if act == Act::LoseAnswer {
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await?;
        return Ok(());
    }
    client.write_all(&closing(&head)).await?;
    let mut left = if let Act::Cut(most) = act { most } else { usize::MAX };
    let mut block = vec![0; if matches!(act, Act::Slow(_)) { 1 << 10 } else { 64 << 10 }];
    while left > 0 {
        if let Act::Slow(pause) = act {
            tokio::time::sleep(pause).await;
        }
        let most = block.len().min(left);
        let count = server.read(&mut block[..most]).await?;
        if count == 0 {
            break;
        }
        client.write_all(&block[..count]).await?;
        left -= count;
    }
    client.flush().await
}

/// The head of a message, and the length of the body that it announces.
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
async fn read_head(from: &mut BufReader<TcpStream>) -> std::io::Result<(String, usize)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let start = head.len();
        if from.read_line(&mut head).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = head[start..].to_ascii_lowercase();
        if line.trim().is_empty() {
            return Ok((head, length));
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
}

/// The head of a message after which the connection ends.
fn closing(head: &str) -> Vec<u8> {
    let lines = head.trim_end().lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let mut text = lines.map(|line| format!("{line}\r\n")).collect::<String>();
    text.push_str("connection: close\r\n\r\n");
    text.into_bytes()
}
