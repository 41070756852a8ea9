//! The control groups of a step that limit what it uses, together with everything that it starts.
//!
//! Where they are made is in [`place`]. The process in the place of pid 1 enters them before it does anything else, so that a
//! step sees them as the root of its hierarchy. They are removed after the step; what a killed helper leaves is swept by the
//! next one.

mod hierarchy;
mod place;

use super::group_folder::{self, GroupFolder, Turn};
use super::group_limits::{GroupLimits, SwapLimit, numbers};
use crate::sandbox::ReachedLimit;
use crate::sandbox::processes::parent_of;
use crate::{Error, Result};
use hierarchy::{Controller, Hierarchy, Tables, Version};
use place::{Place, World, write};
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

/// The folder of the control group of version 2 that this process is in.
pub(super) fn own_group() -> Option<PathBuf> {
    Tables::read().unified()?.own
}

/// Removes the control groups that killed helpers left behind in those of this process.
pub(super) fn sweep() {
    let tables = Tables::read();
    let found = Controller::ALL.into_iter().filter_map(|one| tables.of(one)).chain(tables.unified());
    let mut seen = Vec::new();
    for own in found.filter_map(|hierarchy| hierarchy.own) {
        if !seen.contains(&own) {
            group_folder::sweep(place::builders_place(&own).unwrap_or(&own));
            seen.push(own);
        }
    }
}

/// Puts the builder back into the group that it was moved out of, at the end of the helper.
pub(super) fn leave() {
    if let Some(own) = own_group() {
        place::leave(&own);
    }
}

/// The hierarchies that limits need, with the controllers.
fn hierarchies(limits: &GroupLimits, tables: &Tables) -> Result<Vec<(Hierarchy, Vec<Controller>)>> {
    let mut all: Vec<(Hierarchy, Vec<Controller>)> = Vec::new();
    for controller in Controller::ALL {
        let needed = controller.needed_by(limits);
        if needed.is_none() && limits.parent.is_none() {
            continue;
        }
        let Some(found) = tables.of(controller) else {
            return Err(cannot(needed.unwrap_or("cgroup-parent"), "no control groups are mounted here"));
        };
        // Version 1 needs both lists of a cpuset before it takes a process.
        let fills = found.version == Version::One && controller == Controller::Cpuset;
        let controllers = (needed.is_some() || fills).then_some(controller);
        match all.iter_mut().find(|(other, _)| *other == found) {
            Some((_, list)) => list.extend(controllers),
            None => all.push((found, controllers.into_iter().collect())),
        }
    }
    Ok(all)
}

fn cannot(limit: &str, why: &str) -> Error {
    Error::unsupported(format!("`{limit}` of steps cannot be set: {why}"))
}

/// The name of the first limit that needs one of these controllers.
fn first_of(controllers: &[Controller], limits: &GroupLimits) -> &'static str {
    controllers.iter().find_map(|one| one.needed_by(limits)).unwrap_or("cgroup-parent")
}

/// Where groups of a hierarchy can be made, as far as one can see without a change.
fn look(hierarchy: &Hierarchy, controllers: &[Controller], limits: &GroupLimits) -> Result<Place> {
    // This process is one of an operation: above it are the helper and the builder.
    let helper = rustix::process::getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
    let builder = helper.and_then(parent_of);
    let world = World {
        may_write: &place::may_write,
        is_handed_over: &place::is_handed_over,
        has_manager: place::has_manager(),
        is_ours: &|pid| place::started_by(builder, pid),
    };
    place::look(hierarchy, limits.parent.as_deref(), controllers, &world)
        .map_err(|why| cannot(first_of(controllers, limits), &why))
}

/// Makes the group of a step, with these controllers.
fn make(hierarchy: &Hierarchy, controllers: Vec<Controller>, limits: &GroupLimits) -> Result<Folder> {
    let failed = |place: &Place, why: String| {
        let text = format!("no control group can be made in {}: {why}", place.path().display());
        cannot(first_of(&controllers, limits), &text)
    };
    let place = look(hierarchy, &controllers, limits)?;
    if let Place::Named(parent) = &place {
        make_parent(&hierarchy.mount, parent).map_err(|e| failed(&place, e.to_string()))?;
    }
    let (place, turn) = match hierarchy.version {
        Version::One => (place, None),
        Version::Two => {
            let turn = Turn::take(place.path()).map_err(|e| failed(&place, e.to_string()))?;
            // Another step may have prepared it in the meantime.
            let place = look(hierarchy, &controllers, limits)?;
            place.prepare(&controllers, &turn).map_err(|why| failed(&place, why))?;
            (place, Some(turn))
        }
    };
    group_folder::sweep(place.path());
    let made = GroupFolder::make(place.path()).and_then(|group| {
        let processes = OpenOptions::new().write(true).open(group.path().join("cgroup.procs"))?;
        Ok((group, processes))
    });
    // From here on the group itself keeps the builder where it is.
    drop(turn);
    let (group, processes) = made.map_err(|e| failed(&place, e.to_string()))?;
    Ok(Folder { group, processes, version: hierarchy.version, controllers })
}

