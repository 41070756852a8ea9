//! What is found of hierarchies, on tables and folders that look like those of a kernel.

use super::*;

const MOUNTS: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                      33 31 0:30 /docker/7 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
const GROUPS: &str = "5:devices:/x\n4:memory:/docker/7/a\n1:cpu,cpuacct:/b\n0::/user.slice/s\n";

#[test]
fn the_own_group_is_found_below_its_mount() {
    let find = |groups: &str, mounts: &str| hierarchy(None, groups, mounts).and_then(|found| found.own);
    let unified = Path::new("/sys/fs/cgroup/unified");
    assert_eq!(find("5:devices:/x\n0::/\n", MOUNTS).as_deref(), Some(unified));
    assert_eq!(find(GROUPS, MOUNTS), Some(unified.join("user.slice/s")));
    let part = "41 31 0:38 /docker/7 /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
    assert_eq!(find("0::/docker/7/a\n", part).as_deref(), Some(Path::new("/sys/fs/cgroup/a")));
    assert_eq!(find("0::/other\n", part), None);
    assert_eq!(find("5:devices:/x\n", MOUNTS), None);
    assert_eq!(find("0::/\n", ""), None);
}

#[test]
fn the_group_of_a_controller_is_in_its_hierarchy() {
    let find = |controller| {
        let found = hierarchy(Some(controller), GROUPS, MOUNTS)?;
        assert_eq!(found.version, Version::One);
        found.own
    };
    assert_eq!(find(Controller::Memory).as_deref(), Some(Path::new("/sys/fs/cgroup/memory/a")));
    assert_eq!(find(Controller::Cpu).as_deref(), Some(Path::new("/sys/fs/cgroup/cpu/b")));
    assert_eq!(find(Controller::Cpuset), None);
    assert_eq!(find(Controller::Pids), None);
}

/// A folder like a group of version 2.
fn group(path: &Path, available: &str, given: &str) {
    std::fs::create_dir_all(path).unwrap();
    std::fs::write(path.join("cgroup.controllers"), available).unwrap();
    std::fs::write(path.join("cgroup.subtree_control"), given).unwrap();
}

#[test]
fn the_nearest_group_that_hands_its_controllers_down_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let (slice, own) = (folder.path().join("slice"), folder.path().join("slice/own"));
    group(folder.path(), "cpu memory pids", "cpu memory pids");
    group(&slice, "memory pids", "memory pids");
    group(&own, "memory pids", "");
    let hierarchy =
        Hierarchy { version: Version::Two, mount: folder.path().to_owned(), own: Some(own.clone()) };
    let none = GroupLimits::default();
    assert_eq!(hierarchy.parents(&none), [own.clone(), slice.clone(), folder.path().to_owned()]);
    let named = GroupLimits { parent: Some("/a/b".into()), ..GroupLimits::default() };
    assert_eq!(hierarchy.parents(&named), [folder.path().join("a/b")]);

    hand_down(&slice, &[Controller::Memory]).unwrap();
    assert_eq!(hand_down(&own, &[Controller::Cpu]).unwrap_err(), "it has no controller `cpu`");
    hand_down(&own, &[Controller::Pids]).unwrap();
    assert_eq!(std::fs::read_to_string(own.join("cgroup.subtree_control")).unwrap(), "+pids");
    std::fs::write(own.join("cgroup.type"), "domain\n").unwrap();
    hand_down(&own, &[Controller::Pids]).unwrap();
    std::fs::write(own.join("cgroup.procs"), "7\n").unwrap();
    let error = hand_down(&own, &[Controller::Pids]).unwrap_err();
    assert_eq!(error, "it has processes, so it cannot hand down controllers");
    hand_down(&own, &[]).unwrap();

    // The folders have no `cgroup.procs`: a group in none of them.
    let memory = GroupLimits { memory: Some(64 << 20), ..GroupLimits::default() };
    let error = hierarchy.make(vec![Controller::Memory], &memory, true).map(drop).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
    let (message, nearest) = (error.message(), own.display().to_string());
    assert!(
        message.starts_with("`memory` of steps cannot be set: no control group can be made in "),
        "{message}"
    );
    assert!(message.contains(&nearest) && message.contains("`cgroup-parent`"), "{message}");
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
    assert_eq!((read("cpu.max").as_str(), read("cpu.weight").as_str()), ("150000 100000", "39"));
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
