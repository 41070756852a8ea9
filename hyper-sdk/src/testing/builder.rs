//! A builder without a sandbox and a registry, in a temporary folder.

use super::{FakeExecutor, PlainSnapshotter};
use crate::build::{LocalBuilder, LocalBuilderOptions};
use crate::client::{Loopback, SharedClient};
use crate::source::ClientFactory;
use crate::store::MemoryStore;
use crate::{Result, ResultExt as _};
use std::sync::Arc;
use tempfile::TempDir;

/// The parts of a builder for tests: a fake executor, snapshots in folders of this process, and a store in memory that
/// also serves as the registry of every name. Other parts can be set before it is opened. Its files are in the returned
/// folder, which must outlive the builder.
///
/// ```
/// use hyper_sdk::build::{BuildContext, BuildRequest, Builder as _};
/// use hyper_sdk::progress::Progress;
/// use hyper_sdk::testing::{FakeExecutor, FakeRun, fake_builder};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let executor = FakeExecutor::new().on("make", FakeRun::new().writes("/bin/app", "compiled"));
/// let (parts, _folder) = fake_builder(executor)?;
/// let builder = parts.open()?;
/// let request = BuildRequest::new("FROM scratch\nRUN make\n", BuildContext::Empty);
/// assert!(builder.build(request, &Progress::none()).await?.image.is_some());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of temporary folders.
pub fn fake_builder(executor: FakeExecutor) -> Result<(LocalBuilderOptions, TempDir)> {
    let folder = tempfile::tempdir().at("cannot make a temporary folder", std::env::temp_dir())?;
    let store = Arc::new(MemoryStore::default());
    let registry = store.clone();
    let clients = ClientFactory::new(move |_| Ok(Arc::new(Loopback::new(registry.clone())) as SharedClient));
    let parts = LocalBuilder::builder(folder.path().join("root"), store, clients)
        .executor(Arc::new(executor))
        .snapshotter(Arc::new(PlainSnapshotter::new()?));
    Ok((parts, folder))
}

/// Builds texts without a sandbox or a context, for an exporter.
#[cfg(any(test, feature = "conformance"))]
pub(crate) struct FakeBuild {
    builder: LocalBuilder,
    _folder: TempDir,
}

#[cfg(any(test, feature = "conformance"))]
impl FakeBuild {
    /// A builder with an exporter of the type `suite`.
    pub(crate) fn new(exporter: Arc<dyn crate::export::Exporter>) -> Result<Self> {
        let (parts, _folder) = fake_builder(FakeExecutor::new())?;
        Ok(Self { builder: parts.exporter("suite", exporter).open()?, _folder })
    }

    /// Builds a text for the exporter, with its attributes.
    pub(crate) async fn export(
        &self,
        text: &str,
        attributes: std::collections::BTreeMap<String, String>,
    ) -> Result<()> {
        use crate::build::{BuildContext, BuildRequest, Builder as _, EpochPolicy, OutputKind};
        let mut request = BuildRequest::new(text, BuildContext::Empty);
        request.epoch = EpochPolicy::At(1_000_000_000);
        request.outputs = vec![OutputKind::Other { kind: "suite".to_owned(), attributes }.into()];
        self.builder.build(request, &crate::progress::Progress::none()).await.map(drop)
    }
}
