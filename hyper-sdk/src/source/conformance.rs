//! The suite that every source must pass, one function for each case.
//!
//! [`source_conformance!`](crate::source_conformance) makes a named test of every case. A case gets a source and names
//! that it can resolve. Cases about images end immediately when the source has no images; so do cases about files.
#![allow(clippy::unwrap_used, reason = "a case is a test: it fails by panicking")]
#![allow(missing_docs, reason = "the name of a case is its description")]

use super::{SharedSource, SourceContent, SourceImage, SourceLayer};
use crate::layer::{LayerReader, VerifiedLayer};
use crate::platform::Platform;
use crate::{Digest, Result};
use futures::TryStreamExt as _;
use futures::future::join_all;
use std::collections::BTreeMap;
use std::path::Path;

/// A source, and names that it can resolve.
#[derive(Debug)]
pub struct SourceFixture {
    /// The source.
    pub source: SharedSource,
    /// The name of an image for this machine's platform, with at least one layer.
    pub image: Option<String>,
    /// The name of a folder of files.
    pub files: Option<String>,
    /// A well-formed name that does not exist.
    pub unknown: String,
}

/// Emits one `#[tokio::test]` for each case of the suite.
///
/// The fixture is the path of an `async fn() -> (SourceFixture, G)`: the source with its names, and a value that must
/// live as long as the source; or an `Option` of them that is `None` if this machine cannot run the suite: every case then
/// prints `SKIPPED:`. The calling crate needs `tokio` with `macros` and `rt-multi-thread`.
///
/// ```
/// # #[cfg(test)]
/// mod layouts {
///     use hyper_sdk::source::LayoutSource;
///     use hyper_sdk::source::conformance::SourceFixture;
///     use std::sync::Arc;
///
///     async fn fixture() -> (SourceFixture, tempfile::TempDir) {
///         let folder = tempfile::tempdir().unwrap();
///         // … write an image layout to the folder
///         let image = Some(format!("{}:app", folder.path().display()));
///         let unknown = format!("{}:none", folder.path().display());
///         (SourceFixture { source: Arc::new(LayoutSource), image, files: None, unknown }, folder)
///     }
///     hyper_sdk::source_conformance!(fixture);
/// }
/// ```
#[macro_export]
macro_rules! source_conformance {
    ($fixture:path) => {
        $crate::source_conformance!(@cases $fixture;
            an_unknown_name_is_an_error_that_names_it, a_name_resolves_to_the_same_content_again,
            an_image_has_config_manifest_and_layers, a_layer_has_the_bytes_of_its_digest,
            a_layer_unpacks_to_its_diff_id, a_layer_can_be_opened_twice, files_are_in_a_folder,
            files_can_be_opened_again, many_tasks_can_use_a_source,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let given = $crate::testing::given(stringify!($case), $fixture().await);
                let Some((fixture, _guard)) = given else { return };
                $crate::source::conformance::$case(fixture).await;
            }
        )*
    };
}

/// The image of the fixture; `None` when the source has no images.
async fn image(fixture: &SourceFixture) -> Option<SourceImage> {
    let name = fixture.image.as_ref()?;
    match fixture.source.resolve(name, &Platform::host()).await.unwrap() {
        SourceContent::Image(image) => Some(*image),
        SourceContent::Files => panic!("`{name}` is not an image"),
    }
}

async fn bytes(fixture: &SourceFixture, image: &SourceImage, layer: &SourceLayer) -> Result<Vec<u8>> {
    let blob = fixture.source.open_layer(image, &layer.blob).await?;
    assert_eq!((blob.offset, blob.length, blob.size), (0, layer.blob.size, layer.blob.size));
    Ok(blob.stream.try_collect::<Vec<_>>().await?.concat())
}

/// The files of a folder, with their content.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            match path.symlink_metadata().unwrap() {
                meta if meta.is_dir() => open.push(path),
                meta if meta.is_file() => drop(found.insert(name, std::fs::read(path).unwrap())),
                _ => drop(found.insert(name, Vec::new())),
            }
        }
    }
    found
}

pub async fn an_unknown_name_is_an_error_that_names_it(fixture: SourceFixture) {
    let error = fixture.source.resolve(&fixture.unknown, &Platform::host()).await.unwrap_err();
    let mut chain = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        chain.push_str(&error.to_string());
        cause = error.source();
    }
    let last = fixture.unknown.rsplit(['/', ':']).next().unwrap();
    assert!(chain.contains(last), "{chain}");
}

