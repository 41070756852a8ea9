//! The names of images in a local store: a repository is `HOST/REPOSITORY`.
//!
//! ```text
//!   docker.io/library/busybox:1.36  <->  repository docker.io/library/busybox        tag 1.36
//!   localhost:5000/app:latest       <->  repository localhost__5000/app              tag latest
//! ```
//!
//! A repository name has no place for the `:` of a port, so it is written `__`, which no host contains. The mapping is
//! a bijection on its domain: names that could not be read back to the same image are refused.

use crate::reference::{RegistryHost, RepositoryName};
use crate::{Digest, Error, Reference, Result, Tag};

const PORT: &str = "__";

/// Names the repository of a local store that keeps the image of a reference.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`] when the host is an IPv6 address or a bare word with upper-case letters, which a
/// repository name cannot express, and [`crate::ErrorKind::NameInvalid`] when the two together are too long.
pub fn local_repository(reference: &Reference) -> Result<RepositoryName> {
    let host = reference.host().as_str().to_ascii_lowercase();
    if host.starts_with('[') || !is_host(&host) {
        return Err(Error::unsupported(
            "images of this registry host cannot be named in the local store: give the host as a name or an IPv4 address with a dot or a port",
        )
        .with_context("host", reference.host()));
    }
    RepositoryName::parse(&format!("{}/{}", host.replacen(':', PORT, 1), reference.repository()))
}

/// Gives back the reference that a local repository is named after, with this tag and digest.
///
/// `None` when the repository is not named after a reference: it was pushed by its bare name to a server of the store.
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
    if !is_host(&host) {
        return None;
    }
    let host = RegistryHost::parse(&host).ok()?;
    Some(Reference::new(host, RepositoryName::parse(rest).ok()?, tag, digest))
}

/// Whether [`Reference::parse`] takes this lower-case first component for a host.
fn is_host(host: &str) -> bool {
    host.contains(['.', ':']) || host == "localhost"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
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
        ] {
            let (name, back) = round_trip(text);
            assert_eq!(name, repository);
            assert_eq!(back, Reference::parse(text).unwrap().to_string());
        }
    }

    #[test]
    fn what_cannot_be_read_back_is_refused() {
        for text in ["[::1]:5000/app", "HOST/app"] {
            let e = local_repository(&Reference::parse(text).unwrap()).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Unsupported, "{text}");
        }
    }

    #[test]
    fn bare_names_are_of_no_host() {
        for name in ["app", "team/app", "a__b/c"] {
            assert_eq!(local_reference(&RepositoryName::parse(name).unwrap(), None, None), None, "{name}");
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
