//! The `hyperregistry` program.

fn main() -> std::process::ExitCode {
    hyper_server::cli::main()
}
