//! `hyperregistry import`, from real registries and from layouts that other programs made.

use super::program::{PROGRAM, Process, run, stderr};
use super::registry_conformance::distribution;
use super::support::{image, noise};
use hyper_sdk::client::keychain::{Credentials, StaticKeychain};
use hyper_sdk::client::{HttpClient, RegistryClient, RegistryClientExt as _};
use hyper_sdk::oci::{Descriptor, ImageIndex, ImageManifest, Manifest};
use hyper_sdk::reference::RegistryHost;
use hyper_sdk::store::{DiskStore, RegistryStore as _, RegistryStoreExt as _};
use hyper_sdk::testing::{PostgresServer, S3Server, given};
use hyper_sdk::{Digest, RepositoryName, Tag, media_type};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs an import, and returns the sums.
#[track_caller]
fn import(args: &[&str], status: i32) -> serde_json::Value {
    let output = run(&[&["import"], args, &["--format", "json"]].concat(), "");
    sums(&output, status)
}

#[track_caller]
fn sums(output: &Output, status: i32) -> serde_json::Value {
    let text = out(output);
    assert_eq!(output.status.code(), Some(status), "{text}{}", stderr(output));
    let last = text.lines().last().unwrap_or_else(|| panic!("{}", stderr(output)));
    serde_json::from_str(last).unwrap()
}

/// The number of an import's sums.
fn n(sums: &serde_json::Value, name: &str) -> u64 {
    sums[name].as_u64().unwrap_or_else(|| panic!("{name}: {sums}"))
}

fn client(url: &str) -> HttpClient {
    HttpClient::builder(RegistryHost::from_address(url).unwrap()).plain_http(true).build().unwrap()
}

/// Pushes an image of a config and layers.
async fn push(client: &HttpClient, repository: &str, tag: &str, layers: &[&[u8]]) -> Manifest {
    let name = name(repository);
    let mut blobs = Vec::new();
    for layer in layers {
        blobs.push(client.put_bytes(&name, media_type::OCI_LAYER, layer.to_vec().into()).await.unwrap());
    }
    let config = format!("{{\"tag\":\"{tag}\"}}");
    let config = client.put_bytes(&name, media_type::OCI_CONFIG, config.into()).await.unwrap();
    let manifest = Manifest::sniff(ImageManifest::new(config, blobs).to_bytes()).unwrap();
    put(client, repository, tag, &manifest).await;
    manifest
}

async fn put(client: &HttpClient, repository: &str, tag: &str, manifest: &Manifest) {
    let tag = Tag::parse(tag).unwrap().into();
    client.put_manifest(&name(repository), &tag, manifest).await.unwrap();
}

/// Checks that every image and blob of a registry is at another one, with the same bytes.
async fn assert_same(from: &HttpClient, to: &HttpClient) {
    let repositories = from.all_repositories().await.unwrap();
    assert_eq!(repositories, to.all_repositories().await.unwrap());
    for repository in repositories {
        let mut tags = from.all_tags(&repository).await.unwrap();
        // Distribution does not sort them.
        tags.sort();
        assert_eq!(tags, to.all_tags(&repository).await.unwrap(), "{repository}");
        for tag in tags {
            let mut open = vec![from.get_manifest(&repository, &tag.clone().into()).await.unwrap()];
            assert_eq!(open[0], to.get_manifest(&repository, &tag.into()).await.unwrap());
            while let Some(manifest) = open.pop() {
                let by_digest = manifest.digest().clone().into();
                assert_eq!(to.get_manifest(&repository, &by_digest).await.unwrap(), manifest);
                for entry in manifest.index().iter().flat_map(|index| &index.manifests) {
                    let entry = entry.digest.clone().into();
                    open.push(from.get_manifest(&repository, &entry).await.unwrap());
                }
                for blob in
                    manifest.image().iter().flat_map(|image| image.layers.iter().chain([&image.config]))
                {
                    // Both clients check the digest.
                    to.read_blob(&repository, &blob.digest, 64 << 20).await.unwrap();
                }
            }
        }
    }
}

