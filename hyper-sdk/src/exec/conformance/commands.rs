//! Cases about the inputs and the output of a command.

use super::kit::*;
use crate::ErrorKind;
use crate::exec::{ExecSpec, Executor, LogSink, RootFs};
use crate::progress::LogStream;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const INVALID: &[ErrorKind] = &[ErrorKind::Invalid];

pub async fn an_exit_code_is_passed_on(executor: Arc<dyn Executor>, rootfs: RootFs) {
    for code in [0, 1, 42, 255] {
        assert_eq!(run(&executor, &rootfs, shell(&format!("exit {code}"))).await.code, code);
    }
    assert_eq!(run(&executor, &rootfs, command(["false"])).await.code, 1);
}

pub async fn a_signal_gives_128_plus_its_number(executor: Arc<dyn Executor>, rootfs: RootFs) {
    for signal in [9, 15] {
        assert_eq!(run(&executor, &rootfs, shell(&format!("kill -{signal} $$"))).await.code, 128 + signal);
    }
}

pub async fn output_is_split_by_stream(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let ran = run(&executor, &rootfs, shell("echo a; echo b >&2; echo c; echo d >&2; exit 3")).await;
    assert_eq!(ran, Outcome { code: 3, out: "a\nc\n".into(), err: "b\nd\n".into() });
}

pub async fn large_output_is_complete(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let ran = run(&executor, &rootfs, shell("seq 1 100000; seq 1 100000 >&2; echo end")).await;
    let numbers: String = (1..=100_000).map(|i| format!("{i}\n")).collect();
    assert_eq!((ran.code, ran.out.len(), ran.err.len()), (0, numbers.len() + 4, numbers.len()));
    assert!(ran.out.strip_suffix("end\n") == Some(&numbers) && ran.err == numbers, "in order");
}

pub async fn output_without_a_line_end_is_complete(executor: Arc<dyn Executor>, rootfs: RootFs) {
    assert_eq!(output_of(&executor, &rootfs, shell("echo -n some")).await, "some");
}

pub async fn output_waits_for_its_reader(executor: Arc<dyn Executor>, rootfs: RootFs) {
    /// Accepts one piece of output at a time.
    #[derive(Default)]
    struct Slow {
        ready: AtomicUsize,
        logged: AtomicUsize,
        early: AtomicUsize,
    }
    impl LogSink for Slow {
        fn log(&self, _: LogStream, _: &[u8]) {
            let logged = self.logged.fetch_add(1, Ordering::SeqCst) + 1;
            if logged > self.ready.load(Ordering::SeqCst) {
                self.early.fetch_add(1, Ordering::SeqCst);
            }
        }

        fn ready(&self) -> BoxFuture<'_, ()> {
            Box::pin(async {
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
                self.ready.fetch_add(1, Ordering::SeqCst);
            })
        }
    }
    let sink = Arc::new(Slow::default());
    let run = executor.run(&rootfs, shell("seq 1 50000; seq 1 50000 >&2"), sink.clone());
    assert!(tokio::time::timeout(HANGS, run).await.expect("the executor hangs").unwrap().success());
    assert!(sink.logged.load(Ordering::SeqCst) > 0);
    assert_eq!(sink.early.load(Ordering::SeqCst), 0, "the sink is ready before it receives a piece");
}

pub async fn a_command_has_an_empty_input(executor: Arc<dyn Executor>, rootfs: RootFs) {
    assert_eq!(output_of(&executor, &rootfs, command(["cat"])).await, "");
}

pub async fn arguments_are_unchanged(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let spec =
        command(["sh", "-c", "for a; do echo \"<$a>\"; done", "sh", "", "a b", "$HOME *", "é\n\"'\\", "-n"]);
    let expected = "<>\n<a b>\n<$HOME *>\n<é\n\"'\\>\n<-n>\n";
    assert_eq!(output_of(&executor, &rootfs, spec).await, expected);
}

pub async fn the_environment_is_the_given_one(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let mut spec = command(["env"]);
    for (name, value) in [("EMPTY", ""), ("A", "b=c d"), ("LINES2", "x\ny"), ("É", "é")] {
        spec.env.push((name.into(), value.into()));
    }
    let out = output_of(&executor, &rootfs, spec).await;
    for line in ["PATH=/bin", "EMPTY=", "A=b=c d", "LINES2=x", "y", "É=é"] {
        assert!(out.lines().any(|l| l == line), "`{line}` is not in {out:?}");
    }
    // No variable of the caller is visible: every test process has these.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME"] {
        assert!(!out.contains(name), "{name} comes from the caller");
    }
}

pub async fn the_last_of_several_variables_is_used(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let mut spec = shell("echo $A");
    for value in ["1", "2"] {
        spec.env.push(("A".into(), value.into()));
    }
    assert_eq!(output_of(&executor, &rootfs, spec).await, "2\n");
}

pub async fn a_program_is_found_in_the_path(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let mut spec = ExecSpec::new(["echo", "found"]);
    spec.env.push(("PATH".into(), "/no/such/folder:/bin".into()));
    assert_eq!(output_of(&executor, &rootfs, spec).await, "found\n");
    // A name with a slash is not searched.
    assert_eq!(output_of(&executor, &rootfs, ExecSpec::new(["/bin/echo", "here"])).await, "here\n");
}

pub async fn a_missing_program_is_invalid(executor: Arc<dyn Executor>, rootfs: RootFs) {
    for program in ["no-such-program", "/no/such/program", "/etc"] {
        let error = fails(try_run(&executor, &rootfs, command([program])).await, INVALID);
        assert!(format!("{error:?}").contains(program), "it names what was looked for: {error:?}");
    }
}

