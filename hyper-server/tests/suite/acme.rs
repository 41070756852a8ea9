//! Certificates by ACME: the program gets them, keeps them, renews them, and shares them.
//!
//! The tests wait for lines of the log, and the directory goes on meanwhile: it has threads of its own.

use super::acme_server::Directory;
use super::program::{PROGRAM, Process, run, stderr};
use super::tls::Authority;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(super) const DOMAIN: &str = "registry.example";

/// A directory, and the folder of servers that ask it.
pub(super) struct Place {
    pub(super) directory: Directory,
    pub(super) dir: TempDir,
}

impl Place {
    pub(super) async fn new() -> Self {
        Self { directory: Directory::start().await, dir: tempfile::tempdir().unwrap() }
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.dir.path().join("acme")
    }

    /// A configuration for these domains, with more keys of the table.
    pub(super) fn config(&self, domains: &[&str], more: &str) -> String {
        format!(
            "[tls.acme]\ndomains = {domains:?}\naccept-terms = true\ndirectory = \"{}\"\nca = {:?}\nfolder = {:?}\n{more}\n",
            self.directory.url(),
            self.directory.ca(),
            self.folder()
        )
    }

    /// A server with a configuration, at whose port challenges are answered.
    pub(super) fn start(&self, name: &str, config: &str) -> Server {
        let server = Server::start(&self.dir.path().join(name), config);
        self.directory.book().servers.push(server.challenges);
        server
    }

    /// The files of the folder whose names begin so.
    pub(super) fn files(&self, start: &str) -> Vec<PathBuf> {
        let all = std::fs::read_dir(self.folder()).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start)).collect()
    }

    fn client(&self, server: &Server) -> reqwest::Client {
        client(self.directory.authority(), server.address)
    }

    /// The status of a request with a new connection; `None` when TLS does not begin.
    pub(super) async fn status(&self, server: &Server) -> Option<u16> {
        let answer = self.client(server).get(server.url("/v2/")).send().await;
        answer.map(|answer| answer.status().as_u16()).ok()
    }

    /// Waits until the server has a certificate of the directory.
    pub(super) async fn served(&self, server: &Server) {
        let start = Instant::now();
        while self.status(server).await != Some(200) {
            assert!(start.elapsed() < Duration::from_secs(20), "there is no certificate: {}", server.rest());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A metric without labels.
    pub(super) async fn metric(&self, server: &Server, name: &str) -> f64 {
        let text =
            self.client(server).get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("hyperregistry_{name} ")));
        line.unwrap().parse().unwrap()
    }
}

pub(super) fn client(authority: &Authority, address: SocketAddr) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(authority.pem.as_bytes()).unwrap();
    let builder = reqwest::Client::builder().tls_certs_only([root]).pool_max_idle_per_host(0);
    builder.resolve(DOMAIN, address).build().unwrap()
}

/// A server in a process of its own, and its log.
pub(super) struct Server {
    pub(super) process: Process,
    pub(super) address: SocketAddr,
    /// Where it answers challenges.
    pub(super) challenges: SocketAddr,
    pub(super) config: PathBuf,
    log: Receiver<String>,
}

