//! A base image of this machine's own tools, without a download.
//!
//! ```text
//!   static busybox found:  /bin/busybox and links to it
//!   else:                  /bin/TOOL copied, /lib/hyper/*.so, the dynamic linker at the path that the tools name,
//!                          and LD_LIBRARY_PATH=/lib/hyper in the image's environment
//! ```
//! The layer is a sorted, uncompressed tar with owner 0 and time 0, so equal tools give an equal image.

use crate::elf::{self, Elf};
use hyper_sdk::oci::{Descriptor, ImageConfig, ImageIndex, ImageManifest};
use hyper_sdk::platform::Platform;
use hyper_sdk::{Digest, Error, ErrorKind, Result, media_type};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the libraries go in the image.
const LIBRARIES: &str = "lib/hyper";

/// What the base image was made of.
#[derive(Debug)]
pub(crate) struct HostImage {
    /// Its manifest.
    pub(crate) digest: Digest,
    /// One line for people.
    pub(crate) made_of: String,
    /// The size of its layer in bytes.
    pub(crate) size: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Node {
    Folder(u32),
    File(Vec<u8>, u32),
    Link(String),
}

/// Makes an OCI layout with one image, tagged `latest`, that has `sh` and these tools.
///
/// # Errors
/// [`ErrorKind::NotFound`] when a tool or a library is missing on this machine.
pub(crate) fn write_layout(layout: &Path, tools: &[&str]) -> Result<HostImage> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/bin", "/usr/bin", "/sbin", "/usr/sbin"].map(PathBuf::from));
    let (tree, environment, made_of) = assemble(&folders, tools)?;
    write_image(layout, &tree, environment, made_of)
}

fn assemble(folders: &[PathBuf], tools: &[&str]) -> Result<(BTreeMap<String, Node>, Vec<String>, String)> {
    let mut tree = BTreeMap::new();
    for (name, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("lib", 0o755),
        ("root", 0o700),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("var", 0o755),
    ] {
        tree.insert(name.to_owned(), Node::Folder(mode));
    }
    tree.insert(
        "etc/passwd".into(),
        Node::File(b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n".to_vec(), 0o644),
    );
    tree.insert("etc/group".into(), Node::File(b"root:x:0:\nnogroup:x:65534:\n".to_vec(), 0o644));
    let mut environment = vec!["PATH=/bin".to_owned()];

    if let Some((path, bytes)) = static_busybox(folders) {
        tree.insert("bin/busybox".into(), Node::File(bytes, 0o755));
        for tool in ["sh"].iter().chain(tools) {
            tree.insert(format!("bin/{tool}"), Node::Link("busybox".into()));
        }
        return Ok((tree, environment, format!("the static {}", path.display())));
    }

    let mut programs: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut libraries = Libraries::new();
    for tool in ["sh"].iter().chain(tools) {
        let found = find(folders, tool).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "this machine has no such tool for the base image: install it, or a static busybox",
            )
            .with_context("tool", tool)
        })?;
        let real =
            std::fs::canonicalize(&found).map_err(|e| Error::io("cannot resolve the tool", &found, e))?;
        let name = format!("bin/{tool}");
        // Programs of many names, such as busybox and uutils, are kept once.
        if let Some(first) = programs.get(&real) {
            tree.insert(name, Node::Link(first.clone()));
            continue;
        }
        let bytes = read(&real)?;
        let elf = elf::parse(&bytes).ok_or_else(|| {
            Error::unsupported("this tool is no 64-bit little-endian ELF program, so it cannot be copied")
                .with_context("path", real.display())
        })?;
        libraries.add(&elf, &real)?;
        programs.insert(real, (*tool).to_owned());
        tree.insert(name, Node::File(bytes, 0o755));
    }
    if !libraries.files.is_empty() {
        environment.push(format!("LD_LIBRARY_PATH=/{LIBRARIES}"));
    }
    let made_of = format!("{} tools of this machine and {} libraries", programs.len(), libraries.files.len());
    for (name, bytes) in libraries.files {
        insert_with_parents(&mut tree, &format!("{LIBRARIES}/{name}"), Node::File(bytes, 0o755));
    }
    for (path, bytes) in libraries.interpreters {
        insert_with_parents(&mut tree, path.trim_start_matches('/'), Node::File(bytes, 0o755));
    }
    Ok((tree, environment, made_of))
}

fn insert_with_parents(tree: &mut BTreeMap<String, Node>, path: &str, node: Node) {
    for (at, _) in path.match_indices('/') {
        tree.entry(path[..at].to_owned()).or_insert(Node::Folder(0o755));
    }
    tree.insert(path.to_owned(), node);
}

