//! Ways out of a step that others have found, each tried: system calls of every interface, the host's network, links
//! in the place of folders, descriptors, the program that forgets to become the helper.

use crate::sandbox::{Fixture, shell};
use hyper_sdk::exec::{
    CacheMount, ExecMount, HelperCommand, MountSource, NativeExecutor, Network, SecretBytes,
};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Tries system calls by number, natively and by the gates of 32-bit programs, and prints what the kernel says.
const PROBE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static long gate32(long n, long a, long b, long c, long d, long e) {
    long r;
#ifdef __x86_64__
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
                     : "memory", "r8", "r9", "r10", "r11");
    r = (int)r;
#else
    r = -ENOSYS;
#endif
    return r;
}

static unsigned family[3];

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "abstract")) {
        struct sockaddr_un to = { .sun_family = AF_UNIX };
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        memcpy(to.sun_path + 1, argv[2], strlen(argv[2]));
        socklen_t length = sizeof to.sun_family + 1 + strlen(argv[2]);
        puts(connect(s, (void *)&to, length) ? strerror(errno) : "connected");
        return 0;
    }
    if (argc == 3 && !strcmp(argv[1], "own")) {
        struct sockaddr_un to = { .sun_family = AF_UNIX };
        int l = socket(AF_UNIX, SOCK_STREAM, 0), s = socket(AF_UNIX, SOCK_STREAM, 0);
        memcpy(to.sun_path + 1, argv[2], strlen(argv[2]));
        socklen_t length = sizeof to.sun_family + 1 + strlen(argv[2]);
        puts(bind(l, (void *)&to, length) || listen(l, 1) || connect(s, (void *)&to, length) ? strerror(errno) : "connected");
        return 0;
    }
    /* GATE NUMBER ARGUMENT...; `family:N` or `raw:N` is the address of the arguments of socketcall. */
    long v[6] = { 0 };
    for (int i = 2; i < argc && i < 8; i++) {
        if (!strncmp(argv[i], "family:", 7)) {
            family[0] = atoi(argv[i] + 7), family[1] = SOCK_STREAM, family[2] = 0;
            v[i - 2] = (long)family;
        } else if (!strncmp(argv[i], "raw:", 4)) {
            family[0] = atoi(argv[i] + 4), family[1] = SOCK_RAW, family[2] = 0xff;
            v[i - 2] = (long)family;
        } else {
            v[i - 2] = strtoul(argv[i], 0, 0);
        }
    }
    long r;
    if (!strcmp(argv[1], "32")) {
        r = gate32(v[0], v[1], v[2], v[3], v[4], v[5]);
    } else {
        r = syscall(v[0], v[1], v[2], v[3], v[4], v[5]);
        if (r < 0) r = -errno;
    }
    if (r == 0 && !strcmp(argv[1], "32") && v[0] == 120) _exit(0); /* the child of a clone */
    puts(r >= 0 ? "done" : r == -EPERM ? "EPERM" : r == -ENOSYS ? "ENOSYS" : strerror(-r));
    return 0;
}
"#;

/// Puts the program into the image as /probe.
fn add_probe(fixture: &Fixture) -> bool {
    let source = fixture.path("probe.c");
    std::fs::write(&source, PROBE).unwrap();
    let made = Command::new("cc")
        .args(["-static", "-no-pie", "-fno-pie", "-O1", "-w", "-o"])
        .arg(fixture.path("base/probe"))
        .arg(&source)
        .output();
    match made {
        Ok(output) if output.status.success() => true,
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            println!("SKIPPED: there is no C compiler");
            false
        }
    }
}

