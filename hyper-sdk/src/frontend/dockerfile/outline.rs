//! The targets of a Dockerfile, and the arguments, secrets and caches of one of them.

use super::{platform_arguments, predefined_arguments};
use crate::Result;
use crate::dockerfile::{Dockerfile, Expander, Instruction, MountKind, Stage, StageRef, Statement};
use crate::frontend::FrontendOptions;
use base64::Engine as _;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A stage that can be built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// The name, in lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The number, from zero.
    pub index: usize,
    /// The description in the comment above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The base, as written.
    pub base: String,
    /// The platform, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Whether it is the default target.
    pub default: bool,
    /// The line of its FROM, from one.
    #[serde(rename = "location", serialize_with = "location")]
    pub line: usize,
}

/// The stages of a file, and its text. It serialises as `docker buildx build --call=targets,format=json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Targets {
    /// The stages, in the order of the file.
    pub targets: Vec<Target>,
    /// The texts that the locations refer to.
    #[serde(serialize_with = "texts")]
    pub sources: Vec<String>,
}

/// The stages of a file.
pub(crate) fn targets(file: &Dockerfile) -> Targets {
    let targets = file
        .stages
        .iter()
        .map(|stage| Target {
            name: stage.name().map(str::to_owned),
            index: stage.index,
            description: stage
                .name()
                .and_then(|name| stage.statement.description(name))
                .map(|text| text.trim().to_owned()),
            base: stage.from.image.value.clone(),
            platform: stage.from.platform.as_ref().map(|word| word.value.clone()),
            default: stage.index + 1 == file.stages.len(),
            line: file.source.line_of(stage.statement.span.start),
        })
        .collect();
    Targets { targets, sources: vec![file.source.text().to_owned()] }
}

/// An argument that the target uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Argument {
    /// The name.
    pub name: String,
    /// The value: the build argument, else the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The description in the comment above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The line of the declaration, from one.
    #[serde(rename = "location", serialize_with = "location")]
    pub line: usize,
}

/// A secret or ssh agent that the target uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SecretUse {
    /// The id.
    pub name: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// The line of the first use, from one.
    #[serde(rename = "location", serialize_with = "location")]
    pub line: usize,
}

/// A cache mount of the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheMount {
    /// The id, or the path when it has no id.
    #[serde(rename = "ID")]
    pub id: String,
    /// The line of the first use, from one.
    #[serde(rename = "location", serialize_with = "location")]
    pub line: usize,
}

/// Writes a line as the location that other tools write.
fn location<S: serde::Serializer>(line: &usize, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let place = serde_json::json!({ "line": line });
    serde_json::json!({ "ranges": [{ "start": place, "end": place }] }).serialize(serializer)
}

/// Writes texts as other tools write bytes: in base64.
fn texts<S: serde::Serializer>(texts: &[String], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(texts.iter().map(|text| base64::engine::general_purpose::STANDARD.encode(text)))
}

/// The inputs of a target. It serialises as the outline of `docker buildx build --call=outline,format=json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outline {
    /// The target's name, or its number.
    pub name: String,
    /// The description in the comment above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Arguments, in the order of the file.
    #[serde(rename = "args")]
    pub arguments: Vec<Argument>,
    /// Secrets, in the order of their first use.
    pub secrets: Vec<SecretUse>,
    /// Agents, in the order of their first use.
    pub ssh: Vec<SecretUse>,
    /// Caches, in the order of their first use.
    #[serde(rename = "cache")]
    pub caches: Vec<CacheMount>,
    /// The texts that the locations refer to.
    #[serde(serialize_with = "texts")]
    pub sources: Vec<String>,
}

/// The outline of the target that the options name. No image is looked up.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] for a target that does not exist; the errors of a file whose stages cannot be ordered.
pub(crate) fn outline(file: &Dockerfile, options: &FrontendOptions) -> Result<Outline> {
    let target = file.target(options.target.as_deref())?;
    let predefined = predefined_arguments(&platform_arguments(options), file, target, options);
    let to_error = |errors: Vec<crate::dockerfile::Diagnostic>| {
        crate::dockerfile::to_error(&errors, &file.source)
            .unwrap_or_else(|| crate::Error::internal("an outline failed without an error"))
    };
    let scope = file.global_scope(&predefined, &options.build_args).map_err(to_error)?;
    let expander = Expander::new(file.directives.escape);
    let images: Vec<String> = file
        .stages
        .iter()
        .map(|stage| {
            let written = &stage.from.image.value;
            expander.word(written, &scope.values).map_or_else(|_| written.clone(), |expanded| expanded.text)
        })
        .collect();
    let plan = file.plan(target, &images, &BTreeMap::new()).map_err(to_error)?;
    let stage = &file.stages[target];
    let mut collected = Collected { file, outline: Outline::default() };
    collected.outline.name = stage.name().map_or_else(|| target.to_string(), str::to_owned);
    collected.outline.description =
        stage.name().and_then(|n| stage.statement.description(n)).map(|text| text.trim().to_owned());
    collected.outline.sources = vec![file.source.text().to_owned()];
    let used = used_globals(file, &plan.order, &expander, &scope.values, options);
    for statement in &file.global_args {
        collected.arguments(statement, &scope.values, options, |name| used.contains(name));
    }
    let mut environments: BTreeMap<usize, BTreeMap<String, String>> = BTreeMap::new();
    for index in plan.order {
        let mut environment = match plan.bases[index] {
            StageRef::Stage(below) => environments.get(&below).cloned().unwrap_or_default(),
            _ => BTreeMap::new(),
        };
        collected.stage(&file.stages[index], &mut environment, &scope.values, options);
        environments.insert(index, environment);
    }
    collected.outline.arguments.sort_by_key(|argument| argument.line);
    Ok(collected.outline)
}

