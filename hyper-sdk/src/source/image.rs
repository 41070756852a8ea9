//! Images as sources: from the local store, else from their registry. Manifests and configs are fetched first, layers
//! only when they are needed.
//!
//! An image that was pulled or built is complete in the repository of its name. The parts that builds needed of other
//! images are in separate repositories of the builder ([`base_repository`]), and their names are recorded in files.

use super::record::Records;
use super::{Source, SourceContent, SourceFiles, SourceImage};
#[cfg(feature = "cache-s3")]
use crate::client::S3Cache;
use crate::client::{
    LocalTarget, Platforms, PullOptions, RegistryClientExt as _, RemoteImage, S3Access, SharedClient, choose,
    pull, reporting,
};
use crate::oci::{ImageConfig, Manifest, ManifestBody};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::{ManifestReference, Reference, RegistryHost, RepositoryName};
use crate::s3::S3Place;
use crate::store::damage::Damage;
use crate::store::{
    BlobReader, PutManifest, RegistryStoreExt as _, SharedStore, base_repository, find_local,
    local_repository,
};
use crate::{Digest, Error, ErrorDetail, ErrorKind, Result, ResultExt as _};
use async_trait::async_trait;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// The largest config that is read, in bytes.
const MAX_CONFIG: u64 = 16 << 20;
/// The largest depth of nested indexes.
const MAX_DEPTH: usize = 8;

/// Makes the client of a registry, with the credentials and settings of the caller.
///
/// ```
/// use hyper_sdk::client::HttpClient;
/// use hyper_sdk::source::ClientFactory;
/// use std::sync::Arc;
///
/// let clients = ClientFactory::new(|host| Ok(Arc::new(HttpClient::builder(host.clone()).build()?)));
/// ```
#[derive(Clone)]
pub struct ClientFactory {
    make: Arc<MakeClient>,
    insecure: Option<Arc<MakeInsecureClient>>,
    access: S3Access,
}

type MakeClient = dyn Fn(&RegistryHost) -> Result<SharedClient> + Send + Sync;
type MakeInsecureClient = dyn Fn(&RegistryHost, bool) -> Result<SharedClient> + Send + Sync;

impl ClientFactory {
    /// A factory from a function.
    pub fn new(make: impl Fn(&RegistryHost) -> Result<SharedClient> + Send + Sync + 'static) -> Self {
        Self { make: Arc::new(make), insecure: None, access: S3Access::default() }
    }

    /// Sets the function for insecure registries: with plain HTTP when the second argument is set, else with any
    /// certificate.
    #[must_use]
    pub fn insecure(
        mut self,
        make: impl Fn(&RegistryHost, bool) -> Result<SharedClient> + Send + Sync + 'static,
    ) -> Self {
        self.insecure = Some(Arc::new(make));
        self
    }

    /// Sets how buckets of S3 are reached. Without, a bucket needs a region and keys in its own attributes.
    #[must_use]
    pub fn s3(mut self, access: S3Access) -> Self {
        self.access = access;
        self
    }

    /// How buckets of S3 are reached.
    pub(crate) fn s3_access(&self) -> &S3Access {
        &self.access
    }

    /// The client of a cache in a bucket.
    ///
    /// # Errors
    /// Those of opening it; [`ErrorKind::Unsupported`] without the feature `cache-s3`.
    pub(crate) async fn bucket(&self, place: &S3Place) -> Result<SharedClient> {
        #[cfg(feature = "cache-s3")]
        return Ok(self.s3_cache(place).await?);
        #[cfg(not(feature = "cache-s3"))]
        return Err(no_buckets(place));
    }

    /// The client of a cache in a bucket, with what only such a client can do.
    ///
    /// # Errors
    /// Those of opening it.
    #[cfg(feature = "cache-s3")]
    pub(crate) async fn s3_cache(&self, place: &S3Place) -> Result<Arc<S3Cache>> {
        let (place, access) = (place.clone(), self.access.clone());
        crate::layout::blocking(move || S3Cache::open(&place, &access)).await.map(Arc::new)
    }

    /// The client of a registry.
    ///
    /// # Errors
    /// Those of the function.
    pub fn client(&self, host: &RegistryHost) -> Result<SharedClient> {
        (self.make)(host)
    }

