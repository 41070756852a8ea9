//! Registries and web servers that stall or break, mounted blobs, certificates.

use crate::peers::{Peer, Registry};
use crate::support::{Place, skip, told};
use std::io::{BufRead as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Runs a command that must end by itself: after 100 seconds it is killed and counts as failed.
fn ended(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(100) {
            child.kill().unwrap();
            panic!("it hangs: {}", told(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

fn succeeds(command: &mut Command) -> String {
    let output = ended(command);
    assert!(output.status.success(), "{}", told(&output));
    told(&output)
}

/// Builds an image whose layer has so many bytes that cannot be compressed.
fn image(place: &Place, name: &str, bytes: u64) {
    std::fs::create_dir_all(place.join("context")).unwrap();
    let mut content = Vec::new();
    std::fs::File::open("/dev/urandom").unwrap().take(bytes).read_to_end(&mut content).unwrap();
    std::fs::write(place.join("context/file"), content).unwrap();
    let file = place.write("Dockerfile", "FROM scratch\nCOPY file /\n");
    place.ok(&["build", "-q", "-f", file.to_str().unwrap(), "-t", name, "context"]);
}

/// A registry whose answers a test may change, by the number of the request.
fn registry(
    fault: impl Fn(&crate::peers::Head, &mut crate::peers::Wire, &Registry) -> Option<std::io::Result<()>>
    + Send
    + Sync
    + 'static,
) -> (Peer, Arc<Registry>) {
    let registry = Arc::new(Registry::default());
    let inner = registry.clone();
    let peer =
        Peer::start(move |head, wire| fault(head, wire, &inner).unwrap_or_else(|| inner.answer(head, wire)));
    (peer, registry)
}

#[test]
fn a_stalled_pull_continues_with_a_warning() {
    let stalls = AtomicUsize::new(1);
    let (peer, _) = registry(move |head, wire, registry| {
        let digest = head.target.strip_prefix("/v2/app/blobs/")?;
        if head.method != "GET" || registry.blob("app", digest).len() < 200_000 {
            return None;
        }
        stalls.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).ok()?;
        let blob = registry.blob("app", digest);
        let _ = wire.head(200, &format!("Content-Length: {}", blob.len()));
        let _ = wire.send("\r\n");
        let _ = wire.send(&blob[..100_000]);
        Some(wire.hold())
    });
    let place = Place::new();
    let name = format!("{}/app:1", peer.host);
    image(&place, &name, 400_000);
    place.ok(&["push", "-q", &name]);
    std::fs::remove_dir_all(place.join("state")).unwrap();
    let said = succeeds(&mut place.hyper(&["pull", &name]));
    assert!(said.contains("trying again") && said.contains("fell silent"), "{said}");
    assert!(peer.seen().iter().any(|head| head.header("range").starts_with("bytes=100000-")), "it goes on");
}

#[test]
fn a_stalled_push_continues_with_a_warning() {
    let stalls = AtomicUsize::new(1);
    let (peer, registry) = registry(move |head, wire, registry| {
        if !head.is("PUT", "/blobs/uploads/") || head.length() < 1_000_000 {
            return None;
        }
        stalls.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).ok()?;
        let id = head.target.split(['/', '?']).nth(5).unwrap().to_owned();
        registry.append(&id, &wire.take(1_000_000).unwrap());
        Some(wire.hold())
    });
    let place = Place::new();
    let name = format!("{}/app:1", peer.host);
    image(&place, &name, 24 << 20);
    let said = succeeds(&mut place.hyper(&["push", &name]));
    assert!(said.contains("trying again") && said.contains("does not take"), "{said}");
    let layer = registry.blob("app", &registry.layer("app", "1")).len();
    assert!(registry.sent.load(Ordering::SeqCst) < layer as u64 + 500_000, "what arrived is not sent again");
    let again = peer.seen().into_iter().rfind(|head| head.is("PUT", "/blobs/uploads/")).unwrap();
    assert!(again.header("content-range").starts_with("1000000-"), "{again:?}");
}

#[test]
fn a_stalled_web_download_is_retried() {
    let stalls = AtomicUsize::new(1);
    let peer = Peer::start(move |_, wire| {
        let is_bad =
            stalls.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if is_bad {
            wire.head(200, "Content-Length: 1000000")?;
            wire.send("\r\nhalf")?;
            return wire.hold();
        }
        wire.answer(200, "", "whole")
    });
    let place = Place::new();
    let text = format!("FROM scratch\nADD http://{}/file /\n", peer.host);
    place.write("context/Dockerfile", &text);
    let out = format!("type=local,dest={}", place.join("out").display());
    let said = succeeds(&mut place.hyper(&["build", "--progress=plain", "-o", &out, "context"]));
    assert!(said.contains("trying again") && said.contains("fell silent"), "{said}");
    assert_eq!(std::fs::read_to_string(place.join("out/file")).unwrap(), "whole");
}

#[test]
fn a_blob_in_another_repository_is_mounted_and_not_sent() {
    let (peer, registry) = registry(|_, _, _| None);
    let place = Place::new();
    let (first, second) = (format!("{}/team/one:1", peer.host), format!("{}/two:1", peer.host));
    image(&place, &first, 300_000);
    place.ok(&["push", "-q", &first]);
    let layer = registry.layer("team/one", "1");
    let before = registry.sent.load(Ordering::SeqCst);
    assert!(before > 300_000);
    let file = place.write("Dockerfile.two", &format!("FROM {first}\nCOPY Dockerfile.two /\n"));
    place.write("other/Dockerfile.two", "small");
    place.ok(&["build", "-q", "-f", file.to_str().unwrap(), "-t", &second, "other"]);
    place.ok(&["push", "-q", &second]);
    assert_eq!(registry.layer("two", "1"), layer);
    let more = registry.sent.load(Ordering::SeqCst) - before;
    assert!(more < 100_000, "{more} bytes were sent again");
    assert!(peer.seen().iter().any(|head| head.is("POST", "from=team%2Fone")), "it is mounted");
    // An image that is given a second name was never pulled or pushed under it.
    let third = format!("{}/three:1", peer.host);
    place.ok(&["push", "-q", &first, "--to", &third]);
    assert!(registry.sent.load(Ordering::SeqCst) - before < 100_000);
}

#[test]
fn one_byte_left_of_a_broken_upload_is_harmless() {
    let breaks = AtomicUsize::new(1);
    let (peer, _registry) = registry(move |head, wire, registry| {
        if !head.is("PUT", "/blobs/uploads/") || head.length() < 200_000 {
            return None;
        }
        breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).ok()?;
        let id = head.target.split(['/', '?']).nth(5).unwrap().to_owned();
        registry.append(&id, &wire.take(1).unwrap());
        Some(Ok(()))
    });
    let place = Place::new();
    let name = format!("{}/app:1", peer.host);
    image(&place, &name, 300_000);
    succeeds(&mut place.hyper(&["push", &name]));
    let puts: Vec<_> = peer.seen().into_iter().filter(|head| head.length() >= 200_000).collect();
    assert!(puts[1].header("content-range").starts_with("0-"), "{puts:?}");
}

/// A registry in TLS that serves one image, with a certificate that it signed itself.
struct Secure {
    child: Child,
    /// The image by its digest.
    name: String,
    certificate: PathBuf,
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A web server in TLS for the files of a folder; its arguments are a certificate and a key.
const SERVER: &str = "
import http.server, ssl, sys
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
";

fn secure(place: &Place) -> Option<Secure> {
    crate::support::find("python3")?;
    let folder = place.join("secure");
    for name in ["manifests", "blobs"] {
        std::fs::create_dir_all(folder.join("v2/app").join(name)).unwrap();
    }
    let (key, certificate) = (folder.join("key"), folder.join("certificate"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-subj", "/CN=test", "-days", "3650", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=CA:FALSE"])
        .args([Path::new("-keyout"), &key, Path::new("-out"), &certificate])
        .output();
    made.ok().filter(|made| made.status.success())?;
    image(place, "made:1", 10_000);
    let output = format!("type=oci,tar=false,dest={}", folder.join("layout").display());
    place.ok(&["build", "-q", "-f", "Dockerfile", "-o", &output, "context"]);
    let index = std::fs::read(folder.join("layout/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    for entry in std::fs::read_dir(folder.join("layout/blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        let name = format!("sha256:{}", entry.file_name().to_string_lossy());
        let under = if name == digest { "manifests" } else { "blobs" };
        std::fs::copy(entry.path(), folder.join("v2/app").join(under).join(name)).unwrap();
    }
    let mut child = Command::new("python3")
        .args(["-c", SERVER])
        .args([&certificate, &key])
        .current_dir(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut port = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let name = format!("127.0.0.1:{}/app@{digest}", port.trim());
    Some(Secure { child, name, certificate })
}

#[test]
fn a_registry_on_this_machine_may_speak_tls() {
    let place = Place::new();
    let Some(secure) = secure(&place) else { skip!("openssl or python3 is not installed") };
    let output = ended(&mut place.hyper(&["pull", &secure.name]));
    assert!(!output.status.success() && told(&output).contains("is not trusted"), "{}", told(&output));
    succeeds(&mut place.hyper(&["pull", "--insecure", &secure.name]));
}

#[test]
fn the_certificate_of_a_registry_itself_can_be_trusted() {
    let place = Place::new();
    let Some(secure) = secure(&place) else { skip!("openssl or python3 is not installed") };
    let file = secure.certificate.to_str().unwrap();
    succeeds(&mut place.hyper(&["pull", "--ca-file", file, &secure.name]));
    // Another certificate does not make this registry trusted.
    let other = Place::new();
    let second = self::secure(&other).unwrap();
    let output = ended(&mut place.hyper(&["pull", "--ca-file", file, &second.name]));
    assert!(!output.status.success() && told(&output).contains("is not trusted"), "{}", told(&output));
}

#[test]
fn certificates_in_the_folders_of_docker_and_podman_are_trusted() {
    for folder in ["containers", "docker"] {
        let place = Place::new();
        let Some(secure) = secure(&place) else { skip!("openssl or python3 is not installed") };
        let host = secure.name.split('/').next().unwrap();
        let text = std::fs::read_to_string(&secure.certificate).unwrap();
        place.write(&format!("home/.config/{folder}/certs.d/{host}/ca.crt"), &text);
        succeeds(&mut place.hyper(&["pull", &secure.name]));
    }
}
