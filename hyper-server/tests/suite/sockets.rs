//! What only a real socket shows: heads on the wire, slow clients, HTTP/2, the end.

use super::support::{memory, noise};
use futures::StreamExt as _;
use hyper_sdk::Digest;
use hyper_server::{Limits, RegistryOptions, RunningServer, Server, ServerOptions};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn server(registry: RegistryOptions, options: ServerOptions) -> RunningServer {
    Server::start(memory(), "127.0.0.1:0".parse().unwrap(), registry, options).await.unwrap()
}

async fn plain() -> RunningServer {
    server(RegistryOptions::default(), ServerOptions::default()).await
}

fn short(time: u64) -> ServerOptions {
    let time = Duration::from_millis(time);
    ServerOptions {
        header_timeout: time,
        write_timeout: time,
        drain_timeout: time,
        ..ServerOptions::default()
    }
}

/// Sends text on a new connection and returns everything that comes until the server closes it.
async fn exchange(server: &RunningServer, text: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn push(server: &RunningServer, content: &[u8]) -> String {
    let digest = Digest::sha256(content);
    let client = reqwest::Client::new();
    let url = format!("{}/v2/a/blobs/uploads/?digest={digest}", server.url());
    assert_eq!(client.post(url).body(content.to_vec()).send().await.unwrap().status(), 201);
    format!("/v2/a/blobs/{digest}")
}

#[tokio::test]
async fn head_has_the_length_of_the_body_that_get_would_send() {
    let server = plain().await;
    for size in [5usize, 1_000_000] {
        let path = push(&server, &noise(1, size)).await;
        let head =
            exchange(&server, &format!("HEAD {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains(&format!("\r\ncontent-length: {size}\r\n")), "{head}");
        assert!(head.ends_with("\r\n\r\n"));
    }
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for path in ["/v2/", "/readyz", "/v2/none/manifests/x", "/v2/_catalog"] {
        let answer =
            |method: &str| format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let length = |text: &str| {
            let line = text.lines().find(|l| l.starts_with("content-length:")).unwrap_or_default().to_owned();
            assert!(!line.is_empty(), "{path}: {text}");
            line
        };
        let (get, head) = (exchange(&server, &answer("GET")).await, exchange(&server, &answer("HEAD")).await);
        assert_eq!(length(&get), length(&head), "{path}");
        assert!(head.ends_with("\r\n\r\n"), "{path}: {head}");
        // The library of the client resets a stream that has a body after HEAD.
        let response = http2.head(format!("{}{path}", server.url())).send().await.unwrap();
        assert_eq!(response.version(), http::Version::HTTP_2);
        let sent = response.headers()["content-length"].to_str().unwrap().to_owned();
        assert_eq!(length(&get), format!("content-length: {sent}"), "{path}");
        assert_eq!(response.bytes().await.unwrap(), "", "{path}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn one_port_serves_http1_and_http2_with_prior_knowledge() {
    let server = plain().await;
    let content = noise(2, 3_000_000);
    let path = push(&server, &content).await;
    let url = format!("{}{path}", server.url());
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let response = http2.get(&url).send().await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    assert_eq!(response.bytes().await.unwrap(), content);
    let response = reqwest::get(&url).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_11);
    assert_eq!(response.bytes().await.unwrap(), content);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_server_closes_a_connection_whose_head_never_ends() {
    let server = server(RegistryOptions::default(), short(300)).await;
    let start = Instant::now();
    for beginning in ["", "PRI", "GET /v2/ HT", "GET /v2/ HTTP/1.1\r\nhost: x\r\nx-slow:"] {
        let answer = exchange(&server, beginning).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{beginning}: {answer}");
    }
    assert!(start.elapsed() < Duration::from_secs(5));
    let idle = exchange(&server, "GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(idle.starts_with("HTTP/1.1 200"), "an idle connection is closed after its answer");
    server.stop().await.unwrap();
}

/// Reads one response to `GET /v2/`.
async fn answer_of(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let reading = async {
        while !answer.ends_with(b"{}") {
            let mut part = [0; 512];
            let length = stream.read(&mut part).await.unwrap();
            assert!(length > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&part[..length]);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// The buffers of a quiet connection are given back, and made again when it goes on.
#[tokio::test]
async fn a_client_may_be_quiet_before_within_and_between_requests() {
    let server = plain().await;
    let pause = Duration::from_millis(450);
    let request = "GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let parts = [
        (request.to_owned(), 1),
        (request[..1].to_owned(), 0),
        (request[1..].to_owned(), 1),
        (request[..20].to_owned(), 0),
        // Two at once, and half of the next one.
        (format!("{}{request}{}", &request[20..], &request[..9]), 2),
        (request[9..].to_owned(), 1),
        (format!("\r\n{request}"), 1),
    ];
    for (part, answers) in parts {
        tokio::time::sleep(pause).await;
        stream.write_all(part.as_bytes()).await.unwrap();
        for _ in 0..answers {
            // Answers to requests that came together may come together.
            let answer = answer_of(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{part:?}: {answer}");
            if answer.matches("HTTP/1.1 200").count() == answers {
                break;
            }
        }
    }
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    assert_eq!(server.registry().connections().accepted(), 1);
    server.stop().await.unwrap();
}

/// What is in a body is no request, however long the client pauses there and whoever reads it.
#[tokio::test]
async fn a_body_may_be_read_after_its_response() {
    let (bodies, mut read) = tokio::sync::mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let bodies = bodies.clone();
        async move {
            let target = request.uri().path().to_owned();
            let length = request.headers().get("content-length").map(|value| value.to_str().unwrap());
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            tokio::spawn(async move {
                let mut parts = axum::body::Body::new(request.into_body()).into_data_stream();
                let mut body = Vec::new();
                // hyper ends the stream with the next request alone.
                while body.len() < length {
                    body.extend_from_slice(&parts.next().await.unwrap().unwrap());
                }
                bodies.send((target, body)).unwrap();
            });
            Ok::<_, std::convert::Infallible>(http::Response::new(axum::body::Body::from("{}")))
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let options = short(2000);
    let task = tokio::spawn(hyper_server::serve(listener, service, options, std::future::pending()));
    let inner = "GET /inner HTTP/1.1\r\nhost: x\r\n\r\n";
    let length = 6 * inner.len();
    let head = format!("POST /own HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    answer_of(&mut stream).await;
    // Longer than the time for a head.
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(450)).await;
        stream.write_all(inner.as_bytes()).await.unwrap();
    }
    let (target, body) = tokio::time::timeout(Duration::from_secs(10), read.recv()).await.unwrap().unwrap();
    assert_eq!((target.as_str(), body), ("/own", inner.repeat(6).into_bytes()));
    stream.write_all(b"GET /next HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = answer_of(&mut stream).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    assert_eq!(read.recv().await.unwrap().0, "/next");
    assert!(read.try_recv().is_err(), "what is in a body was taken for a request");
    // Whoever says nothing after a body has the time for a head.
    stream.write_all(b"POST /last HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").await.unwrap();
    answer_of(&mut stream).await;
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0; 9])).await;
    assert_eq!(ended.unwrap().unwrap(), 0);
    task.abort();
}

#[tokio::test]
async fn a_quiet_client_that_dribbles_gets_no_further_time() {
    let server = server(RegistryOptions::default(), short(1500)).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    answer_of(&mut stream).await;
    let start = Instant::now();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut rest = Vec::new();
    for byte in b"GET /v2/ HTTP/1.1\r\nhost: x\r\nx-slow: 12345678901234567890".chunks(1) {
        if stream.write_all(byte).await.is_err() {
            break;
        }
        let ended = tokio::time::timeout(Duration::from_millis(100), stream.read_to_end(&mut rest)).await;
        if ended.is_ok() {
            break;
        }
    }
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1200) && took < Duration::from_millis(2500), "{took:?}");
    assert!(rest.is_empty());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_preface_of_http2_may_come_in_parts() {
    let server = plain().await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    for part in ["P", "RI * HTTP/2.0\r\n", "\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        stream.write_all(part.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let mut head = [0; 9];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!((head[3], &head[5..]), (4, &[0; 4][..]), "the first frame is SETTINGS: {head:?}");
    drop(stream);
    // What only begins like it is a request of HTTP/1.
    let answer = exchange(&server, "PRI * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn stop_waits_for_no_quiet_connection() {
    let server = plain().await;
    let mut asked = TcpStream::connect(server.address()).await.unwrap();
    asked.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    answer_of(&mut asked).await;
    let connect = || TcpStream::connect(server.address());
    let (mut silent, mut half) = (connect().await.unwrap(), connect().await.unwrap());
    half.write_all(b"GET /v2/ H").await.unwrap();
    let mut more = connect().await.unwrap();
    more.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\nGET /v2/ H").await.unwrap();
    answer_of(&mut more).await;
    tokio::time::sleep(Duration::from_millis(450)).await;
    let mut later = connect().await.unwrap();
    later.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    answer_of(&mut later).await;
    tokio::time::sleep(Duration::from_millis(450)).await;
    later.write_all(b"GET /v2/ H").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let start = Instant::now();
    server.stop().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    for stream in [&mut asked, &mut silent, &mut half, &mut more, &mut later] {
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_body_that_times_out_gets_408_and_its_bytes_are_kept() {
    let limits = Limits { body_idle: Duration::from_millis(200), ..Limits::default() };
    let server =
        server(RegistryOptions { limits, ..RegistryOptions::default() }, ServerOptions::default()).await;
    let client = reqwest::Client::new();
    let start = client.post(format!("{}/v2/a/blobs/uploads/", server.url())).send().await.unwrap();
    let location = start.headers()["location"].to_str().unwrap().to_owned();
    let answer =
        exchange(&server, &format!("PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc"))
            .await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let status = client.get(format!("{}{location}", server.url())).send().await.unwrap();
    assert_eq!(status.headers()["range"], "0-2");
    // The client is late wherever it is, and the registry has not failed.
    let digest = Digest::sha256("x");
    for head in [
        "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked".to_owned(),
        format!("POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nhost: x\r\ncontent-length: 1"),
        format!("PUT {location}?digest={digest} HTTP/1.1\r\nhost: x\r\ncontent-length: 9"),
        "PUT /v2/a/manifests/x HTTP/1.1\r\nhost: x\r\ncontent-length: 9".to_owned(),
    ] {
        let answer = exchange(&server, &format!("{head}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{head}: {answer}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_upload_resumes_after_its_client_disconnected() {
    let server = plain().await;
    let client = reqwest::Client::new();
    let start = client.post(format!("{}/v2/a/blobs/uploads/", server.url())).send().await.unwrap();
    let location = start.headers()["location"].to_str().unwrap().to_owned();
    let content = noise(4, 2_000_000);
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", content.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&content[..1_500_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    let url = format!("{}{location}", server.url());
    let mut offset = 0;
    for _ in 0..100 {
        let status = client.get(&url).send().await.unwrap();
        if status.status() == 204 {
            offset = status.headers()["range"].to_str().unwrap()[2..].parse::<usize>().unwrap() + 1;
            if offset == 1_500_000 {
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(offset, 1_500_000);
    let digest = Digest::sha256(&content);
    let rest = client
        .put(format!("{url}?digest={digest}"))
        .header("content-range", format!("{offset}-{}", content.len() - 1))
        .body(content[offset..].to_vec())
        .send()
        .await
        .unwrap();
    assert_eq!(rest.status(), 201);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_server_closes_the_connection_of_a_client_that_does_not_read() {
    let options = ServerOptions { write_timeout: Duration::from_millis(300), ..ServerOptions::default() };
    let server = server(RegistryOptions::default(), options).await;
    let path = push(&server, &vec![1; 40_000_000]).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut received = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut received)).await;
    assert!(ended.is_ok(), "the connection is still open");
    assert!(
        received.len() < 40_000_000,
        "the whole blob came: the buffers of the system are too large to tell"
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn connections_above_the_limit_wait() {
    let options = ServerOptions { max_connections: 2, ..ServerOptions::default() };
    let server = server(RegistryOptions::default(), options).await;
    let first = TcpStream::connect(server.address()).await.unwrap();
    let _second = TcpStream::connect(server.address()).await.unwrap();
    let mut third = TcpStream::connect(server.address()).await.unwrap();
    third.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let waited = tokio::time::timeout(Duration::from_millis(300), third.read_to_end(&mut answer)).await;
    assert!(waited.is_err(), "a third connection was served");
    drop(first);
    tokio::time::timeout(Duration::from_secs(5), third.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn stop_answers_requests_in_flight_and_accepts_no_connection() {
    let server = plain().await;
    let content = vec![3; 20_000_000];
    let path = push(&server, &content).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    let idle = TcpStream::connect(server.address()).await.unwrap();
    let address = server.address();
    let stopping = tokio::spawn(server.stop());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(TcpStream::connect(address).await.is_err(), "a new connection was accepted");
    assert!(!stopping.is_finished());
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(&content[..1000]) && rest.len() > content.len());
    drop(idle);
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn stop_ends_after_the_drain_timeout() {
    let server = server(
        RegistryOptions::default(),
        ServerOptions { drain_timeout: Duration::from_millis(300), ..ServerOptions::default() },
    )
    .await;
    let mut stuck = TcpStream::connect(server.address()).await.unwrap();
    stuck
        .write_all(b"PUT /v2/a/manifests/x HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    server.stop().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(3));
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(5), stuck.read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "the connection outlived its server");
}
