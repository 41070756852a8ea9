//! Builds that fail: every error has its cause and place, and no unfinished file is left.

use super::kit::{Place, build, needs, rejected, watched};
use crate::build::{Output, OutputKind, SharedBuilder};
use crate::progress::Event;
use crate::{ErrorDetail, ErrorKind, MissingInput};

pub async fn all_problems_of_a_text_are_reported(builder: SharedBuilder) {
    let place = Place::new(&[("f", "x")]);
    let error = rejected(&builder, place.files("FROM scratch\nCOPI f /f\nCOPY --fron=x f /f\n")).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let Some(ErrorDetail::Dockerfile(problems)) = error.detail() else { panic!("no problems: {error:?}") };
    let lines: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [2, 3]);
    assert!(problems.iter().all(|p| p.file == "Dockerfile" && p.column > 0 && !p.message.is_empty()));
    assert!(place.out("f").is_none());
}

pub async fn an_unknown_target_is_named(builder: SharedBuilder) {
    let place = Place::new(&[("f", "x")]);
    let mut request = place.request("FROM scratch AS one\nCOPY f /f\n");
    request.target = Some("another".to_owned());
    let error = rejected(&builder, request).await;
    assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::NotFound), "{error:?}");
    assert!(error.to_string().contains("another"), "{error}");
}

pub async fn a_missing_file_is_not_found(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[]);
    let error = rejected(&builder, place.request("FROM scratch\n\nCOPY missing /x\n")).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let step = error.step().expect("the error has its step");
    assert!(step.name.contains("COPY missing /x"), "{step:?}");
    assert_eq!(step.origin.as_deref(), Some("Dockerfile:3"));
}

pub async fn an_unknown_frontend_is_named(builder: SharedBuilder) {
    let place = Place::new(&[]);
    let mut request = place.request("whatever\n");
    request.frontend = Some("example.com/none:1".to_owned());
    let error = rejected(&builder, request).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("example.com/none:1"), "{error}");
}

pub async fn an_impossible_output_is_rejected_before_any_step(builder: SharedBuilder) {
    let place = Place::new(&[("f", "x")]);
    let mut request = place.files("FROM scratch\nCOPY f /f\n");
    request.outputs.push(Output::push());
    let (result, events) = watched(&builder, request).await;
    let error = result.unwrap_err();
    assert_eq!(error.detail(), Some(&ErrorDetail::Missing(MissingInput::ImageName)), "{error:?}");
    assert!(!events.iter().any(|event| matches!(event, Event::Started { .. })), "{events:?}");
    assert!(place.out("f").is_none());
}

pub async fn a_failed_build_writes_nothing(builder: SharedBuilder) {
    let place = Place::new(&[("f", "x")]);
    let mut request = place.files("FROM scratch\nCOPY f /f\nCOPY missing /x\n");
    request.outputs.extend([place.tar(), place.layout()].map(Output::from));
    let (_, _) = watched(&builder, request).await;
    for name in ["out/f", "out.tar", "layout/index.json"] {
        assert!(!place.path(name).exists(), "{name} is there");
    }
}

pub async fn a_failed_build_keeps_existing_files(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "x")]);
    std::fs::write(place.path("out.tar"), "before").unwrap();
    std::fs::create_dir(place.path("out")).unwrap();
    std::fs::write(place.path("out/kept"), "before").unwrap();
    let mut request = place.files("FROM scratch\nCOPY missing /x\n");
    request.outputs.push(place.tar().into());
    rejected(&builder, request).await;
    assert_eq!(std::fs::read_to_string(place.path("out.tar")).unwrap(), "before");
    assert_eq!(place.out("kept").as_deref(), Some("before"));
}

pub async fn a_failed_build_does_not_break_later_builds(builder: SharedBuilder) {
    needs!(builder, results);
    let place = Place::new(&[("f", "x")]);
    let text = "FROM scratch\nCOPY f /f\nCOPY later /later\n";
    rejected(&builder, place.files(text)).await;
    place.write("later", "y");
    let mut request = place.files(text);
    request.outputs.push(OutputKind::CacheOnly.into());
    build(&builder, request).await;
    assert_eq!((place.out("f").as_deref(), place.out("later").as_deref()), (Some("x"), Some("y")));
}
