//! The account at a directory: made once, and kept with its key.

use super::handle::Acme;
use super::problem::explain;
use super::wire::Wire;
use hyper_sdk::{Digest, Error, Result};
use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use serde::{Deserialize, Serialize};

/// What is kept of an account.
#[derive(Serialize, Deserialize)]
struct Kept {
    contact: Vec<String>,
    /// Its URL and its key, and the URL of the directory.
    credentials: serde_json::Value,
}

/// The file of the account. Another directory, or another external account, has another one.
fn file(acme: &Acme) -> String {
    let external = acme.options().external_account.as_ref().map_or("", |external| &external.id);
    let hash = Digest::sha256(format!("{}\n{external}", acme.directory()));
    format!("account-{}.json", &hash.hex()[..16])
}

/// The account that is kept, or a new one.
///
/// # Errors
/// Those of the directory and of the folder.
pub(super) async fn open(acme: &Acme, wire: Wire) -> Result<Account> {
    let (name, contact) = (file(acme), acme.options().contact_urls());
    let contacts: Vec<&str> = contact.iter().map(String::as_str).collect();
    let builder = Account::builder_with_http(Box::new(wire));
    let file = name.clone();
    let Some(text) = acme.at_disk(move |acme| acme.folder().read(&file)).await? else {
        let external = acme.at_disk(|acme| {
            let external = acme.options().external_account.as_ref();
            external.map(|external| Ok::<_, Error>((external.id.clone(), external.key()?))).transpose()
        });
        let external = external.await?.map(|(id, key)| ExternalAccountKey::new(id, &key));
        let new =
            NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
        let directory = acme.directory().to_owned();
        let (account, credentials) =
            builder.create(&new, directory, external.as_ref()).await.map_err(explain)?;
        let credentials = serde_json::to_value(credentials)
            .map_err(|e| Error::internal("an account cannot be written").with_source(e))?;
        let text = text_of(&Kept { contact, credentials })?;
        acme.at_disk(move |acme| acme.folder().write(&name, &text)).await?;
        return Ok(account);
    };
    let bad = || {
        // The error of the parser could quote the key.
        Error::invalid("the file of the account has no account: remove it, and a new one is made")
            .with_context("path", acme.folder().path(&name).display())
    };
    let mut kept: Kept = serde_json::from_str(&text).map_err(|_| bad())?;
    let credentials: AccountCredentials =
        serde_json::from_value(kept.credentials.clone()).map_err(|_| bad())?;
    let account = builder.from_credentials(credentials).await.map_err(explain)?;
    if kept.contact != contact {
        account.update_contacts(&contacts).await.map_err(explain)?;
        kept.contact = contact;
        let text = text_of(&kept)?;
        acme.at_disk(move |acme| acme.folder().write(&name, &text)).await?;
    }
    Ok(account)
}

/// Forgets an account that the directory does not have any more.
///
/// # Errors
/// [`hyper_sdk::ErrorKind::Io`] when the file cannot be removed.
pub(super) async fn forget(acme: &Acme) -> Result<()> {
    let name = file(acme);
    acme.at_disk(move |acme| acme.folder().remove(&name)).await
}

fn text_of(kept: &Kept) -> Result<String> {
    serde_json::to_string(kept).map_err(|e| Error::internal("an account cannot be written").with_source(e))
}
