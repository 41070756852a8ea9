//! The names of images in a local store: a repository is `HOST/REPOSITORY`.
//!
//! ```text
//!   docker.io/library/busybox:1.36  <->  repository docker.io/library/busybox        tag 1.36
//!   localhost:5000/app:latest       <->  repository localhost__5000/app              tag latest
//!   [::1]:5000/app:latest           <->  repository ip6_0-0-0-0-0-0-0-1__5000/app    tag latest
//! ```
//!
//! A repository name cannot contain the `:` of a port, so it is written `__`, which no host contains. An IPv6 address
//! is written as its eight numbers after `ip6_`, with which no host begins. The mapping is reversible: a reference
//! whose name would not map back to the same image is rejected. All spellings of an IPv6 address, like the upper-case
//! and lower-case spellings of a host, have the same name.

use super::RegistryStore;
use crate::reference::{DEFAULT_HOST, RegistryHost, RepositoryName};
use crate::{Digest, Error, ErrorKind, Reference, Result, Tag};
use std::net::Ipv6Addr;

const PORT: &str = "__";
const IPV6: &str = "ip6_";

/// The repository of a local store for the image of a reference.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] when the host is a single word with upper-case letters, which a repository name
/// cannot contain, and [`crate::ErrorKind::NameInvalid`] when host and repository together are too long.
pub fn local_repository(reference: &Reference) -> Result<RepositoryName> {
    let mut host = reference.host().as_str().to_ascii_lowercase();
    if let Some((address, port)) = host.strip_prefix('[').and_then(|h| h.split_once(']'))
        && let Ok(address) = address.parse::<Ipv6Addr>()
    {
        let numbers = address.segments().map(|n| format!("{n:x}")).join("-");
        host = format!("{IPV6}{numbers}{port}");
    } else if !is_host(&host) {
        return Err(Error::unsupported(
            "the local store has no repository name for this registry host: write the host with a dot or a port",
        )
        .with_context("host", reference.host())
        .with_registry(reference.host()));
    }
    RepositoryName::parse(&format!("{}/{}", host.replacen(':', PORT, 1), reference.repository()))
}

/// The prefix of the internal repositories of a builder.
const INTERNAL: &str = "hyper.local/";

/// The prefix of the builder's own repositories of base images.
#[cfg(feature = "client")]
const BASES: &str = "hyper.local/bases/";

/// Whether a repository of a local store is the builder's own repository of a base image.
#[cfg(feature = "build")]
pub(crate) fn is_of_bases(repository: &RepositoryName) -> bool {
    repository.as_str().starts_with(BASES)
}

/// Whether the links of a repository are kept by records of the build cache: those of steps, of sources, and of layers of
/// image layouts, whose manifests are not in the store. The layers of other base images are kept by their manifests.
#[cfg(feature = "build")]
pub(crate) fn is_of_records(repository: &RepositoryName) -> bool {
    is_internal(repository) && !is_of_bases(repository)
}

/// Whether a repository of a local store is internal to a builder: for the layers of cached steps, and for base images that
/// the user did not pull. It is not an image of the user.
pub fn is_internal(repository: &RepositoryName) -> bool {
    repository.as_str().starts_with(INTERNAL)
}

/// The repository of a local store where a builder keeps the parts of an image that its builds have needed. Its
/// manifests may be stored without their layers.
///
/// # Errors
/// Those of [`local_repository`].
#[cfg(feature = "build")]
pub(crate) fn base_repository(reference: &Reference) -> Result<RepositoryName> {
    let local = local_repository(reference)?;
    RepositoryName::parse(&format!("{BASES}{local}"))
        .or_else(|_| RepositoryName::parse(&format!("{BASES}{}", Digest::sha256(local.as_str()).hex())))
}

/// The prefixes of the repositories of a local store that may have blobs of a registry, from the prefix of that
/// registry's repositories.
#[cfg(feature = "client")]
pub(crate) fn prefixes(local: &str) -> [String; 2] {
    [local.to_owned(), format!("{BASES}{local}")]
}

/// The reference of a local repository, with this tag and digest.
///
/// `None` when the name has no host: the repository was pushed by its short name to a server of the store.
pub fn local_reference(
    repository: &RepositoryName,
    tag: Option<Tag>,
    digest: Option<Digest>,
) -> Option<Reference> {
    let (first, rest) = repository.as_str().split_once('/')?;
    let host = match first.rsplit_once(PORT) {
        Some((host, port)) => format!("{host}:{port}"),
        None => first.to_owned(),
    };
    let host = match host.strip_prefix(IPV6) {
        Some(rest) => bracketed(rest)?,
        None => host,
    };
    if !is_host(&host) {
        return None;
    }
    let host = RegistryHost::parse(&host).ok()?;
    Some(Reference::new(host, RepositoryName::parse(rest).ok()?, tag, digest))
}

/// The repository of a local store that has the image of a reference: the repository with the host in its name or, when
/// that does not have the image, the one that was pushed by its short name to a server of the store. The first one when
/// neither has it.
///
/// # Errors
/// Those of [`local_repository`] and of the store.
pub async fn find_local(store: &dyn RegistryStore, reference: &Reference) -> Result<RepositoryName> {
    match locate(store, reference).await? {
        Some(found) => Ok(found),
        None => local_repository(reference),
    }
}

