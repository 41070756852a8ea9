//! The merged view of a chain of layers, as a container would see it, without unpacking.
//!
//! # Invariants
//! - Nodes are in path order, so that everything below a directory is contiguous.
//! - Every node has its parent directories: one without an entry is implied as `root:root 0755` at time 0.
//! - Symlinks are resolved inside the root, as after `chroot`: `..` of the root is the root.

use super::entry::{Entry, EntryKind, LayerPath};
use super::index::LayerIndex;
use crate::digest::Hasher;
use crate::{Digest, Error, ErrorKind, Result};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

/// How many symlinks a lookup may follow, as in Linux.
const MAX_LINKS: usize = 40;

/// The merged file system of a chain of layers.
#[derive(Clone, Debug, Default)]
pub(crate) struct TreeIndex {
    layers: Vec<Arc<LayerIndex>>,
    implied: Vec<Entry>,
    nodes: Vec<Place>,
}

/// The position of an entry: in a layer or, if `layer` is [`IMPLIED`], among the implied directories.
#[derive(Clone, Copy, Debug)]
struct Place {
    layer: u32,
    entry: u32,
}

const IMPLIED: u32 = u32::MAX;

/// An entry of the merged view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    /// The entry in its layer.
    pub entry: &'a Entry,
    /// The number of its layer, from the lowest; `None` for an implied directory.
    pub layer: Option<usize>,
}

impl TreeIndex {
    /// Merges layers, lowest first.
    pub(crate) fn new(layers: Vec<Arc<LayerIndex>>) -> Self {
        let mut tree = Self { layers: Vec::new(), implied: Vec::new(), nodes: Vec::new() };
        for layer in layers {
            tree.push(layer);
        }
        tree
    }

    /// Adds a layer on top.
    pub(crate) fn push(&mut self, layer: Arc<LayerIndex>) {
        let number = self.layers.len() as u32;
        self.layers.push(layer);
        let upper = Arc::clone(&self.layers[number as usize]);
        let lower = std::mem::take(&mut self.nodes);
        let mut nodes: Vec<Place> = Vec::with_capacity(lower.len() + upper.len());
        let mut next_lower = 0;
        let mut last_parent: Option<&[u8]> = None;
        let entries = upper.entries();
        let mut at = 0;
        while at < entries.len() {
            let path = &entries[at].path;
            let count = entries[at..].iter().take_while(|e| e.path == *path).count();
            let here = &entries[at..at + count];
            let real = here.iter().position(|e| !e.kind.is_whiteout());
            let whiteout = here.iter().any(|e| e.kind == EntryKind::Whiteout);
            let opaque = here.iter().any(|e| e.kind == EntryKind::OpaqueWhiteout);
            while next_lower < lower.len() && self.entry(lower[next_lower]).path < *path {
                nodes.push(lower[next_lower]);
                next_lower += 1;
            }
            let covers = lower.get(next_lower).is_some_and(|p| self.entry(*p).path == *path);
            let hides_below =
                whiteout || opaque || real.is_some_and(|r| !matches!(here[r].kind, EntryKind::Directory));
            if let Some(real) = real {
                // In this order no later entry of the layer changes a parent that was checked.
                let parent = &path.as_bytes()[..path.as_bytes().len() - path.file_name().len()];
                if last_parent != Some(parent) {
                    self.imply_parents(path, &mut nodes);
                    last_parent = Some(parent);
                }
                nodes.push(Place { layer: number, entry: (at + real) as u32 });
                next_lower += usize::from(covers);
            } else if covers && !whiteout {
                nodes.push(lower[next_lower]);
                next_lower += 1;
            }
            if hides_below {
                let start = &lower[next_lower..];
                next_lower += start.iter().take_while(|p| self.entry(**p).path.starts_with(path)).count();
            }
            at += count;
        }
        nodes.extend_from_slice(&lower[next_lower..]);
        self.nodes = nodes;
    }

