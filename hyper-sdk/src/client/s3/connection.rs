//! The connection to a bucket: the crate `object_store` with the credentials and the transport of this library.

use super::credentials::{self, Checked};
use super::transport::Transport;
use crate::s3::{S3Address, S3Credentials};
use crate::{Error, Result};
use object_store::RetryConfig;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};

/// The bucket, with credentials that are checked.
pub(super) fn store(address: &S3Address, transport: &Transport, retries: RetryConfig) -> Result<AmazonS3> {
    credentials::check_file(&address.credentials)?;
    let builder = builder(address).with_http_connector(transport.clone()).with_retry(retries);
    let unusable = |e| Error::invalid("the bucket cannot be used").with_source(e);
    let unchecked = builder.clone().build().map_err(unusable)?;
    builder.with_credentials(Checked::over(unchecked.credentials())).build().map_err(unusable)
}

fn builder(address: &S3Address) -> AmazonS3Builder {
    use AmazonS3ConfigKey as Set;
    let builder = AmazonS3Builder::new()
        .with_bucket_name(&address.bucket)
        .with_region(&address.region)
        // The URL has the bucket in it.
        .with_endpoint(&address.url)
        .with_virtual_hosted_style_request(true);
    let builder_with = |settings: Vec<(Set, &str)>| {
        settings.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value))
    };
    match &address.credentials {
        S3Credentials::Keys(keys) => {
            let mut settings =
                vec![(Set::AccessKeyId, keys.id.as_str()), (Set::SecretAccessKey, keys.secret.expose())];
            settings.extend(keys.session_token.as_ref().map(|token| (Set::Token, token.expose())));
            builder_with(settings)
        }
        S3Credentials::WebIdentity { token_file, role, session, endpoint } => {
            let mut settings = vec![
                (Set::WebIdentityTokenFile, token_file.as_str()),
                (Set::RoleArn, role),
                (Set::RoleSessionName, session),
            ];
            settings.extend(endpoint.as_deref().map(|endpoint| (Set::StsEndpoint, endpoint)));
            builder_with(settings)
        }
        S3Credentials::Container(path) => {
            builder_with(vec![(Set::ContainerCredentialsRelativeUri, path.as_str())])
        }
        S3Credentials::Pod { url, token_file } => builder_with(vec![
            (Set::ContainerCredentialsFullUri, url.as_str()),
            (Set::ContainerAuthorizationTokenFile, token_file),
        ]),
        S3Credentials::Machine(endpoint) => {
            builder_with(endpoint.as_deref().map(|url| (Set::MetadataEndpoint, url)).into_iter().collect())
        }
    }
}
