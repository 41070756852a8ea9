//! Registries, web servers, git servers and archives that mean harm: each ends with an error that says who and what, in
//! bounded memory, and leaves nothing half made behind.

use crate::peers::{Head, Peer, Registry, Wire};
use crate::support::{Place, find, skip, told};
use hyper_sdk::Digest;
use std::io::{Result, Write as _};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most memory that the program may take, in KiB.
const MEMORY: u64 = 600 << 10;

/// What a program said that has to end by itself and to keep within its memory.
fn ended(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse().ok());
        most = most.max(peak.unwrap_or(0));
        if started.elapsed() > Duration::from_secs(150) || most > MEMORY {
            child.kill().unwrap();
            panic!("it hangs, or takes {most} KiB: {command:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

fn refused(place: &Place, command: Command, why: &[&str]) -> String {
    let output = ended(command);
    assert!(output.status.code() == Some(1), "{}", told(&output));
    for part in why {
        assert!(told(&output).contains(part), "`{part}` is missing: {}", told(&output));
    }
    for folder in ["store/uploads", "sources/web", "scratch"] {
        let left: Vec<_> = std::fs::read_dir(place.join("state").join(folder))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
    told(&output)
}

type Fault = Box<dyn Fn(&Head, &mut Wire) -> Option<Result<()>> + Send + Sync>;

/// A registry with the image `app:1`, some of whose answers are replaced by faulty ones.
fn registry(fault: Fault) -> Peer {
    let registry = Arc::new(Registry::default());
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
        Digest::sha256(config),
        config.len(),
        layer(),
        LAYER.len()
    );
    registry.put("app", config);
    registry.put("app", LAYER);
    registry.put_manifest("app", "1", "application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    Peer::start(move |head, wire| fault(head, wire).unwrap_or_else(|| registry.answer(head, wire)))
}

const LAYER: &[u8] = &[0; 10_240];

fn layer() -> String {
    Digest::sha256(LAYER).to_string()
}

/// A fault in the answers to one kind of request.
fn at(
    method: &'static str,
    part: &'static str,
    fault: impl Fn(&Head, &mut Wire) -> Result<()> + Send + Sync + 'static,
) -> Fault {
    Box::new(move |head, wire| head.is(method, part).then(|| fault(head, wire)))
}

/// A fault in the answers to requests for the layer.
fn of_layer(fault: impl Fn(&Head, &mut Wire) -> Result<()> + Send + Sync + 'static) -> Fault {
    Box::new(move |head, wire| head.is("GET", &layer()).then(|| fault(head, wire)))
}

/// A manifest of this text, whatever its digest, and nothing to learn from its head.
fn manifest(text: impl AsRef<str>) -> Fault {
    let text = text.as_ref().to_owned();
    let what = if text.contains(r#""manifests""#) { "index" } else { "manifest" };
    Box::new(move |head, wire| {
        let kind = format!("Content-Type: application/vnd.oci.image.{what}.v1+json");
        match head.target.contains("/manifests/") {
            true if head.method == "HEAD" => Some(wire.answer(405, "", "")),
            true => Some(wire.answer(200, &kind, &text)),
            false => None,
        }
    })
}

fn index(entries: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{entries}]}}"#
    )
}

