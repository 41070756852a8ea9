//! A bucket, and the address and the credentials that it has in an environment.
//!
//! ```text
//!   credentials   of the request ▸ AWS_ACCESS_KEY_ID ▸ AWS_WEB_IDENTITY_TOKEN_FILE ▸ the profile of AWS_PROFILE in
//!                 ~/.aws/credentials ▸ the container's ▸ those of the machine (EC2)
//!   region        of the request ▸ AWS_REGION ▸ AWS_DEFAULT_REGION ▸ the profile ▸ us-east-1 with an endpoint
//!   endpoint      of the request ▸ AWS_ENDPOINT_URL_S3 ▸ AWS_ENDPOINT_URL ▸ that of AWS in the region
//! ```

use super::environment::AwsEnvironment;
use super::profile::Profile;
use crate::secret::Secret;
use crate::{Error, ErrorKind, Result};
use std::fmt;
use url::{Host, Url};

/// What a profile may have in place of keys.
const OTHER_SOURCES: [&str; 8] = [
    "role_arn",
    "source_profile",
    "credential_source",
    "credential_process",
    "web_identity_token_file",
    "sso_session",
    "sso_start_url",
    "login_session",
];

/// Keys of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Keys {
    /// The access key.
    pub id: String,
    /// The secret access key.
    pub secret: Secret,
    /// The token of keys that are valid for a time.
    pub session_token: Option<Secret>,
}

/// What a request says of a bucket. What is `None` comes from the environment.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Bucket {
    /// Its name.
    pub name: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// The URL of the server, without the bucket.
    pub endpoint: Option<String>,
    /// Whether the bucket is in the path of URLs, and not in the name of the host. It always is where the server has an IP
    /// address in place of a name, and where the name of the bucket cannot be a part of one.
    pub path_style: bool,
    /// The keys.
    pub keys: Option<S3Keys>,
}

impl fmt::Debug for S3Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may have a password, although such an endpoint cannot be used.
        let endpoint = self.endpoint.as_deref().map(|url| if url.contains('@') { "…" } else { url });
        f.debug_struct("S3Bucket")
            .field("name", &self.name)
            .field("region", &self.region)
            .field("endpoint", &endpoint)
            .field("path_style", &self.path_style)
            .field("keys", &self.keys)
            .finish()
    }
}

/// Where credentials come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum S3Credentials {
    /// They are here.
    Keys(S3Keys),
    /// A token in a file, for a role (GitHub Actions, Kubernetes).
    WebIdentity {
        /// The file with the token.
        token_file: String,
        /// The role.
        role: String,
        /// The name of the session.
        session: String,
        /// The address of the service that gives keys.
        endpoint: Option<String>,
    },
    /// The service of a container, by a path.
    Container(String),
    /// The service of a container, by its address, with a token in a file.
    Pod {
        /// The address.
        url: String,
        /// The file with the token.
        token_file: String,
    },
    /// The service of the machine, at this address or at the usual one.
    Machine(Option<String>),
}

/// A bucket with everything that a client needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Address {
    /// The name of the bucket.
    pub bucket: String,
    /// Its region.
    pub region: String,
    /// Its URL, without a slash at the end.
    pub url: String,
    /// Where its credentials come from.
    pub credentials: S3Credentials,
}

