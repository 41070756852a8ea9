//! Gives back the space of images whose names were removed: at once, or when nothing runs any more that may use them.
//!
//! A name that is removed beside running work is noted in `uses/released`, a line for each manifest with the time. What
//! was stored again after that time is not what was removed.

use super::cleanup::{collect_bytes, collect_names};
use super::images::{Manifests, untagged_of};
use crate::clock::{Clock as _, SystemClock};
use crate::reference::RepositoryName;
use crate::solve::blocking;
use crate::store::{RegistryStore, SharedStore};
use crate::uses::Closed;
use crate::{Digest, Result, ResultExt as _};
use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The file with the manifests that were removed by name while they could be in use.
fn released_path(root: &Path) -> PathBuf {
    root.join("uses/released")
}

/// Gives back the space of manifests whose names were removed: now, or when nothing runs any more that may use them.
pub(crate) async fn release(root: &Path, store: &SharedStore, manifests: Manifests) -> Result<()> {
    let path = root.to_owned();
    let closed = blocking(move || Closed::close_blocking(&path)).await?;
    if closed.oldest.is_some() {
        let path = released_path(root);
        let now = SystemClock.now();
        let line = |(name, digest): &(RepositoryName, Digest)| format!("{name} {digest} {now}\n");
        let lines: String = manifests.iter().map(line).collect();
        let file = std::fs::File::options().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(lines.as_bytes()));
        return written.at("cannot note what was removed", &path);
    }
    collect_names(&**store, &closed, manifests, None, i64::MAX).await?;
    drop(closed);
    collect_bytes(&**store, false).await.map(drop)
}

/// Gives back the space of what was removed while it could be in use, if nothing runs any more.
pub(super) async fn release_noted(root: &Path, store: &SharedStore) -> Result<()> {
    let path = released_path(root);
    if !path.exists() {
        return Ok(());
    }
    let root = root.to_owned();
    let closed = blocking(move || Closed::close_blocking(&root)).await?;
    if closed.oldest.is_some() {
        return Ok(());
    }
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text.at("cannot read what was removed", &path)?,
    };
    let noted = noted(&text);
    // While the gate is closed nobody stores but clients of a server, and what they have stored lately stays anyway.
    if let Some(until) = noted.values().max().copied() {
        let doomed = not_stored_again(&**store, &noted).await?;
        collect_names(&**store, &closed, doomed, None, until).await?;
    }
    std::fs::remove_file(&path).at("cannot remove the note of what was removed", &path)?;
    drop(closed);
    collect_bytes(&**store, false).await.map(drop)
}

/// The manifests of a note that were last stored no later than they were removed.
async fn not_stored_again(
    store: &dyn RegistryStore,
    noted: &HashMap<(RepositoryName, Digest), i64>,
) -> Result<Manifests> {
    let repositories = noted.keys().map(|(repository, _)| repository.clone()).collect();
    let untagged = untagged_of(store, repositories).await?.into_iter();
    let doomed =
        untagged.filter(|(manifest, stored_at)| noted.get(manifest).is_some_and(|at| stored_at <= at));
    Ok(doomed.map(|(manifest, _)| manifest).collect())
}

/// The manifests of a note, each with the time of its last removal. A line that a full disk cut short names nothing.
fn noted(text: &str) -> HashMap<(RepositoryName, Digest), i64> {
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let manifest = (RepositoryName::parse(words.next()?).ok()?, Digest::parse(words.next()?).ok()?);
        Some((manifest, words.next()?.parse::<i64>().ok()?))
    };
    let mut last = HashMap::new();
    for (manifest, time) in text.split_inclusive('\n').filter_map(|line| parse(line.strip_suffix('\n')?)) {
        let known = last.entry(manifest).or_insert(time);
        *known = time.max(*known);
    }
    last
}
