//! Outlines, and stages without a base image.

use super::*;
use crate::frontend::dockerfile::{outline, targets};

fn arguments(text: &str, target: Option<&str>, build_args: &[(&str, &str)]) -> Vec<String> {
    let (file, _) = crate::dockerfile::parse(text, "Dockerfile").into_result().unwrap();
    let mut options = FrontendOptions { target: target.map(str::to_owned), ..FrontendOptions::default() };
    options.build_args = build_args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let outline = outline(&file, &options).unwrap();
    assert_eq!(outline.sources, [text]);
    outline.arguments.iter().map(|a| format!("{}={}", a.name, a.value.as_deref().unwrap_or("-"))).collect()
}

#[test]
fn an_outline_has_the_used_global_arguments() {
    let text = "ARG USED=1\nARG UNUSED=2\nFROM scratch\nARG USED\n";
    assert_eq!(arguments(text, None, &[]), ["USED=1"]);
    let text = "ARG a=1\nARG unused=$a\nARG b=box$a\nARG c=x$b d=${c}y\nARG p=linux/amd64\n\
                FROM --platform=$p b$d AS one\nFROM b$a AS two\nARG own\n";
    assert_eq!(arguments(text, Some("one"), &[]), ["a=1", "b=box1", "c=xbox1", "d=xbox1y", "p=linux/amd64"]);
    assert_eq!(arguments(text, Some("two"), &[]), ["a=1", "own=-"]);
    // A default that a build argument replaces uses no arguments.
    assert_eq!(arguments(text, Some("one"), &[("d", "z")]), ["d=z", "p=linux/amd64"]);
}

#[test]
fn an_outline_knows_the_stage_that_is_built() {
    let text = "FROM scratch\nARG TARGETSTAGE\nFROM scratch AS last\nARG TARGETSTAGE\n";
    for (target, value) in [(None, "last"), (Some("0"), "0"), (Some("last"), "last"), (Some(""), "last")] {
        assert_eq!(arguments(text, target, &[]), [format!("TARGETSTAGE={value}")], "{target:?}");
    }
    assert_eq!(arguments("FROM scratch\nARG TARGETSTAGE\n", None, &[]), ["TARGETSTAGE=default"]);
    assert_eq!(arguments(text, None, &[("TARGETSTAGE", "x")]), ["TARGETSTAGE=x"]);
}

#[test]
fn texts_are_in_base64() {
    let text = "FROM scratch\n";
    let (file, _) = crate::dockerfile::parse(text, "Dockerfile").into_result().unwrap();
    let targets = serde_json::to_value(targets(&file)).unwrap();
    assert_eq!(targets["sources"], serde_json::json!(["RlJPTSBzY3JhdGNoCg=="]));
    let outline = outline(&file, &FrontendOptions::default()).unwrap();
    let outline = serde_json::to_value(outline).unwrap();
    assert_eq!(outline["sources"], serde_json::json!(["RlJPTSBzY3JhdGNoCg=="]));
}

#[tokio::test]
async fn a_named_context_can_be_scratch() {
    for text in ["FROM nothing\nCOPY a /\n", "FROM base AS nothing\nRUN x\nFROM nothing\nCOPY a /\n"] {
        let l = lowered(text).await;
        let sources: Vec<_> =
            l.graph.reachable(&[l.root]).into_iter().map(|id| &l.graph.vertex(id).op).collect();
        assert!(sources.contains(&&Op::Source(SourceOp::Scratch)), "{text}");
        assert!(!sources.iter().any(|op| matches!(op, Op::Source(SourceOp::Image { .. }))), "{text}");
    }
    let l = lowered("FROM scratch\nCOPY --from=nothing /a /\n").await;
    assert!(matches!(root(&l), Op::File(_)));
    let text = "ARG SOURCE_DATE_EPOCH=nothing\nFROM nothing\nCOPY a /\n";
    assert_eq!(try_lower(text, FrontendOptions::default()).await.unwrap().epoch, None);
}

#[tokio::test]
async fn the_os_version_is_in_the_image_and_in_arguments() {
    let platform = || Some("windows(10.0.20348.1006)/amd64".parse().unwrap());
    let options = || FrontendOptions { platform: platform(), ..FrontendOptions::default() };
    let text = "FROM nano\nARG TARGETOSVERSION TARGETPLATFORM\nENV A=$TARGETOSVERSION B=$TARGETPLATFORM\n";
    let l = try_lower(text, options()).await.unwrap();
    assert_eq!(l.config.os_version.as_deref(), Some("10.0.20348.1006"));
    let env = &l.config.config.env;
    assert!(env.contains(&"A=10.0.20348.1006".to_owned()), "{env:?}");
    assert!(env.contains(&"B=windows(10.0.20348.1006)/amd64".to_owned()), "{env:?}");
    let l =
        try_lower("FROM --platform=windows(10.0.1)/amd64 nano\n", FrontendOptions::default()).await.unwrap();
    assert!(
        matches!(root(&l), Op::Source(SourceOp::Image { reference, .. }) if reference == "nano windows(10.0.1)/amd64")
    );
}
