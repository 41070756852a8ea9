//! Unpacking an archive never writes, links or removes anything outside of its target, whatever is in it.
#![no_main]

mod header;
mod hostile_tar;

use hyper_sdk::layer::{
    ApplyOptions, ApplyStyle, DevicePolicy, DiffOptions, LayerReader, LayerWriter, OwnerPolicy,
};
use hyper_sdk::layer::{apply, diff_trees};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let tar = hostile_tar::make(bytes);
    let folder = tempfile::tempdir().unwrap();
    let canary = folder.path().join("canary");
    std::fs::write(&canary, "untouched").unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    for (name, style) in [("plain", ApplyStyle::Plain), ("overlay", ApplyStyle::Overlay)] {
        let target = folder.path().join(name);
        std::fs::create_dir(&target).unwrap();
        let mut options = ApplyOptions::new(style);
        (options.owners, options.devices) = (OwnerPolicy::Ignore, DevicePolicy::Skip);
        let applied = apply(&tar[..], &target, &options);
        assert_eq!(std::fs::read(&canary).unwrap(), b"untouched");
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.retain(|name| !["canary", "empty", "plain", "overlay"].iter().any(|known| name == *known));
        assert!(names.is_empty(), "written outside: {names:?}");
        if applied.is_ok() && style == ApplyStyle::Plain {
            // What was unpacked is a tree that can be packed and read.
            let mut writer = LayerWriter::new(Vec::new(), None);
            let empty = folder.path().join("empty");
            if diff_trees(&empty, &target, &mut writer, &DiffOptions::default()).is_ok() {
                let (packed, _) = writer.finish().unwrap();
                let mut reader = LayerReader::new(&packed[..]);
                while reader.next_entry().expect("what is packed can be read").is_some() {}
            }
        }
    }
});
