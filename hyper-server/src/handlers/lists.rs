//! Lists: tags, repositories, referrers, extensions (end-8, end-12, `_catalog`, `_oci/ext/discover`).

use super::{Outcome, json, set};
use crate::call::Call;
use axum::response::Response;
use http::header::{self, HeaderName, HeaderValue};
use hyper_sdk::clock::rfc3339;
use hyper_sdk::oci::{Descriptor, ImageIndex};
use hyper_sdk::reference::ManifestReference;
use hyper_sdk::store::Page;
use hyper_sdk::store::meta::TagRecord;
use hyper_sdk::{Digest, ErrorKind, RepositoryName, Tag, media_type};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};

static FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// The most bytes of descriptors in one list of referrers: the size that clients accept for a manifest.
const REFERRERS_BYTES: usize = (4 << 20) - (64 << 10);

/// The most entries of a fallback tag that are read.
const FALLBACK_ENTRIES: usize = 1000;

/// The most repositories that one query of the catalog reads. Where most of them are hidden from the caller, each query
/// reads [`CATALOG_GROWTH`] times as many as the one before, so that the number of queries does not depend on the page.
const CATALOG_BATCH: usize = 10_000;
const CATALOG_GROWTH: usize = 8;

#[derive(Serialize)]
struct TagList<'a> {
    name: &'a str,
    tags: &'a [Tag],
}

#[derive(Serialize)]
struct RepositoryList<'a> {
    repositories: &'a [RepositoryName],
}

pub(super) async fn tags(call: &Call<'_>, repository: &RepositoryName, page: Page) -> Outcome {
    let limit = page.limit.unwrap_or(usize::MAX).min(call.options.limits.page_entries);
    // With `n=0` the client checks only whether the repository exists.
    let asked = Page { limit: Some(limit.max(1)), after: page.after };
    let mut listing = call.store.list_tags(repository, asked).await?;
    listing.items.truncate(limit);
    let body = serde_json::to_vec(&TagList { name: repository.as_str(), tags: &listing.items });
    let mut response = json(body.map_err(unserialisable)?);
    if let Some(last) = listing.items.last().filter(|_| listing.more) {
        link_next(
            &mut response,
            &format!("/v2/{repository}/tags/list?n={limit}&last={}", encode(last.as_str())),
        );
    }
    Ok(response)
}

/// The tags with their manifests, and with when they were last pushed and pulled.
pub(super) async fn tag_records(call: &Call<'_>, repository: &RepositoryName, page: Page) -> Outcome {
    let limit = page.limit.unwrap_or(usize::MAX).min(call.options.limits.page_entries);
    let asked = Page { limit: Some(limit.max(1)), after: page.after };
    let mut listing = call.store.list_tag_records(repository, asked).await?;
    listing.items.truncate(limit);
    let entry = |record: &TagRecord| {
        json!({
            "tag": record.tag,
            "digest": record.digest,
            "pushed": rfc3339(record.pushed_at),
            "pulled": record.pulled_at.map(rfc3339),
        })
    };
    let tags: Vec<Value> = listing.items.iter().map(entry).collect();
    let mut response = json(json!({ "name": repository, "tags": tags }).to_string().into_bytes());
    if let Some(last) = listing.items.last().filter(|_| listing.more) {
        let last = encode(last.tag.as_str());
        link_next(&mut response, &format!("/v2/{repository}/_hyper/tags?n={limit}&last={last}"));
    }
    Ok(response)
}

pub(super) async fn catalog(call: &Call<'_>, page: Page) -> Outcome {
    let limit = page.limit.unwrap_or(usize::MAX).min(call.options.limits.page_entries);
    // A page and its link name only what the caller may see: batches are read until the page is full and one more
    // repository is known, which says that there is a next page.
    let (mut visible, mut after, mut more) = (Vec::new(), page.after, limit > 0);
    let mut batch = limit.saturating_add(1);
    while more && visible.len() <= limit {
        let listing = call.store.list_repositories(Page { limit: Some(batch), after }).await?;
        after = listing.items.last().map(|last| last.as_str().to_owned());
        more = listing.more && after.is_some();
        let missing = limit.saturating_add(1) - visible.len();
        visible
            .extend(listing.items.into_iter().filter(|repository| call.can_list(repository)).take(missing));
        batch = batch.saturating_mul(CATALOG_GROWTH).min(CATALOG_BATCH.max(batch));
    }
    let more = visible.len() > limit;
    visible.truncate(limit);
    let body = serde_json::to_vec(&RepositoryList { repositories: &visible });
    let mut response = json(body.map_err(unserialisable)?);
    if let Some(last) = visible.last().filter(|_| more) {
        link_next(&mut response, &format!("/v2/_catalog?n={limit}&last={}", encode(last.as_str())));
    }
    Ok(response)
}