/// Like [`find_local`]; `None` when no repository has the image.
///
/// # Errors
/// Those of [`find_local`].
pub(crate) async fn locate(
    store: &dyn RegistryStore,
    reference: &Reference,
) -> Result<Option<RepositoryName>> {
    let named = local_repository(reference)?;
    let wanted = reference.manifest();
    let full = reference.repository();
    let short = full.as_str().strip_prefix("library/").and_then(|name| RepositoryName::parse(name).ok());
    let bare = short.iter().chain([full]).filter(|name| {
        reference.host().as_str() == DEFAULT_HOST && local_reference(name, None, None).is_none()
    });
    for name in std::iter::once(&named).chain(bare) {
        match store.get_manifest(name, &wanted).await {
            Ok(_) => return Ok(Some(name.clone())),
            Err(e) if matches!(e.kind(), ErrorKind::ManifestUnknown | ErrorKind::NameUnknown) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// The name of a repository for messages: with the host in its usual form, when it is a repository of a local store.
pub(crate) fn shown(repository: &RepositoryName) -> String {
    let host = repository.as_str().split('/').next().unwrap_or_default();
    match local_reference(repository, None, None) {
        Some(reference) if host.contains(PORT) || host.starts_with(IPV6) => {
            format!("{}/{}", reference.host(), reference.repository())
        }
        _ => repository.to_string(),
    }
}

/// `[::1]:5000` of `0-0-0-0-0-0-0-1:5000`.
fn bracketed(numbers: &str) -> Option<String> {
    let (numbers, port) = match numbers.split_once(':') {
        Some((numbers, port)) => (numbers, format!(":{port}")),
        None => (numbers, String::new()),
    };
    let number = |text: &str| {
        let number = u16::from_str_radix(text, 16).ok()?;
        (format!("{number:x}") == text).then_some(number)
    };
    let all = numbers.split('-').map(number).collect::<Option<Vec<_>>>()?;
    let address = Ipv6Addr::from(<[u16; 8]>::try_from(all).ok()?);
    Some(format!("[{address}]{port}"))
}

/// Whether [`Reference::parse`] parses this lower-case first component as a host.
fn is_host(host: &str) -> bool {
    host.contains(['.', ':']) || host == "localhost"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{ImageIndex, Manifest};
    use crate::store::{MemoryStore, PutManifest};
    use proptest::prelude::*;

    fn round_trip(text: &str) -> (String, String) {
        let reference = Reference::parse(text).unwrap();
        let repository = local_repository(&reference).unwrap();
        let back =
            local_reference(&repository, reference.tag().cloned(), reference.digest().cloned()).unwrap();
        (repository.to_string(), back.to_string())
    }

    #[test]
    fn a_port_is_written_with_two_underscores() {
        for (text, repository) in [
            ("busybox", "docker.io/library/busybox"),
            ("localhost:5000/app:1", "localhost__5000/app"),
            ("localhost/app", "localhost/app"),
            ("127.0.0.1:80/a/b__c:x", "127.0.0.1__80/a/b__c"),
            ("quay.io/a-b/c.d", "quay.io/a-b/c.d"),
            ("[::1]:5000/app:1", "ip6_0-0-0-0-0-0-0-1__5000/app"),
            ("[2001:db8::ff]/app", "ip6_2001-db8-0-0-0-0-0-ff/app"),
        ] {
            let (name, back) = round_trip(text);
            assert_eq!(name, repository);
            assert_eq!(back, Reference::parse(text).unwrap().to_string());
        }
    }

    #[test]
    fn an_ambiguous_name_is_rejected() {
        let e = local_repository(&Reference::parse("HOST/app").unwrap()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn short_names_have_no_host() {
        for name in ["app", "team/app", "a__b/c", "ip6_1/app", "ip6_0-0-0-0-0-0-0-01/app"] {
            assert_eq!(local_reference(&RepositoryName::parse(name).unwrap(), None, None), None, "{name}");
        }
    }

    #[test]
    fn names_are_shown_as_they_were_written() {
        for (repository, text) in [
            ("localhost__9999/none", "localhost:9999/none"),
            ("ip6_0-0-0-0-0-0-0-1__5000/a/b", "[::1]:5000/a/b"),
            ("docker.io/library/a", "docker.io/library/a"),
            ("a/b__5/c", "a/b__5/c"),
            ("app", "app"),
        ] {
            assert_eq!(shown(&RepositoryName::parse(repository).unwrap()), text);
        }
    }

    #[tokio::test]
    async fn an_image_that_was_pushed_by_its_bare_name_is_found() {
        let store = MemoryStore::default();
        let image = Manifest::sniff(ImageIndex::new(vec![]).to_bytes()).unwrap();
        let put = async |name: &str, tag: &str| {
            let put = PutManifest::new(image.clone(), [Tag::parse(tag).unwrap()]);
            store.put_manifest(&RepositoryName::parse(name).unwrap(), put).await.unwrap();
        };
        put("foo", "1").await;
        put("team/foo", "1").await;
        put("docker.io/library/foo", "2").await;
        put("r.example/foo", "1").await;
        for (text, repository) in [
            ("foo:1", "foo"),
            ("foo:2", "docker.io/library/foo"),
            ("foo:3", "docker.io/library/foo"),
            ("team/foo:1", "team/foo"),
            ("r.example/foo:1", "r.example/foo"),
            ("r.example/team/foo:1", "r.example/team/foo"),
        ] {
            let found = find_local(&store, &Reference::parse(text).unwrap()).await.unwrap();
            assert_eq!(found.as_str(), repository, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_local_name_reads_back(
            host in "[a-z][a-z0-9]{0,5}(-[a-z0-9]{1,3})?(\\.[a-z]{2,4})?:[1-9][0-9]{0,3}",
            repository in "[a-z0-9]{1,5}((_|__|\\.|-)[a-z0-9]{1,5})?(/[a-z0-9]{1,5}){0,2}",
        ) {
            let text = format!("{host}/{repository}:t");
            prop_assert_eq!(round_trip(&text).1, Reference::parse(&text).unwrap().to_string());
        }
    }
}