/// The global arguments that stages use: in FROM, by an ARG of their own, or in the default of one that is used.
fn used_globals(
    file: &Dockerfile,
    stages: &[usize],
    expander: &Expander,
    values: &BTreeMap<String, String>,
    options: &FrontendOptions,
) -> BTreeSet<String> {
    let uses = |text: &str| expander.word(text, values).map(|e| e.variables.used).unwrap_or_default();
    let mut used = BTreeSet::new();
    for stage in stages.iter().map(|index| &file.stages[*index]) {
        used.extend(uses(&stage.from.image.value));
        used.extend(stage.from.platform.iter().flat_map(|word| uses(&word.value)));
        for statement in &stage.statements {
            if let Instruction::Arg(arg) = &statement.instruction {
                used.extend(arg.variables.iter().map(|variable| variable.name.value.clone()));
            }
        }
    }
    // A default uses the arguments before it.
    for statement in file.global_args.iter().rev() {
        let Instruction::Arg(arg) = &statement.instruction else { continue };
        for variable in arg.variables.iter().rev() {
            let name = &variable.name.value;
            if let Some(default) = &variable.default
                && used.contains(name)
                && !options.build_args.contains_key(name)
            {
                used.extend(uses(&default.value));
            }
        }
    }
    used
}

struct Collected<'a> {
    file: &'a Dockerfile,
    outline: Outline,
}

impl Collected<'_> {
    fn line(&self, statement: &Statement) -> usize {
        self.file.source.line_of(statement.span.start)
    }

    /// Notes the arguments of one ARG with the values of the scope. An argument with a value replaces an earlier one of its
    /// name, as in a stage that is based on another.
    fn arguments(
        &mut self,
        statement: &Statement,
        values: &BTreeMap<String, String>,
        options: &FrontendOptions,
        counts: impl Fn(&str) -> bool,
    ) {
        let Instruction::Arg(arg) = &statement.instruction else { return };
        for variable in arg.variables.iter().filter(|variable| counts(&variable.name.value)) {
            let name = &variable.name.value;
            let value = options.build_args.get(name).or_else(|| values.get(name)).cloned();
            let description = statement.description(name).map(|text| text.trim().to_owned());
            let line = self.line(statement);
            let is_set = variable.default.is_some() || options.build_args.contains_key(name);
            match self.outline.arguments.iter_mut().find(|known| known.name == *name) {
                Some(known) => {
                    if is_set {
                        known.line = line;
                        known.value = None;
                        known.description = description.clone().or(known.description.take());
                    }
                    known.value = known.value.take().or(value);
                    known.description = known.description.take().or(description);
                }
                None => {
                    self.outline.arguments.push(Argument { name: name.clone(), value, description, line });
                }
            }
        }
    }

    fn stage(
        &mut self,
        stage: &Stage,
        environment: &mut BTreeMap<String, String>,
        globals: &BTreeMap<String, String>,
        options: &FrontendOptions,
    ) {
        let escape = self.file.directives.escape;
        for statement in &stage.statements {
            match &statement.instruction {
                Instruction::Arg(arg) => {
                    for variable in &arg.variables {
                        let name = &variable.name.value;
                        let default = variable.default.as_ref().and_then(|default| {
                            Expander::new(escape).word(&default.value, &*environment).ok().map(|e| e.text)
                        });
                        let given = options.build_args.get(name).cloned();
                        if let Some(value) = given.or(default).or_else(|| globals.get(name).cloned()) {
                            environment.insert(name.clone(), value);
                        }
                    }
                    self.arguments(statement, environment, options, |_| true);
                }
                Instruction::Env(_) => {
                    if let Ok(expansion) = statement.instruction.expand(escape, &*environment)
                        && let Instruction::Env(env) = expansion.instruction
                    {
                        environment.extend(env.pairs.into_iter().map(|p| (p.key.value, p.value.value)));
                    }
                }
                Instruction::Run(run) => {
                    let Ok((mounts, _)) = run.mounts(escape, &*environment) else { continue };
                    for mount in mounts {
                        self.mount(statement, &mount);
                    }
                }
                _ => {}
            }
        }
    }

    fn mount(&mut self, statement: &Statement, mount: &crate::dockerfile::Mount) {
        let line = self.line(statement);
        let file_name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        match mount.kind {
            MountKind::Secret | MountKind::Ssh => {
                let secret = mount.kind == MountKind::Secret;
                let other = || mount.source.clone().or_else(|| mount.target.as_ref().map(file_name));
                let name = match (secret, mount.id.clone()) {
                    (_, Some(id)) => id,
                    (true, None) => other().unwrap_or_default(),
                    (false, None) => "default".to_owned(),
                };
                let list = if secret { &mut self.outline.secrets } else { &mut self.outline.ssh };
                match list.iter_mut().find(|known| known.name == name) {
                    Some(known) => known.required |= mount.required,
                    None => list.push(SecretUse { name, required: mount.required, line }),
                }
            }
            MountKind::Cache => {
                let Some(id) = mount.id.clone().or_else(|| mount.target.clone()) else { return };
                if !self.outline.caches.iter().any(|known| known.id == id) {
                    self.outline.caches.push(CacheMount { id, line });
                }
            }
            MountKind::Bind | MountKind::Tmpfs => {}
        }
    }
}