    /// The client of an insecure registry, which may have any certificate or use plain HTTP. A registry that answers
    /// with TLS is always used with TLS.
    ///
    /// # Errors
    /// Those of the function; [`ErrorKind::Unsupported`] without a function for insecure registries.
    pub(crate) async fn insecure_client(&self, host: &RegistryHost) -> Result<SharedClient> {
        let Some(make) = &self.insecure else {
            return Err(Error::unsupported("`registry.insecure=true` is not supported by this builder"));
        };
        if host.is_loopback() {
            return make(host, true);
        }
        let client = make(host, false)?;
        match client.ping().await {
            Err(e) if e.kind() == ErrorKind::Unavailable && !is_answer(&e) => make(host, true),
            _ => Ok(client),
        }
    }
}

/// The error of a library without clients of buckets.
#[cfg(not(feature = "cache-s3"))]
pub(crate) fn no_buckets(place: &S3Place) -> Error {
    Error::unsupported(format!(
        "the cache {place} is in a bucket, and this program was built without the feature `cache-s3` of hyper-sdk: use \
         type=registry or type=local"
    ))
}

/// Whether an error comes from a response of a server.
fn is_answer(error: &Error) -> bool {
    error
        .details()
        .any(|detail| matches!(detail, ErrorDetail::Registry(registry) if registry.status.is_some()))
}

impl fmt::Debug for ClientFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientFactory")
    }
}

/// Finds images by their references.
#[derive(Clone, Debug)]
pub struct ImageSource {
    store: SharedStore,
    clients: ClientFactory,
    records: Records,
    refresh: bool,
    damage: Damage,
    progress: Progress,
    several: Option<Arc<Several>>,
}

/// What the platforms of one build share.
#[derive(Debug)]
struct Several {
    platforms: Vec<Platform>,
    /// The digests of names at their registries: the platforms get images of one index, also when a tag moves meanwhile.
    roots: Mutex<HashMap<String, Arc<OnceCell<Digest>>>>,
    /// One pull at a time moves a name.
    pulls: tokio::sync::Mutex<()>,
}

impl ImageSource {
    /// Looks up images in a store, and in the registries of their names. The digests of resolved names are recorded in
    /// `folder`.
    pub fn new(store: SharedStore, clients: ClientFactory, folder: impl Into<PathBuf>) -> Self {
        Self {
            store,
            clients,
            records: Records(folder.into()),
            refresh: false,
            damage: Damage::default(),
            progress: Progress::none(),
            several: None,
        }
    }

    /// Looks up images for one build for these platforms: when they are several, each name has one digest for all of them, and
    /// a pulled name that has changed is pulled for all of them at once.
    #[must_use]
    pub(crate) fn platforms(mut self, platforms: Vec<Platform>) -> Self {
        if platforms.len() > 1 {
            self.several = Some(Arc::new(Several {
                platforms,
                roots: Mutex::default(),
                pulls: tokio::sync::Mutex::default(),
            }));
        }
        self
    }

    /// Whether the registry is asked even when the store has the image.
    #[must_use]
    pub fn refresh(mut self, refresh: bool) -> Self {
        self.refresh = refresh;
        self
    }

    /// The record of damage in the store.
    #[must_use]
    pub(crate) fn damage(mut self, damage: Damage) -> Self {
        self.damage = damage;
        self
    }

    /// The receiver of progress events.
    #[must_use]
    pub fn progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// Resolves a reference to an image, without its layers.
    ///
    /// # Errors
    /// Those of the registry; [`ErrorKind::ManifestUnknown`] when there is no image for the platform.
    pub async fn image(&self, reference: &Reference, platform: &Platform) -> Result<SourceImage> {
        let kept = local_repository(reference)?;
        let base = base_repository(reference)?;
        if !self.refresh {
            // It may have been pushed to a server of the store by its short name.
            let found_in = find_local(&*self.store, reference).await?;
            if let Some(found) = self.stored(&found_in, &reference.manifest(), reference, platform).await? {
                return Ok(SourceImage { is_kept: true, ..found });
            }
            if let Some(digest) = self.records.get(reference).or_else(|| reference.digest().cloned())
                && let Some(found) = self.stored(&base, &digest.into(), reference, platform).await?
            {
                return Ok(found);
            }
        }
        let client = reporting(&self.clients.client(reference.host())?, &self.progress);
        let task = self.progress.start(format!("look up {}", reference.familiar()), None);
        task.end_with(self.look_up(&client, reference, platform, &kept, &base).await.op("pull"))
    }

