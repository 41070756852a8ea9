//! The frontend passes the suite, and a builder that has it builds recipes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use frontend::{NAME, RecipeFrontend};
use hyper_sdk::ErrorDetail;
use hyper_sdk::build::{BuildContext, BuildRequest, Builder as _, OutputKind};
use hyper_sdk::frontend::conformance::FrontendFixture;
use hyper_sdk::progress::Progress;
use hyper_sdk::testing::{FakeExecutor, FakeRun, fake_builder};
use std::sync::Arc;

async fn fixture() -> FrontendFixture {
    FrontendFixture {
        frontend: Arc::new(RecipeFrontend),
        text: "base = \"base\"\nrun = [\"make\", \"make install\"]\ncopy = [{ from = \"a\", to = \"/a\" }]\n"
            .into(),
        other: "run = [\"make other\"]\n".into(),
        broken: "ruin = []\n".into(),
    }
}

hyper_sdk::frontend_conformance!(fixture);

#[tokio::test]
async fn a_recipe_is_built() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("context")).unwrap();
    std::fs::write(folder.path().join("context/app"), "program").unwrap();
    let executor = FakeExecutor::new().on("make", FakeRun::new().writes("/made", "by make"));
    let (parts, _state) = fake_builder(executor).unwrap();
    let builder = parts.frontend(NAME, Arc::new(RecipeFrontend)).open().unwrap();
    let recipe =
        format!("# syntax={NAME}\nrun = [\"make\"]\ncopy = [{{ from = \"app\", to = \"/usr/bin/\" }}]\n");
    let mut request = BuildRequest::new(recipe, BuildContext::Folder(folder.path().join("context")));
    request.outputs = vec![OutputKind::Local(folder.path().join("out")).into()];
    let output = builder.build(request, &Progress::none()).await.unwrap();
    assert_eq!(output.steps.len(), 2);
    let read = |name: &str| std::fs::read_to_string(folder.path().join("out").join(name)).unwrap();
    assert_eq!((read("usr/bin/app"), read("made")), ("program".to_owned(), "by make".to_owned()));
}

#[tokio::test]
async fn a_fault_of_a_recipe_has_its_place() {
    let (parts, _state) = fake_builder(FakeExecutor::new()).unwrap();
    let builder = parts.frontend(NAME, Arc::new(RecipeFrontend)).open().unwrap();
    let recipe = format!("# syntax={NAME}\nrun = [\"make\"]\ncopy = 7\n");
    let error =
        builder.build(BuildRequest::new(recipe, BuildContext::Empty), &Progress::none()).await.unwrap_err();
    let Some(ErrorDetail::Dockerfile(problems)) = error.detail() else { panic!("{error:?}") };
    assert_eq!((problems.len(), problems[0].line, problems[0].column), (1, 3, 8), "{error}");
}
