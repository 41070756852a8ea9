//! Where the control groups of steps may be made. To look changes nothing; [`Place::prepare`] does what is missing.
//!
//! ```text
//! version 1   GROUP/hyper-step-…                     GROUP is the builder's; one with processes may have groups below it
//! version 2   GROUP/hyper-step-…                     GROUP is the builder's, and was handed to it
//!             GROUP/hyper-builder-…                  the builder and what it started; the kernel lets a group with
//!                                                    processes of its own hand no controllers to those below it
//! named       PARENT/hyper-step-…                    `--cgroup-parent`
//! ```
//!
//! # Invariants
//! - A group is made in the builder's own one or in the one that the user names, and never above it: steps stay below the
//!   limits that hold for the builder.
//! - A group of version 2 that belongs to a manager of control groups (systemd) is not touched, unless the manager says that
//!   it was handed over.
//! - Processes that the builder did not start are not moved.

use super::hierarchy::{Controller, Hierarchy, Version};
use crate::exec::group_folder::{self, Turn};
use crate::sandbox::processes::parent_of;
use rustix::fs::Access;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// How often processes are moved anew, because the builder starts others at the same time.
const MAX_ROUNDS: usize = 16;
/// How deep a chain of processes may be.
const MAX_DEPTH: usize = 64;
/// How a group that was handed over is asked for.
const REMEDY: &str = "start the program in a group of its own that is handed to it (`systemd-run --user --scope -p \
                      Delegate=yes hyperbuild …`; without `--user` as root), or name a group that you prepared (`cgroup-parent`)";

/// What is known beside the files of the groups.
pub(super) struct World<'a> {
    /// Whether this process may write a file or folder.
    pub(super) may_write: &'a dyn Fn(&Path) -> bool,
    /// Whether the manager of control groups says that it handed over a group.
    pub(super) is_handed_over: &'a dyn Fn(&Path) -> bool,
    /// Whether systemd manages the control groups here.
    pub(super) has_manager: bool,
    /// Whether a process is the builder or was started by it.
    pub(super) is_ours: &'a dyn Fn(u32) -> bool,
}

/// A group in which those of steps can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is ready, or its controllers can be handed down.
    Ready(PathBuf),
    /// It has processes of the builder, which have to go into a group of their own first.
    WithBuilder(PathBuf),
    /// A group of version 1, which may be missing.
    Named(PathBuf),
}

impl Place {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Ready(path) | Self::WithBuilder(path) | Self::Named(path) => path,
        }
    }
}

/// Looks where groups with these controllers can be made. The text of an error says what is missing and what to do.
pub(super) fn look(
    hierarchy: &Hierarchy,
    named: Option<&str>,
    controllers: &[Controller],
    world: &World<'_>,
) -> Result<Place, String> {
    let named = named.map(|path| hierarchy.mount.join(path.trim_matches('/')));
    match (hierarchy.version, named, &hierarchy.own) {
        (Version::One, Some(group), _) => look_at_named_one(&hierarchy.mount, group, world),
        (Version::Two, Some(group), _) => look_at_named_two(group, controllers, world),
        (_, None, None) => Err("no mount shows the control group of the builder".to_owned()),
        (Version::One, None, Some(own)) => match (world.may_write)(own) {
            true => Ok(Place::Ready(own.clone())),
            false => Err(format!(
                "this user may make no control group in {}: those of version 1 are root's",
                own.display()
            )),
        },
        (Version::Two, None, Some(own)) => {
            look_at_own(&hierarchy.mount, own, controllers, world).map_err(|why| format!("{why}; {REMEDY}"))
        }
    }
}

fn look_at_named_one(mount: &Path, group: PathBuf, world: &World<'_>) -> Result<Place, String> {
    let above = group.ancestors().take_while(|path| path.starts_with(mount)).find(|path| path.is_dir());
    match above {
        Some(above) if (world.may_write)(above) => Ok(Place::Named(group)),
        _ => Err(format!(
            "this user may make no control group in {}: those of version 1 are root's",
            above.unwrap_or(mount).display()
        )),
    }
}

