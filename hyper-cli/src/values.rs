//! The values of options: comma-separated fields, `KEY=VALUE`, secrets, hosts.

use crate::failure::Failure;
use hyper_sdk::build::{EpochPolicy, HOST_GATEWAY, PlacedAnnotations};
use hyper_sdk::dockerfile::csv_fields;
use hyper_sdk::exec::SecretBytes;
use hyper_sdk::small_file::{self, Kinds};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The most bytes of the file of a secret.
const MAX_SECRET: u64 = 1 << 20;

/// An error with its cause, in one line.
fn told(error: &hyper_sdk::Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// Splits `KEY=VALUE`; without `=` there is no value.
pub(crate) fn key_value(text: &str) -> (&str, Option<&str>) {
    text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)))
}

/// A map of `KEY=VALUE` options, the last of a key winning.
pub(crate) fn map(flag: &str, entries: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    entries
        .iter()
        .map(|entry| match key_value(entry) {
            ("", _) => Err(Failure::usage(format!("--{flag} `{entry}`: expected KEY=VALUE"))),
            (key, value) => Ok((key.to_owned(), value.unwrap_or_default().to_owned())),
        })
        .collect()
}

/// Build arguments: a name without a value takes that of the environment, and is left out when there is none.
pub(crate) fn build_args(
    entries: &[String],
    environment: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut map = BTreeMap::new();
    for entry in entries {
        match key_value(entry) {
            ("", _) => {
                return Err(Failure::usage(format!("--build-arg `{entry}`: expected NAME=VALUE or NAME")));
            }
            (name, Some(value)) => {
                map.insert(name.to_owned(), value.to_owned());
            }
            (name, None) => {
                if let Some(value) = environment(name) {
                    map.insert(name.to_owned(), value);
                }
            }
        }
    }
    Ok(map)
}

/// Annotations: `KEY=VALUE` of the manifest, or `PLACE[,PLACE]:KEY=VALUE`.
pub(crate) fn annotations(entries: &[String]) -> Result<PlacedAnnotations, Failure> {
    let mut annotations = PlacedAnnotations::default();
    let is_place = |place: &str| {
        let word = place.split('[').next().unwrap_or_default();
        word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
    };
    for entry in entries {
        let usage = |why: &str| Failure::usage(format!("--annotation `{entry}`: {why}"));
        let (key, value) = key_value(entry);
        let (places, key) = match key.split_once(':') {
            // A word in small letters is a place, and no part of a key.
            Some((places, key)) if places.split(',').all(is_place) => (places, key),
            _ => ("manifest", key),
        };
        if key.is_empty() {
            return Err(usage("expected KEY=VALUE or PLACE:KEY=VALUE"));
        }
        for place in places.split(',') {
            let place = place.parse().map_err(|e: hyper_sdk::Error| usage(e.message()))?;
            annotations.add(place, key, value.unwrap_or_default());
        }
    }
    Ok(annotations)
}

/// Finds the sockets of agents: `ID=SOCKET`, or `ID` alone for the socket of SSH_AUTH_SOCK.
pub(crate) fn agents(
    entries: &[String],
    environment: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let mut agents = BTreeMap::new();
    for entry in entries {
        let usage = |why: String| Failure::usage(format!("--ssh `{entry}`: {why}"));
        let (id, socket) = key_value(entry);
        if id.is_empty() {
            return Err(usage("expected ID or ID=SOCKET".to_owned()));
        }
        let socket = match socket.filter(|s| !s.is_empty()) {
            Some(socket) => socket.to_owned(),
            None => environment("SSH_AUTH_SOCK").filter(|s| !s.is_empty()).ok_or_else(|| {
                usage("SSH_AUTH_SOCK is not set: start an agent, or name its socket".to_owned())
            })?,
        };
        let path = std::path::absolute(&socket).map_err(|e| usage(format!("{socket}: {e}")))?;
        let meta = std::fs::metadata(&path).map_err(|e| usage(format!("{}: {e}", path.display())))?;
        if !std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()) {
            return Err(unsupported(format!(
                "--ssh `{entry}` names a file that is no socket: give a key to an agent with ssh-add, and name the agent"
            )));
        }
        agents.insert(id.to_owned(), path);
    }
    Ok(agents)
}

