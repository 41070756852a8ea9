//! Caches that machines share and that have lost something, or that several builds write at once.

use crate::cache_export::{
    STAGES, flag, layers_of, layers_of_records, machine, needs_busybox, ran, warnings,
};
use crate::support::{busybox, skip, told, wait_for};
use std::path::{Path, PathBuf};

/// The blobs of the layers of stages that no output has, in a cache of all steps: those that `smaller` does not have.
fn of_stages(all: &Path, smaller: &Path) -> Vec<PathBuf> {
    let own: Vec<_> =
        layers_of(smaller).into_iter().filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect();
    layers_of(all).into_iter().filter(|path| !own.iter().any(|name| path.ends_with(name))).collect()
}

/// Whether a folder has every blob that its records name.
fn is_whole(folder: &Path) -> bool {
    layers_of_records(folder).iter().all(|path| path.is_file())
}

#[test]
fn what_one_cache_lost_is_not_in_the_cache_that_is_written_from_it() {
    needs_busybox!();
    let (one, two, three) = (machine(), machine(), machine());
    let (to, from) = flag(&one, "cache", ",mode=max");
    let (to_smaller, _) = flag(&one, "smaller", "");
    let made = one.built(STAGES, &[&to, &to_smaller]);
    let folder = one.join("cache");
    let lost = of_stages(&folder, &one.join("smaller"));
    assert_eq!(lost.len(), 4);
    lost[1..].iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let (to_other, _) = flag(&two, "other", ",mode=max");
    let found = two.built(STAGES, &[&from, &to_other]);
    assert_eq!((ran(&found).len(), &found.digest), (0, &made.digest), "{:?}", found.outcomes());
    let warned = warnings(&found).concat();
    assert!(warned.contains("the cache that is written has no results that need it"), "{warned}");
    let other = two.join("other");
    assert!(is_whole(&other));
    assert_eq!(layers_of(&other).len(), 5, "{:?}", layers_of(&other));
    // Into the cache itself, with one step more.
    let more = format!("{STAGES}RUN echo more > /more\n");
    assert!(!is_whole(&folder));
    let built = three.built(&more, &[&from, &to]);
    assert_eq!(ran(&built).len(), 1, "{:?}", built.outcomes());
    assert!(is_whole(&folder));
    assert_eq!(layers_of(&folder).len(), 6);
}

#[test]
fn a_loss_while_a_cache_is_written_writes_no_output_again() {
    needs_busybox!();
    let (one, two) = (machine(), machine());
    let (_, from) = flag(&one, "cache", "");
    let (to, to_smaller) = (flag(&one, "cache", ",mode=max").0, flag(&one, "smaller", "").0);
    one.built(STAGES, &[&to, &to_smaller]);
    let lost = of_stages(&one.join("cache"), &one.join("smaller"));
    lost.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let (to_other, _) = flag(&two, "other", ",mode=max,compression=zstd");
    let tar = two.build(STAGES, &[&from, &to_other, "--output=type=tar,dest=-"]).output().unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    let file = two.join("files.tar");
    two.built(STAGES, &[&from, &format!("--output=type=tar,dest={}", file.display())]);
    assert!(std::fs::read(file).unwrap() == tar.stdout, "{} bytes", tar.stdout.len());
    assert_eq!(layers_of(&two.join("other")).len(), 4);
    // A destination that fails is still an error.
    two.write("full/blobs", "in the place of a folder");
    let failed = two.build(STAGES, &[&from, &flag(&two, "full", ",mode=max").0]).output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{}", told(&failed));
}

#[test]
fn a_second_cache_has_what_the_first_one_lost() {
    needs_busybox!();
    let (one, two) = (machine(), machine());
    let simple = "FROM base\nRUN head -c 16 /dev/urandom > /x\nRUN cat /x > /y\n";
    let ((to_a, from_a), (to_b, from_b)) = (flag(&one, "a", ""), flag(&one, "b", ""));
    let made = one.built(simple, &[&to_a, &to_b]);
    std::fs::remove_file(&layers_of(&one.join("a"))[0]).unwrap();
    let found = two.built(simple, &[&from_a, &from_b]);
    assert_eq!(
        (ran(&found).len(), found.digest.as_str()),
        (0, made.digest.as_str()),
        "{:?}",
        found.outcomes()
    );
    assert!(warnings(&found).concat().contains("has no usable layer"), "{:?}", warnings(&found));
}

#[test]
fn exports_into_one_folder_keep_each_others_tags() {
    needs_busybox!();
    let place = machine();
    let simple = "FROM base\nRUN head -c 16 /dev/urandom > /x\n";
    let folder = place.join("cache");
    place.built(simple, &[&flag(&place, "cache", ",tag=first").0]);
    let index = folder.join("index.json");
    let turn = std::fs::File::open(folder.join("index.json.lock")).unwrap();
    turn.lock().unwrap();
    let blobs = || std::fs::read_dir(folder.join("blobs/sha256")).unwrap().count();
    let before = blobs();
    let other = format!("{simple}RUN cat /x > /y\n");
    let mut build = place.build(&other, &[&flag(&place, "cache", ",tag=second").0]);
    let mut build =
        build.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    // Its layer, the index of that, the records and the manifest.
    wait_for("the blobs are written", || blobs() >= before + 4);
    // Somebody else changes the index meanwhile.
    let text = std::fs::read_to_string(&index).unwrap();
    assert!(!text.contains("second"), "{text}");
    std::fs::write(&index, text.replace("\"first\"", "\"third\"")).unwrap();
    drop(turn);
    assert!(build.wait().unwrap().success());
    let text = std::fs::read_to_string(&index).unwrap();
    assert!(text.contains("\"third\"") && text.contains("\"second\""), "{text}");
}
