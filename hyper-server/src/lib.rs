//! An OCI registry server as a library.
//!
//! [`Registry`] answers requests from any [`hyper_sdk::store::RegistryStore`]; it is a tower service, and [`router`]
//! makes an axum router of it. [`Server`] runs it on a socket, with limits and a graceful end. The program
//! `hyperregistry` is a thin layer over [`cli`].
//!
//! # Invariants
//! - A handler parses names into newtypes, calls the store and shapes a response; it keeps no state of its own.
//! - What the client may learn and what the log may learn are decided in one place, `error.rs`.

pub mod auth;
mod body;
pub mod cli;
pub mod config;
pub mod error;
mod handlers;
mod listen;
mod log;
mod metrics;
mod registry;
pub mod route;
mod server;

pub use hyper_sdk::store::wrap::CacheOptions;
pub use listen::Listen;
pub use registry::{Limits, Registry, RegistryOptions, router};
pub use server::{RunningServer, Server, ServerOptions, serve};
