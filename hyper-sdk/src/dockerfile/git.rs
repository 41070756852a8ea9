//! The sources of ADD: paths, web addresses and git repositories.
//!
//! ```text
//! https://host/repo.git#REF:SUBDIR        the fragment form
//! https://host/repo.git?tag=v1&subdir=a   the query form: ref tag branch commit checksum subdir submodules
//! git@host:repo.git  ssh://…  git://…     keep-git-dir mtime fetch-by-commit
//! ```
//! An http(s) address is a repository only when its path ends in `.git`.

use super::flags::parse_bool;
use crate::{Error, Result};

/// A git repository, with a reference and options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitReference {
    /// The address that git understands.
    pub remote: String,
    /// The last part of the path, without `.git`.
    pub short_name: String,
    /// A branch, a tag, `refs/…` or a commit.
    pub reference: Option<String>,
    /// The commit that the reference must be (`checksum` or `commit`).
    pub checksum: Option<String>,
    /// The folder in the repository, without a leading slash.
    pub subdir: Option<String>,
    /// Whether `.git` is kept.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched.
    pub submodules: Option<bool>,
    /// The source of modification times: `checkout` or `commit`.
    pub mtime: Option<String>,
    /// Whether the checksum is fetched without resolving the reference.
    pub fetch_by_commit: bool,
}

/// A source of ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddSource {
    /// A path or pattern in the context.
    Local(String),
    /// A web file.
    Http {
        /// The address.
        url: String,
        /// The name of the file in a folder.
        file_name: String,
    },
    /// A git repository.
    Git(Box<GitReference>),
}

impl AddSource {
    /// Parses an expanded source.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a git address with unknown or contradictory options.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(git) = GitReference::parse(text)? {
            return Ok(Self::Git(Box::new(git)));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            let file_name = web_file_name(text);
            return Ok(Self::Http { url: text.to_owned(), file_name });
        }
        Ok(Self::Local(text.to_owned()))
    }
}

/// The name of a web file whose address has no name.
pub(crate) const UNNAMED: &str = "__unnamed__";

fn web_file_name(url: &str) -> String {
    let path = url.split(['#', '?']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    // `%2F` is a separator, too.
    let path = percent_decode(path.split_once('/').map_or("", |(_, path)| path));
    match path.trim_end_matches('/').rsplit('/').next() {
        Some(name) if !matches!(name, "" | "." | "..") && !name.contains('\0') => name.to_owned(),
        _ => UNNAMED.to_owned(),
    }
}

impl GitReference {
    /// Parses an address; `None` when it is not a git repository.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for unknown or contradictory options.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        if text.starts_with("./") || text.starts_with("../") {
            return Ok(None);
        }
        let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (address, query) = address.split_once('?').unwrap_or((address, ""));
        let is_url = match address.split_once("://") {
            Some((scheme, rest)) => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                let is_git = match scheme.to_ascii_lowercase().as_str() {
                    "http" | "https" => percent_decode(path).ends_with(".git"),
                    "git" | "ssh" => true,
                    _ => false,
                };
                is_git && !host.is_empty()
            }
            None => false,
        };
        if !is_url && !is_scp_address(address) {
            return Ok(None);
        }
        Self::build(address, query, fragment)
            .map(Some)
            .map_err(|why| Error::invalid(format!("invalid git address `{}`: {why}", without_password(text))))
    }

    /// Parses a build context: an address of [`GitReference::parse`], or `github.com/owner/name`.
    ///
    /// # Errors
    /// Those of [`GitReference::parse`].
    pub fn parse_context(text: &str) -> Result<Option<Self>> {
        match text.starts_with("github.com/") {
            true => {
                let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
                let (address, query) = address.split_once('?').unwrap_or((address, ""));
                Self::build(&format!("https://{address}"), query, fragment)
                    .map(Some)
                    .map_err(|why| Error::invalid(format!("invalid git address `{text}`: {why}")))
            }
            false => Self::parse(text),
        }
    }

    fn build(address: &str, query: &str, fragment: &str) -> std::result::Result<Self, String> {
        let last = address.rsplit(['/', ':']).next().unwrap_or_default();
        let mut git = Self {
            remote: address.to_owned(),
            short_name: last.strip_suffix(".git").unwrap_or(last).to_owned(),
            ..Self::default()
        };
        let fragment = percent_decode(fragment);
        let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
        git.reference = Some(reference.to_owned()).filter(|r| !r.is_empty());
        git.subdir = Some(clean_subdir(subdir)).filter(|s| !s.is_empty());
        git.load_query(query)?;
        Ok(git)
    }

    fn load_query(&mut self, query: &str) -> std::result::Result<(), String> {
        let mut seen: Vec<String> = Vec::new();
        let (mut tag, mut branch) = (None, None);
        for part in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (key, value) = (percent_decode(key), percent_decode(&value.replace('+', " ")));
            if seen.contains(&key) {
                return Err(format!("`{key}` is given twice"));
            }
            let switch = || match value.as_str() {
                "" => Ok(true),
                v => parse_bool(v).ok_or_else(|| format!("invalid value `{v}` of `{key}`")),
            };
            match key.as_str() {
                "submodules" => self.submodules = Some(switch()?),
                "keep-git-dir" => self.keep_git_dir = Some(switch()?),
                "fetch-by-commit" => self.fetch_by_commit = switch()?,
                _ if value.is_empty() => return Err(format!("`{key}` has no value")),
                "ref" => merge("ref", &mut self.reference, value)?,
                "subdir" => merge("subdir", &mut self.subdir, value)?,
                "tag" => tag = Some(value),
                "branch" => branch = Some(value),
                "checksum" | "commit" => merge("checksum", &mut self.checksum, value)?,
                "mtime" if matches!(value.as_str(), "checkout" | "commit") => self.mtime = Some(value),
                "mtime" => {
                    return Err(format!("invalid value `{value}` of `mtime`: it is `checkout` or `commit`"));
                }
                _ => {
                    let near = super::suggest::suggestion(&key, QUERY_KEYS);
                    let hint = near.map_or(String::new(), |n| format!(": did you mean `{n}`?"));
                    return Err(format!("unknown option `{key}`{hint}"));
                }
            }
            seen.push(key);
        }
        if tag.is_some() && branch.is_some() {
            return Err("`tag` and `branch` exclude each other".to_owned());
        }
        for (prefix, name) in [("refs/tags/", tag), ("refs/heads/", branch)] {
            if let Some(name) = name {
                let full = if name.starts_with(prefix) { name } else { format!("{prefix}{name}") };
                merge("ref", &mut self.reference, full)?;
            }
        }
        if let Some(subdir) = &self.subdir {
            self.subdir = Some(clean_subdir(subdir)).filter(|s| !s.is_empty());
        }
        Ok(())
    }
}

