//! Tests of untrusted layouts, of archives in every format, and of the writer.

use super::*;
use crate::ErrorKind;
use crate::media_type;
use crate::oci::{ImageConfig, ImageIndex, ImageManifest};
use crate::platform::Platform;
use crate::reference::{ManifestReference, Tag};
use crate::store::{BlobReader, ByteRange};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

mod hostile;

/// A layout with one image of one layer, tagged `v1`.
struct Sample {
    folder: tempfile::TempDir,
    manifest: Descriptor,
    config: Descriptor,
    layer: Descriptor,
}

const LAYER: &[u8] = b"not really a layer";

fn parts() -> (Descriptor, Vec<u8>, Descriptor, Vec<u8>, Descriptor) {
    let layer = Descriptor::of(media_type::OCI_LAYER, LAYER);
    let mut config = ImageConfig::empty(&Platform::host());
    config.rootfs.diff_ids = vec![layer.digest.clone()];
    let config_bytes = config.to_bytes();
    let config = Descriptor::of(media_type::OCI_CONFIG, &config_bytes);
    let bytes = ImageManifest::new(config.clone(), vec![layer.clone()]).to_bytes();
    let mut manifest = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
    manifest.annotations.insert(REF_NAME.to_owned(), "v1".to_owned());
    (manifest, bytes, config, config_bytes, layer)
}

fn blob(content: &'static [u8]) -> BlobReader {
    let size = content.len() as u64;
    let blocks = content.chunks(3).map(|block| Ok(Bytes::from_static(block)));
    BlobReader { size, offset: 0, length: size, stream: futures::stream::iter(blocks).boxed() }
}

fn writer() -> LayoutWriter {
    let (manifest, bytes, config, config_bytes, layer) = parts();
    let mut writer = LayoutWriter::new(&ImageIndex::new(vec![manifest.clone()]));
    writer.add_bytes(&manifest.digest, bytes);
    writer.add_bytes(&config.digest, config_bytes);
    writer.add_blob(&layer.digest, blob(LAYER));
    writer
}

async fn sample() -> Sample {
    let folder = tempfile::tempdir().unwrap();
    writer().write_folder(folder.path()).await.unwrap();
    let (manifest, _, config, _, layer) = parts();
    Sample { folder, manifest, config, layer }
}

impl Sample {
    fn layout(&self) -> ImageLayout {
        ImageLayout::in_folder(self.folder.path())
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.path().join(blob_path(digest))
    }

    fn write_index(&self, index: &ImageIndex) {
        std::fs::write(self.folder.path().join(INDEX), index.to_bytes()).unwrap();
    }
}

async fn content(layout: &ImageLayout, digest: &Digest, range: Option<ByteRange>) -> Result<Vec<u8>> {
    let file = layout.open_blob(digest)?;
    let size = file.size();
    let blocks: Vec<Bytes> = file.into_blob(digest, size, range)?.stream.try_collect().await?;
    Ok(blocks.concat())
}

/// Checks that a layout has the complete sample image.
async fn assert_sample(layout: &ImageLayout) {
    let (manifest, _, config, config_bytes, layer) = parts();
    let tag = ManifestReference::Tag(Tag::parse("v1").unwrap());
    assert_eq!(layout.find(&tag).unwrap().digest(), &manifest.digest);
    let found = layout.find_image(Some("v1"), None, &Platform::host()).unwrap();
    assert_eq!(found.digest(), &manifest.digest);
    assert_eq!(layout.read_blob(&config.digest).unwrap(), config_bytes);
    assert_eq!(content(layout, &layer.digest, None).await.unwrap(), LAYER);
    let part = content(layout, &layer.digest, Some(ByteRange::FromTo(4, Some(9)))).await.unwrap();
    assert_eq!(part, &LAYER[4..10]);
}

