//! Where clients are tried: a registry over TLS for each way to log in, and the homes of its users.
//!
//! The clients reach it as `registry.test` through a proxy of this process: many treat addresses of the loopback interface as
//! insecure, and would neither check its certificate nor show their own.

use super::issuers::{Key, now};
use super::program::{Process, run, stderr};
use super::tls::Authority;
use hyper_server::auth::htpasswd_entry;
use serde_json::json;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use tempfile::TempDir;

const HOST: &str = "registry.test";

/// How a client logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A password, at a registry where nothing is open to all: it asks for Basic credentials.
    Basic,
    /// A password, at a registry where something is open to all: it asks for a token of its own.
    Token,
    /// An API token in place of the password.
    ApiToken,
    /// A token of another issuer in place of the password.
    IssuerToken,
    /// A client certificate.
    Certificate,
}

impl Way {
    pub(super) const ALL: [Self; 5] =
        [Self::Basic, Self::Token, Self::ApiToken, Self::IssuerToken, Self::Certificate];

    /// Whether everybody may pull `open/**`.
    pub(super) fn is_open(self) -> bool {
        self != Self::Basic
    }
}

/// Who uses a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Alice, who may push and pull.
    Alice,
    /// Somebody with a wrong password, token or certificate.
    Stranger,
    /// Somebody without credentials.
    Nobody,
}

/// A registry.
pub(super) struct Site {
    pub(super) way: Way,
    /// The registry as a client names it, with its port.
    pub(super) host: String,
    ca: String,
    /// A user with what stands for the password: the right one, and a wrong one.
    passwords: Option<(&'static str, [String; 2])>,
    /// The certificates and keys of Alice, and of a stranger whose authority has the same name: Go shows no other.
    certificates: [(String, String); 2],
    /// Ends before its folder goes away.
    _server: Process,
    folder: TempDir,
}

fn policy(open: bool) -> String {
    let rule = |who: &str, repositories: &str, actions: &str| {
        format!("[[allow]]\nwho = [{who}]\nrepositories = [{repositories}]\nactions = [{actions}]\n")
    };
    let alice = rule(
        "\"user:alice\", \"user:ci:alice\"",
        "\"open/**\", \"closed/**\"",
        "\"pull\", \"push\", \"create-tag\", \"move-tag\"",
    );
    let all = rule("\"anyone\"", "\"open/**\"", "\"pull\"");
    if open { alice + &all } else { alice }
}

impl Site {
    pub(super) fn start(way: Way) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let (root, clients) = (Authority::new("root"), Authority::new("clients"));
        let (certificate, key) = root.issue_for(&["127.0.0.1", HOST], "server", 1, 2090);
        secret(&path("crt"), &certificate);
        secret(&path("key"), &key);
        fs::write(path("policy.toml"), policy(way.is_open())).unwrap();
        let mut auth = format!("[auth]\npolicy = {:?}\n", path("policy.toml"));
        let mut tls = format!("[tls]\ncertificate = {:?}\nkey = {:?}\n", path("crt"), path("key"));
        let issuer = Key::new("a");
        match way {
            Way::Basic | Way::Token | Way::ApiToken => {
                fs::write(path("users"), htpasswd_entry("alice", "pass:word", 4).unwrap()).unwrap();
                auth += &format!("htpasswd = {:?}\n", path("users"));
            }
            Way::IssuerToken => {
                fs::write(path("keys.json"), json!({"keys": [issuer.jwk()]}).to_string()).unwrap();
                auth += &format!(
                    "[[auth.issuer]]\nname = \"ci\"\nurl = \"https://ci.example\"\naudience = \"registry\"\njwks-file = {:?}\n",
                    path("keys.json")
                );
            }
            Way::Certificate => {
                secret(&path("clients.crt"), &clients.pem);
                tls += &format!("client-ca = {:?}\nclient-auth = \"optional\"\n", path("clients.crt"));
            }
        }
        fs::write(path("config.toml"), auth + &tls).unwrap();
        let server = Process::start(&path("data"), &["--config", path("config.toml").to_str().unwrap()]);
        let passwords = match way {
            Way::Basic | Way::Token => Some(("alice", ["pass:word".to_owned(), "wrong".to_owned()])),
            Way::ApiToken => {
                let data = path("data");
                let add =
                    ["token", "add", "alice", "--scope", "**:pull,push", "--data", data.to_str().unwrap()];
                let made = run(&add, "");
                assert!(made.status.success(), "{}", stderr(&made));
                let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
                let wrong = token.chars().rev().collect();
                Some(("alice", [token, wrong]))
            }
            Way::IssuerToken => {
                let claims = json!({
                    "iss": "https://ci.example", "aud": "registry", "sub": "alice", "exp": now() + 600, "iat": now(),
                });
                Some(("oidc", [issuer.sign(&claims), Key::new("a").sign(&claims)]))
            }
            Way::Certificate => None,
        };
        let certificates = [clients, Authority::new("clients")]
            .map(|authority| authority.issue_for(&["user.example"], "alice", 2, 2090));
        let port = server.url.rsplit(':').next().unwrap();
        let host = format!("{HOST}:{port}");
        Self { way, host, ca: root.pem, passwords, certificates, _server: server, folder }
    }