impl Server {
    pub(super) fn start(dir: &Path, config: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let path = dir.join("config.toml");
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&path)
            .arg("--data")
            .arg(dir.join("data"))
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, log) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut address = || {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            let (_, address) = line.trim().rsplit_once("://").unwrap_or_else(|| panic!("{line}"));
            address.parse().unwrap()
        };
        let first = address();
        let challenges = if config.contains("http-listen") { address() } else { first };
        let process = Process { child, url: format!("https://{first}") };
        Self { process, address: first, challenges, config: path, log }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("https://{DOMAIN}:{}{path}", self.address.port())
    }

    pub(super) fn hang_up(&self, config: &str) {
        std::fs::write(&self.config, config).unwrap();
        self.process.signal("-HUP");
    }

    /// Waits for a line of the log with this part, and returns it.
    pub(super) fn logs(&self, part: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(Duration::from_secs(20)) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push(line),
                Err(e) => panic!("`{part}` is not in the log: {e}: {seen:#?}"),
            }
        }
    }

    /// What is in the log and was not read yet.
    pub(super) fn rest(&self) -> String {
        self.log.try_iter().collect::<Vec<_>>().join("\n")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_gets_its_first_certificate_and_asks_for_no_second_one() {
    let place = Place::new().await;
    let config = place.config(&[DOMAIN, "Other.example"], "contact = [\"admin@example.com\"]");
    let server = Server::start(&place.dir.path().join("one"), &config);
    server.logs("a certificate is requested by ACME");
    // It serves at once; the directory waits for a server.
    assert_eq!(place.status(&server).await, None);
    let line = server.logs("there is no certificate yet");
    assert!(line.contains(DOMAIN), "{line}");
    let status =
        |config: &Path| run(&["status", &server.process.url, "--config", config.to_str().unwrap()], "");
    let output = status(&server.config);
    assert!(!output.status.success() && stderr(&output).contains("no certificate by ACME yet"), "{output:?}");
    place.directory.book().servers.push(server.challenges);
    place.served(&server).await;
    assert!(server.logs("there is a new certificate").contains("other.example"));
    assert_eq!(place.directory.book().accounts[0].1, serde_json::json!(["mailto:admin@example.com"]));
    assert!(place.metric(&server, "tls_certificate_end_timestamp_seconds").await > 0.0);
    assert_eq!(place.metric(&server, "acme_failures_total").await, 0.0);
    let output = status(&server.config);
    assert!(output.status.success(), "{output:?}");
    // That of before is in use until there is one for other domains.
    let others = place.dir.path().join("others.toml");
    std::fs::write(&others, place.config(&["new.example"], "")).unwrap();
    let output = status(&others);
    assert!(output.status.success(), "{output:?}");
    // All is for the user alone, and nothing is left over.
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.folder()), 0o700);
    for file in place.files("") {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    assert_eq!(
        (place.files("certificate-").len(), place.files("account-").len(), place.files("").len()),
        (1, 1, 3)
    );
    // A server that finds a certificate asks nobody, and has it from the first connection on.
    drop(server);
    place.directory.book().asked.clear();
    let server = place.start("one", &config);
    assert_eq!(place.status(&server).await, Some(200));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(place.directory.book().asked.is_empty(), "{:?}", place.directory.book().asked);
    // One whose certificate was damaged replaces it.
    drop(server);
    place.directory.book().servers.clear();
    let certificate = &place.files("certificate-")[0];
    std::fs::write(certificate, "nonsense").unwrap();
    let server = place.start("one", &config);
    server.logs("the certificate by ACME cannot be used");
    place.served(&server).await;
    assert_eq!(place.directory.counts(), (2, 1));
}

