//! The stages of a file: their bases, the stages that they use, and the stages that a target needs in order.
//!
//! A stage can use the stages above it. A use of a stage below is an error, and a use that leads back to the stage is a
//! cycle. A name that is not a stage is an image or a named context, which only the caller can distinguish.

use super::ast::{Ast, Keyword, Node};
use super::convert::Converter;
use super::diagnostic::Diagnostic;
use super::directive::Directives;
use super::instruction::{Arg, From, Instruction, Run, Statement};
use super::mount;
use super::span::{Source, Span, Word};
use super::suggest::suggestion;
use crate::{Error, ErrorKind, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The most stages that an error lists.
const MOST_LISTED: usize = 30;

/// A stage: a FROM and what follows it.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The number, from zero.
    pub index: usize,
    /// The FROM, typed.
    pub from: From,
    /// The FROM as a statement.
    pub statement: Statement,
    /// The instructions after it.
    pub statements: Vec<Statement>,
}

impl Stage {
    /// The name, in lower case.
    pub fn name(&self) -> Option<&str> {
        self.from.name.as_ref().map(Word::as_str)
    }

    /// The name, or `stage-N`, for progress messages.
    pub fn display_name(&self) -> String {
        self.name().map_or_else(|| format!("stage-{}", self.index), str::to_owned)
    }
}

/// The meaning of a FROM, a `--from` or the `from` of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StageRef {
    /// A stage of the file. A named context of that name replaces it.
    Stage(usize),
    /// The empty base.
    Scratch,
    /// A named context or an image.
    Name(String),
}

/// A use of a stage by an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The name as written.
    pub name: Word,
    /// Whether a number is the number of a stage (COPY), or a name like any other (mounts).
    pub numbers: bool,
}

/// A parsed file.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    /// The text.
    pub source: Source,
    /// The directives at the top.
    pub directives: Directives,
    /// The ARG instructions before the first FROM.
    pub global_args: Vec<Statement>,
    /// The stages.
    pub stages: Vec<Stage>,
    /// The empty lines inside continued instructions.
    pub empty_continuations: Vec<Span>,
    /// Whether an instruction that others depend on could not be parsed. The others cannot be checked then.
    pub(crate) damaged: bool,
    /// The numbers of the stages of a name, ascending.
    names: HashMap<String, Vec<usize>>,
}

/// The stages that a target needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The target.
    pub target: usize,
    /// The stages to build, each after those that it uses. The target is the last one.
    pub order: Vec<usize>,
    /// The base of every stage of the file.
    pub bases: Vec<StageRef>,
    /// The stages that every stage of the file uses directly, including its base.
    pub uses: Vec<BTreeSet<usize>>,
}

/// Whether other instructions may depend on an instruction that could not be parsed.
fn matters_to_others(node: &Node) -> bool {
    let meant = || Keyword::parse(suggestion(&node.name.value, Keyword::ALL.map(Keyword::name))?);
    let keyword = node.keyword.or_else(meant);
    matches!(keyword, Some(Keyword::From | Keyword::Arg | Keyword::Env | Keyword::Workdir | Keyword::Onbuild))
}

impl Dockerfile {
    pub(crate) fn build(source: Source, ast: Ast, diagnostics: &mut Vec<Diagnostic>) -> Self {
        let directives = ast.directives;
        let empty_lines = diagnostics.iter().filter(|d| d.code == "NoEmptyContinuation");
        let mut file = Self {
            source,
            directives,
            global_args: Vec::new(),
            stages: Vec::new(),
            empty_continuations: empty_lines.map(|d| d.span).collect(),
            damaged: false,
            names: HashMap::new(),
        };
        let mut seen_from = false;
        // Whether the last FROM could be parsed. Otherwise the instructions after it belong to no stage.
        let mut in_stage = false;
        for node in &ast.nodes {
            let escape = file.directives.escape;
            let statement = Converter { escape, diagnostics }.statement(node);
            if node.keyword == Some(Keyword::From) {
                seen_from = true;
                in_stage = statement.is_some();
            }
            let Some(statement) = statement else {
                file.damaged = file.damaged || matters_to_others(node);
                continue;
            };
            match (&statement.instruction, seen_from) {
                (Instruction::From(from), _) => {
                    let from = from.clone();
                    let index = file.stages.len();
                    if let Some(name) = &from.name {
                        file.names.entry(name.value.clone()).or_default().push(index);
                    }
                    file.stages.push(Stage { index, from, statement, statements: Vec::new() });
                }
                (Instruction::Arg(_), false) => file.global_args.push(statement),
                (_, false) => diagnostics.push(
                    Diagnostic::error(
                        "no-stage",
                        statement.name.span,
                        format!("{} before the first FROM", statement.instruction.keyword().name()),
                    )
                    .with_help("only ARG may stand before FROM"),
                ),
                (_, true) if in_stage => {
                    if let Some(stage) = file.stages.last_mut() {
                        stage.statements.push(statement);
                    }
                }
                (_, true) => {}
            }
        }
        if !seen_from && !diagnostics.iter().any(Diagnostic::is_error) {
            let end = Span::new(file.source.text().len(), file.source.text().len());
            diagnostics.push(
                Diagnostic::error("no-stage", end, "the file has no stage to build")
                    .with_help("start a stage with `FROM image`, or `FROM scratch` for an empty base"),
            );
        }
        file
    }

