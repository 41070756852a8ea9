//! Files that hang, never end or lead elsewhere: each is refused by its name, and what people name themselves is read.

use crate::support::{Place, base, busybox, skip, succeed, told};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What a program said, which has to end: nothing here waits for long.
fn ended(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("{command:?} hangs");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

fn refused(command: &mut Command, why: &[&str]) {
    let output = ended(command);
    assert!(!output.status.success(), "{command:?} succeeded");
    assert!(output.status.code().is_some(), "{command:?}: {}", told(&output));
    for part in why {
        assert!(told(&output).contains(part), "{part}: {}", told(&output));
    }
}

fn pipe(path: &Path) {
    let _ = std::fs::remove_file(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    succeed(Command::new("mkfifo").arg(path));
}

/// A script, with the program as `$0`.
fn shell(place: &Place, script: &str, arguments: &[&str]) -> Command {
    let program = place.hyper(&[]);
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(program.get_program()).args(arguments);
    command.env_clear().current_dir(place.join("")).stdin(Stdio::null());
    for (name, value) in program.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
}

/// The program with a memory limit, so that an endless file does not harm the machine.
fn limited(place: &Place, arguments: &[&str]) -> Command {
    shell(place, "ulimit -v 8000000; exec \"$0\" \"$@\"", arguments)
}

#[test]
fn pipes_and_links_out_of_the_context_are_rejected() {
    let place = Place::new();
    place.write("context/Dockerfile", "FROM scratch\nCOPY a /\n");
    place.write("context/a", "a");
    place.write("secret", "TOPSECRET of the host");
    place.write("named/b", "b");
    let secret = place.join("secret");
    let named = format!("n={}", place.join("named").display());
    let build = ["build", "--progress=plain", "--build-context", &named, "context"];
    for name in [
        "context/.dockerignore",
        "context/Dockerfile.dockerignore",
        "context/.containerignore",
        "named/.dockerignore",
        "context/Dockerfile",
    ] {
        let path = place.join(name);
        let before = std::fs::read(&path).ok();
        let file = name.rsplit('/').next().unwrap();
        pipe(&path);
        refused(&mut limited(&place, &build), &["is a pipe", file]);
        for to in ["/dev/zero", secret.to_str().unwrap(), "../secret"] {
            std::fs::remove_file(&path).unwrap();
            symlink(to, &path).unwrap();
            let mut command = limited(&place, &build);
            refused(&mut command, &["of the build context is a link that leads out of it", file]);
            assert!(!told(&ended(&mut limited(&place, &build))).contains("TOPSECRET"));
        }
        std::fs::remove_file(&path).unwrap();
        if let Some(text) = before {
            std::fs::write(&path, text).unwrap();
        }
    }
    // Inside of the context, a link is followed.
    place.write("context/more/ignore", "more\n");
    symlink("more/ignore", place.join("context/.dockerignore")).unwrap();
    std::fs::rename(place.join("context/Dockerfile"), place.join("context/more/Dockerfile")).unwrap();
    symlink("more/Dockerfile", place.join("context/Dockerfile")).unwrap();
    let output = ended(&mut limited(&place, &build));
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn a_dockerfile_or_secret_may_be_a_pipe() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    place.write("context/a", "a");
    place.write("elsewhere/real", "FROM scratch\nCOPY a /\n");
    symlink("real", place.join("elsewhere/Dockerfile")).unwrap();
    let shell = |script: &str| {
        let output = ended(&mut shell(&place, script, &[]));
        assert!(output.status.success(), "{script}: {}", told(&output));
        told(&output)
    };
    shell("\"$0\" build -f elsewhere/Dockerfile context");
    shell("\"$0\" build -f /dev/stdin context < elsewhere/real");
    shell("cat elsewhere/real | \"$0\" build -f /dev/stdin context");
    shell("cat elsewhere/real | \"$0\" build -f - context");
    // As `-f <(command)` does.
    shell("{ cat elsewhere/real; sleep 1; } | \"$0\" build -f /dev/fd/7 context 7<&0 </dev/null");
    shell("mkfifo late; { sleep 1; cat elsewhere/real; } > late & \"$0\" build -f late context");
    let base = format!("base=oci-layout://{}", base().display());
    place.write(
        "elsewhere/secret",
        "FROM base\nRUN --mount=type=secret,id=a cat /run/secrets/a | tr a-z A-Z\n",
    );
    for from in ["src=/dev/fd/7", "src=/dev/stdin"] {
        let script = format!(
            "printf 'of a pipe' | \"$0\" build --no-cache --progress=plain --build-context {base} --secret id=a,{from} -f elsewhere/secret context 7<&0"
        );
        assert!(shell(&script).contains("OF A PIPE"));
    }
    let script = format!(
        "\"$0\" build --no-cache --progress=plain --build-context {base} --secret id=a,src=/dev/null -f elsewhere/secret context"
    );
    shell(&script);
}

#[test]
fn files_that_block_or_never_end_are_rejected() {
    let place = Place::new();
    place.write("context/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    pipe(&place.join("pipe"));
    let large = std::fs::File::create(place.join("large")).unwrap();
    large.set_len(64 << 20).unwrap();
    for (source, why) in [
        ("pipe", "is a pipe without data"),
        ("/dev/zero", "is a device"),
        ("large", "is larger than 1 MiB"),
        ("context", "is a folder"),
    ] {
        let secret = format!("id=a,src={source}");
        let mut command = limited(&place, &["build", "--secret", &secret, "context"]);
        refused(&mut command, &["the file of the secret `a`", why, source]);
    }
    for (file, why) in [
        ("pipe", "the Dockerfile is a pipe without data"),
        ("/dev/zero", "the Dockerfile is a device"),
        ("large", "the Dockerfile is larger than 16 MiB"),
    ] {
        refused(&mut limited(&place, &["build", "-f", file, "context"]), &[why, file]);
        refused(&mut limited(&place, &["build", "--check", "-f", file, "context"]), &[why, file]);
    }
    refused(
        &mut limited(&place, &["build", "--ssh", "default=pipe", "context"]),
        &["pipe", "is not a socket"],
    );
    refused(&mut limited(&place, &["build", "--build-context", "n=pipe", "context"]), &["pipe"]);
    place.write("context/Dockerfile", "FROM scratch\nRUN --device=vendor.example/gpu=a,required x\n");
    pipe(&place.join("cdi/a.json"));
    let cdi = ["build", "--allow=device", "--cdi-config-dir=cdi", "context"];
    refused(&mut limited(&place, &cdi), &["is a pipe"]);
}

#[test]
fn layouts_and_credentials_that_block_are_rejected() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    let context = format!("base=oci-layout://{}", place.join("layout").display());
    let build = ["build", "--build-context", &context, "context"];
    let fresh = || {
        for name in ["layout", "state"] {
            let _ = std::fs::remove_dir_all(place.join(name));
        }
        succeed(Command::new("cp").arg("-r").arg(base()).arg(place.join("layout")));
    };
    place.write("context/Dockerfile", "FROM base\nCOPY Dockerfile /\n");
    fresh();
    let blobs: Vec<_> =
        std::fs::read_dir(place.join("layout/blobs/sha256")).unwrap().map(|e| e.unwrap().path()).collect();
    for path in blobs.iter().chain([&place.join("layout/index.json")]) {
        fresh();
        pipe(path);
        let name = path.file_name().unwrap().to_str().unwrap();
        refused(&mut limited(&place, &build), &["of the OCI layout is a pipe", name]);
        fresh();
        std::fs::remove_file(path).unwrap();
        symlink("/dev/zero", path).unwrap();
        refused(&mut limited(&place, &build), &["of the OCI layout is a device", name]);
    }
    pipe(&place.join("docker/config.json"));
    let logout = ["--config", "docker", "logout", "127.0.0.1:1"];
    refused(&mut limited(&place, &logout), &["the file of credentials is a pipe", "config.json"]);
}
