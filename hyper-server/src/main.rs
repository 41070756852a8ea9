//! The `hyperregistry` program.

fn main() -> std::process::ExitCode {
    hyper_sdk::runtime::use_own_name_services();
    hyper_server::cli::main()
}
