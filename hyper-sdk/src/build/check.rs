//! Dockerfiles for the builder: parses, lowers and lints them, or only checks them.

use crate::dockerfile::{CheckOptions, Diagnostic, Dockerfile, IgnoreSet, Span};
use crate::frontend::dockerfile::{self, Analysis};
use crate::frontend::{Frontend, FrontendOptions, Lowered, Resolver};
use crate::lint::{self, Finding, LintContext};
use crate::oci::ImageConfig;
use crate::platform::Platform;
use crate::{Error, ErrorKind, Result};
use async_trait::async_trait;
use std::collections::BTreeMap;

/// The build argument that replaces the `check` directive.
const CHECK_ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// The errors, warnings and findings of a file.
#[derive(Debug)]
pub struct Checked {
    /// The file, as far as it could be parsed.
    pub file: Dockerfile,
    /// Errors, and warnings that are not findings of a rule, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
    /// The findings of the linter, in the order of the file.
    pub findings: Vec<Finding>,
    /// Why base images could not be looked up. The linter skipped the rules that need them.
    pub unresolved: Vec<Error>,
    options: CheckOptions,
}

impl Checked {
    /// Lints a file with the configs of its base images and the ignore file of its context, as far as they are known.
    pub(super) fn new(
        file: Dockerfile,
        diagnostics: Vec<Diagnostic>,
        bases: &BTreeMap<usize, ImageConfig>,
        options: &FrontendOptions,
        ignore: Option<IgnoreSet>,
    ) -> Result<Self> {
        let check = match options.build_args.get(CHECK_ARGUMENT) {
            Some(text) => CheckOptions::parse(text)
                .map_err(|why| Error::invalid(format!("the build argument {CHECK_ARGUMENT}: {why}")))?,
            None => file.directives.check.clone().unwrap_or_default(),
        };
        // A rule reports empty lines in a continuation.
        let mut diagnostics: Vec<Diagnostic> =
            diagnostics.into_iter().filter(|d| d.is_error() || lint::rule(d.code).is_none()).collect();
        diagnostics
            .extend(lint::unknown_rules(&check, file.directives.check_span.unwrap_or(Span::new(0, 0))));
        diagnostics.extend(lint::comment_warnings(&file));
        // An instruction that could not be parsed may set a variable.
        let complete = bases.iter().filter(|_| !file.damaged);
        let context = LintContext {
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
            ignore,
            build_args: options.build_args.clone(),
            predefined: dockerfile::platform_arguments(options),
        };
        let findings = lint::lint(&file, &context, Some(&check));
        Ok(Self { file, diagnostics, findings, unresolved: Vec::new(), options: check })
    }

    /// Adds what the check of the same file for another platform found, unless it is here already.
    pub(super) fn join(&mut self, other: Self) {
        let is_same = |a: &Diagnostic, b: &Diagnostic| {
            (a.code, a.span.start, &a.message) == (b.code, b.span.start, &b.message)
        };
        for diagnostic in other.diagnostics {
            if !self.diagnostics.iter().any(|known| is_same(known, &diagnostic)) {
                self.diagnostics.push(diagnostic);
            }
        }
        for finding in other.findings {
            let new = finding.diagnostic();
            if !self.findings.iter().any(|known| is_same(&known.diagnostic(), &new)) {
                self.findings.push(finding);
            }
        }
        for error in other.unresolved {
            if !self.unresolved.iter().any(|known| known.to_string() == error.to_string()) {
                self.unresolved.push(error);
            }
        }
        self.diagnostics.sort_by_key(|d| d.span.start);
        self.findings.sort_by_key(|finding| finding.span.start);
    }

