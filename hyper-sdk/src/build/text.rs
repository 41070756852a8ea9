//! Options of a build as text: parses the values of the flags of `docker buildx build`.
//!
//! ```text
//!   build_args      NAME=VALUE, or NAME for the value of that variable
//!   labels          KEY=VALUE
//!   annotations     KEY=VALUE of the manifest, or PLACE[,PLACE]:KEY=VALUE
//!   secrets         id=ID,src=FILE   id=ID,env=NAME   id=ID for the variable ID or else the file ID
//!   secret_files    the files of these
//!   agents          ID=SOCKET, or ID for the socket that SSH_AUTH_SOCK names
//!   named_contexts  NAME=CONTEXT
//!   hosts           NAME:ADDRESS or NAME=ADDRESS, an IPv6 address with or without brackets, or `host-gateway`
//!   cache_from      NAME, or type=registry|local|s3 with attributes
//!   cache_to        type=registry|local|s3|inline with attributes
//!   platforms       OS[(VERSION)]/ARCH[/VARIANT] or `local`, several with commas between
//!   ulimits         NAME=SOFT[:HARD]
//!   shm_size        bytes, or a number with a unit
//!   resources       NAME and VALUE
//! ```
//!
//! [`Output::parse_with`](super::Output::parse_with) parses outputs, and [`EpochPolicy`] and [`Network`] implement
//! [`FromStr`]. [`BuildRequest::allow`] parses permissions.
//!
//! The environment of the program comes in as a function. Errors name the wrong text, and never the value of a secret.

pub use super::cache_options::{cache_from, cache_to};
pub use super::limits_text::{RESOURCES, resources, shm_size, ulimits};
use super::{BuildRequest, EpochPolicy, HOST_GATEWAY, NamedContext, PlacedAnnotations};
use crate::dockerfile::csv_fields;
use crate::exec::{Network, SecretBytes};
use crate::platform::Platform;
use crate::small_file::{self, Kinds};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The most bytes of the file of a secret.
const MAX_SECRET: u64 = 1 << 20;

/// The variable with the epoch, in seconds since 1970.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Splits `KEY=VALUE`. Without `=` there is no value.
fn key_value(text: &str) -> (&str, Option<&str>) {
    text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)))
}

/// The error of a wrong text.
pub(super) fn wrong(text: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("`{text}`: {why}"))
}

