//! Images as sources: from the local store, else from their registry.

use super::layout::import_layout;
use crate::client::{Platforms, PullOptions, SharedClient, pull};
use crate::oci::{ImageConfig, Manifest, ManifestBody};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::{ManifestReference, Reference, RegistryHost, RepositoryName};
use crate::store::damage::Damage;
use crate::store::{RegistryStoreExt as _, SharedStore, local_repository};
use crate::{Digest, Error, ErrorKind, Result};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The repository of the local store that keeps the images of layouts.
const LAYOUTS: &str = "hyper.local/layouts";
/// The most that is read of a config.
const MAX_CONFIG: u64 = 16 << 20;

/// Makes the client of a registry, with the caller's credentials and settings.
#[derive(Clone)]
pub struct ClientFactory {
    make: Arc<MakeClient>,
    insecure: Option<Arc<MakeInsecureClient>>,
}

type MakeClient = dyn Fn(&RegistryHost) -> Result<SharedClient> + Send + Sync;
type MakeInsecureClient = dyn Fn(&RegistryHost, bool) -> Result<SharedClient> + Send + Sync;

impl ClientFactory {
    /// A factory that calls a function.
    pub fn new(make: impl Fn(&RegistryHost) -> Result<SharedClient> + Send + Sync + 'static) -> Self {
        Self { make: Arc::new(make), insecure: None }
    }

    /// Says how a registry is reached that is not to be trusted: in plain HTTP when the second argument is set, else
    /// with any certificate.
    #[must_use]
    pub fn insecure(
        mut self,
        make: impl Fn(&RegistryHost, bool) -> Result<SharedClient> + Send + Sync + 'static,
    ) -> Self {
        self.insecure = Some(Arc::new(make));
        self
    }

    /// The client of a registry.
    ///
    /// # Errors
    /// Those of the function.
    pub fn client(&self, host: &RegistryHost) -> Result<SharedClient> {
        (self.make)(host)
    }

    /// The client of a registry that may show any certificate or speak plain HTTP: it is asked which it does. One that
    /// answers in TLS, whatever it answers, is spoken to in TLS.
    ///
    /// # Errors
    /// Those of the function; [`ErrorKind::Unsupported`] where the caller has not said how.
    pub async fn insecure_client(&self, host: &RegistryHost) -> Result<SharedClient> {
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

/// Whether an error tells what a server answered.
fn is_answer(error: &Error) -> bool {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    causes.filter_map(|e| e.downcast_ref::<Error>()).any(|e| e.context_value("status").is_some())
}

impl fmt::Debug for ClientFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientFactory")
    }
}

/// An image that is in the store, whole.
#[derive(Clone, Debug)]
pub struct SourceImage {
    /// The manifest for one platform.
    pub manifest: Manifest,
    /// The config.
    pub config: ImageConfig,
    /// The repository of the store that has its blobs.
    pub repository: RepositoryName,
}

/// Finds images and brings them into the store.
#[derive(Clone, Debug)]
pub struct ImageSource {
    /// The store.
    pub store: SharedStore,
    /// The registries.
    pub clients: ClientFactory,
    /// Whether the registry is asked even when the store has the name.
    pub refresh: bool,
    /// What is found to be damaged of the store.
    pub damage: Damage,
    /// Where events go.
    pub progress: Progress,
}

