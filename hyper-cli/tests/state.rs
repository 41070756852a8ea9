//! The state folder is closed to other users.

use super::rootless::ordinary_user;
use super::support::{Place, Who, busybox, find, is_root, skip, succeed, told};
use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A user who has nothing to do with it.
const STRANGER: &str = "45678";

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

fn set(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Lets everybody come as far as the state folder.
fn open_place(place: &Place) {
    set(&place.join(""), 0o755);
}

/// What a stranger finds at a path and below.
fn seen_by_a_stranger(path: &Path) -> String {
    let script = r#"ls -R "$0" 2>/dev/null | head -n 20; cat "$0"/logs/* 2>/dev/null | head -c 100"#;
    let mut command = Command::new("setpriv");
    let id = format!("--reuid={STRANGER}");
    command.args([&id, &format!("--regid={STRANGER}"), "--clear-groups", "--", "sh", "-c", script]).arg(path);
    String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
}

/// Runs the program under another file mode mask.
fn masked(place: &Place, mask: &str, arguments: &[&str]) -> Command {
    let program = place.hyper(arguments);
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("umask {mask}; exec \"$@\"")).arg("sh").arg(program.get_program());
    command.args(program.get_args()).current_dir(program.get_current_dir().unwrap()).env_clear();
    command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    command
}

