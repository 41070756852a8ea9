//! Chains of more layers than a kernel mounts, and layers that are unpacked several at once.

use crate::snapshots::{Fixture, chain, read_all};
use hyper_sdk::layer::{Entry, EntryKind, LayerPath, LayerReader, LayerWriter};
use hyper_sdk::snapshot::{
    ExportOptions, LayerToUnpack, LocalSnapshotter, Snapshotter, Style, UnpackOptions,
};
use hyper_sdk::{Digest, ErrorKind};
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Tree = BTreeMap<String, String>;

fn path(text: &str) -> LayerPath {
    LayerPath::new(text).unwrap()
}

fn tar(mut entries: Vec<(Entry, String)>) -> Vec<u8> {
    entries.sort_by(|a, b| a.0.layer_order(&b.0));
    let mut writer = LayerWriter::new(Vec::new(), Some(1000));
    for (entry, text) in &entries {
        writer.append(entry, Some(&mut text.as_bytes())).unwrap();
    }
    writer.finish().unwrap().0
}

/// The layer with a number, and what it changes in the tree. Whiteouts, opaque folders and links lead across many layers.
fn layer(number: usize, tree: &mut Tree) -> Vec<u8> {
    let mut entries = Vec::new();
    let file = |name: String, text: String| (Entry::file(path(&name), text.len() as u64, 0o644), text);
    let mut add = |tree: &mut Tree, name: String, text: String| {
        tree.insert(name.clone(), text.clone());
        entries.push(file(name, text));
    };
    add(tree, format!("all/{number}"), format!("text {number}"));
    add(tree, "last".to_owned(), number.to_string());
    add(tree, format!("folder{}/{number}", number % 13), "x".to_owned());
    entries.push((Entry::directory(path("all"), 0o755), String::new()));
    if number.is_multiple_of(7) && number > 50 {
        let gone = format!("all/{}", number - 50);
        tree.remove(&gone);
        entries.push((Entry::whiteout(path(&gone)), String::new()));
    }
    if number.is_multiple_of(29) {
        let name = format!("folder{}", number % 13);
        tree.retain(|known, _| {
            !known.starts_with(&format!("{name}/")) || *known == format!("{name}/{number}")
        });
        entries.push((Entry::directory(path(&name), 0o750), String::new()));
        entries.push((Entry::new(path(&name), EntryKind::OpaqueWhiteout, 0), String::new()));
    }
    if number.is_multiple_of(31) {
        let target = path("base-file");
        let name = format!("link{number}");
        tree.insert(name.clone(), "base".to_owned());
        entries.push((Entry::new(path(&name), EntryKind::Hardlink { target }, 0o644), String::new()));
    }
    if number.is_multiple_of(101) {
        // A folder becomes a file and a folder again.
        let name = "changing".to_owned();
        tree.retain(|known, _| !known.starts_with("changing"));
        match number % 2 {
            0 => {
                entries.push((Entry::whiteout(path(&name)), String::new()));
                entries.push((Entry::directory(path(&name), 0o755), String::new()));
                entries.push(file(format!("{name}/in"), number.to_string()));
                tree.insert(format!("{name}/in"), number.to_string());
            }
            _ => {
                entries.push(file(name.clone(), number.to_string()));
                tree.insert(name, number.to_string());
            }
        }
    }
    tar(entries)
}

fn files(tar: &[u8]) -> Tree {
    let mut reader = LayerReader::new(tar);
    let (mut found, mut links) = (Tree::new(), Vec::new());
    while let Some(entry) = reader.next_entry().unwrap() {
        match entry.kind {
            EntryKind::File { .. } => {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).unwrap();
                found.insert(entry.path.to_string(), String::from_utf8_lossy(&bytes).into_owned());
            }
            EntryKind::Hardlink { target } => links.push((entry.path.to_string(), target.to_string())),
            _ => {}
        }
    }
    for (name, target) in links {
        let text = found[&target].clone();
        found.insert(name, text);
    }
    found.retain(|name, _| !name.starts_with("bin/") && !name.starts_with("etc/"));
    found
}

fn to_unpack(below: usize, tar: Vec<u8>) -> LayerToUnpack<'static> {
    let name =
        |number: usize| chain(&if number == 0 { "base".to_owned() } else { format!("layer {number}") });
    LayerToUnpack {
        parent: Some(name(below)),
        chain: name(below + 1),
        options: UnpackOptions::default(),
        open: Box::pin(async move { Ok(Box::new(Cursor::new(tar)) as Box<dyn Read + Send>) }),
        ended: Box::new(|_| {}),
    }
}

