//! How much of the disk a folder takes, and each of its parts.
//!
//! Blocks are counted, not lengths: sparse files take less, small ones more. A file with several names counts once.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What [`disk_usage`] found, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct DiskUsage {
    /// All of the folder.
    pub(crate) total: u64,
    /// Each part without the parts in it, in the order in which they were named.
    pub(crate) parts: Vec<u64>,
    /// How many folders this user may not read.
    pub(crate) unread: u64,
}

/// Counts a folder and its parts, which are files and folders in it. What is removed meanwhile does not count.
pub(crate) fn disk_usage(root: &Path, parts: &[PathBuf]) -> DiskUsage {
    let numbers: HashMap<&Path, usize> = parts.iter().enumerate().map(|(i, p)| (p.as_path(), i)).collect();
    let mut usage = DiskUsage { parts: vec![0; parts.len()], ..DiskUsage::default() };
    let mut linked: HashSet<(u64, u64)> = HashSet::new();
    let Ok(top) = std::fs::symlink_metadata(root) else { return usage };
    let mut open = vec![(root.to_owned(), None::<usize>)];
    usage.total += top.blocks() * 512;
    while let Some((folder, part)) = open.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) => {
                usage.unread += u64::from(e.kind() == std::io::ErrorKind::PermissionDenied);
                continue;
            }
        };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            // What is mounted there is another disk.
            if meta.dev() != top.dev() {
                continue;
            }
            let path = entry.path();
            let part = numbers.get(path.as_path()).copied().or(part);
            if meta.is_dir() {
                open.push((path, part));
            } else if meta.nlink() > 1 && !linked.insert((meta.dev(), meta.ino())) {
                continue;
            }
            let bytes = meta.blocks() * 512;
            usage.total += bytes;
            if let Some(part) = part {
                usage.parts[part] += bytes;
            }
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_count_once_and_belong_to_the_innermost_part() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/one"), vec![1; 100_000]).unwrap();
        std::fs::write(at("a/b/two"), vec![1; 50_000]).unwrap();
        std::fs::write(at("three"), vec![1; 30_000]).unwrap();
        std::fs::hard_link(at("three"), at("a/four")).unwrap();
        std::fs::File::create(at("sparse")).unwrap().set_len(1 << 30).unwrap();
        let usage = disk_usage(root.path(), &[at("a"), at("a/b"), at("none"), at("sparse")]);
        let [a, b, none, sparse] = usage.parts[..] else { panic!() };
        assert!((50_000..70_000).contains(&b), "{usage:?}");
        assert!((100_000..150_000).contains(&a), "{usage:?}");
        assert!(none == 0 && sparse < 1 << 20, "{usage:?}");
        assert!((180_000..230_000).contains(&usage.total), "{usage:?}");
        let du = std::process::Command::new("du").args(["-s", "-B1"]).arg(root.path()).output().unwrap();
        let du = String::from_utf8(du.stdout).unwrap();
        let du: u64 = du.split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(usage.total, du);
    }
}
