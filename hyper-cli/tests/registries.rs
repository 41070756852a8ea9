//! Registries by their names, addresses, certificates and proxies; credentials for them.

use crate::support::{Place, find, skip, told};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

/// `hyperbuild serve` over the store of a place.
struct Served(Child);

impl Served {
    fn start(place: &Place, listen: &str) -> Option<(Self, String)> {
        let mut child = place.hyper(&["serve", "--listen", listen]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let served = Self(child);
        let host = line.trim().strip_prefix("http://")?.trim_end_matches('/').to_owned();
        Some((served, host))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the program, which must fail, and returns its output.
fn fails(place: &Place, arguments: &[&str]) -> String {
    let output = place.hyper(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}\n{}", told(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn image(place: &Place, name: &str) {
    place.write("Dockerfile", "FROM scratch\nCOPY file /\n");
    place.write("context/file", "content");
    place.ok(&["build", "-q", "-f", "Dockerfile", "-t", name, "context"]);
}

/// A server that answers every request by a function of its head.
fn answers(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> (String, Arc<Mutex<Vec<String>>>) {
    fn head(stream: &mut TcpStream) -> String {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
            head.push(byte[0]);
        }
        String::from_utf8_lossy(&head).into_owned()
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let head = head(&mut stream);
            let reply = answer(&head);
            log.lock().unwrap().push(head);
            let _ = stream.write_all(reply.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes());
        }
    });
    (address, seen)
}

#[test]
fn an_ipv6_host_names_images() {
    let there = Place::new();
    let Some((_served, host)) = Served::start(&there, "[::1]:0") else {
        skip!("there is no IPv6 here");
    };
    let place = Place::new();
    let name = format!("{host}/team/app:1");
    image(&place, &name);
    let digest = place.ok(&["push", "-q", &name]);
    place.ok(&["rm", &name]);
    assert_eq!(place.ok(&["pull", "-q", &name]), digest);
    assert!(place.ok(&["images"]).contains(&name));
    let second = format!("{host}/app:2");
    place.ok(&["tag", &name, &second]);
    assert!(place.ok(&["inspect", &second]).contains(&digest));
    let said = fails(&place, &["inspect", &format!("{host}/none")]);
    assert!(said.contains(&format!("{host}/none")) && !said.contains("ip6"), "{said}");
}

#[test]
fn names_are_shown_as_users_wrote_them() {
    let place = Place::new();
    let said = fails(&place, &["inspect", "localhost:9999/none"]);
    assert!(said.contains("localhost:9999/none") && !said.contains("__"), "{said}");
    for prefix in ["docker://", "https://", "http://"] {
        let said = fails(&place, &["pull", &format!("{prefix}localhost:9999/a:1")]);
        assert!(said.contains("write `localhost:9999/a:1`"), "{said}");
    }
}

#[test]
fn an_image_pushed_by_its_bare_name_is_listed_and_found() {
    let (there, place) = (Place::new(), Place::new());
    let (_served, host) = Served::start(&there, "127.0.0.1:0").unwrap();
    image(&place, "r.example/foo:1");
    for name in ["foo", "team/foo"] {
        place.ok(&["push", "-q", "r.example/foo:1", "--to", &format!("{host}/{name}:1")]);
    }
    let listed = there.ok(&["images"]);
    for name in ["foo:1", "team/foo:1"] {
        assert!(listed.lines().any(|line| line.starts_with(&format!("{name} "))), "{listed}");
        there.ok(&["inspect", name]);
        there.ok(&["tag", name, "r.example/again:2"]);
        there.ok(&["push", "-q", name, "--to", &format!("{host}/copy/{name}")]);
        there.ok(&["rm", name]);
    }
    assert!(!there.ok(&["images"]).contains("\nfoo:1 "));
}

#[test]
fn login_checks_credentials_and_warns_when_it_cannot() {
    // joe:right, where everybody may pull.
    let (host, _) = answers(|head| {
        let right = head.contains("Basic am9lOnJpZ2h0");
        match (head.starts_with("GET"), right) {
            (true, _) => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            (false, true) => "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n",
            (false, false) => {
                "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"
            }
        }
        .to_owned()
    });
    let place = Place::new();
    let config = place.join("home/.docker/config.json");
    std::fs::create_dir(place.join("home")).unwrap();
    let login = |host: &str, password: &str| {
        let mut child = place
            .hyper(&["login", "-u", "joe", "--password-stdin", host])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let output = login(&host, "wrong");
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(!told(&output).contains("wrong\n") && !config.exists());
    assert_eq!(told(&output).matches(&host).count(), 1, "{}", told(&output));
    for address in [&host, &format!("http://{host}"), &format!("https://{host}/"), &format!("{host}/v2/")] {
        let output = login(address, "right");
        assert!(
            output.status.success() && !told(&output).to_lowercase().contains("warn"),
            "{}",
            told(&output)
        );
        assert!(std::fs::read_to_string(&config).unwrap().contains(&format!("\"{host}\"")));
        let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&config), mode(config.parent().unwrap())), (0o600, 0o700), "others cannot look");
        place.ok(&["logout", address]);
        assert!(!std::fs::read_to_string(&config).unwrap().contains(&host));
    }
    let (open, _) = answers(|_| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned());
    let output = login(&open, "any");
    assert!(output.status.success(), "{}", told(&output));
    assert!(told(&output).contains("does not ask for credentials"), "{}", told(&output));
    let output = login(&format!("{host}/team"), "right");
    assert!(told(&output).contains("has a path"), "{}", told(&output));
}

