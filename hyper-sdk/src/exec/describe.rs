//! How steps are restricted on this machine, part by part, for people who ask.

use super::{control_group, device_guard, network as build_network};
use crate::sandbox::{Context, Isolation, Rung, sys};

/// What restricts steps here beside their namespaces, and why nothing better does.
pub(super) fn rungs(context: Context) -> Vec<Rung> {
    vec![control_group(context), limits(), system_calls(context), abstract_sockets(context), network(context)]
}

fn control_group(context: Context) -> Rung {
    let part = "control group";
    if context.isolation == Isolation::None {
        return Rung::new(part, "that of the builder").because("steps have no isolation");
    }
    if context.user_namespace {
        let devices = "that of the builder; the kernel opens no device that a step makes";
        return Rung::new(part, devices).because("only root restricts the devices of a control group");
    }
    device_guard::share();
    match device_guard::is_shared() {
        true => Rung::new(part, "one of the steps, which restricts devices"),
        false => Rung::new(part, "that of the builder; mounts of steps are `nodev`")
            .because("no control group of version 2 with a device program can be made"),
    }
}

fn limits() -> Rung {
    let (names, reasons) = control_group::usable();
    let used = match names.as_slice() {
        [] => "those of each process".to_owned(),
        names => format!("those of each process, and of a step together: {}", names.join(", ")),
    };
    reasons.into_iter().fold(Rung::new("limits", used), Rung::because)
}

fn system_calls(context: Context) -> Rung {
    let part = "system calls";
    match context.isolation {
        Isolation::None => Rung::new(part, "those of the builder").because("steps have no isolation"),
        _ => Rung::new(part, "those of Docker's default profile"),
    }
}

fn abstract_sockets(context: Context) -> Rung {
    let part = "abstract sockets";
    if context.isolation == Isolation::None {
        return Rung::new(part, "those of this machine").because("steps have no isolation");
    }
    if sys::can_hide_abstract_sockets() {
        Rung::new(part, "hidden")
    } else {
        Rung::new(part, "those of this machine, on its network")
            .because("the kernel has no Landlock scope for them (Linux 6.12)")
    }
}

fn network(context: Context) -> Rung {
    match context.isolation {
        Isolation::None => Rung::new("network", "host").because("steps have no isolation"),
        _ => {
            let usual = "host without raw and packet sockets, or none with a loopback interface";
            match build_network::usable(context) {
                Ok(tool) => Rung::new("network", format!("{usual}, or one of the build through {tool}")),
                Err(error) => Rung::new("network", usual).because(error.message()),
            }
        }
    }
}
