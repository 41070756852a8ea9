//! Cases about mounts and host names.

use super::kit::*;
use crate::ErrorKind;
use crate::exec::{CacheMount, Executor, MountSource, RootFs, SecretBytes};
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

/// A folder that every user may enter, with a file `sub/file`.
fn context() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("sub/file"), "old\n").unwrap();
    folder
}

fn tree(folder: &Path, path: &str, writable: bool) -> MountSource {
    let tree = RootFs::Folder { path: folder.to_owned(), writable: false };
    MountSource::Tree { tree, path: path.into(), writable }
}

fn host(folder: &Path, path: &str, writable: bool) -> MountSource {
    MountSource::Host { root: folder.to_owned(), path: path.into(), writable }
}

fn cache(path: &Path, read_only: bool) -> MountSource {
    MountSource::Cache(CacheMount { path: path.to_owned(), read_only, owner: None, from: None })
}

fn inline(content: &str) -> MountSource {
    MountSource::Inline { name: "file".into(), content: content.into(), mode: 0o755 }
}

pub async fn a_tree_is_mounted(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox);
    let folder = context();
    std::os::unix::fs::symlink("/sub/file", folder.path().join("link")).unwrap();
    for (path, seen) in [("/", "/m/sub/file"), ("/sub", "/m/file"), ("/sub/file", "/m"), ("/link", "/m")] {
        let spec = with_mount(shell(&format!("cat {seen}")), "/m", tree(folder.path(), path, false));
        assert_eq!(output_of(&executor, &rootfs, spec).await, "old\n", "{path}");
    }
    let spec = with_mount(shell("echo x > /m/sub/file"), "/m", tree(folder.path(), "/", false));
    assert_ne!(run(&executor, &rootfs, spec).await.code, 0, "a read-only tree");
}

pub async fn writes_to_a_mounted_tree_are_discarded(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox);
    let folder = context();
    for source in [tree(folder.path(), "/", true), host(folder.path(), "/", true)] {
        for _ in 0..2 {
            let spec = shell("cat /m/sub/file; echo new > /m/sub/file; touch /m/made; cat /m/sub/file");
            let ran = try_run(&executor, &rootfs, with_mount(spec, "/m", source.clone())).await;
            if matches!(rootfs, RootFs::Folder { .. }) && ran.is_err() {
                // An executor may have no place for writes to a mounted folder.
                fails(ran, &[ErrorKind::Unsupported]);
                return;
            }
            assert_eq!(ran.unwrap().out, "old\nnew\n");
        }
    }
    assert_eq!(std::fs::read(folder.path().join("sub/file")).unwrap(), b"old\n");
    assert!(!folder.path().join("made").exists());
}

pub async fn a_file_of_the_host_is_mounted(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox);
    let folder = context();
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("out")).unwrap();
    let spec = with_mount(shell("cat /m/file"), "/m", host(folder.path(), "sub", false));
    assert_eq!(output_of(&executor, &rootfs, spec).await, "old\n");
    // A link never leads out of the folder.
    let spec = with_mount(shell("cat /m"), "/m", host(folder.path(), "out", false));
    fails(try_run(&executor, &rootfs, spec).await, &[ErrorKind::NotFound, ErrorKind::Invalid]);
}

pub async fn a_cache_keeps_what_is_written(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox);
    let folder = context();
    let path = folder.path().join("cache");
    for expected in ["", "x\n", "x\nx\n"] {
        let spec = shell("cat /c/f 2> /dev/null; echo x >> /c/f");
        assert_eq!(
            output_of(&executor, &rootfs, with_mount(spec, "/c", cache(&path, false))).await,
            expected
        );
    }
    assert_eq!(run(&executor, &rootfs, shell("test -e /c/f")).await.code, 1, "it is not in the root");
}

pub async fn a_cache_is_packed_and_another_is_filled(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox, cache_contents);
    let folder = context();
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    let fill = "mkdir -p /c/d && echo text > /c/d/f && chmod 751 /c/d/f && ln /c/d/f /c/g && ln -s d/f /c/l && chmod 1777 /c";
    output_of(&executor, &rootfs, with_mount(shell(fill), "/c", cache(&one, false))).await;
    let show = "cd /c; find . | sort | xargs stat -c '%a %u:%g %h %F %Y %n'; cat d/f l";
    let shown = output_of(&executor, &rootfs, with_mount(shell(show), "/c", cache(&one, false))).await;
    let files = executor.pack_cache(&one).await.unwrap();
    executor.fill_cache(&two, files).await.unwrap();
    let filled = output_of(&executor, &rootfs, with_mount(shell(show), "/c", cache(&two, false))).await;
    assert_eq!(filled, shown);
    assert!(shown.contains("751 0:0 2 regular file"), "{shown}");
    // A folder that exists stays.
    output_of(&executor, &rootfs, with_mount(shell("echo own > /c/d/f"), "/c", cache(&two, false))).await;
    executor.fill_cache(&two, executor.pack_cache(&one).await.unwrap()).await.unwrap();
    let own = output_of(&executor, &rootfs, with_mount(shell("cat /c/d/f"), "/c", cache(&two, false))).await;
    assert_eq!(own, "own\n");
}