#[test]
fn every_command_makes_a_private_state_folder() {
    for mask in ["000", "022", "077"] {
        let commands: [&[&str]; 6] = [
            &["images"],
            &["build", "-f", "context/Dockerfile", "context"],
            &["build", "-t", "a:1", "--check", "context"],
            &["tag", "a", "b"],
            &["rm", "a"],
            &["inspect", "a"],
        ];
        for arguments in commands {
            let place = Place::new();
            place.write("context/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
            open_place(&place);
            let output = masked(&place, mask, arguments).output().unwrap();
            assert_eq!(mode(&place.join("state")), 0o700, "{mask} {arguments:?} {}", told(&output));
            assert!(!told(&output).contains("warning"), "{}", told(&output));
        }
    }
}

#[test]
fn a_context_on_standard_input_and_the_logs_are_private() {
    let place = Place::new();
    open_place(&place);
    let mut child = masked(&place, "000", &["build", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"FROM scratch\nLABEL a=b\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(mode(&place.join("state")), 0o700);
    for entry in std::fs::read_dir(place.join("state/logs")).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

#[test]
fn other_users_cannot_see_a_state_folder_while_it_is_made_and_used() {
    if busybox().is_none() || !is_root() || find("setpriv").is_none() {
        skip!("this takes root, to be somebody else, setpriv, and a static busybox");
    }
    let users = [Some(Who::Me), Some(Who::Id(45_679)), ordinary_user().ok()];
    for who in users.into_iter().flatten() {
        let place = Place::of(who);
        open_place(&place);
        let dockerfile = "FROM base\nRUN cp /bin/busybox /suid && chmod 4755 /suid && mkdir -m 777 /open && \
            echo deep > /open/file && sleep 2\n";
        let mut building = place.build(dockerfile, &["-t", "a:1"]);
        let mut child = building.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut looks = 0;
        while child.try_wait().unwrap().is_none() {
            assert_eq!(seen_by_a_stranger(&place.join("state")), "");
            looks += 1;
        }
        assert!(child.wait().unwrap().success() && looks > 0);
        assert_eq!(seen_by_a_stranger(&place.join("state")), "");
    }
}

#[test]
fn a_state_folder_that_is_open_is_closed_with_one_warning() {
    let place = Place::new();
    let state = place.join("state");
    for wide in [0o755, 0o777, 0o750] {
        std::fs::create_dir_all(&state).unwrap();
        set(&state, wide);
        place.write("context/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
        for arguments in [&["build", "--progress=plain", "context"][..], &["images"], &["images", "--quiet"]]
        {
            set(&state, wide);
            let output = place.hyper(arguments).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{}", told(&output));
            assert_eq!(stderr.matches("other users could reach the folder").count(), 1, "{stderr}");
            assert_eq!(mode(&state), 0o700);
            let again = place.hyper(arguments).output().unwrap();
            assert!(!told(&again).contains("other users"), "{}", told(&again));
        }
    }
}

/// The folders below a folder in which builds make something, and not what layers and caches have in them.
fn folders_of_builds(state: &Path) -> Vec<PathBuf> {
    let below = |path: &Path| {
        let entries = std::fs::read_dir(path).unwrap().flatten().map(|entry| entry.path());
        entries.filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let mut all = below(state);
    for inner in ["snapshots", "store", "store/blobs"] {
        all.extend(below(&state.join(inner)));
    }
    for style in below(&state.join("snapshots")) {
        all.extend(below(&style));
    }
    all
}

#[test]
fn another_user_in_an_open_state_folder_cannot_read_on() {
    if !is_root() {
        skip!("only root can have a stranger stand in a folder");
    }
    let Some(busybox) = busybox() else {
        skip!("there is no static busybox");
    };
    let place = Place::new();
    let build = |name: &str| {
        place.write(
            "context/Dockerfile",
            &format!("FROM scratch\nCOPY . /{name}\nRUN [\"/{name}/busybox\", \"true\"]\n"),
        );
        succeed(&mut place.hyper(&["build", "context"]));
    };
    place.write("context/.dockerignore", "");
    std::fs::copy(busybox, place.join("context/busybox")).unwrap();
    let state = place.join("state");
    build("old");
    open_place(&place);
    set(&state, 0o755);
    let folders = folders_of_builds(&state);
    assert!(folders.len() > 8, "{folders:?}");
    let mut strangers = Vec::new();
    for folder in &folders {
        // As an older version made them.
        set(folder, 0o755);
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={STRANGER}"), &format!("--regid={STRANGER}"), "--clear-groups"]);
        command
            .args([
                "--",
                "sh",
                "-c",
                "cd \"$0\" && echo in && read line; ls . 2>/dev/null; cat ./* 2>/dev/null",
            ])
            .arg(folder);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "in\n", "{folder:?}");
        strangers.push((folder, child, output));
    }
    build("new");
    for (folder, mut child, mut output) in strangers {
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let mut seen = String::new();
        output.read_to_string(&mut seen).unwrap();
        child.wait().unwrap();
        assert_eq!(seen, "", "{folder:?}");
    }
}

#[test]
fn a_state_folder_that_other_users_can_replace_is_an_error() {
    let place = Place::new();
    place.write("context/Dockerfile", "FROM scratch\n");
    std::fs::create_dir(place.join("wide")).unwrap();
    let state = place.join("wide/state");
    let commands = [&["images"][..], &["build", "context"], &["serve"], &["pull", "localhost:1/a"]];
    let refused = |needle: &str| {
        for arguments in commands {
            let output = place.hyper(arguments).env("HYPER_ROOT", &state).output().unwrap();
            let text = told(&output);
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.contains(needle) && text.contains("--root"), "{text}");
        }
    };
    set(&place.join("wide"), 0o777);
    refused("can be written by everybody");
    assert!(!state.exists());
    if is_root() {
        set(&place.join("wide"), 0o755);
        chown(place.join("wide"), Some(4321), Some(4321)).unwrap();
        refused("belongs to uid 4321");
        chown(place.join("wide"), Some(0), Some(0)).unwrap();
        std::fs::create_dir(&state).unwrap();
        chown(&state, Some(4321), Some(4321)).unwrap();
        refused("belongs to another user (uid 4321)");
    }
}

#[test]
fn the_quickstart_works_in_a_private_folder() {
    let place = Place::new();
    std::fs::create_dir(place.join("tmp")).unwrap();
    open_place(&place);
    let mut command = masked(&place, "000", &["quickstart", "--keep", "-q"]);
    succeed(command.env("TMPDIR", place.join("tmp")));
    let folders: Vec<_> = std::fs::read_dir(place.join("tmp")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(!folders.is_empty());
    for folder in folders {
        assert_eq!(mode(&folder), 0o700);
    }
}

#[test]
fn images_of_a_state_folder_that_cannot_be_written_are_shown() {
    if busybox().is_none() || !is_root() || find("setpriv").is_none() || find("unshare").is_none() {
        skip!("this takes root, to be somebody else, setpriv, unshare, and a static busybox");
    }
    let check = |place: &Place, run: &dyn Fn(&[&str]) -> Command| {
        for (arguments, shown) in [(&["images"][..], "app"), (&["inspect", "app:1"], "sha256:")] {
            let output = run(arguments).output().unwrap();
            assert!(output.status.success() && told(&output).contains(shown), "{}", told(&output));
        }
        let output = run(&["build", "context"]).output().unwrap();
        let text = told(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains(&place.join("state").display().to_string()) && !text.contains("panic"),
            "{text}"
        );
    };
    for who in [Who::Me, Who::Id(45_680)] {
        let is_me = matches!(who, Who::Me);
        let place = Place::of(who);
        place.write("context/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
        place.ok(&["build", "-t", "app:1", "context"]);
        if is_me {
            let state = place.join("state").display().to_string();
            check(&place, &|arguments| {
                let program = place.hyper(arguments);
                let mut command = Command::new("unshare");
                let script = format!(
                    "mount --bind {state} {state} && mount -o remount,ro,bind {state} && exec \"$@\""
                );
                command.args(["-m", "sh", "-c", &script, "sh"]).arg(program.get_program());
                command.args(program.get_args()).stdin(Stdio::null());
                command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
                command.current_dir(program.get_current_dir().unwrap());
                command
            });
        } else {
            succeed(Command::new("chmod").args(["-R", "a-w"]).arg(place.join("state")));
            check(&place, &|arguments| place.hyper(arguments));
            succeed(Command::new("chmod").args(["-R", "u+w"]).arg(place.join("state")));
        }
    }
}
