//! Damage in the state folder: what is missing, cut or changed is made again, and never given away.

use super::support::{Built, Place, Registry, busybox, skip, told};
use hyper_sdk::Digest;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const DOCKERFILE: &str = "FROM base\nCOPY data /data\nRUN echo run > /run.txt\nRUN cp /data /copy\n";

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// A bit is another in its middle.
    Changed,
    /// A bit is another in its first byte.
    ChangedAtStart,
    /// Its end is missing.
    Cut,
    /// It is gone.
    Removed,
}

use Harm::{Changed, ChangedAtStart, Cut, Removed};

impl Harm {
    fn to(self, path: &Path) {
        let size = path.metadata().unwrap().len();
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let flip = |at: u64| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        };
        match self {
            Changed => flip(size / 2),
            ChangedAtStart => flip(0),
            Cut => file.set_len(size / 2).unwrap(),
            Removed => std::fs::remove_file(path).unwrap(),
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn largest(folder: &Path) -> PathBuf {
    files(folder).into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

fn place() -> Place {
    let place = Place::new();
    // Not to be compressed to nothing.
    let mut text = String::new();
    for number in 0..2000u32 {
        text.push_str(Digest::sha256(number.to_string()).as_ref());
    }
    place.write("context/data", &text);
    place
}

/// Builds into an image layout, checks every blob against its digest, and returns the warnings.
fn build(place: &Place, digest: &str, dockerfile: &str, more: &[&str], about: &str) -> Vec<String> {
    let output = place.join("out");
    let _ = std::fs::remove_dir_all(&output);
    let destination = format!("type=oci,tar=false,dest={}", output.display());
    let arguments = [&["--source-date-epoch=1", "-o", &destination], more].concat();
    let done = place.build(dockerfile, &arguments).output().unwrap();
    assert!(done.status.success(), "{about}: {}", told(&done));
    let built = Built::of(&done);
    if !digest.is_empty() {
        assert_eq!(built.digest, digest, "{about}");
    }
    let blobs = files(&output.join("blobs"));
    assert!(blobs.len() > 2);
    for blob in blobs {
        let name = blob.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(Digest::sha256(std::fs::read(&blob).unwrap()).hex(), name, "{about}");
    }
    let warnings = built.events.iter().filter(|event| event["event"] == "warning");
    warnings.map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_blob_that_is_damaged_is_made_or_fetched_again_with_one_warning() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = place();
    let first = place.built(DOCKERFILE, &["--source-date-epoch=1", "-t", "app:1"]).digest;
    let blobs = files(&place.join("state/store/blobs"));
    assert!(blobs.len() >= 5, "{blobs:?}");
    let mut missed = 0;
    for blob in &blobs {
        for harm in [Changed, Cut, Removed] {
            let about = format!("{harm:?} {}", blob.display());
            harm.to(blob);
            let warnings = build(&place, &first, DOCKERFILE, &[], &about);
            assert!(warnings.len() <= 1, "{about}: {warnings:?}");
            missed += usize::from(warnings.is_empty());
            place.built(DOCKERFILE, &["--source-date-epoch=1", "-t", "app:1"]);
            assert_eq!(build(&place, &first, DOCKERFILE, &[], &about), [""; 0], "{about}");
        }
    }
    // The config of the image itself is not read by a build: it is written again.
    assert!(missed <= 3, "{missed} of {} times nothing was said", 3 * blobs.len());
}

#[test]
fn all_blobs_damaged_at_once_are_made_again() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = place();
    let first = place.built(DOCKERFILE, &["--source-date-epoch=1", "-t", "app:1"]).digest;
    for harm in [Changed, ChangedAtStart, Cut, Removed] {
        for blob in files(&place.join("state/store/blobs")) {
            harm.to(&blob);
        }
        let about = format!("all {harm:?}");
        let warnings = build(&place, &first, DOCKERFILE, &["-t", "app:1"], &about);
        assert_eq!(warnings.len(), 1, "{about}: {warnings:?}");
        assert_eq!(build(&place, &first, DOCKERFILE, &[], &about), [""; 0], "{about}");
    }
    for folder in ["state/store/blobs", "state/store", "state/cache", "state/indexes", "state/snapshots"] {
        std::fs::remove_dir_all(place.join(folder)).unwrap();
        build(&place, &first, DOCKERFILE, &[], folder);
        build(&place, &first, DOCKERFILE, &["--no-cache"], folder);
    }
}

#[test]
fn a_base_image_of_a_registry_that_is_damaged_is_fetched_again() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let (place, registry) = (place(), Registry::start());
    let name = format!("{}/a/base:1", registry.host);
    place.built("FROM base\nRUN echo base > /base\n", &["-t", &name, "--push"]);
    let other = self::place();
    let dockerfile = format!("FROM {name}\nCOPY data /data\nRUN cat /base > /seen\n");
    let first = other.built(&dockerfile, &["--source-date-epoch=1"]).digest;
    for harm in [Changed, Cut, Removed] {
        let blob = largest(&other.join("state/store/blobs"));
        harm.to(&blob);
        let warnings = build(&other, &first, &dockerfile, &[], &format!("{harm:?}"));
        assert_eq!(warnings.len(), 1, "{harm:?}: {warnings:?}");
    }
}

#[test]
fn damaged_records_are_ignored() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = place();
    let first = place.built(DOCKERFILE, &["--source-date-epoch=1"]).digest;
    for folder in ["state/cache", "state/indexes", "state/snapshots/overlay/chains"] {
        if !place.join(folder).is_dir() {
            // Here snapshots are copies.
            continue;
        }
        for harm in [Changed, ChangedAtStart, Cut, Removed] {
            let about = format!("{harm:?} {folder}");
            for file in files(&place.join(folder)) {
                harm.to(&file);
            }
            build(&place, &first, DOCKERFILE, &[], &about);
            for file in files(&place.join(folder)) {
                harm.to(&file);
            }
            build(&place, &first, DOCKERFILE, &["--no-cache"], &about);
        }
    }
}

