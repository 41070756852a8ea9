//! Writes a shared cache into a bucket.
//!
//! ```text
//!   ask for every blob   what is there stays, and its time is renewed when it is old
//!   send                 what is not there, and what was found to be damaged there
//!   the manifest         under each name of the cache, the last one to write a name counts
//! ```

use super::export::{ASKED_AT_ONCE, CacheArtifact};
use crate::Result;
use crate::client::{Kept, S3Cache};
use crate::oci::Descriptor;
use crate::progress::Progress;
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};
use std::sync::Arc;

impl CacheArtifact {
    /// Writes the artifact into a bucket.
    ///
    /// # Errors
    /// Those of the bucket, and of the places that the blobs come from.
    pub(super) fn write_bucket<'a>(
        &'a self,
        bucket: Arc<S3Cache>,
        progress: &'a Progress,
    ) -> BoxFuture<'a, Result<()>> {
        // Boxed: callers need it to be `Send`, and find that out for all of its types again.
        Box::pin(async move {
            let missing = self.missing_in(&bucket, progress).await?;
            let mut uploads: Vec<Result<BoxFuture<'_, Result<()>>>> = Vec::new();
            for blob in missing {
                uploads.push(Ok(Box::pin(self.send_to_bucket(&bucket, blob, progress))));
            }
            futures::stream::iter(uploads)
                .try_buffer_unordered(bucket.parallel())
                .try_for_each(|()| std::future::ready(Ok(())))
                .await?;
            bucket.put_names(&self.manifest).await
        })
    }

    /// The blobs that the bucket does not have, and those that were found to be damaged.
    async fn missing_in(&self, bucket: &S3Cache, progress: &Progress) -> Result<Vec<&Descriptor>> {
        let lost = self.imports.lost_blobs();
        let mut questions: Vec<BoxFuture<'_, Result<Option<&Descriptor>>>> = Vec::new();
        for (blob, _) in self.blobs.values() {
            let is_lost = lost.contains(&blob.digest);
            questions.push(Box::pin(async move {
                let kept = if is_lost { Kept::No } else { bucket.keep(blob).await? };
                if let Kept::Aging(why) = &kept {
                    let blob = blob.digest.short();
                    progress.warn(format!("{bucket}: the time of the blob {blob} was not renewed: {why}"));
                }
                Ok(matches!(kept, Kept::No).then_some(blob))
            }));
        }
        let asked = futures::stream::iter(questions).buffer_unordered(ASKED_AT_ONCE);
        asked.try_filter_map(|missing| std::future::ready(Ok(missing))).try_collect().await
    }

    async fn send_to_bucket(&self, bucket: &S3Cache, blob: &Descriptor, progress: &Progress) -> Result<()> {
        let task = progress.start(format!("copy {}", blob.digest.short()), Some(blob.size));
        let sent = async { bucket.put_blob(blob, self.open(blob).await?, &task).await };
        let sent = sent.await.map_err(|e| match e.context_value("digest") {
            Some(_) => e,
            None => e.with_context("digest", &blob.digest),
        });
        task.end_with(sent)
    }
}
