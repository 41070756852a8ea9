//! `hyperbuild rules`, which writes the pages of the lint rules of docs/rules.

use crate::failure::Failure;
use clap::Args;
use hyper_sdk::Error;
use hyper_sdk::lint::{RULES, Rule};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Writes the pages of the lint rules into a folder
#[derive(Debug, Args)]
pub(crate) struct RulesArgs {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(crate) fn run(args: &RulesArgs) -> Result<(), Failure> {
    let failed = |e| Error::io("cannot write the pages of the rules", &args.folder, e);
    std::fs::create_dir_all(&args.folder).map_err(failed)?;
    for rule in RULES {
        std::fs::write(args.folder.join(format!("{}.md", rule.name)), page(rule)).map_err(failed)?;
    }
    std::fs::write(args.folder.join("README.md"), index()).map_err(failed)?;
    Ok(())
}

fn index() -> String {
    let mut text = String::from(
        "# Lint rules\n\n\
         `hyperbuild build --check .` reports what these rules find, and builds nothing; a build shows the same as warnings.\n\n\
         | rule | finds | |\n|---|---|---|\n",
    );
    for rule in RULES {
        let marks = [(rule.fixable, "`--fix`"), (rule.experimental, "experimental")];
        let marks: Vec<&str> = marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect();
        let _ = writeln!(text, "| [{0}]({0}.md) | {1} | {2} |", rule.name, rule.summary, marks.join(", "));
    }
    text.push_str(
        "\n`hyperbuild build --fix .` fixes what the rules marked `--fix` find, where there is one safe way. Experimental rules \
         are off by default.\n\n\
         A directive at the top of a Dockerfile turns rules on and off; the build argument `BUILDKIT_DOCKERFILE_CHECK` \
         overrides it.\n\n\
         ```dockerfile\n# check=skip=JSONArgsRecommended,StageNameCasing;error=true;experimental=InvalidDefinitionDescription\n```\n\n\
         `skip=all` skips all rules, and with `error=true` a finding fails the build.\n\n\
         The same comment directly above an instruction applies to that instruction alone; text after a blank is a note \
         for the reader.\n\n\
         ```dockerfile\n# check=skip=ShellSudoUsed the tool insists on it\nRUN sudo make install\n```\n",
    );
    text
}

fn page(rule: &Rule) -> String {
    let mut text = format!("# {}\n\n{}.\n\n{}\n", rule.name, sentence(rule.summary), rule.why);
    let mut example = |title: &str, dockerfile: &str| {
        let _ = write!(text, "\n## {title}\n\n```dockerfile\n{dockerfile}```\n");
    };
    example("Bad", rule.bad);
    example("Good", rule.good);
    if let Some(ignore) = rule.ignore_file {
        let _ = write!(text, "\nBoth with this `.dockerignore`:\n\n```\n{ignore}```\n");
    }
    text.push_str("\n## Options\n\n");
    if rule.experimental {
        let _ = writeln!(text, "The rule is experimental: `# check=experimental={}` turns it on.", rule.name);
    } else {
        let _ =
            writeln!(text, "`# check=skip={}` at the top of the Dockerfile turns the rule off.", rule.name);
    }
    if rule.fixable {
        text.push_str(
            "\n`hyperbuild build --fix` rewrites what breaks this rule, where there is one safe way.\n",
        );
    }
    text
}

fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}", characters.as_str())
}
