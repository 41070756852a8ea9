//! Expansion of whole instructions and of the global scope, by the rules of each instruction.

use super::diagnostic::Diagnostic;
use super::expand::{Environment, ExpandError, Expander, Variables};
use super::instruction::{InlineFile, Instruction, Run};
use super::mount::{Mount, ValueError};
use super::span::{Span, Word};
use super::stages::Dockerfile;
use super::suggest::suggestion;
use super::words::Pair;
use std::collections::{BTreeMap, BTreeSet};

/// An instruction whose values are expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// The instruction.
    pub instruction: Instruction,
    /// The variables that the expansion looked up.
    pub variables: Variables,
}

/// The diagnostic of a value that cannot be expanded.
pub(crate) fn expansion_error(error: &ExpandError, span: Span) -> Diagnostic {
    Diagnostic::error("expansion", span, error.message.clone())
}

struct Values<'a> {
    expander: Expander,
    env: &'a dyn Environment,
    variables: Variables,
}

type Outcome<T = ()> = Result<T, Box<Diagnostic>>;

impl Values<'_> {
    fn with(&mut self, expander: Expander, text: &mut String, span: Span) -> Outcome {
        let expanded = expander.word(text, self.env).map_err(|e| Box::new(expansion_error(&e, span)))?;
        self.variables.extend(expanded.variables);
        *text = expanded.text;
        Ok(())
    }

    fn word(&mut self, word: &mut Word) -> Outcome {
        self.with(self.expander, &mut word.value, word.span)
    }

    /// Expands words of which each may become several.
    fn split(&mut self, words: &mut Vec<Word>) -> Outcome {
        for word in std::mem::take(words) {
            let (texts, variables) = self
                .expander
                .words_with_variables(&word.value, self.env)
                .map_err(|e| Box::new(expansion_error(&e, word.span)))?;
            self.variables.extend(variables);
            words.extend(texts.into_iter().map(|text| Word::new(text, word.span)));
        }
        Ok(())
    }
}

