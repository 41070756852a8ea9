//! The `hyperbuild` program.

fn main() -> std::process::ExitCode {
    hyper_cli::Cli::new("hyperbuild").run()
}
