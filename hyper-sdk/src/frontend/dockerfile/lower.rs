//! Lowers the stages that a target needs, in the order of the file.

use super::lower_error::{LowerError, LowerResult};
use super::stage::StageState;
use super::{trigger, windows};
use crate::Error;
use crate::clock::parse_rfc3339;
use crate::dockerfile::{
    Diagnostic, Dockerfile, Instruction, Plan, Reference, Span, StageRef, Statement, Variables, Word,
    without_password, without_passwords,
};
use crate::frontend::{FrontendOptions, Lowered, Resolved, Resolver};
use crate::graph::{CopyAction, FileAction, FileOp, Graph, Op, SourceOp, VertexId};
use crate::oci::ImageConfig;
use crate::platform::Platform;
use std::collections::BTreeMap;

/// The configs of the base images, by the number of the stage that begins with one.
pub(crate) type Bases = BTreeMap<usize, ImageConfig>;

/// How much of a file is lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LowerMode {
    /// What the target needs.
    Target,
    /// What the target needs. Lowering goes on after errors, as far as possible.
    BestEffort,
    /// Every stage. Lowering goes on after errors, as far as possible.
    AllStages,
}

/// The state of lowering one target.
pub(super) struct Lowering<'a> {
    pub(super) options: &'a FrontendOptions,
    file: &'a Dockerfile,
    resolver: &'a dyn Resolver,
    pub(super) graph: Graph,
    stages: BTreeMap<usize, StageState>,
    images: BTreeMap<(String, String), Resolved>,
    newest_base: Option<i64>,
    position: (String, usize, usize),
    no_cache: bool,
    mode: LowerMode,
    /// The errors of the text so far.
    errors: Vec<Diagnostic>,
    /// The FROM whose base has the trigger that is being lowered.
    base_of_trigger: Option<Span>,
    bases: Bases,
}

/// An expanded FROM.
struct StageBase {
    image: String,
    platform: Platform,
}

impl<'a> Lowering<'a> {
    pub(super) fn new(
        file: &'a Dockerfile,
        options: &'a FrontendOptions,
        resolver: &'a dyn Resolver,
        mode: LowerMode,
    ) -> Self {
        Self {
            options,
            file,
            resolver,
            graph: Graph::new(),
            stages: BTreeMap::new(),
            images: BTreeMap::new(),
            newest_base: None,
            position: (String::new(), 0, 0),
            no_cache: false,
            mode,
            errors: Vec::new(),
            base_of_trigger: None,
            bases: BTreeMap::new(),
        }
    }

    /// Lowers the target. It also returns the configs of the bases, even when there are errors.
    pub(super) async fn target(
        mut self,
        globals: &BTreeMap<String, String>,
    ) -> (LowerResult<Lowered>, Bases) {
        let outcome = self.state_of_target(globals).await;
        let bases = std::mem::take(&mut self.bases);
        let mut errors = std::mem::take(&mut self.errors);
        let state = match outcome {
            Ok(state) => Some(state),
            Err(LowerError::Text(more)) => {
                errors.extend(more);
                None
            }
            // Errors of the text come first.
            Err(_) if !errors.is_empty() => None,
            Err(other) => return (Err(other), bases),
        };
        errors.sort_by_key(|d| d.span.start);
        // A wrong reference can give an error when stages are ordered, and another one when it is used.
        let about_order = ["cycle", "forward-reference", "invalid-stage"];
        errors.dedup_by(|d, earlier| {
            d.span == earlier.span && (d.message == earlier.message || about_order.contains(&earlier.code))
        });
        let outcome = match state {
            Some(state) if errors.is_empty() => Ok(self.finish(state)),
            _ => Err(errors.into()),
        };
        (outcome, bases)
    }

