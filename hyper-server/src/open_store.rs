//! Opens the store that a configuration names: metadata in a folder or in a database, blobs in a folder or in a bucket.
//!
//! ```text
//!   DATA/hyper.db     the metadata, unless they are in a database
//!   DATA/blobs/       the blobs, unless they are in a bucket
//!   DATA/bucket.id    the id of this registry, once its blobs are in a bucket; the bucket has it, too
//! ```
//!
//! A database has the id of its registry, and remembers where the blobs are. With a bucket it needs no folder.

use crate::blob_place::BlobPlace;
use crate::config::Config;
use crate::quota_config;
use hyper_sdk::store::meta::{MetaBackend as _, SqlMeta};
use hyper_sdk::store::{DiskStore, Portable, RegistryStore as _, SharedStore};
use hyper_sdk::{Error, ErrorKind, Result, Secret};
use std::sync::Arc;
use std::time::Duration;

/// The id of a registry whose blobs are in a bucket.
const ID_FILE: &str = "bucket.id";

/// A store, and what its servers sign tokens with when its database says so.
pub(crate) struct Opened {
    pub(crate) store: SharedStore,
    /// The same store, for backups.
    pub(crate) portable: Arc<dyn Portable>,
    /// The metadata of the store, which have the API tokens.
    pub(crate) meta: SqlMeta,
    pub(crate) secret: Option<Secret>,
}

/// Opens the store, with the quotas of the configuration, and removes uploads that were idle for `upload_max_age`; `None` keeps all.
///
/// # Errors
/// Those of [`DiskStore::open`], of the database and of the bucket; [`hyper_sdk::ErrorKind::Invalid`] when the folder has its
/// blobs elsewhere; [`ErrorKind::Conflict`] when a restore has not ended.
pub(crate) async fn open(config: &Config, upload_max_age: Option<Duration>) -> Result<Opened> {
    let opened = open_unfinished(config, upload_max_age).await?;
    refuse_unfinished(&opened.meta).await?;
    if !config.read_only && opened.store.capabilities().write {
        opened.store.set_quotas(quota_config::rules(&config.quota)?)?;
        opened.store.set_undelete_window(config.undelete.window.0)?;
        record_events(config, &opened.meta);
    }
    Ok(opened)
}

/// Records the events of what this process changes, as the configuration says.
fn record_events(config: &Config, meta: &SqlMeta) {
    let events = config.registry().events;
    if let Some(log) = meta.event_log() {
        log.record(events.map(|events| events.rules));
    }
}

/// Fails while a store is filled.
async fn refuse_unfinished(meta: &SqlMeta) -> Result<()> {
    match meta.unfinished_restore().await? {
        None => Ok(()),
        Some(source) => Err(Error::new(
            ErrorKind::Conflict,
            "the store is not whole: it is being filled, or that was interrupted; the same command goes on with it",
        )
        .with_context("from", source)),
    }
}

/// Opens the store as [`open`] does, also one that a restore has not filled yet.
pub(crate) async fn open_unfinished(config: &Config, upload_max_age: Option<Duration>) -> Result<Opened> {
    if let Some(place) = &config.blobs {
        if config.database.url.is_none() && config.data.join("blobs").exists() {
            return Err(Error::invalid(
                "the folder of the store has blobs of its own, so they cannot be in a bucket: name another folder with \
                 --data",
            )
            .with_context("data", config.data.display()));
        }
        return in_bucket(config, place, upload_max_age).await;
    }
    if config.data.join(ID_FILE).exists() {
        return Err(Error::invalid(
            "the store in this folder has its blobs in a bucket: name it with --blobs, or with `blobs` in the \
             configuration file",
        )
        .with_context("data", config.data.display()));
    }
    let store = match config.database.open()? {
        None => DiskStore::open_with(&config.data, upload_max_age).await,
        Some(database) => DiskStore::open_on(&config.data, database, upload_max_age).await,
    }?;
    if let Some(warning) = store.blobs().warning() {
        tracing::warn!("{warning}");
    }
    let meta = store.meta().clone();
    let secret = meta.registry_secret().cloned();
    let store = Arc::new(store);
    Ok(Opened { portable: store.clone(), store, meta, secret })
}

/// Opens the metadata of a store that exists, wherever its blobs are.
///
/// # Errors
/// [`ErrorKind::NotFound`] when the folder has no metadata; those of [`SqlMeta::open`] and of the database.
pub(crate) async fn metadata(config: &Config) -> Result<SqlMeta> {
    if let Some(database) = config.database.open()? {
        let meta = SqlMeta::connect(database).await?;
        refuse_unfinished(&meta).await?;
        return Ok(meta);
    }
    if !config.data.join("hyper.db").is_file() {
        return Err(Error::new(ErrorKind::NotFound, "there is no store in the folder: --data names another")
            .with_context("data", config.data.display()));
    }
    let folder = hyper_sdk::private_folder::open(&config.data)?;
    let meta = SqlMeta::open(folder.path.join("hyper.db")).await?;
    refuse_unfinished(&meta).await?;
    Ok(meta)
}

