//! Random images from a seed, for tests of stores, clients, layers and builders.
//!
//! Their layers have the same content as layers of real images: files of every size, folders, symbolic and hard links,
//! owners, set-user-id and sticky modes, long names and names that are not ASCII, whiteouts and opaque folders. The
//! archives are not compressed and are written by a separate tar writer.

use super::random::Random;
use super::tar::{self, Member};
use crate::oci::{Descriptor, ImageIndex, ImageManifest, Manifest};
use crate::platform::Platform;
use crate::{Digest, media_type};
use bytes::Bytes;
use std::collections::BTreeMap;

/// The size of a random image.
#[derive(Clone, Debug)]
pub struct ImageShape {
    /// The number of layers.
    pub layers: usize,
    /// The largest number of files, folders and links of each layer.
    pub entries: usize,
    /// The size of the largest file, in bytes; most files are much smaller.
    pub largest: usize,
    /// The platform in the config.
    pub platform: Platform,
}

impl Default for ImageShape {
    /// Three layers of at most forty entries, files of up to 300 KB, and the platform of this machine.
    fn default() -> Self {
        Self { layers: 3, entries: 40, largest: 300_000, platform: Platform::host() }
    }
}

/// The content of a path of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestContent {
    /// A file with these bytes. Hard links are files with the same bytes.
    File(Bytes),
    /// A folder.
    Folder,
    /// A symbolic link to this path.
    Link(String),
}

/// A file, folder or link of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestFile {
    /// The content.
    pub content: TestContent,
    /// Its mode, with set-user-id, set-group-id and sticky bits.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The modification time, in seconds since 1970.
    pub mtime: u64,
}

/// The files of a root file system by their paths, without a slash at the front.
pub type TestTree = BTreeMap<String, TestFile>;

/// A layer of a random image.
#[derive(Clone, Debug)]
pub struct RandomLayer {
    /// The uncompressed archive, which is also the blob.
    pub tar: Bytes,
    /// The blob.
    pub descriptor: Descriptor,
    /// The tree after unpacking this layer on the layers below.
    pub tree: TestTree,
}

/// A random image from a seed.
///
/// ```
/// use hyper_sdk::testing::RandomImage;
///
/// let image = RandomImage::new(7);
/// assert_eq!(image.manifest.digest(), RandomImage::new(7).manifest.digest());
/// assert_eq!(image.layers.len(), 3);
/// assert!(!image.tree().is_empty());
/// ```
#[derive(Clone, Debug)]
pub struct RandomImage {
    /// The manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: Bytes,
    /// The layers, lowest first.
    pub layers: Vec<RandomLayer>,
}

impl RandomImage {
    /// The image of a seed, with the default shape.
    pub fn new(seed: u64) -> Self {
        Self::with_shape(seed, &ImageShape::default())
    }

    /// The image of a seed, with a given shape.
    pub fn with_shape(seed: u64, shape: &ImageShape) -> Self {
        let mut random = Random::new(seed);
        let (mut layers, mut tree) = (Vec::new(), TestTree::new());
        for _ in 0..shape.layers {
            let layer = Layer::random(&mut random, shape, tree).finish();
            tree = layer.tree.clone();
            layers.push(layer);
        }
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.descriptor.digest.as_str()).collect();
        let config = serde_json::json!({
            "created": "2001-09-09T01:46:40Z",
            "author": format!("seed {seed}"),
            "architecture": shape.platform.architecture,
            "os": shape.platform.os,
            "variant": shape.platform.variant,
            "config": { "Env": ["PATH=/bin"], "Labels": { "org.example.seed": seed.to_string() } },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": layers.iter().map(|_| serde_json::json!({ "created_by": "random" })).collect::<Vec<_>>(),
        });
        let config = Bytes::from(config.to_string());
        let blobs = layers.iter().map(|layer| layer.descriptor.clone()).collect();
        let manifest = ImageManifest::new(Descriptor::of(media_type::OCI_CONFIG, &config), blobs);
        Self { manifest: sniff(manifest.to_bytes()), config, layers }
    }

    /// The root file system of the image.
    pub fn tree(&self) -> TestTree {
        self.layers.last().map(|layer| layer.tree.clone()).unwrap_or_default()
    }

    /// The blobs of the manifest: the config, then the layers.
    pub fn blobs(&self) -> impl Iterator<Item = (Descriptor, Bytes)> + '_ {
        let config = (Descriptor::of(media_type::OCI_CONFIG, &self.config), self.config.clone());
        let layers = self.layers.iter().map(|layer| (layer.descriptor.clone(), layer.tar.clone()));
        std::iter::once(config).chain(layers)
    }
}

