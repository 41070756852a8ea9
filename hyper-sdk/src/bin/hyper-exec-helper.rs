//! The sandbox's helper as a program of its own, for embedders whose `main` cannot begin with
//! [`hyper_sdk::exec::init`]. It does nothing when it is started by hand.

use std::process::ExitCode;

fn main() -> ExitCode {
    hyper_sdk::exec::init();
    ExitCode::FAILURE
}
