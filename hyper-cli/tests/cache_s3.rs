//! Shared caches in buckets, against a real server of S3.

use crate::cache_export::{STAGES, machine, needs_busybox, ran, warnings};
use crate::peers::{Head, Peer};
use crate::s3_server::{Bucket, KEYS, READER, pass_on, server};
use crate::support::{Built, Place, at_once, busybox, skip, told, wait_for};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

macro_rules! bucket {
    () => {{
        needs_busybox!();
        match server() {
            Some(server) => server.bucket(),
            None => skip!("there is no weed, the server of S3"),
        }
    }};
}

const SIMPLE: &str = "FROM base\nRUN head -c 16 /dev/urandom > /x\nRUN cat /x > /y\n";

fn to(attributes: &str, more: &str) -> String {
    format!("--cache-to={attributes}{more}")
}

fn from(attributes: &str, more: &str) -> String {
    format!("--cache-from={attributes}{more}")
}

/// The requests since some, by their method, for blobs or for manifests.
fn count(peer: &Peer, since: usize, method: &str, part: &str) -> usize {
    peer.seen().iter().skip(since).filter(|head| head.is(method, part)).count()
}

/// A front that passes everything on.
fn front(bucket: &Bucket) -> Peer {
    bucket.front(|_, _| Ok(false))
}

fn failed(place: &Place, dockerfile: &str, more: &[&str]) -> String {
    let output = place.build(dockerfile, more).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    told(&output)
}

#[test]
fn another_machine_runs_no_step_and_only_what_is_new_is_sent() {
    let bucket = bucket!();
    let peer = front(&bucket);
    let at = bucket.at(&peer.host, KEYS);
    let (one, two) = (machine(), machine());
    let made = one.built(STAGES, &[&to(&at, ",mode=max")]);
    assert_eq!(ran(&made).len(), 8, "{:?}", made.outcomes());
    let blobs = bucket.list("blobs").len();
    assert_eq!(count(&peer, 0, "PUT", "/blobs/"), blobs);
    assert_eq!(bucket.list("manifests"), ["hyper"]);
    let since = peer.seen().len();
    let found = two.built(STAGES, &[&from(&at, "")]);
    assert_eq!((ran(&found), warnings(&found)), (Vec::new(), Vec::new()));
    assert_eq!(found.digest, made.digest);
    assert_eq!(count(&peer, since, "PUT", ""), 0);
    // Written again, from the other machine: nothing is new.
    let since = peer.seen().len();
    let again = two.built(STAGES, &[&from(&at, ""), &to(&at, ",mode=max")]);
    assert_eq!(again.digest, made.digest);
    assert_eq!(count(&peer, since, "PUT", "/blobs/"), 0);
    assert_eq!(count(&peer, since, "HEAD", "/blobs/"), blobs);
    assert_eq!(count(&peer, since, "PUT", "/manifests/hyper"), 1);
    // One step more is one layer more, its index and the records.
    let since = peer.seen().len();
    two.built(&format!("{STAGES}RUN echo more > /more\n"), &[&from(&at, ""), &to(&at, ",mode=max")]);
    let sent = count(&peer, since, "PUT", "/blobs/");
    assert!((2..=4).contains(&sent), "{sent}");
}

#[test]
fn a_hit_without_files_reads_the_manifest_once_and_no_layer() {
    let bucket = bucket!();
    let peer = front(&bucket);
    let at = bucket.at(&peer.host, KEYS);
    machine().built(SIMPLE, &[&to(&at, "")]);
    let since = peer.seen().len();
    let found = machine().built(SIMPLE, &[&from(&at, ""), "--output=type=cacheonly"]);
    assert_eq!(ran(&found), [""; 0]);
    assert_eq!(count(&peer, since, "GET", "/manifests/"), 1);
    // The records.
    assert_eq!(count(&peer, since, "GET", "/blobs/"), 1);
    assert_eq!(peer.seen().len() - since, 2);
}