impl S3Bucket {
    /// The address of the bucket in an environment. Reads the files of the AWS tools, and blocks while it does.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for what is missing or malformed, [`ErrorKind::Unauthorized`] without credentials,
    /// [`ErrorKind::Unsupported`] for kinds of credentials that only other tools have.
    pub fn resolve(&self, environment: &AwsEnvironment) -> Result<S3Address> {
        environment.check()?;
        let given = |own: &Option<String>, names: &[&str]| {
            let named = names.iter().find_map(|name| environment.get(name));
            own.as_deref().or(named).map(str::to_owned)
        };
        let bucket = given(&self.name, &["AWS_BUCKET"]).ok_or_else(|| {
            Error::invalid("the bucket has no name: add bucket=NAME or set the variable AWS_BUCKET")
        })?;
        check_bucket(&bucket)?;
        let mut profile = None;
        let endpoint = given(&self.endpoint, &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
        let region = match given(&self.region, &["AWS_REGION", "AWS_DEFAULT_REGION"]) {
            Some(region) => region,
            None => {
                let named = profile.insert(Profile::read(environment)?).get("region").map(str::to_owned);
                let region = named.or_else(|| endpoint.as_ref().map(|_| "us-east-1".to_owned()));
                region.ok_or_else(|| {
                    Error::invalid(format!(
                        "the bucket `{bucket}` has no region: add region=NAME or set the variable AWS_REGION"
                    ))
                })?
            }
        };
        check_region(&region)?;
        let url = bucket_url(&bucket, &region, endpoint.as_deref(), self.path_style)?;
        let credentials = match &self.keys {
            Some(keys) => S3Credentials::Keys(checked(keys.clone())?),
            None => credentials(environment, profile)?,
        };
        Ok(S3Address { bucket, region, url, credentials })
    }
}

/// The URL of a server as the attribute has it.
///
/// # Errors
/// [`ErrorKind::Invalid`] for one that is malformed, or that has a password or a query. It does not show the URL.
pub(crate) fn endpoint_url(text: &str) -> Result<Url> {
    server_url(text, "`endpoint_url`")
}

fn check_bucket(name: &str) -> Result<()> {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
    let is_whole = !name.is_empty() && name.len() <= 255 && name.bytes().all(is_plain);
    match is_whole && !name.starts_with('.') && !name.contains("..") {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "`{}` is not the name of a bucket: letters, digits, `-` and `.`",
            name.escape_debug()
        ))),
    }
}

fn check_region(name: &str) -> Result<()> {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    match !name.is_empty() && name.len() <= 64 && name.bytes().all(is_plain) {
        true => Ok(()),
        false => Err(Error::invalid(format!("`{}` is not the name of a region", name.escape_debug()))),
    }
}

