//! Layers made with copies have the bytes of layers made with overlays.
//!
//! Each case is a sequence of steps. They run on overlays and on copies; the layers below a step are the trees that earlier
//! steps left, or were unpacked again.

use crate::snapshots::{Fixture, chain, files_of, published, read_all};
use hyper_sdk::Digest;
use hyper_sdk::layer::LayerReader;
use hyper_sdk::snapshot::{Active, LocalSnapshotter, Snapshotter as _, Style, UnpackOptions};
use std::io::Cursor;
use std::os::unix::net::UnixListener;

/// The files of the cases, each of another time, in folders that are older than every step.
const BELOW: &str = "mkdir -p /l/a/b/c /l/e /l/empty /l/deep/x/y /l/links; \
    for f in one a/f a/g a/b/f a/b/c/f e/f e/g deep/f deep/x/f deep/x/y/f; do echo $f > /l/$f; done; \
    ln -s one /l/link; ln -s a /l/to-a; mkfifo /l/pipe; \
    echo linked > /l/h1; ln /l/h1 /l/h2; echo other > /l/links/h1; ln /l/links/h1 /l/links/h2; \
    find /l -exec touch -h -d @77 {} +";

/// The entries of a tar, for the message of a failure.
fn listed(tar: &[u8]) -> Vec<String> {
    let mut reader = LayerReader::new(tar);
    let mut list = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        list.push(format!("{} {} {:o} {}", entry.kind.name(), entry.path, entry.mode, entry.mtime));
    }
    list
}

