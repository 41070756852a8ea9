//! The executor passes the suite as far as its capabilities go.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what it skips and stops at what fails"
)]

use executor::ChrootExecutor;
use hyper_sdk::exec::{Executor, RootFs};
use hyper_sdk::testing::busybox_root;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

async fn fixture() -> Option<(Arc<dyn Executor>, RootFs, tempfile::TempDir)> {
    if !rustix::process::geteuid().is_root() {
        println!("chroot needs root");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    // Commands of other users pass it.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    if !busybox_root(folder.path()).unwrap() {
        println!("there is no static busybox to make a root file system of");
        return None;
    }
    // A shell opens it for what it starts in the background; without mounts it is a file.
    std::fs::create_dir(folder.path().join("dev")).unwrap();
    std::fs::write(folder.path().join("dev/null"), "").unwrap();
    let root = RootFs::Folder { path: folder.path().to_owned(), writable: true };
    Some((Arc::new(ChrootExecutor::new(env!("CARGO_BIN_EXE_chroot-helper"))), root, folder))
}

hyper_sdk::executor_conformance!(fixture);