    /// The home of a user who has not logged in.
    pub(super) fn home(&self, who: Who) -> Home<'_> {
        let folder = self.folder.path().join(format!("{who:?}"));
        let certificates = folder.join("certificates");
        fs::create_dir_all(&certificates).unwrap();
        fs::write(certificates.join("ca.crt"), &self.ca).unwrap();
        let index = match who {
            Who::Alice => Some(0),
            Who::Stranger => Some(1),
            Who::Nobody => None,
        };
        let login = index.zip(self.passwords.as_ref());
        let login = login.map(|(index, (user, passwords))| (*user, passwords[index].as_str()));
        let has_certificate = self.way == Way::Certificate && index.is_some();
        if let Some(index) = index.filter(|_| has_certificate) {
            fs::write(certificates.join("client.cert"), &self.certificates[index].0).unwrap();
            secret(&certificates.join("client.key"), &self.certificates[index].1);
        }
        // What podman, buildah and skopeo look for in a home: images need no signature.
        let containers = folder.join(".config/containers");
        fs::create_dir_all(&containers).unwrap();
        fs::write(containers.join("policy.json"), r#"{"default": [{"type": "insecureAcceptAnything"}]}"#)
            .unwrap();
        // podman and buildah want the file that REGISTRY_AUTH_FILE names, also without a login.
        fs::write(folder.join("auth.json"), "{}").unwrap();
        Home { site: self, folder, certificates, login, has_certificate }
    }
}

/// Writes a file that only its owner can read.
fn secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The home of a user, where clients keep what they know.
pub(super) struct Home<'a> {
    pub(super) site: &'a Site,
    pub(super) folder: PathBuf,
    /// A folder as `--cert-dir` and docker want it: `ca.crt`, `client.cert` and `client.key`.
    pub(super) certificates: PathBuf,
    /// The user, and what stands for the password.
    pub(super) login: Option<(&'a str, &'a str)>,
    pub(super) has_certificate: bool,
}

