//! A small root file system, for tests that run commands.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

/// The programs of [`busybox_root`], in `/bin`.
pub const PROGRAMS: &[&str] = &[
    "cat", "chown", "dd", "echo", "env", "false", "find", "grep", "hostname", "id", "ip", "kill", "ls",
    "mkdir", "mknod", "mount", "ps", "pwd", "readlink", "rm", "seq", "sh", "sleep", "stat", "su", "test",
    "touch", "true", "wc",
];
/// The users of [`busybox_root`].
pub const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n";
/// The groups of [`busybox_root`]: `me` is in `extra`.
pub const GROUP: &str = "root:x:0:\nme:x:1000:\nextra:x:2000:me\n";

/// Creates a root file system in a folder from the static busybox of this machine: [`PROGRAMS`] in `/bin`, the users
/// and groups of [`PASSWD`] and [`GROUP`], their home folders, and a `/tmp` that everybody can write to.
///
/// Returns `false` and creates nothing when this machine has no busybox.
///
/// # Errors
/// Those of the file system.
pub fn busybox_root(root: &Path) -> std::io::Result<bool> {
    let Some(busybox) =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists())
    else {
        return Ok(false);
    };
    for folder in ["bin", "etc", "root", "tmp", "run", "home/me"] {
        std::fs::create_dir_all(root.join(folder))?;
    }
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755))?;
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777))?;
    super::copy_program(Path::new(busybox), &root.join("bin/busybox"))?;
    for program in PROGRAMS {
        symlink("busybox", root.join("bin").join(program))?;
    }
    std::fs::write(root.join("etc/passwd"), PASSWD)?;
    std::fs::write(root.join("etc/group"), GROUP)?;
    Ok(true)
}