    /// Whether the file can be built.
    pub fn is_valid(&self) -> bool {
        !self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// Whether there are neither diagnostics nor findings.
    pub fn is_clean(&self) -> bool {
        self.diagnostics.is_empty() && self.findings.is_empty()
    }

    /// Diagnostics and findings, in the order of the file.
    pub fn all(&self) -> Vec<Diagnostic> {
        let mut all = self.diagnostics.clone();
        all.extend(self.findings.iter().map(Finding::diagnostic));
        all.sort_by_key(|d| d.span.start);
        all
    }

    /// The text with the edits of all findings; `None` without edits. Another check of the new text may find more.
    pub fn fixed(&self) -> Option<String> {
        if !self.is_valid() || self.findings.iter().all(|finding| finding.edits.is_empty()) {
            return None;
        }
        let edits = self.findings.iter().flat_map(|finding| &finding.edits);
        Some(lint::apply_edits(self.file.source.text(), edits))
    }

    fn warnings(&self) -> Vec<String> {
        self.all().iter().map(|d| d.render(&self.file.source).trim_end().to_owned()).collect()
    }

    /// Fails when the options turn findings into errors.
    fn reject_findings(&self) -> Result<()> {
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

/// Checks a Dockerfile for the target, or for every target when the options name none: all errors and findings at once.
/// `name` is the name of the file in messages, and `ignore` the ignore file of its context. Base images are looked up,
/// without their layers; when that fails, the rest of the file is still checked.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a wrong build argument, target or other option. Errors of the file are in the result.
pub async fn check_dockerfile(
    name: &str,
    text: &str,
    options: &FrontendOptions,
    ignore: Option<IgnoreSet>,
    resolver: &dyn Resolver,
) -> Result<Checked> {
    let parsed = dockerfile::parse(text, name, options);
    let (mut file, mut diagnostics) = (parsed.dockerfile, parsed.diagnostics);
    let mut seen = Analysis::default();
    if !file.stages.is_empty() {
        dockerfile::name_aliases(&mut file, options)?;
        file.target(options.target.as_deref())?;
        seen = dockerfile::analyze(&file, options, resolver, true).await;
        if let Some(error) = seen.request_error {
            return Err(error);
        }
        dockerfile::add_errors(&mut diagnostics, std::mem::take(&mut seen.errors));
    }
    let mut checked = Checked::new(file, diagnostics, &seen.bases, options, ignore)?;
    checked.unresolved = seen.unresolved;
    Ok(checked)
}

/// Parses a Dockerfile, lowers it for the target, and lints it. `name` is the name of the file in messages. Warnings with
/// their excerpts go to `warnings`, also when the file has errors.
///
/// # Errors
/// All errors of the text at once, with excerpts; the errors of the resolver, with the place in the text; the findings of
/// the linter when the `check` directive makes them errors.
pub async fn lower_dockerfile(
    name: &str,
    text: &str,
    options: &FrontendOptions,
    resolver: &dyn Resolver,
    warnings: &mut Vec<String>,
) -> Result<Lowered> {
    let parsed = dockerfile::parse(text, name, options);
    if parsed.has_errors() {
        let mut errors = parsed.diagnostics;
        let file = parsed.dockerfile;
        let seen = dockerfile::analyze(&file, options, resolver, false).await;
        let warned = errors.iter().filter(|d| !d.is_error()).cloned().collect();
        dockerfile::add_errors(&mut errors, seen.errors);
        let error = crate::dockerfile::to_error(&errors, &file.source);
        let checked = Checked::new(file, warned, &seen.bases, options, None);
        warnings.extend(checked.iter().flat_map(Checked::warnings));
        return Err(error.unwrap_or_else(|| Error::internal("the parser failed without an error")));
    }
    let (mut file, diagnostics) = (parsed.dockerfile, parsed.diagnostics);
    dockerfile::name_aliases(&mut file, options)?;
    let notes = dockerfile::notes(&file, options)?;
    let (lowered, bases) = dockerfile::lower(&file, options, resolver).await;
    let checked = Checked::new(file, diagnostics, &bases, options, None);
    warnings.extend(checked.iter().flat_map(Checked::warnings));
    // The notes may explain why lowering fails.
    warnings.extend(notes);
    let lowered = lowered?;
    checked?.reject_findings()?;
    Ok(lowered)
}

/// The frontend of Dockerfiles: [`lower_dockerfile`].
#[derive(Clone, Copy, Debug, Default)]
pub struct DockerfileFrontend;

#[async_trait]
impl Frontend for DockerfileFrontend {
    async fn lower(
        &self,
        name: &str,
        text: &str,
        options: &FrontendOptions,
        resolver: &dyn Resolver,
        warnings: &mut Vec<String>,
    ) -> Result<Lowered> {
        lower_dockerfile(name, text, options, resolver, warnings).await
    }
}
