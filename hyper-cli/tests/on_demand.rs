//! The blobs of layers: made when an output needs them, the same whenever they are made, and never for nothing.

use crate::support::{Built, Place, at_once, busybox, is_root, skip, told};
use hyper_sdk::Digest;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// The stage `made` has layers of every kind; the last stage takes one file of it.
const STAGES: &str = "\
FROM base AS made
COPY data /data
RUN mkdir -p /made/deep && cp /data /made/one && ln /made/one /made/two && ln -s one /made/three
WORKDIR /made
COPY --chown=1:2 --chmod=600 data /made/four
RUN rm /data && chmod 700 deep && echo more >> one
FROM scratch
COPY --from=made /made/one /one
";

/// The test without a static busybox says so and ends.
macro_rules! needs_busybox {
    () => {
        if busybox().is_none() {
            skip!("there is no static busybox");
        }
    };
}

fn place() -> Place {
    let place = Place::new();
    let text: String =
        (0..3000u32).map(|number| Digest::sha256(number.to_string()).hex().to_owned()).collect();
    let file = std::fs::File::open(place.write("context/data", &text)).unwrap();
    // Equal contexts, so that equal layers are made.
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    file.set_times(std::fs::FileTimes::new().set_modified(time)).unwrap();
    place
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => drop(found.insert(entry.path())),
            }
        }
    }
    found
}

fn blobs(place: &Place) -> BTreeSet<PathBuf> {
    files(&place.join("state/store/blobs"))
}