/// The metadata of a store as they are, to be read; `None` when there is no store yet. Nothing is made, migrated or written.
///
/// # Errors
/// Those of [`SqlMeta::open_unchanged`] and of the database.
pub(crate) async fn unchanged(config: &Config) -> Result<Option<SqlMeta>> {
    let opened = match config.database.open()? {
        Some(database) => SqlMeta::connect_unchanged(database).await,
        None => SqlMeta::open_unchanged(config.data.join("hyper.db")).await,
    };
    match opened {
        Ok(meta) => Ok(Some(meta)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(not(feature = "store-s3"))]
async fn in_bucket(_: &Config, _: &BlobPlace, _: Option<Duration>) -> Result<Opened> {
    Err(Error::unsupported("blobs in buckets need the feature `store-s3`"))
}

#[cfg(feature = "store-s3")]
async fn in_bucket(
    config: &Config,
    BlobPlace(place): &BlobPlace,
    upload_max_age: Option<Duration>,
) -> Result<Opened> {
    use hyper_sdk::store::Composed;
    use hyper_sdk::store::blob::S3Blobs;

    let opened = {
        let place = place.clone();
        tokio::task::spawn_blocking(move || S3Blobs::open(&place, &access())).await
    };
    let mut blobs = opened.map_err(|e| Error::internal("opening the bucket panicked").with_source(e))??;
    if let Some(memory) = config.limits.upload_memory {
        blobs = blobs.with_upload_memory(memory.0);
    }
    // A wrong address and wrong keys are known before the folder or the database says that it belongs to a bucket.
    blobs.check().await?;
    let meta = match config.database.open()? {
        Some(database) => of_database(config, database, &blobs).await?,
        None => of_folder(config, &blobs).await?,
    };
    let secret = meta.registry_secret().cloned();
    let store = Composed::new(blobs, meta.clone());
    if let Some(age) = upload_max_age.filter(|_| !config.read_only && store.capabilities().write)
        && let Err(error) = store.expire_uploads(age).await
    {
        tracing::warn!(%error, "idle uploads cannot be removed");
    }
    let store = Arc::new(store);
    Ok(Opened { portable: store.clone(), store, meta, secret })
}

/// The metadata in the folder, for blobs in a bucket.
#[cfg(feature = "store-s3")]
async fn of_folder(config: &Config, blobs: &hyper_sdk::store::blob::S3Blobs) -> Result<SqlMeta> {
    let folder = hyper_sdk::private_folder::open(&config.data)?;
    if let Some(warning) = &folder.warning {
        tracing::warn!("{warning}");
    }
    let meta = SqlMeta::open(folder.path.join("hyper.db")).await?;
    let file = folder.path.join(ID_FILE);
    let is_first = !file.exists();
    let id = id(&file)?;
    let has_place = if config.read_only || !is_first && has_content(&meta).await? {
        blobs.confirm(&id).await
    } else {
        blobs.take(&id).await
    };
    match has_place {
        // The folder has no blobs anywhere: it may begin at another place, or without a bucket.
        Err(refused) if is_first && refused.kind() == hyper_sdk::ErrorKind::Conflict => {
            if let Err(error) = std::fs::remove_file(&file) {
                tracing::debug!(%error, "the id of a registry without a place stays");
            }
            Err(refused)
        }
        other => other.map(|()| meta),
    }
}

/// The metadata in a database, for blobs in a bucket.
#[cfg(feature = "store-s3")]
async fn of_database(
    config: &Config,
    database: hyper_sdk::store::meta::PostgresOptions,
    blobs: &hyper_sdk::store::blob::S3Blobs,
) -> Result<SqlMeta> {
    let meta = SqlMeta::connect(database).await?;
    let Some(id) = meta.registry_id() else { return Ok(meta) };
    if meta.blobs_kept_at().await?.is_some() {
        // It names the place that it has.
        meta.keep_blobs_at(&blobs.to_string()).await?;
        blobs.confirm(id).await?;
    } else if config.read_only {
        blobs.confirm(id).await?;
    } else {
        // First the bucket: the database remembers one that it can have.
        blobs.take(id).await?;
    }
    if !config.read_only {
        meta.keep_blobs_at(&blobs.to_string()).await?;
    }
    Ok(meta)
}

/// Whether the registry has a repository.
#[cfg(feature = "store-s3")]
async fn has_content(meta: &SqlMeta) -> Result<bool> {
    Ok(!meta.repositories(None, 1).await?.items.is_empty())
}

/// How the bucket is reached, as the environment says.
#[cfg(feature = "store-s3")]
fn access() -> hyper_sdk::client::S3Access {
    use hyper_sdk::client::{Proxies, S3Access};
    S3Access {
        environment: hyper_sdk::s3::AwsEnvironment::from_variables(|name| std::env::var_os(name)),
        proxies: Proxies::from_variables(|name| std::env::var(name).ok()),
        authorities: std::env::var_os("AWS_CA_BUNDLE")
            .filter(|path| !path.is_empty())
            .map(Into::into)
            .into_iter()
            .collect(),
    }
}

/// Writes a new file, to the disk.
#[cfg(feature = "store-s3")]
fn write_synced(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The id of the registry, which is chosen when the file does not exist.
#[cfg(feature = "store-s3")]
fn id(path: &std::path::Path) -> Result<String> {
    use hyper_sdk::ResultExt as _;
    use hyper_sdk::small_file::{Kinds, read_text};
    if !path.exists() {
        let id = hyper_sdk::store::UploadId::random()?;
        let made = path.with_extension(id.as_str());
        write_synced(&made, &format!("{id}\n")).at("cannot write the id of the registry", path)?;
        // Another process may choose one, too.
        let linked = std::fs::hard_link(&made, path);
        std::fs::remove_file(&made).at("cannot write the id of the registry", path)?;
        match linked {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(e).at("cannot write the id of the registry", path);
            }
            _ => {}
        }
    }
    let text = read_text(path, "the id of the registry", 1024, Kinds::Files)?;
    Ok(text.trim().to_owned())
}
