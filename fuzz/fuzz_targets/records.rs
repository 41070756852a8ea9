//! Records of the cache never panic, and a damaged one is a miss: with a right hash and without.
#![no_main]

use hyper_sdk::Digest;
use hyper_sdk::cache::{CacheStore as _, DiskCache};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(folder.path().join("cache")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let key = Digest::sha256(b"key");
    let path = folder.path().join("cache").join(&key.hex()[..2]);
    std::fs::create_dir_all(&path).unwrap();
    let hashed = [bytes, b"\n", Digest::sha256(bytes).hex().as_bytes()].concat();
    for content in [bytes, &hashed] {
        std::fs::write(path.join(key.hex()), content).unwrap();
        let Ok(Some(record)) = runtime.block_on(cache.get(&key)) else { continue };
        // What is read can be written and read again.
        runtime.block_on(cache.put(&key, &record)).unwrap();
        assert_eq!(runtime.block_on(cache.get(&key)).unwrap().as_ref(), Some(&record));
    }
});
