//! Gathers what the key of a step is made of. It follows the making of the keys, in `solve/exec.rs` and `solve/files.rs`.

use super::recorder::{RawInput, RawStep};
use super::{Ended, FileLister, InputKind, KeyPart};
use crate::dockerfile::without_passwords;
use crate::graph::{ExecOp, FileAction, FileOp, MountKind, Op, SourceOp, Vertex};
use crate::solve::chain::{Chain, StepResult};
use crate::solve::exec::keyed;
use crate::solve::keys::UsedInput;
use crate::solve::step::SolveContext;
use std::sync::Arc;

/// The fields, one after the other, so that other lists have other bytes.
fn joined<'a>(fields: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend_from_slice(&(field.len() as u64).to_le_bytes());
        bytes.extend_from_slice(field.as_bytes());
    }
    bytes
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    // Plain data with keys that are strings is always JSON.
    serde_json::to_vec(value).unwrap_or_default()
}

impl SolveContext {
    /// A lister for the files of a step, when they are recorded.
    pub(in crate::solve) fn file_lister(
        &self,
        vertex: &Vertex,
        inputs: &[StepResult],
    ) -> Option<Arc<FileLister>> {
        let (Op::File(file), Some(_)) = (&vertex.op, &self.recorder) else { return None };
        let is_of_folder = inputs.iter().any(|input| matches!(input, StepResult::Folder(_)));
        is_of_folder.then(|| Arc::new(FileLister::new(vertex, file)))
    }

    /// Records a step that has ended, if the build is recorded.
    pub(in crate::solve) async fn record(
        &self,
        ended: Ended<'_>,
        base: &Chain,
        files: Option<Arc<FileLister>>,
    ) {
        let Some((recorder, _)) = &self.recorder else { return };
        let vertex = ended.vertex;
        if is_folder_base(vertex) {
            return;
        }
        let mut parts = Vec::new();
        if self.epoch_is_key
            && let Ok(epoch) = self.epoch().await
        {
            parts.push((KeyPart::Epoch, epoch.to_string().into_bytes()));
        }
        let is_linked = match &vertex.op {
            Op::Exec(exec) => {
                self.exec_parts(exec, &mut parts);
                false
            }
            Op::File(file) => {
                self.file_parts(file, &mut parts);
                file.link
            }
            Op::Source(_) => return,
        };
        let mut inputs = Vec::new();
        if !is_linked {
            inputs.extend(self.input(vertex, 0, None, base.key()));
        }
        let mut used: Vec<&UsedInput> = ended.keys.used.iter().collect();
        // The keys have mounts by their targets.
        used.sort_by_key(|used| used.mount);
        inputs.extend(used.iter().filter_map(|used| self.input(vertex, used.input, used.mount, &used.key)));
        recorder.write(RawStep {
            step: ended.task + 1,
            name: without_passwords(&vertex.name),
            keys: ended.keys.digests.clone(),
            is_forced: vertex.no_cache,
            kept: ended.kept,
            failed: ended.failed,
            parts,
            inputs,
            files: files.and_then(|files| files.take()),
        });
    }

    fn exec_parts(&self, exec: &ExecOp, parts: &mut Vec<(KeyPart, Vec<u8>)>) {
        let mounts: Vec<_> = exec.mounts.iter().collect();
        let Op::Exec(keyed) = keyed(exec, &mounts) else { return };
        parts.push((KeyPart::Command, joined(keyed.args.iter().map(String::as_str))));
        for (name, value) in &keyed.env {
            parts.push((KeyPart::Variable(name.clone()), value.clone().into_bytes()));
        }
        parts.push((KeyPart::VariableOrder, joined(keyed.env.iter().map(|(name, _)| name.as_str()))));
        parts.push((KeyPart::WorkingFolder, keyed.cwd.into_bytes()));
        parts.push((KeyPart::User, keyed.user.into_bytes()));
        parts.push((KeyPart::Network, format!("{:?} {:?}", keyed.network, self.network).into_bytes()));
        parts.push((KeyPart::Security, json(&keyed.security)));
        parts.push((KeyPart::HostName, json(&keyed.hostname)));
        parts.push((KeyPart::Secrets, json(&keyed.secret_env)));
        let granted = self.devices_of(exec).unwrap_or_default();
        parts.push((KeyPart::Devices, json(&(&keyed.devices, granted))));
        for (name, address) in &self.extra_hosts {
            parts.push((KeyPart::Host(name.clone()), address.clone().into_bytes()));
        }
        for (at, mount) in keyed.mounts.iter().enumerate() {
            parts.push((KeyPart::Mount(at + 1, kind(&mount.kind).to_owned()), json(mount)));
        }
    }

