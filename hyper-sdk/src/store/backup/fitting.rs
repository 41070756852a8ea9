//! Whether the rows of a snapshot fit each other, as the tables of a store demand it.
//!
//! A store takes a list of rows exactly when each fits those before it. Memory: some bytes for each row, without its content.

use crate::Digest;
use crate::store::meta::{MAX_NUMBER, ManifestRow, Row};
use std::collections::{HashMap, HashSet};

/// The rows so far.
#[derive(Debug, Default)]
pub(super) struct Fitting {
    blobs: HashSet<u128>,
    repositories: HashSet<i64>,
    /// The repository of each manifest.
    manifests: HashMap<i64, i64>,
    /// What no two rows may have.
    names: HashSet<u128>,
}

impl Fitting {
    /// Why a row does not fit those before it, if so.
    pub(super) fn fault(&self, row: &Row) -> Option<String> {
        let lacks = |repository: &i64| {
            let is_lost = !self.repositories.contains(repository);
            is_lost.then(|| format!("its repository, number {repository}, is missing"))
        };
        let is_wrong = |number: &i64| {
            let is_wrong = !(1..=MAX_NUMBER).contains(number);
            is_wrong.then(|| "its number is out of range".to_owned())
        };
        let twice = || "it comes twice".to_owned();
        let fault = match row {
            Row::Repository(row) => {
                is_wrong(&row.number).or_else(|| self.repositories.contains(&row.number).then(twice))
            }
            Row::Link(row) => lacks(&row.repository).or_else(|| {
                (!self.blobs.contains(&part(&row.blob))).then(|| "the row of the blob is missing".to_owned())
            }),
            Row::Manifest(row) => is_wrong(&row.number)
                .or_else(|| lacks(&row.repository))
                .or_else(|| self.manifests.contains_key(&row.number).then(twice))
                .or_else(|| names_twice(row).then(|| "it names something twice".to_owned())),
            Row::Tag(row) => lacks(&row.repository).or_else(|| {
                let is_lost = self.manifests.get(&row.manifest) != Some(&row.repository);
                is_lost.then(|| "its manifest is missing".to_owned())
            }),
            Row::Blob(_) | Row::Token(_) | Row::Damaged(_) => None,
        };
        fault.or_else(|| name(row).is_some_and(|name| self.names.contains(&name)).then(twice))
    }

    /// Whether a repository has a blob.
    pub(super) fn is_linked(&self, repository: i64, blob: &Digest) -> bool {
        self.names.contains(&part(&Digest::sha256(link(repository, blob))))
    }

    /// Takes a row that fits.
    pub(super) fn add(&mut self, row: &Row) {
        match row {
            Row::Blob(row) => {
                self.blobs.insert(part(&row.digest));
            }
            Row::Repository(row) => {
                self.repositories.insert(row.number);
            }
            Row::Manifest(row) => {
                self.manifests.insert(row.number, row.repository);
            }
            _ => {}
        }
        self.names.extend(name(row));
    }
}

/// A part of a digest, so that many take little memory. Two blobs with one part look like one.
pub(super) fn part(digest: &Digest) -> u128 {
    u128::from_str_radix(&digest.hex()[..32], 16).unwrap_or_default()
}

/// What a row is, for people.
pub(super) fn name_of(row: &Row) -> String {
    match row {
        Row::Blob(row) => format!("blob {}", row.digest),
        Row::Repository(row) => format!("repository {}", row.name),
        Row::Link(row) => format!("link of blob {}", row.blob),
        Row::Manifest(row) => format!("manifest {}", row.digest),
        Row::Tag(row) => format!("tag {}", row.name),
        Row::Token(row) => format!("token {}", row.id),
        Row::Damaged(row) => row.reason.clone(),
    }
}

fn names_twice(row: &ManifestRow) -> bool {
    [&row.blobs, &row.manifests].iter().any(|digests| {
        let mut seen = HashSet::new();
        !digests.iter().all(|digest| seen.insert(digest))
    })
}

fn link(repository: i64, blob: &Digest) -> String {
    format!("link {repository} {blob}")
}

/// What no other row may have.
fn name(row: &Row) -> Option<u128> {
    let text = match row {
        Row::Repository(row) => format!("repository {}", row.name),
        Row::Link(row) => link(row.repository, &row.blob),
        Row::Manifest(row) => format!("manifest {} {}", row.repository, row.digest),
        Row::Tag(row) => format!("tag {} {}", row.repository, row.name),
        Row::Token(row) => format!("token {}", row.id),
        Row::Blob(_) | Row::Damaged(_) => return None,
    };
    Some(part(&Digest::sha256(text)))
}
