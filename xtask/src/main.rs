//! Checks, generators and the one test command of the repository: `cargo xtask tidy | features | generate |
//! static | test`.
//!
//! Standard library only, so that it compiles in seconds on a fresh machine. Every subcommand ends with exit status 0
//! when all is well, 1 when something is wrong and 2 when it was called wrongly.
#![allow(clippy::print_stdout, reason = "a terminal program")]

mod features;
mod generate;
mod repository;
mod setup;
mod statically;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask <command>

  tidy                checks the house rules: layout, headers, sizes, words, import direction, dependencies
  features            compiles hyper-sdk with each of its features alone, and each crate that takes a part of it
  generate [--check]  writes docs/reference, docs/man and docs/rules from the programs' own help, or checks them
  static [PROFILE]    builds hyperbuild and hyperregistry into target/static, as files that run in images without a C library;
                      PROFILE is `dist` unless given
  test [--ci] [--no-setup]
                      prepares the machine and runs every test; --ci checks the features too, and makes an
                      unexpected skip a failure; --no-setup installs nothing";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["tidy"] => tidy::run(),
        ["features"] => features::check(),
        ["generate"] => generate::run(false),
        ["generate", "--check"] => generate::run(true),
        ["static"] => statically::run("dist"),
        ["static", profile] if !profile.starts_with('-') => statically::run(profile),
        ["test", flags @ ..] if flags.iter().all(|f| matches!(*f, "--ci" | "--no-setup")) => {
            test::run(flags.contains(&"--ci"), !flags.contains(&"--no-setup"))
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