async fn shown(snapshots: &LocalSnapshotter, chain: &Digest) -> Tree {
    files(
        &read_all(snapshots.export(Some(chain), "/", ExportOptions::default()).await.unwrap()).await.unwrap(),
    )
}

/// Layers of one folder each: all but the last 20 unpacked at once.
#[tokio::test(flavor = "multi_thread")]
async fn more_layers_than_a_kernel_mounts_show_the_right_tree() {
    const LAYERS: usize = 620;
    let Some(fixture) = Fixture::new().await else { return };
    let snapshots = fixture.with_base(Style::Overlay).await;
    let text = "base".to_owned();
    let base_file = tar(vec![(Entry::file(path("base-file"), 4, 0o644), text.clone())]);
    let mut tree = Tree::from([("base-file".to_owned(), text)]);
    let mut layers = vec![to_unpack(0, base_file)];
    let mut at_half = Tree::new();
    for number in 1..=LAYERS {
        layers.push(to_unpack(number, layer(number, &mut tree)));
        if number == LAYERS / 2 {
            at_half = tree.clone();
        }
    }
    let late = layers.split_off(LAYERS - 20);
    snapshots.apply_all(layers).await.unwrap();
    for next in late {
        let LayerToUnpack { parent, chain, options, open, .. } = next;
        snapshots.apply(parent.as_ref(), &chain, options, open.await.unwrap()).await.unwrap();
    }
    let top = chain(&format!("layer {}", LAYERS + 1));
    assert!(shown(&snapshots, &top).await == tree, "the tree at the top");
    assert!(shown(&snapshots, &chain(&format!("layer {}", LAYERS / 2 + 1))).await == at_half, "half-way");

    // A step sees it, and its changes are a small layer.
    let active = snapshots.prepare(Some(&top)).await.unwrap();
    let (code, output) =
        fixture.run(&*active, "cat /last; ls /all | wc -l; rm /all/620; echo new > /all/1").await;
    let expected = tree.keys().filter(|name| name.starts_with("all/")).count();
    assert_eq!((code, output), (0, format!("{LAYERS}{expected}\n")));
    let changes = read_all(snapshots.diff(&*active).await.unwrap()).await.unwrap();
    let mut reader = LayerReader::new(&changes[..]);
    let mut kinds = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        kinds.push(format!("{} {}", entry.kind.name(), entry.path));
    }
    assert_eq!(kinds, ["directory all", "file all/1", "whiteout all/620"]);
    snapshots.commit(active, &chain("step")).await.unwrap();
    tree.remove("all/620");
    tree.insert("all/1".to_owned(), "new\n".to_owned());
    assert!(shown(&snapshots, &chain("step")).await == tree, "after the step");

    // Another process finds the joins, and a removal leaves nothing.
    let again = fixture.open(Style::Overlay).await;
    assert!(shown(&again, &chain("step")).await == tree, "in another process");
    drop(again);
    let all: Vec<_> = snapshots.list().await.unwrap().into_iter().map(|info| info.chain).collect();
    assert_eq!(snapshots.remove(&all).await.unwrap().len(), all.len());
    let root = fixture.root();
    for name in ["joins", "chains", "layers", "active"] {
        let left: Vec<_> = std::fs::read_dir(root.join(name)).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Whatever is unpacked beside a damaged layer, nothing above it exists and nothing incomplete is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_layer_among_several_leaves_only_what_is_below_it() {
    let Some(fixture) = Fixture::new().await else { return };
    let snapshots = fixture.with_base(Style::Overlay).await;
    let mut tree = Tree::new();
    let ended = Arc::new(Mutex::new(Vec::new()));
    let mut layers = Vec::new();
    for number in 1..=8 {
        let mut bytes = layer(number, &mut tree);
        if number == 4 {
            bytes[0] ^= 0x55;
        }
        let mut one = to_unpack(number - 1, bytes);
        let ended = Arc::clone(&ended);
        one.ended = Box::new(move |result| ended.lock().unwrap().push((number, result.is_ok())));
        layers.push(one);
    }
    let error = snapshots.apply_all(layers).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    for number in 1..=8 {
        let exists = snapshots.has(&chain(&format!("layer {number}"))).await.unwrap();
        assert_eq!(exists, number < 4, "layer {number}");
    }
    assert!(ended.lock().unwrap().contains(&(4, false)), "{ended:?}");
    let left = || -> usize {
        ["active", "removed"]
            .map(|name| std::fs::read_dir(fixture.root().join(name)).unwrap().count())
            .iter()
            .sum()
    };
    for _ in 0..1000 {
        if left() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} folders are left", left());
}
