//! Flags of `docker buildx build` that are not supported: the parser knows them only so that the error names them.

use crate::failure::Failure;
use crate::values::unsupported;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// Name and whether it may be given without a value.
const FLAGS: &[(&str, bool)] = &[
    ("attest", false),
    ("builder", false),
    ("cache-from", false),
    ("cache-to", false),
    ("cgroup-parent", false),
    ("compress", true),
    ("cpu-period", false),
    ("cpu-quota", false),
    ("cpu-shares", false),
    ("cpuset-cpus", false),
    ("cpuset-mems", false),
    ("debug", true),
    ("force-rm", true),
    ("isolation", false),
    ("memory", false),
    ("memory-swap", false),
    ("policy", false),
    ("provenance", true),
    ("rm", true),
    ("sbom", true),
    ("security-opt", false),
    ("shm-size", false),
    ("squash", true),
    ("ulimit", false),
];

/// The refused flags that were given.
#[derive(Debug, Default)]
pub(crate) struct Refused(Vec<(&'static str, Option<String>)>);

impl Refused {
    /// Fails with the first flag that asks for something. `--provenance=false` and its like ask for nothing.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        for (name, value) in &self.0 {
            let harmless = match (*name, value.as_deref()) {
                ("provenance" | "sbom", Some("false")) | ("rm", None | Some("true")) => true,
                ("attest", Some(value)) => value.split(',').any(|f| f == "disabled=true"),
                (_, value) => value == Some("false"),
            };
            if !harmless {
                return Err(unsupported(format!("--{name} is not supported yet")));
            }
        }
        Ok(())
    }
}

impl FromArgMatches for Refused {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Self::default();
        given.update_from_arg_matches(matches)?;
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (name, _) in FLAGS {
            if let Some(occurrences) = matches.get_occurrences::<String>(name) {
                self.0.extend(occurrences.map(|mut values| (*name, values.next().cloned())));
            }
        }
        Ok(())
    }
}

impl Args for Refused {
    fn augment_args(command: Command) -> Command {
        command.args(FLAGS.iter().map(|(name, optional)| {
            let argument = Arg::new(*name).long(*name).hide(true).action(ArgAction::Append);
            if *optional { argument.num_args(0..=1).require_equals(true) } else { argument.num_args(1) }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &[&str]) -> Result<(), String> {
        let command = Refused::augment_args(Command::new("build"));
        let matches =
            command.try_get_matches_from([&["build"], arguments].concat()).map_err(|e| e.to_string())?;
        Refused::from_arg_matches(&matches).unwrap().check().map_err(|failure| match failure {
            Failure::Work { error, .. } => {
                assert_eq!(error.kind(), hyper_sdk::ErrorKind::Unsupported);
                error.to_string()
            }
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn every_flag_is_refused_by_its_name() {
        for (name, _) in FLAGS {
            if *name == "rm" {
                continue;
            }
            let message = check(&[&format!("--{name}=x")]).unwrap_err();
            assert_eq!(message, format!("--{name} is not supported yet"));
        }
    }

    #[test]
    fn what_asks_for_nothing_passes() {
        check(&["--provenance=false", "--sbom=false", "--rm", "--attest=type=sbom,disabled=true"]).unwrap();
        check(&["--rm=true", "--squash=false"]).unwrap();
        assert!(check(&["--provenance"]).is_err());
        assert!(check(&["--rm=false"]).is_ok(), "no intermediate containers are kept or removed");
    }
}
