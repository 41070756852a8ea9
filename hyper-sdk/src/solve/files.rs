//! Changes files: COPY, ADD, WORKDIR. It copies from the source into a layer, without unpacking the destination.

use super::chain::{Chain, StepResult, input_value, unmade};
use super::keys::{KeyPlan, Keys, UsedInput};
use super::layers::NewLayer;
use super::record::FileLister;
use super::sink::LayerSink;
use super::sink::Target;
use super::value::{LayerTimes, Planned};
use super::{SolveContext, blocking};
use crate::digest::Hasher;
use crate::graph::{CopyAction, FileAction, FileOp};
use crate::layer::copy::{CopyRequest, CopySpec, CopyStep, PatternList, SourceRoot, pattern, threads};
use crate::layer::{FileTime, LayerPath, LayerReader, LayerWriter, TreeIndex};
use crate::layer::{Owner, ResolvedOwner, resolve_owner};
use crate::mode::ModeChange;
use crate::{Digest, Error, Result};
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

/// The most bytes of a passwd or group file that are read.
const MAX_ACCOUNTS: u64 = 4 << 20;

impl SolveContext {
    pub(super) async fn file_keys(
        &self,
        mut hasher: Hasher,
        op: &[u8],
        file: &FileOp,
        base: &Chain,
        (inputs, list): (&[StepResult], Option<&Arc<FileLister>>),
    ) -> Result<Keys> {
        if !file.link {
            hasher.update_field(base.key());
        }
        let folders_only = !file.actions.is_empty()
            && file.actions.iter().all(|a| match a {
                FileAction::Copy(copy) => matches!(inputs.get(copy.input), Some(StepResult::Folder(_))),
                _ => true,
            });
        if folders_only && file.actions.iter().any(|a| matches!(a, FileAction::Copy(_))) {
            // The result depends only on the selected files: their digest is the key.
            hasher.update_field("folder");
            let (request, sources) = self.request(file, base, inputs).await?;
            let destination = self.destination(file, base).await?;
            let (stat_cache, list) = (Arc::clone(&self.stat_cache), list.cloned());
            let listed = sources.iter().filter_map(|root| root.listed_since()).min();
            let begun = listed.unwrap_or_else(Instant::now);
            let (digest, planned, plan) = blocking(move || {
                let plan = request.plan(&*destination, &sources)?;
                let planned = Planned { times: plan.times(), made: request.now };
                let digest = match list {
                    Some(list) => list.digest(&plan, &stat_cache, threads())?,
                    None => plan.content_digest(&*stat_cache, threads())?,
                };
                Ok((digest, planned, KeyPlan::new(plan, request.now, begun)))
            })
            .await?;
            hasher.update_field(digest.as_str());
            let planned = (!self.copies_as_published).then_some(planned);
            return Ok(Keys { digests: vec![hasher.finish()], planned, plan: Some(plan), used: Vec::new() });
        }
        hasher.update_field(op);
        if self.epoch_is_key && !self.copies_as_published {
            // In a build without a cache the layer has no times of its own.
            hasher.update_field("true times");
        }
        let excludes = |a: &FileAction| matches!(a, FileAction::Copy(copy) if !copy.exclude.is_empty());
        if file.actions.iter().any(excludes) {
            // Records from before this rule contain files that are left out now.
            hasher.update_field("exclude-sources");
        }
        if file.link {
            // The key depends on the base only by the ids of its names.
            for owner in file.actions.iter().filter_map(owner_of) {
                let owner = self.resolve_owner(base, owner).await?.owner;
                hasher.update_field(format!("{} {}", owner.uid, owner.gid));
            }
        }
        let mut definition = hasher.clone();
        let mut content = Some(hasher);
        definition.update_field("definition");
        if let Some(content) = &mut content {
            content.update_field("content");
        }
        let mut used = Vec::new();
        for action in &file.actions {
            let FileAction::Copy(copy) = action else { continue };
            let StepResult::Chain(chain) = input_value(inputs, copy.input)? else {
                content = None;
                continue;
            };
            definition.update_field(chain.key());
            let digest = if content.is_some() { self.selected(chain, copy).await? } else { None };
            let key = digest.as_ref().map_or_else(|| chain.key().to_owned(), Digest::to_string);
            used.push(UsedInput { input: copy.input, mount: None, key });
            content = match (content, digest) {
                (Some(mut hasher), Some(digest)) => {
                    hasher.update_field(digest.as_str());
                    Some(hasher)
                }
                _ => None,
            };
        }
        let mut keys = vec![definition.finish()];
        keys.extend(content.map(Hasher::finish));
        Ok(Keys { digests: keys, planned: None, plan: None, used })
    }

