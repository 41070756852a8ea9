//! `hyperbuild images`.

use crate::app::Format;
use crate::backends::Session;
use crate::failure::Failure;
use crate::terminal::{print, print_json, size, table};
use clap::Args;
use hyper_sdk::oci::Manifest;
use hyper_sdk::store::{Page, RegistryStoreExt as _, SharedStore, local_reference};
use hyper_sdk::{Digest, Error, ErrorKind, RepositoryName, Result, Tag};
use serde::Serialize;

/// Lists the images of the local store
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Shows whole digests
    #[arg(long)]
    digests: bool,
    /// Shows only names that contain this text
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
}

/// A tag of the local store.
#[derive(Debug, Serialize)]
struct Image {
    name: String,
    digest: Digest,
    media_type: String,
    platforms: Vec<String>,
    created: Option<String>,
    /// Config and layers, in bytes as they are stored; of all platforms.
    size: u64,
}

pub(crate) async fn run(args: ImagesArgs, session: &Session) -> Result<(), Failure> {
    let store = session.store().await?;
    let mut images = Vec::new();
    let mut after = None;
    loop {
        let page = store.list_repositories(Page { limit: None, after }).await?;
        for repository in &page.items {
            for tag in tags(&store, repository).await? {
                let name = match local_reference(repository, Some(tag.clone()), None) {
                    Some(reference) => reference.familiar(),
                    None => format!("{repository}:{tag}"),
                };
                if args.filter.as_ref().is_none_or(|text| name.contains(text)) {
                    images.push(describe(&store, repository, &tag, name).await?);
                }
            }
        }
        after = page.items.last().map(ToString::to_string);
        if !page.more || after.is_none() {
            break;
        }
    }
    if session.format == Format::Json {
        print_json(&images)?;
        return Ok(());
    }
    if session.quiet {
        print(&images.iter().map(|i| format!("{}\n", i.digest)).collect::<String>())?;
        return Ok(());
    }
    let mut rows = vec![["NAME", "DIGEST", "PLATFORM", "CREATED", "SIZE"].map(str::to_owned).to_vec()];
    rows.extend(images.iter().map(|image| {
        let digest = if args.digests { image.digest.to_string() } else { image.digest.short().to_owned() };
        let platforms = image.platforms.join(",");
        let created = image.created.clone().unwrap_or_else(|| "-".into());
        vec![image.name.clone(), digest, platforms, created, size(image.size)]
    }));
    print(&table(&rows))?;
    Ok(())
}

async fn tags(store: &SharedStore, repository: &RepositoryName) -> Result<Vec<Tag>> {
    match store.all_tags(repository).await {
        // Another process removed it meanwhile.
        Err(e) if e.kind() == ErrorKind::NameUnknown => Ok(Vec::new()),
        other => other,
    }
}

async fn describe(
    store: &SharedStore,
    repository: &RepositoryName,
    tag: &Tag,
    name: String,
) -> Result<Image> {
    let manifest = store.get_manifest(repository, &tag.clone().into()).await?;
    let mut image = Image {
        name,
        digest: manifest.digest().clone(),
        media_type: manifest.media_type().to_owned(),
        platforms: Vec::new(),
        created: None,
        size: 0,
    };
    let mut queue = vec![(manifest, 0)];
    while let Some((manifest, depth)) = queue.pop() {
        if depth > 4 {
            return Err(Error::invalid("the indexes are nested too deep").with_context("image", &image.name));
        }
        if let Some(index) = manifest.index() {
            for entry in &index.manifests {
                // An index may be sparse: what was not pulled is no part of the size.
                if let Some(child) = store.find_manifest(repository, &entry.digest.clone().into()).await? {
                    queue.push((child, depth + 1));
                }
            }
        } else {
            add(store, repository, &manifest, &mut image).await?;
        }
    }
    image.platforms.sort();
    Ok(image)
}

async fn add(
    store: &SharedStore,
    repository: &RepositoryName,
    manifest: &Manifest,
    image: &mut Image,
) -> Result<()> {
    let Some(body) = manifest.image() else { return Ok(()) };
    image.size += body.config.size + body.layers.iter().map(|l| l.size).sum::<u64>();
    // An artifact has no config of an image.
    if let Ok(stored) = store.get_image(repository, &manifest.digest().clone().into(), None).await
        && !stored.config.os.is_empty()
    {
        image.platforms.push(stored.config.platform().to_string());
        image.created = image.created.take().max(stored.config.created);
    }
    Ok(())
}
