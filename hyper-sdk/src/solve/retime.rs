//! Layers whose files have their true times instead of at most the epoch.

use crate::Result;
use crate::layer::{EntryKind, LayerReader, LayerWriter, TimesTable};
use std::io::Read;
use std::sync::Arc;

/// Rewrites a layer with the times of the table, in whole seconds. Whiteouts keep their times.
pub(super) fn rewrite<W: std::io::Write>(
    tar: impl Read,
    times: &Arc<TimesTable>,
    writer: &mut LayerWriter<W>,
) -> Result<()> {
    let mut reader = LayerReader::new(tar);
    while let Some(mut entry) = reader.next_entry()? {
        let named = match &entry.kind {
            kind if kind.is_whiteout() => None,
            // A hard link has the time of its file.
            EntryKind::Hardlink { target } => times.get(target),
            _ => times.get(&entry.path),
        };
        if let Some(time) = named {
            entry.set_time(time);
        }
        writer.append(&entry, Some(&mut reader))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Entry, EntryTimes, FileTime, LayerPath};

    #[test]
    fn only_times_are_rewritten() {
        let path = |text: &str| LayerPath::new(text).unwrap();
        let at = |mut entry: Entry, time| {
            entry.set_time(time);
            entry
        };
        let late = FileTime { seconds: 900, nanoseconds: 5 };
        let link = Entry::new(path("d/g"), EntryKind::Hardlink { target: path("d/f") }, 0o644);
        let entries = [
            at(Entry::directory(path("d"), 0o755), FileTime::of(700)),
            at(Entry::file(path("d/f"), 4, 0o600), late),
            at(link, late),
            at(Entry::whiteout(path("gone")), FileTime::of(950)),
        ];
        let mut published = LayerWriter::new(Vec::new(), Some(10));
        for entry in &entries {
            let mut data = &b"text"[..];
            published.append(entry, (entry.size() > 0).then_some(&mut data as &mut dyn Read)).unwrap();
        }
        let times: EntryTimes = published.take_times();
        let (tar, _) = published.finish().unwrap();
        let mut writer = LayerWriter::new(Vec::new(), None);
        rewrite(&tar[..], &Arc::new(times.into()), &mut writer).unwrap();
        let (again, index) = writer.finish().unwrap();
        let seen: Vec<_> = index.entries().iter().map(|e| (e.path.to_string(), e.mtime, e.mode)).collect();
        let named = |name: &str, time, mode| (name.to_owned(), time, mode);
        assert_eq!(
            seen,
            [
                named("d", 700, 0o755),
                named("d/f", 900, 0o600),
                named("d/g", 900, 0o644),
                named("gone", 10, 0)
            ]
        );
        assert_eq!(again.len(), tar.len());
        assert!(again.windows(4).any(|bytes| bytes == b"text"));
    }
}