#[tokio::test]
async fn a_written_layout_can_be_read() {
    let sample = sample().await;
    assert_sample(&sample.layout()).await;
    sample.layout().check_version().unwrap();
    // A second layout in the same folder replaces the index.
    LayoutWriter::new(&ImageIndex::new(vec![])).write_folder(sample.folder.path()).await.unwrap();
    assert!(sample.layout().index().unwrap().manifests.is_empty());
    assert_eq!(content(&sample.layout(), &sample.layer.digest, None).await.unwrap(), LAYER);
    let names = std::fs::read_dir(sample.folder.path()).unwrap().count();
    assert_eq!(names, 3, "nothing else is left");
}

#[tokio::test]
async fn a_blob_with_a_wrong_size_is_not_written() {
    for announced in [LAYER.len() as u64 - 1, LAYER.len() as u64 + 1] {
        let (.., layer) = parts();
        for tar in [false, true] {
            let mut writer = LayoutWriter::new(&ImageIndex::new(vec![]));
            writer.add_blob(&layer.digest, BlobReader { length: announced, ..blob(LAYER) });
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("layout");
            let result = match tar {
                true => writer.write_tar(&path, 0).await,
                false => writer.write_folder(&path).await,
            };
            assert_eq!(result.unwrap_err().kind(), ErrorKind::SizeInvalid);
            assert!(!(if tar { path } else { path.join(INDEX) }).exists());
        }
    }
}

/// Each blob that is read has blocks in memory, so a layout of many layers must not have all of them open.
#[tokio::test]
async fn at_most_two_blobs_are_read_at_once() {
    let open = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let mut writer = LayoutWriter::new(&ImageIndex::new(vec![]));
    for number in 0..20 {
        let content = Bytes::from(vec![number; 64]);
        let (open, most) = (open.clone(), most.clone());
        let blocks = futures::stream::once(async move {
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            open.fetch_sub(1, Ordering::SeqCst);
            Ok(content)
        });
        let blob = BlobReader { size: 64, offset: 0, length: 64, stream: blocks.boxed() };
        writer.add_blob(&Digest::sha256(vec![number; 64]), blob);
    }
    let folder = tempfile::tempdir().unwrap();
    writer.write_folder(folder.path()).await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap().count(), 20);
    assert!(most.load(Ordering::SeqCst) <= 2, "{} blobs were read at once", most.load(Ordering::SeqCst));
}

#[tokio::test]
async fn links_in_a_folder_are_not_followed_when_a_layout_is_written() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("file");
    std::fs::write(&victim, "outside").unwrap();
    for (name, target, fits) in [
        ("blobs", outside.path(), false),
        ("blobs/sha256", outside.path(), false),
        (INDEX, &*victim, true),
        (MARKER, &*victim, true),
        (&*blob_path(&parts().4.digest), &*victim, true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join(name);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, &link).unwrap();
        let written = writer().write_folder(folder.path()).await;
        assert_eq!(written.is_ok(), fits, "{name}: {written:?}");
        if fits {
            assert_sample(&ImageLayout::in_folder(folder.path())).await;
            assert!(!link.is_symlink(), "{name}");
        }
        assert_eq!(std::fs::read(&victim).unwrap(), b"outside", "{name}");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1, "{name}");
    }
}

#[tokio::test]
async fn links_inside_are_followed_and_links_out_are_not() {
    let sample = sample().await;
    let root = sample.folder.path();
    let outside = tempfile::tempdir().unwrap();
    let path = sample.blob(&sample.layer.digest);
    std::fs::write(outside.path().join("layer"), LAYER).unwrap();
    std::fs::write(root.join("layer"), LAYER).unwrap();
    for (target, fits) in [
        (outside.path().join("layer"), false),
        (root.join("layer"), false),
        ("../../layer".into(), false),
        ("/etc/passwd".into(), false),
        ("/dev/zero".into(), false),
        ("nowhere".into(), false),
        ("kept".into(), true),
    ] {
        std::fs::write(path.with_file_name("kept"), LAYER).unwrap();
        std::fs::remove_file(&path).unwrap();
        symlink(&target, &path).unwrap();
        let read = content(&sample.layout(), &sample.layer.digest, Some(ByteRange::FromTo(0, Some(0)))).await;
        assert_eq!(read.is_ok(), fits, "{}: {read:?}", target.display());
    }
    // Links at the folders or the index must not lead out either.
    for name in ["blobs", INDEX, MARKER] {
        let moved = outside.path().join(name);
        std::fs::rename(root.join(name), &moved).unwrap();
        symlink(&moved, root.join(name)).unwrap();
        let layout = sample.layout();
        let e = match name {
            "blobs" => layout.read_blob(&sample.config.digest).unwrap_err(),
            INDEX => layout.index().unwrap_err(),
            _ => layout.check_version().unwrap_err(),
        };
        assert!(e.message().contains("is a link that leads out"), "{name}: {e}");
        std::fs::remove_file(root.join(name)).unwrap();
        std::fs::rename(&moved, root.join(name)).unwrap();
    }
    // The folder itself may be a link.
    symlink(root, outside.path().join("link")).unwrap();
    assert_sample(&ImageLayout::in_folder(outside.path().join("link"))).await;
}