fn static_busybox(folders: &[PathBuf]) -> Option<(PathBuf, Vec<u8>)> {
    let candidates = ["busybox", "busybox.static", "busybox-static"];
    candidates.iter().filter_map(|name| find(folders, name)).find_map(|path| {
        let bytes = read(&path).ok()?;
        let elf = elf::parse(&bytes)?;
        (elf.interpreter.is_none() && elf.needed.is_empty()).then_some((path, bytes))
    })
}

fn find(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    folders.iter().filter(|f| f.is_absolute()).map(|f| f.join(name)).find(|p| p.is_file())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io("cannot read a tool of this machine", path, e))
}

/// The libraries that the tools need, found as the dynamic linker would find them.
struct Libraries {
    folders: Vec<PathBuf>,
    files: BTreeMap<String, Vec<u8>>,
    interpreters: BTreeMap<String, Vec<u8>>,
}

impl Libraries {
    fn new() -> Self {
        let mut folders: Vec<PathBuf> = std::env::var_os("LD_LIBRARY_PATH")
            .map(|p| std::env::split_paths(&p).collect())
            .unwrap_or_default();
        read_linker_config(Path::new("/etc/ld.so.conf"), &mut folders, 0);
        for name in std::fs::read_dir("/etc").into_iter().flatten().flatten() {
            let file = name.file_name();
            if file.to_string_lossy().starts_with("ld-musl-") {
                let text = std::fs::read_to_string(name.path()).unwrap_or_default();
                folders.extend(text.split([':', '\n']).filter(|l| !l.is_empty()).map(PathBuf::from));
            }
        }
        for base in ["/lib", "/usr/lib"] {
            let multiarch = format!("{base}/{}-linux-gnu", std::env::consts::ARCH);
            folders.extend([multiarch, format!("{base}64"), base.to_owned()].map(PathBuf::from));
        }
        folders.push("/usr/local/lib".into());
        Self { folders, files: BTreeMap::new(), interpreters: BTreeMap::new() }
    }

    /// Adds what a program or library needs, and what that needs.
    fn add(&mut self, elf: &Elf, path: &Path) -> Result<()> {
        if let Some(interpreter) = &elf.interpreter
            && !self.interpreters.contains_key(interpreter)
        {
            let bytes = read(Path::new(interpreter))?;
            self.interpreters.insert(interpreter.clone(), bytes);
        }
        let origin = path.parent().unwrap_or(Path::new("/")).display().to_string();
        let own: Vec<PathBuf> = elf
            .search
            .iter()
            .map(|s| PathBuf::from(s.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin)))
            .collect();
        for name in &elf.needed {
            if self.files.contains_key(name) || name.contains('/') {
                continue;
            }
            let fits = |p: &PathBuf| std::fs::read(p).ok().and_then(|b| Some((elf::parse(&b)?, b)));
            let candidates: Vec<PathBuf> = own.iter().chain(&self.folders).map(|f| f.join(name)).collect();
            let (found, (needs, bytes)) =
                candidates.into_iter().find_map(|p| fits(&p).map(|f| (p, f))).ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, "a library of a tool is not found on this machine")
                        .with_context("library", name)
                        .with_context("tool", path.display())
                })?;
            self.files.insert(name.clone(), bytes);
            let real = std::fs::canonicalize(&found).unwrap_or(found);
            self.add(&needs, &real)?;
        }
        Ok(())
    }
}

/// Reads the folders of `/etc/ld.so.conf` and of the files that it includes.
fn read_linker_config(file: &Path, folders: &mut Vec<PathBuf>, depth: usize) {
    let Ok(text) = std::fs::read_to_string(file) else { return };
    for line in text.lines().map(|l| l.split('#').next().unwrap_or_default().trim()) {
        if let Some(pattern) = line.strip_prefix("include ") {
            let pattern = Path::new(pattern.trim());
            let (Some(parent), true) = (pattern.parent(), depth < 4) else { continue };
            let mut included: Vec<PathBuf> = std::fs::read_dir(parent)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
                .filter(|p| p.extension().is_some_and(|e| e == "conf"))
                .collect();
            included.sort();
            for file in included {
                read_linker_config(&file, folders, depth + 1);
            }
        } else if line.starts_with('/') {
            folders.push(line.into());
        }
    }
}

