//! The Dockerfile frontend: text → stages → graph and image config.
//!
//! The semantics are those of BuildKit's Dockerfile frontend. A feature that is not implemented is an error that names it,
//! with an excerpt of the text.

mod analysis;
mod configure;
mod epoch;
mod files;
mod lower;
mod lower_error;
mod outline;
mod run;
mod signal;
mod stage;
mod trigger;
mod windows;

pub(crate) use analysis::{Analysis, add_errors, analyze};
use futures::future::BoxFuture;
use lower::Bases;
pub use outline::{Argument, CacheMount, Outline, SecretUse, Target, Targets};
pub(crate) use outline::{outline, targets};

use self::lower::LowerMode;
use self::lower_error::{LowerError, LowerResult};
use super::{FrontendOptions, Lowered, Resolver};
use crate::Result;
use crate::dockerfile::{Dockerfile, Instruction, Parsed, Stage, Statement, UNSUPPORTED_SYNTAX, suggestion};
use crate::platform::{ARCHITECTURES, Platform, SYSTEMS};
use std::collections::{BTreeMap, BTreeSet};

/// Lowers a Dockerfile that was parsed without errors, after [`name_aliases`]. It also returns the configs of the base
/// images, as far as they are known, by the number of the stage.
///
/// # Errors
/// All errors of the text at once, with excerpts; the errors of the resolver, with the place in the text.
pub(crate) fn lower<'a>(
    file: &'a Dockerfile,
    options: &'a FrontendOptions,
    resolver: &'a dyn Resolver,
) -> BoxFuture<'a, (Result<Lowered>, Bases)> {
    // Boxed: programs that call this do not compile it again.
    Box::pin(async move {
        let (lowered, bases) = lower_file(file, options, resolver, LowerMode::Target).await;
        (lowered.map_err(|e| lower_error::to_error(e, &file.source)), bases)
    })
}

/// The warnings about the options: those that are not supported, and those that name something that the file does not
/// have.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] when the build argument BUILDKIT_SYNTAX names another frontend.
pub(crate) fn notes(file: &Dockerfile, options: &FrontendOptions) -> Result<Vec<String>> {
    check_arguments(options)?;
    let mut notes = unused(file, options);
    notes.extend(unknown_platforms(file, options));
    Ok(notes)
}

/// The warnings about unknown systems and architectures. An image for one may exist, so they are not errors.
fn unknown_platforms(file: &Dockerfile, options: &FrontendOptions) -> BTreeSet<String> {
    let written = file.stages.iter().filter_map(|stage| stage.from.platform.as_ref()?.value.parse().ok());
    let all = options.platform.iter().cloned().chain(written).collect::<Vec<Platform>>();
    let parts = all.iter().flat_map(|platform| {
        [
            ("system", platform.os.as_str(), &SYSTEMS[..]),
            ("architecture", platform.architecture.as_str(), &ARCHITECTURES[..]),
        ]
    });
    let strange = parts.filter(|(_, name, known)| !known.contains(name));
    strange
        .map(|(what, name, known)| match suggestion(name, known.iter().copied()) {
            Some(near) => format!("`{name}` is not the name of a known {what}: did you mean `{near}`?"),
            None => format!("`{name}` is not the name of a known {what}"),
        })
        .collect()
}

/// Refuses a build argument that names another frontend.
fn check_arguments(options: &FrontendOptions) -> Result<()> {
    if let Some(image) = options.build_args.get("BUILDKIT_SYNTAX").filter(|image| !image.is_empty()) {
        let parsed = parse(&format!("# syntax={image}\n"), "BUILDKIT_SYNTAX", options);
        if let Some(error) = parsed.diagnostics.iter().find(|d| d.code == UNSUPPORTED_SYNTAX) {
            let (message, help) = (&error.message, error.help.join("; "));
            return Err(crate::Error::unsupported(format!(
                "the build argument BUILDKIT_SYNTAX: {message}: {help}"
            )));
        }
    }
    Ok(())
}

/// Parses a Dockerfile. `name` is its name in messages. When the text asks for an unknown frontend, the help of the error
/// names those that the builder has.
pub(crate) fn parse(text: &str, name: &str, options: &FrontendOptions) -> Parsed {
    let mut parsed = crate::dockerfile::parse(text, name);
    if !options.frontends.is_empty() {
        let names: Vec<String> = options.frontends.iter().map(|name| format!("`{name}`")).collect();
        let help =
            format!("use `docker/dockerfile:1` or another frontend of the builder: {}", names.join(", "));
        for error in parsed.diagnostics.iter_mut().filter(|d| d.code == UNSUPPORTED_SYNTAX) {
            error.help = vec![help.clone()];
        }
    }
    parsed
}

