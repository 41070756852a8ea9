//! Lowers the instructions that change files: COPY, ADD and WORKDIR. Their values come in expanded.

use super::lower::{Lowering, Lowers};
use super::stage::{StageState, absolute, clean};
use crate::dockerfile::{AddSource, Chmod, InlineFile, Owner, Statement, Word};
use crate::graph::{CopyAction, FileAction, FileOp, MakeDirectory, MakeFile, Op, VertexId};

/// What COPY and ADD have in common.
struct Transfer<'a> {
    sources: &'a [Word],
    inline: &'a [InlineFile],
    destination: &'a Word,
    from: Option<VertexId>,
    chown: Option<&'a Word>,
    chmod: Option<&'a Word>,
    link: bool,
    parents: bool,
    excludes: &'a [Word],
    unpack: Option<bool>,
    add: bool,
}

impl Lowering<'_> {
    pub(super) async fn copy(
        &mut self,
        stage: usize,
        state: &mut StageState,
        statement: &Statement,
        copy: &crate::dockerfile::Copy,
    ) -> Lowers<()> {
        let from = match &copy.from {
            Some(name) => Some(self.input(stage, state, name, true).await?),
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
                chown: copy.chown.as_ref(),
                chmod: copy.chmod.as_ref(),
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
    ) -> Lowers<()> {
        for (given, flag) in [(&add.checksum, "--checksum")] {
            if let Some(word) = given {
                return Err(self.unsupported(word, format!("ADD `{flag}` is not supported yet")));
            }
        }
        if add.keep_git_dir.is_some() {
            return Err(self.unsupported(&add.destination, "ADD `--keep-git-dir` is not supported yet"));
        }
        for source in &add.sources {
            if !matches!(AddSource::parse(&source.value), Ok(AddSource::Local(_))) {
                return Err(self
                    .unsupported(source, "ADD from a web address or a git repository is not supported yet"));
            }
        }
        self.transfer(
            state,
            statement,
            &Transfer {
                sources: &add.sources,
                inline: &add.inline,
                destination: &add.destination,
                from: None,
                chown: add.chown.as_ref(),
                chmod: add.chmod.as_ref(),
                link: add.link,
                parents: false,
                excludes: &add.excludes,
                unpack: add.unpack,
                add: true,
            },
        )
    }

    fn transfer(&mut self, state: &mut StageState, statement: &Statement, t: &Transfer<'_>) -> Lowers<()> {
        let destination = absolute(&state.workdir(), &t.destination.value);
        if let Some(word) = t.chown {
            Owner::parse(&word.value).map_err(|e| self.error(word, e.message()))?;
        }
        if let Some(word) = t.chmod {
            Chmod::parse(&word.value).map_err(|e| self.error(word, e.message()))?;
        }
        let text = |word: Option<&Word>| word.map(|w| w.value.clone());
        let (chown, chmod) = (text(t.chown), text(t.chmod));
        let mut inputs = vec![state.vertex];
        let mut actions = Vec::new();
        if !t.sources.is_empty() {
            let values = |words: &[Word]| words.iter().map(|w| w.value.clone()).collect::<Vec<_>>();
            let (sources, exclude) = (values(t.sources), values(t.excludes));
            if sources.len() + t.inline.len() > 1 && !destination.ends_with('/') {
                return Err(self
                    .error(
                        t.destination,
                        "with more than one source the destination must be a directory and end with a `/`",
                    )
                    .into());
            }
            let from = t.from.unwrap_or_else(|| self.main_context());
            inputs.push(from);
            actions.push(FileAction::Copy(Box::new(CopyAction {
                input: 1,
                sources,
                destination: destination.clone(),
                chown: chown.clone(),
                chmod: chmod.clone(),
                parents: t.parents,
                exclude,
                unpack: t.unpack,
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
        let op = Op::File(FileOp { actions, link: t.link });
        self.layer(state, statement, op, inputs, statement.display());
        Ok(())
    }

    pub(super) fn workdir(
        &mut self,
        state: &mut StageState,
        statement: &Statement,
        workdir: &crate::dockerfile::Workdir,
    ) -> Lowers<()> {
        let path = workdir.path.value.clone();
        if path.is_empty() {
            return Err(self
                .error(&workdir.path, "WORKDIR is empty after its variables are replaced")
                .into());
        }
        let path = if path.starts_with('/') { path } else { clean(&format!("{}/{path}", state.workdir())) };
        state.container().working_dir.clone_from(&path);
        let created_by = format!("WORKDIR {path}");
        if clean(&path) == "/" {
            state.record(created_by, false);
            return Ok(());
        }
        let owner = Some(state.config.config.user.clone()).filter(|user| !user.is_empty());
        let make = MakeDirectory { path: clean(&path), mode: 0o755, owner };
        let op = Op::File(FileOp { actions: vec![FileAction::MakeDirectory(make)], link: false });
        let inputs = vec![state.vertex];
        self.layer(state, statement, op, inputs, created_by);
        Ok(())
    }
}
