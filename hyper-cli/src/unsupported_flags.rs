//! Flags of `docker buildx build`, `docker build` and `podman build` that are not supported: the parser knows them only
//! so that the error names them.

use crate::failure::Failure;
use crate::flags::unsupported;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// Flags that need a value.
const WITH_VALUE: &[&str] = &[
    "arch",
    "attest",
    "authfile",
    "builder",
    "cache-ttl",
    "cap-add",
    "cap-drop",
    "cert-dir",
    "cgroupns",
    "cpp-flag",
    "credential-spec",
    "creds",
    "decryption-key",
    "device",
    "dns",
    "dns-option",
    "dns-search",
    "env",
    "from",
    "group-add",
    "hooks-dir",
    "ignorefile",
    "invoke",
    "ipc",
    "jobs",
    "layer-label",
    "logfile",
    "manifest",
    "metadata-provenance",
    "on",
    "os",
    "os-feature",
    "os-version",
    "pid",
    "policy",
    "print",
    "retry",
    "retry-delay",
    "runtime",
    "runtime-flag",
    "security-opt",
    "sign-by",
    "signature-policy",
    "source-policy-file",
    "timestamp",
    "unsetenv",
    "unsetlabel",
    "userns",
    "userns-gid-map",
    "userns-gid-map-group",
    "userns-uid-map",
    "userns-uid-map-user",
    "uts",
    "variant",
    "volume",
];

/// Flags that may be given without a value.
const SWITCHES: &[&str] = &[
    "compat-volumes",
    "compress",
    "created-annotation",
    "cw",
    "debug",
    "detach",
    "disable-compression",
    "disable-content-trust",
    "force-rm",
    "http-proxy",
    "identity-label",
    "inherit-annotations",
    "inherit-labels",
    "layers",
    "logsplit",
    "no-hostname",
    "no-hosts",
    "omit-history",
    "provenance",
    "pull-always",
    "pull-never",
    "rewrite-timestamp",
    "rm",
    "sbom",
    "skip-unused-stages",
    "squash",
    "squash-all",
    "stdin",
    "stream",
    "tls-verify",
];

/// The flags that have a short form, too.
const LETTERS: &[(&str, char)] = &[("debug", 'D'), ("env", 'e'), ("volume", 'v')];

/// The flags that ask for what every build does, unless they are turned off.
const ALWAYS_ON: &[&str] =
    &["disable-content-trust", "layers", "rewrite-timestamp", "rm", "skip-unused-stages", "tls-verify"];

/// Those of them that may be turned off, because that changes nothing.
const WITHOUT_EFFECT: &[&str] = &["rm"];

/// The unsupported flags of a command line, with their values.
#[derive(Debug, Default)]
pub(crate) struct UnsupportedFlags(Vec<(&'static str, Option<String>)>);

impl UnsupportedFlags {
    /// Fails with the first flag that asks for something. A flag such as `--provenance=false` asks for nothing.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        for (name, value) in &self.0 {
            let is_on = value.as_deref().is_none_or(|value| matches!(value, "true" | "1"));
            let is_off = matches!(value.as_deref(), Some("false" | "0"));
            let harmless = match *name {
                "attest" => value.iter().flat_map(|value| value.split(',')).any(|f| f == "disabled=true"),
                name if ALWAYS_ON.contains(&name) => is_on || (is_off && WITHOUT_EFFECT.contains(&name)),
                name => is_off && SWITCHES.contains(&name),
            };
            if !harmless {
                return Err(unsupported(format!("--{name} is not supported yet")));
            }
        }
        Ok(())
    }
}

impl FromArgMatches for UnsupportedFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Self::default();
        given.update_from_arg_matches(matches)?;
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for name in WITH_VALUE.iter().chain(SWITCHES) {
            if let Some(occurrences) = matches.get_occurrences::<String>(name) {
                self.0.extend(occurrences.map(|mut values| (*name, values.next().cloned())));
            }
        }
        Ok(())
    }
}