/// Fills a registry: nested names, shared and large layers, an index, a signature.
async fn fill(client: &HttpClient) {
    let large = noise(1, 3 << 20);
    let one = push(client, "team/app", "1.0", &[b"shared", &large]).await;
    let two = push(client, "team/app", "2.0", &[b"shared"]).await;
    push(client, "team/app/nested", "latest", &[b"shared", b"own"]).await;
    push(client, "other", "latest", &[&noise(2, 70_000)]).await;
    let index = ImageIndex::new(vec![one.descriptor(), two.descriptor()]).to_bytes();
    put(client, "team/app", "all", &Manifest::sniff(index).unwrap()).await;
    let config = client.put_bytes(&name("team/app"), media_type::OCI_EMPTY, "{}".into()).await.unwrap();
    let mut signature = ImageManifest::new(config, vec![]);
    signature.subject = Some(one.descriptor());
    signature.artifact_type = Some("application/x-signature".into());
    let signature = Manifest::sniff(signature.to_bytes()).unwrap();
    let by_digest = signature.digest().clone().into();
    client.put_manifest(&name("team/app"), &by_digest, &signature).await.unwrap();
}

/// A store that serves gets what is in the folder of Distribution, and what its running server has, with equal digests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn distribution_is_imported_from_its_folder_and_from_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let Some((host, _peer)) = distribution(folder.path()).await else { return };
    let old = client(&format!("http://{host}"));
    fill(&old).await;
    let tree = folder.path().join("data");
    for (kind, from) in [("distribution", text(&tree).to_owned()), ("registry", format!("http://{host}"))] {
        let data = folder.path().join(kind);
        let server = Process::start(&data, &[]);
        let args = [kind, &from, "--data", text(&data)];
        let dry = import(&[&args[..], &["--dry-run"]].concat(), 0);
        assert_eq!(client(&server.url).all_repositories().await.unwrap(), []);
        let done = import(&args, 0);
        for count in ["repositories", "tags_created", "manifests", "blobs", "bytes"] {
            assert_eq!(dry[count], done[count], "{kind} {count}");
        }
        // The client has also made the fallback tag of referrers.
        assert_eq!((n(&done, "repositories"), n(&done, "tags_created")), (3, 6), "{done}");
        assert_same(&old, &client(&server.url)).await;
        let (new, app) = (client(&server.url), name("team/app"));
        let one = new.resolve(&app, &Tag::parse("1.0").unwrap().into()).await.unwrap();
        let referrers = new.list_referrers(&app, &one.digest, None).await.unwrap();
        assert_eq!(referrers.len(), 1, "{kind}");
        let again = import(&args, 0);
        assert_eq!((n(&again, "blobs"), n(&again, "manifests"), n(&again, "tags_unchanged")), (0, 0, 6));
        let new = push(&old, "team/app", "latest", &[kind.as_bytes()]).await;
        let only = import(&[&args[..], &["--only", "team/*"]].concat(), 0);
        assert_eq!((n(&only, "repositories"), n(&only, "skipped"), n(&only, "manifests")), (1, 2, 1));
        assert_eq!(n(&only, "blobs") + n(&only, "blobs_linked"), 2);
        let found = client(&server.url).resolve(&name("team/app"), &Tag::latest().into()).await.unwrap();
        assert_eq!(found.digest, *new.digest());
        let delete = format!("{kind}-only");
        let none = run(&[&["import"], &args[..], &["--only", &delete]].concat(), "");
        assert_eq!(none.status.code(), Some(1));
        assert!(
            stderr(&none).contains("none of the repositories of the source is chosen"),
            "{}",
            stderr(&none)
        );
        old.delete_manifest(&name("team/app"), &new.digest().clone().into()).await.unwrap();
    }
}

