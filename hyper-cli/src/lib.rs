//! The command line of Hyper as a library. `hyperbuild` is a `main` around it; other programs add a store, parts of the
//! builder or commands.
//!
//! ```no_run
//! use hyper_cli::{Cli, Console, Failure, Session};
//!
//! /// Prints the number of images
//! #[derive(Debug, clap::Args)]
//! struct Count {}
//!
//! async fn count(_: Count, session: Session, console: Console) -> Result<(), Failure> {
//!     console.print_line(&session.images(None).await?.len().to_string())?;
//!     Ok(())
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     Cli::new("acmebuild").command("count", count).run()
//! }
//! ```
//!
//! ```text
//!   cli ─▶ commands/… ─▶ console ─▶ render ─▶ terminal ─▶ json_events
//!    └──▶ session       └─────▶ failure ────────┘
//! ```
//!
//! A file names only those to its right.

#![warn(
    clippy::print_stderr,
    reason = "`eprintln!` panics when standard error is closed: use `terminal::message`"
)]

mod args;
mod cli;
mod commands;
mod console;
mod failure;
mod flags;
mod host_tools;
mod interrupt;
mod json_events;
mod logging;
mod program;
mod render;
mod session;
mod terminal;
mod unsupported_flags;

pub use args::{Format, TransportArgs};
pub use cli::Cli;
pub use console::Console;
pub use failure::Failure;
pub use hyper_sdk::session::{Session, SessionOptions};
