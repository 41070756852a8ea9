//! Certificates in the folders of container tools.
//!
//! ```text
//!   FOLDER/HOST[:PORT]/*.crt             authorities to trust for this registry
//!   FOLDER/HOST[:PORT]/NAME.cert, .key   the certificate of the client
//! ```
//!
//! The usual folders are `/etc/docker/certs.d`, `/etc/containers/certs.d` and `~/.config/containers/certs.d`.

use super::keychain::Secret;
use super::tls;
use crate::reference::RegistryHost;
use crate::small_file::{self, Kinds};
use crate::{Error, Result, ResultExt as _};
use std::path::{Path, PathBuf};

const MAX_FILE: u64 = 4 << 20;

/// The certificates for one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostCertificates {
    /// PEM texts of authorities.
    pub roots: Vec<Vec<u8>>,
    /// PEM text of a client certificate and its key.
    pub identity: Option<Secret>,
}

impl HostCertificates {
    /// Reads the folder of a registry in the first of `folders` that has one. Blocks for files of this machine.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a file that is not PEM with certificates, a client certificate without its key, a key
    /// without its certificate, and more than one client certificate; those of reading.
    pub fn find(folders: impl IntoIterator<Item = PathBuf>, host: &RegistryHost) -> Result<Self> {
        for folder in folders {
            let folder = folder.join(host.as_str());
            match std::fs::read_dir(&folder) {
                Ok(entries) => {
                    let entries = entries.map(|entry| entry.map(|e| e.path()));
                    let mut files: Vec<PathBuf> =
                        entries.collect::<std::io::Result<_>>().at("cannot read the folder", &folder)?;
                    files.sort();
                    return Self::of_files(&files);
                }
                // As with other tools, an inaccessible folder counts as missing.
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::NotFound
                            | std::io::ErrorKind::NotADirectory
                            | std::io::ErrorKind::PermissionDenied
                    ) => {}
                Err(e) => return Err(Error::io("cannot read the folder", &folder, e)),
            }
        }
        Ok(Self::default())
    }

    fn of_files(files: &[PathBuf]) -> Result<Self> {
        let mut found = Self::default();
        let has = |path: &Path| files.iter().any(|f| f == path);
        for path in files {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => found.roots.push(read_authorities(path)?),
                Some("cert") => {
                    let key = path.with_extension("key");
                    if !has(&key) {
                        return Err(Error::invalid("the client certificate has no key in the same folder")
                            .with_context("expected", key.display()));
                    }
                    if found.identity.is_some() {
                        return Err(Error::unsupported("more than one client certificate for a registry")
                            .with_context("path", path.display()));
                    }
                    let text = [read(path)?, b"\n".to_vec(), read(&key)?].concat();
                    let text = String::from_utf8(text).map_err(|_| {
                        Error::invalid("the client certificate or its key is not PEM")
                            .with_context("path", path.display())
                    })?;
                    found.identity = Some(text.into());
                }
                Some("key") if !has(&path.with_extension("cert")) => {
                    return Err(Error::invalid("the key has no client certificate in the same folder")
                        .with_context("expected", path.with_extension("cert").display()));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// Reads a file of authorities, PEM text. Blocks for files of this machine.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] when it is not PEM with certificates; those of reading.
pub fn read_authorities(path: &Path) -> Result<Vec<u8>> {
    let text = read(path)?;
    tls::certificates(&text).map_err(|e| e.with_context("path", path.display()))?;
    Ok(text)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    small_file::read(path, "the certificate", MAX_FILE, Kinds::Files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_folder_of_the_host_is_read() {
        let place = tempfile::tempdir().unwrap();
        let host = RegistryHost::parse("r.example:5000").unwrap();
        let folders = || ["none", "a", "b"].map(|name| place.path().join(name));
        assert_eq!(HostCertificates::find(folders(), &host).unwrap(), HostCertificates::default());
        let own = place.path().join("a/r.example:5000");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::create_dir_all(place.path().join("b/r.example:5000")).unwrap();
        std::fs::write(place.path().join("b/r.example:5000/x.crt"), "no PEM").unwrap();
        std::fs::write(own.join("README"), "not looked at").unwrap();
        assert_eq!(HostCertificates::find(folders(), &host).unwrap(), HostCertificates::default());
        for (file, why) in [
            ("ca.crt", "no certificate in the PEM text"),
            ("client.cert", "has no key in the same folder (expected"),
            ("client.key", "has no client certificate in the same folder (expected"),
        ] {
            std::fs::write(own.join(file), "text").unwrap();
            let e = HostCertificates::find(folders(), &host).unwrap_err();
            assert!(e.to_string().contains(why), "{e}");
            std::fs::remove_file(own.join(file)).unwrap();
        }
        std::fs::write(own.join("client.cert"), "certificate").unwrap();
        std::fs::write(own.join("client.key"), "key").unwrap();
        let found = HostCertificates::find(folders(), &host).unwrap();
        assert_eq!(found.identity.unwrap().expose(), "certificate\nkey");
    }

    #[test]
    fn only_regular_files_are_read() {
        for path in ["/dev/zero", "/"] {
            assert!(read_authorities(Path::new(path)).is_err(), "{path}");
        }
        let place = tempfile::tempdir().unwrap();
        let fifo = place.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let e = read_authorities(&fifo).unwrap_err();
        assert!(e.to_string().contains(&*fifo.to_string_lossy()), "{e}");
    }
}
