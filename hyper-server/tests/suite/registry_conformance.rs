//! The check of registries: against ours, on every pair of backends, and against one of others.

use super::access::users;
use super::program::{PROGRAM, Process, run, stderr};
use super::support::memory;
use hyper_sdk::client::HttpClient;
use hyper_sdk::client::registry_conformance::{Options, Report, Status, check};
use hyper_sdk::reference::{RegistryHost, RepositoryName};
use hyper_sdk::store::Page;
use hyper_sdk::testing::{PostgresServer, S3Server, given};
use hyper_server::{RegistryOptions, Server, ServerOptions};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The names of the cases that ended so.
fn names(report: &Report, status: Status) -> Vec<&str> {
    report.cases.iter().filter(|case| case.status == status).map(|case| case.name).collect()
}

/// Checks that a run of the program passed every case but for these, which are skipped.
#[track_caller]
fn passed(output: &std::process::Output, skipped: &[&str]) {
    let json: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)));
    let cases = json["cases"].as_array().unwrap();
    assert!(cases.len() > 80, "{}", cases.len());
    let other: Vec<_> = cases.iter().filter(|case| case["status"] != "passed").collect();
    let names: Vec<_> = other.iter().map(|case| case["name"].as_str().unwrap()).collect();
    assert_eq!(names, skipped, "{other:#?}");
    assert!(other.iter().all(|case| case["status"] == "skipped"), "{other:#?}");
    assert!(output.status.success(), "{}", stderr(output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_registry_keeps_every_rule_and_is_left_as_it_was() {
    let store = memory();
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::start(store.clone(), address, RegistryOptions::default(), ServerOptions::default())
        .await
        .unwrap();
    let client = HttpClient::builder(RegistryHost::from_address(&server.url()).unwrap()).build().unwrap();
    let mut seen = 0;
    let report = check(&client, &Options::default(), |_| seen += 1).await.unwrap();
    assert_eq!(seen, report.cases.len());
    let wrong: Vec<_> = report
        .cases
        .iter()
        .filter(|case| !matches!(case.status, Status::Passed | Status::Skipped))
        .map(|case| format!("{}: {}", case.name, case.reason))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(names(&report, Status::Skipped), ["registry-challenge"]);
    assert!(report.conforms());
    for name in ["conformance/one", "conformance/two"] {
        let name = RepositoryName::parse(name).unwrap();
        let tags = store.list_tags(&name, Page::default()).await;
        assert!(tags.is_err() || tags.unwrap().items.is_empty(), "{name} has tags");
    }
}

#[tokio::test]
async fn cases_are_chosen_by_the_start_of_their_names() {
    let server = Server::start(
        memory(),
        "127.0.0.1:0".parse().unwrap(),
        RegistryOptions::default(),
        ServerOptions::default(),
    )
    .await
    .unwrap();
    let client = HttpClient::builder(RegistryHost::from_address(&server.url()).unwrap()).build().unwrap();
    let mut options = Options::default();
    options.only = vec!["tags-n".to_owned(), "mount".to_owned()];
    let report = check(&client, &options, |_| ()).await.unwrap();
    let expected = [
        "mount",
        "mount-unknown",
        "mount-without-source",
        "mount-digest-invalid",
        "tags-none",
        "tags-n-invalid",
    ];
    assert_eq!(names(&report, Status::Passed), expected);
    options.only = vec!["mounts".to_owned()];
    let e = check(&client, &options, |_| ()).await.unwrap_err();
    assert!(e.to_string().contains("mounts"), "{e}");
    options.only.clear();
    options.other_repository = options.repository.clone();
    assert!(check(&client, &options, |_| ()).await.is_err());
}

#[test]
fn the_program_checks_a_registry_with_users() {
    let (folder, users) = (tempfile::tempdir().unwrap(), users());
    let file = users.path().to_str().unwrap();
    let more = ["--htpasswd", file, "--anonymous", "pull"];
    let process = Process::start(&folder.path().join("data"), &more);
    let args = ["conformance", &process.url, "--username", "alice", "--password-stdin"];
    passed(&run(&[&args[..], &["--format", "json"]].concat(), "pass:word\n"), &[]);
    let output = run(&args, "wrong");
    assert!(
        !output.status.success() && stderr(&output).contains("the password is wrong"),
        "{}",
        stderr(&output)
    );
    // A password does not go to a server without TLS when TLS was asked for.
    let tls = process.url.replace("http://", "https://");
    let output = run(&["conformance", &tls, "--username", "alice", "--password-stdin"], "pass:word");
    assert!(!output.status.success() && output.stdout.is_empty(), "{}", stderr(&output));
    let output = run(&["conformance", &process.url, "--case", "upload-open"], "");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(!output.status.success() && stderr(&output).contains("breaks a rule"), "{}", stderr(&output));
    assert!(text.starts_with("failed   upload-open "), "{text}");
    assert!(text.contains("POST /v2/conformance/one/blobs/uploads/ answered 401, expected 202"), "{text}");
    assert!(text.ends_with("1 cases: 0 passed, 1 failed, 0 warned, 0 skipped, 0 lost\n"), "{text}");
}

#[test]
fn the_program_lists_the_cases_and_names_what_is_wrong_with_its_arguments() {
    let output = run(&["conformance", "--list"], "");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("manifest-by-tag                 end-7a  must    "), "{text}");
    let output = run(&["conformance"], "");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let output = run(&["conformance", "ftp://localhost"], "");
    assert!(output.status.code() == Some(1) && stderr(&output).contains("ftp"), "{}", stderr(&output));
    let output = run(&["conformance", "localhost:1", "--username", "alice"], "");
    assert!(output.status.code() == Some(2) && stderr(&output).contains("--password-stdin"));
}

/// Three servers without a folder; a check at each of them.
#[test]
fn the_registry_keeps_every_rule_on_a_database_and_a_bucket() {
    let database: Option<&PostgresServer> = given("the rules on PostgreSQL and S3", PostgresServer::shared());
    let Some(database) = database else { return };
    let Some(bucket) = given::<&S3Server>("the rules on PostgreSQL and S3", S3Server::running()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let blobs = format!("s3://{}/rules?endpoint=http://{}", bucket.bucket(), bucket.host());
    let url = database.url("the rules");
    let keys = [("AWS_ACCESS_KEY_ID", S3Server::KEYS[0]), ("AWS_SECRET_ACCESS_KEY", S3Server::KEYS[1])];
    let more = ["--database", &url, "--blobs", &blobs];
    let servers =
        [(); 2].map(|()| Process::start_in(Command::new(PROGRAM), &folder.path().join("data"), &more, &keys));
    for server in servers {
        passed(&run(&["conformance", &server.url, "--format", "json"], ""), &["registry-challenge"]);
    }
}

/// Distribution of Debian's package; ends with the test.
pub(super) struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) async fn distribution(folder: &Path) -> Option<(RegistryHost, Peer)> {
    let program = Path::new("/usr/bin/docker-registry");
    if !program.exists() {
        println!("SKIPPED: docker-registry is not installed");
        return None;
    }
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
         delete:\n    enabled: true\nhttp:\n  addr: {address}\n",
        folder.join("data").display()
    );
    let path = folder.join("config.yml");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(program);
    let child = command.arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let peer = Peer(child);
    for _ in 0..400 {
        if std::net::TcpStream::connect(address).is_ok() {
            return Some((RegistryHost::parse(&address.to_string()).unwrap(), peer));
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("docker-registry does not listen");
}

/// What Distribution 2.8 does otherwise than the specification has it. A case that fails only here would be a rule of ours
/// alone; one that is missing here would be a rule that the check does not see broken.
#[tokio::test]
async fn the_check_finds_what_distribution_does_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let Some((host, _peer)) = distribution(folder.path()).await else { return };
    let client = HttpClient::builder(host).plain_http(true).build().unwrap();
    let report = check(&client, &Options::default(), |_| ()).await.unwrap();
    let failed = [
        "name-invalid",
        "chunks-gap",
        "chunks-overlap",
        "chunks-first",
        "chunks-gap-in-put",
        "tags-order",
        "tags-page-size",
        "tags-none",
        "tags-last",
        "tags-last-unknown",
    ];
    assert_eq!(names(&report, Status::Failed), failed);
    let warned = [
        "blob-sha512-header",
        "blob-range-outside",
        "upload-algorithm-unknown",
        "chunks-gap-in-put-goes-on",
        "chunks-length-wrong",
        "chunks-range-invalid",
        "manifest-no-json",
        "content-non-distributable",
        "tags-n-invalid",
        "delete-manifest-again",
    ];
    assert_eq!(names(&report, Status::Warned), warned);
    assert_eq!(names(&report, Status::Lost), [""; 0]);
    let skipped = [
        "registry-challenge",
        "upload-single-post",
        "upload-single-post-wrong",
        "manifest-sha512",
        "manifest-tags",
        "manifest-tags-ten",
        "referrers-empty",
        "referrers-list",
        "referrers-config-type",
        "referrers-index",
        "referrers-subject-missing",
        "referrers-subject-header",
        "referrers-filter",
        "referrers-deleted",
        "referrers-digest-invalid",
        "delete-tag",
    ];
    assert_eq!(names(&report, Status::Skipped), skipped);
}
