//! Commands: their changes, their output and their secrets.

use super::kit::{HANGS, Place, build, cached, needs, rejected, watched};
use crate::build::SharedBuilder;
use crate::exec::SecretBytes;
use crate::progress::{Event, Progress};
use crate::{ErrorDetail, ErrorKind, MissingInput};

/// A command that writes a file.
pub(in crate::build) const MAKES: &str = "echo made > /made";
/// A command that prints and fails.
pub(in crate::build) const FAILS: &str = "echo said; exit 7";
/// A command that writes the length of a secret to a file.
pub(in crate::build) const COUNTS: &str = "wc -c < /run/secrets/token > /length";
/// A command that prints and then does not end.
pub(in crate::build) const HANGS_ON: &str = "echo started; sleep 100000";

const SECRET: &str = "a-secret-of-the-suite-31415926";

fn text(command: &str) -> String {
    format!("FROM scratch\nCOPY . /\nRUN {command}\n")
}

fn logged(events: &[Event]) -> String {
    let text = events.iter().filter_map(|event| match event {
        Event::Log { text, .. } => Some(text.as_str()),
        _ => None,
    });
    text.collect()
}

pub async fn a_command_changes_the_files(builder: SharedBuilder) {
    needs!(builder, results, run);
    let Some(place) = Place::with_shell() else { return };
    let output = build(&builder, place.files(&text(MAKES))).await;
    assert_eq!(place.out("made").as_deref(), Some("made\n"));
    assert_eq!(cached(&output, "RUN"), [false]);
}

pub async fn a_failed_command_reports_its_code_and_output(builder: SharedBuilder) {
    needs!(builder, results, run);
    let Some(place) = Place::with_shell() else { return };
    let error = rejected(&builder, place.files(&text(FAILS))).await;
    assert_eq!(error.kind(), ErrorKind::CommandFailed, "{error}");
    let Some(ErrorDetail::Command(command)) = error.detail() else { panic!("no command: {error:?}") };
    assert_eq!((command.exit_code, command.output.trim_end()), (7, "said"));
    assert!(error.step().unwrap().name.contains(FAILS), "{error}");
    assert!(!place.path("out").exists());
}

pub async fn output_of_a_command_is_an_event(builder: SharedBuilder) {
    needs!(builder, results, run);
    let Some(place) = Place::with_shell() else { return };
    let (_, events) = watched(&builder, place.request(&text(FAILS))).await;
    assert_eq!(logged(&events), "said\n");
}

pub async fn a_cached_command_does_not_run_again(builder: SharedBuilder) {
    needs!(builder, results, run);
    let Some(place) = Place::with_shell() else { return };
    build(&builder, place.request(&text(MAKES))).await;
    let again = build(&builder, place.files(&text(MAKES))).await;
    assert_eq!((cached(&again, "RUN"), place.out("made").as_deref()), (vec![true], Some("made\n")));
}

pub async fn a_secret_is_visible_to_its_command_alone(builder: SharedBuilder) {
    needs!(builder, results, run);
    let Some(place) = Place::with_shell() else { return };
    let mut request = place.files(&text(&format!("--mount=type=secret,id=token,required {COUNTS}")));
    request.secrets.insert("token".to_owned(), SecretBytes::new(SECRET));
    request.outputs.push(place.tar().into());
    let (result, events) = watched(&builder, request).await;
    let output = result.unwrap();
    assert_eq!(place.out("length").unwrap().trim(), SECRET.len().to_string());
    for text in [format!("{events:?}"), format!("{output:?}")] {
        assert!(!text.contains(SECRET), "the secret is in {text}");
    }
    let tar = std::fs::read(place.path("out.tar")).unwrap();
    assert!(!tar.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes()), "the secret is in the files");
}

pub async fn a_required_secret_that_is_missing_is_named(builder: SharedBuilder) {
    needs!(builder, results, run);
    let Some(place) = Place::with_shell() else { return };
    let error = rejected(&builder, place.files(&text("--mount=type=secret,id=token,required true"))).await;
    assert_eq!(
        error.detail(),
        Some(&ErrorDetail::Missing(MissingInput::Secret("token".to_owned()))),
        "{error}"
    );
}

pub async fn a_privileged_command_needs_permission(builder: SharedBuilder) {
    needs!(builder, results, run);
    let Some(place) = Place::with_shell() else { return };
    let error = rejected(&builder, place.files(&text("--security=insecure true"))).await;
    let missing = MissingInput::Permission("security.insecure".to_owned());
    assert_eq!((error.kind(), error.detail()), (ErrorKind::Denied, Some(&ErrorDetail::Missing(missing))));
}

pub async fn a_dropped_build_writes_nothing(builder: SharedBuilder) {
    needs!(builder, results, run);
    let Some(place) = Place::with_shell() else { return };
    let (progress, mut events) = Progress::channel();
    let mut request = place.files(&text(HANGS_ON));
    request.outputs.push(place.tar().into());
    let started = async {
        while let Some(event) = events.recv().await {
            if matches!(&event, Event::Log { text, .. } if text.contains("started")) {
                return;
            }
        }
        panic!("the command never started");
    };
    tokio::select! {
        result = builder.build(request, &progress) => panic!("the build ended by itself: {result:?}"),
        started = tokio::time::timeout(HANGS, started) => started.expect("the command never starts"),
    }
    drop(progress);
    // The build has stopped when the last sender is dropped.
    let rest = async { while events.recv().await.is_some() {} };
    tokio::time::timeout(HANGS, rest).await.expect("the build continues");
    assert!(!place.path("out").exists() && !place.path("out.tar").exists());
    build(&builder, place.files(&text(MAKES))).await;
    assert_eq!(place.out("made").as_deref(), Some("made\n"));
}
