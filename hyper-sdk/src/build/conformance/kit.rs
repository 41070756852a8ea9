//! Helpers of the cases.

use crate::build::{
    BuildContext, BuildOutput, BuildRequest, Destination, EpochPolicy, OutputKind, SharedBuilder,
};
use crate::layer::{EntryKind, LayerReader};
use crate::progress::{Event, Progress};
use crate::{Digest, Result};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Ends the case when the builder lacks a capability.
macro_rules! needs {
    ($builder:expr, $($power:ident),+) => {
        let capabilities = $builder.capabilities().await.unwrap();
        if !($(capabilities.$power)&&+) {
            return;
        }
    };
}
pub(super) use needs;

/// The time limit of a build, which is longer than any build of the suite takes.
pub(super) const HANGS: Duration = Duration::from_secs(180);
/// The epoch of every build that does not set another one.
pub(super) const EPOCH: i64 = 1_000_000_000;

/// A folder with a context and room for outputs.
pub(super) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("context")).unwrap();
        let place = Self { folder };
        for (name, content) in files {
            place.write(name, content);
        }
        place
    }

    /// A context that is a root file system with a shell; `None` when this machine cannot make one.
    pub(super) fn with_shell() -> Option<Self> {
        let place = Self::new(&[]);
        crate::testing::busybox_root(&place.path("context")).unwrap().then_some(place)
    }

    /// Writes a file of the context.
    pub(super) fn write(&self, name: &str, content: &str) {
        let path = self.path("context").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A build of a text with the context.
    pub(super) fn request(&self, text: &str) -> BuildRequest {
        let mut request = BuildRequest::new(text, BuildContext::Folder(self.path("context")));
        request.epoch = EpochPolicy::At(EPOCH);
        request
    }

    /// The same, with the output `out`, a folder of files.
    pub(super) fn files(&self, text: &str) -> BuildRequest {
        let mut request = self.request(text);
        request.outputs = vec![OutputKind::Local(self.path("out")).into()];
        request
    }

    /// The content of a file of `out`; `None` when it does not exist.
    pub(super) fn out(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path("out").join(name)).ok()
    }

    pub(super) fn tar(&self) -> OutputKind {
        OutputKind::Tar(Destination::File(self.path("out.tar")))
    }

    pub(super) fn layout(&self) -> OutputKind {
        OutputKind::Oci(Destination::Folder(self.path("layout")))
    }
}

/// Builds, and returns the result with all events.
pub(super) async fn watched(
    builder: &SharedBuilder,
    request: BuildRequest,
) -> (Result<BuildOutput>, Vec<Event>) {
    let (progress, mut events) = Progress::channel();
    let received = tokio::spawn(async move {
        let mut received = Vec::new();
        while let Some(event) = events.recv().await {
            received.push(event);
        }
        received
    });
    let result =
        tokio::time::timeout(HANGS, builder.build(request, &progress)).await.expect("the builder hangs");
    drop(progress);
    let events = tokio::time::timeout(HANGS, received).await.expect("events have no end").unwrap();
    (result, events)
}

pub(super) async fn try_build(builder: &SharedBuilder, request: BuildRequest) -> Result<BuildOutput> {
    watched(builder, request).await.0
}

pub(super) async fn build(builder: &SharedBuilder, request: BuildRequest) -> BuildOutput {
    try_build(builder, request).await.unwrap()
}

/// The error of a build that must not succeed.
pub(super) async fn rejected(builder: &SharedBuilder, request: BuildRequest) -> crate::Error {
    try_build(builder, request).await.unwrap_err()
}

/// The digest of the image of a build.
pub(super) fn digest(output: &BuildOutput) -> &Digest {
    &output.image.as_ref().expect("an image was asked for").digest
}

/// Whether each step was cached, for the steps whose names contain a text.
pub(super) fn cached(output: &BuildOutput, name: &str) -> Vec<bool> {
    output.steps.iter().filter(|step| step.name.contains(name)).map(|step| step.cached).collect()
}

/// The regular files of a tar, and the newest time in it.
pub(super) fn tar_files(path: &Path) -> (BTreeMap<String, String>, i64) {
    let bytes = std::fs::read(path).unwrap();
    let (mut reader, mut files, mut newest) = (LayerReader::new(&bytes[..]), BTreeMap::new(), i64::MIN);
    while let Some(entry) = reader.next_entry().unwrap() {
        newest = newest.max(entry.mtime);
        if matches!(entry.kind, EntryKind::File { .. }) {
            let mut content = String::new();
            reader.read_to_string(&mut content).unwrap();
            files.insert(entry.path.to_string(), content);
        }
    }
    (files, newest)
}

/// A blob of an image layout. Its digest is checked.
pub(super) fn blob(layout: &Path, digest: &str) -> Vec<u8> {
    let digest = Digest::parse(digest).unwrap();
    let bytes = std::fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap();
    assert_eq!(Digest::sha256(&bytes), digest);
    bytes
}

pub(super) fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap()
}
