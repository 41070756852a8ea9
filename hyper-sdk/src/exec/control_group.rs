//! The control groups of a step that limit what it uses, together with everything that it starts.
//!
//! ```text
//! version 2   GROUP/hyper-step-PID-N   GROUP is the builder's or the nearest above it whose controllers can be handed
//!                                      down: a group that has processes of its own cannot do that
//! version 1   the same in the hierarchy of each controller; GROUP is the builder's
//! ```
//!
//! The process in the place of pid 1 enters them before it does anything else, so that a step sees them as the root of
//! its hierarchy. They are removed after the step; what a killed helper leaves is swept by the next build with limits.

use super::group_folder::{self, GroupFolder};
use super::group_limits::{GroupLimits, SwapLimit, numbers};
use crate::sandbox::{ReachedLimit, sys};
use crate::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The control groups of one step.
pub(super) struct StepGroup {
    folders: Vec<Folder>,
    memory: Option<u64>,
    pids: Option<u64>,
}

/// The group in one hierarchy.
struct Folder {
    group: GroupFolder,
    /// The file that takes processes, opened before the step can change what its path leads to.
    processes: File,
    version: Version,
    controllers: Vec<Controller>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Controller {
    Memory,
    Cpu,
    Cpuset,
    Pids,
}

impl Controller {
    const ALL: [Self; 4] = [Self::Memory, Self::Cpu, Self::Cpuset, Self::Pids];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
        }
    }

    /// The name of the first limit that needs it.
    fn needed_by(self, limits: &GroupLimits) -> Option<&'static str> {
        let first =
            |all: &[(bool, &'static str)]| all.iter().find(|(is_given, _)| *is_given).map(|(_, name)| *name);
        match self {
            Self::Memory => first(&[(limits.memory.is_some(), "memory")]),
            Self::Cpu => first(&[
                (limits.millicpus.is_some(), "cpus"),
                (limits.cpu_shares.is_some(), "cpu-shares"),
                (limits.cpu_quota.is_some(), "cpu-quota"),
                (limits.cpu_period.is_some(), "cpu-period"),
            ]),
            Self::Cpuset => first(&[
                (limits.cpuset_cpus.is_some(), "cpuset-cpus"),
                (limits.cpuset_mems.is_some(), "cpuset-mems"),
            ]),
            Self::Pids => first(&[(limits.pids.is_some(), "pids-limit")]),
        }
    }
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    mount: PathBuf,
    /// The group of this process, when the mount shows it.
    own: Option<PathBuf>,
}

/// The folder of the control group of version 2 that this process is in.
pub(super) fn own_group() -> Option<PathBuf> {
    let (groups, mounts) = tables();
    hierarchy(None, &groups, &mounts)?.own
}

/// The groups and the mounts of this process.
fn tables() -> (String, String) {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    (read("cgroup"), read("mountinfo"))
}

/// The hierarchy of a controller in version 1, or without a controller that of version 2.
fn hierarchy(controller: Option<Controller>, groups: &str, mounts: &str) -> Option<Hierarchy> {
    let has = |names: &str| controller.is_some_and(|one| names.split(',').any(|name| name == one.name()));
    let own = groups.lines().find_map(|line| {
        let (names, path) = line.split_once(':')?.1.split_once(':')?;
        (if controller.is_some() { has(names) } else { names.is_empty() }).then_some(path)
    });
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut kind = file_system.split(' ');
        let version = match (kind.next()?, controller) {
            ("cgroup2", None) => Version::Two,
            ("cgroup", Some(_)) if has(kind.nth(1)?) => Version::One,
            _ => return None,
        };
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        let below = own.and_then(|own| Path::new(own).strip_prefix(root).ok());
        Some(Hierarchy { version, mount: place.into(), own: below.map(|below| Path::new(place).join(below)) })
    })
}

impl Hierarchy {
    /// The groups in which one can be made for a step, best first.
    fn parents(&self, limits: &GroupLimits) -> Vec<PathBuf> {
        match (&limits.parent, &self.own) {
            (Some(parent), _) => vec![self.mount.join(parent.trim_matches('/'))],
            (None, None) => Vec::new(),
            (None, Some(own)) if self.version == Version::One => vec![own.clone()],
            (None, Some(own)) => {
                own.ancestors().take_while(|at| at.starts_with(&self.mount)).map(Path::to_owned).collect()
            }
        }
    }

