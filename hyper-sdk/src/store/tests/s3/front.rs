//! A front before a server of S3, which does to each request what a test says.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Pass,
    /// The server does not get it, and this is answered.
    Answer(u16, &'static str),
    /// The server answers, and the answer gets lost.
    LoseAnswer,
    /// The server does not get it, and nothing is answered.
    Drop,
    /// So many bytes of the body of the answer pass, and then the connection ends.
    Cut(usize),
    /// The body of the answer comes in pieces of a kibibyte, with a pause before each.
    Slow(Duration),
}

/// A front. It ends with the runtime of the test.
pub(super) struct Front {
    pub(super) host: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Front {
    /// A front before a server. `act` gets the method and the target of each request.
    pub(super) async fn start(server: &str, act: impl Fn(&str, &str) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (act, server, noted) = (Arc::new(act), server.to_owned(), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (act, server, noted) = (Arc::clone(&act), server.clone(), Arc::clone(&noted));
                tokio::spawn(async move {
                    // A client that has gone away is not the concern of a test.
                    let _ = pass(client, &server, &*act, &noted).await;
                });
            }
        });
        Self { host, seen }
    }

    /// How many requests there were with this method and this text in their target.
    pub(super) fn count(&self, method: &str, part: &str) -> usize {
        let is_meant = |seen: &&String| {
            seen.split_once(' ').is_some_and(|(m, target)| m == method && target.contains(part))
        };
        self.seen.lock().unwrap().iter().filter(is_meant).count()
    }
}

async fn pass(
    client: TcpStream,
    server: &str,
    act: &(dyn Fn(&str, &str) -> Act + Send + Sync),
    seen: &Mutex<Vec<String>>,
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
            let answer = format!(
                "HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            return client.write_all(answer.as_bytes()).await;
        }
        _ => {}
    }
    let mut server = BufReader::new(TcpStream::connect(server).await?);
    server.write_all(&closing(&head)).await?;
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