#[tokio::test]
async fn the_error_names_the_kind_of_a_file_that_is_not_regular() {
    let sample = sample().await;
    let pipe = |path: &Path| {
        std::fs::remove_file(path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
    };
    pipe(&sample.blob(&sample.layer.digest));
    pipe(&sample.blob(&sample.config.digest));
    pipe(&sample.folder.path().join(INDEX));
    let layout = sample.layout();
    for e in [
        layout.open_blob(&sample.layer.digest).unwrap_err(),
        layout.read_blob(&sample.config.digest).unwrap_err(),
        layout.index().unwrap_err(),
    ] {
        assert!(e.message().contains("of the OCI layout is a pipe"), "{e}");
    }
}

#[tokio::test]
async fn damaged_and_missing_content_is_an_error() {
    let sample = sample().await;
    let layout = sample.layout();
    let platform = Platform::host();
    std::fs::write(sample.blob(&sample.layer.digest), b"not really a LAYER").unwrap();
    let e = content(&layout, &sample.layer.digest, None).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::DigestInvalid);
    let file = layout.open_blob(&sample.layer.digest).unwrap();
    let short = file.into_blob(&sample.layer.digest, 100, None).unwrap().stream.try_collect::<Vec<_>>().await;
    assert_eq!(short.unwrap_err().kind(), ErrorKind::SizeInvalid);
    std::fs::write(sample.blob(&sample.config.digest), b"{}").unwrap();
    assert_eq!(layout.read_blob(&sample.config.digest).unwrap_err().kind(), ErrorKind::DigestInvalid);
    std::fs::remove_file(sample.blob(&sample.manifest.digest)).unwrap();
    assert_eq!(layout.find_image(None, None, &platform).unwrap_err().kind(), ErrorKind::NotFound);
    let by_digest = ManifestReference::Digest(sample.manifest.digest.clone());
    assert_eq!(layout.find(&by_digest).unwrap_err().kind(), ErrorKind::ManifestUnknown);
    for (index, why) in [
        (r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x","size":1}]}"#, "index.json"),
        (r#"{"schemaVersion":2,"manifests":[{"digest":"../x:abc","size":1}]}"#, "index.json"),
        ("{", "index.json"),
    ] {
        std::fs::write(sample.folder.path().join(INDEX), index).unwrap();
        assert!(layout.index().unwrap_err().message().contains(why));
    }
    let index = std::fs::File::create(sample.folder.path().join(INDEX)).unwrap();
    index.set_len(MAX_JSON + 1).unwrap();
    assert_eq!(layout.index().unwrap_err().kind(), ErrorKind::TooLarge);
    std::fs::write(sample.folder.path().join(MARKER), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert_eq!(layout.check_version().unwrap_err().kind(), ErrorKind::Unsupported);
}

/// Each index names the next one a thousand times: a search that reads an index more than once never ends.
#[tokio::test]
async fn each_nested_index_is_read_once() {
    let sample = sample().await;
    let mut entry = Descriptor::of(media_type::OCI_INDEX, b"missing");
    entry.platform = Some("other/other".parse().unwrap());
    for _ in 0..8 {
        let bytes = ImageIndex::new(vec![entry; 1000]).to_bytes();
        entry = Descriptor::of(media_type::OCI_INDEX, &bytes);
        std::fs::write(sample.blob(&entry.digest), bytes).unwrap();
    }
    sample.write_index(&ImageIndex::new(vec![entry]));
    let e = sample.layout().find_image(None, None, &Platform::host()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    // Many large indexes exceed the limit.
    let large = |n: usize| {
        let mut index = ImageIndex::new(vec![]);
        index.annotations.insert("k".to_owned(), n.to_string().repeat(14 << 20));
        let bytes = index.to_bytes();
        let entry = Descriptor::of(media_type::OCI_INDEX, &bytes);
        std::fs::write(sample.blob(&entry.digest), bytes).unwrap();
        entry
    };
    sample.write_index(&ImageIndex::new((0..5).map(large).collect()));
    let e = sample.layout().find_image(None, None, &Platform::host()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TooLarge);
}

type Files = BTreeMap<String, Vec<u8>>;

/// The files of the sample in an archive.
fn layout_files() -> Files {
    let (manifest, bytes, config, config_bytes, layer) = parts();
    let index = ImageIndex::new(vec![manifest.clone()]).to_bytes();
    [
        (MARKER.to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        (INDEX.to_owned(), index),
        (blob_path(&manifest.digest), bytes),
        (blob_path(&config.digest), config_bytes),
        (blob_path(&layer.digest), LAYER.to_vec()),
    ]
    .into()
}

fn header(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header
}

fn tar_of(files: &Files, links: &[(&str, &str, tar::EntryType)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = header(tar::EntryType::Regular, bytes.len() as u64);
        tar.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    for (name, target, kind) in links {
        tar.append_link(&mut header(*kind, 0), name, target).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Opens an archive as a file and as a stream.
async fn open(bytes: &[u8], scratch: &Path) -> [Result<ImageLayout>; 2] {
    let file = scratch.join("archive.tar");
    std::fs::write(&file, bytes).unwrap();
    let stream = std::io::Cursor::new(bytes.to_vec());
    [ImageLayout::open_archive(&file, scratch).await, ImageLayout::read_archive(stream, scratch).await]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn archives_of_layouts_are_read_from_files_and_streams() {
    let scratch = tempfile::tempdir().unwrap();
    let plain = tar_of(&layout_files(), &[]);
    let padded = [plain.clone(), vec![0; 1 << 20]].concat();
    let dotted = layout_files().into_iter().map(|(name, bytes)| (format!("./{name}"), bytes)).collect();
    let own = scratch.path().join("own.tar");
    writer().write_tar(&own, 5).await.unwrap();
    for bytes in [
        gzip(&plain),
        zstd::encode_all(&plain[..], 1).unwrap(),
        plain,
        padded,
        tar_of(&dotted, &[]),
        std::fs::read(&own).unwrap(),
    ] {
        for layout in open(&bytes, scratch.path()).await {
            assert_sample(&layout.unwrap()).await;
        }
    }
    // The unpacked files are removed with the layout.
    let names: Vec<_> = std::fs::read_dir(scratch.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().all(|name| name.ends_with(".tar")), "{names:?}");
}

/// The files of an archive in the old format of `docker save`.
fn docker_files(layer: &[u8], layer_name: &str) -> Files {
    let (.., config_bytes, _) = parts();
    let list = format!(
        r#"[{{"Config":"abc.json","RepoTags":["r.example/app:v1","other:v1"],"Layers":["{layer_name}"]}}]"#
    );
    [
        ("manifest.json".to_owned(), list.into_bytes()),
        ("abc.json".to_owned(), config_bytes),
        ("1/layer.tar".to_owned(), layer.to_vec()),
    ]
    .into()
}

#[tokio::test]
async fn archives_of_docker_save_are_read() {
    let scratch = tempfile::tempdir().unwrap();
    let (.., layer) = parts();
    let link = [("2/layer.tar", "../1/layer.tar", tar::EntryType::Symlink)];
    let hard = [("2/layer.tar", "1/layer.tar", tar::EntryType::Link)];
    for (files, links) in [
        (docker_files(LAYER, "1/layer.tar"), &[][..]),
        (docker_files(LAYER, "2/layer.tar"), &link[..]),
        (docker_files(LAYER, "2/layer.tar"), &hard[..]),
    ] {
        for layout in open(&tar_of(&files, links), scratch.path()).await {
            let layout = layout.unwrap();
            let manifest = layout.find_image(Some("v1"), None, &Platform::host()).unwrap();
            let image = manifest.image().unwrap();
            assert_eq!(image.layers, std::slice::from_ref(&layer));
            assert_eq!(content(&layout, &layer.digest, None).await.unwrap(), LAYER);
            assert!(layout.read_blob(&image.config.digest).is_ok());
            let names: Vec<_> =
                layout.index().unwrap().manifests.iter().map(|d| d.annotations[IMAGE_NAME].clone()).collect();
            assert_eq!(names, ["r.example/app:v1", "other:v1"]);
        }
    }
    // A compressed layer has the digest of its bytes.
    let packed = gzip(LAYER);
    for layout in open(&tar_of(&docker_files(&packed, "1/layer.tar"), &[]), scratch.path()).await {
        let layout = layout.unwrap();
        let manifest = layout.find_image(None, None, &Platform::host()).unwrap();
        let layer = &manifest.image().unwrap().layers[0];
        assert_eq!(*layer, Descriptor::of(media_type::OCI_LAYER_GZIP, &packed));
        assert_eq!(content(&layout, &layer.digest, None).await.unwrap(), packed);
    }
    // A layer that does not match the config is an error.
    for layout in open(&tar_of(&docker_files(b"forged", "1/layer.tar"), &[]), scratch.path()).await {
        let e = content(&layout.unwrap(), &layer.digest, None).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::DigestInvalid);
    }
}

/// Short names that cause much work or memory each.
#[tokio::test]
async fn archives_of_docker_save_that_name_too_much_are_rejected() {
    let scratch = tempfile::tempdir().unwrap();
    let many = |text: &str, count: usize| vec![text; count].join(",");
    let config = |more: &str| {
        format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":[]}}{more}}}"#)
            .into_bytes()
    };
    let large = config(&format!(r#","author":"{}""#, "x".repeat(14 << 20)));
    let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    let list = |images: String| file("manifest.json", format!("[{images}]").as_bytes());
    let image = |name: &str| format!(r#"{{"Config":"{name}"}}"#);
    let tags = |count| list(format!(r#"{{"Config":"c.json","RepoTags":[{}]}}"#, many(r#""a""#, count)));
    let layers = list(format!(r#"{{"Config":"c.json","Layers":[{}]}}"#, many(r#""a""#, 100_001)));
    let names = ["c0.json", "c1.json", "c2.json", "c3.json", "c4.json"];
    let configs = names.map(|name| file(name, &large));
    let distinct = [vec![list(names.map(image).join(","))], configs.to_vec()].concat();
    let platform = config(&format!(r#","os.version":"{}""#, "x".repeat(4 << 10)));
    for (files, why) in [
        (vec![list(many(&image("c.json"), 10_001)), file("c.json", &large)], Some("10000 images and tags")),
        (vec![tags(10_000), file("c.json", &large)], Some("10000 images and tags")),
        (vec![layers, file("c.json", &config(""))], Some("100000 layers")),
        (distinct, Some("64 MiB together")),
        (vec![list(image("c.json")), file("c.json", &platform)], Some("4096 bytes")),
        // One large config is read once.
        (vec![list(many(&image("c.json"), 10_000)), file("c.json", &large)], None),
        (vec![tags(9_999), file("c.json", &large)], None),
    ] {
        for result in open(&tar_of(&files.into_iter().collect(), &[]), scratch.path()).await {
            match why {
                Some(why) => {
                    let e = result.unwrap_err();
                    assert_eq!(e.kind(), ErrorKind::TooLarge, "{e}");
                    assert!(e.message().contains(why), "{why}: {e}");
                }
                None => assert!(result.unwrap().index().unwrap().manifests.len() >= 9_999),
            }
        }
    }
    // Links to a config are that config.
    let links: Vec<String> = (0..10).map(|n| format!("l{n}.json")).collect();
    let linked: Vec<_> =
        links.iter().map(|name| (name.as_str(), "c.json", tar::EntryType::Symlink)).collect();
    let named = list(links.iter().map(|name| image(name)).collect::<Vec<_>>().join(","));
    for result in open(&tar_of(&[named, file("c.json", &large)].into(), &linked), scratch.path()).await {
        assert_eq!(result.unwrap().index().unwrap().manifests.len(), 10);
    }
}

#[tokio::test]
async fn hostile_archives_are_rejected() {
    let scratch = tempfile::tempdir().unwrap();
    let plain = tar_of(&layout_files(), &[]);
    let (.., layer) = parts();
    let mut up = plain.clone();
    // Changes the name of the first file, and the checksum of its header.
    up[..7].copy_from_slice(b"../../x");
    let sum: u32 = (0..512).map(|at| if (148..156).contains(&at) { 32 } else { u32::from(up[at]) }).sum();
    up[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let long_name = {
        let mut tar = tar::Builder::new(Vec::new());
        let size = 8 << 20;
        let mut header = header(tar::EntryType::GNULongName, size);
        tar.append_data(&mut header, "././@LongLink", std::io::repeat(b'a').take(size)).unwrap();
        [tar.into_inner().unwrap(), plain.clone()].concat()
    };
    let mut wrong_sum = plain.clone();
    wrong_sum[0] ^= 1;
    let without_layer = |name: &str| docker_files(LAYER, name);
    for (bytes, why) in [
        (up, "leads out of it"),
        (long_name, "too long"),
        (wrong_sum, "damaged"),
        (plain[..700].to_vec(), "cut off|damaged|neither"),
        (b"FROM scratch\n".repeat(100), "damaged"),
        (Vec::new(), "neither `index.json` nor `manifest.json`"),
        (gzip(&plain)[..100].to_vec(), "damaged"),
        (tar_of(&without_layer("3/layer.tar"), &[]), "does not have this file"),
        (tar_of(&without_layer("../1/layer.tar"), &[]), "outside of it"),
        (
            tar_of(&without_layer("2/layer.tar"), &[("2/layer.tar", "/etc/passwd", tar::EntryType::Symlink)]),
            "leads out of it",
        ),
        (
            tar_of(&without_layer("2/layer.tar"), &[("2/layer.tar", "../../x", tar::EntryType::Symlink)]),
            "leads out of it",
        ),
        (
            tar_of(&without_layer("2/layer.tar"), &[("2/layer.tar", "2/layer.tar", tar::EntryType::Link)]),
            "circle",
        ),
        (tar_of(&[("manifest.json".to_owned(), b"{}".to_vec())].into(), &[]), "not a list of images"),
    ] {
        for result in open(&bytes, scratch.path()).await {
            let e = format!("{:?}", result.unwrap_err());
            assert!(why.split('|').any(|why| e.contains(why)), "{why}: {e}");
        }
    }
    // A missing file is an error when the archive is opened.
    let cut = &plain[..plain.len() - 1024 - 512];
    for result in open(cut, scratch.path()).await {
        assert!(result.is_err() || content(&result.unwrap(), &layer.digest, None).await.is_err());
    }
    let pipe = scratch.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let e = ImageLayout::open_archive(&pipe, scratch.path()).await.unwrap_err();
    assert!(e.message().contains("the image archive is a pipe"), "{e}");
    let left = std::fs::read_dir(scratch.path()).unwrap().count();
    assert_eq!(left, 2, "the archive and the pipe");
}

#[tokio::test]
async fn a_dropped_stream_leaves_no_files() {
    let scratch = tempfile::tempdir().unwrap();
    let bytes = tar_of(&layout_files(), &[]);
    let (mut sender, receiver) = tokio::io::duplex(1024);
    let mut reading = Box::pin(ImageLayout::read_archive(receiver, scratch.path()));
    let sent = tokio::io::AsyncWriteExt::write_all(&mut sender, &bytes[..2000]);
    tokio::select! {
        biased;
        result = &mut reading => panic!("{result:?}"),
        result = sent => result.unwrap(),
    }
    assert!(futures::poll!(&mut reading).is_pending());
    drop(reading);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}
