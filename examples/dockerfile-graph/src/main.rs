//! Lowers Dockerfiles to their graphs, without network: every image is taken to be an empty one.
//!
//! ```text
//! dockerfile-graph Dockerfile…          the size of each graph, and what the linter finds
//! dockerfile-graph --dot Dockerfile     the graph as a drawing for `dot`
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use async_trait::async_trait;
use hyper_sdk::build::{check_dockerfile, lower_dockerfile};
use hyper_sdk::frontend::{EpochOf, FrontendOptions, Resolved, Resolver};
use hyper_sdk::oci::ImageConfig;
use hyper_sdk::platform::Platform;
use hyper_sdk::{Digest, Result};
use std::process::ExitCode;

struct EmptyImages;

#[async_trait]
impl Resolver for EmptyImages {
    async fn context(&self, _: &str, _: &Platform) -> Result<Option<Resolved>> {
        Ok(None)
    }

    async fn epoch(&self, _: EpochOf) -> Result<Option<i64>> {
        Ok(None)
    }

    async fn image(&self, name: &str, platform: &Platform) -> Result<Resolved> {
        Ok(Resolved::Image {
            reference: name.to_owned(),
            manifest: Digest::sha256(name),
            config: Box::new(ImageConfig::empty(platform)),
        })
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut draw = false;
    let mut failed = false;
    for name in std::env::args().skip(1) {
        if name == "--dot" {
            draw = true;
            continue;
        }
        let text = std::fs::read_to_string(&name)?;
        let options = FrontendOptions::default();
        match lower_dockerfile(&name, &text, &options, &EmptyImages, &mut Vec::new()).await {
            Ok(lowered) if draw => print!("{}", lowered.graph.to_dot()),
            Ok(lowered) => {
                let checked = check_dockerfile(&name, &text, &options, None, &EmptyImages).await?;
                let line = |f: &hyper_sdk::lint::Finding| checked.file.source.line_of(f.span.start);
                let rules: Vec<String> =
                    checked.findings.iter().map(|f| format!("{}:{}", f.rule.name, line(f))).collect();
                println!("{name}: {} vertices; {}", lowered.graph.vertices().len(), rules.join(" "));
            }
            Err(error) => {
                failed = true;
                println!("{name}: {error}");
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
