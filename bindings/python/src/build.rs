//! Builds, and what is known of a build and of a Dockerfile before anything is built.

use crate::content::plain;
use crate::operation::{Operation, Outcome};
use crate::request::{BuildArguments, DockerfileArguments};
use crate::session::Session;
use hyper_sdk::Reference;
use hyper_sdk::build::Fixed;
use hyper_sdk::dockerfile::Diagnostic;
use hyper_sdk::frontend::dockerfile::{Argument, Outline, SecretUse, Target};
use hyper_sdk::progress::Progress;
use pyo3::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

impl Session {
    pub(crate) fn build(
        self: &Arc<Self>,
        arguments: BuildArguments,
        progress: Option<Py<PyAny>>,
    ) -> Operation {
        let session = Arc::clone(self);
        Operation::with_progress(progress, |progress| async move {
            let (request, _unpacked) = arguments.request(session.builds()?).await?.split();
            let output = session.sdk.build(request, &progress).await?;
            let made = json!({
                "digest": output.image.map(|image| image.digest),
                "config_digest": output.config,
                "tags": output.tags.iter().map(|name| familiar(name)).collect::<Vec<_>>(),
                "steps": plain(serde_json::to_value(output.steps))?,
                "epoch": output.epoch,
            });
            Ok(Outcome::Made("BuildResult", made))
        })
    }

    /// Plans a build. Nothing is built.
    pub(crate) fn plan(
        self: &Arc<Self>,
        arguments: BuildArguments,
        progress: Option<Py<PyAny>>,
    ) -> Operation {
        let session = Arc::clone(self);
        Operation::with_progress(progress, |progress| async move {
            let (request, _unpacked) = arguments.request(session.builds()?).await?.split();
            let plan = session.sdk.local_builder().await?.plan(request, &progress).await?;
            let made = json!({
                "steps": plain(serde_json::to_value(plan.steps))?,
                "tags": plan.names.iter().map(|name| familiar(name)).collect::<Vec<_>>(),
            });
            Ok(Outcome::Made("BuildPlan", made))
        })
    }

    /// Answers a question about a Dockerfile. Nothing is built.
    pub(crate) fn ask(self: &Arc<Self>, question: Question, arguments: DockerfileArguments) -> Operation {
        let session = Arc::clone(self);
        Operation::new(async move {
            let (request, _unpacked) = arguments.request(session.builds()?).await?.split();
            let builder = session.sdk.local_builder().await?;
            let progress = Progress::none();
            Ok(match question {
                Question::Check => {
                    Outcome::Made("CheckResult", checked(&builder.fix(request, &progress).await?))
                }
                Question::Outline => {
                    Outcome::Made("Outline", outline(&builder.outline(request, &progress).await?))
                }
                Question::Targets => {
                    let targets = builder.targets(request, &progress).await?.targets;
                    Outcome::Made("Target", targets.iter().map(target).collect())
                }
            })
        })
    }
}

/// A question about a Dockerfile.
#[derive(Clone, Copy)]
pub(crate) enum Question {
    Check,
    Outline,
    Targets,
}

/// A name of an image as people write it.
fn familiar(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |name| name.familiar())
}

fn checked(fixed: &Fixed) -> Value {
    let checked = fixed.before();
    let source = &checked.file.source;
    let one = |diagnostic: &Diagnostic| {
        let position = source.position(diagnostic.span.start);
        json!({
            "severity": diagnostic.severity.name(),
            "code": diagnostic.code,
            "message": diagnostic.message,
            "help": diagnostic.help,
            "file": source.name(),
            "line": position.line,
            "column": position.column,
        })
    };
    let unresolved = checked.unresolved.iter();
    let unresolved = unresolved.map(|e| e.context_value("image").unwrap_or(e.message()));
    json!({
        "diagnostics": checked.all().iter().map(one).collect::<Vec<_>>(),
        "unresolved": unresolved.collect::<Vec<_>>(),
        "fixed": fixed.is_changed().then_some(&fixed.text),
    })
}

fn outline(outline: &Outline) -> Value {
    let uses = |uses: &[SecretUse]| -> Value {
        uses.iter().map(|u| json!({"name": u.name, "required": u.required, "line": u.line})).collect()
    };
    let argument = |a: &Argument| json!({"name": a.name, "value": a.value, "description": a.description, "line": a.line});
    json!({
        "name": outline.name,
        "description": outline.description,
        "arguments": outline.arguments.iter().map(argument).collect::<Vec<_>>(),
        "secrets": uses(&outline.secrets),
        "ssh": uses(&outline.ssh),
        "caches": outline.caches.iter().map(|c| json!({"id": c.id, "line": c.line})).collect::<Vec<_>>(),
    })
}

fn target(target: &Target) -> Value {
    json!({
        "name": target.name,
        "index": target.index,
        "description": target.description,
        "base": target.base,
        "platform": target.platform,
        "default": target.default,
        "line": target.line,
    })
}