/// A value that an instruction expands, and how.
pub(crate) enum ExpandedValue<'a> {
    /// A word, which stays one.
    Word(&'a mut Word),
    /// Words that may become more or fewer.
    Words(&'a mut Vec<Word>),
    /// The body of a heredoc.
    Heredoc(&'a mut InlineFile),
}

impl Instruction {
    /// The values that this instruction expands, as [`Instruction::expand`] lists them. Whoever asks whether a value is
    /// expanded asks here.
    pub(crate) fn expanded_values(&mut self) -> Vec<ExpandedValue<'_>> {
        fn words<'a>(words: impl IntoIterator<Item = &'a mut Word>) -> Vec<ExpandedValue<'a>> {
            words.into_iter().map(ExpandedValue::Word).collect()
        }
        fn pairs(pairs: &mut [Pair]) -> Vec<ExpandedValue<'_>> {
            words(pairs.iter_mut().flat_map(|pair| [&mut pair.key, &mut pair.value]))
        }
        fn bodies(files: &mut [InlineFile]) -> impl Iterator<Item = ExpandedValue<'_>> {
            files.iter_mut().filter(|file| file.expand).map(ExpandedValue::Heredoc)
        }
        match self {
            Self::Copy(copy) => {
                let flags = copy.chown.iter_mut().chain(&mut copy.chmod);
                let mut values = words(copy.sources.iter_mut().chain([&mut copy.destination]).chain(flags));
                values.extend(bodies(&mut copy.inline));
                values
            }
            Self::Add(add) => {
                let flags = add.chown.iter_mut().chain(&mut add.chmod).chain(&mut add.checksum);
                let mut values = words(add.sources.iter_mut().chain([&mut add.destination]).chain(flags));
                values.extend(bodies(&mut add.inline));
                values
            }
            Self::Env(i) => pairs(&mut i.pairs),
            Self::Label(i) => pairs(&mut i.pairs),
            Self::Workdir(i) => words([&mut i.path]),
            Self::User(i) => words([&mut i.user]),
            Self::Stopsignal(i) => words([&mut i.signal]),
            Self::Volume(i) => words(&mut i.paths),
            Self::Expose(i) => vec![ExpandedValue::Words(&mut i.ports)],
            Self::From(_)
            | Self::Run(_)
            | Self::Arg(_)
            | Self::Cmd(_)
            | Self::Entrypoint(_)
            | Self::Shell(_)
            | Self::Healthcheck(_)
            | Self::Onbuild(_)
            | Self::Maintainer(_) => Vec::new(),
        }
    }

    /// Expands the values of the instruction with the environment before it.
    ///
    /// | instruction | expanded |
    /// |---|---|
    /// | COPY, ADD | sources, destination, `--chown`, `--chmod`, `--checksum`, heredoc bodies; not `--exclude`, where `$` stands for itself |
    /// | ENV, LABEL | keys and values |
    /// | EXPOSE | every word, which may become several |
    /// | VOLUME, WORKDIR, USER, STOPSIGNAL | the value |
    /// | RUN | nothing: [`Run::mounts`] expands the mounts, the shell the rest |
    /// | FROM, ARG | nothing: [`Dockerfile::bases`], and defaults one by one as they are declared |
    /// | the others | nothing |
    ///
    /// # Errors
    /// The first value that cannot be expanded.
    pub fn expand(&self, escape: char, env: &dyn Environment) -> Outcome<Expansion> {
        let mut values = Values { expander: Expander::new(escape), env, variables: Variables::default() };
        let mut instruction = self.clone();
        for value in instruction.expanded_values() {
            match value {
                ExpandedValue::Word(word) => values.word(word)?,
                ExpandedValue::Words(words) => values.split(words)?,
                ExpandedValue::Heredoc(file) => {
                    values.with(Expander::for_heredoc(), &mut file.content, file.span)?;
                }
            }
        }
        Ok(Expansion { instruction, variables: values.variables })
    }
}

impl Run {
    /// The mounts, expanded with the environment before the instruction, and the variables that the expansion looked up.
    ///
    /// # Errors
    /// The first malformed mount.
    pub fn mounts(&self, escape: char, env: &dyn Environment) -> Outcome<(Vec<Mount>, Variables)> {
        let expander = Expander::new(escape);
        let mut variables = Variables::default();
        let mut mounts = Vec::with_capacity(self.mounts.len());
        for word in &self.mounts {
            let mount = Mount::parse_with(&word.value, |value| {
                let expanded = expander.word(value, env).map_err(ValueError::from)?;
                variables.extend(expanded.variables);
                Ok(expanded.text)
            });
            mounts.push(mount.map_err(|e| Box::new(e.into_diagnostic("invalid-mount", word.span)))?);
        }
        Ok((mounts, variables))
    }
}

/// The variables of FROM: the predefined ones, and the ARG instructions before the first FROM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GlobalScope {
    /// The values.
    pub values: BTreeMap<String, String>,
    /// The names that the file declares. Some have no value.
    pub declared: BTreeSet<String>,
    /// The variables that the defaults looked up.
    pub variables: Variables,
}

/// The expanded FROM of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The image, the stage, the named context or `scratch`.
    pub image: String,
    /// The platform.
    pub platform: Option<String>,
    /// The variables of the image.
    pub image_variables: Variables,
    /// The variables of the platform.
    pub platform_variables: Variables,
}

impl Dockerfile {
    /// Evaluates the global scope. A build argument overrides the default of a declared ARG.
    ///
    /// # Errors
    /// Every default that cannot be expanded.
    pub fn global_scope(
        &self,
        predefined: &BTreeMap<String, String>,
        build_args: &BTreeMap<String, String>,
    ) -> Result<GlobalScope, Vec<Diagnostic>> {
        let (scope, errors) = self.global_scope_with_errors(predefined, build_args);
        if errors.is_empty() { Ok(scope) } else { Err(errors) }
    }