    /// Makes the group of a step, with these controllers.
    fn make(&self, controllers: Vec<Controller>, limits: &GroupLimits, sweeps: bool) -> Result<Folder> {
        let mut reason = None;
        for parent in self.parents(limits) {
            let given = match limits.parent {
                Some(_) => self.make_parent(&parent, &controllers),
                None => Ok(()),
            };
            if sweeps {
                group_folder::sweep(&parent);
            }
            match given.and_then(|()| self.make_in(&parent, &controllers)) {
                Ok((group, processes)) => {
                    return Ok(Folder { group, processes, version: self.version, controllers });
                }
                // The nearest one says most.
                Err(why) => {
                    reason.get_or_insert((parent, why));
                }
            }
        }
        let limit = controllers.iter().find_map(|one| one.needed_by(limits)).unwrap_or("cgroup-parent");
        let message = match (reason, self.version) {
            (None, _) => "no mount shows the control group of the builder".to_owned(),
            (Some((parent, why)), Version::One) => {
                format!(
                    "no control group can be made in {}: {why}; those of version 1 are root's",
                    parent.display()
                )
            }
            (Some((parent, why)), Version::Two) => format!(
                "no control group can be made in {} or above it: {why}. Start the program in a group that was handed to \
                 this user (systemd-run --user --scope), or name one (`cgroup-parent`)",
                parent.display()
            ),
        };
        Err(Error::unsupported(format!("`{limit}` of steps cannot be set: {message}")))
    }