impl ImageSource {
    /// The image of a reference, from the store or its registry.
    ///
    /// # Errors
    /// Those of the registry; [`ErrorKind::ManifestUnknown`] when there is no image for the platform.
    pub async fn image(&self, reference: &Reference, platform: &Platform) -> Result<SourceImage> {
        let repository = local_repository(reference)?;
        if !self.refresh
            && let Some(found) = self.stored(&repository, &reference.manifest(), platform).await?
        {
            return Ok(found);
        }
        let client = self.clients.client(reference.host())?;
        let options = PullOptions {
            platforms: Platforms::One(platform.clone()),
            progress: self.progress.clone(),
            ..PullOptions::default()
        };
        let tag = if reference.digest().is_some() { None } else { reference.tag() };
        let pulled = pull(
            &client,
            reference.repository(),
            &reference.manifest(),
            &self.store,
            &repository,
            tag,
            &options,
        )
        .await?;
        self.stored(&repository, &pulled.digest.into(), platform).await?.ok_or_else(|| {
            Error::new(ErrorKind::ManifestUnknown, format!("the image has no variant for {platform}"))
        })
    }

    /// The image of a layout.
    ///
    /// # Errors
    /// Those of [`import_layout`].
    pub async fn layout(
        &self,
        folder: &Path,
        tag: Option<&str>,
        digest: Option<&Digest>,
        platform: &Platform,
    ) -> Result<SourceImage> {
        let repository = RepositoryName::parse(LAYOUTS)?;
        let image = import_layout(&*self.store, &repository, folder, tag, digest, platform).await?;
        if let Some(lost) = image.lost.first() {
            self.damage.tell(&self.progress, lost);
        }
        self.with_config(repository, image.manifest).await
    }

    async fn stored(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
        platform: &Platform,
    ) -> Result<Option<SourceImage>> {
        let mut wanted = reference.clone();
        for _ in 0..8 {
            let manifest = match self.store.get_manifest(repository, &wanted).await {
                Ok(manifest) => manifest,
                Err(e) if matches!(e.kind(), ErrorKind::ManifestUnknown | ErrorKind::NameUnknown) => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            };
            let next = match manifest.body() {
                ManifestBody::Image(_) => {
                    if let Some(lost) = self.lost(repository, &manifest).await? {
                        self.damage.tell(&self.progress, &lost);
                        return Ok(None);
                    }
                    let image = self.with_config(repository.clone(), manifest).await?;
                    return Ok(platform.matches(&image.config.platform()).then_some(image));
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

    /// A blob of an image that the store should have and has not. One that may be missing from the start is none.
    async fn lost(&self, repository: &RepositoryName, manifest: &Manifest) -> Result<Option<Digest>> {
        let Some(image) = manifest.image() else { return Ok(None) };
        // A config is small and tells what the build does: it is read.
        let config = &image.config.digest;
        match self.store.read_blob(repository, config, MAX_CONFIG).await {
            Err(e) if matches!(e.kind(), ErrorKind::BlobUnknown | ErrorKind::Corrupt) => {
                self.store.remove_damaged(config).await?;
                return Ok(Some(config.clone()));
            }
            other => drop(other?),
        }
        for layer in &image.layers {
            let may_be_missing =
                crate::media_type::is_non_distributable(&layer.media_type) || !layer.urls.is_empty();
            if !may_be_missing && !self.store.has_blob(repository, &layer.digest).await? {
                return Ok(Some(layer.digest.clone()));
            }
        }
        Ok(None)
    }

    async fn with_config(&self, repository: RepositoryName, manifest: Manifest) -> Result<SourceImage> {
        let Some(image) = manifest.image() else {
            return Err(Error::invalid("an image index where an image was expected"));
        };
        let bytes = self.store.read_blob(&repository, &image.config.digest, MAX_CONFIG).await?;
        let config = ImageConfig::parse(&bytes)?;
        if config.rootfs.diff_ids.len() != image.layers.len() {
            return Err(Error::invalid(format!(
                "the image has {} layers and its config names {}",
                image.layers.len(),
                config.rootfs.diff_ids.len()
            )));
        }
        Ok(SourceImage { manifest, config, repository })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{HttpClient, RetryPolicy};
    use std::io::{Read as _, Write as _};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// How often plain HTTP is fallen back to, when what stands for the registry in TLS is at `address`.
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
    async fn who_answers_in_tls_is_not_spoken_to_in_plain_http() {
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