#[test]
fn an_unpacked_layer_that_is_gone_is_unpacked_again() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = place();
    let first = place.built(DOCKERFILE, &["--source-date-epoch=1"]).digest;
    let layers = || {
        let folders = files_of_layers(&place);
        assert!(!folders.is_empty());
        folders
    };
    for number in 0..layers().len() {
        for whole in [false, true] {
            let folder = layers()[number].clone();
            let gone = if whole { folder.clone() } else { folder.join("fs") };
            std::fs::remove_dir_all(&gone).unwrap();
            let about = gone.display().to_string();
            build(&place, &first, DOCKERFILE, &["--no-cache"], &about);
        }
    }
    let seen = place.built(&format!("{DOCKERFILE}RUN cat /run.txt\n"), &[]).log();
    assert_eq!(seen, "run\n");
}

fn files_of_layers(place: &Place) -> Vec<PathBuf> {
    let snapshots = place.join("state/snapshots");
    let mut found = BTreeSet::new();
    for style in std::fs::read_dir(snapshots).unwrap() {
        let layers = style.unwrap().path().join("layers");
        for layer in std::fs::read_dir(layers).into_iter().flatten() {
            found.insert(layer.unwrap().path());
        }
    }
    found.into_iter().collect()
}

#[test]
fn a_damaged_image_is_not_pushed_and_the_next_build_repairs_it() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = place();
    for (number, harm) in [Changed, ChangedAtStart, Cut, Removed].into_iter().enumerate() {
        // One that has none of the blobs yet.
        let registry = Registry::start();
        let name = format!("{}/a/app{number}:1", registry.host);
        let dockerfile = format!("{DOCKERFILE}RUN cat /data /data > /more{number}\n");
        place.built(&dockerfile, &["-t", &name]);
        harm.to(&largest(&place.join("state/store/blobs")));
        let pushed = place.hyper(&["push", &name]).output().unwrap();
        assert_eq!(pushed.status.code(), Some(1), "{harm:?} {}", told(&pushed));
        let text = told(&pushed);
        assert!(text.contains("build or pull the image again"), "{harm:?} {text}");
        place.built(&dockerfile, &["-t", &name]);
        place.ok(&["push", &name]);
        place.ok(&["pull", &name]);
    }
}

#[test]
fn images_are_listed_and_shown_though_blobs_are_damaged() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = place();
    place.built(DOCKERFILE, &["-t", "app:1"]);
    for blob in files(&place.join("state/store/blobs")) {
        Changed.to(&blob);
    }
    assert!(place.ok(&["images"]).contains("app:1"));
    assert!(place.ok(&["inspect", "--raw", "app:1"]).contains("schemaVersion"));
    let shown = place.hyper(&["inspect", "app:1"]).output().unwrap();
    let text = told(&shown);
    assert!(shown.status.code() == Some(1) && text.contains("build or pull the image again"), "{text}");
    place.built(DOCKERFILE, &["-t", "app:1"]);
    place.ok(&["inspect", "app:1"]);
}

#[test]
fn a_repeated_build_shows_each_warning_once() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = place();
    // Two findings of the linter, and a warning of a step that runs again.
    let dockerfile =
        "FROM base as a\nMAINTAINER me\nCOPY --chown=nobody-here data /data\nRUN cp /data /copy\n";
    let first = place.built(dockerfile, &["--source-date-epoch=1"]).digest;
    let mut anew = 0;
    for blob in files(&place.join("state/store/blobs")) {
        Changed.to(&blob);
        let warnings = build(&place, &first, dockerfile, &[], "changed");
        let unlike: BTreeSet<_> = warnings.iter().collect();
        assert_eq!(unlike.len(), warnings.len(), "{warnings:?}");
        assert!(
            ["FromAsCasing", "Maintainer"]
                .iter()
                .all(|rule| { warnings.iter().any(|warning| warning.contains(rule)) }),
            "{warnings:?}"
        );
        anew += usize::from(warnings.iter().any(|warning| warning.contains("built or fetched again")));
    }
    assert!(anew > 0, "no build began anew");
}
