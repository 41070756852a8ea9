//! The tree of a step with everything mounted in it, and the name of its host.

use super::command;
use super::mounts::{Stage, by_target};
use super::spec::ExecSpec;
use crate::sandbox::{Context, sys};
use crate::{Error, Result};
use std::os::fd::OwnedFd;

/// Sets the host name of the step. The filter of a container can refuse that: then the step has that of the container.
pub(super) fn set_host_name(spec: &mut ExecSpec, context: Context) -> Result<()> {
    let hostname = spec.hostname.as_deref().unwrap_or("hyper");
    match sys::set_hostname(hostname) {
        Ok(()) => spec.hostname = Some(hostname.to_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && context.user_namespace => {
            if spec.hostname.is_some() {
                return Err(Error::unsupported(
                    "a step cannot have a host name of its own: the filter of this container refuses it",
                )
                .with_context("detail", format!("host name {hostname}"))
                .with_source(e));
            }
        }
        Err(e) => return Err(Error::from(e).with_context("detail", format!("host name {hostname}"))),
    }
    Ok(())
}

/// Mounts everything. Returns the user and the working folder. `proc` is the `/proc` of the step where that is of another
/// pid namespace than this process.
pub(super) fn prepare(
    stage: &mut Stage,
    spec: &ExecSpec,
    context: Context,
    proc: Option<OwnedFd>,
) -> Result<(crate::layer::ProcessUser, OwnedFd)> {
    let user = command::user_of(stage.root(), spec)?;
    // The working folder is part of the step's result, even when a mount hides it from the step.
    stage.working_folder(&spec.cwd, (user.uid, user.gid))?;
    stage.mount_system(spec, context, proc)?;
    for (target, mount) in by_target(&spec.mounts, &spec.cwd) {
        stage.mount(mount, &target)?;
    }
    // A mount above may have hidden it.
    let cwd = stage.working_folder(&spec.cwd, (0, 0))?;
    Ok((user, cwd))
}
