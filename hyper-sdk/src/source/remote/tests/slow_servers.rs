//! Tests with web servers that accept and send nothing, stall within the file, or send it slowly.

use super::super::*;
use crate::ErrorKind;
use crate::progress::Event;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A server that answers the first `bad` requests with `head` and then with nothing, or with one byte after each pause.
fn server(bad: usize, head: &'static str, pause: Option<Duration>) -> (String, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let number = count.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                if number >= bad {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood");
                    return;
                }
                let _ = stream.write_all(head.as_bytes());
                while stream.write_all(if pause.is_some() { b"x" } else { b"" }).is_ok() {
                    std::thread::sleep(pause.unwrap_or(Duration::from_secs(1)));
                }
            });
        }
    });
    (format!("http://{address}/file"), seen)
}

async fn fetch(url: &str) -> (Result<Option<Fetched>>, Vec<String>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (progress, mut events) = Progress::channel();
    let idle_timeout = Some(Duration::from_millis(100));
    let options = RemoteOptions { idle_timeout, progress, ..RemoteOptions::default() };
    let source = WebSource { url: url.to_owned(), file_name: "file".to_owned(), checksum: None };
    let fetched = RemoteSources::new(folder.path(), options).fetch(&SourceOp::Web(source)).await;
    let messages = std::iter::from_fn(|| events.try_recv().ok()).filter_map(|event| match event {
        Event::Warning { message, .. } => Some(message),
        _ => None,
    });
    (fetched, messages.collect(), folder)
}

#[tokio::test]
async fn a_fetch_is_retried_until_the_server_recovers() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nstart";
    let drops = Some(Duration::from_millis(20));
    for (head, pause, why) in [
        ("", None, "does not answer"),
        ("HTTP/1.1 200 OK\r\nA: ", drops, "does not answer"),
        (HEAD, None, "fell silent"),
        (HEAD, drops, "too slowly"),
    ] {
        let (url, seen) = server(2, head, pause);
        let (fetched, messages, _folder) = fetch(&url).await;
        let path = fetched.unwrap().unwrap().path;
        assert_eq!(std::fs::read(path.join("file")).unwrap(), b"good");
        assert_eq!((messages.len(), seen.load(Ordering::SeqCst)), (2, 3), "{messages:?}");
        assert!(messages[0].contains(why) && messages[1].contains("attempt 3 of 4"), "{messages:?}");

        let (url, seen) = server(usize::MAX, head, pause);
        let (fetched, messages, folder) = fetch(&url).await;
        let e = fetched.unwrap_err();
        assert_eq!(
            (e.kind(), messages.len(), seen.load(Ordering::SeqCst)),
            (ErrorKind::Timeout, 3, 4),
            "{e}"
        );
        let left: Vec<_> = std::fs::read_dir(folder.path().join("web")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn an_unreachable_server_is_retried_once() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (fetched, messages, _folder) = fetch(&format!("http://{free}/file")).await;
    assert_eq!(fetched.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(messages.len() == 1 && messages[0].contains("attempt 2 of 2"), "{messages:?}");
}

/// Nobody waits for the rest of what is no context.
#[tokio::test]
async fn a_context_that_is_damaged_ends_its_download() {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", &b""[..]).unwrap();
    let damaged = format!("{}{}", String::from_utf8_lossy(&tar.get_ref()[..512]), "x".repeat(4096));
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n{damaged}");
    let (url, seen) = server(usize::MAX, head.leak(), None);
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let options = RemoteOptions { idle_timeout: Some(Duration::from_secs(5)), ..RemoteOptions::default() };
    let sources = RemoteSources::new(folder.path(), options);
    let e = sources.context(&url, scratch.path()).await.unwrap_err();
    assert_eq!((e.kind(), seen.load(Ordering::SeqCst)), (ErrorKind::Invalid, 1), "{e}");
    for folder in [scratch.path(), &folder.path().join("web")] {
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "{folder:?}");
    }
}

/// Fetches a repository from a server that sends this again and again, with a pause between.
async fn fetch_git(start: &'static str, more: &'static str, pause: Duration) -> Option<crate::Error> {
    let version = std::process::Command::new("git").arg("--version").output();
    if version.is_err() {
        println!("SKIPPED: there is no git");
        return None;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let remote = format!("git://{}/r.git", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(start.as_bytes());
                while stream.write_all(more.as_bytes()).is_ok() {
                    std::thread::sleep(pause);
                }
            });
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let options =
        RemoteOptions { idle_timeout: Some(Duration::from_millis(500)), ..RemoteOptions::default() };
    let source = GitSource {
        remote,
        reference: None,
        checksum: None,
        subdir: None,
        keep_git_dir: false,
        submodules: true,
        fetch_by_commit: false,
    };
    let fetched = RemoteSources::new(folder.path(), options).git(&source).await;
    let left: Vec<_> = std::fs::read_dir(folder.path().join("checkouts")).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    Some(fetched.unwrap_err())
}

#[tokio::test]
async fn a_git_server_that_is_silent_slow_or_endless_is_an_error() {
    // A line of the list of branches, and the beginning of the longest possible line.
    const BRANCH: &str = "003c00112233445566778899aabbccddeeff00112233 refs/heads/abc\n";
    let flood: &'static str = Box::leak(BRANCH.repeat(4000).into_boxed_str());
    let (minute, drops) = (Duration::from_secs(60), Duration::from_millis(100));
    for (start, more, pause, kind, why) in [
        ("", "", minute, ErrorKind::Timeout, "is silent"),
        (BRANCH, "", minute, ErrorKind::Timeout, "is silent"),
        ("fff0", "x", drops, ErrorKind::Timeout, "too slowly"),
        ("", flood, Duration::ZERO, ErrorKind::TooLarge, "too many branches"),
    ] {
        let Some(e) = fetch_git(start, more, pause).await else { return };
        assert_eq!(e.kind(), kind, "{e:?}");
        assert!(e.to_string().contains(why) && e.to_string().contains("git://127.0.0.1"), "{e}");
    }
}