    async fn state_of_target(&mut self, globals: &BTreeMap<String, String>) -> LowerResult<StageState> {
        let target = self.file.target(self.options.target.as_deref())?;
        let predefined = super::predefined_arguments(globals, self.file, target, self.options);
        let (scope, errors) = self.file.global_scope_with_errors(&predefined, &self.options.build_args);
        let is_complete = errors.is_empty();
        self.keep_errors(errors)?;
        let (expanded, mut errors) = self.file.bases_with_errors(&scope);
        // A value may only be empty because of a wrong default.
        errors.retain(|error| is_complete || error.code == "expansion");
        self.keep_errors(errors)?;
        let mut bases = Vec::new();
        for (stage, mut base) in self.file.stages.iter().zip(expanded) {
            let is_undefined = |variables: &Variables| !variables.undefined.is_empty();
            if !is_complete && (is_undefined(&base.image_variables) || is_undefined(&base.platform_variables))
            {
                base.image.clear();
            }
            let platform =
                base.platform.as_ref().map(|text| text.parse()).transpose().unwrap_or_else(|e: Error| {
                    let word = stage.from.platform.as_ref().unwrap_or(&stage.from.image);
                    self.errors.push(Diagnostic::error("invalid-platform", word.span, e.message()));
                    base.image.clear();
                    None
                });
            let platform = platform.unwrap_or_else(|| self.target_platform());
            bases.push(StageBase { image: base.image, platform });
        }
        let names: Vec<String> = bases.iter().map(|b| b.image.clone()).collect();
        if let Some(state) = self.replaced(target, &bases[target]).await? {
            return Ok(state);
        }
        let (plan, triggers) = self.plan(target, &bases, &names).await?;
        for index in &plan.order {
            let stage = &self.file.stages[*index];
            let onbuild = triggers.get(index).cloned().unwrap_or_default();
            let state = self.stage(*index, &bases[*index], &plan, &scope.values, onbuild).await?;
            self.stages.insert(stage.index, state);
        }
        match self.stages.remove(&target) {
            Some(state) => Ok(state),
            // When the target cannot be ordered, there is an error about that.
            None if !self.errors.is_empty() => Err(std::mem::take(&mut self.errors).into()),
            None => Err(Error::internal("the target was not lowered").into()),
        }
    }

    /// Fails with errors, or keeps them for the end when the mode goes on after errors.
    fn keep_errors(&mut self, errors: Vec<Diagnostic>) -> LowerResult<()> {
        if self.mode == LowerMode::Target && !errors.is_empty() {
            return Err(errors.into());
        }
        self.errors.extend(errors);
        Ok(())
    }

    /// The state of a stage that a named context replaces, without its instructions.
    async fn replaced(&mut self, index: usize, base: &StageBase) -> LowerResult<Option<StageState>> {
        let Some(name) = self.file.stages[index].name() else { return Ok(None) };
        let Some(named) = self.named(name, &base.platform).await? else { return Ok(None) };
        let state = match &named {
            Resolved::Folder(context) => self.folder_base(name, &base.platform, context),
            Resolved::Scratch => self.scratch(&base.platform),
            Resolved::Image { config, .. } => {
                if let Some(created) = config.created.as_deref().and_then(parse_rfc3339) {
                    self.newest_base = self.newest_base.max(Some(created));
                }
                let vertex = self.image_vertex(&named);
                StageState::new(vertex, (**config).clone())
            }
        };
        Ok(Some(state))
    }

    fn finish(self, mut state: StageState) -> Lowered {
        for (name, value) in &self.options.labels {
            state.container().labels.insert(name.clone(), value.clone());
        }
        self.set_platform(&mut state.config);
        Lowered {
            graph: self.graph,
            root: state.vertex,
            config: state.config,
            history: state.history,
            newest_base: self.newest_base,
            epoch: None,
        }
    }

    /// The stages to lower, and the ONBUILD triggers of base images, which may need further stages.
    async fn plan(
        &mut self,
        target: usize,
        bases: &[StageBase],
        names: &[String],
    ) -> LowerResult<(Plan, BTreeMap<usize, Vec<Statement>>)> {
        let mut triggers = BTreeMap::new();
        loop {
            let (mut plan, errors) = self.file.plan_with_errors(target, names, &triggers);
            match self.mode {
                LowerMode::Target if !errors.is_empty() => return Err(errors.into()),
                LowerMode::Target => {}
                LowerMode::BestEffort => {
                    let possible = possible(&plan);
                    plan.order.retain(|index| possible.binary_search(index).is_ok());
                }
                LowerMode::AllStages => plan.order = possible(&plan),
            }
            let known = triggers.len();
            for index in plan.order.clone() {
                let base = &bases[index];
                if triggers.contains_key(&index) {
                    continue;
                }
                // A named context may replace a stage, too.
                let resolved = match (&plan.bases[index], self.named(&base.image, &base.platform).await?) {
                    (_, Some(named)) => named,
                    (StageRef::Name(name), None) => {
                        let word = &self.file.stages[index].from.image;
                        self.resolve(name, &base.platform, word).await?
                    }
                    _ => continue,
                };
                let found = match resolved {
                    Resolved::Image { config, .. } => self.triggers(index, &config.config.on_build),
                    Resolved::Folder(_) | Resolved::Scratch => Vec::new(),
                };
                triggers.insert(index, found);
            }
            if triggers.len() == known {
                self.errors.extend(errors);
                return Ok((plan, triggers));
            }
        }
    }

