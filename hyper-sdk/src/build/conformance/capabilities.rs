//! The capabilities of a builder, and its behaviour without them.

use super::kit::{Place, build, rejected};
use crate::ErrorKind;
use crate::build::{Output, SharedBuilder};

pub async fn capabilities_do_not_change(builder: SharedBuilder) {
    let before = builder.capabilities().await.unwrap();
    let place = Place::new(&[("f", "x")]);
    build(&builder, place.request("FROM scratch\nCOPY f /f\n")).await;
    assert_eq!(builder.capabilities().await.unwrap(), before);
    assert!(!before.run || !before.platforms.is_empty(), "commands run on some platform: {before:?}");
}

pub async fn capabilities_without_results_nothing_is_written(builder: SharedBuilder) {
    if builder.capabilities().await.unwrap().results {
        return;
    }
    let place = Place::new(&[("f", "x")]);
    let mut request = place.files("FROM scratch\nCOPY f /f\n");
    request.outputs.extend([place.tar(), place.layout()].map(Output::from));
    for _ in 0..2 {
        let output = build(&builder, request.clone()).await;
        assert_eq!((output.image, output.config), (None, None));
        let steps: Vec<_> =
            output.steps.iter().map(|step| (step.name.contains("COPY f /f"), step.cached)).collect();
        assert_eq!(steps, [(true, false)], "a step that did not run is not cached");
    }
    for name in ["out", "out.tar", "layout"] {
        assert!(!place.path(name).exists(), "{name} is there");
    }
}

pub async fn capabilities_without_commands_run_is_rejected(builder: SharedBuilder) {
    let capabilities = builder.capabilities().await.unwrap();
    if capabilities.run || !capabilities.results {
        return;
    }
    let place = Place::new(&[]);
    let error = rejected(&builder, place.files("FROM scratch\nRUN true\n")).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("RUN"), "{error}");
}

pub async fn a_builder_has_a_name(builder: SharedBuilder) {
    assert!(!builder.to_string().is_empty() && !builder.to_string().contains('\n'));
    assert!(!format!("{builder:?}").is_empty());
}