    /// Adds the parents of `path` that are missing or not directories. Every lower node before `path` is in `nodes`
    /// already; a replaced node has nothing below it.
    fn imply_parents(&mut self, path: &LayerPath, nodes: &mut Vec<Place>) {
        for parent in path.ancestors() {
            let found = nodes.binary_search_by(|p| self.entry(*p).path.cmp(&parent));
            if let Ok(at) = found
                && self.entry(nodes[at]).is_directory()
            {
                continue;
            }
            let implied = Place { layer: IMPLIED, entry: self.implied.len() as u32 };
            self.implied.push(Entry::directory(parent, 0o755));
            match found {
                Ok(at) => nodes[at] = implied,
                Err(at) => nodes.insert(at, implied),
            }
        }
    }

    fn entry(&self, place: Place) -> &Entry {
        match place.layer {
            IMPLIED => &self.implied[place.entry as usize],
            layer => &self.layers[layer as usize].entries()[place.entry as usize],
        }
    }

    fn node(&self, place: Place) -> Node<'_> {
        let layer = (place.layer != IMPLIED).then_some(place.layer as usize);
        Node { entry: self.entry(place), layer }
    }

    /// Every node, in path order.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        self.nodes.iter().map(|p| self.node(*p))
    }

    /// The node at the path; symlinks are not followed. The root is found only if a layer has an entry for it.
    pub(crate) fn lookup(&self, path: &LayerPath) -> Option<Node<'_>> {
        let at = self.nodes.binary_search_by(|p| self.entry(*p).path.cmp(path)).ok()?;
        Some(self.node(self.nodes[at]))
    }

    /// The node at `path` and everything below it, in path order; symlinks are not followed.
    pub(crate) fn subtree<'a>(&'a self, path: &LayerPath) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let start = self.nodes.partition_point(|p| self.entry(*p).path < *path);
        let rest = &self.nodes[start..];
        let count = rest.partition_point(|p| self.entry(*p).path.starts_with(path));
        rest[..count].iter().map(|p| self.node(*p))
    }

    /// Resolves a path as a user writes it: absolute or relative to the root, with `.`, `..` and symlinks resolved
    /// inside the root. A symlink as the last part is followed only with `follow_last`.
    ///
    /// The parts from the first missing one are kept as written, so that the path can be created.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for more than 40 symlinks, for a part below something that is not a directory, and for a
    /// path that is not a [`LayerPath`].
    pub(crate) fn resolve(&self, path: &[u8], follow_last: bool) -> Result<LayerPath> {
        let fail =
            |why: &str| Err(Error::invalid(why.to_owned()).with_context("path", super::entry::escape(path)));
        let split = |text: &[u8]| -> Vec<Vec<u8>> {
            text.split(|&b| b == b'/').filter(|p| !p.is_empty() && *p != b".").map(<[u8]>::to_vec).collect()
        };
        let mut todo: VecDeque<Vec<u8>> = split(path).into();
        let mut done = LayerPath::root();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == b".." {
                done = done.parent().unwrap_or_default();
                continue;
            }
            let here = done.join(&part)?;
            match self.lookup(&here).map(|n| &n.entry.kind) {
                Some(EntryKind::Symlink { target }) if follow_last || !todo.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return fail("the path leads through too many symlinks");
                    }
                    if target.starts_with(b"/") {
                        done = LayerPath::root();
                    }
                    for part in split(target).into_iter().rev() {
                        todo.push_front(part);
                    }
                }
                None | Some(EntryKind::Directory) => done = here,
                Some(_) if todo.is_empty() => done = here,
                Some(_) => return fail("a part of the path is not a directory"),
            }
        }
        Ok(done)
    }

    /// The regular file of a node: the node itself or the target of its hardlink, with the layer that has its content.
    ///
    /// A hardlink is resolved as of its own layer, since an upper layer may have replaced or removed the first name.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for a dangling or circular hardlink.
    pub(crate) fn link_target<'a>(&'a self, node: Node<'a>) -> Result<Node<'a>> {
        let mut node = node;
        for _ in 0..MAX_LINKS {
            let EntryKind::Hardlink { target } = &node.entry.kind else { return Ok(node) };
            let mut found = None;
            for layer in (0..=node.layer.unwrap_or(0)).rev() {
                let Some(index) = self.layers.get(layer) else { break };
                if let Some(entry) = index.get(target) {
                    found = Some(Node { entry, layer: Some(layer) });
                    break;
                }
                if index.hides(target) {
                    break;
                }
            }
            node = found.ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, "a hardlink of the layer leads nowhere")
                    .with_context("hardlink", &node.entry.path)
                    .with_context("target", target)
            })?;
        }
        Err(Error::new(ErrorKind::Corrupt, "hardlinks of the layer lead in a circle")
            .with_context("path", &node.entry.path))
    }

    /// The digest of the nodes at some paths with everything below: type, mode, owner, size, link target, extended
    /// attributes and data. Times, the paths themselves and the layers of the nodes are not included.
    ///
    /// A hardlink is hashed as its file. A cache key must include the names of the paths if they matter.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when a path does not exist, [`ErrorKind::Internal`] when an index lacks a digest.
    pub(crate) fn content_digest(&self, paths: &[LayerPath]) -> Result<Digest> {
        let mut hasher = Hasher::sha256();
        hasher.update_field(b"tree-content-1");
        for path in paths {
            if !path.is_root() && self.lookup(path).is_none() {
                return Err(Error::new(ErrorKind::NotFound, "the path does not exist in the image")
                    .with_context("path", path));
            }
            hasher.update_field(b"path");
            for node in self.subtree(path) {
                hash_entry(
                    &mut hasher,
                    node.entry.path.relative_to(path).unwrap_or_default(),
                    self.link_target(node)?.entry,
                )?;
            }
        }
        Ok(hasher.finish())
    }
}

