//! Manifests and referrers over HTTP.

use super::auth::Access;
use super::errors::Subject;
use super::transport::{Answer, Payload, Request};
use super::{HttpClient, content_digest, content_length, encoding, header, link};
use crate::client::verify::verified_manifest;
use crate::digest::Algorithm;
use crate::oci::{Descriptor, ImageIndex, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _, media_type};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE};

/// The largest manifest that is read.
const MAX_MANIFEST: usize = 16 * 1024 * 1024;
/// The most pages of referrers that are followed.
const MAX_REFERRER_PAGES: usize = 1000;
/// The most referrers of one manifest.
const MAX_REFERRERS: usize = 10_000;

impl HttpClient {
    fn manifest_request(
        &self,
        method: Method,
        repository: &RepositoryName,
        reference: &ManifestReference,
        accept: &'static [u16],
    ) -> Result<Request> {
        let url = self.url(format_args!("{repository}/manifests/{reference}"));
        Request::new(method, url, Access::repository(repository, "pull"), Subject::Manifest, accept)
            .header(ACCEPT, media_type::MANIFESTS.join(", "))
    }

    pub(super) async fn resolve_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Descriptor> {
        let request = self.manifest_request(Method::HEAD, repository, reference, &[200, 405])?;
        let Answer { response, .. } = self.send(request).await?;
        let headers = response.headers();
        let kind = header(headers, "content-type").map(media_type::essence);
        let known = match (kind, content_digest(headers), content_length(headers)) {
            (Some(kind), Some(digest), Some(size))
                if response.status() == 200 && media_type::MANIFESTS.contains(&kind.as_str()) =>
            {
                Descriptor::new(kind, digest, size)
            }
            // What the headers do not say is in the content.
            _ => return Ok(self.fetch_manifest(repository, reference).await?.descriptor()),
        };
        match reference {
            ManifestReference::Digest(asked) if asked != &known.digest => {
                Ok(self.fetch_manifest(repository, reference).await?.descriptor())
            }
            _ => Ok(known),
        }
    }