/// Users with a password, from a file of credentials and from standard input.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_with_a_login_is_imported() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    let entry = run(&["htpasswd", "alice"], "secret");
    std::fs::write(&users, entry.stdout).unwrap();
    let old = Process::start(&folder.path().join("old"), &["--htpasswd", text(&users)]);
    let host = RegistryHost::from_address(&old.url).unwrap();
    let keychain = StaticKeychain::default().with(host.clone(), Credentials::basic("alice", "secret"));
    let filled = HttpClient::builder(host.clone()).plain_http(true).keychain(std::sync::Arc::new(keychain));
    let filled = filled.build().unwrap();
    fill(&filled).await;
    let data = folder.path().join("new");
    let args = ["import", "registry", &old.url, "--format", "json", "--data", text(&data)];
    let refused = run(&args, "");
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("error: "), "{}", stderr(&refused));
    assert!(!data.exists(), "a refused import made a store");
    let wrong = run(&[&args[..], &["--username", "alice", "--password-stdin"]].concat(), "other");
    assert_eq!(wrong.status.code(), Some(1));
    let done = run(&[&args[..], &["--username", "alice", "--password-stdin"]].concat(), "secret\n");
    assert_eq!(n(&sums(&done, 0), "tags_created"), 5);
    // The credentials of `docker login`: alice:secret.
    let config = format!(r#"{{"auths":{{"{host}":{{"auth":"YWxpY2U6c2VjcmV0"}}}}}}"#);
    std::fs::create_dir(folder.path().join("docker")).unwrap();
    std::fs::write(folder.path().join("docker/config.json"), config).unwrap();
    let docker = folder.path().join("docker");
    let again = run(&[&args[..], &["--docker-config", text(&docker)]].concat(), "");
    assert_eq!(n(&sums(&again, 0), "tags_unchanged"), 5);
    let new = Process::start(&data, &[]);
    assert_same(&filled, &client(&new.url)).await;
    let named = run(
        &[&args[..], &["--docker-config", text(&docker), "--repository", "other", "--keep-tags"]].concat(),
        "",
    );
    assert_eq!(n(&sums(&named, 0), "repositories"), 1);
}

/// Writes an OCI layout of images with these configs as tags.
fn layout(root: &Path, tags: &[String]) {
    std::fs::create_dir_all(root.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8]| {
        std::fs::write(root.join("blobs/sha256").join(Digest::sha256(bytes).hex()), bytes).unwrap();
    };
    let entries = tags.iter().map(|tag| {
        let config = format!("{{\"tag\":\"{tag}\"}}");
        blob(config.as_bytes());
        let manifest = image(config.as_bytes()).to_bytes();
        blob(&manifest);
        let mut entry = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
        entry.annotations.insert("org.opencontainers.image.ref.name".into(), tag.clone());
        entry
    });
    let index = ImageIndex::new(entries.collect()).to_bytes();
    std::fs::write(root.join("index.json"), index).unwrap();
    std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_images_outlive_a_kill_and_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let (from, data) = (folder.path().join("layout"), folder.path().join("data"));
    let tags: Vec<String> = (0..5000).map(|n| format!("v{n}")).collect();
    layout(&from, &tags);
    let args = ["import", "oci", text(&from), "--data", text(&data), "--repository", "many"];
    let mut killed = Command::new(PROGRAM)
        .args(args)
        .env_clear()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(700));
    killed.kill().unwrap();
    killed.wait().unwrap();
    {
        let store = DiskStore::open(&data).await.unwrap();
        for tag in store.all_tags(&name("many")).await.unwrap_or_default() {
            let manifest = store.get_manifest(&name("many"), &tag.clone().into()).await.unwrap();
            let config = &manifest.image().unwrap().config;
            assert!(store.has_blob(&name("many"), &config.digest).await.unwrap(), "{tag} is incomplete");
        }
    }
    let done = import(&args[1..], 0);
    assert_eq!(n(&done, "tags_created") + n(&done, "tags_unchanged"), 5000, "{done}");
    let again = import(&args[1..], 0);
    assert_eq!((n(&again, "tags_unchanged"), n(&again, "bytes")), (5000, 0));
    let server = Process::start(&data, &[]);
    let client = client(&server.url);
    assert_eq!(client.all_tags(&name("many")).await.unwrap().len(), 5000);
    let last = client.get_manifest(&name("many"), &Tag::parse("v4999").unwrap().into()).await.unwrap();
    assert_eq!(*last.bytes(), image(b"{\"tag\":\"v4999\"}").to_bytes());
}

