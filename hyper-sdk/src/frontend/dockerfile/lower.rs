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
    /// What the target needs, also behind faults, as far as something is known there.
    BestEffort,
    /// Every stage, also behind faults, as far as something is known there.
    AllStages,
}

/// The work of lowering one target.
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
    /// What is wrong with the text, so far.
    faults: Vec<Diagnostic>,
    /// The FROM that brings the trigger which is lowered now.
    base_of_trigger: Option<Span>,
    bases: Bases,
}

/// What a FROM comes to.
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
            faults: Vec::new(),
            base_of_trigger: None,
            bases: BTreeMap::new(),
        }
    }

    /// Lowers the target; the bases are known whatever else is at fault.
    pub(super) async fn target(
        mut self,
        globals: &BTreeMap<String, String>,
    ) -> (LowerResult<Lowered>, Bases) {
        let outcome = self.state_of_target(globals).await;
        let bases = std::mem::take(&mut self.bases);
        let mut faults = std::mem::take(&mut self.faults);
        let state = match outcome {
            Ok(state) => Some(state),
            Err(LowerError::Text(more)) => {
                faults.extend(more);
                None
            }
            // What is wrong with the text is told first.
            Err(_) if !faults.is_empty() => None,
            Err(other) => return (Err(other), bases),
        };
        faults.sort_by_key(|d| d.span.start);
        // A reference can be found wrong when stages are ordered, and again when it is used.
        let about_order = ["cycle", "forward-reference", "invalid-stage"];
        faults.dedup_by(|d, earlier| {
            d.span == earlier.span && (d.message == earlier.message || about_order.contains(&earlier.code))
        });
        let outcome = match state {
            Some(state) if faults.is_empty() => Ok(self.finish(state)),
            _ => Err(faults.into()),
        };
        (outcome, bases)
    }

    async fn state_of_target(&mut self, globals: &BTreeMap<String, String>) -> LowerResult<StageState> {
        let target = self.file.target(self.options.target.as_deref())?;
        let mut predefined = globals.clone();
        let asked_for = self.options.target.as_deref().filter(|name| !name.is_empty());
        predefined
            .entry("TARGETSTAGE".to_owned())
            .or_insert_with(|| asked_for.or(self.file.stages[target].name()).unwrap_or("default").to_owned());
        let (scope, faults) = self.file.global_scope_with_faults(&predefined, &self.options.build_args);
        let is_complete = faults.is_empty();
        self.go_on_after(faults)?;
        let (expanded, mut faults) = self.file.bases_with_faults(&scope);
        // What comes to nothing may only do so because of a default that is at fault.
        faults.retain(|fault| is_complete || fault.code == "expansion");
        self.go_on_after(faults)?;
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
                    self.faults.push(Diagnostic::error("invalid-platform", word.span, e.message()));
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
            // A target that cannot be ordered has a fault that says so.
            None if !self.faults.is_empty() => Err(std::mem::take(&mut self.faults).into()),
            None => Err(Error::internal("the target was not lowered").into()),
        }
    }

    /// Keeps faults for the end where a check goes on behind them.
    fn go_on_after(&mut self, faults: Vec<Diagnostic>) -> LowerResult<()> {
        if self.mode == LowerMode::Target && !faults.is_empty() {
            return Err(faults.into());
        }
        self.faults.extend(faults);
        Ok(())
    }

    /// The stage as the named context that stands for it: none of its instructions count then.
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

    /// The stages to lower, with the ONBUILD triggers that base images bring: those may need further stages.
    async fn plan(
        &mut self,
        target: usize,
        bases: &[StageBase],
        names: &[String],
    ) -> LowerResult<(Plan, BTreeMap<usize, Vec<Statement>>)> {
        let mut triggers = BTreeMap::new();
        loop {
            let (mut plan, faults) = self.file.plan_with_faults(target, names, &triggers);
            match self.mode {
                LowerMode::Target if !faults.is_empty() => return Err(faults.into()),
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
                // A named context may stand for a stage, too.
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
                self.faults.extend(faults);
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
            // Nothing is for the platform of the build, whatever FROM says.
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
                StageState::new(vertex, config)
            }
        };
        let layers = onbuild.iter().chain(&stage.statements).filter(|s| changes_files(&s.instruction));
        // What an image brings is a step, and what another stage brings is not, and neither is nothing.
        let brought = usize::from(!from_within);
        self.position = (stage.display_name(), brought, brought + layers.count());
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
                // All faults of a file are told at once.
                Err(LowerError::Text(faults)) => {
                    self.faults.extend(faults.into_iter().map(|fault| match base {
                        Some(from) => trigger::at_base(fault, &statement.display(), from),
                        None => fault,
                    }))
                }
                other => other?,
            }
        }
        self.base_of_trigger = None;
        Ok(state)
    }

    /// The triggers that the base of a stage brings.
    fn triggers(&mut self, stage: usize, texts: &[String]) -> Vec<Statement> {
        let from = self.file.stages[stage].from.image.span;
        let mut found = Vec::new();
        for text in texts {
            match trigger::parse(text, from) {
                Ok(statement) => found.push(statement),
                Err(fault) => self.faults.push(fault),
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

    /// Makes the config one of the platform that was asked for, whatever the bases are for, and writes it as usual.
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

    /// A base that is a folder: one layer with its files.
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

    /// The vertex of something that is fetched; `shown` is how the text calls it.
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
            return Err(windows::no_files_in(statement).into());
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
        let vertex = self.graph.add(op, inputs, name);
        if self.no_cache {
            self.graph.set_no_cache(vertex);
        }
        // The text of a trigger is in the configuration of a base image, not in this file.
        let source = &self.file.source;
        if source.slice(statement.name.span) == statement.name.value {
            let line = source.position(statement.span.start).line;
            self.graph.set_origin(vertex, format!("{}:{line}", source.name()));
        }
        state.vertex = vertex;
        state.record(created_by, true);
    }

    /// The vertex that a `--from` or a mount's `from` means. What is no stage is for the platform of the build, not for
    /// that of the stage it is used in.
    pub(super) async fn input(&mut self, stage: usize, name: &Word, numbers: bool) -> LowerResult<VertexId> {
        let platform = self.target_platform();
        if let Some(resolved) = self.named(&name.value, &platform).await? {
            return self.files_of(&resolved, name);
        }
        match self.file.resolve(&Reference { name: name.clone(), numbers })? {
            StageRef::Stage(index) => match self.stages.get(&index) {
                Some(state) if index < stage && windows::has_layers(&state.config) => {
                    Err(windows::no_files_of(name).into())
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

    /// The vertex that has the files of an image or a folder, which `name` asks for.
    fn files_of(&mut self, resolved: &Resolved, name: &Word) -> LowerResult<VertexId> {
        match resolved {
            Resolved::Image { config, .. } if windows::has_layers(config) => {
                Err(windows::no_files_of(name).into())
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
        // No name is that of the main context, and of a FROM that is at fault.
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
                // What is no name is a fault of the text, and no registry needs to be asked.
                match crate::reference::Reference::parse(name) {
                    Ok(_) => self.resolver.image(name, platform).await.map_err(|e| self.at(word, e))?,
                    Err(e) => {
                        // Of an empty one that was said where it was expanded.
                        let fault = self.unresolved(word).with_help(e.message());
                        self.go_on_after(if name.is_empty() { vec![] } else { vec![fault] })?;
                        Resolved::unknown(name, platform)
                    }
                }
            }
        };
        self.images.insert(key, found.clone());
        Ok(found)
    }

    /// An error from outside, with the place in the text that asked for it.
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
                " as an image, and the stage `{}` begins only below: a stage can build on those above it",
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
    matches!(
        instruction,
        Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
    )
}

/// Every stage but those that use a stage below, which is allowed as long as nobody needs them.
fn possible(plan: &Plan) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::with_capacity(plan.uses.len());
    for (index, uses) in plan.uses.iter().enumerate() {
        if uses.iter().all(|used| *used < index && order.binary_search(used).is_ok()) {
            order.push(index);
        }
    }
    order
}
