//! The source passes the suite, and a builder that has it builds on what it gives.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use hyper_sdk::build::{BuildContext, BuildRequest, Builder as _, NamedContext, OutputKind};
use hyper_sdk::progress::Progress;
use hyper_sdk::source::conformance::SourceFixture;
use hyper_sdk::testing::{FakeExecutor, RandomImage, TestContent, fake_builder};
use source::{SCHEME, Shelf};
use std::sync::Arc;

/// A shelf with a root file system and a folder.
fn shelf() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("base.tar"), &RandomImage::new(1).layers[0].tar).unwrap();
    std::fs::create_dir(folder.path().join("books")).unwrap();
    std::fs::write(folder.path().join("books/one"), "content").unwrap();
    folder
}

async fn fixture() -> (SourceFixture, tempfile::TempDir) {
    let folder = shelf();
    let fixture = SourceFixture {
        source: Arc::new(Shelf::new(folder.path())),
        image: Some("base".to_owned()),
        files: Some("books".to_owned()),
        unknown: "nothing".to_owned(),
    };
    (fixture, folder)
}

hyper_sdk::source_conformance!(fixture);

#[tokio::test]
async fn a_build_begins_with_an_image_of_the_shelf() {
    let shelf = shelf();
    let (parts, state) = fake_builder(FakeExecutor::new()).unwrap();
    let builder = parts.source(SCHEME, Arc::new(Shelf::new(shelf.path()))).open().unwrap();
    let text = "FROM base\nCOPY --from=books one /from-the-shelf\n";
    let mut request = BuildRequest::new(text, BuildContext::Empty);
    for name in ["base", "books"] {
        let context = NamedContext::parse_with(&format!("{SCHEME}://{name}"), [SCHEME]).unwrap();
        request.named_contexts.insert(name.to_owned(), context);
    }
    let out = state.path().join("out");
    request.outputs = vec![OutputKind::Local(out.clone()).into()];
    builder.build(request, &Progress::none()).await.unwrap();
    assert_eq!(std::fs::read_to_string(out.join("from-the-shelf")).unwrap(), "content");
    let tree = RandomImage::new(1).layers.remove(0).tree;
    let files = tree.iter().filter(|(_, file)| matches!(file.content, TestContent::File(_)));
    for (path, _) in files {
        assert!(out.join(path).exists(), "{path}");
    }
}

#[tokio::test]
async fn a_name_leads_nowhere_else() {
    use hyper_sdk::platform::Platform;
    use hyper_sdk::source::Source as _;

    let shelf = shelf();
    for name in ["../books", "/etc", "", "books/one"] {
        let error =
            Shelf::new(shelf.path().join("books")).resolve(name, &Platform::host()).await.unwrap_err();
        assert!(error.to_string().contains("is not a name"), "{error}");
    }
}