#[test]
fn a_dry_run_makes_no_store_and_changes_none() {
    let folder = tempfile::tempdir().unwrap();
    let (from, data) = (folder.path().join("layout"), folder.path().join("data"));
    layout(&from, &["1.0".to_owned(), "2.0".to_owned()]);
    let args = ["oci", text(&from), "--repository", "a", "--data", text(&data), "--dry-run"];
    let dry = import(&args, 0);
    assert_eq!((n(&dry, "tags_created"), n(&dry, "blobs"), n(&dry, "manifests")), (2, 2, 2));
    assert!(!data.exists(), "a dry run made the store");
    import(&args[..6], 0);
    let state = || {
        let mut files: Vec<_> = std::fs::read_dir(&data)
            .unwrap()
            .map(|entry| {
                let (entry, path) = (entry.as_ref().unwrap().metadata().unwrap(), entry.unwrap().path());
                (path, entry.len(), entry.modified().unwrap())
            })
            .collect();
        // Who reads an open log locks and repairs its index.
        files.retain(|(path, ..)| !path.ends_with("hyper.db-shm"));
        files.sort();
        files
    };
    let before = state();
    let again = import(&args, 0);
    assert_eq!((n(&again, "tags_unchanged"), n(&again, "blobs")), (2, 0));
    assert_eq!(state(), before, "a dry run changed files of the store");
    let text_form = run(&[&["import"], &args[..]].concat(), "");
    assert!(out(&text_form).starts_with("1 repositories: 0 tags would be created"), "{}", out(&text_form));
}

#[test]
fn problems_are_named_and_end_with_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = text(&data);
    for (kind, why) in [
        ("oci", "it needs the files `oci-layout` and `index.json`"),
        ("distribution", "it needs `docker/registry/v2/repositories`"),
        ("zot", "it needs repositories, each a folder with `oci-layout`"),
    ] {
        let output = run(&["import", kind, text(folder.path()), "--data", data], "");
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
    }
    assert!(!Path::new(data).exists(), "an import from nothing made a store");
    let root = folder.path().join("zot");
    layout(&root.join("team/app"), &["1.0".to_owned(), "not a tag".to_owned()]);
    layout(&root.join("Upper"), &["1.0".to_owned()]);
    let output = run(&["import", "zot", text(&root), "--data", data], "");
    assert_eq!(output.status.code(), Some(1));
    let lines = out(&output);
    for needle in
        ["created team/app:1.0 sha256:", "failed team/app:not a tag: ", "failed Upper: ", "2 failed"]
    {
        assert!(lines.contains(needle), "{needle}\n{lines}");
    }
    let bad = run(&["import", "zot", text(&root), "--data", data, "--only", "a//b"], "");
    assert!(stderr(&bad).contains("the pattern `a//b` is invalid"), "{}", stderr(&bad));
    let gone = run(&["import", "registry", "http://127.0.0.1:1", "--data", data], "");
    assert_eq!(gone.status.code(), Some(1));
}

