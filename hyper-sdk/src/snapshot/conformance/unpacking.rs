//! Cases about unpacking layers.

use super::kit::*;
use crate::layer::{LayerReader, LayerWriter, TimesTable};
use crate::snapshot::{LayerToUnpack, SharedSnapshotter, UnpackOptions};
use crate::testing::RandomImage;
use crate::{Digest, ErrorKind};
use std::io::{Cursor, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const NOT_FOUND: &[ErrorKind] = &[ErrorKind::NotFound];

/// Counts the bytes that are read, and fails at the end if `fails` is set.
struct Watched {
    inner: Cursor<Vec<u8>>,
    read: Arc<AtomicUsize>,
    fails: bool,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.inner.read(buffer)? {
            0 if self.fails && !buffer.is_empty() => Err(std::io::Error::other("the digest does not match")),
            n => {
                self.read.fetch_add(n, Ordering::SeqCst);
                Ok(n)
            }
        }
    }
}

fn watched(tar: Vec<u8>, fails: bool) -> (Box<Watched>, Arc<AtomicUsize>) {
    let read = Arc::new(AtomicUsize::new(0));
    (Box::new(Watched { inner: Cursor::new(tar), read: Arc::clone(&read), fails }), read)
}

pub async fn an_unknown_chain_does_not_exist(snapshots: SharedSnapshotter) {
    let unknown = chain("unknown");
    assert!(!snapshots.has(&unknown).await.unwrap());
    fails(snapshots.view(Some(&unknown)).await, NOT_FOUND);
    fails(snapshots.prepare(Some(&unknown)).await, NOT_FOUND);
    fails(snapshots.read_file(Some(&unknown), "/x", 10).await, NOT_FOUND);
    fails(snapshots.export(Some(&unknown), "/", Default::default()).await.map(drop), NOT_FOUND);
    assert!(snapshots.list().await.unwrap().is_empty());
}

pub async fn an_unpacked_layer_can_be_read(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("d/", ""), ("d/f", "content"), ("empty", "")]).await;
    assert!(snapshots.has(&chain("a")).await.unwrap());
    assert_eq!(read(&snapshots, "a", "/d/f").await.as_deref(), Some("content"));
    assert_eq!(read(&snapshots, "a", "d/f").await.as_deref(), Some("content"));
    assert_eq!(read(&snapshots, "a", "/empty").await.as_deref(), Some(""));
    assert_eq!(read(&snapshots, "a", "/none").await, None);
}

pub async fn a_random_image_is_unpacked_unchanged(snapshots: SharedSnapshotter) {
    for seed in 0..4 {
        let image = RandomImage::new(seed);
        let mut below: Option<Digest> = None;
        for (number, layer) in image.layers.iter().enumerate() {
            let name = chain(&format!("seed {seed} layer {number}"));
            let tar = reader(layer.tar.to_vec());
            snapshots.apply(below.as_ref(), &name, UnpackOptions::default(), tar).await.unwrap();
            assert_eq!(
                found(&export(&snapshots, &name).await),
                expected(&layer.tree),
                "seed {seed} layer {number}"
            );
            below = Some(name);
        }
    }
}

pub async fn whiteouts_hide_lower_files(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("d/", ""), ("d/f", "x"), ("e", "y"), ("f", "z")]).await;
    apply(&snapshots, Some("a"), "b", &[("d", "-"), ("e", "-"), ("none", "-")]).await;
    assert_eq!(paths(&snapshots, "b").await, ["f"]);
    assert_eq!(read(&snapshots, "b", "/d/f").await, None);
    // A later layer can add the file again.
    apply(&snapshots, Some("b"), "c", &[("d/", ""), ("d/g", "new")]).await;
    assert_eq!(paths(&snapshots, "c").await, ["d", "d/g", "f"]);
}

pub async fn a_whiteout_of_the_lowest_layer_hides_nothing(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("d/", ""), ("d/f", "x"), ("d/gone", "-"), ("gone", "-")]).await;
    assert_eq!(paths(&snapshots, "a").await, ["d", "d/f"]);
}

pub async fn an_opaque_folder_hides_its_lower_content(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("d/", ""), ("d/e/", ""), ("d/e/f", "x"), ("d/g", "y")]).await;
    apply(&snapshots, Some("a"), "b", &[("d/", ""), ("d/", "!opaque"), ("d/new", "z")]).await;
    assert_eq!(paths(&snapshots, "b").await, ["d", "d/new"]);
}