pub async fn a_broken_archive_fills_no_cache(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox, cache_contents);
    let folder = context();
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    let fill = "head -c 1000000 /dev/zero > /c/f";
    output_of(&executor, &rootfs, with_mount(shell(fill), "/c", cache(&one, false))).await;
    let before = std::fs::read_dir(folder.path()).unwrap().count();
    let cut = executor.pack_cache(&one).await.unwrap().take(500_000);
    assert!(executor.fill_cache(&two, Box::new(cut)).await.is_err());
    let broken = executor.pack_cache(&one).await.unwrap().take(500_000).chain(Broken);
    assert!(executor.fill_cache(&two, Box::new(broken)).await.is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), before, "nothing is left");
}

/// A reader that fails.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::ConnectionReset.into())
    }
}

pub async fn a_read_only_cache_is_not_written(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox);
    let folder = context();
    let spec = with_mount(shell("cat /c/file; touch /c/x"), "/c", cache(&folder.path().join("sub"), true));
    let ran = run(&executor, &rootfs, spec).await;
    assert!(ran.code != 0 && ran.out == "old\n", "{ran:?}");
    assert!(!folder.path().join("sub/x").exists());
}

pub async fn a_secret_is_a_file_with_its_mode(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox);
    let source = MountSource::Secret { content: SecretBytes::new("hunter2"), mode: 0o440, uid: 0, gid: 0 };
    let spec = shell("cat /run/secrets/key; echo; stat -c '%a %u %g' /run/secrets/key");
    let spec = with_mount(spec, "/run/secrets/key", source);
    assert_eq!(output_of(&executor, &rootfs, spec).await, "hunter2\n440 0 0\n");
    assert_eq!(run(&executor, &rootfs, shell("cat /run/secrets/key")).await.out, "", "it is gone");
}

pub async fn tmpfs_content_is_discarded(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox);
    for _ in 0..2 {
        let source = MountSource::Tmpfs { size: Some(1 << 20), read_only: false };
        let spec = with_mount(shell("ls /m; echo x > /m/f; cat /m/f"), "/m", source);
        assert_eq!(output_of(&executor, &rootfs, spec).await, "x\n");
    }
}

pub async fn an_inline_file_is_mounted(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox);
    let spec = with_mount(command(["/m/file"]), "/m", inline("#!/bin/sh\necho ran\n"));
    assert_eq!(output_of(&executor, &rootfs, spec).await, "ran\n");
}

pub async fn the_last_of_two_mounts_at_one_target_is_used(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox);
    let spec = with_mount(shell("cat /m/file"), "/m", inline("first"));
    let spec = with_mount(spec, "/m", inline("second"));
    assert_eq!(output_of(&executor, &rootfs, spec).await, "second");
}

pub async fn a_mount_may_be_relative_to_the_working_folder(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox);
    let mut spec = with_mount(shell("cat m/file /w/m/file"), "m", inline("x"));
    spec.cwd = "/w".into();
    assert_eq!(output_of(&executor, &rootfs, spec).await, "xx");
}

pub async fn a_missing_source_is_an_error(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox);
    let folder = context();
    for source in [tree(folder.path(), "/none", false), host(folder.path(), "none", false)] {
        let spec = with_mount(shell("touch /ran"), "/m", source);
        fails(try_run(&executor, &rootfs, spec).await, &[ErrorKind::NotFound, ErrorKind::Invalid]);
    }
    assert_eq!(
        run(&executor, &rootfs, shell("test -e /ran")).await.code,
        1,
        "nothing runs without its mounts"
    );
}

pub async fn mounts_leave_nothing_in_the_root(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox);
    let folder = context();
    // The first command may leave the folders that every image has, such as `/proc`.
    output_of(&executor, &rootfs, command(["true"])).await;
    let before = output_of(&executor, &rootfs, command(["ls", "/", "/etc", "/run", "/tmp"])).await;
    let mut spec = shell("ls /deep/er /run/secrets /c /t");
    for (target, source) in [
        ("/deep/er/tree", tree(folder.path(), "/", false)),
        (
            "/run/secrets/key",
            MountSource::Secret { content: SecretBytes::new("x"), mode: 0o400, uid: 0, gid: 0 },
        ),
        ("/c", cache(&folder.path().join("cache"), false)),
        ("/t", MountSource::Tmpfs { size: None, read_only: false }),
        ("/i", inline("x")),
    ] {
        spec = with_mount(spec, target, source);
    }
    spec.extra_hosts.push(("seven".into(), "192.0.2.7".into()));
    output_of(&executor, &rootfs, spec).await;
    assert_eq!(output_of(&executor, &rootfs, command(["ls", "/", "/etc", "/run", "/tmp"])).await, before);
}

pub async fn a_command_has_the_given_host_names(executor: Arc<dyn Executor>, rootfs: RootFs) {
    needs!(executor, sandbox);
    let mut spec = shell("hostname; cat /etc/resolv.conf; grep seven /etc/hosts");
    spec.hostname = Some("builder".into());
    spec.resolv_conf = Some("nameserver 192.0.2.1\n".into());
    spec.extra_hosts.push(("seven".into(), "192.0.2.7".into()));
    let out = output_of(&executor, &rootfs, spec).await;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["builder", "nameserver 192.0.2.1"]);
    assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["192.0.2.7", "seven"]);
}