/// The probes of x86: gate, number, arguments, and the answer with the host's network.
#[cfg(target_arch = "x86_64")]
const CALLS: &[(&str, &str, &str)] = &[
    // That the gate works at all.
    ("32", "20", "done"),
    ("32", "359 2 1 0", "done"),
    ("64", "41 2 1 0", "done"),
    // clone with namespaces: user, mount, network, process, and others.
    ("32", "120 0x10000011", "EPERM"),
    ("32", "120 0x10020011", "EPERM"),
    ("32", "120 0x00020011", "EPERM"),
    ("32", "120 0x40000011", "EPERM"),
    ("32", "120 0x20000011", "EPERM"),
    ("32", "120 0x04000011", "EPERM"),
    ("32", "120 0x08000011", "EPERM"),
    ("32", "120 0x02000011", "EPERM"),
    ("32", "120 0x00000011", "done"),
    ("64", "56 0x10000011", "EPERM"),
    ("32", "435 0 0", "ENOSYS"),
    ("64", "435 0 0", "ENOSYS"),
    // Sockets of the hypervisor, by all three ways.
    ("32", "359 40 1 0", "EPERM"),
    ("32", "102 1 family:40", "EPERM"),
    ("32", "102 1 0", "Bad address"),
    ("64", "41 40 1 0", "EPERM"),
    // The interfaces of the host.
    ("32", "359 17 3 0", "EPERM"),
    ("32", "102 1 family:17", "EPERM"),
    ("64", "41 17 3 0", "EPERM"),
    ("64", "41 44 3 0", "EPERM"),
    ("32", "359 2 10 0x300", "EPERM"),
    ("64", "41 2 10 0x300", "EPERM"),
    // Raw sockets, but not the messages to the kernel, whose sockets are called raw, too.
    ("64", "41 2 3 255", "EPERM"),
    ("64", "41 2 0x80003 1", "EPERM"),
    ("64", "41 10 3 58", "EPERM"),
    ("32", "359 2 3 255", "EPERM"),
    ("32", "102 1 raw:2", "EPERM"),
    ("32", "102 1 raw:10", "EPERM"),
    ("64", "41 16 3 0", "done"),
    // Families that no build needs.
    ("64", "41 38 5 0", "EPERM"),
    ("64", "41 29 3 1", "EPERM"),
    ("64", "41 31 3 1", "EPERM"),
    ("32", "359 38 5 0", "EPERM"),
    // Personas.
    ("64", "135 0", "done"),
    ("64", "135 0xffffffff", "done"),
    ("64", "135 0x40000", "EPERM"),
    ("32", "136 0x400000", "EPERM"),
    // What is not on the list, and what is newer than the list.
    ("64", "312 1 1 0 0 0", "EPERM"),
    ("64", "438 0 0 0", "EPERM"),
    ("64", "256 0 0 0 0", "EPERM"),
    ("32", "349 1 1 0 0 0", "EPERM"),
    ("64", "999 0", "ENOSYS"),
    ("32", "999 0", "ENOSYS"),
    ("64", "468 0 0 0 0 0", "ENOSYS"),
    // Mounts, old and new, namespaces, keys, and the rest of the list.
    ("32", "21 0 0 0 0 0", "EPERM"),
    ("32", "22 0", "EPERM"),
    ("32", "52 0 0", "EPERM"),
    ("32", "217 0 0", "EPERM"),
    ("32", "310 0x10000000", "EPERM"),
    ("32", "346 0 0", "EPERM"),
    ("32", "428 0 0 0", "EPERM"),
    ("32", "430 0 0", "EPERM"),
    ("32", "442 0 0 0 0 0", "EPERM"),
    ("32", "467 0 0 0 0 0", "EPERM"),
    ("64", "467 0 0 0 0 0", "EPERM"),
    ("64", "442 0 0 0 0 0", "EPERM"),
    ("32", "357 0 0 0", "EPERM"),
    ("32", "288 0 0 0", "EPERM"),
    ("32", "425 1 0", "EPERM"),
    ("32", "342 0 0 0", "EPERM"),
    ("32", "336 0 0 0 0 0", "EPERM"),
    ("32", "374 0", "EPERM"),
    // The x32 interface.
    ("64", "0x40000027", "ENOSYS"),
    ("64", "0x40000038 0x10000011", "ENOSYS"),
    ("64", "0x40000029 40 1 0", "ENOSYS"),
];
#[cfg(target_arch = "aarch64")]
const CALLS: &[(&str, &str, &str)] = &[
    ("64", "198 2 1 0", "done"),
    ("64", "220 0x10000011", "EPERM"),
    ("64", "435 0 0", "ENOSYS"),
    ("64", "198 40 1 0", "EPERM"),
    ("64", "198 17 3 0", "EPERM"),
    ("64", "40 0 0 0 0 0", "EPERM"),
    ("64", "467 0 0 0 0 0", "EPERM"),
    ("64", "97 0x10000000", "EPERM"),
    ("64", "198 2 3 255", "EPERM"),
    ("64", "198 38 5 0", "EPERM"),
    ("64", "92 0x40000", "EPERM"),
    ("64", "272 1 1 0 0 0", "EPERM"),
    ("64", "999 0", "ENOSYS"),
];

