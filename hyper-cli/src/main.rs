//! The `hyperbuild` program: parses, calls hyper-sdk, prints.

#![warn(clippy::print_stderr, reason = "`eprintln!` panics when nobody takes the line: use `terminal::tell`")]

mod app;
mod backends;
mod commands;
mod failure;
mod host_tools;
mod interrupt;
mod output;
mod refused;
mod render;
mod terminal;
mod values;

fn main() -> std::process::ExitCode {
    hyper_sdk::exec::init();
    app::main()
}
