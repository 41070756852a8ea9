//! A frontend for recipes in TOML.
//!
//! ```toml
//! # syntax=example.com/recipe:1
//! base = "alpine:3"
//! env = { LANG = "C" }
//! run = ["apk add --no-cache make", "make"]
//! copy = [{ from = "app", to = "/usr/bin/app" }]
//! command = ["/usr/bin/app"]
//! ```
//!
//! A frontend turns its text into a graph and the config of an image. It runs nothing, and asks the resolver for images.

use async_trait::async_trait;
use hyper_sdk::frontend::{Frontend, FrontendOptions, Lowered, Resolved, Resolver};
use hyper_sdk::graph::{CopyAction, ExecOp, FileAction, FileOp, Graph, Op, SourceOp, VertexId};
use hyper_sdk::oci::ImageConfig;
use hyper_sdk::platform::Platform;
use hyper_sdk::{Error, ErrorDetail, Result, TextProblem};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The name that recipes ask for in their first line.
pub const NAME: &str = "example.com/recipe:1";

/// What a recipe says. A key that is not here is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Recipe {
    base: Option<String>,
    env: BTreeMap<String, String>,
    copy: Vec<Copy>,
    run: Vec<String>,
    command: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Copy {
    from: String,
    to: String,
}

/// The frontend.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecipeFrontend;

fn parse(name: &str, text: &str) -> Result<Recipe> {
    toml::from_str(text).map_err(|e| {
        let before = &text[..e.span().map_or(0, |span| span.start).min(text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let problem = TextProblem::new("recipe", e.message(), name, line, column);
        Error::invalid(format!("{name}:{line}:{column}: {}", e.message()))
            .with_detail(ErrorDetail::Dockerfile(vec![problem]))
    })
}

/// Adds what the recipe begins with. Gives it with the config that the image begins with.
async fn base(
    graph: &mut Graph,
    recipe: &Recipe,
    platform: &Platform,
    resolver: &dyn Resolver,
) -> Result<(VertexId, ImageConfig)> {
    let scratch = (Op::Source(SourceOp::Scratch), ImageConfig::empty(platform));
    let (op, config) = match &recipe.base {
        None => scratch,
        Some(name) => {
            let named = resolver.context(name, platform).await?;
            match named {
                Some(found) => from_resolved(found, scratch)?,
                None => from_resolved(resolver.image(name, platform).await?, scratch)?,
            }
        }
    };
    Ok((graph.add(op, vec![], recipe.base.as_deref().unwrap_or("scratch")), config))
}

fn from_resolved(found: Resolved, scratch: (Op, ImageConfig)) -> Result<(Op, ImageConfig)> {
    match found {
        Resolved::Image { reference, manifest, config } => {
            Ok((Op::Source(SourceOp::Image { reference, manifest }), *config))
        }
        Resolved::Scratch => Ok(scratch),
        Resolved::Folder(name) => Err(Error::unsupported(format!("the base `{name}` is a folder"))),
    }
}

#[async_trait]
impl Frontend for RecipeFrontend {
    async fn lower(
        &self,
        name: &str,
        text: &str,
        options: &FrontendOptions,
        resolver: &dyn Resolver,
        warnings: &mut Vec<String>,
    ) -> Result<Lowered> {
        let recipe = parse(name, text)?;
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let mut graph = Graph::new();
        let (mut root, mut config) = base(&mut graph, &recipe, &platform, resolver).await?;
        config.config.env.extend(recipe.env.iter().map(|(key, value)| format!("{key}={value}")));
        config.config.labels.extend(options.labels.clone());
        if recipe.command.is_empty() {
            warnings.push(format!("{name}: there is no `command`: the image has that of its base, if any"));
        } else {
            config.config.cmd = Some(recipe.command.clone());
        }
        let mut made = Vec::new();
        for copy in &recipe.copy {
            let context = graph.add(Op::Source(SourceOp::Folder { name: String::new() }), vec![], "context");
            let action = CopyAction {
                input: 1,
                sources: vec![copy.from.clone()],
                destination: copy.to.clone(),
                chown: None,
                chmod: None,
                parents: false,
                exclude: Vec::new(),
                unpack: None,
                add: false,
            };
            let op = Op::File(FileOp { actions: vec![FileAction::Copy(Box::new(action))], link: false });
            made.push(format!("copy {} to {}", copy.from, copy.to));
            root = graph.add(op, vec![root, context], &made[made.len() - 1]);
        }
        for command in &recipe.run {
            let mut op = ExecOp::new(["/bin/sh", "-c", command].map(str::to_owned).to_vec());
            let variables = config.config.env.iter().filter_map(|entry| entry.split_once('='));
            op.env = variables.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            made.push(format!("run {command}"));
            root = graph.add(Op::Exec(Box::new(op)), vec![root], &made[made.len() - 1]);
        }
        let mut lowered = Lowered::new(graph, root, config);
        made.into_iter().for_each(|step| lowered.record(step, true));
        Ok(lowered)
    }
}