/// Faults of manifests, each with its name and what the error says.
fn manifest_faults() -> Vec<(&'static str, Fault, &'static str)> {
    let nested = format!(r#"{{"schemaVersion":2,"x":{}1{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    let unknown = format!("sha256:{}", "0".repeat(64));
    let lying = format!(
        r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":5,"platform":{{"os":"linux","architecture":"{}"}}}}"#,
        Digest::sha256(LAYER),
        hyper_sdk::platform::Platform::host().architecture
    );
    vec![
        (
            "a manifest without end",
            at("GET", "/manifests/", |_, wire| {
                wire.head(
                    200,
                    "Content-Type: application/vnd.oci.image.manifest.v1+json\nTransfer-Encoding: chunked",
                )?;
                wire.send("\r\n")?;
                wire.flood(format!("8000\r\n{}\r\n", " ".repeat(0x8000)))
            }),
            "above the limit",
        ),
        (
            "headers without end",
            at("GET", "/manifests/", |_, wire| {
                wire.head(200, "")?;
                wire.flood("X-A: b\r\n".repeat(1000))
            }),
            "message head is too large",
        ),
        (
            "a header line without end",
            at("GET", "/manifests/", |_, wire| {
                wire.send("HTTP/1.1 200 OK\r\nX-A: ")?;
                wire.flood("b".repeat(1 << 16))
            }),
            "message head is too large",
        ),
        ("no HTTP", at("GET", "/manifests/", |_, wire| wire.flood("noise ".repeat(1000))), "invalid HTTP"),
        (
            "another manifest",
            at("GET", "/manifests/", |_, wire| {
                wire.answer(200, "Content-Type: application/vnd.oci.image.manifest.v1+json", "{}")
            }),
            "does not match its digest",
        ),
        (
            "redirects in a circle",
            at("GET", "/manifests/", |head, wire| {
                wire.answer(302, &format!("Location: {}", head.target), "")
            }),
            "redirects too often",
        ),
        (
            "a redirect to a file",
            at("GET", "/manifests/", |_, wire| wire.answer(302, "Location: file:///etc/passwd", "")),
            "an address of another scheme",
        ),
        (
            "a redirect to nowhere",
            at("GET", "/manifests/", |_, wire| wire.answer(302, "Location: http://[", "")),
            "redirects without a valid location",
        ),
        ("nested JSON", manifest(nested), "recursion limit exceeded"),
        ("no JSON", manifest("<html>"), "manifest"),
        (
            "sizes below nothing",
            manifest(
                r#"{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":-1},"layers":[]}"#,
            ),
            "size",
        ),
        ("an index of other things", manifest(index(&lying)), "does not match its digest"),
        ("an index of nothing", manifest(index("")), "platform"),
        (
            "many entries that are not there",
            manifest(index(&format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{unknown}","size":5,"platform":{{"os":"linux","architecture":"sparc"}}}}"#
            ))),
            "platform",
        ),
    ]
}

/// Faults of layers, each with its name and what the error says.
fn layer_faults() -> Vec<(&'static str, Fault, &'static str)> {
    vec![
        (
            "another layer",
            of_layer(|_, wire| wire.answer(200, "", vec![1; LAYER.len()])),
            "does not match its digest",
        ),
        (
            "a shorter layer",
            of_layer(|_, wire| wire.answer(200, "", "short")),
            "another size than its descriptor",
        ),
        (
            "a longer layer",
            of_layer(|_, wire| {
                wire.head(200, "Content-Length: 1000000000000000")?;
                wire.send("\r\n")?;
                wire.flood(vec![0; 1 << 16])
            }),
            "size",
        ),
        (
            "a layer of unsaid length without end",
            of_layer(|_, wire| {
                wire.head(200, "Transfer-Encoding: chunked")?;
                wire.send("\r\n")?;
                wire.flood(format!("8000\r\n{}\r\n", "x".repeat(0x8000)))
            }),
            "does not match its digest",
        ),
        (
            "impossible ranges",
            of_layer(|_, wire| wire.answer(206, "Content-Range: bytes 5-18446744073709551615/*", "hello")),
            "another",
        ),
        (
            "a compressed layer",
            of_layer(|_, wire| wire.answer(200, "Content-Encoding: gzip", vec![1; LAYER.len()])),
            "content-encoding: gzip",
        ),
        (
            "an error without end",
            of_layer(|_, wire| {
                wire.head(404, "Transfer-Encoding: chunked")?;
                wire.send("\r\n")?;
                wire.flood(format!("8000\r\n{}\r\n", "\u{1b}[31mx".repeat(0x8000 / 6)))
            }),
            "does not have this blob",
        ),
    ]
}

