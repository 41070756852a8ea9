//! Requests of builds to registries: layers are pulled only when they are needed, once, and while steps run.

use crate::support::{Built, Place, base, busybox, skip, told, tree};
use hyper_sdk::Digest;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A registry that counts requests, with the base image of the tests as `base:1`.
struct Images {
    host: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, (String, Vec<u8>)>,
    layers: Vec<String>,
    seen: Mutex<Vec<String>>,
    is_down: AtomicBool,
    /// Whether layers wait for a request for `/go`.
    is_gated: AtomicBool,
    gate: (Mutex<bool>, Condvar),
}

impl Images {
    fn start() -> Self {
        let mut state = State::default();
        let layout = base();
        let read = |digest: &str| std::fs::read(layout.join("blobs").join(digest.replace(':', "/"))).unwrap();
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        let index = json(&std::fs::read(layout.join("index.json")).unwrap());
        let mut manifest = json(&read(index["manifests"][0]["digest"].as_str().unwrap()));
        // An image of its own, whatever else has these layers.
        let mut config = json(&read(manifest["config"]["digest"].as_str().unwrap()));
        config["config"]["Labels"] = serde_json::json!({"from": "registry"});
        let config = config.to_string().into_bytes();
        let name = Digest::sha256(&config).to_string();
        manifest["config"]["size"] = config.len().into();
        manifest["config"]["digest"] = name.clone().into();
        state.files.insert(format!("/v2/base/blobs/{name}"), (String::new(), config));
        let parsed = manifest;
        let manifest = parsed.to_string().into_bytes();
        let digest = Digest::sha256(&manifest).to_string();
        let kind = parsed["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json");
        for name in ["1", &digest] {
            let head = format!("Content-Type: {kind}\r\nDocker-Content-Digest: {digest}\r\n");
            state.files.insert(format!("/v2/base/manifests/{name}"), (head, manifest.clone()));
        }
        for layer in parsed["layers"].as_array().unwrap() {
            let layer = layer["digest"].as_str().unwrap();
            let path = format!("/v2/base/blobs/{layer}");
            state.layers.push(path.clone());
            state.files.insert(path, (String::new(), read(layer)));
        }
        for path in ["/v2/", "/go"] {
            state.files.insert(path.to_owned(), (String::new(), b"{}".to_vec()));
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new(state);
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.answer(stream));
            }
        });
        Self { host, state }
    }

    fn base(&self) -> String {
        format!("{}/base:1", self.host)
    }

    /// How often layers were asked for since the last call, and all requests.
    fn layers(&self) -> (usize, Vec<String>) {
        let seen = std::mem::take(&mut *self.state.seen.lock().unwrap());
        let is_layer = |line: &&String| {
            line.strip_prefix("GET ").is_some_and(|path| self.state.layers.iter().any(|layer| layer == path))
        };
        (seen.iter().filter(is_layer).count(), seen)
    }
}

impl State {
    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let line = lines.next()?.ok()?;
        while !lines.next()?.ok()?.is_empty() {}
        if self.is_down.load(SeqCst) {
            return None;
        }
        let (method, path) = line.split_once(' ')?;
        let path = path.split(' ').next()?;
        self.seen.lock().unwrap().push(format!("{method} {path}"));
        let (is_open, opened) = &self.gate;
        if path == "/go" {
            *is_open.lock().unwrap() = true;
            opened.notify_all();
        } else if self.is_gated.load(SeqCst) && self.layers.iter().any(|layer| layer == path) {
            let wait =
                opened.wait_timeout_while(is_open.lock().unwrap(), Duration::from_secs(60), |open| !*open);
            if wait.unwrap().1.timed_out() {
                return None;
            }
        }
        let Some((head, content)) = self.files.get(path) else {
            return write!(stream, "HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok();
        };
        let length = content.len();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{head}Connection: close\r\n\r\n")
            .ok()?;
        if method == "HEAD" { Some(()) } else { stream.write_all(content).ok() }
    }
}

/// A build whose base images come from the registry alone.
fn build(place: &Place, dockerfile: &str, more: &[&str]) -> Command {
    let file = place.write("Dockerfile", dockerfile);
    place.write("context/file", "content");
    let mut command = place.hyper(&["build", "--progress=json", "-f"]);
    command.arg(file).args(more).arg(place.join("context"));
    command
}

fn built(place: &Place, dockerfile: &str, more: &[&str]) -> Built {
    let output = build(place, dockerfile, more).output().unwrap();
    assert!(output.status.success(), "{dockerfile}{}", told(&output));
    Built::of(&output)
}

/// The test without a static busybox says so and ends.
macro_rules! needs_busybox {
    () => {
        if busybox().is_none() {
            skip!("there is no static busybox");
        }
    };
}