    /// The variables of the global scope, in order, each with its statement.
    pub(crate) fn global_variables(&self) -> impl Iterator<Item = (&Statement, &Arg)> {
        self.global_args.iter().filter_map(|s| match &s.instruction {
            Instruction::Arg(arg) => Some((s, arg)),
            _ => None,
        })
    }

    /// Adds a name of a stage for FROM and `from`. It hides stages and images of that name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such stage, with the nearest name.
    #[cfg(feature = "build")]
    pub(crate) fn alias_stage(&mut self, alias: &str, stage: &str) -> Result<()> {
        let index = self.target(Some(stage))?;
        self.names.insert(alias.to_lowercase(), vec![index]);
        Ok(())
    }

    /// The number of the last stage of a name, in any case.
    pub fn stage_by_name(&self, name: &str) -> Option<usize> {
        self.names.get(&name.to_lowercase())?.last().copied()
    }

    /// The stage that `--target` names, by name or number, or the last one.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] with the nearest name, the stages and the file.
    pub fn target(&self, target: Option<&str>) -> Result<usize> {
        let Some(target) = target.filter(|t| !t.is_empty()) else {
            return self
                .stages
                .len()
                .checked_sub(1)
                .ok_or_else(|| Error::invalid(format!("{} has no stage to build", self.source.name())));
        };
        let number = target.parse().ok().filter(|n| *n < self.stages.len());
        self.stage_by_name(target).or(number).ok_or_else(|| {
            let hint = match suggestion(target, self.stages.iter().filter_map(Stage::name)) {
                Some(near) => format!("did you mean `{near}`? The"),
                None => "the".to_owned(),
            };
            // The target of a stage without a name is its number.
            let shown = |stage: &Stage| stage.name().map_or(stage.index.to_string(), str::to_owned);
            let listed = self.stages.iter().take(MOST_LISTED).map(|stage| format!("`{}`", shown(stage)));
            let more = if self.stages.len() > MOST_LISTED { " and others" } else { "" };
            let message = format!(
                "target stage `{target}` could not be found in {}: {hint} stages are {}{more}",
                self.source.name(),
                listed.collect::<Vec<_>>().join(", ")
            );
            Error::new(ErrorKind::NotFound, message)
        })
    }

    /// The base of a stage with an expanded FROM: a stage above it, `scratch`, or a name.
    pub fn base(&self, stage: usize, image: &str) -> StageRef {
        let same_name = self.names.get(&image.to_lowercase()).map_or(&[][..], Vec::as_slice);
        match same_name[..same_name.partition_point(|index| *index < stage)].last() {
            Some(above) => StageRef::Stage(*above),
            None if image == "scratch" => StageRef::Scratch,
            None => StageRef::Name(image.to_owned()),
        }
    }

    /// The stages, images and contexts that an instruction uses.
    pub fn references(statement: &Statement) -> Vec<Reference> {
        match &statement.instruction {
            Instruction::Copy(copy) => {
                copy.from.iter().map(|name| Reference { name: name.clone(), numbers: true }).collect()
            }
            Instruction::Run(Run { mounts, .. }) => mounts
                .iter()
                .filter_map(|word| {
                    let name = Word::new(mount::from_of(&word.value)?, word.span);
                    Some(Reference { name, numbers: false })
                })
                .collect(),
            // FROM is looked up by its own rules.
            Instruction::From(_)
            | Instruction::Add(_)
            | Instruction::Env(_)
            | Instruction::Arg(_)
            | Instruction::Workdir(_)
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
            | Instruction::Maintainer(_) => Vec::new(),
        }
    }

    /// The meaning of a reference. The stage can be anywhere in the file.
    ///
    /// # Errors
    /// A number without a stage.
    pub fn resolve(&self, reference: &Reference) -> Result<StageRef, Box<Diagnostic>> {
        let name = &reference.name.value;
        if let (true, Ok(number)) = (reference.numbers, name.parse::<i64>()) {
            return match usize::try_from(number).ok().filter(|n| *n < self.stages.len()) {
                Some(index) => Ok(StageRef::Stage(index)),
                None => Err(Box::new(
                    Diagnostic::error(
                        "invalid-stage",
                        reference.name.span,
                        format!("there is no stage number {name}"),
                    )
                    .with_help(format!("the file has {} stages, counted from 0", self.stages.len())),
                )),
            };
        }
        Ok(match self.stage_by_name(name) {
            Some(index) => StageRef::Stage(index),
            None if name == "scratch" => StageRef::Scratch,
            None => StageRef::Name(name.clone()),
        })
    }

