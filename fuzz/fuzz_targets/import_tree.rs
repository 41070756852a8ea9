//! Links and indexes of the storage folders of other registries never panic, and no digest leads out of a folder.
#![no_main]

use hyper_sdk::RepositoryName;
use hyper_sdk::import::{ImportRoot, LayoutIndex, digest_of_link};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(digest) = digest_of_link(bytes) {
        assert!(digest.hex().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    let Ok(index) = LayoutIndex::parse(bytes) else { return };
    let name = RepositoryName::parse("team/app").ok();
    for repository in [None, name.as_ref()] {
        let mut tags = std::collections::HashMap::new();
        for root in index.roots(repository) {
            let manifest = match root {
                Ok(ImportRoot::Tag(tag, manifest)) => {
                    let digest = manifest.as_ref().map(|manifest| manifest.digest.clone());
                    assert_eq!(tags.entry(tag).or_insert_with(|| digest.clone()), &digest);
                    manifest
                }
                Ok(ImportRoot::Manifest(manifest)) => Some(manifest),
                Err(_) => None,
            };
            if let Some(manifest) = manifest {
                assert!(manifest.digest.hex().bytes().all(|byte| byte.is_ascii_hexdigit()));
            }
        }
    }
});