fn look_at_named_two(group: PathBuf, controllers: &[Controller], world: &World<'_>) -> Result<Place, String> {
    let at = group.display();
    if !group.join("cgroup.controllers").is_file() {
        return Err(format!("there is no control group {at}: make it, and let it have the controllers"));
    }
    check_type(&group)?;
    check_controllers(&group, controllers)?;
    let is_unit = [".slice", ".scope", ".service", ".mount", ".socket", ".swap"]
        .iter()
        .any(|end| at.to_string().ends_with(end));
    let missing = not_handed_down(&group, controllers);
    if is_unit && !missing.is_empty() && world.has_manager && !(world.is_handed_over)(&group) {
        return Err(format!("{at} is a group of systemd, and was not handed over: name one that you made"));
    }
    check_rights(&group, &missing, world)?;
    if !missing.is_empty() && group.join("cgroup.type").exists() && !processes(&group)?.is_empty() {
        return Err(format!(
            "{at} has processes, so it can hand down no controllers: name one that has none"
        ));
    }
    Ok(Place::Ready(group))
}

fn look_at_own(
    mount: &Path,
    own: &Path,
    controllers: &[Controller],
    world: &World<'_>,
) -> Result<Place, String> {
    // The builder was moved there by an earlier step.
    let group = builders_place(own).filter(|above| above.starts_with(mount)).unwrap_or(own);
    let at = group.display();
    let is_top = group == mount && !world.has_manager;
    if !is_top && !(world.is_handed_over)(group) {
        return Err(format!("the control group of the builder, {at}, was not handed to it"));
    }
    check_type(group)?;
    check_controllers(group, controllers)?;
    let missing = not_handed_down(group, controllers);
    check_rights(group, &missing, world)?;
    // The group at the top of a machine has no type. It may have processes beside groups with controllers.
    if missing.is_empty() || !group.join("cgroup.type").exists() {
        return Ok(Place::Ready(group.to_owned()));
    }
    let here = processes(group)?;
    match here.iter().find(|pid| !(world.is_ours)(**pid)) {
        Some(other) => Err(format!(
            "the control group of the builder, {at}, has processes that it did not start (such as {other}), so it can hand \
             down no controllers"
        )),
        None if here.is_empty() => Ok(Place::Ready(group.to_owned())),
        None => Ok(Place::WithBuilder(group.to_owned())),
    }
}

/// The group above a group that the builder was moved into.
pub(super) fn builders_place(own: &Path) -> Option<&Path> {
    let name = own.file_name()?.to_str()?;
    name.starts_with(group_folder::BUILDER_PREFIX).then(|| own.parent()).flatten()
}

fn read(group: &Path, name: &str) -> Result<String, String> {
    let file = group.join(name);
    std::fs::read_to_string(&file).map_err(|e| format!("{} cannot be read: {e}", file.display()))
}

fn processes(group: &Path) -> Result<Vec<u32>, String> {
    Ok(read(group, "cgroup.procs")?.lines().filter_map(|line| line.trim().parse().ok()).collect())
}

fn check_type(group: &Path) -> Result<(), String> {
    match read(group, "cgroup.type") {
        Ok(kind) if kind.trim() != "domain" => Err(format!(
            "{} is a group of threads (`{}`), in which no process can be limited",
            group.display(),
            kind.trim()
        )),
        _ => Ok(()),
    }
}

fn has(list: &str, controller: Controller) -> bool {
    list.split_whitespace().any(|name| name == controller.name())
}

fn check_controllers(group: &Path, controllers: &[Controller]) -> Result<(), String> {
    let available = read(group, "cgroup.controllers")?;
    match controllers.iter().find(|one| !has(&available, **one)) {
        Some(one) => Err(format!("{} has no controller `{}`", group.display(), one.name())),
        None => Ok(()),
    }
}

fn not_handed_down(group: &Path, controllers: &[Controller]) -> Vec<Controller> {
    let given = read(group, "cgroup.subtree_control").unwrap_or_default();
    controllers.iter().copied().filter(|one| !has(&given, *one)).collect()
}