pub async fn an_empty_command_is_invalid(executor: Arc<dyn Executor>, rootfs: RootFs) {
    fails(try_run(&executor, &rootfs, command([])).await, INVALID);
    fails(try_run(&executor, &rootfs, command([""])).await, INVALID);
}

pub async fn a_relative_working_folder_is_invalid(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let mut spec = command(["true"]);
    spec.cwd = "tmp".into();
    fails(try_run(&executor, &rootfs, spec).await, INVALID);
}

pub async fn a_command_starts_in_its_working_folder(executor: Arc<dyn Executor>, rootfs: RootFs) {
    assert_eq!(output_of(&executor, &rootfs, command(["pwd"])).await, "/\n");
    let mut spec = command(["pwd"]);
    spec.cwd = "/tmp".into();
    assert_eq!(output_of(&executor, &rootfs, spec).await, "/tmp\n");
}

pub async fn a_missing_working_folder_is_made(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let mut spec = shell("pwd; touch made");
    spec.cwd = "/new/and/deep".into();
    assert_eq!(output_of(&executor, &rootfs, spec).await, "/new/and/deep\n");
    assert_eq!(output_of(&executor, &rootfs, shell("ls /new/and/deep")).await, "made\n", "it stays");
}

pub async fn a_made_working_folder_belongs_to_its_user(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let mut spec = shell("touch made; stat -c '%u %g' /app /app/here");
    (spec.cwd, spec.user) = ("/app/here".into(), "me".into());
    assert_eq!(output_of(&executor, &rootfs, spec).await, "1000 1000\n1000 1000\n");
}

pub async fn a_user_is_found_by_name(executor: Arc<dyn Executor>, rootfs: RootFs) {
    for (user, expected) in [("", "0\n0\n"), ("root", "0\n0\n"), ("me", "1000\n1000\n")] {
        let mut spec = shell("id -u; id -g");
        spec.user = user.into();
        assert_eq!(output_of(&executor, &rootfs, spec).await, expected, "`{user}`");
    }
}

pub async fn a_user_is_found_by_number(executor: Arc<dyn Executor>, rootfs: RootFs) {
    // A number need not be in `/etc/passwd`.
    for (user, expected) in [("1000", "1000\n1000\n"), ("4242", "4242\n0\n"), ("0", "0\n0\n")] {
        let mut spec = shell("id -u; id -g");
        spec.user = user.into();
        assert_eq!(output_of(&executor, &rootfs, spec).await, expected, "`{user}`");
    }
}

pub async fn a_group_is_found_by_name_and_number(executor: Arc<dyn Executor>, rootfs: RootFs) {
    for (user, expected) in
        [("me:extra", "1000\n2000\n"), ("me:4243", "1000\n4243\n"), ("1000:2000", "1000\n2000\n")]
    {
        let mut spec = shell("id -u; id -g");
        spec.user = user.into();
        assert_eq!(output_of(&executor, &rootfs, spec).await, expected, "`{user}`");
    }
}

pub async fn supplementary_groups_are_added(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let mut spec = shell("id -G");
    (spec.user, spec.groups) = ("me".into(), vec![3000]);
    let out = output_of(&executor, &rootfs, spec).await;
    let mut groups: Vec<&str> = out.split_whitespace().collect();
    groups.sort_unstable();
    assert_eq!(groups, ["1000", "2000", "3000"], "those of `/etc/group` and the given ones");
}

pub async fn a_missing_user_is_not_found(executor: Arc<dyn Executor>, rootfs: RootFs) {
    for user in ["nobody-here", "me:no-such-group"] {
        let mut spec = shell("touch /ran");
        spec.user = user.into();
        let error = fails(try_run(&executor, &rootfs, spec).await, &[ErrorKind::NotFound]);
        let missing = user.rsplit(':').next().unwrap_or(user);
        assert!(format!("{error:?}").contains(missing), "it names what was looked for: {error:?}");
    }
    assert_eq!(run(&executor, &rootfs, shell("test -e /ran")).await.code, 1, "nothing runs as another user");
}

pub async fn a_command_writes_to_its_root(executor: Arc<dyn Executor>, rootfs: RootFs) {
    output_of(
        &executor,
        &rootfs,
        shell("mkdir /d; echo new > /d/f; echo more >> /etc/group; rm /etc/passwd"),
    )
    .await;
    let look = shell("cat /d/f; grep -c . /etc/group; test -e /etc/passwd; echo $?");
    assert_eq!(output_of(&executor, &rootfs, look).await, "new\n4\n1\n");
}

pub async fn a_command_does_not_see_the_host(executor: Arc<dyn Executor>, rootfs: RootFs) {
    let folder = tempfile::Builder::new().prefix("hyper-suite-").tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "of the host").unwrap();
    let script = format!("test -e {0} || test -e /../../..{0}; echo $?", file.display());
    assert_eq!(output_of(&executor, &rootfs, shell(&script)).await, "1\n");
}

pub async fn a_read_only_root_is_not_changed(executor: Arc<dyn Executor>, rootfs: RootFs) {
    // An executor that must write there for its own setup may refuse.
    let script = shell("echo x > /new; touch /etc/new");
    if let Ok(ran) = try_run(&executor, &read_only(&rootfs), script).await {
        assert_ne!(ran.code, 0, "{ran:?}");
    }
    assert_eq!(run(&executor, &rootfs, shell("test -e /new || test -e /etc/new")).await.code, 1);
}

pub async fn errors_contain_no_secrets(executor: Arc<dyn Executor>, rootfs: RootFs) {
    for (program, user) in [("no-such-program", ""), ("true", "nobody-here"), ("", "")] {
        let mut spec = command([program]);
        spec.env.push(("TOKEN".into(), "hunter2".into()));
        spec.user = user.into();
        let error = try_run(&executor, &rootfs, spec).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hunter2"), "the error contains the environment");
    }
}
