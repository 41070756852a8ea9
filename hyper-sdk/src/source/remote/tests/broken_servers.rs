//! Tests with web servers that close the connection within the file, and the requests that follow.

use super::super::*;
use crate::Digest;
use std::io::{Read as _, Write as _};
use std::sync::Mutex as Locked;

/// The headers `Range` and `If-Range` of a request.
type Asked = (Option<String>, Option<String>);

/// A server that sends one response on each connection, in order, and closes the connection.
fn server(answers: Vec<Vec<u8>>) -> (String, Arc<Locked<Vec<Asked>>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Locked::new(Vec::new()));
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut request = Vec::new();
            let mut block = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut block) {
                    Ok(count) if count > 0 => request.extend_from_slice(&block[..count]),
                    _ => break,
                }
            }
            let text = String::from_utf8_lossy(&request).into_owned();
            let header = |name: &str| {
                let line = text.lines().find(|line| line.to_lowercase().starts_with(name))?;
                Some(line[name.len()..].trim().to_owned())
            };
            seen.lock().unwrap().push((header("range:"), header("if-range:")));
            let _ = stream.write_all(&answer);
        }
    });
    (format!("http://{address}/file"), asked)
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n{body}").into_bytes()
}

const WHOLE: &str = "0123456789";
const OLD: &str = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

/// The beginning of the file, with these headers.
fn start(headers: &str) -> Vec<u8> {
    answer("200 OK", &format!("Content-Length: 10\r\n{headers}"), "0123")
}

fn part(range: &str, length: usize, body: &str) -> Vec<u8> {
    answer(
        "206 Partial Content",
        &format!("Content-Range: bytes {range}\r\nContent-Length: {length}\r\nETag: \"x\"\r\n"),
        body,
    )
}

fn whole(body: &str) -> Vec<u8> {
    answer("200 OK", &format!("Content-Length: {}\r\n", body.len()), body)
}

/// Fetches a file from a server; the second value has the range headers of each request.
async fn fetch(answers: Vec<Vec<u8>>, checksum: Option<Digest>) -> (String, Vec<Asked>) {
    let count = answers.len();
    let (url, asked) = server(answers);
    let folder = tempfile::tempdir().unwrap();
    let source = WebSource { url, file_name: "file".to_owned(), checksum };
    let sources = RemoteSources::new(folder.path(), RemoteOptions::default());
    let fetched = sources.fetch(&SourceOp::Web(source)).await.unwrap().unwrap();
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.len(), count, "{asked:?}");
    assert_eq!(asked[0], (None, None));
    let left = std::fs::read_dir(folder.path().join("web")).unwrap().flatten();
    assert_eq!(left.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count(), 0);
    (std::fs::read_to_string(fetched.path.join("file")).unwrap(), asked)
}

#[tokio::test]
async fn a_download_continues_when_the_server_gives_a_validator() {
    let rest = |at: &str, name: &str| (Some(format!("bytes={at}-")), Some(name.to_owned()));
    let tag = "ETag: \"x\"\r\n";
    let (text, asked) = fetch(vec![start(tag), part("4-9/10", 6, "456789")], None).await;
    assert_eq!((text.as_str(), &asked[1]), (WHOLE, &rest("4", "\"x\"")));
    // A time of the last change, from a server that supports ranges.
    let headers = format!("{OLD}Accept-Ranges: bytes\r\n");
    let answers = vec![
        start(&headers),
        answer("206 Partial Content", "Content-Range: bytes 4-9/*\r\nContent-Length: 6\r\n", "456789"),
    ];
    let (text, asked) = fetch(answers, None).await;
    assert_eq!((text.as_str(), &asked[1]), (WHOLE, &rest("4", "Sun, 06 Nov 1994 08:49:37 GMT")));
    // A second break, and a range shorter than requested.
    for second in [part("4-9/10", 6, "45"), part("4-5/10", 2, "45")] {
        let (text, asked) = fetch(vec![start(tag), second, part("6-9/10", 4, "6789")], None).await;
        assert_eq!((text.as_str(), &asked[1], &asked[2]), (WHOLE, &rest("4", "\"x\""), &rest("6", "\"x\"")));
    }
    // The file has changed in the meantime.
    let (text, asked) = fetch(vec![start(tag), whole("changed")], None).await;
    assert_eq!((text.as_str(), &asked[1]), ("changed", &rest("4", "\"x\"")));
}

#[tokio::test]
async fn a_download_restarts_when_it_cannot_continue() {
    let fresh = format!(
        "Last-Modified: {}\r\nAccept-Ranges: bytes\r\n",
        httpdate::fmt_http_date(std::time::SystemTime::now())
    );
    for headers in [
        "",
        "ETag: W/\"x\"\r\n",
        OLD,
        &fresh,
        "ETag: \"x\"\r\nAccept-Ranges: none\r\n",
        "ETag: \"x\"\r\nContent-Encoding: identity\r\n",
    ] {
        let (text, asked) = fetch(vec![start(headers), whole(WHOLE)], None).await;
        assert_eq!((text.as_str(), &asked[1]), (WHOLE, &(None, None)), "{headers}");
    }
    let tag = "ETag: \"x\"\r\n";
    for second in [
        part("5-9/10", 5, "56789"),
        part("4-9/11", 6, "456789"),
        answer("206 Partial Content", "Content-Length: 6\r\n", "456789"),
        answer(
            "206 Partial Content",
            "Content-Range: bytes 4-9/10\r\nETag: \"y\"\r\nContent-Length: 6\r\n",
            "456789",
        ),
        answer("416 Range Not Satisfiable", "Content-Length: 0\r\n", ""),
    ] {
        let shown = String::from_utf8_lossy(&second).into_owned();
        let (text, asked) = fetch(vec![start(tag), second, whole(WHOLE)], None).await;
        assert_eq!((text.as_str(), &asked[2]), (WHOLE, &(None, None)), "{shown}");
    }
    // A rest that does not match the beginning, although the server says so.
    let checksum = Some(Digest::sha256(WHOLE));
    let (text, asked) = fetch(vec![start(tag), part("4-9/10", 6, "abcdef"), whole(WHOLE)], checksum).await;
    assert_eq!((text.as_str(), &asked[2]), (WHOLE, &(None, None)));
}