#[test]
fn a_pull_from_a_hostile_registry_is_an_error_with_host_and_reason() {
    let faults = manifest_faults().into_iter().chain(layer_faults());
    std::thread::scope(|scope| {
        for (name, fault, why) in faults {
            scope.spawn(move || {
                let (peer, place) = (registry(fault), Place::new());
                let command = place.hyper(&["pull", &format!("{}/app:1", peer.host)]);
                let said = refused(&place, command, &[why, &peer.host]);
                assert!(!said.contains('\u{1b}') && said.len() < 5000, "{name}: {said}");
                assert!(place.ok(&["images"]).lines().count() <= 1, "{name}");
            });
        }
    });
}

#[test]
fn hostile_token_servers_get_no_credentials() {
    fn challenge(text: impl Into<String>) -> Fault {
        let text = text.into();
        Box::new(move |head, wire| match head.target.starts_with("/token") {
            true => {
                let _ = wire.head(200, "Transfer-Encoding: chunked");
                let _ = wire.send("\r\n");
                Some(wire.flood(format!("8000\r\n{}\r\n", "x".repeat(0x8000))))
            }
            false => Some(wire.answer(401, &format!("WWW-Authenticate: {text}"), "")),
        })
    }
    let odd = format!(r#"Bearer realm="/token",{}x="\\"#, "scope=\"ä\",".repeat(3000));
    for (fault, why) in [
        (challenge(r#"Bearer realm="/token""#), "above the limit"),
        (challenge(r#"Bearer realm="file:///etc/passwd""#), "token server"),
        (challenge(r#"Bearer realm="http://auth.example/token""#), "a token server without TLS"),
        (challenge(odd), "names no supported way to authenticate"),
        (challenge("Negotiate YII="), "names no supported way to authenticate"),
        (challenge("Basic realm=\"\u{7f}\""), "invalid HTTP header"),
    ] {
        let (peer, place) = (registry(fault), Place::new());
        // Whatever went out to another host would come here.
        let proxy = Peer::start(|_, wire| wire.answer(200, "", r#"{"token":"t"}"#));
        let config = format!(r#"{{"auths":{{"{}":{{"auth":"am9lOnNlY3JldA=="}}}}}}"#, peer.host);
        place.write("home/.docker/config.json", &config);
        let mut command = place.hyper(&["pull", &format!("{}/app:1", peer.host)]);
        command.env("HTTP_PROXY", format!("http://{}", proxy.host)).env("NO_PROXY", "127.0.0.1");
        refused(&place, command, &[why, &peer.host]);
        assert!(proxy.seen().is_empty(), "{:?}", proxy.seen());
    }
}

#[test]
fn credentials_are_sent_only_to_their_registry() {
    let other = Peer::start(|head, wire| match head.target.contains(&layer()) {
        true => wire.answer(200, "", LAYER),
        false => wire.answer(404, "", ""),
    });
    let to = other.host.replace("127.0.0.1", "localhost");
    let location = to.clone();
    let peer = registry(Box::new(move |head, wire| match head.header("authorization") {
        "" => Some(wire.answer(401, "WWW-Authenticate: Basic realm=x", "")),
        _ if head.is("GET", &layer()) => {
            Some(wire.answer(307, &format!("Location: http://{location}{}", head.target), ""))
        }
        _ => None,
    }));
    let place = Place::new();
    let config = format!(r#"{{"auths":{{"{}":{{"auth":"am9lOnNlY3JldA=="}}}}}}"#, peer.host);
    place.write("home/.docker/config.json", &config);
    place.ok(&["pull", "-q", &format!("{}/app:1", peer.host)]);
    // The same with a file of the web.
    let web = Peer::start(move |_, wire| wire.answer(302, &format!("Location: http://{to}/{}", layer()), ""));
    let file = place.write("Dockerfile", &format!("FROM scratch\nADD http://{}/file /\n", web.host));
    std::fs::create_dir_all(place.join("context")).unwrap();
    let secret = format!("id=HTTP_AUTH_TOKEN_{},env=TOKEN", web.host);
    let mut command = place.hyper(&["build", "--secret", &secret, "-f", file.to_str().unwrap(), "context"]);
    let output = ended({
        command.env("TOKEN", "private");
        command
    });
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(web.seen()[0].header("authorization"), "Bearer private");
    assert!(other.seen().len() >= 2);
    for head in other.seen() {
        assert_eq!(head.header("authorization"), "", "{head:?}");
    }
}

#[test]
fn there_is_no_fallback_to_plain_http_without_the_flag() {
    // A proxy in place of the network: no TLS anywhere, and a registry in plain HTTP for every name.
    let inner = Registry::default();
    let proxy = Peer::start(move |head, wire| {
        if head.method == "CONNECT" {
            return wire.answer(502, "", "");
        }
        let target = head.target.strip_prefix("http://").unwrap_or_default();
        let path = format!("/{}", target.split_once('/').map_or("", |(_, path)| path));
        if head.header("authorization").is_empty() {
            return wire.answer(401, "WWW-Authenticate: Basic realm=x", "");
        }
        inner.answer(&Head { target: path, ..head.clone() }, wire)
    });
    let place = Place::new();
    let auths: Vec<String> = ["one.example", "two.example"]
        .map(|host| format!(r#""{host}":{{"auth":"am9lOnNlY3JldA=="}}"#))
        .into();
    place.write("home/.docker/config.json", &format!(r#"{{"auths":{{{}}}}}"#, auths.join(",")));
    place.write("context/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let build = |outputs: &[&str]| {
        let mut command = place.hyper(&["build"]);
        for output in outputs {
            command.args(["-o", output]);
        }
        command.arg("context").env("HTTP_PROXY", format!("http://{}", proxy.host));
        ended({
            command.env("HTTPS_PROXY", format!("http://{}", proxy.host));
            command
        })
    };
    let plain = "type=image,name=one.example/app:1,push=true,registry.insecure=true";
    let strict = "type=image,name=two.example/app:1,push=true";
    let output = build(&[plain]);
    assert!(output.status.success(), "{}", told(&output));
    assert!(proxy.seen().iter().any(|head| head.is("PUT", "http://one.example/v2/app/manifests/1")));
    let output = build(&[strict]);
    assert!(!output.status.success() && told(&output).contains("two.example"), "{}", told(&output));
    let output = build(&[plain, strict]);
    assert!(!output.status.success(), "{}", told(&output));
    let seen = proxy.seen();
    assert!(seen.iter().any(|head| head.is("CONNECT", "two.example")));
    assert!(!seen.iter().any(|head| head.target.starts_with("http://two.example")), "{seen:?}");
}

#[test]
fn a_push_to_a_hostile_registry_is_an_error_with_host_and_reason() {
    let faults: Vec<(Fault, &str)> = vec![
        (
            at("POST", "/uploads/", |_, wire| wire.answer(202, "Location: file:///tmp/x", "")),
            "an address of another scheme",
        ),
        (at("POST", "/uploads/", |_, wire| wire.answer(202, "Location: http://[", "")), "not a URL"),
        (at("POST", "/uploads/", |_, wire| wire.answer(202, "", "")), "opened an upload without a location"),
        (
            at("HEAD", "/blobs/", |_, wire| {
                wire.head(200, "Content-Length: 18446744073709551615")?;
                wire.send("\r\n")
            }),
            "another size",
        ),
        (
            at("PUT", "/uploads/", |_, wire| {
                wire.answer(400, "", r#"{"errors":[{"code":"DIGEST_INVALID","message":"\u001b[31mwrong"}]}"#)
            }),
            "wrong",
        ),
        (
            at("PUT", "/uploads/", |_, wire| wire.answer(307, "Location: /v2/elsewhere", "")),
            "redirects an upload",
        ),
        (
            at("PUT", "/manifests/", |_, wire| {
                wire.head(201, "")?;
                wire.flood("X-A: b\r\n".repeat(1000))
            }),
            "message head is too large",
        ),
    ];
    std::thread::scope(|scope| {
        for (fault, why) in faults {
            scope.spawn(move || {
                let (peer, place) = (registry(fault), Place::new());
                place.write("context/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
                let name = format!("{}/new:1", peer.host);
                place.ok(&["build", "-q", "-t", &name, "context"]);
                let said = refused(&place, place.hyper(&["push", &name]), &[why, &peer.host]);
                assert!(!said.contains('\u{1b}'), "{said}");
            });
        }
    });
}

#[test]
fn a_download_from_a_hostile_web_server_is_an_error_with_host_and_reason() {
    type Answer = fn(&Head, &mut Wire) -> Result<()>;
    let answers: [(Answer, &str); 9] = [
        (
            |_, wire| wire.answer(200, "Content-Encoding: gzip", "not compressed"),
            "compressed with gzip, but sent something else",
        ),
        (
            |_, wire| wire.answer(200, "Content-Encoding: gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03"),
            "or a part of it",
        ),
        (|head, wire| wire.answer(302, &format!("Location: {}", head.target), ""), "too many redirects"),
        (|_, wire| wire.answer(302, "Location: file:///etc/passwd", ""), "leads nowhere"),
        (
            |_, wire| {
                wire.head(200, "Content-Length: 1000")?;
                wire.send("\r\nshort")
            },
            "trying again",
        ),
        (
            |_, wire| {
                wire.head(200, "Content-Length: 9223372036854775807")?;
                wire.send("\r\nshort")
            },
            "larger than 64 GiB",
        ),
        (
            |_, wire| {
                wire.head(200, "")?;
                wire.flood("X-A: b\r\n".repeat(1000))
            },
            "cannot be fetched",
        ),
        (|_, wire| wire.answer(304, "", ""), "a file did not change that was never fetched"),
        (|_, wire| wire.answer(206, "Content-Range: bytes 5-9/10", "parts"), "206"),
    ];
    std::thread::scope(|scope| {
        for (answer, why) in answers {
            scope.spawn(move || {
                let (peer, place) = (Peer::start(answer), Place::new());
                let text = format!("FROM scratch\nADD http://{}/file /\n", peer.host);
                place.write("context/Dockerfile", &text);
                refused(&place, place.hyper(&["build", "--progress=plain", "context"]), &[why, &peer.host]);
            });
        }
    });
}

#[test]
fn a_silent_git_server_times_out() {
    if find("git").is_none() {
        skip!("there is no git");
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("git://{}/r.git", listener.local_addr().unwrap());
    let held = std::thread::spawn(move || listener.accept());
    let place = Place::new();
    place.write("context/Dockerfile", &format!("FROM scratch\nADD {url} /\n"));
    refused(&place, place.hyper(&["build", "context"]), &["is silent", &url]);
    drop(held.join());
}

/// A tar of raw entries: kind, name, target of a link, content.
fn tar(entries: &[(u8, &[u8], &str, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (kind, name, link, content) in entries {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name);
        header[100..107].copy_from_slice(b"0000644");
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[136..147].copy_from_slice(b"00000000001");
        header[156] = *kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        all.extend_from_slice(&header);
        all.extend_from_slice(content);
        all.resize(all.len().next_multiple_of(512), 0);
    }
    all.extend([0; 1024]);
    all
}

/// Builds with a context on standard input.
fn build_of(place: &Place, context: &[u8]) -> Output {
    let path = place.join("context.tar");
    std::fs::write(&path, context).unwrap();
    let mut command = place.hyper(&["build", "-o", "type=local,dest=out", "-"]);
    command.stdin(std::fs::File::open(path).unwrap());
    ended(command)
}

#[test]
fn a_context_that_is_a_hostile_archive_changes_nothing_outside() {
    const DOCKERFILE: (u8, &[u8], &str, &[u8]) = (b'0', b"Dockerfile", "", b"FROM scratch\nCOPY . /all/\n");
    let deep = "a/".repeat(45);
    let pax = |record: &[u8]| [format!("{} ", record.len() + 4).as_bytes(), record, b"\n"].concat();
    let bad_record = pax(b"path=a\0b");
    let newer = pax(b"GNU.sparse.realsize=9223372036854775807");
    for (entries, why) in [
        (vec![(b'0', &b"../evil"[..], "", &b"x"[..])], ".."),
        (vec![(b'0', b"a/../../evil", "", b"x")], ".."),
        (vec![(b'2', b"out", "/tmp", b""), (b'0', b"out/evil", "", b"x")], "out"),
        (vec![(b'1', b"hard", "../../etc/passwd", b"")], ".."),
        (vec![(b'1', b"hard", "nowhere", b"")], "hard"),
        (vec![(b'x', b"pax", "", &bad_record), (b'0', b"a", "", b"x")], "malformed"),
        (vec![(b'x', b"pax", "", &newer), (b'0', b"a", "", b"x")], "sparse"),
        (vec![(b'S', b"sparse", "", b"")], "sparse"),
        (vec![(b'9', b"odd", "", b"")], "type"),
        (vec![(b'0', b".", "", b"x")], "root"),
    ] {
        let place = Place::new();
        let mut all = vec![DOCKERFILE];
        all.extend(entries);
        let output = build_of(&place, &tar(&all));
        assert!(output.status.code() == Some(1) && told(&output).contains(why), "{why}: {}", told(&output));
        assert!(!place.join("evil").exists() && !place.join("state/evil").exists());
        assert_eq!(std::fs::read_dir(place.join("state/scratch")).map_or(0, Iterator::count), 0);
    }
    // What is odd and harmless stays inside.
    let place = Place::new();
    let name = format!("{deep}x");
    let entries = [
        DOCKERFILE,
        (b'0', b"/absolute", "", b"1"),
        (b'0', b"new\nline", "", b"2"),
        (b'0', b"back\\slash", "", b"3"),
        (b'0', b"not-utf8-\xff", "", b"4"),
        (b'0', name.as_bytes(), "", b"5"),
        (b'2', b"link", "/etc/passwd", b""),
        (b'6', b"pipe", "", b""),
    ];
    let output = build_of(&place, &tar(&entries));
    assert!(output.status.success(), "{}", told(&output));
    for (name, content) in [("absolute", "1"), ("new\nline", "2"), ("back\\slash", "3"), (name.as_str(), "5")]
    {
        assert_eq!(std::fs::read_to_string(place.join("out/all").join(name)).unwrap(), content);
    }
    assert_eq!(std::fs::read_link(place.join("out/all/link")).unwrap().to_str(), Some("/etc/passwd"));
}

#[test]
fn repeated_names_in_a_context_archive_take_no_memory() {
    let place = Place::new();
    let mut all = tar(&[(b'0', b"Dockerfile", "", b"FROM scratch\nCOPY a /\n"), (b'0', b"a", "", b"x")]);
    all.truncate(all.len() - 1024);
    let one = &tar(&[(b'0', b"a", "", b"")])[..512];
    let mut file = zstd::Encoder::new(Vec::new(), 1).unwrap();
    file.write_all(&all).unwrap();
    for _ in 0..100_000 {
        file.write_all(one).unwrap();
    }
    file.write_all(&[0; 1024]).unwrap();
    let output = build_of(&place, &file.finish().unwrap());
    assert!(output.status.success(), "{}", told(&output));
    assert!(place.join("out/a").exists());
}