/// An error and its cause in one line, for the message of another error.
fn reason(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// Values of ARG. A name without a value takes the value of the environment variable, and is left out when it is not set.
/// SOURCE_DATE_EPOCH comes from the environment when `texts` do not name it.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for a text without a name.
pub fn build_args<T: AsRef<str>>(
    texts: impl IntoIterator<Item = T>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<BTreeMap<String, String>> {
    let variable = |name: &str| variable(name).and_then(|value| value.into_string().ok());
    let mut args = BTreeMap::new();
    for text in texts {
        let text = text.as_ref();
        let (name, value) = match key_value(text) {
            ("", _) => return Err(wrong(text, "expected NAME=VALUE or NAME")),
            (name, Some(value)) => (name, value.to_owned()),
            (name, None) => match variable(name) {
                Some(value) => (name, value),
                None => continue,
            },
        };
        args.insert(name.to_owned(), value);
    }
    if let (false, Some(epoch)) = (args.contains_key(EPOCH), variable(EPOCH)) {
        args.insert(EPOCH.to_owned(), epoch);
    }
    Ok(args)
}

/// Labels. The last value of a key counts.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for a text without a key.
pub fn labels<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<BTreeMap<String, String>> {
    let one = |text: T| match key_value(text.as_ref()) {
        ("", _) => Err(wrong(text.as_ref(), "expected KEY=VALUE")),
        (key, value) => Ok((key.to_owned(), value.unwrap_or_default().to_owned())),
    };
    texts.into_iter().map(one).collect()
}

/// Annotations and their places.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for a text without a key, and for an unknown place.
pub fn annotations<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<PlacedAnnotations> {
    let mut annotations = PlacedAnnotations::default();
    let is_place = |place: &str| {
        let word = place.split('[').next().unwrap_or_default();
        word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
    };
    for text in texts {
        let text = text.as_ref();
        let (key, value) = key_value(text);
        let (places, key) = match key.split_once(':') {
            // A word in lower case before `:` is a place.
            Some((places, key)) if places.split(',').all(is_place) => (places, key),
            _ => ("manifest", key),
        };
        if key.is_empty() {
            return Err(wrong(text, "expected KEY=VALUE or PLACE:KEY=VALUE"));
        }
        for place in places.split(',') {
            let place = place.parse().map_err(|e: Error| wrong(text, e.message()))?;
            annotations.add(place, key, value.unwrap_or_default());
        }
    }
    Ok(annotations)
}

/// Reads secrets, by their ids. It blocks while it reads files and named pipes.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for a malformed text, a variable that is not set, and a file that cannot be read or has
/// more than 1 MiB.
pub fn secrets<T: AsRef<str>>(
    texts: impl IntoIterator<Item = T>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<BTreeMap<String, SecretBytes>> {
    let mut secrets = BTreeMap::new();
    for text in texts {
        let (id, source) = secret(text.as_ref(), &variable)?;
        let bytes = match source {
            SecretSource::Value(value) => value.into_vec(),
            SecretSource::File(path) => {
                let what = format!("the file of the secret `{id}`");
                small_file::read(&path, &what, MAX_SECRET, Kinds::FilesAndPipes)
                    .map_err(|e| Error::invalid(reason(&e)))?
            }
        };
        secrets.insert(id, SecretBytes::new(bytes));
    }
    Ok(secrets)
}

/// The files that [`secrets`] reads for the same texts and variables. None is read.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for a malformed text and a variable that is not set.
pub fn secret_files<T: AsRef<str>>(
    texts: impl IntoIterator<Item = T>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for text in texts {
        if let (_, SecretSource::File(path)) = secret(text.as_ref(), &variable)? {
            files.push(path);
        }
    }
    Ok(files)
}

/// What has a secret.
enum SecretSource {
    /// The value of a variable.
    Value(OsString),
    /// A file.
    File(PathBuf),
}

/// The id of a secret, and what has it.
fn secret(text: &str, variable: impl Fn(&str) -> Option<OsString>) -> Result<(String, SecretSource)> {
    let (mut id, mut source, mut name, mut kind) = (None, None, None, None);
    for field in csv_fields(text).map_err(Error::invalid)? {
        match key_value(&field) {
            ("id", Some(value)) => id = Some(value.to_owned()),
            ("src" | "source", Some(value)) => source = Some(value.to_owned()),
            ("env", Some(value)) => name = Some(value.to_owned()),
            ("type", Some(value @ ("file" | "env"))) => kind = Some(value.to_owned()),
            (key, _) => {
                let expected = "expected id=ID,src=FILE or id=ID,env=NAME";
                return Err(Error::invalid(format!("`{key}` is not known: {expected}")));
            }
        }
    }
    let id = id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Error::invalid("`id` is missing: expected id=ID,src=FILE"))?;
    if kind.as_deref() == Some("env") && name.is_none() {
        name = Some(source.take().unwrap_or_else(|| id.clone()));
    }
    let source =
        match (source, name) {
            (Some(_), Some(_)) => return Err(Error::invalid(format!("`{id}` has both `src` and `env`"))),
            (Some(path), None) => SecretSource::File(path.into()),
            (None, Some(name)) => SecretSource::Value(variable(&name).ok_or_else(|| {
                Error::invalid(format!("the environment has no variable `{name}` for `{id}`"))
            })?),
            (None, None) => match variable(&id).filter(|_| kind.is_none()) {
                Some(value) => SecretSource::Value(value),
                None => SecretSource::File(id.clone().into()),
            },
        };
    Ok((id, source))
}

/// Finds the sockets of ssh agents, by their ids.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for a text without an id, for a socket that does not exist, and when no socket is named and
/// SSH_AUTH_SOCK is not set; [`crate::ErrorKind::Unsupported`] for a file that is not a socket.
pub fn agents<T: AsRef<str>>(
    texts: impl IntoIterator<Item = T>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut agents = BTreeMap::new();
    for text in texts {
        let text = text.as_ref();
        let (id, socket) = key_value(text);
        let socket = socket.filter(|socket| !socket.is_empty()).map(Path::new);
        agents.insert(id.to_owned(), agent(id, socket, &variable)?);
    }
    Ok(agents)
}

/// The socket of the ssh agent with an id: that which is named, else that of the variable SSH_AUTH_SOCK.
///
/// # Errors
/// Those of [`agents`].
pub fn agent(
    id: &str,
    socket: Option<&Path>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<PathBuf> {
    let text = match socket {
        Some(socket) => format!("{id}={}", socket.display()),
        None => id.to_owned(),
    };
    if id.is_empty() {
        return Err(wrong(&text, "expected ID or ID=SOCKET"));
    }
    let socket = match socket {
        Some(socket) => socket.to_owned(),
        None => variable("SSH_AUTH_SOCK")
            .filter(|socket| !socket.is_empty())
            .map(PathBuf::from)
            .ok_or_else(|| wrong(&text, "SSH_AUTH_SOCK is not set: start an agent, or name its socket"))?,
    };
    let about = |e: std::io::Error| wrong(&text, format_args!("{}: {e}", socket.display()));
    let path = std::path::absolute(&socket).map_err(about)?;
    if !path.metadata().map_err(about)?.file_type().is_socket() {
        return Err(Error::unsupported(format!(
            "`{text}` names a file that is not a socket: give a key to an agent with ssh-add, and name the agent"
        )));
    }
    Ok(path)
}

/// Named contexts, by their names in lower case. `schemes` are those of the sources that the builder was given.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for a malformed text and a folder that does not exist; the errors of
/// [`NamedContext::parse_with`].
pub fn named_contexts<T: AsRef<str>>(
    texts: impl IntoIterator<Item = T>,
    schemes: &[&str],
) -> Result<BTreeMap<String, NamedContext>> {
    let mut contexts = BTreeMap::new();
    for text in texts {
        let text = text.as_ref();
        let (name, value) = match key_value(text) {
            ("", _) | (_, None | Some("")) => return Err(wrong(text, "expected NAME=CONTEXT")),
            (name, Some(value)) => (name, value),
        };
        let context =
            NamedContext::parse_with(value, schemes.iter().copied()).map_err(|e| wrong(text, &e))?;
        if let NamedContext::Folder(folder) = &context
            && !folder.is_dir()
        {
            return Err(wrong(text, format_args!("there is no folder {}", folder.display())));
        }
        contexts.insert(name.to_ascii_lowercase(), context);
    }
    Ok(contexts)
}

/// Entries of /etc/hosts: the name, and the address or [`HOST_GATEWAY`].
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for a malformed text.
pub fn hosts<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Vec<(String, String)>> {
    let one = |text: T| {
        let text = text.as_ref();
        let expected = || wrong(text, "expected NAME:ADDRESS");
        let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(expected)?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let is_address = address == HOST_GATEWAY || address.parse::<std::net::IpAddr>().is_ok();
        match !name.is_empty() && is_address {
            true => Ok((name.to_owned(), address.to_owned())),
            false => Err(expected()),
        }
    };
    texts.into_iter().map(one).collect()
}

/// One platform, of an image that is shown, pulled or saved.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for what is not a platform, and for several.
pub fn platform(text: &str) -> Result<Platform> {
    if text.contains(',') {
        return Err(wrong(text, "expected one platform, such as linux/amd64"));
    }
    text.parse()
}

/// The platforms of a build, in their order and each once. `local` is that of this machine.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for what is not a platform.
pub fn platforms<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Vec<Platform>> {
    let mut platforms: Vec<Platform> = Vec::new();
    for text in texts {
        for part in text.as_ref().split(',').map(str::trim) {
            let platform = match part.eq_ignore_ascii_case("local") {
                true => Platform::host(),
                false => part.parse()?,
            };
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
    }
    Ok(platforms)
}

impl FromStr for EpochPolicy {
    type Err = Error;

    /// Parses seconds since 1970, `auto` or `now`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "now" => Ok(Self::Now),
            number => number
                .parse()
                .map(Self::At)
                .map_err(|_| wrong(number, "expected seconds since 1970, or `now`")),
        }
    }
}

impl FromStr for Network {
    type Err = Error;

    /// Parses `none`, `private`, `host`, or `default`, which means `host`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "host" | "default" => Ok(Self::Host),
            "none" => Ok(Self::None),
            "private" => Ok(Self::Private),
            other => Err(Error::unsupported(format!(
                "the network `{other}` is not supported: host, private or none"
            ))),
        }
    }
}

