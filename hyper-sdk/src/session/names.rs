//! Images of the local store by their names, and what is near a name that it does not have.
//!
//! A name without a host is a name of docker.io. A repository without a host, which somebody pushed to a server of the
//! store, has that name where docker.io's has no image.

use super::Session;
use crate::client::LocalImage;
use crate::dockerfile::suggestion;
use crate::oci::Manifest;
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::{Page, RegistryStoreExt as _, SharedStore, local_reference, locate};
use crate::{Error, ErrorDetail, ErrorKind, Reference, Result};

/// How many names a message has.
const SHOWN: usize = 3;

impl Session {
    /// The image of a name in the local store.
    ///
    /// # Errors
    /// [`ErrorKind::ManifestUnknown`] with the nearest names when it is not there; those of [`Session::store`] and of the
    /// store.
    pub(super) async fn local(&self, image: &Reference) -> Result<LocalImage> {
        let store = self.store().await?;
        match locate(&*store, image).await? {
            Some(repository) => Ok(LocalImage::new(&store, &repository, &image.manifest())),
            None => Err(missing(&store, image).await?),
        }
    }
}

/// The tags of a store, in the order of their repositories.
pub(super) async fn names(store: &SharedStore) -> Result<Vec<(RepositoryName, Tag)>> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = store.list_repositories(Page { limit: None, after }).await?;
        for repository in &page.items {
            names.extend(tags(store, repository).await?.into_iter().map(|tag| (repository.clone(), tag)));
        }
        after = page.items.last().map(ToString::to_string);
        if !page.more || after.is_none() {
            return Ok(names);
        }
    }
}

/// The name by which an image with a tag is found, as users write it. A repository without a host was pushed to a server of
/// the store; where its name is that of another image, the image is found by its digest. `None` when that is the same
/// image, and when the tag was removed meanwhile.
pub(super) async fn name_of(
    store: &SharedStore,
    repository: &RepositoryName,
    tag: &Tag,
) -> Result<Option<String>> {
    if let Some(reference) = local_reference(repository, Some(tag.clone()), None) {
        return Ok(Some(reference.familiar()));
    }
    let written = format!("{repository}:{tag}");
    let Ok(name) = Reference::parse(&written) else { return Ok(Some(written)) };
    let Some(found) = locate(&**store, &name).await? else { return Ok(None) };
    if found == *repository {
        return Ok(Some(name.familiar()));
    }
    let own = find_manifest(store, repository, &name.manifest()).await?;
    let other = find_manifest(store, &found, &name.manifest()).await?;
    Ok(own
        .filter(|own| other.is_none_or(|other| other.digest() != own.digest()))
        .map(|own| name.at_digest(own.digest().clone()).familiar()))
}

async fn tags(store: &SharedStore, repository: &RepositoryName) -> Result<Vec<Tag>> {
    match store.all_tags(repository).await {
        // Another process removed it meanwhile.
        Err(e) if e.kind() == ErrorKind::NameUnknown => Ok(Vec::new()),
        other => other,
    }
}

pub(super) async fn find_manifest(
    store: &SharedStore,
    repository: &RepositoryName,
    reference: &ManifestReference,
) -> Result<Option<Manifest>> {
    match store.find_manifest(repository, reference).await {
        Err(e) if e.kind() == ErrorKind::NameUnknown => Ok(None),
        other => other,
    }
}

/// The error for an image that the store does not have.
async fn missing(store: &SharedStore, image: &Reference) -> Result<Error> {
    let name = image.familiar();
    let mut known: Vec<String> = Vec::new();
    for (repository, tag) in names(store).await? {
        known.extend(name_of(store, &repository, &tag).await?);
    }
    let nearest: Vec<String> = nearest(image, &known).iter().map(|name| format!("`{name}`")).collect();
    let mut message = format!("the local store has no image `{name}`");
    if let Some((last, others)) = nearest.split_last() {
        message.push_str(": did you mean ");
        if !others.is_empty() {
            message.push_str(&format!("{} or ", others.join(", ")));
        }
        message.push_str(&format!("{last}?"));
    }
    Ok(Error::new(ErrorKind::ManifestUnknown, message).with_detail(ErrorDetail::NoLocalImage { name }))
}

/// The names that are likely meant: other tags of the repository, the same name at another registry, a typing mistake.
fn nearest<'a>(image: &Reference, known: &'a [String]) -> Vec<&'a str> {
    let parsed = || known.iter().filter_map(|name| Some((name.as_str(), Reference::parse(name).ok()?)));
    let last = |of: &Reference| of.repository().as_str().rsplit('/').next().map(str::to_owned);
    let tags = parsed()
        .filter(|(_, other)| other.host() == image.host() && other.repository() == image.repository());
    let elsewhere = parsed().filter(|(_, other)| last(other) == last(image) && other.tag() == image.tag());
    let mut found: Vec<&str> = Vec::new();
    for (name, _) in tags.chain(elsewhere) {
        if found.len() < SHOWN && !found.contains(&name) {
            found.push(name);
        }
    }
    if found.is_empty() {
        found.extend(suggestion(&image.familiar(), known.iter().map(String::as_str)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_other_tags_other_registries_and_typing_mistakes() {
        let known =
            ["app:1", "app:2", "app:3", "app:4", "r.example/team/tool:1", "base:latest"].map(str::to_owned);
        for (name, expected) in [
            ("app:9", &["app:1", "app:2", "app:3"][..]),
            ("tool:1", &["r.example/team/tool:1"]),
            ("tool:2", &[]),
            ("bsae", &["base:latest"]),
            ("other", &[]),
        ] {
            assert_eq!(nearest(&name.parse().unwrap(), &known), expected, "{name}");
        }
    }
}
