//! Where the public keys of an issuer come from: its discovery document, a URL, or a file.

use super::fetched::Fetched;
use super::key_set;
use super::options::{IssuerKeys, IssuerOptions};
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::{Error, Result, ResultExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest set of keys, in bytes.
const MAX_KEYS: u64 = 512 << 10;
/// How long the keys of a file are not read again.
const FILE: Duration = Duration::from_secs(60);
/// How long the keys of a file that cannot be read are used.
const FILE_OUTLIVED: Duration = Duration::from_secs(5 * 60);
/// How long keys are used while the issuer does not answer.
#[cfg(feature = "issuers")]
const WEB_OUTLIVED: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug)]
pub(super) enum Source {
    File(PathBuf),
    #[cfg(feature = "issuers")]
    Web(super::web::Web),
}

impl Source {
    /// Where these options say. A file is read, to see that it has keys.
    pub(super) fn new(options: &IssuerOptions) -> Result<Self> {
        match &options.keys {
            IssuerKeys::File(path) if options.authorities.is_some() => {
                Err(Error::invalid("certificates to trust have no effect where the keys are in a file")
                    .with_context("path", path.display()))
            }
            IssuerKeys::File(path) => {
                key_set::check(&read(path)?).context("path", path.display())?;
                Ok(Self::File(path.clone()))
            }
            #[cfg(feature = "issuers")]
            IssuerKeys::Discovery | IssuerKeys::Url(_) => super::web::Web::new(options).map(Self::Web),
            #[cfg(not(feature = "issuers"))]
            IssuerKeys::Discovery | IssuerKeys::Url(_) => Err(Error::unsupported(
                "this build cannot fetch the keys of an issuer: give them in a file, or build it with the feature `issuers`",
            )),
        }
    }

    /// How long keys are used when none come from here.
    pub(super) fn outlives(&self) -> Duration {
        match self {
            // Whoever takes a file away is here, and nothing is in the way.
            Self::File(_) => FILE_OUTLIVED,
            #[cfg(feature = "issuers")]
            Self::Web(_) => WEB_OUTLIVED,
        }
    }

    pub(super) async fn fetch(&self) -> Result<Fetched> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                let bytes = tokio::task::spawn_blocking(move || read(&path)).await.map_err(|e| {
                    Error::internal("reading the keys of an issuer was interrupted").with_source(e)
                })??;
                Ok(Fetched { bytes: bytes.into(), max_age: Some(FILE) })
            }
            #[cfg(feature = "issuers")]
            Self::Web(web) => web.fetch().await,
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    small_file::read(path, "the keys of the issuer", MAX_KEYS, Kinds::Files)
}