pub async fn a_name_resolves_to_the_same_content_again(fixture: SourceFixture) {
    let (Some(first), Some(second)) = (image(&fixture).await, image(&fixture).await) else { return };
    assert_eq!((first.manifest, first.layers), (second.manifest, second.layers));
    assert_eq!(first.config.to_bytes(), second.config.to_bytes());
}

pub async fn an_image_has_config_manifest_and_layers(fixture: SourceFixture) {
    let Some(image) = image(&fixture).await else { return };
    assert!(!image.name.is_empty() && !image.reference.is_empty() && !image.layers.is_empty());
    let diff_ids: Vec<&Digest> = image.layers.iter().map(|layer| &layer.diff_id).collect();
    assert_eq!(diff_ids, image.config.rootfs.diff_ids.iter().collect::<Vec<_>>());
    assert_eq!(image.config.os, Platform::host().os);
    assert!(image.layers.iter().all(|layer| layer.blob.size > 0 && layer.blob.media_type.contains("layer")));
}

pub async fn a_layer_has_the_bytes_of_its_digest(fixture: SourceFixture) {
    let Some(image) = image(&fixture).await else { return };
    for layer in &image.layers {
        let bytes = bytes(&fixture, &image, layer).await.unwrap();
        assert_eq!(layer.blob.digest.algorithm().digest(&bytes), layer.blob.digest);
        assert_eq!(bytes.len() as u64, layer.blob.size);
    }
}

pub async fn a_layer_unpacks_to_its_diff_id(fixture: SourceFixture) {
    let Some(image) = image(&fixture).await else { return };
    for SourceLayer { blob, diff_id } in &image.layers {
        let bytes = fixture.source.open_layer(&image, blob).await.unwrap().stream;
        let bytes = bytes.try_collect::<Vec<_>>().await.unwrap().concat();
        let layer = VerifiedLayer::new(&bytes[..], blob.digest.clone(), blob.size, Some(diff_id.clone()));
        let mut reader = LayerReader::new(layer.unwrap());
        while reader.next_entry().unwrap().is_some() {}
        // The diff ID is checked at the end of the stream.
        std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    }
}

pub async fn a_layer_can_be_opened_twice(fixture: SourceFixture) {
    let Some(image) = image(&fixture).await else { return };
    let layer = &image.layers[0];
    let (first, second) = (bytes(&fixture, &image, layer).await, bytes(&fixture, &image, layer).await);
    assert_eq!(first.unwrap(), second.unwrap());
    // A reader that is dropped early must not affect the next one.
    drop(fixture.source.open_layer(&image, &layer.blob).await.unwrap());
    bytes(&fixture, &image, layer).await.unwrap();
}

pub async fn files_are_in_a_folder(fixture: SourceFixture) {
    let Some(name) = &fixture.files else { return };
    let content = fixture.source.resolve(name, &Platform::host()).await.unwrap();
    assert!(matches!(content, SourceContent::Files), "{content:?}");
    let files = fixture.source.open_files(name).await.unwrap();
    assert!(!tree(&files.folder).is_empty());
}

pub async fn files_can_be_opened_again(fixture: SourceFixture) {
    let Some(name) = &fixture.files else { return };
    let first = fixture.source.open_files(name).await.unwrap();
    let (shown, time) = (tree(&first.folder), first.time);
    let second = fixture.source.open_files(name).await.unwrap();
    assert_eq!((tree(&second.folder), second.time), (shown.clone(), time));
    drop(second);
    assert_eq!(tree(&first.folder), shown, "the files must stay as long as the value");
}

pub async fn many_tasks_can_use_a_source(fixture: SourceFixture) {
    if let Some(image) = image(&fixture).await {
        let layer = &image.layers[0];
        for bytes in join_all((0..8).map(|_| bytes(&fixture, &image, layer))).await {
            assert_eq!(layer.blob.digest.algorithm().digest(&bytes.unwrap()), layer.blob.digest);
        }
    }
    if let Some(name) = &fixture.files {
        let opened = join_all((0..8).map(|_| fixture.source.open_files(name))).await;
        let trees: Vec<_> = opened.iter().map(|files| tree(&files.as_ref().unwrap().folder)).collect();
        assert!(trees.iter().all(|tree| *tree == trees[0]));
    }
}
