//! The input of the rules: the file, and its stages with the variables at every instruction.

use super::LintContext;
use crate::dockerfile::{
    Base, Dockerfile, ExpandedValue, Expander, GlobalScope, Instruction, Span, Stage, StageRef, Statement,
    Variables, Word, suggestion,
};
use std::collections::{BTreeMap, BTreeSet};

/// A file with its context and its replayed stages.
pub(super) struct Subject<'a> {
    pub(super) file: &'a Dockerfile,
    pub(super) context: &'a LintContext,
    /// The global scope with the build arguments; empty when a default cannot be expanded.
    pub(super) scope: GlobalScope,
    /// The expanded FROM of every stage; `None` when it cannot be expanded.
    pub(super) bases: Vec<Option<Base>>,
    /// The stages, replayed.
    pub(super) stages: Vec<Replay<'a>>,
}

/// A replayed stage.
#[derive(Clone)]
pub(super) struct Replay<'a> {
    pub(super) stage: &'a Stage,
    pub(super) steps: Vec<Step<'a>>,
    /// Whether there was a SHELL so far: in this stage, its base stages or its base image.
    sets_shell: bool,
    environment: Environment,
    shell: Vec<String>,
    has_workdir: bool,
    user: Option<String>,
}

/// An instruction with the state of its stage.
#[derive(Clone)]
pub(super) struct Step<'a> {
    pub(super) statement: &'a Statement,
    /// The instruction, expanded as far as possible.
    pub(super) expanded: Option<Instruction>,
    /// The variables that it uses and that are not set; empty when the environment of the base is unknown.
    pub(super) undefined: Vec<Undefined>,
    /// The shell of RUN.
    pub(super) shell: Vec<String>,
    /// Whether there is a SHELL before it: in this stage, its base stages or its base image.
    pub(super) sets_shell: bool,
    /// Whether there is a WORKDIR before it, in this stage or its base stages.
    pub(super) has_workdir: bool,
    /// Whether it is a trigger of ONBUILD, which runs in another build with unknown variables.
    pub(super) is_trigger: bool,
    /// The user of RUN, when it is known.
    pub(super) user: Option<String>,
}

/// A variable that is used but not set.
#[derive(Clone)]
pub(super) struct Undefined {
    pub(super) place: Span,
    pub(super) name: String,
    /// The nearest variable.
    pub(super) near: Option<String>,
}

/// The most variables for which the nearest name is searched. A search costs as much as there are variables.
const MAX_SUGGESTIONS: usize = 20;

#[derive(Clone, Default)]
struct Environment {
    /// Whether every variable of the base is known.
    complete: bool,
    values: BTreeMap<String, String>,
    declared: BTreeSet<String>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(file: &'a Dockerfile, context: &'a LintContext) -> Self {
        let mut predefined = context.predefined.clone();
        predefined.entry("TARGETSTAGE".to_owned()).or_insert_with(|| "default".to_owned());
        let scope = file.global_scope(&predefined, &context.build_args).unwrap_or_default();
        let escape = file.directives.escape;
        let bases: Vec<Option<Base>> = file
            .stages
            .iter()
            .map(|stage| {
                let expand = |word: &Word| Expander::new(escape).word(&word.value, &scope.values).ok();
                let image = expand(&stage.from.image)?;
                let platform = match &stage.from.platform {
                    Some(word) => Some(expand(word)?),
                    None => None,
                };
                let (platform, platform_variables) =
                    platform.map_or((None, Variables::default()), |p| (Some(p.text), p.variables));
                Some(Base {
                    image: image.text,
                    platform,
                    image_variables: image.variables,
                    platform_variables,
                })
            })
            .collect();
        let mut subject = Self { file, context, scope, bases, stages: Vec::new() };
        let mut suggestions = MAX_SUGGESTIONS;
        for stage in &file.stages {
            let replay = subject.replay(stage, &mut suggestions);
            subject.stages.push(replay);
        }
        subject
    }

