//! The suite of frontends on that of Dockerfiles, and on frontends with injected faults, which it must find.

use crate::build::DockerfileFrontend;
use crate::frontend::conformance::{self as cases, FrontendFixture};
use crate::frontend::{Frontend, FrontendOptions, Lowered, Resolver};
use crate::testing::assert_suite_finds;
use crate::{Error, ErrorKind, Result};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const TEXT: &str =
    "FROM base AS tools\nRUN make\nFROM base\nENV A=1\nCOPY --from=tools /a /b\nWORKDIR /w\nRUN again\n";

fn texts(frontend: impl Frontend) -> FrontendFixture {
    FrontendFixture {
        frontend: Arc::new(frontend),
        text: TEXT.to_owned(),
        other: "FROM base\nRUN other\n".to_owned(),
        broken: "FORM base\n".to_owned(),
    }
}

mod dockerfiles {
    use super::*;

    async fn fixture() -> Option<FrontendFixture> {
        Some(texts(DockerfileFrontend))
    }
    crate::frontend_conformance!(fixture);
}

/// An injected fault of a frontend.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    CountsSteps,
    KnowsOneText,
    HasOnePlatform,
    ForgetsHistory,
    OmitsTheName,
    HidesTheKind,
    Panics,
    MixesTexts,
    NamesNothing,
}

#[derive(Debug)]
struct Faulty(Fault, AtomicUsize);

#[async_trait]
impl Frontend for Faulty {
    async fn lower(
        &self,
        name: &str,
        text: &str,
        options: &FrontendOptions,
        resolver: &dyn Resolver,
        warnings: &mut Vec<String>,
    ) -> Result<Lowered> {
        let count = self.1.fetch_add(1, Ordering::SeqCst);
        let (mut text, mut options, mut name) = (text.to_owned(), options.clone(), name);
        match self.0 {
            Fault::CountsSteps => text.push_str(&format!("\nENV COUNT={count}\n")),
            Fault::KnowsOneText if !text.starts_with("FORM") => text = TEXT.to_owned(),
            Fault::HasOnePlatform => options.platform = None,
            Fault::OmitsTheName => name = "text",
            Fault::Panics => assert!(text.starts_with('F'), "what is this?"),
            Fault::MixesTexts if count > 2 => text = TEXT.to_owned(),
            _ => {}
        }
        let lowered = DockerfileFrontend.lower(name, &text, &options, resolver, warnings).await;
        let hide = |e: Error| Error::new(ErrorKind::Internal, e.message());
        let mut lowered = if self.0 == Fault::HidesTheKind { lowered.map_err(hide) } else { lowered }?;
        if self.0 == Fault::ForgetsHistory {
            lowered.history.pop();
        }
        if self.0 == Fault::NamesNothing {
            let mut graph = crate::graph::Graph::new();
            for vertex in lowered.graph.vertices() {
                graph.add(vertex.op.clone(), vertex.inputs.clone(), " ");
            }
            lowered.graph = graph;
        }
        Ok(lowered)
    }
}

#[tokio::test]
async fn the_suite_finds_every_fault() {
    let with = |fault| texts(Faulty(fault, AtomicUsize::new(0)));
    assert_suite_finds! { cases, with, Fault;
        CountsSteps by equal_texts_give_equal_graphs;
        KnowsOneText by another_text_gives_another_graph;
        HasOnePlatform by the_image_is_for_the_requested_platform;
        ForgetsHistory by the_history_has_every_layer;
        OmitsTheName by an_invalid_text_is_rejected_with_its_name;
        HidesTheKind by an_invalid_text_is_rejected_with_its_name, the_error_of_a_resolver_is_returned;
        Panics by no_text_ends_the_process;
        MixesTexts by many_texts_are_lowered_concurrently;
        NamesNothing by a_text_becomes_a_graph;
    }
}
