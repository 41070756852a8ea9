//! Image archives: an OCI image layout (image-spec, image-layout.md) as a tar or a folder, with Docker's
//! `manifest.json` beside it for `docker load`.
//!
//! ```text
//!   oci-layout  index.json  [manifest.json]  blobs/sha256/HEX…
//! ```

use super::BuiltImage;
use super::whole_file::whole_file;
use crate::oci::{Descriptor, ImageIndex};
use crate::reference::Reference;
use crate::solve::blocking;
use crate::store::{ByteStream, RegistryStore};
use crate::{Digest, Error, Result};
use futures::StreamExt;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;
use tokio::sync::mpsc;

/// What an archive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveKind {
    /// An OCI image layout.
    Oci,
    /// An OCI image layout that `docker load` takes too.
    Docker,
}

/// A file of the archive: its bytes, or the blob that it is a copy of.
enum Part {
    Bytes(Vec<u8>),
    Blob(u64, mpsc::Receiver<Result<bytes::Bytes>>),
}

/// Writes an image as an archive: a tar file, or a folder when `folder` is set.
///
/// The index names the image once for each name. A tar appears under its name when it is whole.
/// `/dev/stdout` and other paths that are no regular file are written straight.
///
/// # Errors
/// Those of the store, and [`crate::ErrorKind::Io`] with the path.
pub async fn write_archive(
    image: &BuiltImage,
    store: &dyn RegistryStore,
    names: &[Reference],
    kind: ArchiveKind,
    destination: &Path,
    folder: bool,
) -> Result<()> {
    let mut parts = BTreeMap::new();
    let mut streams: Vec<(ByteStream, mpsc::Sender<Result<bytes::Bytes>>)> = Vec::new();
    parts.insert("oci-layout".to_owned(), Part::Bytes(br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    parts.insert("index.json".to_owned(), Part::Bytes(index(image, names).to_bytes()));
    if kind == ArchiveKind::Docker {
        parts.insert("manifest.json".to_owned(), Part::Bytes(docker_manifest(image, names)));
    }
    for manifest in image.index.iter().chain([&image.manifest]) {
        parts.insert(blob_path(manifest.digest()), Part::Bytes(manifest.bytes().to_vec()));
    }
    parts.insert(blob_path(&image.config_descriptor().digest), Part::Bytes(image.config.to_vec()));
    for (layer, _) in image.chain.layers() {
        let path = blob_path(&layer.blob.digest);
        if parts.contains_key(&path) {
            continue;
        }
        let blob = store.get_blob(&layer.repository, &layer.blob.digest, None).await?;
        let blob = crate::client::verify::verified(blob, &layer.blob.digest);
        let (sender, receiver) = mpsc::channel(4);
        parts.insert(path, Part::Blob(blob.size, receiver));
        streams.push((blob.stream, sender));
    }
    let (destination, epoch) = (destination.to_owned(), image.epoch);
    let write = blocking(move || {
        if folder { write_folder(parts, &destination) } else { write_tar(parts, &destination, epoch) }
    });
    let feed = futures::future::join_all(streams.into_iter().map(|(mut stream, sender)| async move {
        while let Some(block) = stream.next().await {
            if sender.send(block).await.is_err() {
                break;
            }
        }
    }));
    let (result, _) = futures::join!(write, feed);
    result
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn index(image: &BuiltImage, names: &[Reference]) -> ImageIndex {
    let base = image.descriptor();
    let mut manifests: Vec<Descriptor> = names
        .iter()
        .map(|name| {
            let mut named = base.clone();
            let tag = name.tag().map_or("latest", |t| t.as_str());
            named.annotations.extend([
                ("io.containerd.image.name".to_owned(), name.to_string()),
                ("org.opencontainers.image.ref.name".to_owned(), tag.to_owned()),
            ]);
            named
        })
        .collect();
    if manifests.is_empty() {
        manifests.push(base);
    }
    ImageIndex::new(manifests)
}

fn docker_manifest(image: &BuiltImage, names: &[Reference]) -> Vec<u8> {
    let layers: Vec<String> = image.chain.layers().iter().map(|(l, _)| blob_path(&l.blob.digest)).collect();
    let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
    json!([{"Config": blob_path(&image.config_descriptor().digest), "RepoTags": tags, "Layers": layers}])
        .to_string()
        .into_bytes()
}

/// Reads the blocks that a stream sends, on a blocking thread.
struct Blocks {
    receiver: mpsc::Receiver<Result<bytes::Bytes>>,
    current: bytes::Bytes,
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(block) => self.current = block?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.current.len());
        buffer[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

fn write_tar(parts: BTreeMap<String, Part>, destination: &Path, epoch: i64) -> Result<()> {
    whole_file(destination, |file| {
        let mut tar = tar::Builder::new(io::BufWriter::with_capacity(1 << 20, file));
        let header = |size: u64, kind: tar::EntryType, mode: u32| {
            let mut header = tar::Header::new_ustar();
            header.set_size(size);
            header.set_mode(mode);
            header.set_entry_type(kind);
            header.set_mtime(u64::try_from(epoch).unwrap_or(0));
            header
        };
        for folder in ["blobs/", "blobs/sha256/"] {
            tar.append_data(&mut header(0, tar::EntryType::Directory, 0o755), folder, io::empty())?;
        }
        for (path, part) in parts {
            match part {
                Part::Bytes(bytes) => {
                    let size = bytes.len() as u64;
                    tar.append_data(&mut header(size, tar::EntryType::Regular, 0o644), &path, &bytes[..])?;
                }
                Part::Blob(size, receiver) => {
                    let mut blocks = Blocks { receiver, current: bytes::Bytes::new() };
                    let mut exact = Exact { inner: &mut blocks, left: size };
                    tar.append_data(&mut header(size, tar::EntryType::Regular, 0o644), &path, &mut exact)?;
                }
            }
        }
        tar.into_inner()?.flush()
    })
}

/// Fails when fewer bytes come than were announced: a tar entry cannot be made shorter.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(n as u64);
        if n == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a blob ended early"));
        }
        Ok(n)
    }
}

fn write_folder(parts: BTreeMap<String, Part>, destination: &Path) -> Result<()> {
    let mut last = None;
    for (path, part) in parts {
        let target = destination.join(&path);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Error::io("cannot make the folder", parent, e))?;
        }
        if path == "index.json" {
            last = Some((target, part));
            continue;
        }
        write_part(&target, part)?;
    }
    // The index names the rest, so it comes last.
    last.map_or(Ok(()), |(target, part)| write_part(&target, part))
}

fn write_part(target: &Path, part: Part) -> Result<()> {
    whole_file(target, |mut file| match part {
        Part::Bytes(bytes) => file.write_all(&bytes),
        Part::Blob(size, receiver) => {
            let mut blocks = Blocks { receiver, current: bytes::Bytes::new() };
            io::copy(&mut Exact { inner: &mut blocks, left: size }, &mut file).map(|_| ())
        }
    })
}