/// An index of random images of several platforms.
#[derive(Clone, Debug)]
pub struct RandomIndex {
    /// The index.
    pub manifest: Manifest,
    /// Its images, in the order of the index.
    pub images: Vec<RandomImage>,
}

impl RandomIndex {
    /// The index of a seed, with a different image for each platform.
    pub fn new(seed: u64, platforms: &[Platform]) -> Self {
        let mut random = Random::new(seed);
        let (mut images, mut entries) = (Vec::new(), Vec::new());
        for platform in platforms {
            let shape = ImageShape { platform: platform.clone(), ..ImageShape::default() };
            let image = RandomImage::with_shape(random.number(), &shape);
            let mut entry = Descriptor::of(media_type::OCI_MANIFEST, image.manifest.bytes());
            entry.platform = Some(platform.clone());
            entries.push(entry);
            images.push(image);
        }
        Self { manifest: sniff(ImageIndex::new(entries).to_bytes()), images }
    }
}

fn sniff(bytes: impl Into<Bytes>) -> Manifest {
    Manifest::sniff(bytes).expect("a manifest that was just made can be read")
}

/// A layer in the making.
struct Layer {
    /// The entry of each path; `None` is a whiteout.
    changes: BTreeMap<String, Option<TestFile>>,
    /// Hard links, by the path of the link.
    hard_links: BTreeMap<String, String>,
    /// The opaque folders of the layer.
    opaque: Vec<String>,
    /// The tree of the layers below.
    tree: TestTree,
}

impl Layer {
    fn random(random: &mut Random, shape: &ImageShape, tree: TestTree) -> Self {
        let mut layer =
            Self { changes: BTreeMap::new(), hard_links: BTreeMap::new(), opaque: Vec::new(), tree };
        layer.remove_some(random);
        let mut folders: Vec<String> = vec![String::new()];
        folders.extend(layer.tree.iter().filter(|(_, file)| is_folder(file)).map(|(path, _)| path.clone()));
        folders.retain(|folder| !layer.is_removed(folder));
        let mut files = Vec::new();
        for _ in 0..1 + random.below(shape.entries) {
            let Some(folder) = random.pick(&folders).cloned() else { continue };
            let name = name(random);
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            // An existing path is mostly replaced by the same kind of entry, as packages do.
            let is_taken = layer.changes.contains_key(&path) || layer.tree.contains_key(&path);
            if is_taken || path.len() > 1000 {
                continue;
            }
            match random.below(10) {
                0..=2 => folders.push(path.clone()),
                3 => {
                    let target = target(random, &files);
                    layer.add(random, path, TestContent::Link(target));
                    continue;
                }
                4 if !files.is_empty() => {
                    let of: &String = random.pick(&files).expect("there are some");
                    layer.hard_links.insert(path, of.clone());
                    continue;
                }
                _ => {
                    let size = size(random, shape.largest);
                    let bytes = Bytes::from(random.bytes(size));
                    layer.add(random, path.clone(), TestContent::File(bytes));
                    files.push(path);
                    continue;
                }
            }
            layer.add(random, path, TestContent::Folder);
        }
        layer.replace_some(random, shape);
        layer
    }

    fn add(&mut self, random: &mut Random, path: String, content: TestContent) {
        let mode = match &content {
            TestContent::Folder => *random.pick(&[0o755, 0o700, 0o1777, 0o2775]).unwrap_or(&0o755),
            TestContent::Link(_) => 0o777,
            TestContent::File(_) => {
                *random.pick(&[0o644, 0o755, 0o600, 0o4755, 0o2755, 0o444]).unwrap_or(&0o644)
            }
        };
        let owner = |random: &mut Random| *random.pick(&[0, 0, 0, 1, 1000, 65_534]).unwrap_or(&0);
        let (uid, gid) = (owner(random), owner(random));
        let mtime = 1_000_000_000 + random.below(500_000_000) as u64;
        self.changes.insert(path, Some(TestFile { content, mode, uid, gid, mtime }));
    }

    /// Whether the layer hides a path of the layers below.
    fn is_removed(&self, path: &str) -> bool {
        let is_whiteout = |of: &str| matches!(self.changes.get(of), Some(None));
        parents(path).any(|parent| is_whiteout(parent) || self.opaque.iter().any(|folder| folder == parent))
            || is_whiteout(path)
    }

    fn remove_some(&mut self, random: &mut Random) {
        let paths: Vec<String> = self.tree.keys().cloned().collect();
        for path in paths {
            if self.is_removed(&path) {
                continue;
            }
            let file = self.tree[&path].clone();
            if is_folder(&file) && random.once_in(8) {
                // An opaque folder is written again.
                self.opaque.push(path.clone());
                self.changes.insert(path, Some(file));
            } else if random.once_in(10) {
                self.changes.insert(path, None);
            }
        }
    }

