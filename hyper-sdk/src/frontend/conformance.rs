//! The conformance suite of frontends, one function for each case.
//!
//! [`frontend_conformance!`](crate::frontend_conformance) makes a test of every case. A case gets a frontend with texts of
//! its language, and lowers them. Every name in a text is an empty image of the suite.
#![allow(clippy::unwrap_used, reason = "a case is a test: it fails by panicking")]
#![allow(missing_docs, reason = "the name of a case is its description")]

use super::{EpochOf, FrontendOptions, Lowered, Resolved, Resolver, SharedFrontend};
use crate::oci::ImageConfig;
use crate::platform::Platform;
use crate::testing::Random;
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A frontend, and texts of its language.
#[derive(Debug)]
pub struct FrontendFixture {
    /// The frontend.
    pub frontend: SharedFrontend,
    /// A valid text. It may have base images.
    pub text: String,
    /// A valid text of another image.
    pub other: String,
    /// An invalid text.
    pub broken: String,
}

/// Emits one `#[tokio::test]` for each case of the suite.
///
/// The fixture is the path of an `async fn() -> FrontendFixture`, or of one that gives an `Option` of it, which is `None` where
/// this machine cannot run it: then every case says that it is skipped. The calling crate needs `tokio` with `macros` and
/// `rt-multi-thread`.
///
/// ```
/// # #[cfg(test)]
/// mod dockerfiles {
///     use hyper_sdk::build::DockerfileFrontend;
///     use hyper_sdk::frontend::conformance::FrontendFixture;
///     use std::sync::Arc;
///
///     async fn fixture() -> FrontendFixture {
///         FrontendFixture {
///             frontend: Arc::new(DockerfileFrontend),
///             text: "FROM base\nRUN make\n".to_owned(),
///             other: "FROM base\nRUN make other\n".to_owned(),
///             broken: "FORM base\n".to_owned(),
///         }
///     }
///     hyper_sdk::frontend_conformance!(fixture);
/// }
/// ```
#[macro_export]
macro_rules! frontend_conformance {
    ($fixture:path) => {
        $crate::frontend_conformance!(@cases $fixture;
            a_text_becomes_a_graph, equal_texts_give_equal_graphs, another_text_gives_another_graph,
            the_image_is_for_the_requested_platform, the_history_has_every_layer,
            an_invalid_text_is_rejected_with_its_name, no_text_ends_the_process,
            the_error_of_a_resolver_is_returned, many_texts_are_lowered_concurrently,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let given = $crate::testing::given(stringify!($case), $fixture().await);
                let Some(fixture) = given else { return };
                $crate::frontend::conformance::$case(fixture).await;
            }
        )*
    };
}

/// A resolver that finds every image, all of them empty; or no image.
#[derive(Debug, Default)]
struct Images {
    asked: AtomicUsize,
    fails: bool,
}

#[async_trait]
impl Resolver for Images {
    async fn context(&self, _: &str, _: &Platform) -> Result<Option<Resolved>> {
        Ok(None)
    }

    async fn epoch(&self, _: EpochOf) -> Result<Option<i64>> {
        Ok(None)
    }

    async fn image(&self, name: &str, platform: &Platform) -> Result<Resolved> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.fails {
            return Err(Error::new(ErrorKind::Unavailable, "the registry of the suite is not there"));
        }
        Ok(Resolved::Image {
            reference: name.to_owned(),
            manifest: Digest::sha256(name),
            config: Box::new(ImageConfig::empty(platform)),
        })
    }
}

const NAME: &str = "Text-of-the-suite";

async fn lower_for(fixture: &FrontendFixture, text: &str, platform: Option<Platform>) -> Result<Lowered> {
    let options = FrontendOptions { platform, ..FrontendOptions::default() };
    fixture.frontend.lower(NAME, text, &options, &Images::default(), &mut Vec::new()).await
}

async fn lower(fixture: &FrontendFixture, text: &str) -> Lowered {
    lower_for(fixture, text, None).await.unwrap()
}

/// The address and the operations of a graph, which are equal for equal graphs.
fn address(lowered: &Lowered) -> (Digest, Vec<u8>) {
    (lowered.graph.vertex(lowered.root).address().clone(), lowered.config.to_bytes())
}

