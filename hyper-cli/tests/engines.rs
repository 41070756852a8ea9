//! `build --load`: the image goes into a running engine over its API.

use crate::outputs::{built, place};
use crate::support::{Place, told};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};

/// What an engine got.
#[derive(Debug, Default)]
struct Seen {
    paths: Vec<String>,
    archives: Vec<Vec<u8>>,
}

/// An engine with these answers by path; a load is answered with the next of `loads`.
struct Engine {
    seen: Arc<Mutex<Seen>>,
}

impl Engine {
    fn start(socket: &Path, answers: BTreeMap<String, Value>, loads: &'static [&'static str]) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let own = Arc::clone(&seen);
        // It ends with the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, seen) = (answers.clone(), Arc::clone(&own));
                std::thread::spawn(move || answer(stream, &answers, loads, &seen));
            }
        });
        Self { seen }
    }

    /// The files of an archive, by name.
    fn archive(&self, at: usize) -> BTreeMap<String, Vec<u8>> {
        let bytes = self.seen.lock().unwrap().archives[at].clone();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut files = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let (mut content, name) = (Vec::new(), entry.path().unwrap().display().to_string());
            entry.read_to_end(&mut content).unwrap();
            files.insert(name, content);
        }
        files
    }
}

/// Answers the requests of a connection.
fn answer(stream: UnixStream, answers: &BTreeMap<String, Value>, loads: &[&str], seen: &Mutex<Seen>) {
    let (mut reader, mut stream) = (BufReader::new(stream.try_clone().unwrap()), stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split(' ').nth(1).unwrap().to_owned();
        let is_load = line.starts_with("POST /images/load");
        while line.trim() != "" {
            line.clear();
            reader.read_line(&mut line).unwrap();
        }
        seen.lock().unwrap().paths.push(path.clone());
        let body = if is_load {
            let mut archive = Vec::new();
            loop {
                let mut size = String::new();
                if reader.read_line(&mut size).unwrap_or(0) == 0 {
                    return;
                }
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                let mut block = vec![0; size + 2];
                reader.read_exact(&mut block).unwrap();
                archive.extend_from_slice(&block[..size]);
                if size == 0 {
                    break;
                }
            }
            let mut seen = seen.lock().unwrap();
            seen.archives.push(archive);
            loads[(seen.archives.len() - 1).min(loads.len() - 1)].to_owned()
        } else if path == "/_ping" {
            "OK".to_owned()
        } else {
            answers.get(&path).map_or_else(|| "{}".to_owned(), Value::to_string)
        };
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    }
}

const LOADED: &str = "{\"stream\":\"Loaded image: app:1\\n\"}\n";

fn load(place: &Place, socket: &str, flags: &[&str]) -> Output {
    let arguments =
        [&["build", "--progress=plain", "-f", "Dockerfile", "--load"], flags, &["context"]].concat();
    let host = format!("unix://{}", place.join(socket).display());
    place.hyper(&arguments).env("DOCKER_HOST", host).output().unwrap()
}

fn blobs(files: &BTreeMap<String, Vec<u8>>) -> usize {
    files.keys().filter(|name| name.starts_with("blobs/sha256/") && name.len() > 13).count()
}

#[test]
fn an_image_is_loaded_whole_into_an_engine_and_kept() {
    let place = place();
    let podman = json!({"Components": [{"Name": "Podman Engine"}]});
    let engine = Engine::start(&place.join("e.sock"), [("/version".to_owned(), podman)].into(), &[LOADED]);
    let output = load(&place, "e.sock", &["-t", "app:1", "--metadata-file=said"]);
    assert!(output.status.success(), "{}", told(&output));
    let files = engine.archive(0);
    let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(manifest[0]["RepoTags"], json!(["app:1"]));
    for layer in manifest[0]["Layers"].as_array().unwrap() {
        assert!(files.contains_key(layer.as_str().unwrap()), "{layer}");
    }
    assert_eq!(blobs(&files), 3, "{:?}", files.keys());
    assert!(place.ok(&["images"]).contains("app:1"));
    assert!(!engine.seen.lock().unwrap().paths.contains(&"/images/json".to_owned()));
}

