//! The registry as a program: `bearer-registry TOKENS`.
//!
//! TOKENS is the file of tokens. Images are kept in memory. The registry prints its URL and ends with Ctrl-C.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use bearer_registry::{Tokens, options};
use hyper_sdk::store::MemoryStore;
use hyper_server::{Registry, ServerOptions, serve};
use std::sync::Arc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("name the file of tokens")?;
    let tokens = Tokens::parse(&std::fs::read_to_string(file)?)?;
    let registry = Registry::new(Arc::new(MemoryStore::default()), options(tokens))?;
    let limits = ServerOptions { connections: registry.connections().clone(), ..ServerOptions::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let end = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(serve(listener, registry, limits, end).await?)
}