#[test]
fn names_prefixes_and_the_environment_name_what_is_meant() {
    let bucket = bucket!();
    let (one, two) = (machine(), machine());
    let at = bucket.attributes();
    let names = ",prefix=team/,blobs_prefix=b/,manifests_prefix=m-,name=sha/1;main";
    let made = one.built(SIMPLE, &[&to(&at, names)]);
    let mut listed = bucket.list("team");
    listed.sort();
    assert_eq!(listed, ["b", "m-main", "m-sha"]);
    assert!(bucket.list("team/b").iter().all(|name| name.starts_with("sha256:")));
    let more = ",prefix=team/,blobs_prefix=b/,manifests_prefix=m-,name=none;main";
    let found = two.built(SIMPLE, &[&from(&at, more)]);
    assert_eq!((ran(&found).len(), &found.digest), (0, &made.digest));
    let warned = warnings(&found);
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(
        warned[0].contains("team/m-none is not used: the bucket has no cache with this name yet"),
        "{warned:?}"
    );
    // Keys, region and endpoint of the environment, with a profile of a file.
    let three = machine();
    three.write(
        "home/.aws/credentials",
        &format!("[ci]\naws_access_key_id = {}\naws_secret_access_key = {}\n", READER[0], READER[1]),
    );
    let endpoint = at.split(',').find_map(|field| field.strip_prefix("endpoint_url=")).unwrap();
    let mut command = three
        .build(SIMPLE, &["--cache-from=type=s3,prefix=team/,blobs_prefix=b/,manifests_prefix=m-,name=main"]);
    command.env("AWS_PROFILE", "ci").env("AWS_ENDPOINT_URL", endpoint).env("AWS_BUCKET", &bucket.name);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let found = Built::of(&output);
    assert_eq!((ran(&found).len(), found.digest), (0, made.digest));
}

#[test]
fn a_bake_file_names_a_bucket_and_shows_no_secret_elsewhere() {
    let bucket = bucket!();
    let place = machine();
    let cache = format!("{},mode=max", bucket.attributes());
    place.write("context/Dockerfile", SIMPLE);
    place.write(
        "docker-bake.hcl",
        &format!(
            "target \"app\" {{\n context = \"context\"\n contexts = {{ base = \"oci-layout://{}\" }}\n output = [\"type=cacheonly\"]\n cache-to = [\"{cache}\"]\n}}\n",
            crate::support::base().display()
        ),
    );
    let output = place.hyper(&["bake", "--progress=plain", "--allow=fs.read=*", "app"]).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(bucket.list("manifests"), ["hyper"]);
    assert!(!told(&output).contains(KEYS[1]), "{}", told(&output));
    let plan = place.ok(&["bake", "--print", "app"]);
    assert!(plan.contains(&bucket.name) && !plan.contains(KEYS[1]), "{plan}");
    // Neither has what is kept of the build.
    let kept =
        std::process::Command::new("grep").args(["-rl", KEYS[1]]).arg(place.join("state")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "");
}

#[test]
fn a_server_that_is_busy_or_breaks_off_is_asked_again() {
    let bucket = bucket!();
    let at = bucket.attributes();
    let host = at.split_once("http://").unwrap().1.split(',').next().unwrap().to_owned();
    // Each first request for an object gets 503; each first body that is large enough is cut.
    let seen: Arc<std::sync::Mutex<std::collections::HashMap<String, u32>>> = Arc::default();
    let peer = bucket.front(move |head, wire| {
        let number = {
            let mut seen = seen.lock().unwrap();
            let number = seen.entry(format!("{} {}", head.method, head.target)).or_default();
            *number += 1;
            *number
        };
        match number {
            1 => {
                wire.take(head.length())?;
                wire.answer(503, "", "<Error><Code>SlowDown</Code><Message>Slow down</Message></Error>")?;
                Ok(true)
            }
            2 if head.method == "GET" => pass_on(&host, head, wire, 100).map(|()| true),
            _ => Ok(false),
        }
    });
    let at = bucket.at(&peer.host, KEYS);
    let (one, two) = (machine(), machine());
    let made = one.built(SIMPLE, &[&to(&at, "")]);
    assert_eq!(warnings(&made), [""; 0]);
    let found = two.built(SIMPLE, &[&from(&at, "")]);
    assert_eq!((ran(&found), warnings(&found)), (Vec::new(), Vec::new()));
    assert_eq!(found.digest, made.digest);
    let ranged = peer.seen().iter().filter(|head| head.header("range").starts_with("bytes=100-")).count();
    assert!(ranged > 0, "a body that broke off was not asked for from there");
}

