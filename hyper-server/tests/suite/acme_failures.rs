//! Certificates by ACME: what goes wrong, what is said of it, and that a directory is not asked too often.

use super::acme::{DOMAIN, Place, Server};
use super::acme_server::Fault;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_directory_does_now_and_then_is_no_failure() {
    let place = Place::new().await;
    place.directory.book().faults.extend([
        ("/new-account", Fault::BadNonce),
        ("/new-order", Fault::BadNonce),
        ("/challenge/", Fault::BadNonce),
        ("/order/0/finalize", Fault::BadNonce),
    ]);
    let server = place.start("one", &place.config(&[DOMAIN], ""));
    place.served(&server).await;
    assert_eq!(place.metric(&server, "acme_failures_total").await, 0.0);
    assert!(place.directory.book().faults.is_empty());
    // An account that the directory has lost is made anew.
    place.directory.book().accounts.clear();
    server.hang_up(&place.config(&[DOMAIN, "b.example"], ""));
    server.logs("does not know the account");
    server.logs("there is a new certificate");
    assert_eq!(place.directory.book().accounts.len(), 1);
}

/// Each failure is one line with its reason, a count, and a pause; a signal lets the next try come at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_does_not_answer_is_asked_again_later() {
    let place = Place::new().await;
    let faults = [
        ("/directory", Fault::Cut, "cannot be fetched"),
        ("/directory", Fault::Page, "status: 502"),
        ("/nonce", Fault::Page, "status: 502"),
        ("/new-order", Fault::Problem(500, "serverInternal", None), "serverInternal"),
        ("/new-order", Fault::Cut, "cannot be fetched"),
    ];
    place.directory.book().faults.extend(faults.map(|(path, fault, _)| (path, fault)));
    let server = place.start("one", &place.config(&[DOMAIN], ""));
    for (path, fault, reason) in faults {
        let line = server.logs("ACME gave no certificate");
        assert!(line.contains(reason) && line.contains("next="), "{path} {fault:?}: {line}");
        // Not by itself.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(!server.rest().contains("requested"));
        server.process.signal("-HUP");
    }
    place.served(&server).await;
    assert_eq!(place.metric(&server, "acme_failures_total").await, 5.0);
    assert!(place.files("tries-").is_empty(), "a success forgets the failures");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_that_cannot_be_validated_is_tried_four_times_an_hour_at_most() {
    let place = Place::new().await;
    let config = place.config(&[DOMAIN, "b.example"], "");
    // Nobody answers there.
    place.directory.book().servers.push("127.0.0.1:1".parse().unwrap());
    for start in 0..6 {
        let server = Server::start(&place.dir.path().join("one"), &config);
        if start < 4 {
            let line = server.logs("ACME gave no certificate");
            assert!(line.contains("could not validate") && line.contains(DOMAIN), "{line}");
            assert!(line.contains("refused") && line.contains("unauthorized"), "{line}");
            assert!(place.files("challenge-").is_empty());
        } else {
            server.process.signal("-HUP");
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(!server.rest().contains("requested"));
            assert_eq!(place.status(&server).await, None);
        }
    }
    assert_eq!(place.directory.counts(), (4, 1));
}