#[test]
fn checks_and_calls_ask_for_no_layer() {
    needs_busybox!();
    let (place, images) = (Place::new(), Images::start());
    let text = format!(
        "FROM {}\nARG A=1\nCOPY file /\nRUN true\nFROM scratch\nCOPY --from=0 /file /\n",
        images.base()
    );
    for flag in ["--check", "--call=check", "--call=outline", "--call=targets"] {
        let output = build(&place, &text, &[flag]).output().unwrap();
        assert!(output.status.success(), "{flag} {}", told(&output));
        let (layers, seen) = images.layers();
        assert_eq!(layers, 0, "{flag}: {seen:?}");
        if flag == "--check" {
            // The rules know the base.
            assert!(seen.iter().any(|line| line.contains("/blobs/")), "{seen:?}");
            assert!(!told(&output).contains("left out"), "{}", told(&output));
        }
    }
}

#[test]
fn a_layer_is_pulled_once_however_many_stages_begin_with_it() {
    needs_busybox!();
    let (place, images) = (Place::new(), Images::start());
    let base = images.base();
    let text = format!(
        "FROM {base} AS a\nRUN echo a > /a\nFROM {base} AS b\nRUN echo b > /b\nFROM {base}\n\
         COPY --from=a /a /\nRUN --mount=from=b,target=/from cp /from/b /\nCOPY --from={base} /etc/passwd /again\n"
    );
    built(&place, &text, &["-t", "app:1"]);
    let (layers, seen) = images.layers();
    assert_eq!(layers, 1, "{seen:?}");
    // What is cached asks for nothing, also where the registry is asked what the name is now.
    for more in [&["-t", "app:1"][..], &["-t", "app:2", "--pull"], &["-o", "type=cacheonly", "--pull"]] {
        let outcomes = built(&place, &text, more).outcomes();
        assert!(!outcomes.keys().any(|name| name.starts_with("pull ")), "{outcomes:?}");
        let (layers, seen) = images.layers();
        assert_eq!(layers, 0, "{more:?} {seen:?}");
        assert_eq!(seen.is_empty(), !more.contains(&"--pull"), "{more:?} {seen:?}");
    }
}

#[test]
fn layers_of_a_base_are_not_pulled_until_an_output_needs_them() {
    needs_busybox!();
    let (place, images) = (Place::new(), Images::start());
    let base = images.base();
    let config_only = format!("FROM {base}\nENV A=1\nCMD [\"x\"]\n");
    let linked = format!("FROM {base}\nCOPY --link file /file\nADD --link file /dir/\n");
    let copies = format!(
        "FROM local AS stage\nRUN echo 1 > /one\nFROM {base}\nCOPY file /file\nWORKDIR /w\nADD --chown=9 file ./\n\
         COPY --from=stage /one /\n"
    );
    let local = format!("local=oci-layout://{}", self::base().display());
    for text in [&config_only, &linked, &copies] {
        built(&place, text, &["--build-context", &local, "-o", "type=cacheonly"]);
        let (layers, seen) = images.layers();
        assert_eq!(layers, 0, "{text} {seen:?}");
    }
    // A missing source of a copy is an error all the same.
    for wrong in ["COPY none /", "COPY --from=stage /none /"] {
        let text = format!("FROM local AS stage\nFROM {base}\nCOPY file /\n{wrong}\n");
        let output =
            build(&place, &text, &["--build-context", &local, "-o", "type=cacheonly"]).output().unwrap();
        assert!(!output.status.success() && told(&output).contains("none"), "{}", told(&output));
        assert_eq!(images.layers().0, 0);
    }
    let archive = format!("type=oci,dest={}", place.join("a.tar").display());
    let first = built(&place, &linked, &["--source-date-epoch=1", "-o", &archive]);
    assert_eq!(images.layers().0, 1);
    let other = Place::new();
    let out = other.join("out");
    let local = format!("type=local,dest={}", out.display());
    let again = built(&other, &linked, &["--source-date-epoch=1", "-t", "app:1"]);
    assert_eq!(again.digest, first.digest);
    built(&other, &linked, &["-o", &local]);
    assert_eq!(images.layers().0, 1);
    assert!(out.join("bin/busybox").exists() && out.join("dir/file").exists());
    // The image in the store is whole: it is served, and copied without its registry.
    images.state.is_down.store(true, SeqCst);
    other.ok(&["tag", "app:1", "again:1"]);
    let archive = format!("type=oci,tar=false,dest={}", other.join("layout").display());
    built(&other, "FROM app:1\n", &["-o", &archive]);
    assert_eq!(std::fs::read_dir(other.join("layout/blobs/sha256")).unwrap().count(), 5);
}