/// Adds an entry with this name to a digest of content.
pub(crate) fn hash_entry(hasher: &mut Hasher, name: &[u8], entry: &Entry) -> Result<()> {
    hasher.update_field(b"entry");
    hasher.update_field(name);
    hasher.update_field(entry.kind.name());
    for number in [entry.mode, entry.uid, entry.gid] {
        hasher.update(number.to_le_bytes());
    }
    match &entry.kind {
        EntryKind::File { size, digest } => {
            hasher.update(size.to_le_bytes());
            let digest = digest.as_ref().ok_or_else(|| {
                Error::internal("a file of the layer index has no digest").with_context("path", &entry.path)
            })?;
            hasher.update_field(digest.as_str());
        }
        EntryKind::Symlink { target } => hasher.update_field(target),
        EntryKind::Hardlink { target } => hasher.update_field(target.as_bytes()),
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
            hasher.update(major.to_le_bytes());
            hasher.update(minor.to_le_bytes());
        }
        EntryKind::Directory | EntryKind::Fifo | EntryKind::Whiteout | EntryKind::OpaqueWhiteout => {}
    }
    hasher.update((entry.xattrs.len() as u64).to_le_bytes());
    for (name, value) in &entry.xattrs {
        hasher.update_field(name);
        hasher.update_field(value);
    }
    Ok(())
}

