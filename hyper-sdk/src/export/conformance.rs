//! The suite that every exporter must pass, one function for each case.
//!
//! [`exporter_conformance!`](crate::exporter_conformance) makes a named test of every case. A case registers the
//! exporter with a builder without a sandbox, builds, and checks the folder that the exporter writes to.
#![allow(clippy::unwrap_used, reason = "a case is a test: it fails by panicking")]
#![allow(missing_docs, reason = "the name of a case is its description")]

use super::Exporter;
use crate::testing::FakeBuild;
use crate::{Error, ErrorKind};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// An exporter, and the attributes that make it write to a folder.
#[derive(Debug)]
pub struct ExporterFixture {
    /// The exporter.
    pub exporter: Arc<dyn Exporter>,
    /// The attributes that make it write to this folder.
    pub attributes: fn(&Path) -> BTreeMap<String, String>,
}

/// Emits one `#[tokio::test]` for each case of the suite.
///
/// The fixture is the path of an `async fn() -> ExporterFixture`, or of one that gives an `Option` of it, which is `None` where
/// this machine cannot run it: then every case says that it is skipped. The calling crate needs `tokio` with `macros` and
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
            a_result_is_written, equal_results_have_equal_outputs, different_results_have_different_outputs,
            a_second_result_replaces_the_first, a_cached_result_is_written, a_failed_build_writes_nothing,
            an_unwritable_destination_is_an_error, an_unknown_attribute_is_rejected,
            concurrent_exports_are_independent,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let given = $crate::testing::given(stringify!($case), $fixture().await);
                let Some(fixture) = given else { return };
                $crate::export::conformance::$case(fixture).await;
            }
        )*
    };
}

const TEXT: &str = "FROM scratch\nCOPY <<a /one\ncontent\na\nRUN make\nCOPY <<a /two/deep\nmore\na\n";
const OTHER: &str = "FROM scratch\nCOPY <<a /one\nanother\na\n";

struct Workspace {
    build: FakeBuild,
    fixture: ExporterFixture,
    folder: tempfile::TempDir,
}

impl Workspace {
    fn new(fixture: ExporterFixture) -> Self {
        let (exporter, folder) = (fixture.exporter.clone(), tempfile::tempdir().unwrap());
        let build = FakeBuild::new(exporter).unwrap();
        Self { build, fixture, folder }
    }

    /// Builds a text and exports the result to a folder of this name.
    async fn write(&self, text: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let attributes = (self.fixture.attributes)(&folder);
        self.build.export(text, attributes).await?;
        Ok(tree(&folder))
    }
}

/// The content of a folder by path: the bytes of files, the targets of links.
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
    let written = Workspace::new(fixture).write(TEXT, "out").await.unwrap();
    assert!(!written.is_empty(), "nothing was written");
}

pub async fn equal_results_have_equal_outputs(fixture: ExporterFixture) {
    let workspace = Workspace::new(fixture);
    let (first, second) =
        (workspace.write(TEXT, "a").await.unwrap(), workspace.write(TEXT, "b").await.unwrap());
    assert_eq!(first, second);
}

pub async fn different_results_have_different_outputs(fixture: ExporterFixture) {
    let workspace = Workspace::new(fixture);
    let (first, second) =
        (workspace.write(TEXT, "a").await.unwrap(), workspace.write(OTHER, "b").await.unwrap());
    assert_ne!(first, second);
}

pub async fn a_second_result_replaces_the_first(fixture: ExporterFixture) {
    let workspace = Workspace::new(fixture);
    workspace.write(OTHER, "out").await.unwrap();
    let second = workspace.write(TEXT, "out").await.unwrap();
    let alone = workspace.write(TEXT, "alone").await.unwrap();
    for (name, content) in &alone {
        assert_eq!(second.get(name), Some(content), "{name}");
    }
}

pub async fn a_cached_result_is_written(fixture: ExporterFixture) {
    let workspace = Workspace::new(fixture);
    let first = workspace.write(TEXT, "a").await.unwrap();
    workspace.write(OTHER, "b").await.unwrap();
    std::fs::remove_dir_all(workspace.folder.path().join("a")).unwrap();
    assert_eq!(workspace.write(TEXT, "a").await.unwrap(), first);
}

pub async fn a_failed_build_writes_nothing(fixture: ExporterFixture) {
    let workspace = Workspace::new(fixture);
    workspace.write("FROM scratch\nCOPY missing /x\n", "out").await.unwrap_err();
    assert_eq!(tree(&workspace.folder.path().join("out")), BTreeMap::new());
}

pub async fn an_unwritable_destination_is_an_error(fixture: ExporterFixture) {
    let workspace = Workspace::new(fixture);
    // A file has the path of the folder.
    std::fs::write(workspace.folder.path().join("file"), "kept").unwrap();
    let attributes = (workspace.fixture.attributes)(&workspace.folder.path().join("file"));
    workspace.build.export(TEXT, attributes).await.unwrap_err();
    assert_eq!(std::fs::read_to_string(workspace.folder.path().join("file")).unwrap(), "kept");
}

pub async fn an_unknown_attribute_is_rejected(fixture: ExporterFixture) {
    let workspace = Workspace::new(fixture);
    let mut attributes = (workspace.fixture.attributes)(workspace.folder.path());
    attributes.insert("no-such-attribute".to_owned(), "x".to_owned());
    let error = workspace.build.export(TEXT, attributes).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unsupported), "{error:?}");
    assert!(error.to_string().contains("no-such-attribute"), "{error}");
    assert_eq!(tree(workspace.folder.path()), BTreeMap::new());
}

pub async fn concurrent_exports_are_independent(fixture: ExporterFixture) {
    let workspace = Workspace::new(fixture);
    let alone = [workspace.write(TEXT, "a").await.unwrap(), workspace.write(OTHER, "b").await.unwrap()];
    let names: Vec<String> = (0..6).map(|i| i.to_string()).collect();
    let together =
        join_all(names.iter().enumerate().map(|(i, name)| workspace.write([TEXT, OTHER][i % 2], name))).await;
    for (i, written) in together.into_iter().enumerate() {
        assert_eq!(written.unwrap(), alone[i % 2]);
    }
}
