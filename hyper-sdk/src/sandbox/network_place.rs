//! The network of a build, as data that is sent to the helper.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where a command finds the network of its build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPlace {
    /// The network namespace, as a file.
    pub path: PathBuf,
    /// The number of that file: a path in `/proc` may lead to another process by now.
    pub inode: u64,
    /// The number of the interface that its program has made in it: it goes with the program, before all else.
    pub interface: u32,
    /// The address of a resolver.
    pub nameserver: String,
}