pub async fn a_file_replaces_a_folder(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("d/", ""), ("d/f", "x"), ("g", "y"), ("l", "->g")]).await;
    apply(&snapshots, Some("a"), "b", &[("d", "file"), ("g/", ""), ("g/h", "z"), ("l", "no link")]).await;
    assert_eq!(paths(&snapshots, "b").await, ["d", "g", "g/h", "l"]);
    assert_eq!(read(&snapshots, "b", "/d").await.as_deref(), Some("file"));
    assert_eq!(read(&snapshots, "b", "/l").await.as_deref(), Some("no link"));
}

pub async fn a_layer_leaves_its_parent_alone(snapshots: SharedSnapshotter) {
    let below = [("d/", ""), ("d/f", "old"), ("g", "old")];
    apply(&snapshots, None, "a", &below).await;
    let before = export(&snapshots, &chain("a")).await;
    apply(&snapshots, Some("a"), "b", &[("d/f", "new"), ("g", "-"), ("new", "x")]).await;
    assert_eq!(read(&snapshots, "b", "/d/f").await.as_deref(), Some("new"));
    assert_eq!(export(&snapshots, &chain("a")).await, before);
}

pub async fn two_children_do_not_mix(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("f", "below")]).await;
    for child in ["b", "c"] {
        apply(&snapshots, Some("a"), child, &[(child, "own"), ("f", child)]).await;
    }
    for child in ["b", "c"] {
        assert_eq!(paths(&snapshots, child).await, [child, "f"]);
        assert_eq!(read(&snapshots, child, "/f").await.as_deref(), Some(child));
    }
}

pub async fn a_missing_parent_is_not_found(snapshots: SharedSnapshotter) {
    fails(try_apply(&snapshots, Some("missing"), "a", layer(&[("f", "x")])).await, NOT_FOUND);
    assert!(!snapshots.has(&chain("a")).await.unwrap());
}

pub async fn a_layer_is_unpacked_once(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("f", "first")]).await;
    apply(&snapshots, None, "a", &[("f", "second")]).await;
    assert_eq!(read(&snapshots, "a", "/f").await.as_deref(), Some("first"), "it existed already");
}

pub async fn equal_calls_unpack_once(snapshots: SharedSnapshotter) {
    let tar = layer(&[("f", &"x".repeat(100_000))]);
    let calls: Vec<_> = (0..4).map(|_| watched(tar.clone(), false)).collect();
    let (readers, counts): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
    let name = chain("a");
    let calls = readers.into_iter().map(|reader| {
        let reader: Box<dyn Read + Send> = reader;
        snapshots.apply(None, &name, UnpackOptions::default(), reader)
    });
    for call in futures::future::join_all(calls).await {
        call.unwrap();
    }
    let read: usize = counts.iter().map(|count| count.load(Ordering::SeqCst)).sum();
    assert_eq!(read, tar.len(), "one of the calls reads its layer");
}

pub async fn a_layer_is_read_to_its_end(snapshots: SharedSnapshotter) {
    // The caller hashes the stream, so the bytes after the archive must be read too.
    let mut tar = layer(&[("f", "x")]);
    tar.resize(tar.len() + 100_000, 0);
    let (reader, count) = watched(tar.clone(), false);
    snapshots.apply(None, &chain("a"), UnpackOptions::default(), reader).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), tar.len());
}

pub async fn a_layer_whose_reader_fails_leaves_nothing(snapshots: SharedSnapshotter) {
    let (reader, _) = watched(layer(&[("f", "x")]), true);
    let error = snapshots.apply(None, &chain("a"), UnpackOptions::default(), reader).await.unwrap_err();
    assert!(format!("{error:?}").contains("digest does not match"), "{error:?}");
    assert!(!snapshots.has(&chain("a")).await.unwrap());
    assert!(snapshots.list().await.unwrap().is_empty());
    apply(&snapshots, None, "a", &[("f", "good")]).await;
    assert_eq!(read(&snapshots, "a", "/f").await.as_deref(), Some("good"));
}