    /// Resolves the reference at the registry, and fetches the missing manifests and config.
    async fn look_up(
        &self,
        client: &SharedClient,
        reference: &Reference,
        platform: &Platform,
        kept: &RepositoryName,
        base: &RepositoryName,
    ) -> Result<SourceImage> {
        let root = match reference.digest() {
            Some(digest) => digest.clone(),
            None => self.root(client, reference).await?,
        };
        // Platforms that have the same base update its name one after the other: the first one does it.
        let pulls = match &self.several {
            Some(several) => Some(several.pulls.lock().await),
            None => None,
        };
        let no_variant =
            || Error::new(ErrorKind::ManifestUnknown, format!("the image has no variant for {platform}"));
        if let (None, Some(tag)) = (reference.digest(), reference.tag())
            && let Some(old) = self.store.find_manifest(kept, &reference.manifest()).await?
            && self.is_stale(&old, &root, client, reference).await?
        {
            // The user pulled this name before, so the complete image is updated.
            let platforms = match &self.several {
                None => Platforms::One(platform.clone()),
                // The stage may be for a platform of its own.
                Some(several) => {
                    Platforms::Only([&several.platforms[..], std::slice::from_ref(platform)].concat())
                }
            };
            let options =
                PullOptions { platforms, progress: self.progress.clone(), ..PullOptions::default() };
            let from = RemoteImage::new(client, reference.repository(), &ManifestReference::Digest(root));
            let to = LocalTarget::new(&self.store, kept, Some(tag));
            let pulled = pull(&from, &to, &options).await?;
            let found = self.stored(kept, &pulled.digest.into(), reference, platform).await?;
            return Ok(SourceImage { is_kept: true, ..found.ok_or_else(no_variant)? });
        }
        drop(pulls);
        if let Some(found) = self.stored(kept, &root.clone().into(), reference, platform).await? {
            return Ok(SourceImage { is_kept: true, ..found });
        }
        let mut manifest = self.manifest(client, reference, base, &root, None).await?;
        for _ in 0..MAX_DEPTH {
            let Some(index) = manifest.index() else { break };
            let child = choose(&index.manifests, platform)?;
            manifest = self.manifest(client, reference, base, &child.digest, Some(child.size)).await?;
        }
        let Some(image) = manifest.image() else {
            return Err(Error::invalid("the indexes of the image are nested too deep"));
        };
        // The store may have only the image of the registry's index.
        if let Some(found) = self.stored(kept, &manifest.digest().clone().into(), reference, platform).await?
        {
            return Ok(SourceImage { is_kept: true, ..found });
        }
        if let Err(e) = self.store.read_blob(base, &image.config.digest, MAX_CONFIG).await {
            if e.kind() == ErrorKind::Corrupt {
                self.store.remove_damaged(&image.config.digest).await?;
            }
            let config = client.read_blob(reference.repository(), &image.config.digest, MAX_CONFIG).await?;
            self.store.put_blob(base, &image.config.digest, config).await?;
        }
        let found = self.stored(base, &root.clone().into(), reference, platform).await?;
        let found = found.ok_or_else(no_variant)?;
        // Also for a reference by digest: the record is what keeps the image in the store.
        self.records.put(reference, &root)?;
        Ok(found)
    }

    /// The digest of a name at its registry.
    async fn root(&self, client: &SharedClient, reference: &Reference) -> Result<Digest> {
        // HEAD does not count as a pull in registries with a rate limit.
        let ask = async || Ok(client.resolve(reference.repository(), &reference.manifest()).await?.digest);
        let Some(several) = &self.several else { return ask().await };
        let cell = {
            let mut roots = several.roots.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(roots.entry(reference.to_string()).or_default())
        };
        cell.get_or_try_init(ask).await.cloned()
    }

    /// Whether a name has another digest in the store than at the registry.
    async fn is_stale(
        &self,
        old: &Manifest,
        root: &Digest,
        client: &SharedClient,
        reference: &Reference,
    ) -> Result<bool> {
        if old.digest() == root {
            return Ok(false);
        }
        // The store may have only the image of one platform of the registry's index.
        let at_registry = client.get_manifest(reference.repository(), &root.clone().into()).await?;
        Ok(!at_registry
            .index()
            .is_some_and(|index| index.manifests.iter().any(|d| d.digest == *old.digest())))
    }

