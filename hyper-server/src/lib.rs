//! An OCI registry server as a library.
//!
//! [`Registry`] answers requests from any [`hyper_sdk::store::RegistryStore`]; it is a tower service, and [`router`]
//! makes an axum router of it. [`serve`] runs it, or any other service, on a socket, with limits and a graceful
//! shutdown; [`Server`] does so in the background. A program brings its own [`auth::Authenticator`] and
//! [`auth::Authorizer`]. The program `hyperregistry` is a thin layer over [`cli`].
//!
//! # Invariants
//! - A handler parses names into newtypes, calls the store and shapes a response; it keeps no state of its own.
//! - `error.rs` alone decides which details go to the client and which only to the log.
//! - Files import in one direction: `options metrics …` → `state` → `call` → `handlers` → `registry` → `server cli` →
//!   `session`.

mod access_log;
mod acme;
mod acme_config;
mod admission;
mod audit;
pub mod auth;
mod auth_config;
mod backup_command;
mod backup_report;
mod blob_place;
mod body;
mod call;
mod check_command;
pub mod cli;
mod client_certificate;
pub mod command_docs;
mod config;
mod config_command;
mod config_schema;
mod config_shapes;
mod config_source;
#[cfg(feature = "conformance")]
mod conformance;
mod connection;
mod cors;
mod cors_config;
mod database;
mod dependencies;
mod ended_logins;
mod environment;
mod error;
mod event_config;
mod event_query;
mod event_waiters;
mod events_command;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gc_command;
mod handlers;
mod hang_up;
mod http_connection;
mod import_command;
mod issuer_config;
mod key_command;
mod ldap_config;
mod listen;
mod listen_on;
mod listener;
mod log;
mod log_filter;
mod log_level;
mod login_config;
mod login_query;
mod maintenance;
mod metric_list;
mod metrics;
mod migrate_command;
mod open_store;
mod options;
mod otlp;
mod otlp_config;
mod paced_body;
mod path_prefix;
pub mod policy;
mod policy_command;
mod progress;
mod proxies;
mod query;
mod quota_command;
mod quota_config;
mod quota_gauges;
mod readiness;
mod registry;
#[cfg(any(feature = "conformance", feature = "import-registry"))]
mod registry_args;
mod reload;
mod reloads;
mod remembered;
mod request_id;
mod restore_command;
mod retention_command;
mod retention_config;
mod route;
mod serve;
mod server;
#[cfg(feature = "session")]
mod session;
mod socket;
mod standard_io;
mod state;
mod status;
mod store_args;
mod suspects;
mod throttle;
mod tls;
mod tls_config;
mod tls_pem;
mod token_command;
mod token_config;
mod trace;
mod typed_command;
mod undelete_command;
mod undelete_config;
mod units;
mod unix_socket;
mod webhook;
mod webhook_command;
mod webhook_config;

pub use acme::{AcmeChallenge, AcmeExternalAccount, AcmeOptions, HttpAnswers, directory_url};
pub use audit::AuditLog;
pub use client_certificate::{ClientCertificate, NameRule};
pub use connection::{ConnectionInfo, Connections};
pub use cors::Cors;
pub use hang_up::HangUps;
pub use hyper_sdk::store::wrap::CacheOptions;
pub use listen::ListenAddress;
pub use listener::{Listener, Listeners};
pub use log_filter::log_filter;
pub use options::{Events, GarbageCollection, Limits, RegistryOptions, Retention, Scrub};
pub use path_prefix::PathPrefix;
pub use proxies::TrustedProxy;
pub use registry::{Registry, router};
pub use serve::{ServerOptions, serve};
pub use server::{RunningServer, Server};
#[cfg(feature = "session")]
pub use session::ServeSession;
pub use throttle::{Allowance, ByteRate, Rate, Throttling, WrongPasswords};
pub use tls::{ClientAuth, Tls, TlsOptions};
pub use trace::TraceOptions;
pub use unix_socket::UnixSocket;
pub use webhook::{Webhook, WebhookFormat};

/// The examples of the manual compile.
#[cfg(doctest)]
#[doc = include_str!("../../docs/registry.md")]
struct Manual;