    async fn stage(
        &mut self,
        index: usize,
        base: &StageBase,
        plan: &Plan,
        globals: &BTreeMap<String, String>,
        mut onbuild: Vec<Statement>,
    ) -> LowerResult<StageState> {
        let file = self.file;
        let stage = &file.stages[index];
        let named = self.named(&base.image, &base.platform).await?;
        let from_within = named.is_none() && !matches!(plan.bases[index], StageRef::Name(_));
        let mut state = match (&plan.bases[index], named) {
            (StageRef::Stage(from), None) => {
                let from = self.stages.get(from).ok_or_else(|| Error::internal("a stage is out of order"))?;
                let mut state = from.inherit();
                onbuild.extend(self.triggers(index, &std::mem::take(&mut state.container().on_build)));
                state
            }
            // `scratch` is for the platform of the build, whatever FROM says.
            (StageRef::Scratch, None) => self.scratch(&self.target_platform()),
            (_, Some(Resolved::Scratch)) => self.scratch(&base.platform),
            (_, Some(Resolved::Folder(name))) => {
                let state = self.folder_base(&base.image, &base.platform, &name);
                self.bases.insert(index, state.config.clone());
                state
            }
            (_, named) => {
                let resolved = match named {
                    Some(image) => image,
                    None => self.resolve(&base.image, &base.platform, &stage.from.image).await?,
                };
                let Resolved::Image { config, .. } = &resolved else {
                    return Err(self
                        .error(&stage.from.image, "a folder cannot be the base of a stage")
                        .into());
                };
                let mut config = (**config).clone();
                if let Some(created) = config.created.as_deref().and_then(parse_rfc3339) {
                    self.newest_base = self.newest_base.max(Some(created));
                }
                self.bases.insert(index, config.clone());
                config.config.on_build.clear();
                let vertex = self.image_vertex(&resolved);
                let platform = config.platform();
                let mut state = StageState::new(vertex, config);
                let is_known = !platform.os.is_empty() && !platform.architecture.is_empty();
                state.base_platform = Some(platform).filter(|_| is_known);
                state
            }
        };
        let layers = onbuild.iter().chain(&stage.statements).filter(|s| changes_files(&s.instruction));
        // An image counts as a step; another stage and `scratch` do not.
        let from_image = usize::from(!from_within);
        self.position = (stage.display_name(), from_image, from_image + layers.count());
        self.no_cache = self.options.no_cache
            || self
                .options
                .no_cache_filter
                .iter()
                .any(|filter| stage.name().is_some_and(|name| name.eq_ignore_ascii_case(filter)));
        let from = stage.from.image.span;
        let of_base = onbuild.iter().map(|statement| (statement, Some(from)));
        for (statement, base) in of_base.chain(stage.statements.iter().map(|statement| (statement, None))) {
            self.base_of_trigger = base;
            match self.statement(index, &mut state, statement, globals).await {
                // All errors of a file are reported at once.
                Err(LowerError::Text(errors)) => {
                    self.errors.extend(errors.into_iter().map(|error| match base {
                        Some(from) => trigger::at_base(error, &statement.display(), from),
                        None => error,
                    }))
                }
                other => other?,
            }
        }
        self.base_of_trigger = None;
        Ok(state)
    }

    /// The triggers of the base of a stage.
    fn triggers(&mut self, stage: usize, texts: &[String]) -> Vec<Statement> {
        let from = self.file.stages[stage].from.image.span;
        let mut found = Vec::new();
        for text in texts {
            match trigger::parse(text, from) {
                Ok(statement) => found.push(statement),
                Err(error) => self.errors.push(error),
            }
        }
        found
    }

    fn scratch(&mut self, platform: &Platform) -> StageState {
        let vertex = self.graph.add(Op::Source(SourceOp::Scratch), vec![], "scratch");
        let mut config = ImageConfig::empty(platform);
        config.config.working_dir = if windows::is_for(&config) { "\\" } else { "/" }.to_owned();
        StageState::new(vertex, config)
    }

    /// The platform that the image is built for.
    fn target_platform(&self) -> Platform {
        self.options.platform.clone().unwrap_or_else(Platform::host)
    }

    /// Sets the platform of the config to that of the request, in normal form, whatever the platforms of the bases are.
    fn set_platform(&self, config: &mut ImageConfig) {
        if let Some(wanted) = &self.options.platform {
            let is_other = (&wanted.os, &wanted.architecture) != (&config.os, &config.architecture);
            config.os.clone_from(&wanted.os);
            config.architecture.clone_from(&wanted.architecture);
            if is_other || wanted.variant.is_some() {
                config.variant.clone_from(&wanted.variant);
            }
            if is_other || wanted.os_version.is_some() {
                config.os_version.clone_from(&wanted.os_version);
            }
            if !wanted.os_features.is_empty() {
                config.os_features.clone_from(&wanted.os_features);
            }
        }
        let normal = config.platform();
        (config.os, config.architecture, config.variant) = (normal.os, normal.architecture, normal.variant);
    }