/// The answers of a docker that has an image with the first layer of this one.
fn docker(layers: &[&str], driver: &str) -> BTreeMap<String, Value> {
    [
        ("/version", json!({"Components": [{"Name": "Engine"}, {"Name": "containerd"}]})),
        ("/info", json!({"DriverStatus": [["driver-type", driver]]})),
        ("/images/json", json!([{"Id": "sha256:1"}, {"Id": "sha256:2"}])),
        ("/images/sha256:1/json", json!({"RootFS": {"Type": "layers"}})),
        ("/images/sha256:2/json", json!({"RootFS": {"Layers": layers}})),
    ]
    .map(|(path, answer)| (path.to_owned(), answer))
    .into()
}

/// A place whose image has a layer, and another one for each build; the diff ID of the first.
fn two_layers() -> (Place, String) {
    let place = place();
    place.write("Dockerfile", "FROM scratch\nCOPY f /one\nCOPY f /two\n");
    built(&place, &["-t", "app:1"]);
    let shown: Value = serde_json::from_str(&place.ok(&["inspect", "--format=json", "app:1"])).unwrap();
    let first = shown["config"]["rootfs"]["diff_ids"][0].as_str().unwrap().to_owned();
    (place, first)
}

#[test]
fn docker_gets_only_the_layers_that_it_does_not_have() {
    let (place, first) = two_layers();
    for (driver, sent) in [("overlay2", 3), ("io.containerd.snapshotter.v1", 4)] {
        let socket = format!("{}.sock", driver.len());
        let engine = Engine::start(&place.join(&socket), docker(&[&first, "sha256:x"], driver), &[LOADED]);
        let output = load(&place, &socket, &["-t", "app:1"]);
        assert!(output.status.success(), "{}", told(&output));
        let files = engine.archive(0);
        assert_eq!(blobs(&files), sent, "{driver}: {:?}", files.keys());
        let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["Layers"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn an_engine_that_lost_a_layer_gets_all_of_them() {
    let (place, first) = two_layers();
    let lost = "{\"errorDetail\":{\"message\":\"no such file\"},\"error\":\"no such file\"}\n";
    let loads: &[&str] = Box::leak(Box::new([lost, LOADED]));
    let engine = Engine::start(&place.join("e.sock"), docker(&[&first], "overlay2"), loads);
    let output = load(&place, "e.sock", &["-t", "app:1"]);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!((blobs(&engine.archive(0)), blobs(&engine.archive(1))), (3, 4));
}

#[test]
fn what_an_engine_says_is_told() {
    let place = place();
    Engine::start(&place.join("e.sock"), BTreeMap::new(), &["{\"error\":\"no space left\"}\n"]);
    let output = load(&place, "e.sock", &["-t", "app:1"]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("does not load the image: no space left"), "{}", told(&output));
}

#[test]
fn an_engine_that_is_named_is_asked_before_the_build() {
    let place = place();
    let output = load(&place, "absent.sock", &["-t", "app:1"]);
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("absent.sock") && said.contains("hint: without DOCKER_HOST"), "{said}");
    assert!(!said.contains("COPY"), "{said}");
    let arguments = ["build", "-f", "Dockerfile", "--load", "context"];
    let output = place.hyper(&arguments).env("DOCKER_HOST", "ssh://me@host").output().unwrap();
    assert!(told(&output).contains("`ssh://me@host`"), "{}", told(&output));
    // A plan and a check load nothing.
    for flag in ["--dry-run", "--check"] {
        let output = load(&place, "absent.sock", &[flag]);
        assert!(output.status.success(), "{}", told(&output));
    }
}

#[test]
fn an_image_with_an_index_is_loaded_as_one_image() {
    let place = place();
    let engine = Engine::start(&place.join("e.sock"), BTreeMap::new(), &[LOADED]);
    let output = load(&place, "e.sock", &["-t", "app:1", "--build-arg=BUILDKIT_MULTI_PLATFORM=1"]);
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(blobs(&engine.archive(0)), 3);
    let output = load(&place, "e.sock", &["--platform=linux/amd64,linux/arm64"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(told(&output).contains("--load: an engine takes the image of one platform"), "{}", told(&output));
}