    fn file_parts(&self, file: &FileOp, parts: &mut Vec<(KeyPart, Vec<u8>)>) {
        let actions = &file.actions;
        let mut of = |part: KeyPart, value: &dyn Fn(&FileAction) -> Option<Vec<u8>>| {
            let values: Vec<_> = actions.iter().filter_map(value).collect();
            if !values.is_empty() {
                parts.push((part, json(&values)));
            }
        };
        of(KeyPart::Sources, &|action| match action {
            FileAction::Copy(copy) => Some(joined(copy.sources.iter().map(String::as_str))),
            _ => None,
        });
        of(KeyPart::Destination, &|action| {
            Some(match action {
                FileAction::Copy(copy) => copy.destination.clone().into_bytes(),
                FileAction::MakeDirectory(make) => make.path.clone().into_bytes(),
                FileAction::MakeFile(make) => make.destination.clone().into_bytes(),
            })
        });
        of(KeyPart::Owner, &|action| {
            Some(json(match action {
                FileAction::Copy(copy) => &copy.chown,
                FileAction::MakeDirectory(make) => &make.owner,
                FileAction::MakeFile(make) => &make.chown,
            }))
        });
        of(KeyPart::Mode, &|action| {
            Some(match action {
                FileAction::Copy(copy) => json(&copy.chmod),
                FileAction::MakeDirectory(make) => json(&make.mode),
                FileAction::MakeFile(make) => json(&make.chmod),
            })
        });
        of(KeyPart::Exclude, &|action| match action {
            FileAction::Copy(copy) => Some(joined(copy.exclude.iter().map(String::as_str))),
            _ => None,
        });
        of(KeyPart::Options, &|action| match action {
            FileAction::Copy(copy) => Some(json(&(file.link, copy.parents, copy.unpack, copy.add))),
            _ => None,
        });
        of(KeyPart::Document, &|action| match action {
            FileAction::MakeFile(make) => Some(joined([make.name.as_str(), make.content.as_str()])),
            _ => None,
        });
        if self.epoch_is_key && !self.copies_as_published {
            parts.push((KeyPart::Times, b"true".to_vec()));
        }
    }

    /// An input with a name that has no value of a variable.
    fn input(&self, vertex: &Vertex, at: usize, mount: Option<usize>, key: &str) -> Option<RawInput> {
        let (_, graph) = self.recorder.as_ref()?;
        let input = graph.vertex(*vertex.inputs.get(at)?);
        let (kind, name, manifest) = match &input.op {
            Op::Source(SourceOp::Image { manifest, .. }) => (InputKind::Image, "", Some(manifest.clone())),
            Op::Source(SourceOp::Scratch) => (InputKind::Image, "", None),
            Op::Source(SourceOp::Folder { .. }) => (InputKind::Context, "", None),
            Op::Source(SourceOp::Web(_) | SourceOp::Git(_)) => (InputKind::Fetched, "", None),
            // The name of a step is its text, but for that of a base which is a folder.
            Op::Exec(_) | Op::File(_) if is_folder_base(input) => (InputKind::Image, "", None),
            Op::Exec(_) | Op::File(_) => (InputKind::Step, input.name.as_str(), None),
        };
        let name = without_passwords(name);
        Some(RawInput { kind, mount, name, key: key.to_owned(), manifest })
    }
}

/// Whether a step copies a folder that is the base of a stage. Its name has the base with the values of variables.
fn is_folder_base(vertex: &Vertex) -> bool {
    vertex.name.starts_with("FROM ")
}

/// The type of a mount, as in the Dockerfile.
fn kind(mount: &MountKind) -> &'static str {
    match mount {
        MountKind::Bind { .. } => "bind",
        MountKind::Cache { .. } => "cache",
        MountKind::Inline { .. } => "script",
        MountKind::Tmpfs { .. } => "tmpfs",
        MountKind::Secret { .. } => "secret",
        MountKind::Ssh { .. } => "ssh",
    }
}
