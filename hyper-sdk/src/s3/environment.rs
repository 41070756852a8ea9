//! What the variables of the AWS tools say.

use crate::secret::Secret;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// The variables that count.
const VARIABLES: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_BUCKET",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
];

/// The variables of the AWS tools, and where their files are. An empty variable counts as absent.
///
/// ```
/// use hyper_sdk::s3::{AwsEnvironment, S3Bucket};
///
/// # fn main() -> hyper_sdk::Result<()> {
/// let variables = [("AWS_ACCESS_KEY_ID", "me"), ("AWS_SECRET_ACCESS_KEY", "s3cr3t"), ("AWS_REGION", "eu-west-1")];
/// let environment = AwsEnvironment::from_variables(|name| {
///     variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
/// });
/// let bucket = S3Bucket { name: Some("caches".to_owned()), ..S3Bucket::default() };
/// assert_eq!(bucket.resolve(&environment)?.url, "https://caches.s3.eu-west-1.amazonaws.com");
/// assert!(!format!("{environment:?}").contains("s3cr3t"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct AwsEnvironment {
    values: BTreeMap<&'static str, Secret>,
    /// Variables whose value is not text.
    unreadable: Vec<&'static str>,
    home: Option<PathBuf>,
}

impl AwsEnvironment {
    /// Reads the variables. `|name| std::env::var_os(name)` gives those of the process.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let mut environment = Self {
            home: variable("HOME").filter(|home| !home.is_empty()).map(PathBuf::from),
            ..Self::default()
        };
        for name in VARIABLES {
            match variable(name).filter(|value| !value.is_empty()).map(OsString::into_string) {
                Some(Ok(value)) => drop(environment.values.insert(name, value.into())),
                Some(Err(_)) => environment.unreadable.push(name),
                None => {}
            }
        }
        environment
    }

    /// A variable.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(Secret::expose)
    }

    /// Checks that all variables are text.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] that names one which is not.
    pub(super) fn check(&self) -> Result<()> {
        match self.unreadable.first() {
            Some(name) => Err(Error::invalid(format!("the variable {name} is not UTF-8"))),
            None => Ok(()),
        }
    }

    /// A file of the AWS tools: the one that a variable names, else one in the home folder.
    pub(super) fn file(&self, variable: &str, in_home: &str) -> Option<PathBuf> {
        self.get(variable)
            .map(PathBuf::from)
            .or_else(|| self.home.as_ref().map(|home| home.join(".aws").join(in_home)))
    }
}