#[test]
fn proxies_and_no_proxy_take_effect_in_both_cases() {
    let (proxy, seen) = answers(|_| "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n".to_owned());
    let place = Place::new();
    let pull = |variables: &[(&str, &str)]| {
        seen.lock().unwrap().clear();
        let mut command = place.hyper(&["pull", "--plain-http", "10.1.2.3:5000/a"]);
        command.envs(variables.iter().copied());
        let output = command.output().unwrap();
        assert!(!output.status.success());
        seen.lock().unwrap().iter().any(|head| head.contains("http://10.1.2.3:5000/v2/a/manifests/latest"))
    };
    let url = format!("http://{proxy}");
    assert!(pull(&[("HTTP_PROXY", &url)]));
    assert!(pull(&[("http_proxy", &url)]));
    assert!(pull(&[("HTTP_PROXY", &proxy)]), "without a scheme");
    assert!(pull(&[("HTTP_PROXY", &url), ("NO_PROXY", "11.0.0.0/8,10.1.2.3:80,.example")]));
}

#[test]
fn the_error_names_an_invalid_file_of_certificates() {
    let place = Place::new();
    let file = place.write("ca.pem", "no certificate");
    let name = file.display().to_string();
    let said = fails(&place, &["pull", "--ca-file", &name, "r.example/a"]);
    assert!(said.contains("no certificate in the PEM text") && said.contains(&name), "{said}");
    let said = fails(&place, &["pull", "--ca-file", "/dev/zero", "r.example/a"]);
    assert!(said.contains("/dev/zero"), "{said}");
    place.write("home/.config/containers/certs.d/r.example/client.cert", "x");
    let said = fails(&place, &["pull", "r.example/a"]);
    assert!(
        said.contains("has no key in the same folder") && said.contains("r.example/client.key"),
        "{said}"
    );
}

#[test]
fn the_error_has_the_message_of_a_failed_credential_helper() {
    let place = Place::new();
    let script = "#!/bin/sh\necho 'the vault is shut' >&2\nexit 1\n";
    place.write_program("bin/docker-credential-mine", script);
    place.write("home/.docker/config.json", r#"{"credsStore":"mine"}"#);
    let (host, _) = answers(|_| {
        "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n".to_owned()
    });
    let path = format!("{}:/usr/bin:/bin", place.join("bin").display());
    assert!(find("sh").is_some());
    let output = place.hyper(&["pull", &format!("{host}/a")]).env("PATH", path).output().unwrap();
    assert!(told(&output).contains("the vault is shut"), "{}", told(&output));
}