/// The steps of a case, and the entries of the layer of the last one.
type Case<'a> = (&'a [&'a str], &'a [&'a str]);

/// What a step without a program for it does: `#socket PATH` binds a socket, `#attribute PATH` sets an attribute.
fn finish(step: &str, active: &dyn Active) {
    if let Some((_, path)) = step.split_once("#socket ") {
        let path = files_of(active).join(path);
        // The whiteout of an overlay.
        std::fs::remove_file(&path).ok();
        UnixListener::bind(&path).unwrap();
    }
    if let Some((_, path)) = step.split_once("#attribute ") {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(files_of(active).join(path), "user.x", b"y", flags).unwrap();
    }
}

/// Runs a step on `below`, makes `next` of what it left, and returns its layer. `unpacked` makes it of the layer instead.
async fn step(
    (fixture, snapshots): (&Fixture, &LocalSnapshotter),
    unpacked: bool,
    step: &str,
    below: &Digest,
    next: &Digest,
) -> Vec<u8> {
    let active = snapshots.prepare(Some(below)).await.unwrap();
    let (code, told) = fixture.run(&*active, &format!("set -e; {step}")).await;
    assert_eq!((code, told.as_str()), (0, ""), "{snapshots}: {step}");
    finish(step, &*active);
    let (tar, times) = published(&read_all(snapshots.diff(&*active).await.unwrap()).await.unwrap());
    if unpacked {
        snapshots.abandon(active).await.unwrap();
        let options = UnpackOptions { times: Some(times), ..UnpackOptions::default() };
        snapshots.apply(Some(below), next, options, Box::new(Cursor::new(tar.clone()))).await.unwrap();
    } else {
        snapshots.commit(active, next).await.unwrap();
    }
    tar
}

/// The layers of every step of every case, after that of [`BELOW`].
async fn layers(fixture: &Fixture, style: Style, unpacked: bool, cases: &[Case<'_>]) -> Vec<Vec<u8>> {
    let snapshots = fixture.with_base(style).await;
    let (all, start) = ((fixture, &snapshots), chain(&format!("below {unpacked}")));
    let mut layers = vec![step(all, unpacked, BELOW, &chain("base"), &start).await];
    for (number, (steps, _)) in cases.iter().enumerate() {
        let mut below = start.clone();
        for (at, one) in steps.iter().enumerate() {
            let next = chain(&format!("{unpacked} {number} {at}"));
            layers.push(step(all, unpacked, one, &below, &next).await);
            below = next;
        }
    }
    layers
}

/// Kind and path of the entries of a layer.
fn names(layer: &[u8]) -> Vec<String> {
    listed(layer).iter().map(|line| line.rsplitn(3, ' ').last().unwrap().to_owned()).collect()
}

/// Runs cases on overlays, and on copies in both ways.
async fn same(cases: &[Case<'_>]) {
    let Some(fixture) = Fixture::new().await else { return };
    let overlays = layers(&fixture, Style::Overlay, false, cases).await;
    let steps: Vec<&str> =
        [BELOW].into_iter().chain(cases.iter().flat_map(|(steps, _)| *steps).copied()).collect();
    let mut last = 0;
    for (steps, expected) in cases {
        last += steps.len();
        assert_eq!(names(&overlays[last]), *expected, "{steps:?}");
    }
    for unpacked in [false, true] {
        let copies = layers(&fixture, Style::Copy, unpacked, cases).await;
        for ((step, copy), overlay) in steps.iter().zip(&copies).zip(&overlays) {
            assert_eq!(listed(copy), listed(overlay), "{step} (unpacked: {unpacked})");
            assert!(copy == overlay, "{step} (unpacked: {unpacked}): the bytes differ");
        }
    }
}

const REMAKE: &str = "rm -r /l/a; mkdir /l/a; echo new > /l/a/new";

#[tokio::test]
async fn what_is_removed() {
    same(&[
        (&["rm /l/a/f"], &["directory l", "directory l/a", "whiteout l/a/f"]),
        (&["rm -r /l/a"], &["directory l", "whiteout l/a"]),
        (
            &["rm -r /l/a/*"],
            &["directory l", "directory l/a", "whiteout l/a/b", "whiteout l/a/f", "whiteout l/a/g"],
        ),
        (&["rm /l/a/f; touch -d @5 /l/a"], &["directory l", "directory l/a", "whiteout l/a/f"]),
        (&["rm /l/a/f; echo new > /l/a/f"], &["directory l", "directory l/a", "file l/a/f"]),
        (&["rm /l/a/f; echo a/f > /l/a/f; touch -d @77 /l/a/f"], &[]),
        (&["mkdir /l/n; echo > /l/n/x; rm -r /l/n; echo > /l/a/x; rm /l/a/x"], &[]),
        (&["chmod 750 /; rm -r /home; echo > /new"], &["directory .", "whiteout home", "file new"]),
    ])
    .await;
}

#[tokio::test]
async fn folders_that_are_made_again() {
    same(&[
        (&[REMAKE], &["directory l", "directory l/a", "opaque whiteout l/a", "file l/a/new"]),
        (&["cp -a /l/a /l/t; rm -r /l/a; mkdir /l/a; cp -a /l/t/f /l/t/b /l/a; rm -r /l/t; touch -d @77 /l/a"], &["directory l", "directory l/a", "opaque whiteout l/a", "directory l/a/b", "directory l/a/b/c",
            "file l/a/b/c/f", "file l/a/b/f", "file l/a/f"]),
        (&["cp -a /l/e /l/t; rm -r /l/e; mv /l/t /l/e"], &["directory l", "directory l/e", "opaque whiteout l/e", "file l/e/f", "file l/e/g"]),
        (&["rmdir /l/empty; mkdir /l/empty; touch -d @77 /l/empty"], &["directory l", "directory l/empty", "opaque whiteout l/empty"]),
        (&["for i in 1 2 3 4 5 6 7 8 9; do rm -r /l/e; mkdir /l/e; done"], &["directory l", "directory l/e", "opaque whiteout l/e"]),
        (&["rm -r /l/deep/x/y; mkdir /l/deep/x/y; echo new > /l/deep/x/y/f"], &["directory l", "directory l/deep", "directory l/deep/x", "directory l/deep/x/y",
            "opaque whiteout l/deep/x/y", "file l/deep/x/y/f"]),
        (&["rm -r /l/deep; mkdir -p /l/deep/x/y; echo new > /l/deep/x/y/f"], &["directory l", "directory l/deep", "opaque whiteout l/deep", "directory l/deep/x",
            "directory l/deep/x/y", "file l/deep/x/y/f"]),
    ])
    .await;
}

#[tokio::test]
async fn what_becomes_something_else() {
    same(&[
        (
            &["rm /l/one; mkdir /l/one; echo new > /l/one/f"],
            &["directory l", "directory l/one", "file l/one/f"],
        ),
        (&["rm -r /l/a; echo new > /l/a"], &["directory l", "file l/a"]),
        (
            &["rm /l/to-a; mkdir /l/to-a; echo new > /l/to-a/f"],
            &["directory l", "directory l/to-a", "file l/to-a/f"],
        ),
        (
            &["mv /l/a /l/z; ln -s z /l/a"],
            &[
                "directory l",
                "symlink l/a",
                "directory l/z",
                "directory l/z/b",
                "directory l/z/b/c",
                "file l/z/b/c/f",
                "file l/z/b/f",
                "file l/z/f",
                "file l/z/g",
            ],
        ),
        (
            &["ln -sfn two /l/link; rm /l/pipe; mkfifo -m 600 /l/pipe"],
            &["directory l", "symlink l/link", "fifo l/pipe"],
        ),
        (&["rm /l/one; #socket l/one"], &["directory l", "whiteout l/one"]),
        (&["mkdir /l/n; #socket l/n/s"], &["directory l", "directory l/n"]),
    ])
    .await;
}

#[tokio::test]
async fn what_is_renamed() {
    same(&[
        (
            &["mv /l/e /l/new"],
            &["directory l", "whiteout l/e", "directory l/new", "file l/new/f", "file l/new/g"],
        ),
        (
            &["rm -r /l/a; mv /l/e /l/a"],
            &[
                "directory l",
                "directory l/a",
                "opaque whiteout l/a",
                "file l/a/f",
                "file l/a/g",
                "whiteout l/e",
            ],
        ),
        (
            &["mv /l/a /l/t; mv /l/e /l/a; mv /l/t /l/e"],
            &[
                "directory l",
                "directory l/a",
                "opaque whiteout l/a",
                "file l/a/f",
                "file l/a/g",
                "directory l/e",
                "opaque whiteout l/e",
                "directory l/e/b",
                "directory l/e/b/c",
                "file l/e/b/c/f",
                "file l/e/b/f",
                "file l/e/f",
                "file l/e/g",
            ],
        ),
        (
            &["mkdir /l/n; echo x > /l/n/x; mv -T /l/n /l/empty"],
            &["directory l", "directory l/empty", "opaque whiteout l/empty", "file l/empty/x"],
        ),
        (
            &["mv /l/a/f /l/e/f"],
            &["directory l", "directory l/a", "whiteout l/a/f", "directory l/e", "file l/e/f"],
        ),
    ])
    .await;
}

#[tokio::test]
async fn several_steps() {
    same(&[
        (
            &["mkdir /l/n /l/m; echo > /l/n/x; echo > /l/m/x", "rm -r /l/n; rm /l/m/x"],
            &["directory l", "directory l/m", "whiteout l/m/x", "whiteout l/n"],
        ),
        (&["rm -r /l/a", "mkdir /l/a; echo new > /l/a/f"], &["directory l", "directory l/a", "file l/a/f"]),
        (
            &[REMAKE, "echo > /l/a/f; rm /l/a/new"],
            &["directory l", "directory l/a", "file l/a/f", "whiteout l/a/new"],
        ),
        (
            &[REMAKE, "echo > /l/a/f", "rm -r /l/a; mkdir /l/a; echo last > /l/a/f"],
            &["directory l", "directory l/a", "opaque whiteout l/a", "file l/a/f"],
        ),
        (
            &[
                "rm -r /l/deep; mkdir -p /l/deep/x/y; echo 2 > /l/deep/x/y/f",
                "rm -r /l/deep/x; mkdir -p /l/deep/x/y; echo 3 > /l/deep/x/y/f",
            ],
            &[
                "directory l",
                "directory l/deep",
                "directory l/deep/x",
                "opaque whiteout l/deep/x",
                "directory l/deep/x/y",
                "file l/deep/x/y/f",
            ],
        ),
        (&[REMAKE, "true"], &[]),
    ])
    .await;
}

#[tokio::test]
async fn what_is_only_touched() {
    same(&[
        (
            &["chmod 700 /l/a; chown 3:4 /l/e /l/one; chmod 644 /l/a/f; chmod 600 /l/a/g"],
            &["directory l", "directory l/a", "file l/a/g", "directory l/e", "file l/one"],
        ),
        (
            &["chmod 755 /l/a; chmod 644 /l/a/f; #attribute l/a", "chmod 644 /l/a/f; #attribute l/a/f"],
            &["directory l", "directory l/a", "file l/a/f"],
        ),
        (&["touch /l/a /l/e; touch -d @99 /l/empty"], &[]),
        (
            &["echo more >> /l/deep/x/y/f"],
            &[
                "directory l",
                "directory l/deep",
                "directory l/deep/x",
                "directory l/deep/x/y",
                "file l/deep/x/y/f",
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn files_with_several_names() {
    same(&[
        (&["rm /l/h1 /l/h2"], &["directory l", "whiteout l/h1", "whiteout l/h2"]),
        (
            &["rm /l/h1 /l/h2; echo new > /l/h1; ln /l/h1 /l/h2"],
            &["directory l", "file l/h1", "hardlink l/h2"],
        ),
        (
            &["rm -r /l/a; mkdir /l/a; echo new > /l/a/x; ln /l/a/x /l/a/y; ln /l/a/x /l/z"],
            &[
                "directory l",
                "directory l/a",
                "opaque whiteout l/a",
                "file l/a/x",
                "hardlink l/a/y",
                "hardlink l/z",
            ],
        ),
        (
            &["cp -a /l/links /l/t; rm -r /l/links; mv /l/t /l/links"],
            &[
                "directory l",
                "directory l/links",
                "opaque whiteout l/links",
                "file l/links/h1",
                "hardlink l/links/h2",
            ],
        ),
        (&["rm /l/h2"], &["directory l", "whiteout l/h2"]),
        (&["rm /l/h2; echo new > /l/h2"], &["directory l", "file l/h2"]),
    ])
    .await;
}

/// What is documented as different in docs/cli.md: two trees do not show it.
#[tokio::test]
async fn what_two_trees_do_not_show() {
    let Some(fixture) = Fixture::new().await else { return };
    let cases: &[(&str, &[&str], &[&str])] = &[
        // Overlays give such a file another inode when it is changed, and its other names keep the old content.
        ("echo more >> /l/h1", &["directory l", "file l/h1"], &["directory l", "file l/h1", "hardlink l/h2"]),
        (
            "ln /l/h1 /l/h3",
            &["directory l", "file l/h1", "hardlink l/h3"],
            &["directory l", "file l/h1", "hardlink l/h2", "hardlink l/h3"],
        ),
        // Overlays refuse to rename a folder of a layer below, so `mv` makes new ones.
        (
            "mv /l/e /l/t; mv /l/t /l/e",
            &["directory l", "directory l/e", "opaque whiteout l/e", "file l/e/f", "file l/e/g"],
            &[],
        ),
    ];
    let steps: Vec<[&str; 1]> = cases.iter().map(|(step, _, _)| [*step]).collect();
    let steps: Vec<Case<'_>> = steps.iter().map(|step| (&step[..], &[][..])).collect();
    let overlays = layers(&fixture, Style::Overlay, false, &steps).await;
    let copies = layers(&fixture, Style::Copy, false, &steps).await;
    for ((step, overlay, copy), number) in cases.iter().zip(1..) {
        assert_eq!(names(&overlays[number]), *overlay, "overlays: {step}");
        assert_eq!(names(&copies[number]), *copy, "copies: {step}");
    }
}