/// The URL of a server, which may carry neither credentials nor a query.
fn server_url(text: &str, what: &str) -> Result<Url> {
    // The text is not shown: it may have a password.
    let bad = |why: &str| Error::invalid(format!("{what} {why}"));
    let url = Url::parse(text).map_err(|_| bad("is not a URL such as https://s3.example.com"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(bad("is not a URL of http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("has credentials: use access_key_id and secret_access_key, or variables"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("has a query or a fragment"));
    }
    Ok(url)
}

/// The URL of a bucket.
fn bucket_url(bucket: &str, region: &str, endpoint: Option<&str>, path_style: bool) -> Result<String> {
    let mut url = match endpoint {
        Some(endpoint) => endpoint_url(endpoint)?,
        None => {
            let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            server_url(&format!("https://s3.{region}.{domain}"), "the region")?
        }
    };
    let is_label = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let is_named = matches!(url.host(), Some(Host::Domain(_)));
    if path_style || !is_named || bucket.len() > 63 || !bucket.bytes().all(is_label) {
        return Ok(format!("{}/{bucket}", url.as_str().trim_end_matches('/')));
    }
    let host = format!("{bucket}.{}", url.host_str().unwrap_or_default());
    url.set_host(Some(&host)).map_err(|_| {
        Error::invalid(format!("`{bucket}` cannot be in the name of a host: add use_path_style=true"))
    })?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Keys that can be sent in a header.
fn checked(keys: S3Keys) -> Result<S3Keys> {
    let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_graphic());
    let token = keys.session_token.as_ref();
    let wrong = if !is_plain(&keys.id) {
        "the access key"
    } else if !is_plain(keys.secret.expose()) {
        "the secret access key"
    } else if token.is_some_and(|token| !is_plain(token.expose())) {
        "the session token"
    } else {
        return Ok(keys);
    };
    Err(Error::invalid(format!(
        "{wrong} of S3 is empty, or has a space or another character that no key has"
    )))
}

/// A text of the environment that gets into a request.
fn plain(text: &str, name: &str) -> Result<String> {
    match text.bytes().all(|c| c.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err(Error::invalid(format!(
            "the variable {name} has a space or another character that it cannot have"
        ))),
    }
}

fn credentials(environment: &AwsEnvironment, profile: Option<Profile>) -> Result<S3Credentials> {
    let get = |name: &str| environment.get(name);
    let pair = (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY"));
    match pair {
        (Some(id), Some(secret)) => {
            let session_token = get("AWS_SESSION_TOKEN").map(Secret::from);
            let keys = S3Keys { id: id.to_owned(), secret: secret.into(), session_token };
            return Ok(S3Credentials::Keys(checked(keys)?));
        }
        (Some(_), None) => return Err(half("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")),
        (None, Some(_)) => return Err(half("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")),
        (None, None) => {}
    }
    match (get("AWS_WEB_IDENTITY_TOKEN_FILE"), get("AWS_ROLE_ARN")) {
        (Some(file), Some(role)) => {
            let endpoint = get("AWS_ENDPOINT_URL_STS");
            let endpoint = endpoint.map(|url| server_url(url, "AWS_ENDPOINT_URL_STS")).transpose()?;
            return Ok(S3Credentials::WebIdentity {
                token_file: file.to_owned(),
                role: plain(role, "AWS_ROLE_ARN")?,
                session: plain(get("AWS_ROLE_SESSION_NAME").unwrap_or("hyper"), "AWS_ROLE_SESSION_NAME")?,
                endpoint: endpoint.map(|url| url.as_str().trim_end_matches('/').to_owned()),
            });
        }
        (Some(_), None) => return Err(half("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN")),
        (None, _) => {}
    }
    let profile = profile.map_or_else(|| Profile::read(environment), Ok)?;
    if let Some(keys) = keys_of(&profile)? {
        return Ok(S3Credentials::Keys(keys));
    }
    if let Some(path) = get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        let path = plain(path, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")?;
        server_url(&format!("http://169.254.170.2{path}"), "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")?;
        return match path.starts_with('/') {
            true => Ok(S3Credentials::Container(path)),
            false => Err(Error::invalid("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI does not begin with `/`")),
        };
    }
    match (get("AWS_CONTAINER_CREDENTIALS_FULL_URI"), get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")) {
        (Some(url), Some(file)) => {
            let url = server_url(url, "AWS_CONTAINER_CREDENTIALS_FULL_URI")?.into();
            return Ok(S3Credentials::Pod { url, token_file: file.to_owned() });
        }
        (Some(_), None) => {
            return Err(Error::unsupported(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI without AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE is not supported",
            ));
        }
        (None, _) => {}
    }
    if get("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Err(Error::new(
            ErrorKind::Unauthorized,
            "there are no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile with \
             AWS_PROFILE",
        ));
    }
    let endpoint = get("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    let endpoint = endpoint.map(|url| server_url(url, "AWS_EC2_METADATA_SERVICE_ENDPOINT")).transpose()?;
    Ok(S3Credentials::Machine(endpoint.map(|url| url.as_str().trim_end_matches('/').to_owned())))
}

fn half(there: &str, missing: &str) -> Error {
    Error::invalid(format!("the variable {there} is set and {missing} is not: set both"))
}

/// The keys of a profile, if it has any.
fn keys_of(profile: &Profile) -> Result<Option<S3Keys>> {
    let name = profile.name.escape_debug();
    match (profile.get("aws_access_key_id"), profile.get("aws_secret_access_key")) {
        (Some(id), Some(secret)) => {
            let session_token = profile.get("aws_session_token").map(Secret::from);
            checked(S3Keys { id: id.to_owned(), secret: secret.into(), session_token }).map(Some)
        }
        (None, None) => match OTHER_SOURCES.iter().find(|key| profile.get(key).is_some()) {
            Some(key) => Err(Error::unsupported(format!(
                "the profile `{name}` of AWS has `{key}`, which is not supported: set AWS_ACCESS_KEY_ID, \
                 AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, as `aws configure export-credentials` prints them"
            ))),
            None => Ok(None),
        },
        _ => Err(Error::invalid(format!(
            "the profile `{name}` of AWS has one of aws_access_key_id and aws_secret_access_key, and not the other"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "me"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];

    fn environment(pairs: &[(&str, &str)]) -> AwsEnvironment {
        AwsEnvironment::from_variables(|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    }

    fn bucket(name: &str, region: &str, endpoint: &str, path_style: bool) -> S3Bucket {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let (name, region, endpoint) = (text(name), text(region), text(endpoint));
        S3Bucket { name, region, endpoint, path_style, keys: None }
    }

    #[test]
    fn addresses_are_as_other_tools_make_them() {
        let environment = environment(&KEYS);
        for (name, region, endpoint, path_style, url) in [
            ("b", "eu-west-1", "", false, "https://b.s3.eu-west-1.amazonaws.com"),
            ("b", "cn-north-1", "", false, "https://b.s3.cn-north-1.amazonaws.com.cn"),
            ("b", "eu-west-1", "", true, "https://s3.eu-west-1.amazonaws.com/b"),
            ("a.b", "eu-west-1", "", false, "https://s3.eu-west-1.amazonaws.com/a.b"),
            ("b", "", "https://s3.example.com/", false, "https://b.s3.example.com"),
            ("b", "", "https://s3.example.com:9000/x/", false, "https://b.s3.example.com:9000/x"),
            ("b", "", "https://s3.example.com", true, "https://s3.example.com/b"),
            ("b", "", "http://127.0.0.1:9000", false, "http://127.0.0.1:9000/b"),
            ("b", "", "http://[::1]:9000", false, "http://[::1]:9000/b"),
            ("B_x", "", "http://minio:9000", false, "http://minio:9000/B_x"),
        ] {
            let address = bucket(name, region, endpoint, path_style).resolve(&environment).unwrap();
            assert_eq!(address.url, url);
            assert_eq!(address.region, if region.is_empty() { "us-east-1" } else { region });
        }
    }

    #[test]
    fn what_is_missing_comes_from_the_environment() {
        let mut pairs = KEYS.to_vec();
        pairs.extend([("AWS_BUCKET", "named"), ("AWS_DEFAULT_REGION", "late"), ("AWS_REGION", "early")]);
        pairs.extend([("AWS_ENDPOINT_URL", "https://all"), ("AWS_ENDPOINT_URL_S3", "https://s3")]);
        pairs.push(("AWS_SESSION_TOKEN", "token"));
        let address = S3Bucket::default().resolve(&environment(&pairs)).unwrap();
        assert_eq!((address.url.as_str(), address.region.as_str()), ("https://named.s3", "early"));
        let S3Credentials::Keys(keys) = &address.credentials else { panic!("{address:?}") };
        assert_eq!((keys.id.as_str(), keys.secret.expose()), ("me", "hunter2"));
        assert_eq!(keys.session_token.as_ref().map(Secret::expose), Some("token"));
        let shown = format!("{address:?} {:?}", environment(&pairs));
        assert!(!shown.contains("hunter2") && !shown.contains("token\""), "{shown}");
        let own = S3Keys { id: "own".to_owned(), secret: "x".into(), session_token: None };
        let asked = S3Bucket { keys: Some(own.clone()), ..bucket("b", "r", "", false) };
        let address = asked.resolve(&environment(&pairs)).unwrap();
        assert_eq!(address.credentials, S3Credentials::Keys(own));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_shown() {
        let b = || bucket("b", "r", "", false);
        let own = |id: &str, secret: &str| {
            let keys = S3Keys { id: id.to_owned(), secret: secret.into(), session_token: None };
            S3Bucket { keys: Some(keys), ..b() }
        };
        for (bucket, pairs, why) in [
            (bucket("", "r", "", false), &KEYS[..], "add bucket=NAME"),
            (bucket("b", "", "", false), &KEYS[..], "add region=NAME or set the variable AWS_REGION"),
            (bucket("b/c", "r", "", false), &KEYS[..], "`b/c` is not the name of a bucket"),
            (bucket("b?x", "r", "", false), &KEYS[..], "is not the name of a bucket"),
            (bucket("..", "r", "", false), &KEYS[..], "is not the name of a bucket"),
            (bucket("b", "r/x", "", false), &KEYS[..], "`r/x` is not the name of a region"),
            (bucket("b", "r", "minio:9000", false), &KEYS[..], "`endpoint_url` is not a URL of http"),
            (bucket("b", "r", "ftp://x", false), &KEYS[..], "`endpoint_url` is not a URL of http"),
            (bucket("b", "r", "https://u:hunter2@x", false), &KEYS[..], "`endpoint_url` has credentials"),
            (bucket("b", "r", "https://x?a=hunter2", false), &KEYS[..], "`endpoint_url` has a query"),
            (own("id\n", "hunter2"), &[], "the access key of S3"),
            (own("id", "hunter2\n"), &[], "the secret access key of S3"),
            (b(), &KEYS[..1], "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not"),
            (b(), &KEYS[1..], "AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is not"),
            (b(), &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")], "AWS_ROLE_ARN is not"),
            (b(), &[("AWS_PROFILE", "none")], "no file of AWS has the profile `none`"),
            (b(), &[("AWS_EC2_METADATA_DISABLED", "true")], "there are no credentials for S3"),
            (b(), &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://x")], "is not supported"),
            (
                b(),
                &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "x")],
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            ),
        ] {
            assert!(!format!("{bucket:?}").contains("u:hunter2"), "{bucket:?}");
            let error = bucket.resolve(&environment(pairs)).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn credentials_are_looked_for_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        std::fs::create_dir(folder.path().join(".aws")).unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(".aws").join(name), text).unwrap();
        };
        write(
            "config",
            "[default]\nregion = from-file\n[profile sso]\nsso_session = x\n[profile bare]\nregion = y\n",
        );
        write(
            "credentials",
            "[default]\naws_access_key_id = d\naws_secret_access_key = hunter2\n[ci]\naws_access_key_id = c\naws_secret_access_key = s\naws_session_token = t\n[half]\naws_access_key_id = h\n",
        );
        let of = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().copied().chain([("HOME", home)]).collect();
            bucket("b", "", "", false).resolve(&environment(&pairs))
        };
        let id = |address: S3Address| match address.credentials {
            S3Credentials::Keys(keys) => keys.id,
            other => format!("{other:?}"),
        };
        let address = of(&[]).unwrap();
        assert_eq!((address.region.as_str(), id(address.clone()).as_str()), ("from-file", "d"));
        assert_eq!(id(of(&[("AWS_PROFILE", "ci"), ("AWS_REGION", "r")]).unwrap()), "c");
        assert_eq!(id(of(&KEYS).unwrap()), "me");
        let roles = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "arn:x")];
        assert!(matches!(of(&roles).unwrap().credentials, S3Credentials::WebIdentity { .. }));
        assert_eq!(of(&[("AWS_PROFILE", "bare")]).unwrap().credentials, S3Credentials::Machine(None));
        let sso = of(&[("AWS_PROFILE", "sso"), ("AWS_REGION", "r")]).unwrap_err();
        assert!(sso.to_string().contains("the profile `sso` of AWS has `sso_session`"), "{sso}");
        let half = of(&[("AWS_PROFILE", "half"), ("AWS_REGION", "r")]).unwrap_err();
        assert!(half.to_string().contains("the profile `half`"), "{half}");
        let file = folder.path().join("elsewhere");
        std::fs::copy(Path::new(home).join(".aws/credentials"), &file).unwrap();
        let named = [("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()), ("AWS_REGION", "r")];
        let found = bucket("b", "", "", false).resolve(&environment(&named)).unwrap();
        assert_eq!(id(found), "d");
        let container = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x"), ("AWS_PROFILE", "bare")];
        assert_eq!(of(&container).unwrap().credentials, S3Credentials::Container("/v2/x".to_owned()));
    }
}
