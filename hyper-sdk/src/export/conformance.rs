//! The suite that every exporter must pass, one function a case.
//!
//! [`exporter_conformance!`](crate::exporter_conformance) makes a named test of every case. A case gives the exporter to a
//! builder without a sandbox, builds, and looks at the folder that the exporter was told to write to.
#![allow(clippy::unwrap_used, reason = "a case is a test: it fails by panicking")]
#![allow(missing_docs, reason = "the name of a case is its description")]

use super::Exporter;
use crate::testing::FakeBuild;
use crate::{Error, ErrorKind};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// An exporter, and how it is told where to write.
#[derive(Debug)]
pub struct ExporterFixture {
    /// The exporter.
    pub exporter: Arc<dyn Exporter>,
    /// The attributes with which it writes to a place in a folder.
    pub attributes: fn(&Path) -> BTreeMap<String, String>,
}

/// Emits one `#[tokio::test]` for each case of the suite.
///
/// The fixture is the path of an `async fn() -> ExporterFixture`. The calling crate needs `tokio` with `macros` and
/// `rt-multi-thread`.
///
/// ```
/// use async_trait::async_trait;
/// use hyper_sdk::export::{Export, Exporter, write_file};
/// use hyper_sdk::{Error, Result};
///
/// /// Writes the names of the layers to the file `dest`.
/// #[derive(Debug)]
/// struct LayerList;
///
/// #[async_trait]
/// impl Exporter for LayerList {
///     fn needs_blobs(&self) -> bool {
///         false
///     }
///
///     async fn export(&self, export: Export<'_>) -> Result<()> {
///         if let Some(key) = export.attributes.keys().find(|key| *key != "dest") {
///             return Err(Error::invalid(format!("`{key}` is not an attribute of this output")));
///         }
///         let dest = export.attributes.get("dest").ok_or_else(|| Error::invalid("`dest` is missing"))?;
///         let layers = export.image.chain.layers().iter();
///         let text: String = layers.map(|(layer, _)| format!("{}\n", layer.diff_id)).collect();
///         write_file(dest.as_ref(), text.as_bytes())
///     }
/// }
///
/// # #[cfg(test)]
/// mod layer_list {
///     use hyper_sdk::export::conformance::ExporterFixture;
///     use std::sync::Arc;
///
///     async fn fixture() -> ExporterFixture {
///         ExporterFixture {
///             exporter: Arc::new(super::LayerList),
///             attributes: |folder| [("dest".to_owned(), folder.join("list").display().to_string())].into(),
///         }
///     }
///     hyper_sdk::exporter_conformance!(fixture);
/// }
/// ```
#[macro_export]
macro_rules! exporter_conformance {
    ($fixture:path) => {
        $crate::exporter_conformance!(@cases $fixture;
            a_result_is_written, equal_results_are_written_alike, another_result_is_written_otherwise,
            a_second_result_takes_the_place_of_the_first, a_cached_result_is_written, a_failed_build_writes_nothing,
            a_place_that_cannot_be_written_is_an_error, an_unknown_attribute_is_refused,
            exports_at_once_do_not_mix,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::export::conformance::$case($fixture().await).await;
            }
        )*
    };
}

const TEXT: &str = "FROM scratch\nCOPY <<a /one\ncontent\na\nRUN make\nCOPY <<a /two/deep\nmore\na\n";
const OTHER: &str = "FROM scratch\nCOPY <<a /one\nanother\na\n";

struct Place {
    build: FakeBuild,
    fixture: ExporterFixture,
    folder: tempfile::TempDir,
}

impl Place {
    fn new(fixture: ExporterFixture) -> Self {
        let (exporter, folder) = (fixture.exporter.clone(), tempfile::tempdir().unwrap());
        let build = FakeBuild::new(exporter).unwrap();
        Self { build, fixture, folder }
    }

    /// Builds a text and has the result written to a folder of this name.
    async fn write(&self, text: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let attributes = (self.fixture.attributes)(&folder);
        self.build.export(text, attributes).await?;
        Ok(tree(&folder))
    }
}

