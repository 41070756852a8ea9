//! Lowers the instructions that change files: COPY, ADD and WORKDIR. Their values are expanded before.

use super::lower::Lowering;
use super::lower_error::LowerResult;
use super::stage::{StageState, absolute, clean};
use super::windows;
use crate::Digest;
use crate::dockerfile::{
    AddSource, InlineFile, Instruction, Owner, Principal, Statement, UNNAMED, Word, without_password,
};
use crate::graph::{
    CopyAction, FileAction, FileOp, MakeDirectory, MakeFile, Op, SourceOp, VertexId, WebSource,
};
use crate::layer::MAX_NAME;
use crate::source::git_source;

/// The options that COPY and ADD share.
struct Transfer<'a> {
    sources: &'a [Word],
    inline: &'a [InlineFile],
    destination: &'a Word,
    from: Option<VertexId>,
    checksum: Option<&'a Word>,
    keep_git_dir: Option<bool>,
    chown: Option<&'a Word>,
    chmod: Option<&'a Word>,
    link: bool,
    parents: bool,
    excludes: &'a [Word],
    unpack: Option<bool>,
    add: bool,
}

impl Transfer<'_> {
    /// The text for the history: expanded words without quotes, and the flags that change the files.
    fn created_by(&self) -> String {
        let mut text = String::from(if self.add { "ADD" } else { "COPY" });
        if self.parents {
            text.push_str(" --parents");
        }
        for (flag, value) in [("chown", self.chown), ("chmod", self.chmod)] {
            if let Some(word) = value {
                text.push_str(&format!(" --{flag}={}", word.value));
            }
        }
        for source in self.sources {
            text.push_str(&format!(" {}", without_password(&source.value)));
        }
        for file in self.inline {
            text.push_str(&format!(" <<{}", file.name));
        }
        text.push_str(&format!(" {}", self.destination.value));
        text
    }
}