    pub(super) async fn fetch_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
    ) -> Result<Manifest> {
        let request = self.manifest_request(Method::GET, repository, reference, &[200])?.whole(MAX_MANIFEST);
        let answer = self.send(request).await?;
        let manifest = read_manifest(&answer, reference);
        match encoding(answer.response.headers()) {
            Some(encoding) => manifest.context("content-encoding", encoding),
            None => manifest,
        }
    }

    pub(super) async fn store_manifest(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
        manifest: &Manifest,
    ) -> Result<Descriptor> {
        let manifest = verified_manifest(manifest.clone(), reference)?;
        let answer = self.put_manifest_bytes(repository, reference, &manifest).await?;
        if let Some(subject) = manifest.subject()
            && answer.response.headers().get("oci-subject").is_none()
        {
            self.add_to_fallback(repository, &subject.digest, &manifest).await?;
        }
        Ok(manifest.descriptor())
    }

    async fn put_manifest_bytes(
        &self,
        repository: &RepositoryName,
        reference: &ManifestReference,
        manifest: &Manifest,
    ) -> Result<Answer> {
        let url = self.url(format_args!("{repository}/manifests/{reference}"));
        let access = Access::repository(repository, "pull,push");
        let request = Request::new(Method::PUT, url, access, Subject::Repository, &[200, 201, 202])
            .header(CONTENT_TYPE, manifest.media_type())?
            .payload(Payload::Bytes(manifest.bytes().clone()));
        self.send(request).await
    }

    /// Adds a manifest to the index under the fallback tag of its subject, for a registry that does not do so itself
    /// (distribution-spec, "Pushing Manifests with Subject").
    async fn add_to_fallback(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        manifest: &Manifest,
    ) -> Result<()> {
        let _one_at_a_time = self.inner.fallback.lock().await;
        let tag = ManifestReference::Tag(fallback_tag(subject)?);
        let mut index = self.fallback_index(repository, &tag).await?;
        if index.manifests.iter().any(|d| d.digest == *manifest.digest()) {
            return Ok(());
        }
        let mut descriptor = manifest.descriptor();
        descriptor.artifact_type = manifest.artifact_type().map(str::to_owned);
        descriptor.annotations = manifest.annotations().clone();
        index.manifests.push(descriptor);
        let index = Manifest::parse(index.to_bytes(), media_type::OCI_INDEX)?;
        self.put_manifest_bytes(repository, &tag, &index).await.map(|_| ())
    }

    async fn fallback_index(
        &self,
        repository: &RepositoryName,
        tag: &ManifestReference,
    ) -> Result<ImageIndex> {
        match self.fetch_manifest(repository, tag).await {
            Ok(manifest) => Ok(match manifest.index() {
                Some(index) if manifest.media_type() == media_type::OCI_INDEX => index.clone(),
                _ => ImageIndex::new(Vec::new()),
            }),
            Err(e) if matches!(e.kind(), ErrorKind::ManifestUnknown | ErrorKind::NameUnknown) => {
                Ok(ImageIndex::new(Vec::new()))
            }
            Err(e) => Err(e),
        }
    }

    pub(super) async fn referrers(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let mut found = match self.referrer_pages(repository, digest, artifact_type).await? {
            Some(found) => found,
            None => {
                let tag = ManifestReference::Tag(fallback_tag(digest)?);
                self.fallback_index(repository, &tag).await?.manifests
            }
        };
        if let Some(wanted) = artifact_type {
            found.retain(|d| d.artifact_type.as_deref() == Some(wanted));
        }
        Ok(found)
    }

    /// The pages of the referrers API, or `None` when the registry has none.
    async fn referrer_pages(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Descriptor>>> {
        let mut url = self.url(format_args!("{repository}/referrers/{digest}"));
        if let Some(wanted) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let mut found = Vec::new();
        for _ in 0..MAX_REFERRER_PAGES {
            let access = Access::repository(repository, "pull");
            let request = Request::new(Method::GET, url, access, Subject::Manifest, &[200, 404, 405, 501])
                .header(ACCEPT, media_type::OCI_INDEX)?
                .whole(MAX_MANIFEST);
            let answer = self.send(request).await?;
            if answer.response.status() != 200 {
                return Ok(None);
            }
            // Some registries answer any path with a page for browsers.
            let kind = header(answer.response.headers(), "content-type").map(media_type::essence);
            if kind.as_deref().is_some_and(|k| k.starts_with("text/html")) {
                return Ok(None);
            }
            let next = link::next_link(answer.response.headers());
            let page: ImageIndex = serde_json::from_slice(&answer.content).map_err(|e| {
                Error::new(ErrorKind::ManifestInvalid, "the list of referrers is not an index").with_source(e)
            })?;
            found.extend(page.manifests);
            if found.len() > MAX_REFERRERS {
                return Err(Error::new(ErrorKind::TooLarge, "the list of referrers is too long")
                    .with_context("limit", MAX_REFERRERS));
            }
            match next {
                Some(next) => url = super::listings::resolve_next(&answer.url, &next)?,
                None => return Ok(Some(found)),
            }
        }
        Err(Error::new(ErrorKind::TooLarge, "the list of referrers has too many pages"))
    }
}

/// The manifest of an answer, checked against its digest.
fn read_manifest(answer: &Answer, reference: &ManifestReference) -> Result<Manifest> {
    let (headers, bytes) = (answer.response.headers(), answer.content.clone());
    let kind = header(headers, "content-type").map(media_type::essence);
    let said = content_digest(headers);
    let expected = match reference {
        ManifestReference::Digest(digest) => Some(digest.clone()),
        ManifestReference::Tag(_) => said,
    };
    if let Some(expected) = &expected {
        let got = expected.algorithm().digest(&bytes);
        if got != *expected {
            return Err(Error::new(ErrorKind::DigestInvalid, "the manifest does not match its digest")
                .with_context("expected", expected)
                .with_context("got", got));
        }
    }
    let manifest = match kind.as_deref() {
        None | Some("" | "application/json" | "text/plain" | "application/octet-stream") => {
            Manifest::sniff(bytes)?
        }
        Some(kind) => Manifest::parse(bytes, kind)?,
    };
    match &expected {
        Some(digest) => manifest.with_digest(digest),
        None => Ok(manifest),
    }
}

/// The tag under which referrers are listed where there is no API for them: `sha256-HEX`, cut to the length of a tag.
fn fallback_tag(digest: &Digest) -> Result<Tag> {
    let hex = &digest.hex()[..digest.hex().len().min(64)];
    Tag::parse(&format!("{}-{hex}", Algorithm::name(digest.algorithm())))
}