#[tokio::test]
async fn every_interface_of_the_kernel_is_filtered_the_same() {
    let Some(fixture) = Fixture::new().await else { return };
    if !add_probe(&fixture) {
        return;
    }
    let script: String = CALLS.iter().map(|(gate, call, _)| format!("/probe {gate} {call}\n")).collect();
    let (_, output, errors) = fixture.sh(&script).await;
    let answers: Vec<&str> = output.lines().collect();
    assert_eq!(answers.len(), CALLS.len(), "{output} {errors}");
    let wrong: Vec<_> = CALLS.iter().zip(&answers).filter(|((_, _, wanted), got)| wanted != *got).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[tokio::test]
async fn abstract_sockets_of_the_host_are_out_of_reach() {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let Some(fixture) = Fixture::new().await else { return };
    if !add_probe(&fixture) {
        return;
    }
    let name = format!("hyper-test-{}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    if !scopes_sockets() {
        println!("SKIPPED: this kernel cannot keep abstract sockets apart");
        return;
    }
    for network in [Network::Host, Network::None] {
        let mut spec = shell(&format!("/probe abstract {name}; /probe own {name}-own"));
        spec.network = network;
        let (_, output, errors) = fixture.run_spec(spec).await.unwrap();
        let lines: Vec<&str> = output.lines().collect();
        assert!(lines[0] != "connected" && lines[1] == "connected", "{output} {errors}");
    }
}

/// 32-bit programs of the GNU C library make every socket through `socketcall`.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn sockets_of_32_bit_programs_work_where_they_are_allowed() {
    let Some(fixture) = Fixture::new().await else { return };
    if !add_probe(&fixture) {
        return;
    }
    for (family, allowed) in
        [(1, true), (2, true), (10, true), (16, true), (17, false), (38, false), (40, false)]
    {
        let mut spec = shell(&format!("/probe 32 102 1 family:{family}"));
        spec.network = Network::None;
        let (_, output, _) = fixture.run_spec(spec).await.unwrap();
        // NETLINK has no streams, and says so after it was found allowed.
        let expected: &[&str] = match (allowed, family) {
            (true, 16) => &["Socket type not supported\n"],
            (true, 10) => &["done\n", "Address family not supported by protocol\n"],
            (true, _) => &["done\n"],
            (false, _) => &["EPERM\n"],
        };
        assert!(expected.contains(&output.as_str()), "{family}: {output}");
    }
}

/// Linux 6.12 and newer with Landlock.
fn scopes_sockets() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 12)
}

/// After a step its mount places are taken away; links that it put on the way lead nowhere.
#[tokio::test]
async fn links_in_the_place_of_folders_lead_nowhere_after_the_step() {
    let Some(fixture) = Fixture::new().await else { return };
    let outside = fixture.path("outside");
    std::fs::create_dir_all(outside.join("deep/empty")).unwrap();
    std::fs::write(outside.join("deep/file"), "").unwrap();
    let mut spec = shell(&format!("mv /x /y && ln -s {0} /x || exit 1; readlink /x", outside.display()));
    spec.args[2] = spec.args[2].replace("ln -s", "/bin/busybox ln -s").replace("mv /x", "/bin/busybox mv /x");
    for (target, source) in [
        ("/x/deep/empty", MountSource::Tmpfs { size: None, read_only: false }),
        ("/x/deep/file", MountSource::Secret { content: SecretBytes::new("s"), mode: 0o400, uid: 0, gid: 0 }),
    ] {
        spec.mounts.push(ExecMount { target: target.into(), source });
    }
    let (code, output, errors) = fixture.run_spec(spec).await.unwrap();
    assert_eq!(code, 0, "{output} {errors}");
    assert!(outside.join("deep/empty").exists() && outside.join("deep/file").exists());
}

