//! The exporter passes the suite, and its list says what is in the image.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use exporter::{FileList, TYPE};
use hyper_sdk::build::{BuildContext, BuildRequest, Builder as _, Output};
use hyper_sdk::export::conformance::ExporterFixture;
use hyper_sdk::progress::Progress;
use hyper_sdk::testing::{FakeExecutor, FakeRun, fake_builder};
use std::sync::Arc;

async fn fixture() -> ExporterFixture {
    ExporterFixture {
        exporter: Arc::new(FileList),
        attributes: |folder| [("dest".to_owned(), folder.join("list").display().to_string())].into(),
    }
}

hyper_sdk::exporter_conformance!(fixture);

#[tokio::test]
async fn the_list_has_every_file() {
    let executor = FakeExecutor::new().on("make", FakeRun::new().writes_as("/bin/app", "12345", 0o750));
    let (parts, state) = fake_builder(executor).unwrap();
    let builder = parts.exporter(TYPE, Arc::new(FileList)).open().unwrap();
    let list = state.path().join("list");
    let mut request = BuildRequest::new("FROM scratch\nRUN make\n", BuildContext::Empty);
    request.outputs =
        vec![Output::parse_with(&format!("type={TYPE},dest={}", list.display()), [TYPE]).unwrap()];
    builder.build(request, &Progress::none()).await.unwrap();
    let text = std::fs::read_to_string(&list).unwrap();
    let line = text.lines().find(|line| line.ends_with(" bin/app")).unwrap();
    assert!(line.starts_with("-rwxr-x---") && line.contains(" 5 "), "{text}");
}