pub async fn a_truncated_layer_leaves_nothing(snapshots: SharedSnapshotter) {
    let tar = layer(&[("f", &"x".repeat(10_000)), ("g", "y")]);
    for length in [100, 600, 5_000, 10_752 + 100] {
        let cut = try_apply(&snapshots, None, "a", &tar[..length]).await;
        assert!(cut.is_err(), "{length} bytes of {}", tar.len());
        assert!(!snapshots.has(&chain("a")).await.unwrap(), "{length} bytes of {}", tar.len());
    }
}

/// The numbers of layers and whether they were unpacked.
type Ends = Arc<Mutex<Vec<(usize, bool)>>>;

/// Layers named after their numbers, each on the one before. The second value has the results, in the order of their ends.
fn numbered(tars: Vec<Vec<u8>>) -> (Vec<LayerToUnpack<'static>>, Ends) {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let name = |number: usize| chain(&format!("layer {number}"));
    let layers = tars.into_iter().enumerate().map(|(number, tar)| {
        let ends = Arc::clone(&ends);
        LayerToUnpack {
            parent: number.checked_sub(1).map(name),
            chain: name(number),
            options: UnpackOptions::default(),
            open: Box::pin(async move { Ok(reader(tar)) }),
            ended: Box::new(move |result| ends.lock().unwrap().push((number, result.is_ok()))),
        }
    });
    (layers.collect(), Arc::clone(&ends))
}

pub async fn several_layers_are_unpacked_on_one_another(snapshots: SharedSnapshotter) {
    let mut tars = vec![layer(&[("d/", ""), ("d/f", "0"), ("gone", "0"), ("top", "0")])];
    tars.extend((1..8).map(|number: usize| {
        let own = format!("d/{number}");
        layer(&[(own.as_str(), "own"), ("top", &number.to_string())])
    }));
    tars.push(layer(&[("gone", "-"), ("d/f", "8")]));
    let (layers, ends) = numbered(tars);
    snapshots.apply_all(layers).await.unwrap();
    let expected = ["d", "d/1", "d/2", "d/3", "d/4", "d/5", "d/6", "d/7", "d/f", "top"];
    assert_eq!(paths(&snapshots, "layer 8").await, expected);
    assert_eq!(read(&snapshots, "layer 8", "/top").await.as_deref(), Some("7"));
    assert_eq!(read(&snapshots, "layer 4", "/top").await.as_deref(), Some("4"));
    assert_eq!(read(&snapshots, "layer 4", "/gone").await.as_deref(), Some("0"));
    let mut ends = ends.lock().unwrap().clone();
    ends.sort_unstable();
    assert_eq!(ends, (0..9).map(|number| (number, true)).collect::<Vec<_>>());
}

pub async fn nothing_above_a_failed_layer_exists(snapshots: SharedSnapshotter) {
    let mut tars: Vec<_> = (0..6).map(|number: usize| layer(&[("f", &number.to_string())])).collect();
    tars[2].truncate(700);
    let (layers, ends) = numbered(tars);
    snapshots.apply_all(layers).await.unwrap_err();
    for number in 0..6 {
        let exists = snapshots.has(&chain(&format!("layer {number}"))).await.unwrap();
        assert_eq!(exists, number < 2, "layer {number}");
    }
    assert!(ends.lock().unwrap().contains(&(2, false)));
}

pub async fn a_dropped_unpacking_leaves_nothing(snapshots: SharedSnapshotter) {
    /// Returns the first half at once, then blocks until the sender is dropped.
    struct Stuck(Cursor<Vec<u8>>, std::sync::mpsc::Receiver<()>, Arc<AtomicUsize>);
    impl Read for Stuck {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(buffer)? {
                0 => {
                    self.2.store(1, Ordering::SeqCst);
                    self.1.recv().ok();
                    Err(std::io::Error::other("given up"))
                }
                n => Ok(n),
            }
        }
    }
    let mut tar = layer(&[("f", &"x".repeat(10_000))]);
    tar.truncate(5_000);
    let (release, stuck) = std::sync::mpsc::channel();
    let arrived = Arc::new(AtomicUsize::new(0));
    let reader = Box::new(Stuck(Cursor::new(tar), stuck, Arc::clone(&arrived)));
    let name = chain("a");
    {
        let unpacking = snapshots.apply(None, &name, UnpackOptions::default(), reader);
        let arrived = async {
            while arrived.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            done = unpacking => panic!("half a layer was unpacked: {done:?}"),
            () = arrived => {}
        }
    }
    drop(release);
    assert!(!snapshots.has(&name).await.unwrap());
    // The next call is not blocked.
    apply(&snapshots, None, "a", &[("f", "good")]).await;
    assert_eq!(read(&snapshots, "a", "/f").await.as_deref(), Some("good"));
}

