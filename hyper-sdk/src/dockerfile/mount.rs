//! The mounts and devices of RUN: `--mount=type=cache,target=/root/.cache,sharing=locked`.
//!
//! The value is one line of CSV. Keys are case-insensitive, and each value is expanded with the environment of the stage.

use super::diagnostic::Diagnostic;
use super::flags::parse_bool;
use super::instruction::Device;
use super::span::Span;
use super::suggest::suggestion;
use crate::{Error, ErrorKind};
use std::fmt;

/// The kind of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// A path of the context, a stage or an image.
    #[default]
    Bind,
    /// A folder that outlives the build.
    Cache,
    /// An empty folder in memory.
    Tmpfs,
    /// A secret as a file or a variable.
    Secret,
    /// The socket of an ssh agent.
    Ssh,
}

impl MountKind {
    /// Every kind.
    pub const ALL: [MountKind; 5] = [Self::Bind, Self::Cache, Self::Tmpfs, Self::Secret, Self::Ssh];

    /// The value of `type=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

/// How concurrent steps share a cache mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// All steps use one folder.
    #[default]
    Shared,
    /// Each step gets its own folder.
    Private,
    /// Steps wait for each other.
    Locked,
}

impl Sharing {
    /// Every mode.
    pub const ALL: [Sharing; 3] = [Self::Shared, Self::Private, Self::Locked];

    /// The value of `sharing=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Private => "private",
            Self::Locked => "locked",
        }
    }
}

/// An expanded and checked mount of a RUN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// The kind.
    pub kind: MountKind,
    /// `from`: the stage, image or named context of a bind or cache mount.
    pub from: Option<String>,
    /// `source`: the path in `from`; the name of a secret when `id` is not given.
    pub source: Option<String>,
    /// `target`: the path of the mount, which can be relative to the working directory.
    pub target: Option<String>,
    /// Whether it is read-only. Writes to a bind mount are discarded after the step.
    pub read_only: bool,
    /// `size` of a tmpfs in bytes.
    pub size: Option<u64>,
    /// `id` of a cache, secret or ssh mount.
    pub id: Option<String>,
    /// `sharing` of a cache mount, when it is given.
    pub sharing: Option<Sharing>,
    /// Whether the step fails without the secret or ssh agent.
    pub required: bool,
    /// `env` of a secret: its variable. An empty name stands for the id.
    pub env: Option<String>,
    /// `mode` of a secret, ssh or cache mount.
    pub mode: Option<u32>,
    /// `uid` of a secret, ssh or cache mount.
    pub uid: Option<u32>,
    /// `gid` of a secret, ssh or cache mount.
    pub gid: Option<u32>,
}

/// The error of the value of a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueError {
    /// One sentence in lower case, without a full stop.
    pub message: String,
    /// The nearest known word.
    pub suggestion: Option<String>,
    /// How to fix it.
    pub help: Option<String>,
}

