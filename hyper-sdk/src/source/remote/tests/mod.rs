//! Web servers that break off, stall or drip.

mod broken_servers;
mod slow_servers;