/// Builds a stage into an image layout, and returns its digest and the digests of its layers.
fn exported(place: &Place, dockerfile: &str, target: &str, attributes: &str) -> (Built, Vec<String>) {
    let output = place.join("out");
    let _ = std::fs::remove_dir_all(&output);
    let to = format!("type=oci,tar=false,dest={}{attributes}", output.display());
    let built = place.built(dockerfile, &["--target", target, "-o", &to]);
    let hex = built.digest.strip_prefix("sha256:").unwrap();
    let json = |hex: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(output.join("blobs/sha256").join(hex)).unwrap()).unwrap()
    };
    let layers = json(hex)["layers"].as_array().unwrap().clone();
    let layers: Vec<String> = layers
        .iter()
        .map(|layer| layer["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned())
        .collect();
    for layer in &layers {
        let bytes = std::fs::read(output.join("blobs/sha256").join(layer)).unwrap();
        assert_eq!(Digest::sha256(bytes).hex(), layer);
    }
    (built, layers)
}

/// The steps that ran.
fn ran(built: &Built) -> Vec<String> {
    let outcomes = built.outcomes();
    let steps = outcomes.iter().filter(|(name, outcome)| name.starts_with('[') && *outcome != "cached");
    steps.map(|(name, _)| name.clone()).collect()
}

fn warnings(built: &Built) -> usize {
    built.events.iter().filter(|event| event["event"] == "warning").count()
}

#[test]
fn a_stage_that_no_output_has_leaves_no_blob() {
    needs_busybox!();
    let place = place();
    for more in [&["-t", "app:1"][..], &["-o=type=cacheonly", "--target=made"], &["-o=files"]] {
        place.built(STAGES, more);
    }
    let before = blobs(&place);
    let (built, layers) = exported(&place, STAGES, "made", "");
    assert_eq!(ran(&built), [""; 0]);
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let before: BTreeSet<String> = before.iter().map(name).collect();
    // The base has one layer.
    let made: Vec<&String> = layers.iter().skip(1).collect();
    assert_eq!(made.len(), 5);
    assert!(made.iter().all(|layer| !before.contains(*layer)), "{made:?} {before:?}");
}

#[test]
fn layers_are_the_same_whenever_they_are_made() {
    needs_busybox!();
    let early = exported(&place(), STAGES, "made", "");
    // While later steps run, after the build, and by another process.
    let late = place();
    late.built(STAGES, &[]);
    let seen = exported(&late, STAGES, "made", "");
    assert_eq!((ran(&seen.0), seen.1), (vec![], early.1.clone()));
    assert_eq!(seen.0.digest, early.0.digest);
    // Again, from what is left.
    for blob in blobs(&late) {
        std::fs::remove_file(blob).unwrap();
    }
    let again = exported(&late, STAGES, "made", "");
    assert_eq!((ran(&again.0), &again.0.digest, again.1), (vec![], &early.0.digest, early.1.clone()));
    assert_eq!(warnings(&again.0), 1, "what was lost is told once");
    std::fs::remove_dir_all(late.join("state/snapshots")).unwrap();
    let again = exported(&late, STAGES, "made", "");
    assert_eq!((ran(&again.0), again.0.digest), (vec![], early.0.digest.clone()));
    // After another compression.
    let other = place();
    other.built(STAGES, &[]);
    exported(&other, STAGES, "made", ",compression=zstd,force-compression=true");
    exported(&other, STAGES, "made", ",compression=gzip,compression-level=9,force-compression=true");
    let seen = exported(&other, STAGES, "made", "");
    assert_eq!((ran(&seen.0), seen.0.digest), (vec![], early.0.digest.clone()));
}

#[test]
fn a_snapshot_that_is_gone_or_changed_is_made_again() {
    needs_busybox!();
    let early = exported(&place(), STAGES, "made", "").1;
    let place = place();
    for harm in ["gone", "changed"] {
        let _ = std::fs::remove_dir_all(place.join("state"));
        place.built(STAGES, &[]);
        let mut harmed = 0;
        for file in files(&place.join("state/snapshots")) {
            if file.ends_with("fs/made/four") || file.ends_with("fs/made/one") {
                harmed += 1;
                match harm {
                    "gone" => std::fs::remove_file(&file).unwrap(),
                    _ => std::fs::write(&file, "other").unwrap(),
                }
            }
        }
        assert!(harmed > 0);
        let (built, layers) = exported(&place, STAGES, "made", "");
        assert!(!ran(&built).is_empty(), "{harm}");
        assert_eq!(layers, early, "{harm}");
        assert!(warnings(&built) <= 1, "{harm}: {:?}", built.events);
    }
    let _ = std::fs::remove_dir_all(place.join("state"));
    place.built(STAGES, &[]);
    std::fs::remove_dir_all(place.join("state/snapshots")).unwrap();
    let (built, layers) = exported(&place, STAGES, "made", "");
    // A snapshot that is not there is no damage.
    assert_eq!((ran(&built).len(), layers, warnings(&built)), (5, early, 0));
}

#[test]
fn a_damaged_snapshot_is_removed_when_nobody_else_works_with_snapshots() {
    needs_busybox!();
    let early = exported(&place(), STAGES, "made", "").1;
    let place = place();
    place.built(STAGES, &[]);
    let harmed = files(&place.join("state/snapshots"));
    let harmed: Vec<_> = harmed.iter().filter(|file| file.ends_with("fs/made/one")).collect();
    harmed.iter().for_each(|file| std::fs::write(file, "other").unwrap());
    assert!(!harmed.is_empty());
    let slow = "FROM base\nRUN sleep 8 # slow\n";
    let mut other = place.build(slow, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(other.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("# slow")), "the other build runs");
    let rest = std::thread::spawn(move || lines.count());
    let layers = exported(&place, STAGES, "made", "").1;
    let ended = other.try_wait().unwrap().expect("the snapshot was removed while another build ran");
    assert!(ended.success());
    rest.join().unwrap();
    assert_eq!(layers, early);
}

#[test]
fn a_build_with_another_isolation_finds_no_damage() {
    needs_busybox!();
    if !is_root() {
        skip!("this takes root");
    }
    let place = place();
    assert_eq!(ran(&place.built(STAGES, &[])).len(), 6);
    place.built(STAGES, &["--isolation=none"]);
    for more in [&[][..], &["--isolation=none"]] {
        let built = place.built(STAGES, &[more, &["--target=made", "-o=type=cacheonly"]].concat());
        let told = built.events.iter().filter(|event| event["event"] == "warning");
        let told: Vec<String> = told.map(ToString::to_string).collect();
        assert!(!told.iter().any(|text| text.contains("damaged")), "{told:?}");
    }
}

#[test]
fn content_that_comes_out_the_same_still_saves_a_rebuild() {
    needs_busybox!();
    let place = place();
    let text = |echo: &str| {
        format!(
            "FROM base AS one\nRUN {echo} > /x; touch -d @1000 /x\nRUN cat /x > /y\n\
             FROM base AS two\nRUN --mount=type=bind,from=one,source=/x,target=/in cat /in > /z\n\
             FROM scratch\nCOPY --from=one /y /y\nCOPY --from=two /z /z\n"
        )
    };
    let first = place.built(&text("echo same"), &[]);
    assert_eq!(ran(&first).len(), 5);
    let second = place.built(&text("printf 'same\\n'"), &[]);
    assert_eq!(ran(&second).len(), 1, "{:?}", ran(&second));
    assert_eq!(second.digest, first.digest);
}

#[test]
fn a_kill_leaves_only_what_is_whole() {
    needs_busybox!();
    let early = exported(&place(), STAGES, "made", "").1;
    for wait in [0, 40, 80, 120, 160, 200, 300, 400] {
        let place = place();
        let mut child = place.build(STAGES, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        let (built, layers) = exported(&place, STAGES, "made", "");
        assert_eq!((layers, warnings(&built)), (early.clone(), 0), "after {wait} ms");
    }
    // Between the end of a step and that of the build.
    let place = place();
    let slow =
        STAGES.replace("FROM scratch", "FROM base\nRUN sleep 100\nFROM scratch\nCOPY --from=1 /bin /bin");
    let mut child = place.build(&slow, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut built = Built { digest: String::new(), events: Vec::new() };
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        built.events.extend(serde_json::from_str(&line.unwrap()));
        if built.outcomes().keys().filter(|name| name.starts_with("[made ")).count() == 5 {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (built, layers) = exported(&place, STAGES, "made", "");
    assert_eq!((ran(&built), layers, warnings(&built)), (vec![], early, 0));
}

#[test]
fn two_processes_make_the_same_layers() {
    needs_busybox!();
    let early = exported(&place(), STAGES, "made", "").1;
    let place = place();
    let to = format!("type=oci,dest={}", place.join("out.tar").display());
    let builds = at_once([
        place.build(STAGES, &[]),
        place.build(STAGES, &["--target=made", "-o", &to]),
        place.build(STAGES, &["-o=type=cacheonly"]),
    ]);
    assert!(
        builds.iter().all(|output| output.status.success()),
        "{}",
        builds.iter().map(told).collect::<String>()
    );
    let (built, layers) = exported(&place, STAGES, "made", "");
    assert_eq!((ran(&built), layers, warnings(&built)), (vec![], early, 0));
}
