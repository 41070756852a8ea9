//! Archives that stand for more memory than they have bytes.

use super::*;

/// A long name is few bytes in an archive that is compressed.
#[tokio::test]
async fn archives_with_too_many_names_are_rejected() {
    let scratch = tempfile::tempdir().unwrap();
    let long = "a".repeat(3 << 20);
    let files = |count: usize| -> Files {
        let names = (0..count).map(|number| format!("blobs/{number}/{long}"));
        layout_files().into_iter().chain(names.map(|name| (name, Vec::new()))).collect()
    };
    let tar = |count: usize| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in files(count) {
            if name.len() > 100 {
                let mut header = header(tar::EntryType::GNULongName, name.len() as u64);
                tar.append_data(&mut header, "././@LongLink", name.as_bytes()).unwrap();
            }
            let name = &name[..name.len().min(100)];
            tar.append_data(&mut header(tar::EntryType::Regular, bytes.len() as u64), name, &bytes[..])
                .unwrap();
        }
        tar.into_inner().unwrap()
    };
    for result in open(&tar(2), scratch.path()).await {
        assert_sample(&result.unwrap()).await;
    }
    for result in open(&tar(22), scratch.path()).await {
        let e = result.unwrap_err();
        assert!(e.kind() == ErrorKind::TooLarge && e.message().contains("MiB of names"), "{e}");
    }
}

/// Among images of one rank the last of the index comes first, and of those of an inner index the first.
#[tokio::test]
async fn images_are_found_in_the_order_of_their_indexes() {
    let sample = sample().await;
    let image = |name: &str| {
        let (_, bytes, ..) = parts();
        let mut image: ImageManifest = serde_json::from_slice(&bytes).unwrap();
        image.annotations.insert("name".to_owned(), name.to_owned());
        let bytes = image.to_bytes();
        let mut entry = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
        std::fs::write(sample.blob(&entry.digest), bytes).unwrap();
        entry.platform = Some(Platform::host());
        entry
    };
    let index = |entries: Vec<Descriptor>| {
        let bytes = ImageIndex::new(entries).to_bytes();
        let entry = Descriptor::of(media_type::OCI_INDEX, &bytes);
        std::fs::write(sample.blob(&entry.digest), bytes).unwrap();
        entry
    };
    for (entries, first) in [
        (vec![image("a"), image("b")], "b"),
        (vec![image("a"), index(vec![image("b"), image("c")])], "b"),
        (vec![index(vec![image("b"), image("c")]), image("a")], "a"),
        (vec![image("a"), index(vec![index(vec![]), image("c")])], "c"),
    ] {
        sample.write_index(&ImageIndex::new(entries));
        let found = sample.layout().find_image(None, None, &Platform::host()).unwrap();
        assert_eq!(found.annotations()["name"], first);
    }
}