    /// Makes a given parent and the groups above it that are missing.
    fn make_parent(&self, parent: &Path, controllers: &[Controller]) -> std::result::Result<(), String> {
        let mut above: Vec<&Path> = parent.ancestors().take_while(|at| *at != self.mount).collect();
        above.reverse();
        for group in above {
            let within = group.parent().unwrap_or(group);
            if self.version == Version::Two {
                // What fails here fails again below, with its reason.
                let _ = hand_down(within, controllers);
            }
            match std::fs::create_dir(group) {
                // A new one has no processors, and its own groups get none.
                Ok(()) if self.version == Version::One => {
                    let _ = fill_cpuset(group, within, &GroupLimits::default());
                }
                Ok(()) => {}
                Err(_) if group.is_dir() => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(())
    }

    fn make_in(
        &self,
        parent: &Path,
        controllers: &[Controller],
    ) -> std::result::Result<(GroupFolder, File), String> {
        if self.version == Version::Two {
            hand_down(parent, controllers)?;
        }
        let made = GroupFolder::make(parent).and_then(|group| {
            let processes = OpenOptions::new().write(true).open(group.path().join("cgroup.procs"))?;
            Ok((group, processes))
        });
        made.map_err(|e| e.to_string())
    }
}

/// Lets the groups in a group of version 2 have controllers.
fn hand_down(group: &Path, controllers: &[Controller]) -> std::result::Result<(), String> {
    let list = |name: &str| std::fs::read_to_string(group.join(name)).map_err(|e| e.to_string());
    if controllers.is_empty() {
        return Ok(());
    }
    // The group at the top has no type. In another one with processes, some controllers could be handed down to threads
    // alone.
    if group.join("cgroup.type").exists() && list("cgroup.procs").is_ok_and(|processes| !processes.is_empty())
    {
        return Err("it has processes, so it cannot hand down controllers".to_owned());
    }
    let (available, given) = (list("cgroup.controllers")?, list("cgroup.subtree_control")?);
    let has = |list: &str, one: Controller| list.split_whitespace().any(|name| name == one.name());
    for &one in controllers.iter().filter(|one| !has(&given, **one)) {
        if !has(&available, one) {
            return Err(format!("it has no controller `{}`", one.name()));
        }
        write(&group.join("cgroup.subtree_control"), &format!("+{}", one.name()))
            .map_err(|e| format!("the controller `{}` cannot be handed down: {e}", one.name()))?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    // A file that is not there must not be made.
    OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
}

/// Writes one limit.
fn set(limit: &str, file: &Path, value: impl ToString) -> Result<()> {
    let value = value.to_string();
    write(file, &value).map_err(|e| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let error = match e.kind() {
            io::ErrorKind::NotFound => Error::unsupported(format!(
                "`{limit}` of steps cannot be set: the control groups here have no `{name}`"
            )),
            _ => Error::invalid(format!(
                "`{limit}` of steps cannot be set: the kernel refuses {value} as `{name}`"
            )),
        };
        error.with_source(e)
    })
}

/// Sets processors and memory nodes of a new group in another one. Version 1 takes no process before both are set.
fn fill_cpuset(group: &Path, parent: &Path, limits: &GroupLimits) -> Result<()> {
    let is_one = group.join("cpuset.effective_cpus").exists();
    for (limit, name, given) in
        [("cpuset-cpus", "cpus", &limits.cpuset_cpus), ("cpuset-mems", "mems", &limits.cpuset_mems)]
    {
        let effective =
            if is_one { format!("cpuset.effective_{name}") } else { format!("cpuset.{name}.effective") };
        let here = std::fs::read_to_string(parent.join(effective)).unwrap_or_default();
        let value = match given {
            Some(list) => {
                // Version 2 takes numbers that do not exist, and ignores them.
                let missing = numbers(list)
                    .zip(numbers(&here))
                    .and_then(|(wanted, here)| wanted.difference(&here).next().copied());
                if let Some(missing) = missing {
                    return Err(Error::invalid(format!(
                        "`{limit}` of steps cannot be set: there is no {missing} among {}",
                        here.trim()
                    )));
                }
                list.as_str()
            }
            None if is_one => here.trim(),
            None => continue,
        };
        set(limit, &group.join(format!("cpuset.{name}")), value)?;
    }
    Ok(())
}

impl Folder {
    fn file(&self, name: &str) -> PathBuf {
        self.group.path().join(name)
    }

    /// Sets the limits of its controllers. `own` is the number of processes and threads of the sandbox itself.
    fn set(&self, limits: &GroupLimits, own: u64) -> Result<()> {
        for controller in &self.controllers {
            match controller {
                Controller::Memory => self.set_memory(limits)?,
                Controller::Cpu => self.set_cpu(limits)?,
                Controller::Cpuset => {
                    let path = self.group.path();
                    fill_cpuset(path, path.parent().unwrap_or(path), limits)?;
                }
                Controller::Pids => {
                    if let Some(pids) = limits.pids {
                        set("pids-limit", &self.file("pids.max"), pids.saturating_add(own))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn set_memory(&self, limits: &GroupLimits) -> Result<()> {
        let Some(memory) = limits.memory else { return Ok(()) };
        let swap = limits.memory_swap.unwrap_or(SwapLimit::Total(memory.saturating_mul(2)));
        let (file, swap_file, value) = match (self.version, swap) {
            (Version::One, SwapLimit::Total(total)) => (
                "memory.limit_in_bytes",
                "memory.memsw.limit_in_bytes",
                total.min(i64::MAX as u64).to_string(),
            ),
            (Version::One, SwapLimit::Unlimited) => {
                ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "-1".to_owned())
            }
            (Version::Two, SwapLimit::Total(total)) => {
                ("memory.max", "memory.swap.max", total.saturating_sub(memory).to_string())
            }
            (Version::Two, SwapLimit::Unlimited) => ("memory.max", "memory.swap.max", "max".to_owned()),
        };
        set("memory", &self.file(file), memory)?;
        let swap_file = self.file(swap_file);
        if limits.memory_swap.is_none() && !swap_file.exists() {
            // The kernel does not count swap, and nobody asked for it.
            return Ok(());
        }
        set("memory-swap", &swap_file, value)
    }

    fn set_cpu(&self, limits: &GroupLimits) -> Result<()> {
        let is_one = self.version == Version::One;
        if let Some(shares) = limits.cpu_shares {
            match is_one {
                true => set("cpu-shares", &self.file("cpu.shares"), shares)?,
                // 2 to 262144 are 1 to 10000.
                false => set("cpu-shares", &self.file("cpu.weight"), 1 + (shares - 2) * 9999 / 262_142)?,
            }
        }
        let Some((quota, period)) = limits.quota() else { return Ok(()) };
        let limit =
            Controller::Cpu.needed_by(&GroupLimits { cpu_shares: None, ..limits.clone() }).unwrap_or("cpus");
        if !is_one {
            let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
            return set(limit, &self.file("cpu.max"), format!("{quota} {period}"));
        }
        set(limit, &self.file("cpu.cfs_period_us"), period)?;
        match quota {
            Some(quota) => set(limit, &self.file("cpu.cfs_quota_us"), quota),
            None => Ok(()),
        }
    }

    /// A number of a file with a name and a number in each line.
    fn count(&self, file: &str, name: &str) -> u64 {
        let text = std::fs::read_to_string(self.file(file)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    }

    /// Whether a process was killed because the group used up its memory, and not that of the machine.
    fn is_out_of_memory(&self) -> bool {
        if self.version == Version::Two {
            return self.count("memory.events", "oom_kill") > 0 && self.count("memory.events", "oom") > 0;
        }
        let bytes = |file: &str| {
            let text = std::fs::read_to_string(self.file(file)).unwrap_or_default();
            text.trim().parse::<u64>().unwrap_or(0)
        };
        // The count of failed charges stays 0 on some kernels.
        let (most, limit) = (bytes("memory.max_usage_in_bytes"), bytes("memory.limit_in_bytes"));
        self.count("memory.oom_control", "oom_kill") > 0 && most >= limit - limit / 10
    }
}

impl StepGroup {
    /// Makes the control groups of a step and sets its limits; `None` when it asks for none. `own` is the number of
    /// processes and threads of the sandbox in them.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] with the name of the limit, for what this machine or user cannot have.
    /// [`crate::ErrorKind::Invalid`] for values that contradict each other or that the kernel refuses.
    pub(super) fn make(limits: &GroupLimits, own: u64) -> Result<Option<Self>> {
        Self::make_with(limits, own, false)
    }

    fn make_with(limits: &GroupLimits, own: u64, sweeps: bool) -> Result<Option<Self>> {
        if limits.is_empty() {
            return Ok(None);
        }
        limits.validate()?;
        let mut all: Vec<(Hierarchy, Vec<Controller>)> = Vec::new();
        let (groups, mounts) = tables();
        for controller in Controller::ALL {
            let needed = controller.needed_by(limits);
            if needed.is_none() && limits.parent.is_none() {
                continue;
            }
            let found =
                hierarchy(Some(controller), &groups, &mounts).or_else(|| hierarchy(None, &groups, &mounts));
            let Some(found) = found else {
                let name = needed.unwrap_or("cgroup-parent");
                let message = format!("`{name}` of steps cannot be set: no control groups are mounted here");
                return Err(Error::unsupported(message));
            };
            // Version 1 needs both lists of a cpuset before it takes a process.
            let fills = found.version == Version::One && controller == Controller::Cpuset;
            let controllers = (needed.is_some() || fills).then_some(controller);
            match all.iter_mut().find(|(other, _)| *other == found) {
                Some((_, list)) => list.extend(controllers),
                None => all.push((found, controllers.into_iter().collect())),
            }
        }
        let mut folders = Vec::new();
        for (hierarchy, controllers) in all {
            let folder = hierarchy.make(controllers, limits, sweeps)?;
            folder.set(limits, own)?;
            folders.push(folder);
        }
        Ok(Some(Self { folders, memory: limits.memory, pids: limits.pids }))
    }

    /// Puts this process into the groups.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unsupported`] when the kernel refuses it.
    pub(super) fn enter(&self) -> Result<()> {
        for folder in &self.folders {
            (&folder.processes).write_all(b"0").map_err(|e| refused(folder.group.path(), e))?;
        }
        Ok(())
    }

    /// The group of version 2.
    pub(super) fn unified(&self) -> Option<&GroupFolder> {
        self.folders.iter().find(|folder| folder.version == Version::Two).map(|folder| &folder.group)
    }

    /// The limit that the step came to.
    pub(super) fn reached(&self) -> Option<ReachedLimit> {
        let of = |controller| self.folders.iter().find(|folder| folder.controllers.contains(&controller));
        let memory = self.memory.filter(|_| of(Controller::Memory).is_some_and(Folder::is_out_of_memory));
        let pids =
            self.pids.filter(|_| of(Controller::Pids).is_some_and(|f| f.count("pids.events", "max") > 0));
        memory.map(ReachedLimit::Memory).or(pids.map(ReachedLimit::Pids))
    }
}

fn refused(group: &Path, e: io::Error) -> Error {
    Error::unsupported("the process of a step cannot enter its control group")
        .with_context("path", group.display())
        .with_source(e)
}

/// Checks that a step can have these limits, by a process that enters such groups. Removes what killed helpers left.
///
/// # Errors
/// Those of [`StepGroup::make`].
pub(super) fn check(limits: &GroupLimits) -> Result<()> {
    let Some(group) = StepGroup::make_with(limits, 0, true)? else { return Ok(()) };
    match sys::fork()? {
        sys::Fork::Child => {
            let entered = group.folders.iter().try_for_each(|folder| (&folder.processes).write_all(b"0"));
            sys::exit_now(entered.map_or_else(|e| e.raw_os_error().unwrap_or(libc::EIO), |()| 0));
        }
        sys::Fork::Parent(pid) => match sys::wait(pid, true)? {
            Some((_, 0)) => Ok(()),
            Some((_, code)) => {
                let path = group.folders.first().map_or(Path::new("/"), |folder| folder.group.path());
                Err(refused(path, io::Error::from_raw_os_error(code)))
            }
            None => Err(Error::internal("a process of the sandbox got lost")),
        },
    }
}

/// The controllers whose limits steps can have here, and why they cannot have those of the others.
pub(super) fn usable() -> (Vec<&'static str>, Vec<String>) {
    let (mut names, mut reasons) = (Vec::new(), Vec::new());
    for (controller, limits) in [
        (Controller::Memory, GroupLimits { memory: Some(64 << 20), ..GroupLimits::default() }),
        (Controller::Cpu, GroupLimits { millicpus: Some(1000), ..GroupLimits::default() }),
        (Controller::Cpuset, GroupLimits { cpuset_mems: Some("0".to_owned()), ..GroupLimits::default() }),
        (Controller::Pids, GroupLimits { pids: Some(1000), ..GroupLimits::default() }),
    ] {
        match check(&limits) {
            Ok(()) => names.push(controller.name()),
            Err(error) => reasons.push(error.message().to_owned()),
        }
    }
    (names, reasons)
}

#[cfg(test)]
mod tests;