#[test]
fn immutable_tags_of_the_policy_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(
        path("policy.toml"),
        "[[allow]]\nwho = [\"anyone\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n\
         [[immutable]]\nrepositories = [\"a\"]\ntags = [\"v*\"]\n",
    )
    .unwrap();
    let config = format!(
        "data = \"{}\"\n[auth]\npolicy = \"{}\"\n",
        path("data").display(),
        path("policy.toml").display()
    );
    std::fs::write(path("config.toml"), config).unwrap();
    let tags = ["v1".to_owned(), "latest".to_owned()];
    layout(&path("layout"), &tags);
    let layout_path = path("layout");
    let config_path = path("config.toml");
    let args = ["oci", text(&layout_path), "--repository", "a", "--config", text(&config_path)];
    assert_eq!(n(&import(&args, 0), "tags_created"), 2);
    // Both tags get the image of the other.
    let index = std::fs::read_to_string(path("layout/index.json")).unwrap();
    let swapped =
        index.replace("\"v1\"", "\"x\"").replace("\"latest\"", "\"v1\"").replace("\"x\"", "\"latest\"");
    std::fs::write(path("layout/index.json"), swapped).unwrap();
    let dry = import(&[&args[..], &["--dry-run"]].concat(), 1);
    let done = import(&args, 1);
    assert_eq!((n(&done, "tags_moved"), n(&done, "failed")), (1, 1), "{done}");
    assert_eq!(dry["failed"], done["failed"]);
}

/// Layouts that skopeo and umoci make, and pulls by skopeo from the registry that got them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layouts_of_other_programs_are_imported() {
    if !["/usr/bin/skopeo", "/usr/bin/umoci"].iter().all(|program| Path::new(program).exists()) {
        println!("SKIPPED: skopeo or umoci is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let do_it = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    do_it("umoci", &["init", "--layout", "umoci"]);
    do_it("umoci", &["new", "--image", "umoci:1.0"]);
    std::fs::write(folder.path().join("file"), noise(7, 200_000)).unwrap();
    do_it("umoci", &["insert", "--rootless", "--image", "umoci:1.0", "file", "/file"]);
    do_it("umoci", &["tag", "--image", "umoci:1.0", "2.0"]);
    do_it("skopeo", &["copy", "oci:umoci:1.0", "oci:skopeo:3.0"]);
    let data = folder.path().join("data");
    for (layout, tags) in [("umoci", 2), ("skopeo", 1)] {
        let path = folder.path().join(layout);
        let repository = format!("from/{layout}");
        let done = import(&["oci", text(&path), "--repository", &repository, "--data", text(&data)], 0);
        assert_eq!(n(&done, "tags_created"), tags, "{done}");
    }
    let server = Process::start(&data, &[]);
    let address = server.url.strip_prefix("http://").unwrap();
    for (image, to) in [("from/umoci:2.0", "dir:one"), ("from/skopeo:3.0", "dir:two")] {
        do_it("skopeo", &["copy", "--src-tls-verify=false", &format!("docker://{address}/{image}"), to]);
    }
}

/// The same into PostgreSQL and a bucket, while a server serves them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_and_a_bucket_get_images() {
    let Some(database) = given::<&PostgresServer>("import into PostgreSQL", PostgresServer::shared()) else {
        return;
    };
    let Some(s3) = given::<&S3Server>("import into a bucket", S3Server::running()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let old = Process::start(&folder.path().join("old"), &[]);
    fill(&client(&old.url)).await;
    let keys = [("AWS_ACCESS_KEY_ID", S3Server::KEYS[0]), ("AWS_SECRET_ACCESS_KEY", S3Server::KEYS[1])];
    let url = database.url("import");
    let blobs = format!("s3://{}/x?endpoint=http://{}", s3.bucket(), s3.host());
    let data = folder.path().join("none");
    let to = ["--database", &url, "--blobs", &blobs, "--data", text(&data), "--format", "json"];
    let run = |more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["import", "registry", &old.url]).args(to).args(more).env_clear().envs(keys);
        command.output().unwrap()
    };
    let dry = sums(&run(&["--dry-run"]), 0);
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 's_import'";
    assert_eq!(database.sql("postgres", tables).trim(), "0", "a dry run made tables");
    let new = Process::start_in(Command::new(PROGRAM), &data, &to[..4], &keys);
    let done = sums(&run(&[]), 0);
    assert_eq!((&dry["blobs"], &dry["manifests"]), (&done["blobs"], &done["manifests"]));
    assert_same(&client(&old.url), &client(&new.url)).await;
    assert_eq!(n(&sums(&run(&["--dry-run"]), 0), "tags_unchanged"), 5);
}
