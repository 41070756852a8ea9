//! `mode=delete`: an output removes what it did not write from its folder. This checks that nothing of value is there.

use super::{BuildContext, BuildRequest, NamedContext, OutputKind};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Rejects an output that would remove an input of the build, the state folder, or another output.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] that names the folder and what is in it.
pub(super) fn check(request: &BuildRequest, root: &Path) -> Result<()> {
    for (at, output) in request.outputs.iter().enumerate() {
        let OutputKind::Local(folder) = &output.kind else { continue };
        if !output.files.delete {
            continue;
        }
        if resolve(folder).parent().is_none() {
            return Err(refusal(folder, "is the root of the file system"));
        }
        let others = request.outputs.iter().enumerate().filter(|(other, _)| *other != at);
        let others = others.filter_map(|(_, other)| Some(("another output", other.destination()?)));
        let kept = inputs(request).into_iter().chain([("the state folder", root)]).chain(others);
        for (what, path) in kept {
            if holds(folder, path) {
                return Err(refusal(folder, &format!("holds {what} ({})", path.display())));
            }
        }
    }
    Ok(())
}

/// Whether `path` is the folder `folder`, or in it.
pub(super) fn holds(folder: &Path, path: &Path) -> bool {
    resolve(path).starts_with(resolve(folder))
}

/// The error of a folder that must not be emptied.
pub(super) fn refusal(folder: &Path, why: &str) -> Error {
    Error::invalid(format!(
        "`mode=delete` would empty {}, which {why}: name a folder that has nothing else in it",
        folder.display()
    ))
}

/// The files and folders of this machine that a build reads.
fn inputs(request: &BuildRequest) -> Vec<(&'static str, &Path)> {
    let mut inputs = Vec::new();
    if let BuildContext::Folder(folder) = &request.context {
        inputs.push(("the build context", folder.as_path()));
    }
    inputs.extend(request.dockerfile_path.as_deref().map(|path| ("the Dockerfile", path)));
    for context in request.named_contexts.values() {
        if let NamedContext::Folder(path) | NamedContext::OciLayout { path, .. } = context {
            inputs.push(("a build context", path));
        }
    }
    inputs
}

/// The absolute path, with its links resolved as far as the path exists.
fn resolve(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    match there {
        Some((above, found)) => match path.strip_prefix(above) {
            Ok(rest) if !rest.as_os_str().is_empty() => found.join(rest),
            _ => found,
        },
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Output;

    #[test]
    fn delete_mode_rejects_folders_with_inputs_state_or_outputs() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["state", "context/deep", "named", "other", "out"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        std::os::unix::fs::symlink("context", at("link")).unwrap();
        let check = |dest: &Path, more: &str| {
            let mut request = BuildRequest::new("FROM scratch", BuildContext::Folder(at("context/deep")));
            request.named_contexts.insert("a".into(), NamedContext::Folder(at("named")));
            request.dockerfile_path = Some(at("other/Dockerfile"));
            let output = format!("type=local,mode=delete,dest={}", dest.display());
            request.outputs = vec![Output::parse(&output).unwrap()];
            if !more.is_empty() {
                request
                    .outputs
                    .push(Output::parse(&more.replace("AT", folder.path().to_str().unwrap())).unwrap());
            }
            super::check(&request, &at("state"))
        };
        for (dest, more, why) in [
            (Path::new("/"), "", "the root of the file system"),
            (folder.path(), "", "holds the build context"),
            (&at("context"), "", "holds the build context"),
            (&at("context/deep"), "", "holds the build context"),
            (&at("link"), "", "holds the build context"),
            (&at("link/deep/../deep"), "", "holds the build context"),
            (&at("named"), "", "holds a build context"),
            (&at("other"), "", "holds the Dockerfile"),
            (&at("state"), "", "holds the state folder"),
            (&at("out"), "type=oci,dest=AT/out/new/image.tar", "holds another output"),
            (&at("out"), "type=local,dest=AT/out", "holds another output"),
        ] {
            let error = check(dest, more).unwrap_err().to_string();
            assert!(error.contains(why), "{}: {error}", dest.display());
        }
        for (dest, more) in [
            (at("out"), ""),
            (at("new/folder"), ""),
            (at("context/deep/out"), ""),
            (at("out"), "type=oci,dest=AT/outer"),
        ] {
            check(&dest, more).unwrap();
        }
    }
}
