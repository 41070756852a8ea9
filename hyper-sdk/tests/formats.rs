//! What a build writes, as others read it: the types of the crate `oci_spec`, and an archive as a registry.

use crate::sandbox::helper;
use hyper_sdk::build::{BuildContext, BuildRequest, Builder as _, LocalBuilder, Output};
use hyper_sdk::client::{Layout, Loopback, RegistryClient as _, RegistryClientExt as _, SharedClient};
use hyper_sdk::digest::Algorithm;
use hyper_sdk::exec::NativeExecutor;
use hyper_sdk::oci::Descriptor;
use hyper_sdk::progress::Progress;
use hyper_sdk::source::ClientFactory;
use hyper_sdk::store::{MemoryStore, SharedStore};
use hyper_sdk::{Digest, Reference, RepositoryName, Tag, media_type};
use oci_spec::image as spec;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;

const DOCKERFILE: &str = "FROM scratch\nCOPY file /below/\nENV A=1\nEXPOSE 80\nVOLUME /data\nUSER 1:2\n\
                          WORKDIR /work\nLABEL a=b\nCMD [\"x\"]\nSTOPSIGNAL 9\nHEALTHCHECK CMD y\nSHELL [\"z\"]\n\
                          ONBUILD RUN w\n";

/// Builds an image of a file into an output; `None` where the sandbox cannot be had.
async fn build(place: &Path, output: &str) -> Option<PathBuf> {
    let executor = match NativeExecutor::start(helper()).await {
        Ok(executor) => Arc::new(executor),
        Err(e) => {
            println!("SKIPPED: {e}");
            return None;
        }
    };
    let context = place.join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("file"), "the content").unwrap();
    let store: SharedStore = Arc::new(MemoryStore::default());
    let clients =
        ClientFactory::new(|_| Ok(Arc::new(Loopback::new(Arc::new(MemoryStore::default()))) as SharedClient));
    let builder =
        LocalBuilder::builder(place.join("root"), store, clients).helper(helper()).executor(executor);
    let mut request = BuildRequest::new(DOCKERFILE, BuildContext::Folder(context));
    request.tags = vec![Reference::parse("r.example/app:v1").unwrap()];
    let made = place.join("made");
    request.outputs = vec![Output::parse(&format!("{output},dest={}", made.display())).unwrap()];
    builder.open().unwrap().build(request, &Progress::none()).await.unwrap();
    Some(made)
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn what_is_written_parses_with_the_types_of_oci_spec() {
    let place = tempfile::tempdir().unwrap();
    for (number, output) in [
        "type=oci,tar=false",
        "type=oci,tar=false,annotation-index.a=b,annotation.c=d,compression=zstd",
        "type=oci,tar=false,oci-mediatypes=false",
    ]
    .into_iter()
    .enumerate()
    {
        let folder = place.path().join(number.to_string());
        std::fs::create_dir(&folder).unwrap();
        let Some(made) = build(&folder, output).await else { return };
        let marker: spec::OciLayout = read(&made.join("oci-layout"));
        assert_eq!(marker.image_layout_version(), "1.0.0");
        let index: spec::ImageIndex = read(&made.join("index.json"));
        let blob = |digest: &spec::Digest| made.join("blobs/sha256").join(digest.digest());
        let mut entry = index.manifests()[0].clone();
        if number == 1 {
            assert_eq!(*entry.media_type(), spec::MediaType::ImageIndex);
            entry = read::<spec::ImageIndex>(&blob(entry.digest())).manifests()[0].clone();
        }
        let manifest: spec::ImageManifest = read(&blob(entry.digest()));
        let config: spec::ImageConfiguration = read(&blob(manifest.config().digest()));
        // The files say the same as the values that this library makes of them.
        let bytes = std::fs::read(blob(entry.digest())).unwrap();
        let own: hyper_sdk::oci::ImageManifest = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(spec::ImageManifest::from(own), manifest, "{output}");
        let own: hyper_sdk::oci::ImageConfig = read(&blob(manifest.config().digest()));
        assert_eq!(spec::ImageConfiguration::from(own), config, "{output}");
        let container = config.config().as_ref().unwrap();
        assert_eq!(container.user().as_deref(), Some("1:2"));
        assert_eq!(container.exposed_ports().as_deref(), Some(&["80/tcp".to_owned()][..]));
        assert!(config.history().as_ref().unwrap().len() > 10);
        let layer = Descriptor::try_from(manifest.layers()[0].clone()).unwrap();
        assert_eq!(
            Algorithm::Sha256.digest(&std::fs::read(blob(manifest.layers()[0].digest())).unwrap()),
            layer.digest
        );
    }
}

#[tokio::test]
async fn archives_that_were_built_are_registries_to_pull_from() {
    let place = tempfile::tempdir().unwrap();
    for kind in ["oci", "docker"] {
        let folder = place.path().join(kind);
        std::fs::create_dir(&folder).unwrap();
        let Some(made) = build(&folder, &format!("type={kind}")).await else { return };
        let packed = folder.join("packed");
        std::fs::write(&packed, zstd::encode_all(std::fs::File::open(&made).unwrap(), 1).unwrap()).unwrap();
        let stream = tokio::fs::File::open(&made).await.unwrap();
        for layout in [
            Layout::open_archive(&made, place.path()).await.unwrap(),
            Layout::open_archive(&packed, place.path()).await.unwrap(),
            Layout::read_archive(stream, place.path()).await.unwrap(),
        ] {
            let (name, tag) = (RepositoryName::parse("app").unwrap(), Tag::parse("v1").unwrap());
            let manifest = layout.get_manifest(&name, &tag.into()).await.unwrap();
            let layer = manifest.image().unwrap().layers[0].clone();
            let mut tar = Vec::new();
            layout.layer_tar(&name, &layer).await.unwrap().read_to_end(&mut tar).await.unwrap();
            let mut archive = tar::Archive::new(&tar[..]);
            let mut found = String::new();
            for entry in archive.entries().unwrap() {
                let mut entry = entry.unwrap();
                if entry.path().unwrap() == Path::new("below/file") {
                    entry.read_to_string(&mut found).unwrap();
                }
            }
            assert_eq!(found, "the content");
            // Another size, another digest: nothing else is taken for the layer.
            let short = Descriptor { size: layer.size - 1, ..layer.clone() };
            assert!(layout.layer_tar(&name, &short).await.is_err());
            let other = Descriptor::new(media_type::OCI_LAYER, Digest::sha256("other"), 5);
            assert!(layout.layer_tar(&name, &other).await.is_err());
            let unknown = "application/vnd.oci.image.layer.v1.tar+lz4";
            let unknown = Descriptor { media_type: unknown.to_owned(), ..layer.clone() };
            let error = layout.layer_tar(&name, &unknown).await.map(drop).unwrap_err();
            assert!(error.message().contains(&unknown.media_type), "{error}");
        }
    }
}
