//! TLS: what is spoken, whose certificates are believed, and their renewal.

use super::support::memory;
use hyper_server::{
    ClientAuth, Connections, Listener, Listeners, NameRule, Registry, RegistryOptions, ServerOptions, Tls,
    TlsOptions, UnixSocket, serve,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber, date_time_ymd,
};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// An authority.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key.
    fn issue(&self, name: &str, serial: u64, end: i32) -> (String, String) {
        self.issue_for(&["127.0.0.1", "user.example"], name, serial, end)
    }

    /// A certificate for these addresses and hosts, and its key.
    pub(super) fn issue_for(&self, hosts: &[&str], name: &str, serial: u64, end: i32) -> (String, String) {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = date_time_ymd(end, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// The chain of a certificate that was requested for these domains, which lasts until then.
    pub(super) fn sign(
        &self,
        request: &[u8],
        domains: &[String],
        end: std::time::SystemTime,
    ) -> Result<String, String> {
        let request = rcgen::CertificateSigningRequestParams::from_der(&request.into());
        let mut request = request.map_err(|e| e.to_string())?;
        let names = domains.iter().map(|name| rcgen::SanType::DnsName(name.as_str().try_into().unwrap()));
        if request.params.subject_alt_names != names.collect::<Vec<_>>() {
            return Err(format!("the names are {:?}", request.params.subject_alt_names));
        }
        request.params.not_before = (std::time::SystemTime::now() - Duration::from_secs(3600)).into();
        request.params.not_after = end.into();
        request.params.use_authority_key_identifier_extension = true;
        let leaf = request.signed_by(&self.issuer).map_err(|e| e.to_string())?.pem();
        Ok(leaf + &self.pem)
    }

    pub(super) fn revoke(&self, serial: u64) -> String {
        self.revoke_until(serial, 2090)
    }

    /// A list of revoked certificates that counts until the beginning of a year.
    fn revoke_until(&self, serial: u64, end: i32) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(end, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// The files of a server.
struct Files {
    dir: tempfile::TempDir,
    options: TlsOptions,
}

impl Files {
    fn new((certificate, key): (String, String)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let options = TlsOptions { certificate: path("crt"), key: path("key"), ..TlsOptions::default() };
        let files = Self { dir, options };
        files.put(&certificate, &key);
        files
    }

    fn put(&self, certificate: &str, key: &str) {
        self.write("crt", certificate);
        self.write("key", key);
    }

    /// Writes a file that only its owner can read.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn options_as_toml(&self) -> String {
        let (certificate, key) = (self.options.certificate.display(), self.options.key.display());
        format!("[tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n")
    }

    fn refused(&self) -> String {
        format!("{:#}", Tls::open(self.options.clone()).unwrap_err())
    }
}

/// A server that ends with the test.
struct Running {
    url: String,
    address: String,
    connections: Connections,
}

async fn start(tls: &Tls, options: RegistryOptions) -> Running {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let options = RegistryOptions { client_certificates: tls.knows_clients(), ..options };
    let connections = start_on(Listener::tls(socket, tls.clone()), options);
    Running { url: format!("https://{address}"), address, connections }
}

fn start_on(listeners: impl Into<Listeners>, options: RegistryOptions) -> Connections {
    let registry = Registry::new(memory(), options).unwrap();
    let connections = registry.connections().clone();
    let handshake_timeout = Duration::from_millis(300);
    let options =
        ServerOptions { connections: connections.clone(), handshake_timeout, ..ServerOptions::default() };
    let listeners = listeners.into();
    tokio::spawn(async move { serve(listeners, registry, options, std::future::pending()).await });
    connections
}

fn client(roots: &[&Authority], identity: Option<&(String, String)>, h1: bool) -> reqwest::Client {
    let roots = roots.iter().map(|root| reqwest::Certificate::from_pem(root.pem.as_bytes()).unwrap());
    let mut builder = reqwest::Client::builder().tls_certs_only(roots).pool_max_idle_per_host(0);
    if let Some((certificate, key)) = identity {
        builder =
            builder.identity(reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap());
    }
    if h1 { builder.http1_only() } else { builder }.build().unwrap()
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_over_tls() {
    let authority = Authority::new("root");
    let files = Files::new(authority.issue("server", 1, 2090));
    let server = start(&Tls::open(files.options.clone()).unwrap(), RegistryOptions::default()).await;
    for (h1, version) in [(true, reqwest::Version::HTTP_11), (false, reqwest::Version::HTTP_2)] {
        let client = client(&[&authority], None, h1);
        let content = super::support::noise(1, 3_000_000);
        let digest = hyper_sdk::Digest::sha256(&content);
        let push = client.post(format!("{}/v2/a/blobs/uploads/?digest={digest}", server.url));
        let response = push.body(content.clone()).send().await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (201, version));
        let pull = client.get(format!("{}/v2/a/blobs/{digest}", server.url)).send().await.unwrap();
        assert_eq!(pull.bytes().await.unwrap(), content);
    }
    assert!(client(&[&Authority::new("other")], None, true).get(&server.url).send().await.is_err());
}

/// The buffers of a quiet connection are given back, those of TLS are not.
#[tokio::test]
async fn a_connection_of_tls_goes_on_after_a_pause() {
    let authority = Authority::new("root");
    let files = Files::new(authority.issue("server", 1, 2090));
    let server = start(&Tls::open(files.options.clone()).unwrap(), RegistryOptions::default()).await;
    let root = reqwest::Certificate::from_pem(authority.pem.as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).http1_only().build().unwrap();
    for size in [10, 3_000_000, 20] {
        let content = super::support::noise(1, size);
        let digest = hyper_sdk::Digest::sha256(&content);
        let push = client.post(format!("{}/v2/a/blobs/uploads/?digest={digest}", server.url));
        assert_eq!(push.body(content.clone()).send().await.unwrap().status(), 201);
        tokio::time::sleep(Duration::from_millis(450)).await;
        let pull = client.get(format!("{}/v2/a/blobs/{digest}", server.url)).send().await.unwrap();
        assert_eq!(pull.bytes().await.unwrap(), content);
        tokio::time::sleep(Duration::from_millis(450)).await;
    }
    assert_eq!(server.connections.accepted(), 1);
}

#[tokio::test]
async fn plain_http_gets_a_clear_answer_and_a_slow_handshake_is_cut() {
    let authority = Authority::new("root");
    let files = Files::new(authority.issue("server", 1, 2090));
    let server = start(&Tls::open(files.options.clone()).unwrap(), RegistryOptions::default()).await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 ") && body.contains("this port speaks TLS"), "{answer}");
    assert!(
        head.contains(&format!("content-length: {}\r\n", body.len()))
            || head.ends_with(&body.len().to_string())
    );
    assert_eq!(server.connections.refused_requests(), 1);
    for begin in [&b""[..], b"\x16\x03\x01", b"\x80\x2e\x01\x00\x02", b"\x16\x03\x01\xff\xff"] {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(begin).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{begin:?}: the connection stays open");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_used_and_no_request_is_lost() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let files = Files::new(old.issue("server", 1, 2090));
    let tls = Tls::open(files.options.clone()).unwrap();
    let server = start(&tls, RegistryOptions::default()).await;
    let both = client(&[&old, &new], None, true);
    let url = format!("{}/v2/", server.url);
    let load = tokio::spawn({
        let url = url.clone();
        async move {
            for _ in 0..150 {
                assert_eq!(both.get(&url).send().await.unwrap().status(), 200);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    let kept = client(&[&old], None, false);
    let status =
        async |client: &reqwest::Client| client.get(&url).send().await.map(|r| r.status().as_u16()).ok();
    // The certificate of another key, garbage, one that has expired: the old one stays.
    let (certificate, key) = new.issue("server", 2, 2090);
    let (expired, expired_key) = new.issue("server", 3, 2020);
    for (certificate, key, why) in [
        (certificate.as_str(), files.read("key"), "not that of the first certificate"),
        ("garbage", key.clone(), "no certificate"),
        (expired.as_str(), expired_key, "expired at"),
    ] {
        files.put(certificate, &key);
        if let Err(e) = tls.reload() {
            assert!(e.to_string().contains(why), "{e}");
        }
        assert!(!tls.reload().unwrap(), "a fault is reported once");
        assert_eq!(status(&kept).await, Some(200));
    }
    files.put(&certificate, &key);
    let only_new = client(&[&new], None, true);
    let mut tries = 0;
    while status(&only_new).await.is_none() {
        tries += 1;
        assert!(tries < 100, "the new certificate is not used");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(status(&client(&[&old], None, true)).await, None);
    load.await.unwrap();
}

/// A policy decides on the user of a client certificate.
#[tokio::test]
async fn a_policy_knows_the_user_of_a_certificate() {
    use hyper_server::auth::PolicyFile;
    let (root, clients) = (Authority::new("root"), Authority::new("clients"));
    let mut files = Files::new(root.issue("server", 1, 2090));
    files.options.client_ca = Some(files.write("ca", &clients.pem));
    let policy = "[[allow]]\nwho = [\"user:alice\"]\nrepositories = [\"a\"]\nactions = [\"pull\"]";
    let policy = PolicyFile::open(&files.write("policy", policy)).unwrap();
    let options =
        RegistryOptions { authorizer: Some(std::sync::Arc::new(policy)), ..RegistryOptions::default() };
    let server = start(&Tls::open(files.options.clone()).unwrap(), options).await;
    for (user, repository, status) in [("alice", "a", 404), ("alice", "b", 403), ("bob", "a", 403)] {
        let client = client(&[&root], Some(&clients.issue(user, 2, 2090)), true);
        let url = format!("{}/v2/{repository}/tags/list", server.url);
        assert_eq!(client.get(url).send().await.unwrap().status(), status, "{user} {repository}");
    }
}

/// An old certificate, in use or new, stops nothing but itself.
#[tokio::test]
async fn what_time_does_to_a_certificate_is_no_fault_of_the_other_files() {
    let (root, clients) = (Authority::new("root"), Authority::new("clients"));
    // The certificate in use has expired, and a client certificate is revoked.
    let mut files = Files::new(root.issue("server", 1, 2020));
    files.options.client_ca = Some(files.write("ca", &clients.pem));
    files.options.client_crl = Some(files.write("crl", &clients.revoke(10)));
    let tls = Tls::open(files.options.clone()).unwrap();
    files.write("crl", &clients.revoke(11));
    assert!(tls.reload().unwrap());
    // A new one that is valid only in two seconds: it is used then, without another change.
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.not_before = (std::time::SystemTime::now() + Duration::from_secs(2)).into();
    params.not_after = date_time_ymd(2090, 1, 1);
    let key = KeyPair::generate().unwrap();
    let (expired, _) = root.issue("old authority", 4, 2020);
    files.put(&(params.signed_by(&key, &root.issuer).unwrap().pem() + &expired), &key.serialize_pem());
    assert!(tls.reload().unwrap_err().to_string().contains("is not valid before"));
    assert!(!tls.reload().unwrap(), "a fault is reported once");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(tls.reload().unwrap());
}

impl Files {
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }
}

#[tokio::test]
async fn a_hang_up_reads_the_files_again_and_the_server_goes_on() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let files = Files::new(old.issue("server", 1, 2090));
    let data = files.dir.path().join("data");
    let mut child = std::process::Command::new(super::program::PROGRAM)
        .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn", "--data"])
        .arg(&data)
        .arg("--tls-cert")
        .arg(&files.options.certificate)
        .arg("--tls-key")
        .arg(&files.options.key)
        .env_clear()
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let server = super::program::Process { child, url: line.trim().rsplit(' ').next().unwrap().to_owned() };
    let url = format!("{}/v2/", server.url);
    assert!(url.starts_with("https://127.0.0.1:"), "{line}");
    let get = async |root: &Authority| client(&[root], None, true).get(&url).send().await;
    assert_eq!(get(&old).await.unwrap().status(), 200);
    // `status` accepts this certificate and no other.
    let config = files.write("config.toml", &files.options_as_toml());
    let (other, _) = new.issue("other", 3, 2090);
    files.write("other.crt", &other);
    let other = files.options_as_toml().replace("/crt", "/other.crt");
    let other = files.write("other.toml", &other);
    let output = super::program::run(&["status", &server.url, "--config", other.to_str().unwrap()], "");
    assert!(!output.status.success() && super::program::stderr(&output).contains("begin TLS"), "{output:?}");
    let status = ["status", &server.url, "--config", config.to_str().unwrap()];
    let output = super::program::run(&status, "");
    assert!(output.status.success(), "{output:?}");
    let output = super::program::run(&status[..2], "");
    assert!(super::program::stderr(&output).contains("use --config"), "{output:?}");
    let (certificate, key) = new.issue("server", 2, 2090);
    files.put(&certificate, &key);
    server.signal("-HUP");
    let mut tries = 0;
    while get(&new).await.is_err() {
        tries += 1;
        assert!(tries < 100, "the new certificate is not used");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Twice, so that the handler is not for one signal alone.
    server.signal("-HUP");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(get(&new).await.unwrap().status(), 200);
    // The metrics show when it ends, and files that cannot be used.
    let shows = async |line: &str| {
        for _ in 0..200 {
            let answer =
                client(&[&new], None, true).get(format!("{}/metrics", server.url)).send().await.unwrap();
            if answer.text().await.unwrap().lines().any(|one| one == line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the metrics do not have {line}");
    };
    shows("hyperregistry_tls_certificate_end_timestamp_seconds 3786912000").await;
    shows("hyperregistry_reload_failed{files=\"tls\"} 0").await;
    files.put(&certificate, "nonsense");
    shows("hyperregistry_reload_failed{files=\"tls\"} 1").await;
    files.put(&certificate, &key);
    shows("hyperregistry_reload_failed{files=\"tls\"} 0").await;
}

#[test]
fn unusable_files_are_named() {
    let authority = Authority::new("root");
    let mut files = Files::new(authority.issue("server", 1, 2090));
    let (other, _) = authority.issue("other", 2, 2090);
    let good = (files.read("crt"), files.read("key"));
    for (certificate, key, parts) in [
        (other.as_str(), good.1.as_str(), ["not that of the first certificate", "/crt"]),
        ("", &good.1, ["no certificate", "/crt"]),
        (&good.0, "", ["BEGIN PRIVATE KEY", "/key"]),
        (
            &good.0,
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            ["encrypted", "/key"],
        ),
        (&good.0, "-----BEGIN PRIVATE KEY-----\nsecret!\n-----END PRIVATE KEY-----\n", ["not PEM", "/key"]),
    ] {
        files.put(certificate, key);
        let e = files.refused();
        assert!(parts.iter().all(|part| e.contains(part)) && !e.contains("secret!"), "{e}");
    }
    files.put(&good.0, &good.1);
    let key = files.dir.path().join("key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(files.refused().contains("chmod"), "{}", files.refused());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(Tls::open(files.options.clone()).unwrap().warnings().is_empty());
    files.options.client_crl = Some(files.write("crl", "x"));
    assert!(files.refused().contains("authorities"));
    files.options.client_ca = Some(files.write("ca", &authority.pem));
    assert!(files.refused().contains("/crl"), "{}", files.refused());
    files.options.client_crl = None;
    files.options.client_ca = Some(files.write("ca", "x"));
    assert!(files.refused().contains("/ca"), "{}", files.refused());
    let expired = Files::new(authority.issue("server", 3, 2020));
    let warnings = Tls::open(expired.options.clone()).unwrap().warnings();
    assert!(
        warnings.len() == 1 && warnings[0].contains("expired at") && warnings[0].contains("CN=server"),
        "{warnings:?}"
    );
}

#[tokio::test]
async fn a_client_certificate_stands_for_its_user() {
    let (root, clients, strangers) =
        (Authority::new("root"), Authority::new("clients"), Authority::new("strangers"));
    let mut files = Files::new(root.issue("server", 1, 2090));
    let (alice, revoked) = (clients.issue("alice", 10, 2090), clients.issue("mallory", 11, 2090));
    let (stranger, expired) = (strangers.issue("alice", 12, 2090), clients.issue("alice", 13, 2020));
    files.options.client_ca = Some(files.write("ca", &clients.pem));
    files.options.client_crl = Some(files.write("crl", &clients.revoke(11)));
    for (mode, without) in [(ClientAuth::Required, None), (ClientAuth::Optional, Some(403))] {
        files.options.client_auth = mode;
        let server = start(&Tls::open(files.options.clone()).unwrap(), RegistryOptions::default()).await;
        let url = format!("{}/v2/", server.url);
        let status = async |identity: Option<&(String, String)>| {
            let client = client(&[&root], identity, true);
            client.get(&url).send().await.map(|r| r.status().as_u16()).ok()
        };
        assert_eq!(status(Some(&alice)).await, Some(200), "{mode:?}");
        assert_eq!(status(None).await, without, "{mode:?}");
        for bad in [&revoked, &stranger, &expired] {
            assert_eq!(status(Some(bad)).await, None, "{mode:?}");
        }
    }
    // A list of revoked certificates that is out of date says nothing of anybody.
    let list = files.options.client_crl.clone();
    files.options.client_crl = Some(files.write("old-crl", &clients.revoke_until(11, 2026)));
    let server = start(&Tls::open(files.options.clone()).unwrap(), RegistryOptions::default()).await;
    let url = format!("{}/v2/", server.url);
    assert!(client(&[&root], Some(&alice), true).get(&url).send().await.is_err());
    files.options.client_crl = list;
    // No one name of mail is in the certificate: nobody is logged in.
    files.options.client_name = NameRule::Email;
    let server = start(&Tls::open(files.options.clone()).unwrap(), RegistryOptions::default()).await;
    let response =
        client(&[&root], Some(&alice), true).get(format!("{}/v2/", server.url)).send().await.unwrap();
    assert_eq!(response.status(), 403);
}

#[tokio::test]
async fn a_socket_of_the_file_system_serves_requests_beside_a_port() {
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = &dir.path().join("socket");
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = port.local_addr().unwrap();
    let unix = Listener::unix(UnixSocket::bind(path, 0o600).unwrap());
    start_on(vec![unix, port.into()], RegistryOptions::default());
    for _ in 0..3 {
        let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let response = reqwest::get(format!("http://{address}/v2/")).await.unwrap();
        assert_eq!(response.status(), 200);
    }
}
