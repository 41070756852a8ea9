//! Records that are written, found, removed and bounded.

use super::*;
use crate::build::{BuildContext, BuildOutput};
use crate::progress::{LogStream, Progress};

fn history(folder: &Path) -> History {
    Session::builder(folder.join("state")).open().unwrap().history().unwrap()
}

fn request() -> BuildRequest {
    let mut request =
        BuildRequest::new("FROM scratch\n", BuildContext::Web("https://me:pass@h/c.tar?token=1".into()));
    request.build_args.insert("TOKEN".into(), "value-of-it".into());
    request.outputs.push(crate::build::Output::store());
    request
}

fn output() -> BuildOutput {
    BuildOutput { image: None, config: None, steps: Vec::new(), tags: vec!["a:1".into()], epoch: 0 }
}

#[test]
fn a_record_has_the_steps_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let history = history(folder.path());
    let recording = history.begin(&request(), None).unwrap();
    let (to, mut events) = Progress::channel();
    let progress = recording.progress(&to);
    progress.start("RUN make", None).done();
    progress.start("COPY a /", None).cached();
    let failing = progress.start("ADD https://me:pass@h/x /", None);
    failing.log(LogStream::Stdout, b"said");
    failing.failed(&Error::invalid("cannot fetch https://me:pass@h/x"));
    let left = progress.start("RUN other", None);
    progress.warn("careful");
    let running = history.get(None).unwrap();
    assert_eq!(running.outcome, RecordOutcome::Running);
    assert!(history.remove(&running).unwrap_err().message().contains("runs"));
    let id = recording.id();
    recording.finish(Err(&Error::invalid("it broke"))).unwrap();
    drop(left);
    let record = history.get(Some(&id[..5])).unwrap();
    let steps: Vec<_> = record.steps.iter().map(|step| (step.name.as_str(), step.outcome)).collect();
    let expected = [
        ("RUN make", RecordOutcome::Done),
        ("COPY a /", RecordOutcome::Cached),
        ("ADD https://***@h/x /", RecordOutcome::Failed),
        ("RUN other", RecordOutcome::Cancelled),
    ];
    assert_eq!(steps, expected);
    assert_eq!((record.outcome, record.error.as_deref()), (RecordOutcome::Failed, Some("it broke")));
    assert_eq!((record.build_args, record.warnings), (vec!["TOKEN".to_owned()], vec!["careful".to_owned()]));
    assert_eq!(record.context, "https://***@h/c.tar?***");
    let text = std::fs::read_to_string(history.path(&id)).unwrap();
    for secret in ["pass", "token=1", "value-of-it"] {
        assert!(!text.contains(secret), "{text}");
    }
    // Every event was passed on.
    let mut count = 0;
    while events.try_recv().is_ok() {
        count += 1;
    }
    assert!(count >= 10, "{count}");
}

#[test]
fn a_build_that_is_dropped_or_killed_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let history = history(folder.path());
    let dropped = history.begin(&request(), None).unwrap();
    let id = dropped.id();
    drop(dropped);
    assert_eq!(history.get(Some(&id)).unwrap().outcome, RecordOutcome::Cancelled);
    // As a killed process leaves it.
    let killed = history.begin(&request(), None).unwrap();
    let (id, bytes) = (killed.id(), std::fs::read(history.path(&killed.id())).unwrap());
    drop(killed);
    std::fs::write(history.path(&id), bytes).unwrap();
    let record = history.get(Some(&id)).unwrap();
    assert_eq!(record.outcome, RecordOutcome::Interrupted);
    history.remove(&record).unwrap();
    assert_eq!(history.get(Some(&id)).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn records_and_logs_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let history = history(folder.path());
    std::fs::create_dir_all(&history.logs).unwrap();
    for at in 0..MAX_RECORDS + 5 {
        let log = history.logs.join(format!("{at}.log"));
        // A file with a hole has the size, and takes no space.
        std::fs::File::create(&log).unwrap().set_len(MAX_LOG_BYTES / 10).unwrap();
        history.begin(&request(), Some(&log)).unwrap().finish(Ok(&output())).unwrap();
    }
    let records = history.list().unwrap();
    assert_eq!(records.len(), MAX_RECORDS);
    let with_log = records.iter().filter(|record| history.log(record).is_some()).count();
    assert!((2..=12).contains(&with_log), "{with_log}");
    // A damaged record hides no other.
    std::fs::write(history.path("damaged"), "{").unwrap();
    assert_eq!(history.list().unwrap().len(), MAX_RECORDS);
    assert_eq!(history.get(Some("damaged")).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn the_record_of_a_build_that_runs_stays_however_old_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let history = history(folder.path());
    let running = history.begin(&request(), None).unwrap();
    let old = std::fs::File::options().write(true).open(history.path(&running.id())).unwrap();
    old.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1)).unwrap();
    for _ in 0..MAX_RECORDS + 2 {
        history.begin(&request(), None).unwrap().finish(Ok(&output())).unwrap();
    }
    let records = history.list().unwrap();
    assert!(records.iter().any(|record| record.id == running.id()));
    assert!(records.len() <= MAX_RECORDS + 1, "{}", records.len());
    running.finish(Ok(&output())).unwrap();
}