    /// A base that is a folder: one layer with the files.
    fn folder_base(&mut self, shown: &str, platform: &Platform, context: &str) -> StageState {
        let mut state = self.scratch(platform);
        let files = self.folder(context);
        let copy = CopyAction {
            input: 1,
            sources: vec!["/".to_owned()],
            destination: "/".to_owned(),
            chown: None,
            chmod: None,
            parents: false,
            exclude: Vec::new(),
            unpack: None,
            add: false,
        };
        let op = Op::File(FileOp { actions: vec![FileAction::Copy(Box::new(copy))], link: false });
        let name = format!("FROM {shown}");
        state.vertex = self.graph.add(op, vec![state.vertex, files], name.clone());
        state.record(name, true);
        state
    }

    /// The vertex of a source that is fetched. `shown` is its address in the text.
    pub(super) fn remote(&mut self, source: SourceOp, shown: &str) -> VertexId {
        self.graph.add(Op::Source(source), vec![], format!("fetch {}", without_password(shown)))
    }

    async fn statement(
        &mut self,
        index: usize,
        state: &mut StageState,
        statement: &Statement,
        globals: &BTreeMap<String, String>,
    ) -> LowerResult<()> {
        let is_out_of_reach = match &statement.instruction {
            Instruction::Run(_) => windows::is_for(&state.config),
            other => changes_files(other) && windows::has_layers(&state.config),
        };
        if is_out_of_reach {
            return Err(windows::cannot_change_files(statement).into());
        }
        let expanded = statement.instruction.expand(self.escape(), &state.variables)?.instruction;
        match &expanded {
            Instruction::Run(run) => self.run(index, state, statement, run).await,
            Instruction::Copy(copy) => self.copy(index, state, statement, copy).await,
            Instruction::Add(add) => self.add(state, statement, add),
            Instruction::Workdir(workdir) => self.workdir(state, statement, workdir),
            Instruction::Arg(arg) => self.arg(state, statement, arg, globals),
            other => self.configure(state, statement, other),
        }
    }

    /// Adds a vertex that makes a layer.
    pub(super) fn layer(
        &mut self,
        state: &mut StageState,
        statement: &Statement,
        op: Op,
        inputs: Vec<VertexId>,
        created_by: String,
    ) {
        let (stage, number, total) = &mut self.position;
        *number += 1;
        let name = format!("[{stage} {number}/{total}] {}", without_passwords(&statement.display()));
        let runs = matches!(op, Op::Exec(_));
        let vertex = self.graph.add(op, inputs, name);
        if let Some(platform) = state.base_platform.as_ref().filter(|_| runs) {
            self.graph.set_platform(vertex, platform.clone());
        }
        if self.no_cache {
            self.graph.set_no_cache(vertex);
        }
        // The text of a trigger is in the config of a base image, not in this file.
        let source = &self.file.source;
        if source.slice(statement.name.span) == statement.name.value {
            let line = source.position(statement.span.start).line;
            self.graph.set_origin(vertex, format!("{}:{line}", source.name()));
        }
        state.vertex = vertex;
        state.record(created_by, true);
    }

    /// The vertex of a `--from`, or of the `from` of a mount. An image is for the platform of the build, not for that of the
    /// stage that uses it.
    pub(super) async fn input(&mut self, stage: usize, name: &Word, numbers: bool) -> LowerResult<VertexId> {
        let platform = self.target_platform();
        if let Some(resolved) = self.named(&name.value, &platform).await? {
            return self.files_of(&resolved, name);
        }
        match self.file.resolve(&Reference { name: name.clone(), numbers })? {
            StageRef::Stage(index) => match self.stages.get(&index) {
                Some(state) if index < stage && windows::has_layers(&state.config) => {
                    Err(windows::cannot_use_files(name).into())
                }
                Some(state) if index < stage => Ok(state.vertex),
                _ => Err(self.error(name, "this stage does not stand above").into()),
            },
            StageRef::Scratch => Ok(self.graph.add(Op::Source(SourceOp::Scratch), vec![], "scratch")),
            StageRef::Name(image) => {
                let resolved = self.resolve(&image, &platform, name).await?;
                self.files_of(&resolved, name)
            }
        }
    }