/// A connection of a client that stays open.
async fn connect(place: &Place, server: &Server) -> tokio_rustls::client::TlsStream<TcpStream> {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    let pem = place.directory.authority().pem.as_bytes();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(DOMAIN.try_into().unwrap(), stream).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_while_connections_stay_open() {
    let place = Place::new().await;
    place.directory.book().life = Duration::from_secs(6);
    let server = place.start("one", &place.config(&[DOMAIN], ""));
    place.served(&server).await;
    let mut open = connect(&place, &server).await;
    let shown = |stream: &tokio_rustls::client::TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let first = shown(&open);
    place.directory.book().life = Duration::from_secs(90 * 86_400);
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < Duration::from_secs(20), "{}", server.rest());
        // Each new connection gets a certificate that is valid.
        if shown(&connect(&place, &server).await) != first {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(start.elapsed() >= Duration::from_secs(1), "it was renewed too early");
    open.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(place.directory.counts(), (2, 1));
}

/// As before a directory revokes certificates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_when_its_directory_says_so() {
    let place = Place::new().await;
    let config = place.config(&[DOMAIN], "");
    let server = place.start("one", &config);
    place.served(&server).await;
    drop(server);
    // It was got two days ago.
    let file = &place.files("certificate-")[0];
    let text = std::fs::read_to_string(file).unwrap();
    let issued = text.lines().find_map(|line| line.strip_prefix("Issued: ")).unwrap();
    let before = (issued.parse::<i64>().unwrap() - 2 * 86_400).to_string();
    std::fs::write(file, text.replace(issued, &before)).unwrap();
    {
        let mut book = place.directory.book();
        book.asked.clear();
        book.servers.clear();
        book.window = Some((1_700_000_000, 1_700_000_001));
    }
    let server = place.start("one", &config);
    server.logs("there is a new certificate");
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(&text.as_bytes()[text.find("-----BEGIN CERT").unwrap()..]).unwrap();
    let old = pem.parse_x509().unwrap();
    let authority = old.iter_extensions().find_map(|one| match one.parsed_extension() {
        x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
            Some(id.key_identifier.clone()?.0)
        }
        _ => None,
    });
    let name = [authority.unwrap(), old.raw_serial()].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let asked = place.directory.book().asked.clone();
    assert!(asked.contains(&format!("/renewal/{name}")), "{name}: {asked:?}");
    // Nobody is asked about the new one yet.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let asked = place.directory.book().asked.clone();
    assert_eq!(asked.iter().filter(|path| path.starts_with("/renewal/")).count(), 1);
    assert_eq!(place.directory.book().orders(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_is_answered_over_http_which_leads_to_the_registry() {
    let place = Place::new().await;
    let more = "challenge = \"http-01\"\nhttp-listen = \"127.0.0.1:0\"";
    let server = place.start("one", &place.config(&[DOMAIN, "other.example"], more));
    assert_ne!(server.address, server.challenges);
    place.served(&server).await;
    let asked = place.directory.book().asked.clone();
    assert!(asked.iter().any(|path| path.ends_with("/http-01")), "{asked:?}");
    let policy = reqwest::redirect::Policy::none();
    let client =
        reqwest::Client::builder().redirect(policy).resolve(DOMAIN, server.challenges).build().unwrap();
    let at = |path: &str| format!("http://{DOMAIN}:{}{path}", server.challenges.port());
    let answer = client.get(at("/v2/_catalog?n=2")).send().await.unwrap();
    assert_eq!(answer.status(), 308);
    assert_eq!(answer.headers()["location"], format!("https://{DOMAIN}/v2/_catalog?n=2"));
    for path in ["/.well-known/acme-challenge/token-of-00000000-0", "/.well-known/acme-challenge/..%2fx"] {
        assert_eq!(client.get(at(path)).send().await.unwrap().status(), 404);
    }
}

/// Clients must have certificates, and the directory has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_needs_no_certificate_of_a_client() {
    let place = Place::new().await;
    let clients = Authority::new("clients");
    let ca = place.dir.path().join("clients.pem");
    std::fs::write(&ca, &clients.pem).unwrap();
    let config = format!("[tls]\nclient-ca = {ca:?}\n{}", place.config(&[DOMAIN], ""));
    let server = place.start("one", &config);
    server.logs("there is a new certificate");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(place.status(&server).await, None);
    let (certificate, key) = clients.issue_for(&["user.example"], "alice", 1, 2090);
    let identity = reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap();
    let root = reqwest::Certificate::from_pem(place.directory.authority().pem.as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).identity(identity);
    let client = client.resolve(DOMAIN, server.address).build().unwrap();
    assert_eq!(client.get(server.url("/v2/")).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_account_is_proved_and_its_key_is_never_shown() {
    let place = Place::new().await;
    place.directory.book().external = Some(("kid-1", vec![0xfb; 32]));
    let key = place.dir.path().join("hmac");
    let write = |text: &str| {
        std::fs::write(&key, text).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let wrong = "secretsecretsecretsecretsecretsecretsecretse";
    write(wrong);
    let more = format!("external-account-id = \"kid-1\"\nexternal-account-key-file = {key:?}");
    let server = place.start("one", &place.config(&[DOMAIN], &more));
    let line = server.logs("ACME gave no certificate");
    assert!(line.contains("the binding is wrong") && !line.contains(wrong), "{line}");
    write("-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_v7-_s=\n");
    server.process.signal("-HUP");
    place.served(&server).await;
    assert_eq!(place.metric(&server, "acme_failures_total").await, 1.0);
    assert!(!server.rest().contains("_v7"));
    // Without one.
    let other = Place::new().await;
    other.directory.book().external = Some(("kid-1", vec![0xfb; 32]));
    let server = other.start("one", &other.config(&[DOMAIN], ""));
    let line = server.logs("ACME gave no certificate");
    assert!(line.contains("externalAccountRequired"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_with_one_folder_ask_once_and_each_answers_challenges() {
    let place = Place::new().await;
    place.directory.book().life = Duration::from_secs(6);
    let config = place.config(&[DOMAIN], "");
    let servers = ["one", "two", "three"].map(|name| Server::start(&place.dir.path().join(name), &config));
    // The directory connects to all, and wants the answer of each.
    place.directory.book().servers = servers.iter().map(|server| server.challenges).collect();
    for server in &servers {
        place.served(server).await;
    }
    assert_eq!(place.directory.book().orders(), 1);
    // And so at a renewal.
    let first = connect(&place, &servers[0]).await.get_ref().1.peer_certificates().unwrap()[0].clone();
    place.directory.book().life = Duration::from_secs(90 * 86_400);
    for server in &servers {
        let start = Instant::now();
        loop {
            let stream = connect(&place, server).await;
            if stream.get_ref().1.peer_certificates().unwrap()[0] != first {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{}", server.rest());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(place.directory.counts(), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_domains_at_a_reload_are_requested_and_former_ones_are_kept() {
    let place = Place::new().await;
    let server = place.start("one", &place.config(&[DOMAIN], ""));
    place.served(&server).await;
    server.hang_up(&place.config(&["new.example", DOMAIN], ""));
    server.logs("there is a new certificate");
    let names = async || {
        let stream = connect(&place, &server).await;
        let der = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len()
    };
    let waits = async |count: usize| {
        for _ in 0..200 {
            if names().await == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{count} names are not shown: {}", server.rest());
    };
    waits(2).await;
    // Back: the certificate of before is there still.
    server.hang_up(&place.config(&[DOMAIN], ""));
    waits(1).await;
    assert_eq!(place.directory.book().orders(), 2);
    // A domain that is none changes nothing.
    server.hang_up(&place.config(&["*.example"], ""));
    let line = server.logs("the configuration cannot be read again");
    assert!(line.contains("dns-01"), "{line}");
    assert_eq!(place.status(&server).await, Some(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_of_the_configuration_reads_all_and_asks_nobody() {
    let place = Place::new().await;
    let file = place.dir.path().join("config.toml");
    let check = |config: &str| {
        std::fs::write(&file, config).unwrap();
        run(&["config", "check", "--config", file.to_str().unwrap()], "")
    };
    let good = place.config(&[DOMAIN], "");
    let output = check(&good);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!place.folder().exists() && place.directory.book().asked.is_empty());
    for (from, to, parts) in [
        ("accept-terms = true", "", &["accept-terms", "terms of service", "tls.acme"][..]),
        (DOMAIN, "*.example", &["*.example", "dns-01", "tls.acme"]),
        (DOMAIN, "192.0.2.1", &["192.0.2.1", "a name is needed"]),
        ("https://127", "http://127", &["invalid directory", "https"]),
        ("/ca\"", "/none\"", &["/none"]),
        (
            "[tls.acme]",
            "[tls]\ncertificate = \"a\"\nkey = \"b\"\n[tls.acme]",
            &["tls.acme", "tls.certificate"],
        ),
    ] {
        let config = good.replace(from, to);
        assert_ne!(config, good, "{from}");
        let output = check(&config);
        let text = stderr(&output);
        assert!(!output.status.success() && parts.iter().all(|part| text.contains(part)), "{to}: {text}");
    }
    // A server refuses the same.
    std::fs::write(&file, good.replace(DOMAIN, "*.example")).unwrap();
    let data = place.dir.path().join("data");
    let args = ["serve", "--config", file.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let output = run(&args, "");
    assert!(!output.status.success() && stderr(&output).contains("dns-01"), "{}", stderr(&output));
}