impl BuildRequest {
    /// Adds a permission: `security.insecure`, `network.host`, `device` for every device, or `device=NAME[,alias=OTHER]`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for another text.
    pub fn allow(&mut self, text: &str) -> Result<()> {
        match key_value(text) {
            ("security.insecure", None) => self.allow_insecure = true,
            ("network.host", None) => self.allow_host_network = true,
            ("device", name) => self.allow_devices.allow(name).map_err(|e| wrong(text, &e))?,
            _ => {
                return Err(wrong(text, "expected security.insecure, network.host, device or device=NAME"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::build::AnnotatedPart;
    use crate::source::BuildContext;

    fn none(_: &str) -> Option<OsString> {
        None
    }

    /// The message of the error of something that must fail.
    fn fails<T>(what: &str, outcome: Result<T>) -> String {
        match outcome {
            Ok(_) => panic!("{what} passed"),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn build_arguments_take_values_from_the_environment() {
        let variable = |name: &str| (name == "B").then(|| "b".into());
        let args = build_args(["A=1", "B", "C", "D="], variable).unwrap();
        assert_eq!(format!("{args:?}"), r#"{"A": "1", "B": "b", "D": ""}"#);
        assert_eq!(fails("=x", build_args(["=x"], none)), "`=x`: expected NAME=VALUE or NAME");
    }

    #[test]
    fn source_date_epoch_of_the_environment_is_a_build_argument() {
        let variable = |name: &str| (name == "SOURCE_DATE_EPOCH").then(|| "5".into());
        assert_eq!(build_args::<&str>([], variable).unwrap()["SOURCE_DATE_EPOCH"], "5");
        assert_eq!(build_args(["SOURCE_DATE_EPOCH=6"], variable).unwrap()["SOURCE_DATE_EPOCH"], "6");
    }

    #[test]
    fn secrets_come_from_files_and_variables() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s");
        std::fs::write(&file, "from file").unwrap();
        let texts = [format!("id=a,src={}", file.display()), "id=b,env=B".into(), "id=c".into()];
        let secrets = secrets(texts, |name| Some(format!("value of {name}").into())).unwrap();
        assert_eq!(secrets["a"].expose(), b"from file");
        assert_eq!(secrets["b"].expose(), b"value of B");
        assert_eq!(secrets["c"].expose(), b"value of c");
    }

    #[test]
    fn a_secret_in_a_variable_can_be_bytes() {
        let bytes = || Some(OsString::from_vec(vec![0xff, 0xfe]));
        assert_eq!(secrets(["id=a,env=A"], |_| bytes()).unwrap()["a"].expose(), [0xff, 0xfe]);
        assert_eq!(secrets(["id=a"], |_| bytes()).unwrap()["a"].expose(), [0xff, 0xfe]);
    }

    #[test]
    fn wrong_secrets_are_rejected() {
        for (text, why) in [
            ("src=x", "`id` is missing"),
            ("id=a,src=x,env=y", "`a` has both"),
            ("id=a,color=red", "`color` is not known"),
            ("id=a,env=MISSING", "no variable `MISSING`"),
            ("id=a,src=/nowhere/at/all", "/nowhere/at/all"),
        ] {
            let e = secrets([text], none).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Invalid, "{text}");
            assert!(e.to_string().contains(why), "{text}: {e}");
        }
    }

    #[test]
    fn agents_are_sockets() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, file) = (folder.path().join("socket"), folder.path().join("file"));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::fs::write(&file, "key").unwrap();
        let variable = |_: &str| Some(socket.clone().into_os_string());
        assert_eq!(agents(["default"], variable).unwrap()["default"], socket);
        assert_eq!(agents([format!("x={}", socket.display())], none).unwrap()["x"], socket);
        assert!(fails("no agent", agents(["default"], none)).contains("SSH_AUTH_SOCK is not set"));
        assert!(fails("no id", agents(["=x"], none)).contains("expected ID"));
        assert!(fails("nothing", agents(["a=/nowhere/at/all"], none)).contains("/nowhere/at/all"));
        let e = agents([format!("a={}", file.display())], none).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(e.to_string().contains("ssh-add"), "{e}");
    }

    #[test]
    fn names_of_contexts_are_in_lower_case() {
        let contexts = named_contexts(["Base=docker-image://x", "s=shelf://a=b"], &["shelf"]).unwrap();
        assert!(matches!(contexts["base"], NamedContext::Image(_)));
        let other = NamedContext::Other { scheme: "shelf".into(), name: "a=b".into() };
        assert_eq!(contexts["s"], other);
        for (text, why) in [
            ("x", "expected NAME=CONTEXT"),
            ("=x", "expected NAME=CONTEXT"),
            ("x=", "expected NAME=CONTEXT"),
            ("x=ftp://a/b", "`ftp://`"),
            ("x=/nowhere/at/all", "there is no folder /nowhere/at/all"),
        ] {
            let e = fails(text, named_contexts([text], &[]));
            assert!(e.starts_with(&format!("`{text}`: ")) && e.contains(why), "{text}: {e}");
        }
    }

    #[test]
    fn hosts_accept_both_separators() {
        assert_eq!(hosts(["a:10.0.0.1", "b=[::1]"]).unwrap().len(), 2);
        assert_eq!(hosts(["b:::1"]).unwrap()[0].1, "::1");
        assert_eq!(hosts(["a:host-gateway"]).unwrap()[0].1, "host-gateway");
        for text in ["a", "a:host-gateways", ":1.2.3.4", "a:"] {
            assert!(fails(text, hosts([text])).contains("expected NAME:ADDRESS"), "{text}");
        }
    }

    #[test]
    fn annotations_name_their_places() {
        use AnnotatedPart::{Index, IndexDescriptor, Manifest, ManifestDescriptor};
        let of = |text: &str| {
            let all = annotations([text]).unwrap_or_else(|e| panic!("{text}: {e:?}"));
            let on = |part| format!("{:?}", all.for_part(part, &"linux/amd64".parse().unwrap()));
            [Manifest, ManifestDescriptor, Index, IndexDescriptor].map(on).join(" ")
        };
        for (text, expected) in [
            ("manifest:a=b", r#"{"a": "b"} {} {} {}"#),
            ("org.x/y=b", r#"{"org.x/y": "b"} {} {} {}"#),
            ("org.x:y=b", r#"{"org.x:y": "b"} {} {} {}"#),
            ("manifest-descriptor:a=b:c", r#"{} {"a": "b:c"} {} {}"#),
            ("manifest,manifest-descriptor:a=b", r#"{"a": "b"} {"a": "b"} {} {}"#),
            ("index:a=b", r#"{} {} {"a": "b"} {}"#),
            ("index,index-descriptor:a", r#"{} {} {"a": ""} {"a": ""}"#),
            ("manifest[linux/amd64],index:a=b", r#"{"a": "b"} {} {"a": "b"} {}"#),
            ("manifest[linux/arm64]:a=b", r#"{} {} {} {}"#),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
        for text in [
            "indx:a=b",
            "manifest:=b",
            "=b",
            "index[linux/amd64]:a=b",
            "manifest[linux:a=b",
            "manifest[]:a=b",
        ] {
            assert_eq!(annotations([text]).unwrap_err().kind(), ErrorKind::Invalid, "{text}");
        }
    }

    #[test]
    fn times_platforms_and_networks_are_parsed() {
        assert_eq!("12".parse::<EpochPolicy>().unwrap(), EpochPolicy::At(12));
        assert_eq!("-1".parse::<EpochPolicy>().unwrap(), EpochPolicy::At(-1));
        assert_eq!("now".parse::<EpochPolicy>().unwrap(), EpochPolicy::Now);
        assert!(fails("tomorrow", "tomorrow".parse::<EpochPolicy>()).contains("`tomorrow`"));
        assert_eq!(platform("linux/arm64").unwrap().to_string(), "linux/arm64");
        assert!(
            fails("linux/amd64,linux/arm64", platform("linux/amd64,linux/arm64")).contains("one platform")
        );
        let shown = |texts: &[&str]| -> String {
            let all: Vec<String> = platforms(texts).unwrap().iter().map(ToString::to_string).collect();
            all.join(" ")
        };
        assert_eq!(
            shown(&["linux/arm64/v8, linux/amd64", "arm64", "linux/arm"]),
            "linux/arm64 linux/amd64 linux/arm/v7"
        );
        assert_eq!(shown(&["local", "LOCAL"]), Platform::host().to_string());
        assert_eq!(shown(&[]), "");
        for text in ["linux/amd64,", "", "linux/amd64,foo"] {
            assert_eq!(platforms([text]).unwrap_err().kind(), ErrorKind::Invalid, "{text}");
        }
        assert_eq!("none".parse::<Network>().unwrap(), Network::None);
        assert_eq!("private".parse::<Network>().unwrap(), Network::Private);
        assert_eq!("default".parse::<Network>().unwrap(), Network::Host);
        assert_eq!("bridge".parse::<Network>().unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn permissions_are_parsed() {
        let mut request = BuildRequest::new("FROM scratch\n", BuildContext::Empty);
        for text in ["security.insecure", "network.host", "device=vendor.example/gpu=1"] {
            request.allow(text).unwrap();
        }
        assert!(request.allow_insecure && request.allow_host_network && !request.allow_devices.all);
        assert!(request.allow_devices.names.contains_key("vendor.example/gpu=1"));
        request.allow("device").unwrap();
        assert!(request.allow_devices.all);
        for text in ["devices", "security.insecure=1", "device=a,as=b"] {
            assert!(fails(text, request.allow(text)).starts_with(&format!("`{text}`: ")), "{text}");
        }
    }
}
