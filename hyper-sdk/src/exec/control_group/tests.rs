//! What is written to groups of version 2, on folders that look like those of a kernel.

use super::*;

/// A folder like a group of version 2.
fn group(path: &Path, available: &str, given: &str) {
    std::fs::create_dir_all(path).unwrap();
    std::fs::write(path.join("cgroup.controllers"), available).unwrap();
    std::fs::write(path.join("cgroup.subtree_control"), given).unwrap();
}

#[test]
fn limits_are_written_as_version_2_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    group(folder.path(), "cpu memory pids cpuset", "cpu memory pids cpuset");
    let made = GroupFolder::make(folder.path()).unwrap();
    for name in [
        "cgroup.procs",
        "memory.max",
        "memory.swap.max",
        "cpu.max",
        "cpu.weight",
        "pids.max",
        "cpuset.cpus",
        "cpuset.mems",
    ] {
        std::fs::write(made.path().join(name), "").unwrap();
    }
    std::fs::write(folder.path().join("cpuset.cpus.effective"), "0-3\n").unwrap();
    let processes = File::create(made.path().join("cgroup.procs")).unwrap();
    let step =
        Folder { group: made, processes, version: Version::Two, controllers: Controller::ALL.to_vec() };
    let mut limits = GroupLimits {
        memory: Some(64 << 20),
        memory_swap: Some(SwapLimit::Total(96 << 20)),
        millicpus: Some(1500),
        cpu_shares: Some(1024),
        cpuset_cpus: Some("0,2-3".to_owned()),
        pids: Some(20),
        ..GroupLimits::default()
    };
    step.set(&limits, 1).unwrap();
    let read = |name: &str| std::fs::read_to_string(step.file(name)).unwrap();
    assert_eq!((read("memory.max").as_str(), read("memory.swap.max").as_str()), ("67108864", "33554432"));
    assert_eq!((read("cpu.max").as_str(), read("cpu.weight").as_str()), ("150000 100000", "100"));
    assert_eq!(
        (read("pids.max").as_str(), read("cpuset.cpus").as_str(), read("cpuset.mems").as_str()),
        ("21", "0,2-3", "")
    );

    limits.cpuset_cpus = Some("3-4".to_owned());
    let error = step.set(&limits, 1).unwrap_err();
    assert!(
        error.message().contains("`cpuset-cpus`") && error.message().contains("no 4 among 0-3"),
        "{error}"
    );
    limits.cpuset_cpus = None;
    std::fs::remove_file(step.file("memory.swap.max")).unwrap();
    let error = step.set(&limits, 1).unwrap_err();
    assert!(
        error.message().contains("`memory-swap`") && error.message().contains("memory.swap.max"),
        "{error}"
    );
    limits.memory_swap = None;
    step.set(&limits, 1).unwrap();

    for (events, expected) in
        [("low 0\noom 1\noom_kill 0\n", false), ("oom 0\noom_kill 1\n", false), ("oom 1\noom_kill 1\n", true)]
    {
        std::fs::write(step.file("memory.events"), events).unwrap();
        assert_eq!(step.is_out_of_memory(), expected, "{events}");
    }
    std::fs::remove_dir_all(step.group.path()).unwrap();
}

#[test]
fn weights_of_version_2_have_the_usual_one_where_shares_have_it() {
    assert_eq!([2, 1024, 262_144].map(weight), [1, 100, 10_000]);
    let mut last = 0;
    for shares in (2..=262_144).step_by(7) {
        let now = weight(shares);
        assert!((1..=10_000).contains(&now) && now >= last, "{shares}: {now}");
        last = now;
    }
}

#[test]
fn a_parent_of_version_1_that_has_no_processors_gets_those_above() {
    let mount = tempfile::tempdir().unwrap();
    let parent = mount.path().join("builds");
    let group = |at: &Path, cpus: &str| {
        std::fs::create_dir_all(at).unwrap();
        for (name, value) in
            [("cpus", cpus), ("mems", cpus), ("effective_cpus", cpus), ("effective_mems", cpus)]
        {
            std::fs::write(at.join(format!("cpuset.{name}")), format!("{value}\n")).unwrap();
        }
    };
    group(mount.path(), "0-3");
    group(&parent, "");
    make_parent(mount.path(), &parent).unwrap();
    for name in ["cpus", "mems"] {
        assert_eq!(std::fs::read_to_string(parent.join(format!("cpuset.{name}"))).unwrap().trim(), "0-3");
    }
    // What the user has set stays.
    group(&parent, "1");
    make_parent(mount.path(), &parent).unwrap();
    assert_eq!(std::fs::read_to_string(parent.join("cpuset.cpus")).unwrap().trim(), "1");
    group(mount.path(), "");
    group(&parent, "");
    let e = make_parent(mount.path(), &parent).unwrap_err().to_string();
    assert!(e.contains("are empty"), "{e}");
}