#[tokio::test]
async fn the_working_folder_is_no_way_out() {
    let Some(fixture) = Fixture::new().await else { return };
    let base = fixture.path("base");
    for (name, to) in [
        ("up", "../../../../../../.."),
        ("magic", "/proc/self/cwd"),
        ("way", "/proc/self/root"),
        ("one", "/proc/1/root"),
    ] {
        symlink(to, base.join(name)).unwrap();
    }
    let marker = fixture.path("marker");
    std::fs::write(&marker, "").unwrap();
    for cwd in ["/up", "/magic", "/way", "/one", "/up/etc"]
        .map(str::to_owned)
        .into_iter()
        .chain((0..32).map(|number| format!("/proc/self/fd/{number}")))
    {
        let mut spec = shell(&format!("ls {}; ls ..{}", marker.display(), marker.display()));
        spec.cwd.clone_from(&cwd);
        if let Ok((_, output, _)) = fixture.run_spec(spec).await {
            assert_eq!(output, "", "{cwd}");
        }
    }
}

/// What is entered is the folder that was found: a program of the step that runs at once cannot put another there.
#[tokio::test]
async fn the_working_folder_in_a_shared_cache_is_the_one_that_was_found() {
    let Some(fixture) = Fixture::new().await else { return };
    let cache = fixture.path("cache");
    std::fs::create_dir(&cache).unwrap();
    let outside = fixture.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapper = {
        let (stop, cache, outside) = (stop.clone(), cache.clone(), outside.clone());
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let place = cache.join("work");
                let _ = std::fs::remove_dir(&place);
                let _ = symlink(&outside, &place);
                let _ = std::fs::remove_file(&place);
            }
        })
    };
    for _ in 0..20 {
        let mut spec = shell("pwd -P");
        spec.cwd = "/c/work/deep".into();
        let mount = CacheMount { path: cache.clone(), read_only: false, owner: None, from: None };
        spec.mounts.push(ExecMount { target: "/c".into(), source: MountSource::Cache(mount) });
        // What it finds is chance; a link leads within the step's own tree.
        let _ = fixture.run_spec(spec).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swapper.join().unwrap();
    assert!(std::fs::read_dir(&outside).unwrap().next().is_none());
}

/// A program that forgets `exec::init()`: started again by the test below, and by itself.
#[tokio::test]
async fn forgetful() {
    let Some(log) = std::env::var_os("HYPER_TEST_FORGETFUL") else { return };
    let mut file = std::fs::File::options().append(true).create(true).open(&log).unwrap();
    file.write_all(b"started\n").unwrap();
    // Whatever the program does: this test ends.
    if std::fs::read_to_string(&log).unwrap().lines().count() > 8 {
        return;
    }
    let result = NativeExecutor::start(HelperCommand {
        program: std::env::current_exe().unwrap(),
        args: ["sandbox_escapes::forgetful", "--exact", "--nocapture"].map(Into::into).into(),
    })
    .await;
    let error = result.unwrap_err();
    let line = format!("{} {:?}: {error}\n", std::process::id(), error.kind());
    file.write_all(line.as_bytes()).unwrap();
    // As a service would, it lives on.
    tokio::time::sleep(Duration::from_secs(120)).await;
}

#[tokio::test]
async fn a_program_that_forgets_to_become_the_helper_starts_itself_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args(["sandbox_escapes::forgetful", "--exact"])
        .env("HYPER_TEST_FORGETFUL", &log)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    // The child refuses, and its parent hears why, though the child would live on.
    let begun = Instant::now();
    let heard = format!("{} Unsupported", program.id());
    while !text().contains(&heard) && text().matches("started").count() < 8 {
        assert!(begun.elapsed() < Duration::from_secs(50), "{}", text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    program.kill().unwrap();
    program.wait().unwrap();
    assert_eq!(text().matches("started").count(), 2, "{}", text());
    assert!(text().contains("exec::init"), "{}", text());
}

#[tokio::test]
async fn the_names_of_the_hosts_control_groups_are_out_of_sight() {
    let Some(fixture) = Fixture::new().await else { return };
    let (_, output, errors) = fixture.sh("grep -v ':/$' /proc/self/cgroup; ls -A /sys/fs/cgroup").await;
    assert_eq!(output, "", "{errors}");
    assert!(Path::new("/proc/self/cgroup").exists());
}