    /// As [`Dockerfile::global_scope`], but it goes on after errors: a default that cannot be expanded gives no value.
    pub(crate) fn global_scope_with_errors(
        &self,
        predefined: &BTreeMap<String, String>,
        build_args: &BTreeMap<String, String>,
    ) -> (GlobalScope, Vec<Diagnostic>) {
        let expander = Expander::new(self.directives.escape);
        let mut scope = GlobalScope { values: predefined.clone(), ..GlobalScope::default() };
        let mut errors = Vec::new();
        for variable in self.global_variables().flat_map(|(_, arg)| &arg.variables) {
            let name = &variable.name.value;
            let value = match (build_args.get(name), &variable.default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => match expander.word(&default.value, &scope.values) {
                    Ok(expanded) => {
                        scope.variables.extend(expanded.variables);
                        Some(expanded.text)
                    }
                    Err(e) => {
                        errors.push(expansion_error(&e, default.span));
                        None
                    }
                },
                (None, None) => None,
            };
            scope.declared.insert(name.clone());
            scope.values.extend(value.map(|v| (name.clone(), v)));
        }
        (scope, errors)
    }

    /// Expands the FROM of every stage.
    ///
    /// # Errors
    /// Every FROM that cannot be expanded, or whose image or platform is empty.
    pub fn bases(&self, scope: &GlobalScope) -> Result<Vec<Base>, Vec<Diagnostic>> {
        let (bases, errors) = self.bases_with_errors(scope);
        if errors.is_empty() { Ok(bases) } else { Err(errors) }
    }

    /// As [`Dockerfile::bases`], but it goes on after errors: the image of a FROM with an error is empty.
    pub(crate) fn bases_with_errors(&self, scope: &GlobalScope) -> (Vec<Base>, Vec<Diagnostic>) {
        let mut bases = Vec::with_capacity(self.stages.len());
        let mut errors = Vec::new();
        for stage in &self.stages {
            let expand = |word: &Word| {
                Expander::new(self.directives.escape)
                    .word(&word.value, &scope.values)
                    .map_err(|e| expansion_error(&e, word.span))
            };
            let image = expand(&stage.from.image).and_then(|image| match image.text.is_empty() {
                true => Err(empty_from(&stage.from.image, ("empty-image", "image"), &image.variables, scope)),
                false => Ok(image),
            });
            // A flag without a value is as if it were missing; a value that expands to nothing is an error.
            let platform = match stage.from.platform.as_ref().filter(|word| !word.value.is_empty()) {
                None => Ok(Default::default()),
                Some(word) => expand(word).and_then(|platform| match platform.text.is_empty() {
                    true => Err(empty_from(word, ("empty-platform", "platform"), &platform.variables, scope)),
                    false => Ok(platform),
                }),
            };
            let is_known = image.is_ok() && platform.is_ok();
            let image = image.map_err(|error| errors.push(error)).unwrap_or_default();
            let platform = platform.map_err(|error| errors.push(error)).unwrap_or_default();
            bases.push(Base {
                image: if is_known { image.text } else { String::new() },
                platform: Some(platform.text).filter(|text| !text.is_empty()),
                image_variables: image.variables,
                platform_variables: platform.variables,
            });
        }
        (bases, errors)
    }
}

fn empty_from(
    word: &Word,
    (code, what): (&'static str, &str),
    variables: &Variables,
    scope: &GlobalScope,
) -> Diagnostic {
    let mut d =
        Diagnostic::error(code, word.span, format!("the {what} of a FROM (`{}`) is empty", word.value));
    for name in &variables.undefined {
        let known = scope.values.keys().chain(&scope.declared).map(String::as_str);
        d = match suggestion(name, known) {
            Some(near) => d.with_help(format!("`{name}` is not set: did you mean `{near}`?")),
            None => d.with_help(format!(
                "give `{name}` a value with an ARG before the first FROM or a build argument"
            )),
        };
    }
    d
}