#[test]
fn damaged_objects_are_misses_and_are_written_anew() {
    let bucket = bucket!();
    let (one, two, three) = (machine(), machine(), machine());
    let at = bucket.attributes();
    let made = one.built(SIMPLE, &[&to(&at, "")]);
    // Another content of the same size in place of every blob but the records, which are the config of the manifest.
    let peer = front(&bucket);
    let watched = bucket.at(&peer.host, KEYS);
    machine().built(SIMPLE, &[&from(&watched, ""), "--output=type=cacheonly"]);
    let records = peer.seen().iter().find(|head| head.is("GET", "/blobs/")).unwrap().target.clone();
    let records = records.rsplit('/').next().unwrap().replace("%3A", ":");
    let names: Vec<String> = bucket.list("blobs").into_iter().filter(|name| *name != records).collect();
    for name in &names {
        let size = bucket.size(&format!("blobs/{name}"));
        bucket.overwrite(&format!("blobs/{name}"), &vec![b'x'; size]);
    }
    let healed = two.built(SIMPLE, &[&from(&at, ""), &to(&at, "")]);
    let warned = warnings(&healed).concat();
    assert!(warned.contains("has no usable"), "{warned}");
    assert_eq!(ran(&healed).len(), 2, "{:?}", healed.outcomes());
    assert_ne!(healed.digest, made.digest);
    let found = three.built(SIMPLE, &[&from(&at, "")]);
    assert_eq!((ran(&found).len(), &found.digest), (0, &healed.digest), "{:?}", warnings(&found));
    // An object that is gone, one of another size, a manifest that is none, and one that is too large.
    let blobs = bucket.list("blobs");
    for name in &blobs {
        bucket.overwrite(&format!("blobs/{name}"), b"short");
    }
    let rebuilt = three.built(SIMPLE, &[&to(&at, "")]);
    assert_eq!(rebuilt.digest, healed.digest);
    let found = machine().built(SIMPLE, &[&from(&at, "")]);
    assert_eq!((ran(&found).len(), &found.digest), (0, &healed.digest), "{:?}", warnings(&found));
    for body in [&b"{\"schemaVersion\":2"[..], b"\0\xff", &vec![b' '; (4 << 20) + 1]] {
        bucket.overwrite("manifests/hyper", body);
        let ignored = machine().built(SIMPLE, &[&from(&at, ""), "--output=type=cacheonly"]);
        assert_eq!(ran(&ignored).len(), 2);
        assert!(warnings(&ignored).concat().contains("is not used"), "{:?}", warnings(&ignored));
    }
}