const QUERY_KEYS: [&str; 10] = [
    "ref",
    "tag",
    "branch",
    "commit",
    "checksum",
    "subdir",
    "submodules",
    "keep-git-dir",
    "mtime",
    "fetch-by-commit",
];

fn merge(what: &str, slot: &mut Option<String>, value: String) -> std::result::Result<(), String> {
    match slot {
        Some(old) if *old != value => Err(format!("`{what}` is both `{old}` and `{value}`")),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

/// `user@host:path`.
fn is_scp_address(address: &str) -> bool {
    let word = |text: &str, more: &[u8]| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || more.contains(&b))
    };
    address
        .split_once('@')
        .and_then(|(user, rest)| Some((user, rest.split_once(':')?.0)))
        .is_some_and(|(user, host)| word(user, b"_") && word(host, b"."))
}

/// A path in the repository. `..` stops at its root.
fn clean_subdir(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex =
            bytes.get(at + 1..at + 3).filter(|h| bytes[at] == b'%' && h.iter().all(u8::is_ascii_hexdigit));
        match hex.and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The address without its password.
pub(crate) fn without_password(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            match rest[..authority].rfind('@') {
                Some(at) => format!("{scheme}://***{}", &rest[at..]),
                None => text.to_owned(),
            }
        }
        None => text.to_owned(),
    }
}

/// The text without the passwords of its addresses.
#[cfg(feature = "build")]
pub(crate) fn without_passwords(text: &str) -> String {
    let words = text.split_inclusive(char::is_whitespace);
    words.map(|word| if word.contains("://") { without_password(word) } else { word.to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(text: &str) -> GitReference {
        GitReference::parse(text).unwrap().unwrap()
    }

    #[test]
    fn sources_are_distinguished() {
        assert_eq!(AddSource::parse("a/b*").unwrap(), AddSource::Local("a/b*".into()));
        let http = |url: &str, name: &str| {
            assert_eq!(
                AddSource::parse(url).unwrap(),
                AddSource::Http { url: url.into(), file_name: name.into() }
            );
        };
        http("https://h/a/b.tar.gz?x=1#y", "b.tar.gz");
        http("http://h", "__unnamed__");
        http("http://h/a%2Fb", "b");
        http("http://h/a%2f", "a");
        http("http://h/a/%2e%2e", "__unnamed__");
        http("https://h/repo.git/file", "file");
        assert!(matches!(AddSource::parse("https://h/repo.git#main").unwrap(), AddSource::Git(_)));
        assert!(matches!(AddSource::parse("git@h:repo.git").unwrap(), AddSource::Git(_)));
        assert!(matches!(AddSource::parse("./git@h:repo.git").unwrap(), AddSource::Local(_)));
        assert!(matches!(AddSource::parse("github.com/a/b").unwrap(), AddSource::Local(_)));
        assert_eq!(
            GitReference::parse_context("github.com/a/b#r").unwrap().unwrap().remote,
            "https://github.com/a/b"
        );
    }

    #[test]
    fn both_forms_are_parsed() {
        let g = git("https://h/o/repo.git#v1:a/../../b");
        assert_eq!((g.remote.as_str(), g.short_name.as_str()), ("https://h/o/repo.git", "repo"));
        assert_eq!((g.reference.as_deref(), g.subdir.as_deref()), (Some("v1"), Some("b")));
        let g = git("https://h/repo.git?tag=v1&subdir=x&commit=abc&submodules=false&keep-git-dir");
        assert_eq!(g.reference.as_deref(), Some("refs/tags/v1"));
        assert_eq!((g.checksum.as_deref(), g.subdir.as_deref()), (Some("abc"), Some("x")));
        assert_eq!((g.submodules, g.keep_git_dir), (Some(false), Some(true)));
        let g = git("git@h.example:o/repo.git?branch=main");
        assert_eq!(
            (g.remote.as_str(), g.reference.as_deref()),
            ("git@h.example:o/repo.git", Some("refs/heads/main"))
        );
        assert_eq!(git("ssh://git@h/repo").short_name, "repo");
    }

    #[test]
    fn errors_do_not_show_passwords() {
        for bad in
            ["?tag=a&branch=b", "?ref=a#b", "?tag=", "?x=1", "?ref=a&ref=a", "?submodules=maybe", "?mtime=x"]
        {
            let (query, fragment) = bad.split_once('#').unwrap_or((bad, ""));
            let text = format!("https://user:secret@h/r.git{query}#{fragment}");
            let error = GitReference::parse(&text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(GitReference::parse("https://h/r.git?brnch=x").unwrap_err().to_string().contains("`branch`"));
    }
}