impl Args for UnsupportedFlags {
    fn augment_args(command: Command) -> Command {
        let argument = |name: &'static &'static str| {
            let argument = Arg::new(*name).long(*name).hide(true).action(ArgAction::Append);
            match LETTERS.iter().find(|(long, _)| long == name) {
                Some((_, letter)) => argument.short(*letter),
                None => argument,
            }
        };
        command
            .args(WITH_VALUE.iter().map(|name| argument(name).num_args(1).allow_hyphen_values(true)))
            .args(SWITCHES.iter().map(|name| argument(name).num_args(0..=1).require_equals(true)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &[&str]) -> Result<(), String> {
        let command = UnsupportedFlags::augment_args(Command::new("build"));
        let matches =
            command.try_get_matches_from([&["build"], arguments].concat()).map_err(|e| e.to_string())?;
        UnsupportedFlags::from_arg_matches(&matches).unwrap().check().map_err(|failure| match failure {
            Failure::Work { error, .. } => {
                assert_eq!(error.kind(), hyper_sdk::ErrorKind::Unsupported);
                error.to_string()
            }
            other => format!("{other:?}"),
        })
    }

    /// Where the guide lists the flags.
    const MARKS: (&str, &str) = ("<!-- flags -->\n", "<!-- end of flags -->\n");

    /// `HYPER_BLESS=1` writes the list.
    #[test]
    fn the_guide_lists_every_flag() {
        let mut flags: Vec<&str> = WITH_VALUE.iter().chain(SWITCHES).copied().collect();
        flags.retain(|flag| !WITHOUT_EFFECT.contains(flag));
        flags.sort_unstable();
        let (mut list, mut line) = (String::new(), String::new());
        for flag in flags {
            if line.len() + flag.len() > 110 {
                list.push_str(&format!("{}\n", line.trim_end()));
                line.clear();
            }
            line.push_str(&format!("`--{flag}` "));
        }
        list.push_str(&format!("{}\n", line.trim_end()));
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
        let guide = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = guide.split_once(MARKS.0).unwrap();
        let (found, after) = rest.split_once(MARKS.1).unwrap();
        if std::env::var_os("HYPER_BLESS").is_some() {
            let text = [before, MARKS.0, &list, MARKS.1, after].concat();
            return std::fs::write(path, text).unwrap();
        }
        assert_eq!(found, list, "HYPER_BLESS=1 writes the list of docs/cli.md");
    }

    #[test]
    fn the_error_names_the_flag() {
        for name in WITH_VALUE.iter().chain(SWITCHES).filter(|name| **name != "rm") {
            let message = check(&[&format!("--{name}=x")]).unwrap_err();
            assert_eq!(message, format!("--{name} is not supported yet"));
        }
        for name in WITH_VALUE {
            let message = check(&[&format!("--{name}"), "x"]).unwrap_err();
            assert_eq!(message, format!("--{name} is not supported yet"));
        }
        for (arguments, name) in [
            (&["-D"][..], "debug"),
            (&["-v", "/a:/b"], "volume"),
            (&["-e", "A=1"], "env"),
            (&["--tls-verify=false"], "tls-verify"),
            (&["--layers=false"], "layers"),
        ] {
            assert_eq!(check(arguments).unwrap_err(), format!("--{name} is not supported yet"));
        }
    }

    #[test]
    fn flags_that_ask_for_nothing_pass() {
        check(&["--provenance=false", "--sbom=false", "--rm", "--attest=type=sbom,disabled=true"]).unwrap();
        check(&["--rm=true", "--squash=false", "--debug=0", "--layers", "--disable-content-trust"]).unwrap();
        assert!(check(&["--provenance"]).is_err());
        assert!(check(&["--rm=false"]).is_ok(), "no intermediate containers are kept or removed");
        assert!(check(&["--retry=false"]).is_err(), "it is not a switch");
    }
}