impl Home<'_> {
    pub(super) fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// A file that all homes of the registry share.
    pub(super) fn shared(&self, name: &str) -> PathBuf {
        self.site.folder.path().join(name)
    }

    pub(super) fn cert_dir(&self) -> &str {
        self.certificates.to_str().unwrap()
    }

    pub(super) fn ca(&self) -> String {
        self.path("certificates/ca.crt")
    }

    /// The flags of a client for the authority, and for the certificate and the key of the user if there are some.
    pub(super) fn tls_flags(&self, [ca, certificate, key]: [&str; 3]) -> Vec<String> {
        let mut flags = vec![ca.to_owned(), self.ca()];
        if self.has_certificate {
            flags.extend([certificate.to_owned(), self.path("certificates/client.cert")]);
            flags.extend([key.to_owned(), self.path("certificates/client.key")]);
        }
        flags
    }

    /// An image as a client names it.
    pub(super) fn image(&self, repository: &str) -> String {
        format!("{}/{repository}:1", self.site.host)
    }

    /// Runs a program in this home, which reads the text from its standard input. It has a minute.
    pub(super) fn run<S: AsRef<str>>(&self, program: &Path, arguments: &[S], input: &str) -> Said {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60"]).arg(program).args(arguments.iter().map(AsRef::as_ref));
        clean(&mut command).current_dir(&self.folder).stdin(Stdio::piped());
        command.env("HOME", &self.folder).env("XDG_RUNTIME_DIR", &self.folder);
        command.env("DOCKER_CONFIG", self.folder.join(".docker"));
        command.env("REGISTRY_AUTH_FILE", self.folder.join("auth.json"));
        command.env("COSIGN_PASSWORD", "");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A client that does not want the text may have ended.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        let command = format!("{} {}", program.display(), arguments.join(" "));
        let text =
            [&output.stdout[..], &output.stderr].map(|part| String::from_utf8_lossy(part).into_owned());
        let (ok, status) = (output.status.success(), output.status.code());
        Said { ok, status, command, text: text.concat(), stdout: output.stdout }
    }
}

/// A command with the proxy, and nothing else of the environment of the tests.
pub(super) fn clean(command: &mut Command) -> &mut Command {
    let mut path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    if let Some(folder) = std::env::var_os("HYPER_TEST_CLIENTS") {
        path = format!("{}:{path}", folder.to_str().unwrap());
    }
    command.env_clear().env("PATH", path).env("HTTPS_PROXY", PROXY.as_str())
}

/// Where a program is: in the folder of the variable `HYPER_TEST_CLIENTS`, or in the `PATH`.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let folders = [std::env::var_os("HYPER_TEST_CLIENTS"), std::env::var_os("PATH")];
    let folders = folders.iter().flatten().flat_map(std::env::split_paths);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// What a program said.
pub(super) struct Said {
    pub(super) ok: bool,
    status: Option<i32>,
    command: String,
    /// All that was printed.
    text: String,
    stdout: Vec<u8>,
}

impl Said {
    #[track_caller]
    pub(super) fn expect(self) -> Self {
        assert!(self.ok, "{}\n{}", self.command, self.text);
        self
    }

    /// The last line of what was printed.
    pub(super) fn last_line(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().lines().last().unwrap_or_default().to_owned()
    }

    pub(super) fn stdout(&self) -> &[u8] {
        &self.stdout
    }

    /// Checks that the client failed with an error of its own, one of these.
    #[track_caller]
    pub(super) fn refused(&self, errors: &[&str]) {
        // 124 and 137 are what `timeout` makes of a client that hangs.
        let ended = self.status.is_some_and(|status| status != 124 && status != 137);
        assert!(!self.ok && ended, "{}\n{}", self.command, self.text);
        assert!(
            errors.iter().any(|error| self.text.contains(error)),
            "none of {errors:?}: {}\n{}",
            self.command,
            self.text
        );
        for fault in ["panic:", "goroutine ", "500 Internal"] {
            assert!(!self.text.contains(fault), "{}\n{}", self.command, self.text);
        }
    }
}

/// The URL of a proxy to the ports of the loopback interface, which lives as long as the process.
pub(super) static PROXY: LazyLock<String> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || forward(client));
        }
    });
    url
});

/// Answers `CONNECT registry.test:PORT` (RFC 9110, section 9.3.6), and refuses everything else.
fn forward(client: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?.take(1 << 14));
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line);
    }
    let port = head[0].strip_prefix("CONNECT registry.test:").and_then(|rest| rest.split(' ').next());
    let Some(port) = port.and_then(|port| port.parse::<u16>().ok()) else {
        return (&client)
            .write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    };
    let server = TcpStream::connect(("127.0.0.1", port))?;
    (&client).write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let up = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        to_server.shutdown(std::net::Shutdown::Write)
    });
    let _ = std::io::copy(&mut &server, &mut &client);
    let _ = client.shutdown(std::net::Shutdown::Write);
    let _ = up.join();
    Ok(())
}
