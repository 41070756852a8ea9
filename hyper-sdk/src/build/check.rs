//! Dockerfiles for the builder: parsed, lowered by the frontend, and linted; or only checked.

use crate::dockerfile::{CheckOptions, Diagnostic, Dockerfile, IgnoreSet, Span};
use crate::frontend::dockerfile::{self, Analysis};
use crate::frontend::{Frontend, FrontendOptions, Lowered, Resolver};
use crate::lint::{self, Finding, LintContext};
use crate::oci::ImageConfig;
use crate::platform::Platform;
use crate::{Error, ErrorKind, Result};
use async_trait::async_trait;
use std::collections::BTreeMap;

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
    /// Lints a file, with what is known of its base images and of the ignore file of its context.
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
        // An empty line in a continuation is what a rule finds.
        let mut diagnostics: Vec<Diagnostic> =
            diagnostics.into_iter().filter(|d| d.is_error() || lint::rule(d.code).is_none()).collect();
        diagnostics
            .extend(lint::unknown_rules(&check, file.directives.check_span.unwrap_or(Span::new(0, 0))));
        diagnostics.extend(lint::comment_faults(&file));
        // Where an instruction could not be understood, a variable may be set there.
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

    fn warnings(&self) -> Vec<String> {
        self.all().iter().map(|d| d.render(&self.file.source).trim_end().to_owned()).collect()
    }

    /// Fails where findings are errors.
    fn refuse(&self) -> Result<()> {
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

/// Checks a Dockerfile as it would be built for the target, or for any of them where none is asked for: every fault and
/// every finding at once. `name` is what messages call it, and `ignore` the ignore file of its context. Base images are
/// looked up, without their layers; where that fails the rest is checked all the same.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a build argument or target that cannot be used, and what else is wrong with the options.
/// Faults of the file are no errors here.
pub async fn check_dockerfile(
    name: &str,
    text: &str,
    options: &FrontendOptions,
    ignore: Option<IgnoreSet>,
    resolver: &dyn Resolver,
) -> Result<Checked> {
    let parsed = crate::dockerfile::parse(text, name);
    let (mut file, mut diagnostics) = (parsed.dockerfile, parsed.diagnostics);
    let mut seen = Analysis::default();
    if !file.stages.is_empty() {
        dockerfile::name_aliases(&mut file, options)?;
        file.target(options.target.as_deref())?;
        seen = dockerfile::analyze(&file, options, resolver, true).await;
        if let Some(error) = seen.error {
            return Err(error);
        }
        dockerfile::add_faults(&mut diagnostics, std::mem::take(&mut seen.faults));
    }
    let mut checked = Checked::new(file, diagnostics, &seen.bases, options, ignore)?;
    checked.unresolved = seen.unresolved;
    Ok(checked)
}

/// Lowers a Dockerfile: parsed, lowered for the target, and linted. `name` is what messages call it. What is noticed goes
/// to `warnings`, each with its excerpt, also when the file has a fault.
///
/// # Errors
/// Every fault of the text at once, with excerpts; the errors of the resolver, with the place that asked for it; what the
/// linter found where the `check` directive asks for an error.
pub async fn lower_dockerfile(
    name: &str,
    text: &str,
    options: &FrontendOptions,
    resolver: &dyn Resolver,
    warnings: &mut Vec<String>,
) -> Result<Lowered> {
    let parsed = crate::dockerfile::parse(text, name);
    if parsed.has_errors() {
        let mut faults = parsed.diagnostics;
        let file = parsed.dockerfile;
        let seen = dockerfile::analyze(&file, options, resolver, false).await;
        let noticed = faults.iter().filter(|d| !d.is_error()).cloned().collect();
        dockerfile::add_faults(&mut faults, seen.faults);
        let error = crate::dockerfile::to_error(&faults, &file.source);
        let checked = Checked::new(file, noticed, &seen.bases, options, None);
        warnings.extend(checked.iter().flat_map(Checked::warnings));
        return Err(error.unwrap_or_else(|| Error::internal("a fault without an error")));
    }
    let (mut file, diagnostics) = (parsed.dockerfile, parsed.diagnostics);
    dockerfile::name_aliases(&mut file, options)?;
    let notes = dockerfile::notes(&file, options)?;
    let (lowered, bases) = dockerfile::lower(&file, options, resolver).await;
    let checked = Checked::new(file, diagnostics, &bases, options, None);
    warnings.extend(checked.iter().flat_map(Checked::warnings));
    // They may say why it fails.
    warnings.extend(notes);
    let lowered = lowered?;
    checked?.refuse()?;
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