impl PartialEq for Node<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.entry.layer_order(other.entry) == Ordering::Equal
            && self.entry == other.entry
            && self.layer == other.layer
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::tests::{dir, file, index, path, symlink};
    use super::*;

    fn tree(layers: Vec<Vec<Entry>>) -> TreeIndex {
        TreeIndex::new(layers.into_iter().map(|l| Arc::new(index(l))).collect())
    }

    fn names<'a>(nodes: impl Iterator<Item = Node<'a>>) -> Vec<String> {
        nodes.map(|n| n.entry.path.to_string()).collect()
    }

    fn hardlink(text: &str, target: &str) -> Entry {
        Entry::new(path(text), EntryKind::Hardlink { target: path(target) }, 0o644)
    }

    #[test]
    fn upper_layers_replace_hide_and_imply_entries() {
        let mut changed = dir("a");
        changed.mode = 0o700;
        let t = tree(vec![
            vec![
                dir("a"),
                file("a/x", "1"),
                dir("b"),
                file("b/y", "2"),
                file("c", "3"),
                dir("d"),
                file("d/z", "4"),
            ],
            vec![
                changed,
                Entry::whiteout(path("c")),
                Entry::new(path("b"), EntryKind::OpaqueWhiteout, 0),
                file("d", "5"),
                file("e/f/g", "6"),
            ],
        ]);
        assert_eq!(names(t.nodes()), ["a", "a/x", "b", "d", "e", "e/f", "e/f/g"]);
        assert_eq!(t.lookup(&path("a")).unwrap().entry.mode, 0o700);
        assert_eq!(t.lookup(&path("a/x")).unwrap().layer, Some(0));
        assert_eq!(t.lookup(&path("e")).unwrap().layer, None);
        assert_eq!(names(t.subtree(&path("e"))), ["e", "e/f", "e/f/g"]);
    }

    #[test]
    fn symlinks_resolve_inside_the_root() {
        let t = tree(vec![vec![
            dir("usr"),
            dir("usr/lib"),
            file("usr/lib/x", "1"),
            symlink("lib", "usr/lib"),
            symlink("abs", "/lib"),
            symlink("up", "../../../../usr"),
            symlink("loop", "loop2"),
            symlink("loop2", "loop"),
            symlink("dangling", "no/where"),
            file("file", "2"),
        ]]);
        for (from, to) in [
            ("/lib/x", "usr/lib/x"),
            ("abs/x", "usr/lib/x"),
            ("up/lib/../lib/x", "usr/lib/x"),
            ("../../usr", "usr"),
            ("lib/new/deep", "usr/lib/new/deep"),
            ("dangling", "no/where"),
            ("./usr//lib/", "usr/lib"),
        ] {
            assert_eq!(t.resolve(from.as_bytes(), true).unwrap(), path(to), "{from}");
        }
        assert!(t.resolve(b"/", true).unwrap().is_root());
        assert_eq!(t.resolve(b"lib", false).unwrap(), path("lib"));
        assert!(t.resolve(b"loop", true).unwrap_err().to_string().contains("too many"));
        assert!(t.resolve(b"file/x", true).unwrap_err().to_string().contains("not a directory"));
    }

    #[test]
    fn a_hardlink_outlives_its_first_name() {
        let t = tree(vec![
            vec![file("a", "content"), hardlink("b", "a")],
            vec![Entry::whiteout(path("a"))],
            vec![hardlink("c", "b"), hardlink("bad", "a")],
        ]);
        let target = |p: &str| t.link_target(t.lookup(&path(p)).unwrap());
        assert_eq!(target("b").unwrap().entry.path, path("a"));
        assert_eq!(target("c").unwrap().layer, Some(0));
        assert!(target("bad").is_err());
    }

    #[test]
    fn content_digests_depend_on_content_only() {
        let digest = |layers: Vec<Vec<Entry>>, at: &str| tree(layers).content_digest(&[path(at)]).unwrap();
        let base = digest(vec![vec![dir("d"), file("d/f", "1"), file("d/g", "1")]], "d");
        let mut late = file("d/f", "1");
        late.mtime = 99;
        let linked = hardlink("d/g", "d/f");
        assert_eq!(digest(vec![vec![dir("d")], vec![late, linked]], "d"), base);
        assert_eq!(digest(vec![vec![dir("e"), file("e/f", "1"), file("e/g", "1")]], "e"), base);
        assert_ne!(digest(vec![vec![dir("d"), file("d/f", "2"), file("d/g", "1")]], "d"), base);
        let mut mode = file("d/f", "1");
        mode.mode = 0o600;
        assert_ne!(digest(vec![vec![dir("d"), mode, file("d/g", "1")]], "d"), base);
        let mut xattr = file("d/f", "1");
        xattr.xattrs.insert(b"user.a".to_vec(), b"b".to_vec());
        assert_ne!(digest(vec![vec![dir("d"), xattr, file("d/g", "1")]], "d"), base);
        let missing = tree(vec![]).content_digest(&[path("x")]).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
}
