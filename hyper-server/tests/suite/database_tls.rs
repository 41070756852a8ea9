//! TLS to the database: who it is, is checked as the URL says.

use hyper_sdk::ErrorKind;
use hyper_sdk::store::meta::{PostgresOptions, SqlMeta};
use hyper_sdk::testing::{PostgresServer, given};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::path::Path;

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

fn append(path: &Path, text: &str) {
    std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Makes a server listen at these addresses, with TLS alone and this certificate.
fn listen(server: &PostgresServer, addresses: &[String], certificate: &str, key: &str) {
    server.stop().unwrap();
    let data = server.folder().join("data");
    let owner = std::fs::metadata(&data).unwrap();
    for (name, text) in [("tls.crt", certificate), ("tls.key", key)] {
        let path = data.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let addresses = addresses.join(", ");
    append(
        &data.join("postgresql.conf"),
        &format!(
            "\nlisten_addresses = '{addresses}'\nssl = on\nssl_cert_file = 'tls.crt'\nssl_key_file = 'tls.key'\n"
        ),
    );
    std::fs::write(data.join("pg_hba.conf"), "local all all trust\nhostssl all all 127.0.0.0/8 trust\n")
        .unwrap();
    server.up().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_of_a_database_is_checked() {
    let server: Option<PostgresServer> = given("TLS to PostgreSQL", PostgresServer::start().unwrap());
    let Some(server) = server else { return };
    let ((ca, own), (_, other), key) = (authority(), authority(), KeyPair::generate().unwrap());
    // No other server has these addresses, so that the usual port is free there.
    let [high, middle, low] = [1, 125, 125 * 250].map(|part| std::process::id() / part);
    let [named, unnamed] =
        [1, 2].map(|last| format!("127.{}.{}.{}", 100 + low % 100, middle % 250, (high % 125) * 2 + last));
    let certificate = CertificateParams::new(vec![named.clone()]).unwrap().signed_by(&key, &ca).unwrap();
    server.sql("postgres", "CREATE SCHEMA tls");
    listen(&server, &[named.clone(), unnamed.clone()], &certificate.pem(), &key.serialize_pem());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("&sslrootcert={}", path.display())
    };
    let (own, other, web) = (file("own.crt", &own), file("other.crt", &other), String::new());
    for (mode, authority, address, is_open) in [
        ("verify-full", &own, &named, true),
        ("verify-full", &own, &unnamed, false),
        ("verify-full", &other, &named, false),
        ("verify-full", &web, &named, false),
        ("verify-ca", &own, &unnamed, true),
        ("verify-ca", &other, &named, false),
        ("require", &web, &unnamed, true),
        // Whoever names an authority means it.
        ("require", &own, &unnamed, true),
        ("require", &other, &named, false),
        ("prefer", &web, &named, true),
        ("disable", &web, &named, false),
    ] {
        let url = format!(
            "postgres://postgres@{address}/postgres?options=-c%20search_path%3Dtls&sslmode={mode}{authority}"
        );
        let opened = SqlMeta::connect(PostgresOptions::parse(&url).unwrap()).await;
        let case = format!("{mode} {authority} {address}");
        match opened {
            Ok(_meta) => {
                assert!(is_open, "{case}");
                let sessions = "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
                                WHERE a.application_name = 'hyper'";
                assert_eq!(server.sql("postgres", sessions).trim(), "t", "{case}");
            }
            Err(e) => {
                assert!(!is_open && e.kind() == ErrorKind::Unavailable, "{case}: {e:#}");
                let causes =
                    std::iter::successors(Some(&e as &dyn std::error::Error), |cause| cause.source());
                let shown: Vec<String> = causes.map(ToString::to_string).collect();
                let is_about_it = shown.iter().any(|text| text.contains("certificate"));
                assert_eq!(is_about_it, mode != "disable", "{case}: {shown:?}");
            }
        }
    }
}
