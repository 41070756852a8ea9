//! The files of the AWS tools: `~/.aws/credentials` and `~/.aws/config`.
//!
//! ```text
//!   credentials   [NAME]                        aws_access_key_id = …
//!   config        [profile NAME], [default]     region = …
//! ```
//!
//! Lines that begin with `#` or `;` are comments, and indented ones belong to the value above them.

use super::environment::AwsEnvironment;
use crate::small_file::{self, Kinds};
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeMap;

/// The most bytes of such a file.
const MAX_FILE: u64 = 1 << 20;

/// The values of a profile.
#[derive(Default)]
pub(super) struct Profile {
    pub(super) name: String,
    values: BTreeMap<String, String>,
}

impl Profile {
    /// Reads the profile that the environment names, or the one that is called `default`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the environment names a profile and no file has it; those of reading the files.
    pub(super) fn read(environment: &AwsEnvironment) -> Result<Self> {
        let named = environment.get("AWS_PROFILE");
        let name = named.unwrap_or("default");
        let mut found = false;
        let mut values = BTreeMap::new();
        let files = [
            ("AWS_CONFIG_FILE", "config", format!("profile {name}")),
            ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name.to_owned()),
        ];
        for (variable, in_home, section) in files {
            let Some(path) = environment.file(variable, in_home) else { continue };
            let what = format!("the {in_home} file of AWS");
            let text = match small_file::read_text(&path, &what, MAX_FILE, Kinds::Files) {
                Ok(text) => text,
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let accepted: &[&str] = if name == "default" { &[&section, "default"] } else { &[&section] };
            if let Some(more) = section_of(&text, accepted) {
                found = true;
                values.extend(more);
            }
        }
        if let Some(name) = named.filter(|_| !found) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("no file of AWS has the profile `{}` of AWS_PROFILE", name.escape_debug()),
            ));
        }
        Ok(Self { name: name.to_owned(), values })
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// The values of the sections with one of these names; `None` when there is no such section.
fn section_of(text: &str, names: &[&str]) -> Option<BTreeMap<String, String>> {
    let mut found = None::<BTreeMap<String, String>>;
    let mut is_wanted = false;
    for line in text.lines() {
        if line.starts_with(['#', ';', ' ', '\t']) {
            continue;
        }
        let line = line.trim_end();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.split_once(']').map_or(header, |(name, _)| name);
            let header = header.split_whitespace().collect::<Vec<_>>().join(" ");
            is_wanted = names.contains(&header.as_str());
            if is_wanted {
                found.get_or_insert_default();
            }
        } else if is_wanted
            && let Some((key, value)) = line.split_once('=')
            && let Some(values) = &mut found
        {
            values.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_have_values() {
        let text = "# a comment\n[default]\naws_access_key_id = one\n\n[ profile  ci ]\nRegion=eu-west-1\ns3 =\n  max = 1\n[other]\nregion = x\nnonsense\n[default]\nregion = late\n";
        let default = section_of(text, &["default"]).unwrap();
        assert_eq!(default["aws_access_key_id"], "one");
        assert_eq!(default["region"], "late");
        let ci = section_of(text, &["profile ci"]).unwrap();
        assert_eq!(ci.get("region").map(String::as_str), Some("eu-west-1"));
        assert_eq!(ci.get("max"), None);
        assert!(section_of(text, &["ci"]).is_none());
        assert!(section_of("[", &["x"]).is_none() && section_of("=\n[]\n=", &[""]).unwrap().len() == 1);
    }
}