/// The warnings about options that name something that the file does not have.
fn unused(file: &Dockerfile, options: &FrontendOptions) -> Vec<String> {
    let in_stages = file.stages.iter().flat_map(|stage| &stage.statements);
    let declared: BTreeSet<&str> = file
        .global_args
        .iter()
        .chain(in_stages)
        .flat_map(|statement| match &statement.instruction {
            Instruction::Onbuild(onbuild) => arguments_of(&onbuild.trigger),
            _ => arguments_of(statement),
        })
        .collect();
    let platforms = platform_arguments(&FrontendOptions::default());
    let known = |name: &str| {
        let upper = name.to_ascii_uppercase();
        declared.contains(name)
            || upper.starts_with("BUILDKIT_")
            || upper.ends_with("_PROXY")
            || name == epoch::SOURCE_DATE_EPOCH
            || platforms.contains_key(name)
            || name == "TARGETSTAGE"
    };
    let say = |what: &str, name: &str, near: Option<&str>| match near {
        Some(near) => format!("{what} `{name}`: did you mean `{near}`?"),
        None => format!("{what} `{name}`"),
    };
    let arguments =
        options.build_args.keys().filter(|name| !known(name)).map(|name| {
            say("no ARG takes the build argument", name, suggestion(name, declared.iter().copied()))
        });
    let stages = || file.stages.iter().filter_map(Stage::name);
    let filters = options
        .no_cache_filter
        .iter()
        .filter(|filter| !stages().any(|name| name.eq_ignore_ascii_case(filter)));
    let filters = filters
        .map(|filter| say("no stage has the name of the cache filter", filter, suggestion(filter, stages())));
    arguments.chain(filters).collect()
}

/// The names that an ARG declares.
fn arguments_of(statement: &Statement) -> Vec<&str> {
    match &statement.instruction {
        Instruction::Arg(arg) => arg.variables.iter().map(|variable| variable.name.as_str()).collect(),
        _ => Vec::new(),
    }
}

/// Adds the further names of stages in the options.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] for an unknown stage.
pub(crate) fn name_aliases(file: &mut Dockerfile, options: &FrontendOptions) -> Result<()> {
    options.aliases.iter().try_for_each(|(alias, stage)| file.alias_stage(alias, stage))
}

async fn lower_file(
    file: &Dockerfile,
    options: &FrontendOptions,
    resolver: &dyn Resolver,
    mode: LowerMode,
) -> (LowerResult<Lowered>, Bases) {
    let globals = platform_arguments(options);
    let Some(asked) = epoch::asked_for(file, &globals, options) else {
        return lower::Lowering::new(file, options, resolver, mode).target(&globals).await;
    };
    let resolved = epoch::resolve(&asked, file, &globals, options, resolver).await;
    let (seconds, mut errors) = match resolved {
        Ok(seconds) => (seconds, Vec::new()),
        Err(LowerError::Text(errors)) if mode != LowerMode::Target => (None, errors),
        Err(other) => return (Err(other), Bases::new()),
    };
    let mut options = options.clone();
    // Steps see the number of seconds, or an empty value when the named object has no time.
    match seconds.map(|seconds| seconds.to_string()).or_else(|| asked.is_name().then(String::new)) {
        Some(seen) => {
            options.build_args.insert(epoch::SOURCE_DATE_EPOCH.to_owned(), seen);
        }
        None => {
            options.build_args.remove(epoch::SOURCE_DATE_EPOCH);
        }
    }
    let (outcome, bases) = lower::Lowering::new(file, &options, resolver, mode).target(&globals).await;
    let outcome = match outcome {
        Ok(mut lowered) if errors.is_empty() => {
            lowered.epoch = seconds;
            Ok(lowered)
        }
        Ok(_) => Err(errors.into()),
        Err(LowerError::Text(more)) => {
            add_errors(&mut errors, more);
            Err(errors.into())
        }
        other => other,
    };
    (outcome, bases)
}

/// The predefined arguments about platforms, overridden by build arguments, and TARGETSTAGE when it is a build argument.
pub(crate) fn platform_arguments(options: &FrontendOptions) -> BTreeMap<String, String> {
    let host = Platform::host();
    let target = options.platform.clone().unwrap_or_else(Platform::host);
    let mut arguments = BTreeMap::new();
    for (prefix, platform) in [("BUILD", &host), ("TARGET", &target)] {
        for (suffix, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone().unwrap_or_default()),
            ("OSVERSION", platform.os_version.clone().unwrap_or_default()),
        ] {
            arguments.insert(format!("{prefix}{suffix}"), value);
        }
    }
    for name in arguments.keys().cloned().chain(["TARGETSTAGE".to_owned()]).collect::<Vec<_>>() {
        if let Some(given) = options.build_args.get(&name) {
            arguments.insert(name, given.clone());
        }
    }
    arguments
}

/// The predefined arguments of a build of this target.
pub(crate) fn predefined_arguments(
    globals: &BTreeMap<String, String>,
    file: &Dockerfile,
    target: usize,
    options: &FrontendOptions,
) -> BTreeMap<String, String> {
    let mut predefined = globals.clone();
    let asked_for = options.target.as_deref().filter(|name| !name.is_empty());
    predefined
        .entry("TARGETSTAGE".to_owned())
        .or_insert_with(|| asked_for.or(file.stages[target].name()).unwrap_or("default").to_owned());
    predefined
}

#[cfg(test)]
mod tests;
