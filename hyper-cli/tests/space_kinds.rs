//! The space of snapshots that builds with different isolation made.

use crate::rootless::ordinary_user;
use crate::support::{Place, Who, busybox, bytes_on_disk, find, is_root, skip, told};
use serde_json::Value;
use std::process::Command;

const NONE: &str = "--isolation=none";

/// The step has files of another owner.
const FILE: &str = "FROM base\nRUN head -c 300000 /dev/urandom > /f; mkdir /d; echo x > /d/f\n";

fn du(place: &Place) -> Value {
    serde_json::from_str(&place.ok(&["du", "--format", "json", "--verbose"])).unwrap()
}

/// The variants of the snapshots that there are.
fn variants(usage: &Value) -> Vec<String> {
    let items = usage["items"].as_array().unwrap().iter().filter(|item| item["kind"] == "snapshot");
    let mut names: Vec<_> = items.map(|item| item["variant"].as_str().unwrap_or("own").to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn root_counts_and_removes_the_snapshots_of_every_isolation() {
    if busybox().is_none() || !is_root() {
        skip!("this takes root, and a static busybox");
    }
    let place = Place::new();
    place.built(FILE, &["-t", "app"]);
    place.built(FILE, &[NONE, "-t", "app", "--no-cache"]);
    let usage = du(&place);
    assert_eq!(variants(&usage), ["copy", "own"], "{usage:#}");
    assert_eq!(usage["warnings"], Value::Array(Vec::new()));
    let seen = bytes_on_disk(&place.join("state"));
    let total = usage["total"].as_u64().unwrap();
    assert!(total.abs_diff(seen) * 100 <= seen, "{total} bytes, and du says {seen}");
    let sum: u64 = usage["items"].as_array().unwrap().iter().map(|item| item["size"].as_u64().unwrap()).sum();
    let by_kind: u64 =
        usage["kinds"].as_array().unwrap().iter().map(|kind| kind["size"].as_u64().unwrap()).sum();
    assert_eq!((sum, by_kind), (total, total));
    assert!(place.ok(&["du"]).contains("snapshot (copy)"));
    let plan = place.ok(&["prune", "--dry-run", "--filter", "type=snapshot"]);
    assert!(plan.contains("snapshot (copy)") && plan.contains("snapshot  "), "{plan}");
    assert_eq!(variants(&du(&place)), ["copy", "own"]);
    place.ok(&["prune", "--force", "--reserved-space", "1TB"]);
    assert_eq!(variants(&du(&place)), ["copy", "own"]);
    place.ok(&["prune", "--force", "--all"]);
    assert_eq!(variants(&du(&place)), Vec::<String>::new());
    // The limit that a build keeps knows both, whichever it uses itself.
    for last in [&["-q"][..], &["-q", NONE]] {
        place.built(FILE, &[]);
        place.built(FILE, &[NONE]);
        place.built(FILE, &[last, &["--cache-limit=0"]].concat());
        assert_eq!(variants(&du(&place)), Vec::<String>::new(), "{last:?}");
    }
}

/// A build with another isolation is running: what it uses stays, and it ends well.
#[test]
fn a_clean_up_beside_a_build_of_another_isolation_keeps_what_that_uses() {
    if busybox().is_none() || !is_root() {
        skip!("this takes root, and a static busybox");
    }
    let place = Place::new();
    let text = format!(
        "{FILE}RUN --mount=type=cache,id=m,target=/m touch /m/ready; while [ ! -e /m/go ]; do sleep 0.05; done\n\
         RUN cat /d/f\n"
    );
    let mut child = place.build(&text, &[NONE]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let active = || {
        let folders =
            std::fs::read_dir(place.join("state/snapshots/copy/active")).into_iter().flatten().flatten();
        folders.map(|folder| folder.path().join("fs/m")).find(|folder| folder.join("ready").exists())
    };
    crate::support::wait_for("the step", || active().is_some());
    let pruned: Value =
        serde_json::from_str(&place.ok(&["prune", "--all", "--force", "--format=json"])).unwrap();
    assert!(pruned["in_use"].as_u64().unwrap() > 0, "{pruned:#}");
    let kept = variants(&du(&place));
    std::fs::write(active().unwrap().join("go"), "").unwrap();
    let _ = child.stderr.take().map(|mut all| std::io::copy(&mut all, &mut std::io::sink()));
    assert!(child.wait().unwrap().success());
    assert_eq!(kept, ["copy"]);
}

/// Snapshots of a user with many ids, who has a single one now.
#[test]
fn snapshots_that_cannot_be_removed_are_named_and_do_not_keep_the_others() {
    if busybox().is_none() || !is_root() || find("setpriv").is_none() {
        skip!("this takes root, to be somebody else, setpriv, and a static busybox");
    }
    let user = match ordinary_user() {
        Ok(user @ Who::User(_)) => user,
        Ok(_) => skip!("the user with subordinate ids is known to root alone"),
        Err(why) => skip!("{why}"),
    };
    let place = Place::of(user);
    place.built(&format!("{FILE}RUN chown -R 5:6 /d && chmod 700 /d\n"), &["-t", "app"]);
    place.built("FROM base\nCOPY . /x\n", &[NONE]);
    // Without new privileges `newuidmap` does nothing.
    let single = |arguments: &[&str]| {
        let whole = place.hyper(arguments);
        let all: Vec<_> = whole.get_args().map(std::ffi::OsStr::to_owned).collect();
        let mut command = Command::new("setpriv");
        command.arg("--no-new-privs").args(all).env_clear().current_dir(place.join("."));
        command.envs(whole.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
        output
    };
    for arguments in [&["du"][..], &["prune", "--all", "--force"]] {
        let said = told(&single(arguments));
        assert!(
            said.contains("/snapshots/overlay cannot be removed") && said.contains("/etc/subuid"),
            "{said}"
        );
    }
    let quiet = told(&single(&["prune", "--force", "--filter", "type=log"]));
    assert!(!quiet.contains("cannot be removed"), "{quiet}");
    assert_eq!(variants(&du(&place)), ["own"], "the others are gone");
    place.ok(&["prune", "--all", "--force"]);
    assert_eq!(variants(&du(&place)), Vec::<String>::new());
}