impl ValueError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), suggestion: None, help: None }
    }

    fn near<'a>(mut self, word: &str, options: impl IntoIterator<Item = &'a str>) -> Self {
        self.suggestion = suggestion(word, options).map(str::to_owned);
        self
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The diagnostic at the place of the value.
    pub(crate) fn into_diagnostic(self, code: &'static str, span: Span) -> Diagnostic {
        let mut d = Diagnostic::error(code, span, self.message).with_suggestion(self.suggestion);
        d.help.extend(self.help);
        d
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(word) => write!(f, " (did you mean `{word}`?)"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ValueError {}

impl std::convert::From<ValueError> for Error {
    fn from(e: ValueError) -> Self {
        Error::new(ErrorKind::Invalid, e.to_string())
    }
}

impl std::convert::From<super::ExpandError> for ValueError {
    fn from(e: super::ExpandError) -> Self {
        Self::new(e.message)
    }
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

/// The options that need no value.
const SWITCHES: [&str; 5] = ["readonly", "ro", "readwrite", "rw", "required"];

impl Mount {
    /// Parses an expanded value of `--mount`.
    ///
    /// # Errors
    /// A [`ValueError`] that names the key or value.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        Self::parse_with(text, |value| Ok(value.to_owned()))
    }

    /// Parses a value of `--mount`, expanding each option's value.
    ///
    /// # Errors
    /// A [`ValueError`] that names the key or value, and the errors of the expansion.
    pub fn parse_with(
        text: &str,
        mut expand: impl FnMut(&str) -> Result<String, ValueError>,
    ) -> Result<Self, ValueError> {
        let mut mount = Self::default();
        let mut fields = Vec::new();
        for field in csv_fields(text)? {
            let (key, value) = split_field(&field)?;
            let value = match value {
                Some(value) => Some(expand(value)?),
                None => None,
            };
            fields.push((key, value, field));
        }
        // The type decides about the other keys, whatever their order.
        for (_, value, _) in fields.iter().filter(|(key, _, _)| key == "type") {
            mount.kind = one_of("type", value.as_deref().unwrap_or_default(), &MountKind::ALL, |k| k.name())?;
        }
        let mut read_only = None;
        for (key, value, field) in &fields {
            mount.set(key, value.as_deref(), field, &mut read_only)?;
        }
        mount.read_only = read_only.unwrap_or(!matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs));
        mount.check()?;
        Ok(mount)
    }

    fn set(
        &mut self,
        key: &str,
        value: Option<&str>,
        field: &str,
        read_only: &mut Option<bool>,
    ) -> Result<(), ValueError> {
        let text = || value.unwrap_or_default().to_owned();
        let switch = || match value {
            None => Ok(true),
            Some(v) => parse_bool(v).ok_or_else(|| ValueError::new(format!("invalid value `{v}` for {key}"))),
        };
        match key {
            "type" => {}
            "from" => self.from = Some(text()).filter(|t| !t.is_empty()),
            "source" | "src" => self.source = Some(text()).filter(|t| !t.is_empty()),
            "target" | "dst" | "destination" => self.target = Some(text()).filter(|t| !t.is_empty()),
            "readonly" | "ro" => *read_only = Some(switch()?),
            "readwrite" | "rw" => *read_only = Some(!switch()?),
            "id" => self.id = Some(text()).filter(|t| !t.is_empty()),
            "sharing" => self.sharing = Some(one_of("sharing", &text(), &Sharing::ALL, |s| s.name())?),
            "required" if matches!(self.kind, MountKind::Secret | MountKind::Ssh) => {
                self.required = switch()?;
            }
            "size" if self.kind == MountKind::Tmpfs => {
                self.size = Some(super::duration::parse_size(&text()).map_err(ValueError::new)?);
            }
            "required" | "size" => {
                let message = format!("unexpected key `{key}` for mount type `{}`", self.kind.name());
                return Err(ValueError::new(message));
            }
            "mode" => self.mode = Some(number(key, &text(), 8)?),
            "uid" => self.uid = Some(number(key, &text(), 10)?),
            "gid" => self.gid = Some(number(key, &text(), 10)?),
            "env" => self.env = Some(text()),
            _ => {
                return Err(ValueError::new(format!("unexpected key `{key}` in `{field}`"))
                    .near(key, KEYS)
                    .help(format!("a mount has {}", KEYS.map(|k| format!("`{k}`")).join(", "))));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ValueError> {
        let kind = self.kind.name();
        let has_owner = matches!(self.kind, MountKind::Secret | MountKind::Ssh | MountKind::Cache);
        for (key, given) in
            [("mode", self.mode.is_some()), ("uid", self.uid.is_some()), ("gid", self.gid.is_some())]
        {
            if given && !has_owner {
                return Err(ValueError::new(format!("`{key}` is not allowed for mount type `{kind}`")));
            }
        }
        if self.kind == MountKind::Secret {
            if self.from.is_some() {
                return Err(ValueError::new("a secret mount cannot have `from`"));
            }
            if self.source.is_none() && self.target.is_none() && self.id.is_none() {
                return Err(ValueError::new("a secret mount needs `id`, `source` or `target`"));
            }
            if self.source.is_some() && self.id.is_some() {
                return Err(ValueError::new("a secret mount cannot have both `source` and `id`"));
            }
        }
        if self.sharing.is_some() && self.kind != MountKind::Cache {
            return Err(ValueError::new(format!("`sharing` is not allowed for mount type `{kind}`")));
        }
        Ok(())
    }
}

/// Checks the form and the keys of a value, which do not depend on variables. `from` cannot have variables.
pub(crate) fn check_unexpanded(text: &str) -> Result<(), ValueError> {
    for field in csv_fields(text)? {
        let (key, value) = split_field(&field)?;
        if !KEYS.contains(&key.as_str()) {
            return Err(ValueError::new(format!("unexpected key `{key}` in `{field}`")).near(&key, KEYS));
        }
        if key == "from" && value.is_some_and(|v| v.trim_end_matches('$').contains('$')) {
            return Err(ValueError::new("`from` of a mount cannot have a variable")
                .help("define a stage with `FROM` and an `ARG` of the global scope, and name that stage"));
        }
    }
    Ok(())
}

/// The `from` of an unexpanded value of `--mount`, when it has one.
pub(crate) fn from_of(text: &str) -> Option<String> {
    let fields = csv_fields(text).ok()?;
    let value = fields.iter().rev().find_map(|field| {
        let (key, value) = split_field(field).ok()?;
        (key == "from").then(|| value.unwrap_or_default().to_owned())
    });
    value.filter(|v| !v.is_empty())
}

fn split_field(field: &str) -> Result<(String, Option<&str>), ValueError> {
    match field.split_once('=') {
        Some((key, value)) => Ok((key.to_lowercase(), Some(value))),
        None => {
            let key = field.to_lowercase();
            if SWITCHES.contains(&key.as_str()) {
                return Ok((key, None));
            }
            Err(ValueError::new(format!("invalid field `{field}`: it must be `key=value`"))
                .near(&key, SWITCHES))
        }
    }
}

fn one_of<T: Copy>(
    what: &str,
    value: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T, ValueError> {
    all.iter().copied().find(|t| name(*t).eq_ignore_ascii_case(value)).ok_or_else(|| {
        let names: Vec<String> = all.iter().map(|t| format!("`{}`", name(*t))).collect();
        ValueError::new(format!("unsupported mount {what} `{value}`"))
            .near(value, all.iter().map(|t| name(*t)))
            .help(format!("it is one of {}", names.join(", ")))
    })
}

fn number(key: &str, text: &str, radix: u32) -> Result<u32, ValueError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    u32::from_str_radix(text, radix)
        .ok()
        .filter(|_| digits)
        .ok_or_else(|| ValueError::new(format!("invalid value `{text}` for {key}")))
}

/// Parses a value of `--device`: `NAME[,required]` or `name=NAME,required=true`.
///
/// # Errors
/// A [`ValueError`] that names the field.
pub fn parse_device(text: &str) -> Result<Device, ValueError> {
    let mut device = Device::default();
    for field in csv_fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(v)) => {
                device.required = parse_bool(v)
                    .ok_or_else(|| ValueError::new(format!("invalid value `{v}` for required")))?;
            }
            ("name", Some(_)) if !device.name.is_empty() => {
                return Err(ValueError::new(format!("the device name is already `{}`", device.name)));
            }
            ("name", Some(v)) => device.name = v.to_owned(),
            _ if device.name.is_empty() => device.name = field,
            _ => {
                return Err(ValueError::new(format!("unexpected field `{field}` of a device"))
                    .near(&key, ["name", "required"]));
            }
        }
    }
    if device.name.is_empty() {
        return Err(ValueError::new("a device needs a name"));
    }
    Ok(device)
}

/// The fields of a value that is not empty.
fn csv_fields(text: &str) -> Result<Vec<String>, ValueError> {
    if text.is_empty() {
        return Err(ValueError::new("the value is empty"));
    }
    super::csv::csv_fields(text).map_err(ValueError::new)
}
