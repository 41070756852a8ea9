//! Becomes the command of an [`Order`]: changes its root, its folder and its user, and then itself.

use executor::Order;
use rustix::fs::{Gid, Uid};
use std::convert::Infallible;
use std::error::Error;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    match start() {
        Ok(never) => match never {},
        Err(e) => {
            eprintln!("chroot-helper: {e}");
            ExitCode::from(125)
        }
    }
}

fn start() -> Result<Infallible, Box<dyn Error>> {
    let root = std::env::args_os().nth(1).ok_or("name the root")?;
    let order: Order = serde_json::from_reader(std::io::stdin())?;
    let nothing = File::open("/dev/null")?;
    rustix::process::chroot(&root)?;
    std::env::set_current_dir("/")?;
    // What is missing of the working folder belongs to the user.
    let folders: Vec<&Path> = Path::new(&order.spec.cwd).ancestors().collect();
    for folder in folders.into_iter().rev().filter(|folder| !folder.is_dir()) {
        std::fs::create_dir(folder)?;
        std::os::unix::fs::chown(folder, Some(order.uid), Some(order.gid))?;
    }
    // This program has one thread, so what is set for it is set for the process.
    let groups: Vec<Gid> = order.groups.iter().copied().map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_gid(Gid::from_raw(order.gid))?;
    rustix::thread::set_thread_uid(Uid::from_raw(order.uid))?;
    let mut command = Command::new(&order.program);
    command.args(&order.spec.args[1..]).env_clear().envs(order.spec.env);
    Err(command.current_dir(order.spec.cwd).stdin(nothing).exec().into())
}