pub(super) async fn referrers(
    call: &Call<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    artifact_type: Option<&str>,
    after: Option<&Digest>,
) -> Outcome {
    let mut descriptors = match call.store.list_referrers(repository, digest, artifact_type).await {
        Ok(descriptors) => descriptors,
        Err(e) if e.kind() == ErrorKind::NameUnknown => Vec::new(),
        Err(e) => return Err(e.into()),
    };
    add_fallback(call, repository, digest, artifact_type, &mut descriptors).await?;
    if let Some(at) = after.and_then(|last| descriptors.iter().position(|d| d.digest == *last)) {
        descriptors.drain(..=at);
    }
    let mut bytes = 0;
    let mut fits = 0;
    for descriptor in &descriptors {
        bytes += serde_json::to_vec(descriptor).map_err(unserialisable)?.len() + 1;
        if bytes > REFERRERS_BYTES && fits > 0 {
            break;
        }
        fits += 1;
    }
    let more = fits < descriptors.len();
    descriptors.truncate(fits);
    let last = descriptors.last().map(|d| d.digest.clone());
    let mut response = json(ImageIndex::new(descriptors).to_bytes());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type::OCI_INDEX));
    if artifact_type.is_some() {
        headers.insert(FILTERS_APPLIED.clone(), HeaderValue::from_static("artifactType"));
    }
    if let Some(last) = last.filter(|_| more) {
        let filter = artifact_type.map(|t| format!("&artifactType={}", encode(t))).unwrap_or_default();
        link_next(
            &mut response,
            &format!("/v2/{repository}/referrers/{digest}?last={}{filter}", encode(last.as_str())),
        );
    }
    Ok(response)
}

/// Adds the referrers that are listed under the tag `ALGORITHM-HEX` and exist. Clients of registries without a
/// referrers API write this tag (distribution-spec, "Enabling the Referrers API").
async fn add_fallback(
    call: &Call<'_>,
    repository: &RepositoryName,
    digest: &Digest,
    artifact_type: Option<&str>,
    descriptors: &mut Vec<Descriptor>,
) -> Result<(), crate::error::ApiError> {
    let hex = digest.hex();
    let Ok(tag) = Tag::parse(&format!("{}-{}", digest.algorithm(), &hex[..hex.len().min(64)])) else {
        return Ok(());
    };
    let manifest = match call.store.get_manifest(repository, &tag.into()).await {
        Ok(manifest) => manifest,
        Err(e) if matches!(e.kind(), ErrorKind::ManifestUnknown | ErrorKind::NameUnknown) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let noted = manifest.index().map(|i| i.manifests.as_slice()).unwrap_or_default();
    for descriptor in noted.iter().take(FALLBACK_ENTRIES) {
        let wanted = artifact_type.is_none_or(|t| descriptor.artifact_type.as_deref() == Some(t));
        if !wanted || descriptors.iter().any(|d| d.digest == descriptor.digest) {
            continue;
        }
        match call.store.get_manifest(repository, &ManifestReference::Digest(descriptor.digest.clone())).await
        {
            Ok(_) => descriptors.push(descriptor.clone()),
            Err(e) if e.kind() == ErrorKind::ManifestUnknown => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Extensions {
    extensions: Vec<Extension>,
}

#[derive(Serialize)]
struct Extension {
    name: &'static str,
    description: &'static str,
    url: &'static str,
    endpoints: Vec<String>,
}

/// The extensions of the registry, or of one repository (distribution-spec, extensions/README.md).
pub(super) fn extensions(call: &Call<'_>, repository: Option<&RepositoryName>) -> Response {
    let root = call.options.path_prefix.as_ref().map(ToString::to_string).unwrap_or_default();
    let prefix = repository.map_or_else(|| format!("{root}/v2"), |r| format!("{root}/v2/{r}"));
    let mut extensions = vec![Extension {
        name: "_oci",
        description: "Discovery of extensions",
        url: "https://github.com/opencontainers/distribution-spec/blob/main/extensions/_oci.md",
        endpoints: vec![format!("{prefix}/_oci/ext/discover")],
    }];
    if repository.is_none() {
        extensions.push(Extension {
            name: "_catalog",
            description: "The list of repositories",
            url: "https://distribution.github.io/distribution/spec/api/#catalog",
            endpoints: vec![format!("{root}/v2/_catalog")],
        });
    }
    let has_events = call.options.events.is_some();
    let own = match repository {
        None => vec![has_events.then(|| format!("{root}/v2/_hyper/events"))],
        Some(_) => vec![
            Some(format!("{prefix}/_hyper/tags")),
            Some(format!("{prefix}/_hyper/deleted")),
            has_events.then(|| format!("{prefix}/_hyper/tags/TAG/history")),
        ],
    };
    let endpoints: Vec<String> = own.into_iter().flatten().collect();
    if !endpoints.is_empty() {
        extensions.push(Extension {
            name: "_hyper",
            description: "Events of the registry, and its tags: when they were pushed and pulled, what they have named, and what was deleted",
            url: "https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md",
            endpoints,
        });
    }
    json(serde_json::to_vec(&Extensions { extensions }).expect("strings always serialise"))
}

fn link_next(response: &mut Response, target: &str) {
    set(response, header::LINK, &format!("<{target}>; rel=\"next\""));
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn unserialisable(e: serde_json::Error) -> hyper_sdk::Error {
    hyper_sdk::Error::internal("a list cannot be written as JSON").with_source(e)
}
