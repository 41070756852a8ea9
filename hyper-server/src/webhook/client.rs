//! The HTTP client of webhooks, which the feature `webhooks` has.

use super::Webhook;
use hyper_sdk::Result;
use std::time::Duration;

/// What a webhook has answered: its status, and how long it asks to wait.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
}

#[cfg(feature = "webhooks")]
#[derive(Clone, Debug)]
pub(super) struct Client(hyper_sdk::client::WebhookClient);

#[cfg(feature = "webhooks")]
impl Client {
    pub(super) fn new(webhook: &Webhook) -> Result<Self> {
        use hyper_sdk::ResultExt as _;
        use hyper_sdk::client::{Proxies, WebhookClient, WebhookOptions};
        let options = WebhookOptions {
            timeout: webhook.timeout,
            roots: webhook.authorities.clone(),
            headers: webhook.headers.clone(),
            proxies: Some(Proxies::from_variables(|name| std::env::var(name).ok())),
        };
        WebhookClient::new(&webhook.url, options).context("webhook", &webhook.name).map(Self)
    }

    /// Scheme, host and port.
    pub(super) fn place(&self) -> &str {
        self.0.place()
    }

    pub(super) async fn post(
        &self,
        content_type: &str,
        headers: &[(&'static str, String)],
        body: String,
    ) -> Result<Answer> {
        let answer = self.0.post(content_type, headers, body.into()).await?;
        Ok(Answer { status: answer.status, retry_after: answer.retry_after })
    }
}

#[cfg(not(feature = "webhooks"))]
#[derive(Clone, Debug)]
pub(super) enum Client {}

#[cfg(not(feature = "webhooks"))]
impl Client {
    pub(super) fn new(_: &Webhook) -> Result<Self> {
        Err(hyper_sdk::Error::unsupported("webhooks need the feature `webhooks`"))
    }

    pub(super) fn place(&self) -> &str {
        match *self {}
    }

    pub(super) async fn post(&self, _: &str, _: &[(&'static str, String)], _: String) -> Result<Answer> {
        match *self {}
    }
}
