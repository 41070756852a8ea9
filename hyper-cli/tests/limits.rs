//! What the system does not give: no room on standard error, no threads, no descriptors, no terminal, no writing.

use super::support::{Place, busybox, find, skip, told};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Output, Stdio};

fn place() -> Place {
    let place = Place::new();
    place.write("context/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    place.write("wrong/Dockerfile", "FROM scratch\nCOPI Dockerfile /\n");
    place
}

/// Commands that print results, progress, findings, hints and errors.
const COMMANDS: [&[&str]; 17] = [
    &["images"],
    &["images", "--format=json"],
    &["build", "context"],
    &["build", "--progress=json", "context"],
    &["build", "--progress=tty", "context"],
    &["build", "wrong"],
    &["build", "nowhere"],
    &["build", "--check", "wrong"],
    &["build", "--check", "context"],
    &["build", "--call=outline", "context"],
    &["quickstart"],
    &["completions", "bash"],
    &["man", "man"],
    &["inspect", "a"],
    &["logout", "localhost:1"],
    &["--help"],
    &["--nonsense"],
];

/// A panic ends with 101, an abort with a signal.
fn assert_clean(output: &Output, about: &str) {
    let text = told(output);
    assert!(matches!(output.status.code(), Some(0..=2)), "{about}: {text}");
    assert!(!text.contains("panicked"), "{about}: {text}");
}

#[test]
fn output_that_cannot_be_printed_is_not_a_panic() {
    let place = place();
    for arguments in COMMANDS {
        let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
        let about = format!("{arguments:?}");
        let output = place.hyper(arguments).stderr(full()).output().unwrap();
        assert_clean(&output, &about);
        let output = place.hyper(arguments).stdout(full()).output().unwrap();
        assert_clean(&output, &about);
        let output = place.hyper(arguments).stdout(full()).stderr(full()).output().unwrap();
        assert_clean(&output, &about);
        for closed in ["2>&-", ">&-", ">&- 2>&- <&-", "2>&1 | true"] {
            let program = place.hyper(arguments);
            let script = format!("\"$@\" {closed}; exit 0");
            let mut command = Command::new("sh");
            command.args(["-c", &script, "sh"]).arg(program.get_program()).args(program.get_args());
            command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command.current_dir(program.get_current_dir().unwrap()).stdin(Stdio::null());
            assert_clean(&command.output().unwrap(), &format!("{about} {closed}"));
        }
    }
}

/// Runs a command under a limit.
fn limited(place: &Place, limit: &str, arguments: &[&str]) -> Output {
    let program = place.hyper(arguments);
    let mut command = Command::new("timeout");
    command.args(["60", "prlimit", limit, "--"]).arg(program.get_program()).args(program.get_args());
    command.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(program.get_current_dir().unwrap()).stdin(Stdio::null());
    command.output().unwrap()
}

#[test]
fn too_few_descriptors_are_an_error_and_not_a_panic() {
    if find("prlimit").is_none() {
        skip!("there is no prlimit");
    }
    let place = place();
    let commands =
        [&["build", "context"][..], &["images"], &["quickstart"], &["serve", "--listen", "127.0.0.1:x"]];
    for count in [4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 64] {
        for arguments in commands {
            let output = limited(&place, &format!("--nofile={count}"), arguments);
            assert_clean(&output, &format!("{count} {arguments:?}"));
        }
    }
    assert!(limited(&place, "--nofile=256", &["quickstart"]).status.success());
}

#[test]
fn too_few_threads_are_an_error_and_not_a_panic() {
    if find("prlimit").is_none() || find("setpriv").is_none() || !super::support::is_root() {
        skip!("this takes root, to be somebody else, prlimit and setpriv");
    }
    // The limit counts all processes of a user, so nothing else may run as this user.
    let place = Place::of(super::support::Who::Id(45_681));
    place.write("context/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let mut successes = 0;
    for count in (1..14).chain([20, 30, 100]) {
        for arguments in [&["build", "context"][..], &["images"]] {
            let program = place.hyper(arguments);
            let mut command = Command::new("timeout");
            let limit = format!("--nproc={count}");
            command.args(["60", "prlimit", &limit, "--"]).arg(program.get_program()).args(program.get_args());
            command.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command.current_dir(program.get_current_dir().unwrap()).stdin(Stdio::null());
            let output = command.output().unwrap();
            assert_clean(&output, &format!("{count} {arguments:?}"));
            successes += usize::from(output.status.success());
        }
    }
    assert!(successes > 0);
}

/// Starts a build whose step sleeps, and returns it when the step runs.
fn sleeping(place: &Place, ignore: bool) -> std::process::Child {
    let build = place.build("FROM base\nRUN echo begun; sleep 300\n", &[]);
    let mut command = Command::new(if ignore { "nohup" } else { "env" });
    command.arg(build.get_program()).args(build.get_args()).env_clear();
    command.envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(build.get_current_dir().unwrap()).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"begun")));
    child.stderr = None;
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn signal(child: &std::process::Child, name: &str) {
    assert!(Command::new("/bin/kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn signals_end_a_build_with_their_status() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    for (name, status) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let place = Place::new();
        let mut child = sleeping(&place, false);
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(status), "{name}");
        let style = std::fs::read_dir(place.join("state/snapshots")).unwrap().next().unwrap().unwrap();
        let left = std::fs::read_dir(style.path().join("active")).unwrap().count();
        assert_eq!(left, 0, "{name}: what was being made is left");
    }
    // Who asked for it keeps on when the terminal goes away.
    let place = Place::new();
    let mut child = sleeping(&place, true);
    signal(&child, "-HUP");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none());
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_server_shuts_down_gracefully_when_the_terminal_closes() {
    for name in ["-HUP", "-TERM", "-INT"] {
        let place = Place::new();
        let mut command = place.hyper(&["serve", "--listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        signal(&child, name);
        assert!(child.wait().unwrap().success(), "{name}");
        out.read_to_string(&mut line).unwrap();
    }
}
