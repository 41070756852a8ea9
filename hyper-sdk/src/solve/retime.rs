//! Layers whose files have their true times instead of at most the epoch.

use super::SolveContext;
use super::layers::LAYERS_REPOSITORY;
use super::value::{Layer, LayerChain};
use crate::cache::CacheRecord;
use crate::digest::Hasher;
use crate::layer::{CompressOptions, EntryKind, LayerReader, LayerWriter, TimesTable};
use crate::{Error, ErrorKind, Result};
use std::io::Read;
use std::sync::Arc;

impl SolveContext {
    /// The chain with the true times in the layers that the builder made. Layers of base images stay as they are.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the times of a layer are lost.
    pub(crate) async fn with_true_times(&self, chain: &LayerChain) -> Result<LayerChain> {
        let mut layers = Vec::new();
        for (layer, _) in chain.layers() {
            layers.push(match layer.repository.as_str() == LAYERS_REPOSITORY {
                true => self.retimed(layer).await?,
                false => layer.clone(),
            });
        }
        Ok(LayerChain::new(layers))
    }

    /// A layer with true times, from the cache or rewritten.
    async fn retimed(&self, layer: &Layer) -> Result<Layer> {
        let Some(times) = self.times(layer.times.as_ref()) else {
            let message = "the times of the files of a cached layer are not known: build once without the cache, or \
                           leave `rewrite-timestamp=false` out";
            return Err(Error::new(ErrorKind::NotFound, message).with_context("layer", &layer.diff_id));
        };
        let mut hasher = Hasher::sha256();
        hasher.update_field("hyper true times 1");
        hasher.update_field(layer.blob.digest.as_str());
        hasher.update_field(times.digest().as_str());
        hasher.update_field(format!("{:?} {:?}", self.compression, self.compression_level));
        let key = hasher.finish();
        if let Some(CacheRecord { layer: blob, diff_id, repository, .. }) = self.cache.get(&key).await?
            && self.store.stat_blob(&repository, &blob.digest).await.is_ok()
        {
            return Ok(Layer { blob, diff_id, repository, times: None, origin: None });
        }
        let task = self.progress.start(format!("put times into {}", layer.diff_id.short()), None);
        let made = match self.open_layer(layer).await {
            Ok(tar) => {
                let options = CompressOptions {
                    level: self.compression_level,
                    ..CompressOptions::new(self.compression)
                };
                self.store_layer(options, move |sink| {
                    let mut writer = LayerWriter::new(sink, None);
                    rewrite(tar, &times, &mut writer)?;
                    Ok((writer.finish()?.0, ()))
                })
                .await
            }
            Err(e) => Err(e),
        };
        let (made, ()) = task.end_with(made)?;
        let record = CacheRecord {
            layer: made.blob.clone(),
            diff_id: made.diff_id.clone(),
            repository: made.repository.clone(),
            times: None,
            made: None,
        };
        self.cache.put(&key, &record).await?;
        Ok(made)
    }
}

/// Rewrites a layer with the times of the table, in whole seconds. Whiteouts keep their times.
fn rewrite<W: std::io::Write>(
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