/// As when somebody opens a port that the directory waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_during_a_try_that_fails_lets_the_next_one_come_at_once() {
    let place = Place::new().await;
    place.directory.book().faults.push_back(("/order/0/finalize", Fault::Problem(403, "unauthorized", None)));
    let config = place.config(&[DOMAIN], "");
    // The directory waits for a server.
    let server = Server::start(&place.dir.path().join("one"), &config);
    server.logs("a certificate is requested by ACME");
    server.hang_up(&format!("{config}[log]\nlevel = \"debug\"\n"));
    server.logs("the level of the log changes");
    // A moment later the rest was read again, too.
    tokio::time::sleep(Duration::from_secs(1)).await;
    place.directory.book().servers.push(server.challenges);
    let line = server.logs("ACME gave no certificate");
    assert!(line.contains("unauthorized"), "{line}");
    server.logs("there is a new certificate");
    assert_eq!(place.directory.counts(), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_the_directory_asks_for_is_kept() {
    let place = Place::new().await;
    let config = place.config(&[DOMAIN], "");
    place.directory.book().faults.push_back(("/new-order", Fault::Problem(429, "rateLimited", Some(90_000))));
    let server = place.start("one", &config);
    let line = server.logs("ACME gave no certificate");
    assert!(line.contains("too many") && line.contains("rateLimited"), "{line}");
    let now = hyper_sdk::clock::rfc3339(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64 + 86_400);
    let next = line.split("next=").nth(1).unwrap().trim_matches('"').split(['"', ' ']).next().unwrap();
    assert!(next > now.as_str(), "{next} {now}");
    server.process.signal("-HUP");
    drop(server);
    let asked = place.directory.book().asked.len();
    let server = place.start("one", &config);
    server.logs("started");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(place.directory.book().asked.len(), asked);
}

/// A server whose certificate cannot be renewed goes on with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_cannot_be_renewed_stays_in_use() {
    let place = Place::new().await;
    place.directory.book().life = Duration::from_secs(9);
    let server = place.start("one", &place.config(&[DOMAIN], ""));
    place.served(&server).await;
    place.directory.book().faults.push_back(("/directory", Fault::Page));
    server.logs("ACME gave no certificate");
    assert_eq!(place.status(&server).await, Some(200));
    assert_eq!(place.metric(&server, "acme_failures_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_others_could_have_made_are_not_used() {
    let place = Place::new().await;
    let config = place.config(&[DOMAIN], "");
    let server = place.start("one", &config);
    place.served(&server).await;
    drop(server);
    use std::os::unix::fs::PermissionsExt as _;
    let certificate = &place.files("certificate-")[0];
    std::fs::set_permissions(certificate, std::fs::Permissions::from_mode(0o644)).unwrap();
    let server = place.start("one", &config);
    let line = server.logs("the folder of ACME cannot be used");
    assert!(line.contains("chmod 600") && line.contains("certificate-"), "{line}");
    assert_eq!(place.status(&server).await, None);
    assert_eq!(place.directory.book().orders(), 1);
}

/// What makes a client of ACME panic ends neither the renewal nor the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_of_a_directory_is_a_failure_like_others() {
    let place = Place::new().await;
    place.directory.book().nonces_at = Some("a b");
    let server = place.start("one", &place.config(&[DOMAIN], ""));
    let line = server.logs("ACME gave no certificate");
    assert!(line.contains("newNonce"), "{line}");
    {
        let mut book = place.directory.book();
        book.nonces_at = None;
        // A day is longer than anybody's patience, and so long that it cannot be added to the time.
        book.wait = Some("18446744073709551615");
    }
    server.process.signal("-HUP");
    server.logs("there is a new certificate");
    place.served(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tries_that_are_cut_count_as_failures() {
    let place = Place::new().await;
    let config = place.config(&[DOMAIN], "");
    for start in 0..6 {
        // The directory waits for a server to which it could connect.
        let server = Server::start(&place.dir.path().join("one"), &config);
        for _ in 0..400 {
            if place.directory.book().orders() > start {
                break;
            }
            // The last two have nothing to wait for.
            tokio::time::sleep(Duration::from_millis(if start < 4 { 50 } else { 3 })).await;
        }
        server.process.signal("-KILL");
    }
    assert_eq!(place.directory.book().orders(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_revoked_also_while_the_certificate_is_missing() {
    let place = Place::new().await;
    let clients = super::tls::Authority::new("clients");
    let (ca, crl) = (place.dir.path().join("clients.pem"), place.dir.path().join("clients.crl"));
    std::fs::write(&ca, &clients.pem).unwrap();
    std::fs::write(&crl, clients.revoke(7)).unwrap();
    let config = format!("[tls]\nclient-ca = {ca:?}\nclient-crl = {crl:?}\n{}", place.config(&[DOMAIN], ""));
    let server = place.start("one", &config);
    server.logs("there is a new certificate");
    let (certificate, key) = clients.issue_for(&["user.example"], "alice", 1, 2090);
    let status = async || {
        let identity = reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap();
        let root = reqwest::Certificate::from_pem(place.directory.authority().pem.as_bytes()).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([root]).identity(identity);
        let client = client.resolve(DOMAIN, server.address).build().unwrap();
        client.get(server.url("/v2/")).send().await.map(|answer| answer.status().as_u16()).ok()
    };
    let becomes = async |expected: Option<u16>| {
        for _ in 0..100 {
            if status().await == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it is not {expected:?}: {}", server.rest());
    };
    becomes(Some(200)).await;
    place.directory.book().faults.extend([("/directory", Fault::Page); 20]);
    std::fs::remove_file(&place.files("certificate-")[0]).unwrap();
    std::fs::write(&crl, clients.revoke(1)).unwrap();
    becomes(None).await;
    std::fs::write(&crl, clients.revoke(7)).unwrap();
    becomes(Some(200)).await;
}
