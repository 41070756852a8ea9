//! Checks a Dockerfile: its faults and what the linter finds, without building.

use super::fault::Fault;
use super::lower::{Bases, Extent};
use super::{alias, lower_file, platform_arguments, trigger};
use crate::dockerfile::{CheckOptions, Diagnostic, Dockerfile, Span};
use crate::frontend::{FrontendOptions, Resolved, Resolver};
use crate::graph::Source;
use crate::lint::{self, Facts, Finding};
use crate::oci::ImageConfig;
use crate::platform::Platform;
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// The build argument that takes the place of the `check` directive.
const CHECK_ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// What there is to say about a file.
#[derive(Debug)]
pub struct Checked {
    /// The file, as far as it could be understood.
    pub file: Dockerfile,
    /// Errors, and warnings that are no findings of a rule, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
    /// What the linter found, in the order of the file.
    pub findings: Vec<Finding>,
    /// Why base images could not be looked at; rules that need them were left out.
    pub unresolved: Vec<Error>,
    options: CheckOptions,
}

impl Checked {
    pub(super) fn new(
        file: Dockerfile,
        diagnostics: Vec<Diagnostic>,
        bases: &Bases,
        options: &FrontendOptions,
    ) -> Result<Self> {
        let check = match options.build_args.get(CHECK_ARGUMENT) {
            Some(text) => CheckOptions::parse(text)
                .map_err(|why| Error::invalid(format!("the build argument {CHECK_ARGUMENT}: {why}")))?,
            None => file.directives.check.clone().unwrap_or_default(),
        };
        // An empty line in a continuation is what a rule finds.
        let mut diagnostics: Vec<Diagnostic> =
            diagnostics.into_iter().filter(|d| d.is_error() || lint::rule(d.code).is_none()).collect();
        diagnostics
            .extend(lint::unknown_rules(&check, file.directives.check_span.unwrap_or(Span::new(0, 0))));
        diagnostics.extend(lint::comment_faults(&file));
        // Where an instruction could not be understood, a variable may be set there.
        let complete = bases.iter().filter(|_| !file.damaged);
        let facts = Facts {
            environments: complete.map(|(index, config)| (*index, config.config.env.clone())).collect(),
            users: bases.iter().map(|(index, config)| (*index, config.config.user.clone())).collect(),
            shells: bases
                .iter()
                .filter_map(|(index, config)| Some((*index, config.config.shell.clone()?)))
                .collect(),
            platforms: bases
                .iter()
                .filter_map(|(index, config)| Some((*index, platform_of(config)?)))
                .collect(),
            platform: Some(options.platform.clone().unwrap_or_else(Platform::host)),
            ignore: options.ignore.clone(),
            build_args: options.build_args.clone(),
            predefined: platform_arguments(options),
        };
        let findings = lint::lint(&file, &facts, Some(&check));
        Ok(Self { file, diagnostics, findings, unresolved: Vec::new(), options: check })
    }

    /// Whether the file can be built.
    pub fn is_valid(&self) -> bool {
        !self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// Whether there is nothing to say.
    pub fn is_clean(&self) -> bool {
        self.diagnostics.is_empty() && self.findings.is_empty()
    }

    /// Everything that there is to say, in the order of the file.
    pub fn all(&self) -> Vec<Diagnostic> {
        let mut all = self.diagnostics.clone();
        all.extend(self.findings.iter().map(Finding::diagnostic));
        all.sort_by_key(|d| d.span.start);
        all
    }

    /// The text with the edits of all findings applied, if there are any; checking that again may find more.
    pub fn fixed(&self) -> Option<String> {
        if !self.is_valid() || self.findings.iter().all(|finding| finding.edits.is_empty()) {
            return None;
        }
        let edits = self.findings.iter().flat_map(|finding| &finding.edits);
        Some(lint::apply_edits(self.file.source.text(), edits))
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        self.all().iter().map(|d| d.render(&self.file.source).trim_end().to_owned()).collect()
    }

    /// Fails where findings are errors.
    pub(super) fn refuse(&self) -> Result<()> {
        if !self.options.error || self.findings.is_empty() {
            return Ok(());
        }
        let name = self.file.source.name();
        let shown = lint::render(&self.findings, &self.file.source);
        Err(Error::new(
            ErrorKind::Invalid,
            format!("{name} breaks its own rules (`error=true`)\n{}", shown.trim_end()),
        ))
    }
}

fn platform_of(config: &ImageConfig) -> Option<Platform> {
    let text = format!("{}/{}", config.os, config.architecture);
    text.parse().ok()
}

/// Goes on where an image cannot be found.
struct Lenient<'a> {
    resolver: &'a dyn Resolver,
    /// Whether images are looked up at all.
    look_up: bool,
    unresolved: Mutex<Vec<Error>>,
}

