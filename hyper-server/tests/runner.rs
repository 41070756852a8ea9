//! The integration tests of the registry, in one binary.

#![allow(missing_docs, reason = "tests explain themselves by their names")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test that needs what is not there says so")]

mod suite {
    mod access;
    mod acme;
    mod acme_failures;
    mod acme_server;
    mod api_tokens;
    mod audit;
    mod backup;
    mod blobs;
    mod bucket;
    mod byte_rates;
    mod client;
    mod clients;
    mod clients_daemons;
    mod clients_images;
    mod clients_site;
    mod clients_tools;
    mod cluster;
    mod conformance;
    mod database;
    mod database_tls;
    mod deploy;
    mod embedding;
    mod events;
    mod faults;
    mod hostile;
    mod http_store;
    mod import;
    mod issuers;
    mod ldap;
    mod limits;
    mod lists;
    mod login;
    mod login_issuer;
    mod machine;
    mod manifests;
    mod oci_client;
    mod operations;
    mod places;
    mod policy;
    mod program;
    mod pulls;
    mod quotas;
    mod receiver;
    mod refresh_tokens;
    mod registry_conformance;
    mod registry_mutants;
    mod reload;
    mod retention;
    mod scrub;
    mod slapd;
    mod slow_directory;
    mod sockets;
    mod storage;
    mod support;
    mod tls;
    mod token_keys;
    mod tokens;
    #[cfg(feature = "otlp")]
    mod traces;
    mod undelete;
    mod unread;
    mod uploads;
    mod webhook_failures;
    mod webhooks;

    /// A file that is not declared above would be a test that never runs.
    #[test]
    fn every_file_is_declared() {
        let declared = include_str!("runner.rs");
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let module = name.strip_suffix(".rs").expect("only Rust files");
            assert!(declared.contains(&format!("    mod {module};")), "{name}");
        }
    }
}