    /// The digest of the files of a stage that a COPY selects with plain paths.
    async fn selected(&self, chain: &Chain, copy: &CopyAction) -> Result<Option<Digest>> {
        if copy.parents || !copy.exclude.is_empty() {
            return Ok(None);
        }
        if copy.sources.iter().any(|s| pattern::has_wildcards(s.as_bytes())) {
            return Ok(None);
        }
        let tree = self.tree(chain).await?;
        let mut paths = Vec::new();
        for source in &copy.sources {
            match tree.resolve(source.as_bytes(), true) {
                Ok(path) if tree.lookup(&path).is_some() || path.is_root() => paths.push(path),
                _ => return Ok(None),
            }
        }
        tree.content_digest(&paths).map(Some)
    }

    /// Makes the layer, of the plan of its keys if that is fresh. The second value is the time of that, when the times of its
    /// files are part of the key.
    pub(super) async fn files(
        &self,
        file: &FileOp,
        base: &Chain,
        (inputs, plan): (&[StepResult], Option<KeyPlan>),
        target: Target,
    ) -> Result<(NewLayer, Option<FileTime>)> {
        let (mut request, sources) = self.request(file, base, inputs).await?;
        let (plan, made) =
            plan.and_then(KeyPlan::fresh).map_or((None, request.now), |(plan, made)| (Some(plan), made));
        let all_folders = file.actions.iter().all(|a| match a {
            FileAction::Copy(copy) => matches!(inputs.get(copy.input), Some(StepResult::Folder(_))),
            _ => true,
        });
        if all_folders {
            let no_sources = sources.is_empty();
            let destination = self.destination(file, base).await?;
            let write = move |writer: &mut LayerWriter<LayerSink>| {
                let plan = match plan {
                    Some(plan) => plan,
                    None => request.plan(&*destination, &sources)?,
                };
                plan.write(writer)?;
                Ok(plan.times())
            };
            let (mut layer, times) = self.make_layer(target, write).await?;
            if self.copies_as_published {
                return Ok((layer, None));
            }
            let table = times.table(made, Some(made));
            if no_sources {
                layer.times = Some(self.keep_times(&table)?);
                return Ok((layer, None));
            }
            layer.times = Some(LayerTimes::Table(Arc::new(table)));
            return Ok((layer, Some(made)));
        }
        let mut views = Vec::new();
        for action in &file.actions {
            if let FileAction::Copy(copy) = action {
                views.push(match input_value(inputs, copy.input)? {
                    StepResult::Chain(chain) => self.view(chain).await?,
                    StepResult::Folder(_) => {
                        return Err(Error::internal("a copy from a context and a stage at once"));
                    }
                    StepResult::Unmade => return Err(unmade()),
                });
            }
        }
        if !file.link {
            request.destination = self.index_paths(base).await?;
        }
        let tar = self.snapshotter.copy(views, request).await?;
        let (mut layer, times) = self.layer_of_tar(target, tar).await?;
        if !self.copies_as_published {
            layer.times = Some(self.keep_times(&times.into())?);
        }
        Ok((layer, None))
    }

    /// The files that a file operation finds.
    async fn destination(&self, file: &FileOp, base: &Chain) -> Result<Arc<TreeIndex>> {
        match file.link {
            true => Ok(Arc::default()),
            false => self.tree(base).await,
        }
    }