    /// A manifest by digest, from the store or else the registry.
    async fn manifest(
        &self,
        client: &SharedClient,
        reference: &Reference,
        base: &RepositoryName,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<Manifest> {
        let wanted = ManifestReference::Digest(digest.clone());
        if let Some(known) = self.store.find_manifest(base, &wanted).await? {
            return Ok(known);
        }
        let manifest = client.get_manifest(reference.repository(), &wanted).await?;
        if size.is_some_and(|size| size != manifest.bytes().len() as u64) {
            return Err(Error::new(
                ErrorKind::SizeInvalid,
                "a manifest does not have the size that its index gives",
            )
            .with_context("digest", digest));
        }
        // Its layers are fetched when they are needed.
        let put = PutManifest { sparse: true, ..PutManifest::new(manifest.clone(), []) };
        self.store.put_manifest(base, put).await?;
        Ok(manifest)
    }

    /// The image of a reference in the store, if the store has its manifest and config.
    async fn stored(
        &self,
        repository: &RepositoryName,
        wanted: &ManifestReference,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<SourceImage>> {
        let mut wanted = wanted.clone();
        for _ in 0..=MAX_DEPTH {
            let manifest = match self.store.get_manifest(repository, &wanted).await {
                Ok(manifest) => manifest,
                Err(e) if matches!(e.kind(), ErrorKind::ManifestUnknown | ErrorKind::NameUnknown) => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            };
            let next = match manifest.body() {
                ManifestBody::Image(image) => {
                    let digest = &image.config.digest;
                    // A config decides what the build does, so it is checked.
                    let config = match self.store.read_blob(repository, digest, MAX_CONFIG).await {
                        Err(e) if matches!(e.kind(), ErrorKind::BlobUnknown | ErrorKind::Corrupt) => {
                            self.store.remove_damaged(digest).await?;
                            self.damage.warn(&self.progress, digest);
                            return Ok(None);
                        }
                        other => ImageConfig::parse(&other?)?,
                    };
                    let digest = manifest.digest().clone();
                    let mut found = SourceImage::new(reference.to_string(), digest, config, &image.layers)?;
                    found.repository = Some(repository.clone());
                    return Ok(platform.matches(&found.config.platform()).then_some(found));
                }
                ManifestBody::Index(index) => platform
                    .choose(index.manifests.iter().filter_map(|d| Some((d, d.platform.as_ref()?))))
                    .map(|d| d.digest.clone()),
            };
            match next {
                Some(digest) => wanted = digest.into(),
                None => return Ok(None),
            }
        }
        Err(Error::invalid("the indexes of the image are nested too deep"))
    }
}

#[async_trait]
impl Source for ImageSource {
    async fn resolve(&self, name: &str, platform: &Platform) -> Result<SourceContent> {
        let image = self.image(&Reference::parse(name)?, platform).await?;
        Ok(SourceContent::Image(Box::new(image)))
    }

    async fn open_layer(&self, image: &SourceImage, layer: &crate::oci::Descriptor) -> Result<BlobReader> {
        let reference = Reference::parse(&image.name)?;
        let client = reporting(&self.clients.client(reference.host())?, &self.progress);
        client.get_blob(reference.repository(), &layer.digest, None).await.op("pull")
    }

    async fn open_files(&self, name: &str) -> Result<SourceFiles> {
        Err(Error::internal("an image has no files to open").with_context("image", name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{HttpClient, RetryPolicy};
    use std::io::{Read as _, Write as _};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts the fallbacks to plain HTTP, when the TLS client of the registry connects to `address`.
    async fn falls_back(address: String) -> usize {
        let plain = Arc::new(AtomicUsize::new(0));
        let count = plain.clone();
        let make = move |_: &RegistryHost, plain_http: bool| {
            count.fetch_add(usize::from(plain_http), Ordering::SeqCst);
            let host = RegistryHost::parse(&address)?;
            let client = HttpClient::builder(host).retry(RetryPolicy::NEVER).build()?;
            Ok(Arc::new(client) as SharedClient)
        };
        let factory = ClientFactory::new(|_| Err(Error::internal("nobody asked for this"))).insecure(make);
        factory.insecure_client(&RegistryHost::parse("r.example").unwrap()).await.unwrap();
        plain.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn a_registry_with_tls_is_never_used_with_plain_http() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let mut stream = stream;
                let _ = stream.read(&mut [0; 4096]);
                let status = ["503 X", "404 X", "401 X", "200 X", "500 X"][number % 5];
                let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        for _ in 0..5 {
            assert_eq!(falls_back(address.clone()).await, 0);
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(falls_back(free.to_string()).await, 1);
    }
}
