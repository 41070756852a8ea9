//! Transfers of images between the local store and registries.

use super::Session;
use crate::client::{LocalTarget, PullOptions, PushOptions, RemoteImage, copy, pull, push};
use crate::oci::Descriptor;
use crate::uses::UseKind;
use crate::{Reference, Result};

impl Session {
    /// Pushes an image of the local store to a registry, under a name there: [`push`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::ManifestUnknown`] when the store does not have the image; those of [`Session::store`], of the
    /// client and of [`push`].
    pub async fn push(&self, image: &Reference, to: &Reference, options: &PushOptions) -> Result<Descriptor> {
        let _use = self.hold(UseKind::Work).await?;
        let image = self.local(image).await?;
        push(&image, &RemoteImage::named(&self.client(to.host())?, to), options).await
    }

    /// Pulls an image of a registry into the local store, under a name there: [`pull`].
    ///
    /// # Errors
    /// Those of [`Session::store`], of the client and of [`pull`].
    pub async fn pull(&self, image: &Reference, to: &Reference, options: &PullOptions) -> Result<Descriptor> {
        let _use = self.hold(UseKind::Work).await?;
        let to = LocalTarget::named(&self.store().await?, to)?;
        pull(&RemoteImage::named(&self.client(image.host())?, image), &to, options).await
    }

    /// Copies an image from one registry to another, or within one, without storing it: [`copy`].
    ///
    /// # Errors
    /// Those of the clients and of [`copy`].
    pub async fn copy(&self, image: &Reference, to: &Reference, options: &PushOptions) -> Result<Descriptor> {
        let from = RemoteImage::named(&self.client(image.host())?, image);
        // One client for one registry: blobs are mounted there, not sent.
        let client = match image.host() == to.host() {
            true => from.client.clone(),
            false => self.client(to.host())?,
        };
        copy(&from, &RemoteImage::named(&client, to), options).await
    }
}