    async fn request(
        &self,
        file: &FileOp,
        base: &Chain,
        inputs: &[StepResult],
    ) -> Result<(CopyRequest, Vec<Arc<SourceRoot>>)> {
        let mut sources = Vec::new();
        let mut request = CopyRequest {
            now: self.made_now().await?,
            scratch: self.scratch.clone(),
            ..CopyRequest::default()
        };
        let mut number = 0;
        for action in &file.actions {
            let step = match action {
                FileAction::Copy(copy) => {
                    if let StepResult::Folder(root) = input_value(inputs, copy.input)? {
                        sources.push(Arc::clone(root));
                    }
                    let mut spec = CopySpec::new(copy.sources.clone(), copy.destination.clone());
                    spec.chown = self.owner(base, copy.chown.as_deref()).await?;
                    spec.chmod = copy.chmod.as_deref().map(ModeChange::parse).transpose()?;
                    spec.exclude = PatternList::new(&copy.exclude)?;
                    spec.parents = copy.parents;
                    spec.unpack = copy.unpack.unwrap_or(copy.add);
                    number += 1;
                    CopyStep::Copy { source: number - 1, spec }
                }
                FileAction::MakeDirectory(make) => CopyStep::MakeDirectory {
                    path: make.path.clone(),
                    mode: make.mode,
                    owner: self.owner(base, make.owner.as_deref()).await?,
                },
                FileAction::MakeFile(make) => {
                    let mut spec = CopySpec::new([""; 0], make.destination.clone());
                    spec.chown = self.owner(base, make.chown.as_deref()).await?;
                    spec.chmod = make.chmod.as_deref().map(ModeChange::parse).transpose()?;
                    CopyStep::MakeFile { name: make.name.clone(), content: make.content.clone(), spec }
                }
            };
            request.steps.push(step);
        }
        Ok((request, sources))
    }

    /// The ids of `user[:group]` in a root file system.
    async fn owner(&self, base: &Chain, spec: Option<&str>) -> Result<Option<Owner>> {
        let Some(spec) = spec else { return Ok(None) };
        let resolved = self.resolve_owner(base, spec).await?;
        for name in &resolved.missing {
            self.progress.warn(format!("`{name}` is neither in /etc/passwd nor in /etc/group: 0 is used"));
        }
        Ok(Some(resolved.owner))
    }

    async fn resolve_owner(&self, base: &Chain, spec: &str) -> Result<ResolvedOwner> {
        let numeric = spec.split(':').all(|part| part.bytes().all(|b| b.is_ascii_digit()));
        let (passwd, group) = if numeric {
            (None, None)
        } else {
            (self.read_file(base, b"/etc/passwd").await?, self.read_file(base, b"/etc/group").await?)
        };
        Ok(resolve_owner(spec, passwd.as_deref(), group.as_deref()))
    }

    /// Reads a small file of a chain from its layer, without unpacking it.
    async fn read_file(&self, chain: &Chain, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let tree = self.tree(chain).await?;
        let Ok(path) = tree.resolve(path, true) else { return Ok(None) };
        let Some(node) = tree.lookup(&path) else { return Ok(None) };
        let Some(number) = tree.link_target(node)?.layer else { return Ok(None) };
        let wanted: LayerPath = tree.link_target(node)?.entry.path.clone();
        let chain = chain.lowest(number + 1);
        let Some(link) = chain.top() else { return Ok(None) };
        let id = link.snapshot();
        if self.snapshotter.has(id).await? {
            let text = format!("/{wanted}");
            if let Some(bytes) = self.snapshotter.read_file(Some(id), &text, MAX_ACCOUNTS).await? {
                return Ok(Some(bytes));
            }
        }
        let tar = self.open_layer(&link.layer).await?;
        blocking(move || {
            let mut reader = LayerReader::new(tar);
            while let Some(entry) = reader.next_entry()? {
                if entry.path == wanted {
                    let mut bytes = Vec::new();
                    reader.by_ref().take(MAX_ACCOUNTS).read_to_end(&mut bytes)?;
                    return Ok(Some(bytes));
                }
            }
            Ok(None)
        })
        .await
    }
}

/// The owner of an action.
fn owner_of(action: &FileAction) -> Option<&str> {
    match action {
        FileAction::Copy(copy) => copy.chown.as_deref(),
        FileAction::MakeDirectory(make) => make.owner.as_deref(),
        FileAction::MakeFile(make) => make.chown.as_deref(),
    }
}