    /// The vertex with the files of an image or folder. `name` is the word in the text.
    fn files_of(&mut self, resolved: &Resolved, name: &Word) -> LowerResult<VertexId> {
        match resolved {
            Resolved::Image { config, .. } if windows::has_layers(config) => {
                Err(windows::cannot_use_files(name).into())
            }
            _ => Ok(self.image_vertex(resolved)),
        }
    }

    /// The files of the main build context.
    pub(super) fn main_context(&mut self) -> VertexId {
        self.folder("")
    }

    fn folder(&mut self, name: &str) -> VertexId {
        let shown = if name.is_empty() { "build context".to_owned() } else { format!("context {name}") };
        self.graph.add(Op::Source(SourceOp::Folder { name: name.to_owned() }), vec![], shown)
    }

    fn image_vertex(&mut self, resolved: &Resolved) -> VertexId {
        match resolved {
            Resolved::Image { reference, manifest, .. } => {
                let source = SourceOp::Image { reference: reference.clone(), manifest: manifest.clone() };
                self.graph.add(Op::Source(source), vec![], format!("FROM {reference}"))
            }
            Resolved::Folder(context) => self.folder(context),
            Resolved::Scratch => self.graph.add(Op::Source(SourceOp::Scratch), vec![], "scratch"),
        }
    }

    async fn named(&mut self, name: &str, platform: &Platform) -> LowerResult<Option<Resolved>> {
        // The main context has an empty name, and so has a FROM with an error.
        if name.is_empty() {
            return Ok(None);
        }
        Ok(self.resolver.context(name, platform).await?)
    }

    async fn resolve(&mut self, name: &str, platform: &Platform, word: &Word) -> LowerResult<Resolved> {
        let key = (name.to_owned(), platform.to_string());
        if let Some(known) = self.images.get(&key) {
            return Ok(known.clone());
        }
        let found = match self.named(name, platform).await? {
            Some(found) => found,
            None => {
                // A malformed name is an error of the text: no registry is asked.
                match crate::reference::Reference::parse(name) {
                    Ok(_) => self.resolver.image(name, platform).await.map_err(|e| self.at(word, e))?,
                    Err(e) => {
                        // The expansion has reported an empty name.
                        let error = self.unresolved(word).with_help(e.message());
                        self.keep_errors(if name.is_empty() { vec![] } else { vec![error] })?;
                        Resolved::unknown(name, platform)
                    }
                }
            }
        };
        self.images.insert(key, found.clone());
        Ok(found)
    }

    /// An error of the resolver, with the place in the text.
    fn at(&self, word: &Word, error: Error) -> Error {
        let text = self.unresolved(word).to_error(&self.file.source);
        let retryable = error.is_retryable();
        text.with_kind(error.kind()).with_retryable(retryable).with_source(error)
    }

    fn unresolved(&self, word: &Word) -> Diagnostic {
        let mut message = format!("`{}` cannot be resolved", word.value);
        let is_below = |index: usize| self.file.stages[index].statement.span.start > word.span.start;
        if self.file.stage_by_name(&word.value).is_some_and(is_below) {
            message.push_str(&format!(
                " as an image, and the stage `{}` begins only below: a stage can use the stages above it",
                word.value
            ));
        } else if let Some(near) = self.file.similar_stage(&word.value) {
            message.push_str(&format!(": did you mean the stage `{near}`?"));
        }
        Diagnostic::error("image", self.base_of_trigger.unwrap_or(word.span), message)
    }

    pub(super) fn escape(&self) -> char {
        self.file.directives.escape
    }

    pub(super) fn error(&self, word: &Word, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error("instruction", word.span, message)
    }
}

/// Whether an instruction makes a layer.
fn changes_files(instruction: &Instruction) -> bool {
    match instruction {
        Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_) => true,
        Instruction::From(_)
        | Instruction::Env(_)
        | Instruction::Arg(_)
        | Instruction::User(_)
        | Instruction::Cmd(_)
        | Instruction::Entrypoint(_)
        | Instruction::Label(_)
        | Instruction::Expose(_)
        | Instruction::Volume(_)
        | Instruction::Stopsignal(_)
        | Instruction::Shell(_)
        | Instruction::Healthcheck(_)
        | Instruction::Onbuild(_)
        | Instruction::Maintainer(_) => false,
    }
}

/// The stages that use only stages above them. The others are allowed unless they are needed.
fn possible(plan: &Plan) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::with_capacity(plan.uses.len());
    for (index, uses) in plan.uses.iter().enumerate() {
        if uses.iter().all(|used| *used < index && order.binary_search(used).is_ok()) {
            order.push(index);
        }
    }
    order
}