    /// The stage with the nearest name, for a name that is neither a stage, an image nor a context.
    #[cfg(feature = "build")]
    pub(crate) fn similar_stage(&self, name: &str) -> Option<&str> {
        suggestion(name, self.stages.iter().filter_map(Stage::name))
    }

    /// Finds the stages that a target needs, in order.
    ///
    /// `images` has the expanded image of every FROM ([`Dockerfile::bases`]), and `triggers` the ONBUILD triggers of base
    /// images by the number of the stage. The triggers of stages of the file are included.
    ///
    /// # Errors
    /// Every cycle of the file, and every use of a stage below by a stage that the target needs.
    pub fn plan(
        &self,
        target: usize,
        images: &[String],
        triggers: &BTreeMap<usize, Vec<Statement>>,
    ) -> Result<Plan, Vec<Diagnostic>> {
        let (plan, errors) = self.plan_with_errors(target, images, triggers);
        if errors.is_empty() { Ok(plan) } else { Err(errors) }
    }

    /// As [`Dockerfile::plan`], but it goes on after errors: the plan then lacks the wrong uses.
    pub(crate) fn plan_with_errors(
        &self,
        target: usize,
        images: &[String],
        triggers: &BTreeMap<usize, Vec<Statement>>,
    ) -> (Plan, Vec<Diagnostic>) {
        let mut errors = Vec::new();
        let mut bases = Vec::with_capacity(self.stages.len());
        let mut uses: Vec<BTreeMap<usize, (Span, String)>> = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            let image = images.get(stage.index).unwrap_or(&stage.from.image.value);
            let base = self.base(stage.index, image);
            let mut used = BTreeMap::new();
            if let StageRef::Stage(index) = base {
                used.insert(index, (stage.from.image.span, stage.from.image.value.clone()));
                for statement in &self.stages[index].statements {
                    if let Instruction::Onbuild(onbuild) = &statement.instruction {
                        self.collect(&onbuild.trigger, None, &mut used, &mut errors);
                    }
                }
            }
            for statement in triggers.get(&stage.index).into_iter().flatten() {
                // The trigger of an image is not in this file: its FROM is marked.
                self.collect(statement, Some(stage.from.image.span), &mut used, &mut errors);
            }
            for statement in &stage.statements {
                self.collect(statement, None, &mut used, &mut errors);
            }
            bases.push(base);
            uses.push(used);
        }
        let mut needed = BTreeSet::new();
        let mut open = vec![target];
        while let Some(index) = open.pop() {
            if index < uses.len() && needed.insert(index) {
                open.extend(uses[index].keys());
            }
        }
        for (index, used) in uses.iter().enumerate() {
            for (other, (span, name)) in used.range(index..) {
                if let Some(error) = self.below(index, *other, *span, name, &uses, &needed) {
                    errors.push(error);
                }
            }
        }
        errors.sort_by_key(|d| d.span.start);
        let uses = uses.into_iter().map(|used| used.into_keys().collect()).collect();
        // Every stage comes after those that it uses, so the order of the file is the order of the build.
        (Plan { target, order: needed.into_iter().collect(), bases, uses }, errors)
    }

    /// The error of a stage that uses itself or one below it.
    fn below(
        &self,
        index: usize,
        other: usize,
        span: Span,
        name: &str,
        uses: &[BTreeMap<usize, (Span, String)>],
        needed: &BTreeSet<usize>,
    ) -> Option<Diagnostic> {
        let stage = self.stages[index].display_name();
        if other == index {
            let message = format!("stage `{stage}` depends on itself");
            return Some(Diagnostic::error("cycle", span, message));
        }
        let place = self.stages[other].statement.span;
        if reaches(other, index, uses) {
            let message = format!("stages `{stage}` and `{name}` depend on each other");
            return Some(Diagnostic::error("cycle", span, message).with_note(place, "the other stage"));
        }
        if !needed.contains(&index) {
            return None;
        }
        let message = format!("stage `{name}` is used before it is defined");
        Some(
            Diagnostic::error("forward-reference", span, message)
                .with_note(place, "defined here")
                .with_help(format!("move stage `{name}` above stage `{stage}`")),
        )
    }

    fn collect(
        &self,
        statement: &Statement,
        place: Option<Span>,
        used: &mut BTreeMap<usize, (Span, String)>,
        errors: &mut Vec<Diagnostic>,
    ) {
        for reference in Self::references(statement) {
            let span = place.unwrap_or(reference.name.span);
            match self.resolve(&reference) {
                Ok(StageRef::Stage(index)) => {
                    used.entry(index).or_insert_with(|| (span, reference.name.value.clone()));
                }
                Ok(_) => {}
                Err(mut d) => {
                    d.span = span;
                    errors.push(*d);
                }
            }
        }
    }
}

/// Whether a stage uses another, directly or not.
fn reaches(from: usize, to: usize, uses: &[BTreeMap<usize, (Span, String)>]) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(index) = open.pop() {
        if index == to {
            return true;
        }
        if seen.insert(index) {
            open.extend(uses[index].keys());
        }
    }
    false
}