    /// Every instruction after the first FROM, in the order of the file, with its stage.
    pub(super) fn steps(&self) -> impl Iterator<Item = (&Replay<'a>, &Step<'a>)> {
        self.stages.iter().flat_map(|replay| replay.steps.iter().map(move |step| (replay, step)))
    }

    /// Every statement, in the order of the file.
    pub(super) fn statements(&self) -> impl Iterator<Item = &'a Statement> {
        let file = self.file;
        let in_stages = file.stages.iter().flat_map(|s| std::iter::once(&s.statement).chain(&s.statements));
        file.global_args.iter().chain(in_stages)
    }

    fn replay(&self, stage: &'a Stage, suggestions: &mut usize) -> Replay<'a> {
        let base = self.bases[stage.index].as_ref();
        let below = base.map(|base| self.file.base(stage.index, &base.image));
        let mut replay = match below {
            Some(StageRef::Stage(index)) => {
                let below = &self.stages[index];
                Replay {
                    stage,
                    steps: Vec::new(),
                    sets_shell: below.sets_shell,
                    environment: below.environment.clone(),
                    shell: below.shell.clone(),
                    has_workdir: below.has_workdir,
                    user: below.user.clone(),
                }
            }
            other => {
                let known = self.context.environments.get(&stage.index);
                let scratch = other == Some(StageRef::Scratch);
                let mut environment =
                    Environment { complete: scratch || known.is_some(), ..Environment::default() };
                for pair in known.into_iter().flatten() {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    environment.values.insert(name.to_owned(), value.to_owned());
                }
                environment.values.entry("PATH".to_owned()).or_default();
                let user = match scratch {
                    true => Some(String::new()),
                    false => self.context.users.get(&stage.index).cloned(),
                };
                let of_base = self.context.shells.get(&stage.index).filter(|shell| !shell.is_empty());
                let platform = self.context.platforms.get(&stage.index);
                let shell = of_base.cloned().unwrap_or_else(|| match platform {
                    Some(platform) if platform.os == "windows" => {
                        ["cmd", "/S", "/C"].map(str::to_owned).to_vec()
                    }
                    _ => ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
                });
                Replay {
                    stage,
                    steps: Vec::new(),
                    sets_shell: of_base.is_some(),
                    environment,
                    shell,
                    has_workdir: false,
                    user,
                }
            }
        };
        for statement in &stage.statements {
            let step = self.step(&mut replay, statement, suggestions);
            replay.steps.push(step);
            if let Instruction::Onbuild(onbuild) = &statement.instruction {
                replay.steps.push(Step {
                    statement: &onbuild.trigger,
                    expanded: Some(onbuild.trigger.instruction.clone()),
                    undefined: Vec::new(),
                    shell: replay.shell.clone(),
                    sets_shell: replay.sets_shell,
                    has_workdir: true,
                    is_trigger: true,
                    user: None,
                });
            }
        }
        replay
    }

    fn step(&self, replay: &mut Replay<'a>, statement: &'a Statement, suggestions: &mut usize) -> Step<'a> {
        let escape = self.file.directives.escape;
        let environment = &replay.environment;
        let mut undefined = Vec::new();
        let mut note = |text: &str, place: Span, variables: &Variables| {
            if !environment.complete || variables.undefined.is_empty() {
                return;
            }
            let may_be_unset = may_be_unset(text);
            for name in &variables.undefined {
                if environment.declared.contains(name) || may_be_unset.contains(name.as_str()) {
                    continue;
                }
                let mut near = None;
                if *suggestions > 0 {
                    *suggestions -= 1;
                    let known = environment.values.keys().chain(&environment.declared);
                    near = suggestion(name, known.map(String::as_str)).map(str::to_owned);
                }
                undefined.push(Undefined { place, name: name.clone(), near });
            }
        };
        let expander = Expander::new(escape);
        if let Instruction::Arg(arg) = &statement.instruction {
            // A default sees the variables before it. It is ignored when there is a build argument.
            let mut values = environment.values.clone();
            let mut own = BTreeSet::new();
            for variable in &arg.variables {
                let name = &variable.name.value;
                let given = self.context.build_args.get(name);
                let default = variable.default.as_ref().filter(|_| given.is_none());
                let expanded =
                    default.and_then(|word| Some((word, expander.word(&word.value, &values).ok()?)));
                if let Some((word, mut expanded)) = expanded {
                    expanded.variables.undefined.retain(|used| !own.contains(used));
                    note(&word.value, word.span, &expanded.variables);
                    values.insert(name.clone(), expanded.text);
                } else if let Some(value) = given {
                    values.insert(name.clone(), value.clone());
                }
                own.insert(name.clone());
            }
        }
        let mut look = |expander: Expander, text: &str, place: Span| {
            if let Ok(expanded) = expander.word(text, &environment.values) {
                note(text, place, &expanded.variables);
            }
        };
        for value in statement.instruction.clone().expanded_values() {
            match value {
                ExpandedValue::Word(word) => look(expander, &word.value, word.span),
                ExpandedValue::Words(words) => {
                    words.iter().for_each(|word| look(expander, &word.value, word.span));
                }
                ExpandedValue::Heredoc(file) => look(Expander::for_heredoc(), &file.content, file.span),
            }
        }
        if let Instruction::Run(run) = &statement.instruction
            && let Some(word) = run.mounts.first()
            && let Ok((_, variables)) = run.mounts(escape, &environment.values)
        {
            note(&word.value, word.span, &variables);
        }
        let expanded = statement.instruction.expand(escape, &environment.values).ok().map(|e| e.instruction);
        let step = Step {
            statement,
            undefined,
            shell: replay.shell.clone(),
            sets_shell: replay.sets_shell,
            has_workdir: replay.has_workdir,
            is_trigger: false,
            user: replay.user.clone(),
            expanded,
        };
        self.follow(replay, &step);
        step
    }

    fn follow(&self, replay: &mut Replay<'a>, step: &Step<'a>) {
        let escape = self.file.directives.escape;
        let environment = &mut replay.environment;
        match step.expanded.as_ref().unwrap_or(&step.statement.instruction) {
            Instruction::Env(env) => {
                for pair in &env.pairs {
                    environment.values.insert(pair.key.value.clone(), pair.value.value.clone());
                }
            }
            Instruction::Arg(arg) => {
                for variable in &arg.variables {
                    let name = &variable.name.value;
                    environment.declared.insert(name.clone());
                    let value = match (self.context.build_args.get(name), &variable.default) {
                        (Some(given), _) => Some(given.clone()),
                        (None, Some(default)) => Expander::new(escape)
                            .word(&default.value, &environment.values)
                            .ok()
                            .map(|expanded| expanded.text),
                        (None, None) => self.scope.values.get(name).cloned(),
                    };
                    if let Some(value) = value {
                        environment.values.insert(name.clone(), value);
                    }
                }
            }
            Instruction::Shell(shell) => {
                replay.sets_shell = true;
                replay.shell = shell.words.iter().map(|w| w.value.clone()).collect();
            }
            Instruction::User(user) => replay.user = Some(user.user.value.clone()),
            Instruction::Workdir(_) => replay.has_workdir = true,
            Instruction::From(_)
            | Instruction::Run(_)
            | Instruction::Copy(_)
            | Instruction::Add(_)
            | Instruction::Cmd(_)
            | Instruction::Entrypoint(_)
            | Instruction::Label(_)
            | Instruction::Expose(_)
            | Instruction::Volume(_)
            | Instruction::Stopsignal(_)
            | Instruction::Healthcheck(_)
            | Instruction::Onbuild(_)
            | Instruction::Maintainer(_) => {}
        }
    }
}

/// The variables that may be unset in a text: those in `${name:-word}` and similar forms.
fn may_be_unset(text: &str) -> BTreeSet<&str> {
    let guarded = |rest: &'_ str| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        rest[end..].starts_with([':', '-', '+', '?']).then_some(end)
    };
    text.split("${").skip(1).filter_map(|rest| Some(&rest[..guarded(rest)?])).collect()
}