/// Reads the secrets: `id=ID,src=FILE`, `id=ID,env=NAME`, or `id=ID` alone for the variable or else the file ID.
pub(crate) fn secrets(
    entries: &[String],
    environment: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, SecretBytes>, Failure> {
    let mut secrets = BTreeMap::new();
    for entry in entries {
        let usage = |why: String| Failure::usage(format!("--secret: {why}"));
        let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
        for field in csv_fields(entry).map_err(usage)? {
            match key_value(&field) {
                ("id", Some(value)) => id = Some(value.to_owned()),
                ("src" | "source", Some(value)) => source = Some(value.to_owned()),
                ("env", Some(value)) => variable = Some(value.to_owned()),
                ("type", Some(value @ ("file" | "env"))) => kind = Some(value.to_owned()),
                (key, _) => {
                    return Err(usage(format!(
                        "`{key}` is not known: expected id=ID,src=FILE or id=ID,env=NAME"
                    )));
                }
            }
        }
        let id = id
            .filter(|id| !id.is_empty())
            .ok_or_else(|| usage("`id` is missing: expected id=ID,src=FILE".into()))?;
        if kind.as_deref() == Some("env") && variable.is_none() {
            variable = Some(source.take().unwrap_or_else(|| id.clone()));
        }
        if source.is_some() && variable.is_some() {
            return Err(usage(format!("`{id}` has both `src` and `env`")));
        }
        let from_file = |path: &str| {
            let what = format!("the file of the secret `{id}`");
            small_file::read(Path::new(path), &what, MAX_SECRET, Kinds::FilesAndPipes)
                .map_err(|e| usage(told(&e)))
        };
        let bytes = match (source, variable) {
            (Some(path), _) => from_file(&path)?,
            (None, Some(name)) => environment(&name)
                .ok_or_else(|| usage(format!("the environment has no variable `{name}` for `{id}`")))?
                .into_bytes(),
            (None, None) => match environment(&id).filter(|_| kind.is_none()) {
                Some(value) => value.into_bytes(),
                None => from_file(&id)?,
            },
        };
        secrets.insert(id, SecretBytes::new(bytes));
    }
    Ok(secrets)
}

/// Entries of /etc/hosts: `NAME:ADDRESS` or `NAME=ADDRESS`, an IPv6 address with or without brackets, or
/// `host-gateway`.
pub(crate) fn hosts(entries: &[String]) -> Result<Vec<(String, String)>, Failure> {
    entries
        .iter()
        .map(|entry| {
            let usage = || Failure::usage(format!("--add-host `{entry}`: expected NAME:ADDRESS"));
            let (name, address) =
                entry.split_once('=').or_else(|| entry.split_once(':')).ok_or_else(usage)?;
            let address = address.trim_start_matches('[').trim_end_matches(']');
            let is_address = address == HOST_GATEWAY || address.parse::<std::net::IpAddr>().is_ok();
            if name.is_empty() || !is_address {
                return Err(usage());
            }
            Ok((name.to_owned(), address.to_owned()))
        })
        .collect()
}

/// `--source-date-epoch`.
pub(crate) fn epoch(value: Option<&str>) -> Result<EpochPolicy, Failure> {
    match value {
        None | Some("auto") => Ok(EpochPolicy::Auto),
        Some("now") => Ok(EpochPolicy::Now),
        Some(number) => number.parse().map(EpochPolicy::At).map_err(|_| {
            Failure::usage(format!("--source-date-epoch `{number}`: expected seconds since 1970, or `now`"))
        }),
    }
}

/// A failure that names what is not supported.
pub(crate) fn unsupported(what: impl Into<String>) -> Failure {
    hyper_sdk::Error::unsupported(what).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|e| (*e).to_owned()).collect()
    }

    #[test]
    fn build_arguments_come_from_the_environment() {
        let args =
            build_args(&owned(&["A=1", "B", "C", "D="]), |n| (n == "B").then(|| "b".to_owned())).unwrap();
        assert_eq!(format!("{args:?}"), r#"{"A": "1", "B": "b", "D": ""}"#);
        assert!(build_args(&owned(&["=x"]), |_| None).is_err());
    }

    #[test]
    fn secrets_come_from_files_and_variables() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s");
        std::fs::write(&file, "from file").unwrap();
        let entries = [format!("id=a,src={}", file.display()), "id=b,env=B".into(), "id=c".into()];
        let secrets = secrets(&entries, |n| Some(format!("value of {n}"))).unwrap();
        assert_eq!(secrets["a"].expose(), b"from file");
        assert_eq!(secrets["b"].expose(), b"value of B");
        assert_eq!(secrets["c"].expose(), b"value of c");
    }

    #[test]
    fn wrong_secrets_are_refused() {
        for entry in ["src=x", "id=a,src=x,env=y", "id=a,color=red", "id=a,env=MISSING"] {
            assert!(secrets(&owned(&[entry]), |_| None).is_err(), "{entry}");
        }
    }

    #[test]
    fn hosts_take_both_separators() {
        assert_eq!(hosts(&owned(&["a:10.0.0.1", "b=[::1]"])).unwrap().len(), 2);
        assert_eq!(hosts(&owned(&["b:::1"])).unwrap()[0].1, "::1");
        assert!(hosts(&owned(&["a"])).is_err());
        assert_eq!(hosts(&owned(&["a:host-gateway"])).unwrap()[0].1, "host-gateway");
        assert!(hosts(&owned(&["a:host-gateways"])).is_err());
    }

    #[test]
    fn annotations_have_a_place() {
        use hyper_sdk::build::AnnotatedPart::{Index, IndexDescriptor, Manifest, ManifestDescriptor};
        let of = |text: &str| {
            let all = annotations(&owned(&[text])).unwrap_or_else(|e| panic!("{text}: {e:?}"));
            let on = |part| format!("{:?}", all.of(part, &"linux/amd64".parse().unwrap()));
            [Manifest, ManifestDescriptor, Index, IndexDescriptor].map(on).join(" ")
        };
        for (text, told) in [
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
            assert_eq!(of(text), told, "{text}");
        }
        for text in [
            "indx:a=b",
            "manifest:=b",
            "=b",
            "index[linux/amd64]:a=b",
            "manifest[linux:a=b",
            "manifest[]:a=b",
        ] {
            assert!(matches!(annotations(&owned(&[text])), Err(Failure::Usage(_))), "{text}");
        }
    }

    #[test]
    fn epochs() {
        assert_eq!(epoch(Some("12")).unwrap(), EpochPolicy::At(12));
        assert_eq!(epoch(Some("now")).unwrap(), EpochPolicy::Now);
        assert!(epoch(Some("tomorrow")).is_err());
    }
}