pub async fn a_hostile_layer_changes_nothing_outside(snapshots: SharedSnapshotter) {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "safe").unwrap();
    let link = format!("->{}", outside.path().display());
    // A link of a lower layer and one of the layer itself, both to a folder of the host.
    apply(&snapshots, None, "a", &[("l", &link)]).await;
    apply(&snapshots, Some("a"), "b", &[("l/", ""), ("l/victim", "evil")]).await;
    let climbing = format!("../../../../../../../..{}", victim.display());
    for name in [climbing.as_str(), "l/../victim"] {
        let tar = raw_file(name, b"evil");
        fails(try_apply(&snapshots, Some("a"), name, tar).await, &[ErrorKind::Invalid]);
        assert!(!snapshots.has(&chain(name)).await.unwrap());
    }
    assert_eq!(std::fs::read(&victim).unwrap(), b"safe");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

/// An archive with one file of any name.
fn raw_file(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    crate::testing::raw_tar_file(&mut tar, name.as_bytes(), content);
    tar
}

pub async fn given_times_are_set_on_the_files(snapshots: SharedSnapshotter) {
    // The files of a step with times in nanoseconds, and its layer with whole seconds up to an epoch.
    let mut exact = LayerWriter::exact(Vec::new());
    let mut entry = crate::layer::Entry::file(crate::layer::LayerPath::new("f").unwrap(), 1, 0o644);
    (entry.mtime, entry.nanoseconds) = (1_500_000_000, 123_456_789);
    exact.append(&entry, Some(&mut &b"x"[..])).unwrap();
    let exact = exact.finish().unwrap().0;
    let mut published = LayerWriter::new(Vec::new(), Some(1_000_000_000));
    published.append_all(&exact[..]).unwrap();
    let times = Arc::new(TimesTable::from(published.take_times()));
    let tar = published.finish().unwrap().0;
    let time = |tar: &[u8]| LayerReader::new(tar).next_entry().unwrap().unwrap().mtime;
    assert_eq!((time(&tar), time(&exact)), (1_000_000_000, 1_500_000_000));

    let options = UnpackOptions { times: Some(times), ..UnpackOptions::default() };
    snapshots.apply(None, &chain("a"), options, reader(tar.clone())).await.unwrap();
    try_apply(&snapshots, None, "b", tar).await.unwrap();
    for (name, seconds) in [("a", 1_500_000_000), ("b", 1_000_000_000)] {
        let active = snapshots.prepare(Some(&chain(name))).await.unwrap();
        // A step sees no change.
        assert!(changes(&snapshots, &*active).await.is_empty());
        snapshots.abandon(active).await.unwrap();
        assert_eq!(export(&snapshots, &chain(name)).await["f"].0.mtime, seconds, "{name}");
    }
}

pub async fn sharing_unknown_files_is_declined(snapshots: SharedSnapshotter) {
    assert!(!snapshots.share(None, &chain("b"), &chain("no such files")).await.unwrap());
    assert!(!snapshots.has(&chain("b")).await.unwrap());
}

pub async fn shared_files_are_visible(snapshots: SharedSnapshotter) {
    for (parent, file) in [("a", "one"), ("b", "two")] {
        apply(&snapshots, None, parent, &[(file, "below")]).await;
    }
    let options = UnpackOptions { layer: Some(chain("files")), ..UnpackOptions::default() };
    let tar = layer(&[("f", "shared")]);
    snapshots.apply(Some(&chain("a")), &chain("a2"), options, reader(tar)).await.unwrap();
    let is_shared = snapshots.share(Some(&chain("b")), &chain("b2"), &chain("files")).await.unwrap();
    assert_eq!(is_shared, snapshots.capabilities().shares_layers, "the capability says so");
    assert_eq!(is_shared, snapshots.has(&chain("b2")).await.unwrap());
    if is_shared {
        assert_eq!(paths(&snapshots, "b2").await, ["f", "two"]);
        // The files stay as long as one of the two chains exists.
        snapshots.remove(&[chain("a2")]).await.unwrap();
        assert_eq!(read(&snapshots, "b2", "/f").await.as_deref(), Some("shared"));
    }
}
