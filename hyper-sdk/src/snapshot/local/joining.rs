//! The list of folders that show a chain, kept short by joins.

use super::{Garbage, LocalSnapshotter, MAX_DEPTH, Style};
use crate::sandbox::{Reply, Request};
use crate::snapshot::folders::{MAX_LEVEL, Piece};
use crate::{Digest, Error, Result};
use std::path::PathBuf;

/// How many folders of one level are joined.
const JOINED: usize = 16;
/// From how many folders on they are joined whatever they have in them.
const MOST: usize = 400;
/// How many files a snapshot may have to be joined. A join of large ones would cost more than it saves.
const FILES: usize = 512;

/// The next join: how many of the topmost pieces, its level, and how many files each may have.
fn next_join(pieces: &[Piece], is_large: impl Fn(&Piece) -> bool) -> Option<(usize, u32, usize)> {
    let level = pieces.first()?.level;
    let same = pieces.iter().take_while(|piece| piece.level == level && !is_large(piece)).count();
    if same >= JOINED && level < MAX_LEVEL {
        return Some((same, level + 1, FILES << (4 * level)));
    }
    let highest = pieces.iter().map(|piece| piece.level).max()?;
    (pieces.len() >= MOST && highest < MAX_LEVEL).then_some((pieces.len(), highest + 1, usize::MAX))
}

impl LocalSnapshotter {
    /// The folders that show a chain, topmost first. A long list is made shorter first.
    pub(super) async fn lowers(&self, chain: Option<&Digest>) -> Result<Vec<PathBuf>> {
        let folders = &self.0.folders;
        let mut pieces = folders.pieces(chain)?;
        if self.0.kind.style == Style::Overlay && pieces.len() >= JOINED {
            let mut large = self.0.large.lock().await;
            pieces = folders.pieces(chain)?;
            while let Some((count, level, limit)) = next_join(&pieces, |piece| large.contains(&piece.files)) {
                match self.join(&pieces, count, level, limit).await {
                    Ok(None) => {}
                    Ok(Some(at)) => {
                        large.insert(pieces[at].files.clone());
                    }
                    // The folders can be mounted as they are.
                    Err(_) if pieces.len() < MAX_DEPTH => break,
                    Err(e) => return Err(e),
                }
                pieces = folders.pieces(chain)?;
            }
        }
        if self.0.kind.style == Style::Overlay && pieces.len() >= MAX_DEPTH {
            return Err(Error::unsupported(format!(
                "the image has {} layers, and at most {MAX_DEPTH} can be mounted: join some of them",
                pieces.len()
            )));
        }
        Ok(pieces.into_iter().map(|piece| piece.files).collect())
    }

    /// Joins the topmost `count` pieces. Returns the number of one that is too large.
    async fn join(&self, pieces: &[Piece], count: usize, level: u32, limit: usize) -> Result<Option<usize>> {
        let (run, rest) = pieces.split_at(count);
        let (Some(top), Some(lowest)) = (run.first(), run.last()) else { return Ok(None) };
        let files = |pieces: &[Piece]| pieces.iter().map(|piece| piece.files.clone()).collect();
        // What is not committed is removed, also when the future is dropped.
        let mut active = self.empty_active(None)?;
        let target = active.folder.join("fs");
        let request = Request::Join { run: files(run), rest: files(rest), target, limit };
        let made = match self.0.sandbox.call(request).await {
            Ok(Reply::Joined(large)) => Ok(large),
            Ok(_) => Err(Error::internal("the sandbox helper sent a reply of the wrong kind")),
            Err(e) => Err(e),
        };
        if !matches!(made, Ok(None)) {
            return made;
        }
        // An overlay needs it, a join does not.
        std::fs::remove_dir(active.folder.join("work")).ok();
        let Some(claim) = active.claim.take() else {
            return Err(Error::internal("a join was committed twice"));
        };
        if let Some(spare) = self.0.folders.commit_join(claim, &top.top, lowest.below.as_ref(), level)? {
            self.0.remove_later(Garbage::Removed(spare));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn pieces(levels: &[u32]) -> Vec<Piece> {
        let piece = |(at, level): (usize, &u32)| Piece {
            files: PathBuf::from(at.to_string()),
            level: *level,
            top: Digest::sha256(at.to_string()),
            below: None,
        };
        levels.iter().enumerate().map(piece).collect()
    }

    #[test]
    fn a_growing_chain_has_few_folders_and_each_layer_is_joined_a_few_times() {
        // Levels, lowest first, and how many layers each has.
        let (mut list, mut linked): (Vec<(u32, usize)>, usize) = (Vec::new(), 0);
        for depth in 1..=5000 {
            list.push((0, 1));
            let levels =
                |list: &[(u32, usize)]| list.iter().rev().map(|(level, _)| *level).collect::<Vec<_>>();
            while let Some((count, level, _)) = next_join(&pieces(&levels(&list)), |_| false) {
                let run = list.split_off(list.len() - count);
                let layers = run.iter().map(|(_, layers)| layers).sum();
                linked += layers;
                list.push((level, layers));
            }
            assert!(list.len() <= 4 * JOINED, "{} folders at {depth}", list.len());
        }
        assert_eq!(list.iter().map(|(_, layers)| layers).sum::<usize>(), 5000);
        assert!(linked <= 4 * 5000, "{linked}");
    }

    #[test]
    fn large_layers_are_joined_only_when_there_are_too_many_folders() {
        let all_large = |count: usize| next_join(&pieces(&vec![0; count]), |_| true);
        assert_eq!(all_large(MOST - 1), None);
        assert_eq!(all_large(MOST), Some((MOST, 1, usize::MAX)));
        let one_large = |at: &Piece| at.files == Path::new("16");
        assert_eq!(next_join(&pieces(&[0; 20]), one_large), Some((JOINED, 1, FILES)));
        let nearer = |at: &Piece| at.files == Path::new("15");
        assert_eq!(next_join(&pieces(&[0; 20]), nearer), None);
    }
}