#[test]
fn wrong_credentials_and_missing_buckets_are_told_without_secrets() {
    let bucket = bucket!();
    let place = machine();
    let host = bucket.attributes().split_once("http://").unwrap().1.split(',').next().unwrap().to_owned();
    let wrong = bucket.at(&host, [KEYS[0], "hunter2"]);
    let told = failed(&place, SIMPLE, &[&to(&wrong, "")]);
    assert!(told.contains("are wrong or have expired"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    let ignored = place.built(SIMPLE, &[&to(&wrong, ",ignore-error=true"), &from(&wrong, "")]);
    let warned = warnings(&ignored).concat();
    assert!(warned.contains("was not written") && !warned.contains("hunter2"), "{warned}");
    let told = failed(&place, SIMPLE, &[&to(&bucket.at(&host, READER), "")]);
    assert!(told.contains("denies access"), "{told}");
    let missing = bucket.attributes().replace(&bucket.name, "no-such-bucket");
    let told = failed(&place, SIMPLE, &[&to(&missing, "")]);
    assert!(told.contains("there is no such bucket") && told.contains("bucket: no-such-bucket"), "{told}");
    // Nobody listens; and what is missing is told before the first step.
    let told = failed(&place, SIMPLE, &[&to(&bucket.at("127.0.0.1:1", KEYS), "")]);
    assert!(told.contains("cannot connect to the server") && !told.contains("--plain-http"), "{told}");
    let told = failed(&place, "FROM base\nRUN echo ran-it\n", &["--cache-to=type=s3,bucket=b"]);
    assert!(told.contains("add region=NAME") && !told.contains("ran-it"), "{told}");
}

#[test]
fn old_blobs_are_touched_and_young_ones_are_not() {
    let bucket = bucket!();
    let peer = front(&bucket);
    let at = bucket.at(&peer.host, KEYS);
    let place = machine();
    place.built(SIMPLE, &[&to(&at, "")]);
    let blobs = bucket.list("blobs");
    let since = peer.seen().len();
    place.built(SIMPLE, &[&to(&at, "")]);
    let copies = |since: usize| -> Vec<Head> {
        let heads = peer.seen().into_iter().skip(since);
        heads.filter(|head| !head.header("x-amz-copy-source").is_empty()).collect()
    };
    assert!(copies(since).is_empty());
    let since = peer.seen().len();
    place.built(SIMPLE, &[&to(&at, ",touch_refresh=0s")]);
    let copies = copies(since);
    assert_eq!(copies.len(), blobs.len());
    assert!(copies.iter().all(|head| head.length() == 0));
    // They are what they were.
    let found = machine().built(SIMPLE, &[&from(&at, "")]);
    assert_eq!(ran(&found), [""; 0], "{:?}", warnings(&found));
}

#[test]
fn a_large_layer_is_sent_in_parts_and_nothing_stays_of_one_that_fails() {
    let bucket = bucket!();
    let large = "FROM base\nRUN head -c 20000000 /dev/urandom > /large\n";
    let broken = Arc::new(AtomicU32::new(1));
    let fails = Arc::clone(&broken);
    let peer = bucket.front(move |head, wire| {
        let is_part = head.is("PUT", "partNumber=2");
        if is_part && fails.load(Ordering::SeqCst) == 1 {
            wire.take(head.length())?;
            wire.answer(403, "", "<Error><Code>AccessDenied</Code></Error>")?;
        }
        Ok(is_part && fails.load(Ordering::SeqCst) == 1)
    });
    let at = bucket.at(&peer.host, KEYS);
    let (one, two) = (machine(), machine());
    let told = failed(&one, large, &[&to(&at, "")]);
    assert!(told.contains("denies access"), "{told}");
    assert_eq!(count(&peer, 0, "DELETE", "uploadId="), 1);
    assert_eq!(bucket.list("manifests"), [""; 0]);
    broken.store(0, Ordering::SeqCst);
    let since = peer.seen().len();
    let made = one.built(large, &[&to(&at, "")]);
    assert_eq!(count(&peer, since, "PUT", "partNumber="), 3);
    assert_eq!(count(&peer, since, "DELETE", "uploadId="), 0);
    let found = two.built(large, &[&from(&at, "")]);
    assert_eq!((ran(&found).len(), &found.digest), (0, &made.digest), "{:?}", warnings(&found));
}

#[test]
fn of_several_that_write_one_name_each_leaves_a_whole_cache() {
    let bucket = bucket!();
    let at = bucket.attributes();
    let (one, two) = (machine(), machine());
    let flag = to(&at, ",mode=max");
    let outputs = at_once([one.build(STAGES, &[&flag]), two.build(STAGES, &[&flag])]);
    let digests: Vec<String> = outputs
        .iter()
        .map(|output| {
            assert!(output.status.success(), "{}", told(output));
            Built::of(output).digest
        })
        .collect();
    let found = machine().built(STAGES, &[&from(&at, "")]);
    assert_eq!((ran(&found), warnings(&found)), (Vec::new(), Vec::new()));
    assert!(digests.contains(&found.digest));
}

#[test]
fn an_upload_that_is_interrupted_leaves_no_parts() {
    let bucket = bucket!();
    // The second part is never answered.
    let peer = bucket.front(|head, wire| match head.is("PUT", "partNumber=2") {
        true => wire.hold().map(|()| true),
        false => Ok(false),
    });
    let place = machine();
    let flag = to(&bucket.at(&peer.host, KEYS), "");
    let large = "FROM base\nRUN head -c 20000000 /dev/urandom > /large\n";
    let mut build = place.build(large, &[&flag]);
    let mut child = build.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the second part is sent", || count(&peer, 0, "PUT", "partNumber=2") > 0);
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(count(&peer, 0, "DELETE", "uploadId="), 1);
    assert_eq!(bucket.list("manifests"), [""; 0]);
}
