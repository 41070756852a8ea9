//! Indexes within indexes: as deep as is promised, and no deeper.

use super::*;
use crate::oci::ImageConfig;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::source::{ClientFactory, ImageSource};
use crate::store::{PutManifest, RegistryStoreExt as _, SharedStore};

fn amd64() -> Platform {
    Platform::new("linux", "amd64", None)
}

/// A registry with an image below so many indexes, each in the one before.
async fn nested(name: &RepositoryName, levels: usize) -> SharedStore {
    let store: SharedStore = Arc::new(MemoryStore::default());
    let config = ImageConfig::empty(&amd64()).to_bytes();
    let config = store.put_bytes(name, media_type::OCI_CONFIG, config.into()).await.unwrap();
    let mut manifest = Manifest::sniff(ImageManifest::new(config, vec![]).to_bytes()).unwrap();
    for _ in 0..levels {
        store.put_manifest(name, PutManifest::new(manifest.clone(), [])).await.unwrap();
        let entry = Descriptor { platform: Some(amd64()), ..manifest.descriptor() };
        manifest = Manifest::sniff(ImageIndex::new(vec![entry]).to_bytes()).unwrap();
    }
    store.put_manifest(name, PutManifest::new(manifest, [Tag::latest()])).await.unwrap();
    store
}

#[tokio::test]
async fn an_image_is_found_below_four_indexes_and_not_below_five() {
    let name = RepositoryName::parse("a").unwrap();
    for levels in 0..7 {
        let store = nested(&name, levels).await;
        let client = Loopback::new(store.clone());
        for platform in [None, Some(amd64())] {
            let latest = Tag::latest().into();
            let found = [
                client.image(&name, &latest, platform.as_ref()).await,
                store.get_image(&name, &latest, platform.as_ref()).await,
            ];
            for found in found {
                match found {
                    Ok(image) => assert!(levels <= 4 && image.config.os == "linux", "{levels}"),
                    Err(e) => assert!(levels > 4 && e.kind() == ErrorKind::Invalid, "{levels}: {e}"),
                }
            }
        }
    }
}

/// What was found at the registry is found again in the store.
#[tokio::test]
async fn a_base_image_is_found_below_eight_indexes_and_not_below_nine() {
    let reference = Reference::parse("r.example/a:latest").unwrap();
    for levels in [0, 1, 7, 8, 9, 10] {
        let registry = nested(reference.repository(), levels).await;
        let clients =
            ClientFactory::new(move |_| Ok(Arc::new(Loopback::new(registry.clone())) as SharedClient));
        let (store, folder): (SharedStore, _) =
            (Arc::new(MemoryStore::default()), tempfile::tempdir().unwrap());
        for time in 0..2 {
            let source = ImageSource::new(store.clone(), clients.clone(), folder.path());
            match source.image(&reference, &amd64()).await {
                Ok(image) => assert!(levels <= 8 && image.config.os == "linux", "{levels}"),
                Err(e) => {
                    assert!(levels > 8 && e.kind() == ErrorKind::Invalid, "{levels}, time {time}: {e}");
                }
            }
        }
    }
}

#[tokio::test]
async fn images_are_copied_below_eight_indexes_and_not_below_nine() {
    let name = RepositoryName::parse("a").unwrap();
    for platforms in [Platforms::All, Platforms::One(amd64())] {
        for levels in [0, 8, 9, 10] {
            let client: SharedClient = Arc::new(Loopback::new(nested(&name, levels).await));
            let store: SharedStore = Arc::new(MemoryStore::default());
            let from = RemoteImage::new(&client, &name, &Tag::latest().into());
            let options = PullOptions { platforms: platforms.clone(), ..PullOptions::default() };
            match pull(&from, &LocalTarget::new(&store, &name, None), &options).await {
                Ok(_) => assert!(levels <= 8, "{levels}"),
                Err(e) => assert!(levels > 8 && e.kind() == ErrorKind::TooLarge, "{levels}: {e}"),
            }
        }
    }
}