impl Resolved {
    /// An image of which nothing is known: its config has no system, which no real one has.
    pub(super) fn unknown(name: &str, platform: &Platform) -> Self {
        let mut config = ImageConfig::empty(platform);
        config.os = String::new();
        let manifest = Digest::sha256(format!("not resolved: {name}"));
        Self::Image { reference: name.to_owned(), manifest, config: Box::new(config) }
    }
}

impl Lenient<'_> {
    /// Remembers why something is not known, and gives what nothing is known of.
    fn unknown(&self, name: &str, platform: &Platform, error: Error) -> Resolved {
        let mut unresolved = self.unresolved.lock().unwrap_or_else(PoisonError::into_inner);
        unresolved.push(error.with_context("image", name));
        Resolved::unknown(name, platform)
    }
}

#[async_trait]
impl Resolver for Lenient<'_> {
    async fn context(&self, name: &str, platform: &Platform) -> Result<Option<Resolved>> {
        match self.resolver.context(name, platform).await {
            Ok(found) => Ok(found),
            Err(error) => Ok(Some(self.unknown(name, platform, error))),
        }
    }

    async fn time(&self, _: &Source) -> Result<Option<i64>> {
        // Nothing is fetched for a check.
        Ok(None)
    }

    async fn image(&self, name: &str, platform: &Platform) -> Result<Resolved> {
        let error = match self.look_up {
            true => match self.resolver.image(name, platform).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            },
            false => Error::new(ErrorKind::Unavailable, "images are not looked up"),
        };
        Ok(self.unknown(name, platform, error))
    }
}

/// Checks a file as it would be built for the target, or for any of them where none is asked for: every fault and every
/// finding at once. Base images are looked up;
/// where that fails the rest is checked all the same.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a build argument or target that cannot be used, and what else is wrong with the options. Faults of the file are no errors here.
pub async fn check(
    name: &str,
    text: &str,
    options: &FrontendOptions,
    resolver: &dyn Resolver,
) -> Result<Checked> {
    let parsed = crate::dockerfile::parse(text, name);
    let (mut file, mut diagnostics) = (parsed.dockerfile, parsed.diagnostics);
    let mut seen = Seen::default();
    if !file.stages.is_empty() {
        alias(&mut file, options)?;
        file.target(options.target.as_deref())?;
        seen = look(&file, options, resolver, true).await;
        if let Some(error) = seen.error {
            return Err(error);
        }
        add_faults(&mut diagnostics, std::mem::take(&mut seen.faults));
    }
    let mut checked = Checked::new(file, diagnostics, &seen.bases, options)?;
    checked.unresolved = seen.unresolved;
    Ok(checked)
}

/// Adds the faults that lowering shows, in the order of the file; what the parser has said of a place is not said again.
pub(super) fn add_faults(diagnostics: &mut Vec<Diagnostic>, mut faults: Vec<Diagnostic>) {
    let known: HashSet<Span> = diagnostics.iter().filter(|d| d.is_error()).map(|d| d.span).collect();
    faults.retain(|fault| !known.contains(&fault.span));
    diagnostics.extend(faults);
    diagnostics.sort_by_key(|d| d.span.start);
}

/// What the lowering of a file shows.
#[derive(Default)]
pub(super) struct Seen {
    /// What is wrong with the text.
    pub(super) faults: Vec<Diagnostic>,
    pub(super) bases: Bases,
    unresolved: Vec<Error>,
    /// What is wrong with the request rather than with the text.
    error: Option<Error>,
}

/// Lowers a file for what is wrong with it, as far as it could be understood.
pub(super) async fn look(
    file: &Dockerfile,
    options: &FrontendOptions,
    resolver: &dyn Resolver,
    look_up: bool,
) -> Seen {
    let mut seen = Seen::default();
    let lenient = Lenient { resolver, look_up, unresolved: Mutex::default() };
    let extent = if options.target.is_none() { Extent::Everything } else { Extent::Known };
    let (outcome, bases) = lower_file(file, options, &lenient, extent).await;
    match outcome {
        Ok(_) => {}
        Err(Fault::Text(faults)) => seen.faults = faults,
        Err(Fault::Other(error)) => seen.error = Some(error),
    }
    seen.bases = bases;
    let known = seen.bases.len();
    seen.bases.retain(|_, config| !config.os.is_empty());
    seen.unresolved.extend(lenient.unresolved.into_inner().unwrap_or_else(PoisonError::into_inner));
    if seen.bases.len() < known || !seen.unresolved.is_empty() {
        // What a variable would be that the image may set, nobody knows.
        let has_variable =
            |d: &Diagnostic| trigger::of(d).unwrap_or_else(|| file.source.slice(d.span)).contains('$');
        seen.faults.retain(|d| d.code != "instruction" || !has_variable(d));
    }
    // With defaults alone the image of a FROM may be empty: that is for a rule to tell, and no fault of the file.
    seen.faults.retain(|d| d.code != "empty-image");
    if file.damaged {
        // What could not be understood may change what the rest comes to.
        seen.faults.clear();
    }
    seen
}
