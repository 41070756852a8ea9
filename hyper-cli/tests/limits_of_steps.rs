//! Limits of what steps use: `--ulimit`, `--shm-size`, control groups.

use crate::rootless::ordinary_user;
use crate::support::{Place, Who, busybox, find, is_root, skip, told};

/// Everybody who can run steps here: root, an ordinary user with subordinate ids, and one without.
fn everybody() -> Vec<Who> {
    let mut all = vec![Who::Me];
    if is_root() && find("setpriv").is_some() {
        all.extend(ordinary_user());
        all.push(Who::Id(45_690));
    }
    all
}

/// Whether this process has CAP_SYS_RESOURCE.
fn may_raise_limits() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() >> 24 & 1 == 1
}

/// The message of a build that must fail.
fn refused(place: &Place, dockerfile: &str, flags: &[&str], code: i32) -> String {
    let output = place.build(dockerfile, flags).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{flags:?}: {}", told(&output));
    told(&output)
}

#[test]
fn steps_have_the_limits_of_the_flags() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let shown = "RUN ulimit -Sn; ulimit -Hn; ulimit -c; df -k /dev/shm | tail -1 | awk '{print $2}'; : \n";
    for who in everybody() {
        let place = Place::of(who.clone());
        let flags = ["--ulimit=nofile=101:202", "--ulimit", "core=0", "--shm-size=5m"];
        let built = place.built(&format!("FROM base\n{shown}"), &flags);
        assert_eq!(built.log(), "101\n202\n0\n5120\n", "{who:?}");
        let again =
            place.built(&format!("FROM base\n{shown}RUN df -k /dev/shm | awk 'END {{print $2}}'\n"), &[]);
        assert_eq!(
            again.log(),
            "65536\n",
            "{who:?}: the first step comes from the cache, the second has the default"
        );
    }
}

#[test]
fn limits_change_neither_the_key_nor_the_image() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    let dockerfile = "FROM base\nRUN echo text > /file\n";
    let epoch = "--source-date-epoch=1700000000";
    let first = place.built(dockerfile, &[epoch]);
    let limited = ["--ulimit=nofile=64", "--shm-size=1m", "--ulimit=nofile=65", epoch];
    let second = place.built(dockerfile, &limited);
    assert_eq!(first.digest, second.digest);
    assert!(second.outcomes().values().all(|outcome| outcome != "ran"), "{:?}", second.outcomes());
    let third = place.built(dockerfile, &[&limited[..], &["--no-cache"]].concat());
    assert_eq!(first.digest, third.digest);
}

#[test]
fn root_raises_limits_and_an_ordinary_user_gets_an_error_before_anything_runs() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    if !is_root() || find("setpriv").is_none() || find("prlimit").is_none() {
        skip!("this takes root, to be somebody else, setpriv and prlimit");
    }
    let dockerfile = "FROM base\nRUN ulimit -Hn\n";
    for who in everybody() {
        let place = Place::of(who.clone());
        let build = place.build(dockerfile, &["--ulimit=nofile=300:4000"]);
        let mut limited = std::process::Command::new("prlimit");
        limited.args(["--nofile=400:500", "--"]).arg(build.get_program()).args(build.get_args());
        limited.env_clear().envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = limited.current_dir(build.get_current_dir().unwrap()).output().unwrap();
        let text = told(&output);
        if matches!(who, Who::Me) && may_raise_limits() {
            assert!(output.status.success() && text.contains("4000"), "{text}");
        } else {
            assert_eq!(output.status.code(), Some(1), "{who:?}: {text}");
            assert!(text.contains("the limit `nofile=300:4000` of steps cannot be set"), "{who:?}: {text}");
            assert!(text.contains("the hard limit of `nofile` is 500 here"), "{who:?}: {text}");
            assert!(!text.contains("\"log\""), "{who:?}: no command ran: {text}");
        }
    }
}

#[test]
fn limits_that_cannot_be_set_do_not_matter_where_nothing_runs() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    // Nobody may have it.
    let endless = "--ulimit=nofile=5:-1";
    place.built("FROM base\nWORKDIR /a\n", &[endless]);
    let dockerfile = "FROM base\nRUN echo ran\n";
    let planned = place.build(dockerfile, &["--dry-run", endless]).output().unwrap();
    assert!(planned.status.success(), "{}", told(&planned));
    place.built(dockerfile, &[]);
    let cached = place.built(dockerfile, &[endless]);
    assert!(cached.outcomes().values().all(|outcome| outcome != "ran"), "{:?}", cached.outcomes());
    refused(&place, dockerfile, &[endless, "--no-cache"], 1);
}

#[test]
fn a_limit_above_what_the_kernel_allows_is_an_error_that_names_it() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    let text = refused(&place, "FROM base\nRUN true\n", &["--ulimit=nofile=5:-1"], 1);
    assert!(
        text.contains("`nofile=5:-1`")
            && (text.contains("fs.nr_open") || text.contains("the hard limit of `nofile` is")),
        "{text}"
    );
}

#[test]
fn wrong_values_are_refused_by_name() {
    let place = Place::new();
    for (flag, why) in [
        ("--ulimit=files=3", "the name of a limit is one of core, cpu, data"),
        ("--ulimit=nofile", "expected NAME=SOFT or NAME=SOFT:HARD"),
        ("--ulimit=nofile=9:8", "the soft limit is above the hard limit"),
        ("--ulimit=nofile=-1:8", "the soft limit is above the hard limit"),
        ("--ulimit=nofile=1k", "`1k` is neither a number nor `unlimited`"),
        ("--ulimit=nofile=18446744073709551615", "is neither a number"),
        ("--shm-size=-1", "--shm-size `-1`"),
        ("--shm-size=much", "`much` is not a size"),
    ] {
        let text = refused(&place, "FROM scratch\n", &[flag], 2);
        assert!(text.contains(why), "{flag}: {text}");
    }
    place.built("FROM scratch\nWORKDIR /a\n", &["--shm-size=0", "--ulimit=rtprio=0"]);
}

#[test]
fn the_size_of_shared_memory_needs_isolation() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    if !is_root() {
        skip!("steps without isolation need root");
    }
    let place = Place::new();
    let dockerfile = "FROM base\nRUN ulimit -n\n";
    let text = refused(&place, dockerfile, &["--isolation=none", "--shm-size=1m"], 1);
    assert!(text.contains("`shm-size`") && text.contains("without isolation"), "{text}");
    let built = place.built(dockerfile, &["--isolation=none", "--ulimit=nofile=77"]);
    assert_eq!(built.log(), "77\n");
}

#[test]
fn a_limit_of_a_single_id_that_the_sandbox_uses_itself_is_refused() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    if !is_root() || find("setpriv").is_none() {
        skip!("this takes root, to be somebody else, and setpriv");
    }
    let place = Place::of(Who::Id(45_691));
    let text = refused(&place, "FROM base\nRUN true\n", &["--ulimit=locks=5"], 1);
    assert!(text.contains("`locks=5:5`") && text.contains("single id"), "{text}");
}
