//! Push, pull and copy; credentials of registries.

use crate::operation::{Operation, Outcome};
use crate::session::Session;
use hyper_sdk::Reference;
use hyper_sdk::build::text::platform;
use hyper_sdk::client::{CredentialCheck, Platforms, PullOptions, PushOptions};
use hyper_sdk::oci::Descriptor;
use hyper_sdk::reference::RegistryHost;
use hyper_sdk::session::login_credentials;
use pyo3::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

impl Session {
    pub(crate) fn push(
        self: &Arc<Self>,
        reference: String,
        to: Option<String>,
        referrers: bool,
        progress: Option<Py<PyAny>>,
    ) -> Operation {
        let sdk = self.sdk.clone();
        Operation::with_progress(progress, move |progress| async move {
            let reference = Reference::parse(&reference)?;
            let target = to.map_or_else(|| Ok(reference.clone()), |to| Reference::parse(&to))?;
            let options = PushOptions { referrers, progress, ..PushOptions::default() };
            let pushed = sdk.push(&reference, &target, &options).await?;
            Ok(Outcome::Made("Transferred", transferred(&target, &pushed)))
        })
    }

    pub(crate) fn pull(
        self: &Arc<Self>,
        reference: String,
        wanted: Option<String>,
        all_platforms: bool,
        referrers: bool,
        progress: Option<Py<PyAny>>,
    ) -> Operation {
        let sdk = self.sdk.clone();
        Operation::with_progress(progress, move |progress| async move {
            let reference = Reference::parse(&reference)?;
            let wanted = wanted.as_deref().map(platform).transpose()?;
            let platforms = Platforms::wanted(wanted, all_platforms)?;
            let options = PullOptions { platforms, referrers, progress, ..PullOptions::default() };
            let pulled = sdk.pull(&reference, &reference, &options).await?;
            Ok(Outcome::Made("Transferred", transferred(&reference, &pulled)))
        })
    }

    pub(crate) fn copy(
        self: &Arc<Self>,
        source: String,
        target: String,
        referrers: bool,
        progress: Option<Py<PyAny>>,
    ) -> Operation {
        let sdk = self.sdk.clone();
        Operation::with_progress(progress, move |progress| async move {
            let (source, target) = (Reference::parse(&source)?, Reference::parse(&target)?);
            let options = PushOptions { referrers, progress, ..PushOptions::default() };
            let copied = sdk.copy(&source, &target, &options).await?;
            Ok(Outcome::Made("Transferred", transferred(&target, &copied)))
        })
    }

    /// Checks credentials with the registry, and keeps them.
    pub(crate) fn login(self: &Arc<Self>, host: String, username: String, password: String) -> Operation {
        let sdk = self.sdk.clone();
        let credentials = login_credentials(&username, &password);
        Operation::new(async move {
            let login = sdk.login(&RegistryHost::from_address(&host)?, &credentials?).await?;
            Ok(Outcome::Plain(Value::Bool(login.check == CredentialCheck::Accepted)))
        })
    }

    pub(crate) fn logout(self: &Arc<Self>, host: String) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            Ok(Outcome::Plain(Value::Bool(sdk.logout(&RegistryHost::from_address(&host)?).await?)))
        })
    }
}

/// The descriptor of an image and its name, as data of `Transferred`.
pub(crate) fn transferred(reference: &Reference, descriptor: &Descriptor) -> Value {
    json!({
        "reference": reference.to_string(),
        "digest": descriptor.digest,
        "media_type": descriptor.media_type,
        "size": descriptor.size,
        "platform": descriptor.platform.as_ref().map_or(Value::Null, |p| p.to_string().into()),
    })
}