/// Makes a given parent of version 1 and the groups above it that are missing.
fn make_parent(mount: &Path, parent: &Path) -> io::Result<()> {
    let mut above: Vec<&Path> = parent.ancestors().take_while(|at| *at != mount).collect();
    above.reverse();
    for group in above {
        match std::fs::create_dir(group) {
            Err(e) if !group.is_dir() => return Err(e),
            _ => {}
        }
        // A new one has no processors, and its own groups get none: whoever made it may not have come to that, or not know.
        let is_empty = |name: &str| {
            let set = std::fs::read_to_string(group.join(name));
            set.is_ok_and(|set| set.trim().is_empty())
        };
        let is_one = group.join("cpuset.effective_cpus").exists();
        if is_one && (is_empty("cpuset.cpus") || is_empty("cpuset.mems")) {
            let within = group.parent().unwrap_or(group);
            fill_cpuset(group, within, &GroupLimits::default()).map_err(io::Error::other)?;
        }
    }
    Ok(())
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
            None if is_one && here.trim().is_empty() => {
                return Err(Error::unsupported(format!(
                    "a control group of a step can have no processors or memory: those of {} are empty",
                    parent.display()
                )));
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
                false => set("cpu-shares", &self.file("cpu.weight"), weight(shares))?,
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
        if limits.is_empty() {
            return Ok(None);
        }
        limits.validate()?;
        let mut folders = Vec::new();
        for (hierarchy, controllers) in hierarchies(limits, &Tables::read())? {
            let folder = make(&hierarchy, controllers, limits)?;
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

/// The weight of version 2 for shares of version 1: 1 for 2, 100 for 1024, which are the usual ones of both, and 10000 for
/// 262144; as many times as much for twice the shares in each of the two ranges.
fn weight(shares: u64) -> u64 {
    let ratio = shares as f64 / 1024.0;
    let exponent = if shares < 1024 { 100f64.ln() / 512f64.ln() } else { 100f64.ln() / 256f64.ln() };
    ((100.0 * ratio.powf(exponent)).round() as u64).clamp(1, 10_000)
}

fn refused(group: &Path, e: io::Error) -> Error {
    let why = match e.raw_os_error() {
        Some(code) if code == rustix::io::Errno::NOSPC.raw_os_error() => {
            "it has no processors or no memory nodes: set `cpuset.cpus` and `cpuset.mems` of the group above it"
        }
        _ => "this user must also own the group above that of the builder and this one",
    };
    Error::unsupported(format!("the process of a step cannot enter its control group: {why}"))
        .with_context("path", group.display())
        .with_source(e)
}

/// Checks that a step can have these limits, as far as one can see without a change.
///
/// # Errors
/// Those of [`StepGroup::make`].
pub(super) fn check(limits: &GroupLimits) -> Result<()> {
    limits.validate()?;
    for (hierarchy, controllers) in hierarchies(limits, &Tables::read())? {
        look(&hierarchy, &controllers, limits)?;
    }
    Ok(())
}

/// The controllers whose limits steps can have here, and why they cannot have those of the others. Changes nothing.
pub(super) fn usable() -> (Vec<&'static str>, Vec<String>) {
    let (tables, limits) = (Tables::read(), GroupLimits::default());
    let (mut names, mut reasons): (Vec<_>, Vec<String>) = (Vec::new(), Vec::new());
    for controller in Controller::ALL {
        let found = tables
            .of(controller)
            .ok_or_else(|| cannot(controller.name(), "no control groups are mounted here"));
        match found.and_then(|hierarchy| look(&hierarchy, &[controller], &limits)) {
            Ok(_) => names.push(controller.name()),
            Err(error) => {
                let why = error.message().split_once(": ").map_or(error.message(), |(_, why)| why);
                match reasons.iter().any(|other| other.ends_with(why)) {
                    true => {}
                    false => reasons.push(format!("`{}`: {why}", controller.name())),
                }
            }
        }
    }
    (names, reasons)
}

#[cfg(test)]
mod tests;
