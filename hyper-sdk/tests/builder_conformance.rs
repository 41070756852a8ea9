//! The suite of builders on that of this machine, with its sandbox.

use crate::sandbox::helper;
use hyper_sdk::ErrorKind;
use hyper_sdk::build::{LocalBuilder, SharedBuilder};
use hyper_sdk::client::{Loopback, SharedClient};
use hyper_sdk::exec::NativeExecutor;
use hyper_sdk::source::ClientFactory;
use hyper_sdk::store::MemoryStore;
use std::sync::Arc;

async fn fixture() -> Option<(SharedBuilder, tempfile::TempDir)> {
    match NativeExecutor::start(helper()).await {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            println!("the sandbox cannot be tested: {e}");
            return None;
        }
        Err(e) => panic!("{e:?}"),
    }
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStore::default());
    let registry = store.clone();
    let clients = ClientFactory::new(move |_| Ok(Arc::new(Loopback::new(registry.clone())) as SharedClient));
    let builder =
        LocalBuilder::builder(folder.path().join("root"), store, clients).helper(helper()).open().unwrap();
    Some((Arc::new(builder), folder))
}

hyper_sdk::builder_conformance!(fixture);