fn write_image(
    layout: &Path,
    tree: &BTreeMap<String, Node>,
    environment: Vec<String>,
    made_of: String,
) -> Result<HostImage> {
    let layer = tar_of(tree).map_err(|e| Error::io("cannot write the layer", layout, e))?;
    let mut config = ImageConfig::empty(&Platform::host());
    config.created = Some(hyper_sdk::clock::rfc3339(0));
    config.config.env = environment;
    config.config.cmd = Some(vec!["sh".into()]);
    config.rootfs.diff_ids = vec![Digest::sha256(&layer)];

    let size = layer.len() as u64;
    let layer = put(layout, media_type::OCI_LAYER, &layer)?;
    let config = put(layout, media_type::OCI_CONFIG, &config.to_bytes())?;
    let manifest = ImageManifest::new(config, vec![layer]);
    let mut manifest = put(layout, media_type::OCI_MANIFEST, &manifest.to_bytes())?;
    let digest = manifest.digest.clone();
    manifest.annotations.insert("org.opencontainers.image.ref.name".into(), "latest".into());
    let write = |name: &str, bytes: &[u8]| {
        let path = layout.join(name);
        std::fs::write(&path, bytes).map_err(|e| Error::io("cannot write the image layout", path, e))
    };
    write("index.json", &ImageIndex::new(vec![manifest]).to_bytes())?;
    write("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(HostImage { digest, made_of, size })
}

fn put(layout: &Path, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
    let descriptor = Descriptor::of(media_type, bytes);
    let folder = layout.join("blobs/sha256");
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("cannot make the image layout", &folder, e))?;
    let path = folder.join(descriptor.digest.hex());
    std::fs::write(&path, bytes).map_err(|e| Error::io("cannot write the image layout", &path, e))?;
    Ok(descriptor)
}

fn tar_of(tree: &BTreeMap<String, Node>) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, node) in tree {
        let mut header = tar::Header::new_ustar();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        match node {
            Node::Folder(mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                archive.append_data(&mut header, format!("{path}/"), std::io::empty())?;
            }
            Node::File(bytes, mode) => {
                header.set_mode(*mode);
                header.set_size(bytes.len() as u64);
                archive.append_data(&mut header, path, bytes.as_slice())?;
            }
            Node::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                archive.append_link(&mut header, path, target)?;
            }
        }
    }
    archive.into_inner()
}

/// Every digest of a layout's blobs that does not match its content.
#[cfg(test)]
fn damaged(layout: &Path) -> Vec<String> {
    let folder = layout.join("blobs/sha256");
    std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter(|e| Digest::sha256(std::fs::read(e.path()).unwrap()).hex() != e.file_name().to_str().unwrap())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_folders() -> Vec<PathBuf> {
        ["/bin", "/usr/bin"].map(PathBuf::from).to_vec()
    }

    #[test]
    fn the_layout_is_whole_and_repeats() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = write_layout(a.path(), &["sort", "cat"]).unwrap();
        let second = write_layout(b.path(), &["sort", "cat"]).unwrap();
        assert_eq!(first.digest, second.digest);
        assert!(damaged(a.path()).is_empty());
        assert!(a.path().join("index.json").exists());
    }

    #[test]
    fn dynamic_tools_bring_their_linker_and_libraries() {
        // A folder without busybox, so that the tools themselves are taken.
        let folder = tempfile::tempdir().unwrap();
        for tool in ["sh", "sort"] {
            let real = find(&host_folders(), tool).unwrap();
            std::os::unix::fs::symlink(std::fs::canonicalize(real).unwrap(), folder.path().join(tool))
                .unwrap();
        }
        let (tree, environment, _) = assemble(&[folder.path().to_owned()], &["sort"]).unwrap();
        let Node::File(bytes, 0o755) = &tree["bin/sh"] else { panic!("sh is no file") };
        let elf = elf::parse(bytes).unwrap();
        if let Some(interpreter) = &elf.interpreter {
            assert!(tree.contains_key(interpreter.trim_start_matches('/')));
            assert!(elf.needed.iter().all(|n| tree.contains_key(&format!("{LIBRARIES}/{n}"))), "{elf:?}");
            assert!(environment.iter().any(|e| e.starts_with("LD_LIBRARY_PATH=")));
        }
        for path in tree.keys().filter(|p| p.contains('/')) {
            let parent = path.rsplit_once('/').unwrap().0;
            assert!(matches!(tree.get(parent), Some(Node::Folder(_))), "{path}");
        }
    }

    #[test]
    fn a_missing_tool_is_named() {
        let empty = tempfile::tempdir().unwrap();
        let e = assemble(&[empty.path().to_owned()], &[]).unwrap_err();
        assert_eq!((e.kind(), e.context_value("tool")), (ErrorKind::NotFound, Some("sh")));
    }
}
