//! Links between documents: each names a file of the repository and, where it has an anchor, a heading there.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Checks the relative links of every Markdown file.
pub(super) fn check(files: &[(&Path, String)], breaches: &mut Vec<String>) {
    let texts: BTreeMap<&Path, &str> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let is_folder = |folder: &Path| files.iter().any(|(path, _)| path.starts_with(folder));
    for (file, text) in files.iter().filter(|(file, _)| file.extension().is_some_and(|e| e == "md")) {
        let folder = file.parent().unwrap_or(Path::new(""));
        for link in links(text) {
            let (path, anchor) =
                link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
            let target = if path.is_empty() { file.to_path_buf() } else { normal(&folder.join(path)) };
            let name = file.display();
            match (texts.get(target.as_path()), anchor) {
                (Some(target_text), Some(anchor)) if !headings(target_text).any(|h| h == anchor) => {
                    breaches.push(format!("{name}: links to `{link}`, and there is no such heading"));
                }
                (None, _) if !is_folder(&target) => {
                    breaches.push(format!("{name}: links to `{link}`, and there is no such file"));
                }
                _ => {}
            }
        }
    }
}

/// The targets of `[text](target)` that lie in the repository. What is in code is no link.
fn links(text: &str) -> impl Iterator<Item = &str> {
    prose(text)
        .flat_map(|line| {
            let starts = line.match_indices("](").map(|(at, _)| at + 2);
            let in_code = |at: usize| line[..at].matches('`').count() % 2 == 1;
            starts.filter(move |at| !in_code(*at)).filter_map(|at| line[at..].split([')', ' ']).next())
        })
        .filter(|target| !target.contains("://") && !target.is_empty())
}

/// The anchors of the headings, as GitHub makes them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    prose(text).filter(|line| line.starts_with('#')).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// The lines outside of fenced code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !fenced && !is_fence
    })
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(text: &str) -> Vec<String> {
        let other = "# Other page\n\n## What it's for, and how\n\n```\n# no heading\n```\n".to_owned();
        let files = [
            (Path::new("docs/a.md"), text.to_owned()),
            (Path::new("docs/sub/b.md"), other),
            (Path::new("x/y.rs"), String::new()),
        ];
        let mut out = Vec::new();
        check(&files, &mut out);
        out
    }

    #[test]
    fn links_to_files_folders_and_headings_are_good() {
        let text = "# A\n[1](sub/b.md) [2](sub/b.md#what-its-for-and-how) [3](../x) [4](../x/y.rs) [5](#a) [6](https://x.y/z) `[7](no)`\n";
        assert!(breaches(text).is_empty(), "{:?}", breaches(text));
    }

    #[test]
    fn links_to_nothing_are_reported() {
        for bad in ["gone.md", "../gone", "sub/b.md#gone", "sub/b.md#no-heading", "#gone"] {
            assert_eq!(breaches(&format!("# A\n[1]({bad})\n")).len(), 1, "{bad}");
        }
    }

    #[test]
    fn code_has_no_links() {
        assert!(breaches("```\n[1](gone)\n```\n").is_empty());
    }
}