    /// Replaces some of the files of the layers below.
    fn replace_some(&mut self, random: &mut Random, shape: &ImageShape) {
        let files: Vec<String> =
            self.tree.iter().filter(|(_, file)| !is_folder(file)).map(|(path, _)| path.clone()).collect();
        for path in files {
            if random.once_in(6) && !self.is_removed(&path) && !self.changes.contains_key(&path) {
                let size = size(random, shape.largest);
                let bytes = Bytes::from(random.bytes(size));
                self.add(random, path, TestContent::File(bytes));
            }
        }
    }

    fn finish(self) -> RandomLayer {
        let mut tree = self.tree.clone();
        tree.retain(|path, _| !self.is_removed(path));
        let mut tar = Vec::new();
        for (path, change) in &self.changes {
            match change {
                Some(file) => {
                    append(&mut tar, path, file);
                    tree.insert(path.clone(), file.clone());
                    if self.opaque.contains(path) {
                        whiteout(&mut tar, &format!("{path}/.wh..wh..opq"));
                    }
                }
                None => {
                    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
                    let slash = if folder.is_empty() { "" } else { "/" };
                    whiteout(&mut tar, &format!("{folder}{slash}.wh.{name}"));
                }
            }
        }
        for (path, of) in &self.hard_links {
            let Some(Some(file)) = self.changes.get(of) else { continue };
            let member = Member { kind: b'1', link: of.as_bytes(), data: b"", ..member(path, file) };
            tar::append(&mut tar, &member);
            tree.insert(path.clone(), file.clone());
        }
        tar::finish(&mut tar);
        let tar = Bytes::from(tar);
        RandomLayer { descriptor: Descriptor::of(media_type::OCI_LAYER, &tar), tar, tree }
    }
}

fn is_folder(file: &TestFile) -> bool {
    file.content == TestContent::Folder
}

/// The folders above a path, nearest first, without the root.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(path.rsplit_once('/').map(|(parent, _)| parent), |path| {
        path.rsplit_once('/').map(|(parent, _)| parent)
    })
}

fn member<'a>(path: &'a str, file: &'a TestFile) -> Member<'a> {
    let (kind, link, data): (u8, &[u8], &[u8]) = match &file.content {
        TestContent::File(bytes) => (b'0', b"", bytes),
        TestContent::Folder => (b'5', b"", b""),
        TestContent::Link(target) => (b'2', target.as_bytes(), b""),
    };
    let TestFile { mode, uid, gid, mtime, .. } = *file;
    Member { name: path.as_bytes(), kind, mode, uid, gid, mtime, link, data }
}

fn append(tar: &mut Vec<u8>, path: &str, file: &TestFile) {
    tar::append(tar, &member(path, file));
}

fn whiteout(tar: &mut Vec<u8>, path: &str) {
    let file = TestFile { content: TestContent::File(Bytes::new()), mode: 0o644, uid: 0, gid: 0, mtime: 0 };
    append(tar, path, &file);
}

fn name(random: &mut Random) -> String {
    let number = random.below(1000);
    match random.below(8) {
        0 => format!("with blanks {number}"),
        1 => format!("größe-{number}-日本"),
        2 => format!("{}{number}", "long".repeat(30 + random.below(20))),
        3 => format!(".hidden{number}"),
        4 => format!("UPPER{number}.TXT"),
        _ => format!("file{number}"),
    }
}

fn size(random: &mut Random, largest: usize) -> usize {
    match random.below(8) {
        0 => 0,
        1 => 1,
        2 => *random.pick(&[511, 512, 513, 1024]).unwrap_or(&512),
        3 => random.below(largest + 1),
        _ => random.below(2000),
    }
    .min(largest)
}

/// The target of a symbolic link: a file, a missing file, or a path outside of the tree.
fn target(random: &mut Random, files: &[String]) -> String {
    match (random.below(4), random.pick(files)) {
        (0, _) => "/no/such/file".to_owned(),
        (1, _) => "../../../../../../etc/passwd".to_owned(),
        (2, Some(file)) => format!("/{file}"),
        (_, Some(file)) => file.clone(),
        (_, None) => "dangling".to_owned(),
    }
}

impl TestFile {
    /// A line that describes the file: kind, digest of the content, mode, owner and time.
    pub fn summary(&self) -> String {
        let content = match &self.content {
            TestContent::File(bytes) => format!("file {}", Digest::sha256(bytes).short()),
            TestContent::Folder => "folder".to_owned(),
            TestContent::Link(target) => format!("link {target}"),
        };
        format!("{content} {:o} {}:{} {}", self.mode, self.uid, self.gid, self.mtime)
    }
}
