//! Definitions of several builds: `docker-bake.hcl`, `docker-bake.json` and the build sections of compose files.
//!
//! ```text
//! files ─ hcl, json ─▶ blocks ─ resolve (variables, functions, matrix) ─▶ targets ─┐
//!       ─ compose ───────────────────────────────────────────────────────▶ targets ─┴ plan (groups, inherits, --set) ─▶ BakePlan
//! ```
//! The semantics are those of `docker buildx bake`. The language is pure: the environment, the home folder, the time and random
//! numbers come in with [`BakeInput`], and nothing is read or run.
//!
//! # Invariants
//! - A wrong file is an error with its line and an excerpt, never a panic.
//! - Sizes are bounded: of a file, of nesting, of a matrix, of the steps and bytes of an evaluation.

mod ast;
mod budget;
mod compose;
mod entries;
mod eval;
mod fault;
mod flags;
mod functions;
mod hcl;
mod interpolation;
mod json;
mod number;
mod overrides;
mod overrides_of_variables;
mod paths;
mod plan;
mod resolve;
mod target;
#[cfg(test)]
mod tests;
mod types;
mod value;

pub use entries::{Fields, Secret, Ssh};
pub use flags::build_flags;
pub use plan::{BakePlan, needed};
pub use resolve::Variable;
pub use target::{Group, Target};

use crate::dockerfile::Source;
use crate::{Error, Result};
use fault::{Fault, Outcome};
use std::collections::BTreeMap;
use std::fmt;

/// The most bytes of a file.
pub const MAX_FILE: usize = 1 << 20;
/// What some editors put before a text.
const BOM: char = '\u{feff}';
/// The most files.
const MAX_FILES: usize = 100;
/// The stack of the thread that reads and evaluates: nesting is bounded, and fits.
const STACK: usize = 256 << 20;

/// A file with definitions.
#[derive(Clone, Debug)]
pub struct BakeFile {
    /// Its path. The ending says what it holds: `.hcl`, `.json`, `.yml` or `.yaml`; without one of these it is tried out.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What definitions are evaluated with.
pub struct BakeInput<'a> {
    /// The files, in the order in which they override each other.
    pub files: Vec<BakeFile>,
    /// The environment.
    pub variable: &'a (dyn Fn(&str) -> Option<String> + Sync),
    /// The variables of the file `.env`, which count for compose files alone.
    pub dotenv: Option<String>,
    /// Values of variables, which go before the environment.
    pub variables: BTreeMap<String, String>,
    /// The home folder of the user.
    pub home: Option<String>,
    /// The platform of this machine.
    pub platform: String,
    /// The time, in seconds since 1970.
    pub now: i64,
    /// Makes random numbers.
    pub random: &'a (dyn Fn() -> u128 + Sync),
}

impl fmt::Debug for BakeInput<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BakeInput").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What the files define.
#[derive(Clone, Debug, Default)]
pub struct BakeConfig {
    groups: Vec<Group>,
    targets: Vec<Target>,
    variables: Vec<Variable>,
}

impl BakeConfig {
    /// Reads and evaluates definitions.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a wrong file, with its excerpt; [`crate::ErrorKind::Unsupported`] for what is not
    /// supported, by name.
    pub fn read(input: &BakeInput<'_>) -> Result<Self> {
        let sources: Vec<Source> = input
            .files
            .iter()
            .map(|file| Source::new(&file.name, file.text.trim_start_matches(BOM)))
            .collect();
        let read = || read(input).map_err(|fault| fault.into_error(&sources));
        // A parser of nested text needs more stack than some threads have.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("bake".to_owned()).stack_size(STACK);
            let thread = thread
                .spawn_scoped(scope, read)
                .map_err(|e| Error::internal("cannot start a thread").with_source(e))?;
            thread.join().map_err(|_| Error::internal("the evaluation of definitions failed"))?
        })
    }

    /// The groups.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The targets, without what they inherit.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The variables.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// The targets that `names` ask for: names of targets and groups, or patterns. `overrides` are the values of `--set`, and
    /// `variable` is the environment.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a name or a change that fits no target, and for targets that need each other.
    pub fn plan(
        &self,
        names: &[String],
        overrides: &[String],
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<BakePlan> {
        let plan = || {
            let overrides = overrides::Overrides::parse(overrides, &self.targets, variable)?;
            plan::Config { groups: &self.groups, targets: &self.targets }.plan(names, &overrides)
        };
        plan().map_err(|fault| fault.into_error(&[]))
    }
}

/// What a file holds.
enum Content {
    Blocks(ast::Body),
    Compose(serde_json::Value),
}

fn read(input: &BakeInput<'_>) -> Outcome<BakeConfig> {
    if input.files.len() > MAX_FILES {
        return Err(Fault::new(format!("more than {MAX_FILES} files with definitions")));
    }
    let environment = compose::Environment::new(input)?;
    let (mut bodies, mut services) = (Vec::new(), Vec::new());
    for (index, file) in input.files.iter().enumerate() {
        if file.text.len() > MAX_FILE {
            return Err(Fault::new(format!("{} has more than {} MiB", file.name, MAX_FILE >> 20)));
        }
        match content(index, file)? {
            Content::Blocks(body) => bodies.push(body),
            Content::Compose(document) => services.push((file.name.as_str(), document)),
        }
    }
    let mut config = BakeConfig::default();
    if !services.is_empty() {
        (config.groups, config.targets) = compose::read(services, &environment)?;
    }
    let lookup = |name: &str| input.variables.get(name).cloned().or_else(|| (input.variable)(name));
    let builtin = BTreeMap::from([
        ("BAKE_CMD_CONTEXT".to_owned(), "cwd://".to_owned()),
        ("BAKE_LOCAL_PLATFORM".to_owned(), input.platform.clone()),
    ]);
    let world = functions::World { home: input.home.as_deref(), now: input.now, random: input.random };
    let resolved = resolve::resolve(&bodies, world, &lookup, &builtin)?;
    for group in resolved.groups {
        match config.groups.iter_mut().find(|other| other.name == group.name) {
            Some(other) => *other = group,
            None => config.groups.push(group),
        }
    }
    for matrix in resolved.matrices {
        if config.groups.iter().all(|group| group.name != matrix.name) {
            config.groups.push(matrix);
        }
    }
    for target in resolved.targets {
        match config.targets.iter_mut().find(|other| other.name == target.name) {
            Some(other) => other.merge(&target),
            None => config.targets.push(target),
        }
    }
    config.variables = resolved.variables;
    Ok(config)
}

fn content(index: usize, file: &BakeFile) -> Outcome<Content> {
    let text = file.text.trim_start_matches(BOM);
    let ending = file.name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    match ending.as_str() {
        "yml" | "yaml" => compose::parse(text, &file.name).map(Content::Compose),
        "json" => json::parse(text, index).map(Content::Blocks),
        "hcl" => hcl::parse(text, index).map(Content::Blocks),
        _ => {
            if let Ok(document) = compose::parse(text, &file.name)
                && document.get("services").is_some()
            {
                return Ok(Content::Compose(document));
            }
            let body = hcl::parse(text, index);
            match json::parse(text, index) {
                Ok(body) => Ok(Content::Blocks(body)),
                Err(_) => body.map(Content::Blocks),
            }
        }
    }
}