pub async fn a_text_becomes_a_graph(fixture: FrontendFixture) {
    for text in [&fixture.text, &fixture.other] {
        let lowered = lower(&fixture, text).await;
        assert!(lowered.graph.reachable(&[lowered.root]).contains(&lowered.root));
        for id in lowered.graph.reachable(&[lowered.root]) {
            assert!(!lowered.graph.vertex(id).name.trim().is_empty(), "a step has no name");
        }
    }
}

pub async fn equal_texts_give_equal_graphs(fixture: FrontendFixture) {
    let (first, second) = (lower(&fixture, &fixture.text).await, lower(&fixture, &fixture.text).await);
    assert_eq!(address(&first), address(&second));
    assert_eq!(first.history, second.history);
}

pub async fn another_text_gives_another_graph(fixture: FrontendFixture) {
    let (first, second) = (lower(&fixture, &fixture.text).await, lower(&fixture, &fixture.other).await);
    assert_ne!(address(&first), address(&second));
}

pub async fn the_image_is_for_the_requested_platform(fixture: FrontendFixture) {
    for architecture in ["amd64", "arm64"] {
        let platform = Platform::new("linux", architecture, None);
        let lowered = lower_for(&fixture, &fixture.text, Some(platform)).await.unwrap();
        assert_eq!(
            (lowered.config.os.as_str(), lowered.config.architecture.as_str()),
            ("linux", architecture)
        );
    }
    let lowered = lower(&fixture, &fixture.text).await;
    assert_eq!(
        lowered.config.architecture,
        Platform::host().architecture,
        "without a platform it is that of the host"
    );
}

pub async fn the_history_has_every_layer(fixture: FrontendFixture) {
    use crate::graph::{Op, SourceOp};
    let lowered = lower(&fixture, &fixture.text).await;
    let (mut layers, mut at) = (0, lowered.graph.vertex(lowered.root));
    while let Some(below) = at.inputs.first() {
        layers += 1;
        at = lowered.graph.vertex(*below);
    }
    assert!(matches!(at.op, Op::Source(SourceOp::Scratch | SourceOp::Image { .. })), "{:?}", at.op);
    let recorded: Vec<&str> =
        lowered.history.iter().filter(|step| step.layer).map(|step| step.created_by.as_str()).collect();
    assert_eq!(recorded.len(), layers, "{recorded:?}");
    assert!(recorded.iter().all(|step| !step.trim().is_empty()));
}

pub async fn an_invalid_text_is_rejected_with_its_name(fixture: FrontendFixture) {
    let error = lower_for(&fixture, &fixture.broken, None).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported), "{error:?}");
    assert!(error.to_string().contains(NAME), "which file it is: {error}");
}

pub async fn no_text_ends_the_process(fixture: FrontendFixture) {
    let mut random = Random::new(7);
    for round in 0..300 {
        let mut bytes = fixture.text.clone().into_bytes();
        match round % 3 {
            0 => bytes = random.bytes(round),
            1 => bytes.truncate(random.below(bytes.len() + 1)),
            _ => {
                let (at, byte) = (random.below(bytes.len().max(1)), random.bytes(1)[0] & 0x7f);
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
        }
        // It may succeed or fail.
        let _ = lower_for(&fixture, &String::from_utf8_lossy(&bytes), None).await;
    }
}

pub async fn the_error_of_a_resolver_is_returned(fixture: FrontendFixture) {
    let (known, failing) = (Images::default(), Images { fails: true, ..Images::default() });
    let options = FrontendOptions::default();
    fixture.frontend.lower(NAME, &fixture.text, &options, &known, &mut Vec::new()).await.unwrap();
    if known.asked.load(Ordering::SeqCst) == 0 {
        return;
    }
    let lowered = fixture.frontend.lower(NAME, &fixture.text, &options, &failing, &mut Vec::new()).await;
    assert_eq!(lowered.unwrap_err().kind(), ErrorKind::Unavailable);
}

pub async fn many_texts_are_lowered_concurrently(fixture: FrontendFixture) {
    let texts = [&fixture.text, &fixture.other];
    let alone = [address(&lower(&fixture, texts[0]).await), address(&lower(&fixture, texts[1]).await)];
    let together = futures::future::join_all((0..16).map(|i| lower(&fixture, texts[i % 2]))).await;
    for (i, lowered) in together.iter().enumerate() {
        assert_eq!(address(lowered), alone[i % 2]);
    }
}
