//! The suite of exporters on a right exporter, and on exporters with injected faults, which it must find.

use crate::export::conformance::{self as cases, ExporterFixture};
use crate::export::{Export, Exporter, write_file};
use crate::testing::{assert_suite_finds, is_caught};
use crate::{Error, Result};
use async_trait::async_trait;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An injected fault of an exporter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    WritesNothing,
    CountsResults,
    WritesOneText,
    KeepsTheFirst,
    KnowsOneResult,
    WritesEarly,
    HidesErrors,
    IgnoresAttributes,
    HasOnePlace,
}

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Writes the names of the layers to the file `dest`.
#[derive(Debug)]
struct LayerList(Fault, std::sync::Mutex<Option<std::path::PathBuf>>, AtomicUsize);

#[async_trait]
impl Exporter for LayerList {
    fn needs_blobs(&self) -> bool {
        false
    }

    async fn export(&self, export: Export<'_>) -> Result<()> {
        let Self(fault, place, writes) = self;
        let unknown = export.attributes.keys().find(|key| *key != "dest");
        if let Some(key) = unknown.filter(|_| *fault != Fault::IgnoresAttributes) {
            return Err(Error::invalid(format!("`{key}` is not an attribute of this output")));
        }
        let mut dest = Path::new(&export.attributes["dest"]).to_owned();
        let layers = export.image.chain.layers().iter();
        let mut text: String = layers.map(|(layer, _)| format!("{}\n", layer.diff_id)).collect();
        match fault {
            Fault::WritesNothing => return Ok(()),
            Fault::CountsResults => text.push_str(&COUNT.fetch_add(1, Ordering::SeqCst).to_string()),
            Fault::WritesOneText => text = "an image".to_owned(),
            Fault::KeepsTheFirst if dest.exists() => return Ok(()),
            Fault::KnowsOneResult if writes.load(Ordering::SeqCst) > 1 => return Ok(()),
            Fault::HasOnePlace => {
                dest = place.lock().unwrap().get_or_insert(dest).clone();
            }
            _ => {}
        }
        writes.fetch_add(1, Ordering::SeqCst);
        match write_file(&dest, text.as_bytes()) {
            Err(_) if *fault == Fault::HidesErrors => Ok(()),
            written => written,
        }
    }
}

fn with(fault: Fault) -> ExporterFixture {
    ExporterFixture {
        exporter: Arc::new(LayerList(fault, Default::default(), AtomicUsize::new(0))),
        attributes: |folder| [("dest".to_owned(), folder.join("list").display().to_string())].into(),
    }
}

/// An exporter that writes when it is created, before there is a result.
fn writes_early() -> ExporterFixture {
    let mut fixture = with(Fault::WritesEarly);
    fixture.attributes = |folder| {
        std::fs::write(folder.join("begun"), "").unwrap();
        [("dest".to_owned(), folder.join("list").display().to_string())].into()
    };
    fixture
}

mod layer_list {
    use super::*;

    async fn fixture() -> Option<ExporterFixture> {
        Some(with(Fault::None))
    }
    crate::exporter_conformance!(fixture);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_finds_every_fault() {
    assert_suite_finds! { cases, with, Fault;
        WritesNothing by a_result_is_written, different_results_have_different_outputs;
        CountsResults by equal_results_have_equal_outputs, a_second_result_replaces_the_first;
        WritesOneText by different_results_have_different_outputs;
        KeepsTheFirst by a_second_result_replaces_the_first;
        KnowsOneResult by a_cached_result_is_written;
        HidesErrors by an_unwritable_destination_is_an_error;
        IgnoresAttributes by an_unknown_attribute_is_rejected;
        HasOnePlace by concurrent_exports_are_independent;
    }
    assert!(is_caught(cases::a_failed_build_writes_nothing(writes_early())).await);
}