impl Lowering<'_> {
    pub(super) async fn copy(
        &mut self,
        stage: usize,
        state: &mut StageState,
        statement: &Statement,
        copy: &crate::dockerfile::Copy,
    ) -> LowerResult<()> {
        let from = match &copy.from {
            Some(name) => Some(self.input(stage, name, true).await?),
            None => None,
        };
        self.transfer(
            state,
            statement,
            &Transfer {
                sources: &copy.sources,
                inline: &copy.inline,
                destination: &copy.destination,
                from,
                checksum: None,
                keep_git_dir: None,
                chown: non_empty(&copy.chown),
                chmod: non_empty(&copy.chmod),
                link: copy.link,
                parents: copy.parents,
                excludes: &copy.excludes,
                unpack: None,
                add: false,
            },
        )
    }

    pub(super) fn add(
        &mut self,
        state: &mut StageState,
        statement: &Statement,
        add: &crate::dockerfile::Add,
    ) -> LowerResult<()> {
        self.transfer(
            state,
            statement,
            &Transfer {
                sources: &add.sources,
                inline: &add.inline,
                destination: &add.destination,
                from: None,
                checksum: non_empty(&add.checksum),
                keep_git_dir: add.keep_git_dir,
                chown: non_empty(&add.chown),
                chmod: non_empty(&add.chmod),
                link: add.link,
                parents: false,
                excludes: &add.excludes,
                unpack: add.unpack,
                add: true,
            },
        )
    }

    fn transfer(
        &mut self,
        state: &mut StageState,
        statement: &Statement,
        t: &Transfer<'_>,
    ) -> LowerResult<()> {
        let destination = absolute(&state.workdir(), &path_in(state, t.destination)?);
        if let Some(word) = t.chown {
            self.check_owner(state, word, &word.value)?;
        }
        if let Some(word) = t.chmod {
            crate::mode::ModeChange::parse(&word.value).map_err(|e| self.error(word, e.message()))?;
        }
        let text = |word: Option<&Word>| word.map(|w| w.value.clone());
        let (chown, chmod) = (text(t.chown), text(t.chmod));
        let mut inputs = vec![state.vertex];
        let mut actions = Vec::new();
        for (from, sources, remote) in self.sources(state, t, &destination)? {
            inputs.push(from);
            actions.push(FileAction::Copy(Box::new(CopyAction {
                input: inputs.len() - 1,
                sources,
                destination: destination.clone(),
                chown: chown.clone(),
                chmod: chmod.clone(),
                parents: t.parents,
                exclude: t.excludes.iter().map(|w| w.value.clone()).collect(),
                // A fetched archive is unpacked only with `--unpack`.
                unpack: if remote { Some(t.unpack.unwrap_or(false)) } else { t.unpack },
                add: t.add,
            })));
        }
        for file in t.inline {
            actions.push(FileAction::MakeFile(MakeFile {
                name: file.name.clone(),
                destination: destination.clone(),
                content: file.content.clone(),
                chown: chown.clone(),
                chmod: chmod.clone(),
            }));
        }
        // With a mode, a linked copy is an ordinary one: it follows the links of the destination.
        let op = Op::File(FileOp { actions, link: t.link && t.chmod.is_none() });
        self.layer(state, statement, op, inputs, t.created_by());
        if has_plain_sources(statement) {
            self.graph.set_shows_paths(state.vertex);
        }
        Ok(())
    }

    /// Rejects a malformed owner, and a name when the image has no files in which to find it.
    fn check_owner(&self, state: &StageState, word: &Word, owner: &str) -> LowerResult<()> {
        let owner = Owner::parse(owner).map_err(|e| self.error(word, e.message()))?;
        if self.graph.vertex(state.vertex).op != Op::Source(SourceOp::Scratch) {
            return Ok(());
        }
        for (principal, file) in [(Some(owner.user), "/etc/passwd"), (owner.group, "/etc/group")] {
            match principal {
                // `root` is 0, whatever the files say.
                Some(Principal::Name(name)) if name != "root" => {
                    let message =
                        format!("`{name}` cannot be found: there is no {file} in `scratch`; give a number");
                    return Err(self.error(word, message).into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The sources: the vertex with the files, the paths in it, and whether they are fetched.
    fn sources(
        &mut self,
        state: &StageState,
        t: &Transfer<'_>,
        destination: &str,
    ) -> LowerResult<Vec<(VertexId, Vec<String>, bool)>> {
        let mut found: Vec<(VertexId, Vec<String>, bool)> = Vec::new();
        if let Some(word) = t.checksum
            && t.sources.len() != 1
        {
            return Err(self.error(word, "`--checksum` needs exactly one source").into());
        }
        for word in t.sources {
            let source = AddSource::parse(&word.value).map_err(|e| self.error(word, e.message()))?;
            let fetched = match &source {
                AddSource::Local(_) => None,
                AddSource::Http { .. } => Some("a web address"),
                AddSource::Git(_) => Some("a git repository"),
            };
            if let (false, Some(what)) = (t.add, fetched) {
                let message = format!("COPY cannot fetch {what}: use ADD, or write `./` before a path");
                return Err(self.error(word, message).into());
            }
            let checksum_error = |word: &Word, message: &str| self.error(word, message);
            match source {
                AddSource::Local(path) => {
                    let path = if windows::is_for(&state.config) { windows::path(word)? } else { path };
                    if let Some(checksum) = t.checksum {
                        let message =
                            "`--checksum` is for web addresses and git repositories, not for local files";
                        return Err(checksum_error(checksum, message).into());
                    }
                    let from = t.from.unwrap_or_else(|| self.main_context());
                    match found.last_mut() {
                        Some((last, paths, false)) if *last == from => paths.push(path),
                        _ => found.push((from, vec![path], false)),
                    }
                }
                AddSource::Http { url, mut file_name } => {
                    if file_name.len() > MAX_NAME {
                        if t.sources.len() + t.inline.len() > 1 || destination.ends_with('/') {
                            let message = format!(
                                "the address ends in a name of {} bytes, and a file has at most {MAX_NAME}: name the \
                                 file in the destination, as in `{}/NAME`",
                                file_name.len(),
                                destination.trim_end_matches('/')
                            );
                            return Err(self.error(word, message).into());
                        }
                        UNNAMED.clone_into(&mut file_name);
                    }
                    let checksum = match t.checksum {
                        Some(word) => {
                            Some(Digest::parse(&word.value).map_err(|e| self.error(word, e.message()))?)
                        }
                        None => None,
                    };
                    let path = literal(&file_name);
                    let web = WebSource { url, file_name, checksum };
                    found.push((self.remote(SourceOp::Web(web), &word.value), vec![path], true));
                }
                AddSource::Git(address) => {
                    let commit = t.checksum.map(|w| w.value.as_str());
                    let git = git_source(&address, t.keep_git_dir, commit)
                        .map_err(|e| self.error(t.checksum.unwrap_or(word), e.message()))?;
                    found.push((self.remote(SourceOp::Git(git), &word.value), vec!["/".to_owned()], true));
                }
            }
        }
        Ok(found)
    }

    pub(super) fn workdir(
        &mut self,
        state: &mut StageState,
        statement: &Statement,
        workdir: &crate::dockerfile::Workdir,
    ) -> LowerResult<()> {
        // An empty path, as of a variable that is not set, changes nothing.
        let path = path_in(state, &workdir.path)?;
        let path = if path.starts_with('/') { path } else { clean(&format!("{}/{path}", state.workdir())) };
        let path = if windows::is_for(&state.config) { clean(&path) } else { path };
        state.container().working_dir =
            if windows::is_for(&state.config) { path.replace('/', "\\") } else { path.clone() };
        let created_by = format!("WORKDIR {path}");
        if path == "/" {
            state.record(created_by, false);
            return Ok(());
        }
        let owner = Some(state.config.config.user.clone()).filter(|user| !user.is_empty());
        if let Some(owner) = &owner {
            self.check_owner(state, &workdir.path, owner)?;
        }
        let make = MakeDirectory { path: clean(&path), mode: 0o755, owner };
        let op = Op::File(FileOp { actions: vec![FileAction::MakeDirectory(make)], link: false });
        let inputs = vec![state.vertex];
        self.layer(state, statement, op, inputs, created_by);
        Ok(())
    }
}

/// Whether no source of COPY or ADD has a variable in its text. Words in quotes count as if they had one.
fn has_plain_sources(statement: &Statement) -> bool {
    let sources = match &statement.instruction {
        Instruction::Copy(copy) => &copy.sources,
        Instruction::Add(add) => &add.sources,
        _ => return false,
    };
    sources.iter().all(|source| !source.value.contains('$'))
}

/// A path of an instruction, with slashes.
fn path_in(state: &StageState, word: &Word) -> LowerResult<String> {
    if windows::is_for(&state.config) { Ok(windows::path(word)?) } else { Ok(word.value.clone()) }
}

/// The value of a flag. An empty value, as of a variable that is not set, is as if the flag were missing.
fn non_empty(flag: &Option<Word>) -> Option<&Word> {
    flag.as_ref().filter(|word| !word.value.is_empty())
}

/// A path with its wildcards escaped.
fn literal(name: &str) -> String {
    if !name.contains(['*', '?', '[']) {
        return name.to_owned();
    }
    let mut pattern = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        match c {
            '*' | '?' | '[' => pattern.extend(['[', c, ']']),
            '\\' => pattern.push_str(r"[\\]"),
            c => pattern.push(c),
        }
    }
    pattern
}