#[test]
fn known_base_images_need_no_registry() {
    needs_busybox!();
    let (place, images) = (Place::new(), Images::start());
    let base = images.base();
    let text = format!("FROM {base}\nCOPY file /\nRUN cat /file > /copy\n");
    built(&place, &text, &["-t", "app:1"]);
    let digest = {
        let (_, seen) = images.layers();
        let by_digest = seen.iter().find_map(|line| line.strip_prefix("GET /v2/base/manifests/sha256:"));
        format!("{}@sha256:{}", base.trim_end_matches(":1"), by_digest.unwrap())
    };
    let fresh = Place::new();
    built(&fresh, &format!("FROM {base}\nENV A=1\n"), &["-o", "type=cacheonly"]);
    images.state.is_down.store(true, SeqCst);
    for more in [&[][..], &["--no-cache"]] {
        built(&place, &text, more);
        built(&place, &text.replace(&base, &digest), more);
    }
    // What the registry alone has is missed when it is needed, and not before.
    for name in [&base, &digest] {
        built(&fresh, &format!("FROM {name}\nENV B=1\n"), &["-o", "type=cacheonly"]);
        let output = build(&fresh, &format!("FROM {name}\nRUN true\n"), &[]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        assert!(told(&output).contains(&images.host), "{}", told(&output));
    }
    let output = build(&place, &text, &["--pull"]).output().unwrap();
    assert!(!output.status.success() && told(&output).contains(&images.host), "{}", told(&output));
}

#[test]
fn layers_come_while_steps_run() {
    needs_busybox!();
    let (place, images) = (Place::new(), Images::start());
    images.state.is_gated.store(true, SeqCst);
    // The layer is answered when the step has run.
    let text = format!(
        "FROM local AS step\nRUN wget -q -O /went http://{}/go\nFROM {}\nCOPY --from=step /went /\nRUN cat /went\n",
        images.host,
        images.base()
    );
    let local = format!("local=oci-layout://{}", base().display());
    built(&place, &text, &["--build-context", &local, "-t", "app:1"]);
    assert_eq!(images.layers().0, 1);
}

#[test]
fn a_layer_that_came_and_is_lost_is_pulled_again_with_a_warning() {
    needs_busybox!();
    let (place, images) = (Place::new(), Images::start());
    let text = format!("FROM {}\nRUN echo 1 > /one\n", images.base());
    let archive = format!("type=oci,dest={}", place.join("a.tar").display());
    let first = built(&place, &text, &["--source-date-epoch=1", "-o", &archive]).digest;
    assert_eq!(images.layers().0, 1);
    let name = images.state.layers[0].rsplit_once("sha256:").unwrap().1;
    let blob = place.join("state/store/blobs/sha256").join(&name[..2]).join(name);
    for content in [None, Some("x")] {
        match content {
            None => std::fs::remove_file(&blob).unwrap(),
            Some(content) => std::fs::write(&blob, content).unwrap(),
        }
        // Nothing is asked for while nothing is needed.
        built(&place, &text, &["--source-date-epoch=1", "-o", "type=cacheonly"]);
        assert_eq!(images.layers().0, 0);
        let again = built(&place, &text, &["--source-date-epoch=1", "-o", &archive]);
        assert_eq!((again.digest, images.layers().0), (first.clone(), 1));
        let warnings = again.events.iter().filter(|event| event["event"] == "warning");
        let told: Vec<String> = warnings.map(ToString::to_string).collect();
        assert!(told.len() == 1 && told[0].contains("missing or damaged blobs"), "{told:?}");
    }
}

#[test]
fn base_images_of_builds_are_not_listed() {
    needs_busybox!();
    let (place, images) = (Place::new(), Images::start());
    built(&place, &format!("FROM {}\nENV A=1\n", images.base()), &["-o", "type=cacheonly"]);
    let listed = place.ok(&["images"]);
    assert!(!listed.contains("base") && !listed.contains("hyper.local"), "{listed}");
    // A pull makes it one, whole.
    place.ok(&["pull", &images.base()]);
    assert_eq!(images.layers().0, 1);
    assert!(place.ok(&["images"]).contains(&images.base()));
    images.state.is_down.store(true, SeqCst);
    built(&place, &format!("FROM {}\nRUN true\n", images.base()), &["-t", "app:1"]);
}

#[test]
fn a_pull_asks_for_no_layer_that_the_store_has() {
    needs_busybox!();
    let images = Images::start();
    let base = images.base();
    let digest = images.state.layers[0].rsplit_once("sha256:").unwrap().1;
    for is_damaged in [false, true] {
        let place = Place::new();
        built(&place, &format!("FROM {base}\nRUN true\n"), &["-t", "app:1"]);
        assert_eq!(images.layers().0, 1);
        let blob = place.join("state/store/blobs/sha256").join(&digest[..2]).join(digest);
        if is_damaged {
            let size = blob.metadata().unwrap().len() as usize;
            std::fs::write(&blob, vec![b'x'; size]).unwrap();
        }
        place.ok(&["pull", &base]);
        // Damaged bytes are not taken for the layer.
        let (layers, seen) = images.layers();
        assert_eq!(layers, usize::from(is_damaged), "{seen:?}");
        assert_eq!(Digest::sha256(std::fs::read(&blob).unwrap()).hex(), digest);
        // The same image at another registry.
        place.ok(&["pull", &base.replace("127.0.0.1", "localhost")]);
        assert_eq!(images.layers().0, 0);
    }
}

#[test]
fn an_add_from_the_web_is_fetched_while_steps_run() {
    needs_busybox!();
    let (place, images) = (Place::new(), Images::start());
    let path = images.state.layers[0].clone();
    images.state.is_gated.store(true, SeqCst);
    let text = format!(
        "FROM local AS step\nRUN wget -q -O /went http://{host}/go\nFROM local\nADD http://{host}{path} /layer\n\
         COPY --from=step /went /\n",
        host = images.host,
    );
    let local = format!("local=oci-layout://{}", base().display());
    let out = place.join("out");
    let to = format!("type=local,dest={}", out.display());
    built(&place, &text, &["--build-context", &local, "-o", &to]);
    let layer = base().join("blobs/sha256").join(path.rsplit_once("sha256:").unwrap().1);
    assert_eq!(std::fs::read(out.join("layer")).unwrap(), std::fs::read(layer).unwrap());
    assert!(tree(Path::new(&out)).contains_key(Path::new("went")));
}

/// The states of a plan by the text that the names of steps have.
fn states(place: &Place, dockerfile: &str, more: &[&str]) -> Vec<(String, String)> {
    let more = [&["--dry-run", "--format=json"], more].concat();
    let output = build(place, dockerfile, &more).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let steps = plan["steps"].as_array().unwrap().iter();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let state = |step: &serde_json::Value| {
        assert_eq!(
            step["keys"].as_array().unwrap().is_empty(),
            !["cached", "run"].contains(&step["state"].as_str().unwrap())
        );
        (text(&step["name"]), text(&step["state"]))
    };
    steps.map(state).collect()
}

#[test]
fn a_dry_run_says_what_is_cached_and_asks_for_no_layer() {
    needs_busybox!();
    let (place, images) = (Place::new(), Images::start());
    let text = format!(
        "FROM {base} AS a\nRUN echo a > /a\nRUN cat /a > /b\nFROM {base}\nCOPY --from=a /b /\nCOPY --link file /f\n",
        base = images.base()
    );
    let state = |states: &[(String, String)], name: &str| {
        states.iter().find(|(step, _)| step.contains(name)).map(|(_, state)| state.clone()).unwrap()
    };
    let first = states(&place, &text, &["-t", "app:1"]);
    let expected =
        [("FROM", "source"), ("echo a", "run"), ("cat /a", "open"), ("--from=a", "open"), ("--link", "open")];
    for (name, expected) in expected {
        assert_eq!(state(&first, name), expected, "{name}");
    }
    assert_eq!(images.layers().0, 0);
    assert!(!place.ok(&["images"]).contains("app"));
    built(&place, &text, &["-t", "app:1"]);
    images.layers();
    let second = states(&place, &text, &[]);
    assert!(second.iter().all(|(_, state)| ["source", "cached"].contains(&state.as_str())), "{second:?}");
    let third = states(&place, &text.replace("cat /a > /b", "cat /a /a > /b"), &[]);
    for (name, expected) in [("echo a", "cached"), ("cat /a", "run"), ("--from=a", "open")] {
        assert_eq!(state(&third, name), expected, "{name}");
    }
    assert_eq!(state(&states(&place, &text, &["--no-cache"]), "echo a"), "run");
    assert_eq!(images.layers().0, 0);
    let shown = build(&place, &text, &["--dry-run", "-t", "app:2"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("4 cached, 0 to run, 0 that depend on these\nname: docker.io/library/app:2\n"),
        "{shown}"
    );
    // What would fail before a step runs does so here.
    let wrong = build(&place, "FROM scratch\nCOPY none /\n", &["--dry-run"]).output().unwrap();
    assert!(wrong.status.code() == Some(1) && told(&wrong).contains("none"), "{}", told(&wrong));
    let both = build(&place, &text, &["--dry-run", "--check"]).output().unwrap();
    assert_eq!(both.status.code(), Some(2), "{}", told(&both));
}
