//! The arguments that make a build again, for the history: without what may be a secret.

use super::arguments::BuildArgs;
use crate::failure::Failure;

impl BuildArgs {
    /// The arguments of this program, when they are enough to make the build again and have no secret.
    pub(super) fn to_make_again(&self) -> Option<Vec<String>> {
        if self.context == "-" || self.file.as_deref() == Some("-") {
            return None;
        }
        let all: Option<Vec<String>> =
            std::env::args_os().skip(1).map(|word| word.into_string().ok()).collect();
        without_secrets(&all?)
    }

    /// Gives build arguments their values, which are not kept, from these or else from the environment.
    pub(crate) fn replace_build_args(&mut self, given: &[String]) -> Result<(), Failure> {
        for argument in &mut self.build_args {
            let name = argument.split('=').next().unwrap_or_default().to_owned();
            let value = given.iter().rev().find(|pair| pair.split('=').next() == Some(name.as_str()));
            match value {
                Some(pair) => argument.clone_from(pair),
                None if std::env::var_os(&name).is_some() => {}
                None => {
                    return Err(Failure::usage(format!(
                        "the history has no values of build arguments: give --build-arg {name}=VALUE"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// The arguments of a program without values of build arguments; `None` when an address in them may have a secret.
fn without_secrets(arguments: &[String]) -> Option<Vec<String>> {
    const BUILD_ARG: &str = "--build-arg";
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let (mut kept, mut takes_value) = (Vec::new(), false);
    for argument in arguments {
        let is_value = std::mem::replace(&mut takes_value, argument == BUILD_ARG);
        if is_value {
            kept.push(name(argument));
        } else if let Some(pair) = argument.strip_prefix("--build-arg=") {
            kept.push(format!("{BUILD_ARG}={}", name(pair)));
        } else if argument.contains("://") && argument.contains(['@', '?']) {
            return None;
        } else {
            kept.push(argument.clone());
        }
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_lose_the_values_of_build_arguments() {
        let of = |text: &str| {
            let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
            without_secrets(&words).map(|kept| kept.join(" "))
        };
        let given = "build --build-arg A=1=2 --build-arg=B=secret --build-arg C -t a:1 --label x=y .";
        assert_eq!(
            of(given).unwrap(),
            "build --build-arg A --build-arg=B --build-arg C -t a:1 --label x=y ."
        );
        assert_eq!(of("build https://me:pass@h/r.git"), None);
        assert_eq!(of("build --build-context=a=https://h/a.tar?token=1 ."), None);
        assert!(of("build --build-context=a=docker-image://a:1 .").is_some());
    }
}