/// What is in a folder, by path: the bytes of files, the targets of links.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                found.insert(format!("{name}/"), Vec::new());
                open.push(path);
            } else if meta.is_file() {
                found.insert(name, std::fs::read(path).unwrap());
            } else {
                let target = std::fs::read_link(path).unwrap_or_default();
                found.insert(name, target.to_string_lossy().into_owned().into_bytes());
            }
        }
    }
    found
}

pub async fn a_result_is_written(fixture: ExporterFixture) {
    let written = Place::new(fixture).write(TEXT, "out").await.unwrap();
    assert!(!written.is_empty(), "nothing was written");
}

pub async fn equal_results_are_written_alike(fixture: ExporterFixture) {
    let place = Place::new(fixture);
    let (first, second) = (place.write(TEXT, "a").await.unwrap(), place.write(TEXT, "b").await.unwrap());
    assert_eq!(first, second);
}

pub async fn another_result_is_written_otherwise(fixture: ExporterFixture) {
    let place = Place::new(fixture);
    let (first, second) = (place.write(TEXT, "a").await.unwrap(), place.write(OTHER, "b").await.unwrap());
    assert_ne!(first, second);
}

pub async fn a_second_result_takes_the_place_of_the_first(fixture: ExporterFixture) {
    let place = Place::new(fixture);
    place.write(OTHER, "out").await.unwrap();
    let second = place.write(TEXT, "out").await.unwrap();
    let alone = place.write(TEXT, "alone").await.unwrap();
    for (name, content) in &alone {
        assert_eq!(second.get(name), Some(content), "{name}");
    }
}

pub async fn a_cached_result_is_written(fixture: ExporterFixture) {
    let place = Place::new(fixture);
    let first = place.write(TEXT, "a").await.unwrap();
    place.write(OTHER, "b").await.unwrap();
    std::fs::remove_dir_all(place.folder.path().join("a")).unwrap();
    assert_eq!(place.write(TEXT, "a").await.unwrap(), first);
}

pub async fn a_failed_build_writes_nothing(fixture: ExporterFixture) {
    let place = Place::new(fixture);
    place.write("FROM scratch\nCOPY missing /x\n", "out").await.unwrap_err();
    assert_eq!(tree(&place.folder.path().join("out")), BTreeMap::new());
}

pub async fn a_place_that_cannot_be_written_is_an_error(fixture: ExporterFixture) {
    let place = Place::new(fixture);
    // A file is where the folder should be.
    std::fs::write(place.folder.path().join("file"), "kept").unwrap();
    let attributes = (place.fixture.attributes)(&place.folder.path().join("file"));
    place.build.export(TEXT, attributes).await.unwrap_err();
    assert_eq!(std::fs::read_to_string(place.folder.path().join("file")).unwrap(), "kept");
}

pub async fn an_unknown_attribute_is_refused(fixture: ExporterFixture) {
    let place = Place::new(fixture);
    let mut attributes = (place.fixture.attributes)(place.folder.path());
    attributes.insert("no-such-attribute".to_owned(), "x".to_owned());
    let error = place.build.export(TEXT, attributes).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported), "{error:?}");
    assert!(error.to_string().contains("no-such-attribute"), "{error}");
    assert_eq!(tree(place.folder.path()), BTreeMap::new());
}

pub async fn exports_at_once_do_not_mix(fixture: ExporterFixture) {
    let place = Place::new(fixture);
    let alone = [place.write(TEXT, "a").await.unwrap(), place.write(OTHER, "b").await.unwrap()];
    let names: Vec<String> = (0..6).map(|i| i.to_string()).collect();
    let together =
        join_all(names.iter().enumerate().map(|(i, name)| place.write([TEXT, OTHER][i % 2], name))).await;
    for (i, written) in together.into_iter().enumerate() {
        assert_eq!(written.unwrap(), alone[i % 2]);
    }
}