fn check_rights(group: &Path, missing: &[Controller], world: &World<'_>) -> Result<(), String> {
    let mut needed = vec![group.to_owned(), group.join("cgroup.procs")];
    if !missing.is_empty() {
        needed.push(group.join("cgroup.subtree_control"));
    }
    match needed.iter().find(|path| !(world.may_write)(path)) {
        Some(path) => Err(format!("this user may not write {}", path.display())),
        None => Ok(()),
    }
}

/// Writes a file that is there.
pub(super) fn write(file: &Path, text: &str) -> std::io::Result<()> {
    std::fs::OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
}

impl Place {
    /// Hands the controllers to the groups below. Nobody else does the same or undoes it while `_turn` is held.
    pub(super) fn prepare(&self, controllers: &[Controller], _turn: &Turn) -> Result<(), String> {
        let group = self.path();
        if matches!(self, Self::WithBuilder(_)) {
            let builder = group_folder::make_builders(group).map_err(|e| e.to_string())?;
            if let Err(why) = move_all(group, &builder).and_then(|()| hand_down(group, controllers)) {
                // The group is as it was before.
                let _ = move_all(&builder, group);
                let _ = std::fs::remove_dir(&builder);
                return Err(why);
            }
            return Ok(());
        }
        hand_down(group, controllers)
    }
}

fn hand_down(group: &Path, controllers: &[Controller]) -> Result<(), String> {
    for one in not_handed_down(group, controllers) {
        write(&group.join("cgroup.subtree_control"), &format!("+{}", one.name())).map_err(|e| {
            format!("{} cannot hand down the controller `{}`: {e}", group.display(), one.name())
        })?;
    }
    Ok(())
}

/// Moves every process of a group to another one.
fn move_all(from: &Path, to: &Path) -> Result<(), String> {
    let target = to.join("cgroup.procs");
    let mut last = None;
    for _ in 0..MAX_ROUNDS {
        let here = processes(from)?;
        if here.is_empty() {
            return Ok(());
        }
        for pid in here {
            // One that has ended in the meantime is not there in the next round.
            last = write(&target, &pid.to_string()).err().or(last);
        }
    }
    let why = last.map_or_else(|| "it starts others all the time".to_owned(), |e| e.to_string());
    Err(format!("the builder cannot be moved to {}: {why}", to.display()))
}

/// Undoes [`Place::prepare`] for a builder that was moved to `own`, unless a step still has a group.
pub(super) fn leave(own: &Path) {
    let Some(group) = builders_place(own) else { return };
    let Ok(_turn) = Turn::take(group) else { return };
    let is_other = |name: &str| !name.starts_with(group_folder::BUILDER_PREFIX);
    if group_folder::groups_in(group).any(|(name, _)| is_other(&name)) {
        return;
    }
    for one in Controller::ALL {
        // Those that were not handed down cannot be taken away.
        let _ = write(&group.join("cgroup.subtree_control"), &format!("-{}", one.name()));
    }
    if move_all(own, group).is_ok() {
        let _ = std::fs::remove_dir(own);
    }
}

/// Whether this process may write a file or folder.
pub(super) fn may_write(path: &Path) -> bool {
    rustix::fs::access(path, Access::WRITE_OK).is_ok()
}

/// Whether systemd says that it handed over a group.
pub(super) fn is_handed_over(group: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0; 4];
        rustix::fs::getxattr(group, *name, &mut value[..]).is_ok_and(|length| value[..length] == *b"1")
    })
}

/// Whether systemd runs this machine.
pub(super) fn has_manager() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Says of a process whether it is `builder` or was started by it.
pub(super) fn started_by(builder: Option<u32>, pid: u32) -> bool {
    is_below(builder, pid, &parent_of)
}

fn is_below(builder: Option<u32>, pid: u32, parent: &dyn Fn(u32) -> Option<u32>) -> bool {
    let mut at = Some(pid);
    for _ in 0..MAX_DEPTH {
        match at {
            // 0 is a process of another namespace.
            None | Some(0) => return false,
            _ if at == builder => return true,
            Some(pid) => at = parent(pid),
        }
    }
    false
}

#[cfg(test)]
mod tests;
