//! The clients of the matrix that are one program.

use super::clients::Client;
use super::clients_images::{content, files, layout};
use super::clients_site::{Home, Said, Way};
use std::fs;
use std::path::{Path, PathBuf};

/// What the programs of the containers project say (skopeo, podman, buildah).
const CONTAINERS: &[&str] = &[
    "invalid username/password",
    "unauthorized: ",
    "authentication required",
    "denied: ",
    "403 (Forbidden)",
];

/// What oras says, and helm, which has its library.
const ORAS: &[&str] = &[
    "unauthorized: ",
    "code 401: Unauthorized",
    "denied: ",
    "code 403: Forbidden",
    "basic credential not found",
];

/// Copies between layouts and the registry.
pub(super) struct Skopeo(pub(super) PathBuf);

impl Client for Skopeo {
    fn login(&self, home: &Home<'_>) -> Option<Said> {
        let (user, password) = home.login?;
        let arguments =
            ["login", "--cert-dir", home.cert_dir(), "-u", user, "--password-stdin", &home.site.host];
        Some(home.run(&self.0, &arguments, password))
    }

    fn push(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        layout(&home.folder);
        let image = format!("docker://{}", home.image(repository));
        let arguments = ["copy", "--dest-cert-dir", home.cert_dir(), "oci:layout:1", &image];
        (home.run(&self.0, &arguments, ""), content(&home.folder.join("layout")))
    }

    fn pull(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        let image = format!("docker://{}", home.image(repository));
        let pulled = Pulled::new(home);
        let arguments = ["copy", "--src-cert-dir", home.cert_dir(), &image, "oci:pulled:1"];
        let said = home.run(&self.0, &arguments, "");
        (said, pulled.content())
    }

    fn refusals(&self) -> &'static [&'static str] {
        CONTAINERS
    }
}

/// A layout to pull into.
struct Pulled(PathBuf);

impl Pulled {
    fn new(home: &Home<'_>) -> Self {
        let folder = home.folder.join("pulled");
        let _ = fs::remove_dir_all(&folder);
        Self(folder)
    }

    /// The content of the layout, if there is one.
    fn content(&self) -> Vec<u8> {
        if self.0.join("index.json").exists() { content(&self.0) } else { Vec::new() }
    }
}

/// podman and buildah, which have the same commands. What they pull goes to a store of its own.
pub(super) struct Podman(pub(super) PathBuf);

impl Podman {
    fn run(&self, home: &Home<'_>, store: &str, arguments: &[&str], input: &str) -> Said {
        let (root, runroot) = (home.path(store), home.path(&format!("{store}-run")));
        let own = ["--root", &root, "--runroot", &runroot, "--storage-driver", "vfs"];
        home.run(&self.0, &[&own, arguments].concat(), input)
    }

    /// The id and the digest of the one image in a store.
    fn image(&self, home: &Home<'_>, store: &str) -> String {
        let list = ["images", "--no-trunc", "--format", "{{.ID}} {{.Digest}}"];
        let line = self.run(home, store, &list, "").expect().last_line();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl Client for Podman {
    fn login(&self, home: &Home<'_>) -> Option<Said> {
        let (user, password) = home.login?;
        let arguments =
            ["login", "--cert-dir", home.cert_dir(), "-u", user, "--password-stdin", &home.site.host];
        Some(self.run(home, "store", &arguments, password))
    }

    fn push(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        layout(&home.folder);
        let _ = fs::remove_dir_all(home.folder.join("store"));
        let id = self.run(home, "store", &["pull", "oci:layout:1"], "").expect().last_line();
        let image = format!("docker://{}", home.image(repository));
        let arguments = ["push", "--cert-dir", home.cert_dir(), "--digestfile", "digest", &id, &image];
        let said = self.run(home, "store", &arguments, "");
        let digest = fs::read_to_string(home.folder.join("digest")).unwrap_or_default();
        (said, format!("sha256:{id} {}", digest.trim()).into_bytes())
    }

    fn pull(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        let _ = fs::remove_dir_all(home.folder.join("pulled"));
        let arguments = ["pull", "--cert-dir", home.cert_dir(), &home.image(repository)];
        let said = self.run(home, "pulled", &arguments, "");
        let image = if said.ok { self.image(home, "pulled") } else { String::new() };
        (said, image.into_bytes())
    }

    fn refusals(&self) -> &'static [&'static str] {
        CONTAINERS
    }
}

/// The program of go-containerregistry. The authority comes from `SSL_CERT_FILE`.
pub(super) struct Crane(pub(super) PathBuf);

impl Crane {
    fn run(&self, home: &Home<'_>, arguments: &[&str], input: &str) -> Said {
        let trust = format!("SSL_CERT_FILE={}", home.ca());
        let command = [&trust, self.0.to_str().unwrap()];
        home.run(Path::new("env"), &[&command, arguments].concat(), input)
    }
}

impl Client for Crane {
    fn cannot(&self, way: Way) -> Option<&'static str> {
        (way == Way::Certificate).then_some("crane has no flag for a client certificate")
    }

    fn login(&self, home: &Home<'_>) -> Option<Said> {
        let (user, password) = home.login?;
        let arguments = ["auth", "login", &home.site.host, "-u", user, "--password-stdin"];
        Some(self.run(home, &arguments, password))
    }

    fn push(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        layout(&home.folder);
        let said = self.run(home, &["push", "layout", &home.image(repository)], "");
        (said, content(&home.folder.join("layout")))
    }

    fn pull(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        let pulled = Pulled::new(home);
        let said = self.run(home, &["pull", "--format=oci", &home.image(repository), "pulled"], "");
        (said, pulled.content())
    }

    fn refusals(&self) -> &'static [&'static str] {
        &["UNAUTHORIZED: ", "401 Unauthorized", "DENIED: "]
    }
}

/// The program of regclient. What it trusts is in its configuration.
pub(super) struct Regctl(pub(super) PathBuf);

impl Regctl {
    fn trust(&self, home: &Home<'_>) {
        let read = |name: &str| fs::read_to_string(home.certificates.join(name)).unwrap();
        let mut flags = vec!["--cacert".to_owned(), read("ca.crt")];
        if home.has_certificate {
            flags.extend(["--client-cert".to_owned(), read("client.cert")]);
            flags.extend(["--client-key".to_owned(), read("client.key")]);
        }
        let set = ["registry", "set", "--skip-check", &home.site.host];
        let set: Vec<String> = set.iter().map(|&part| part.to_owned()).chain(flags).collect();
        home.run(&self.0, &set, "").expect();
    }
}

impl Client for Regctl {
    fn login(&self, home: &Home<'_>) -> Option<Said> {
        let (user, password) = home.login?;
        self.trust(home);
        let arguments = ["registry", "login", &home.site.host, "-u", user, "--pass-stdin"];
        Some(home.run(&self.0, &arguments, password))
    }

    fn push(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        layout(&home.folder);
        self.trust(home);
        let arguments = ["image", "copy", "ocidir://layout:1", &home.image(repository)];
        (home.run(&self.0, &arguments, ""), content(&home.folder.join("layout")))
    }

    fn pull(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        let pulled = Pulled::new(home);
        self.trust(home);
        let said = home.run(&self.0, &["image", "copy", &home.image(repository), "ocidir://pulled:1"], "");
        (said, pulled.content())
    }

    fn refusals(&self) -> &'static [&'static str] {
        &["unauthorized"]
    }
}

/// Pushes files.
pub(super) struct Oras(pub(super) PathBuf);

impl Oras {
    fn run(&self, home: &Home<'_>, arguments: &[&str], input: &str) -> Said {
        let tls = home.tls_flags(["--ca-file", "--cert-file", "--key-file"]);
        let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
        home.run(&self.0, &[arguments, &tls].concat(), input)
    }
}

impl Client for Oras {
    fn login(&self, home: &Home<'_>) -> Option<Said> {
        let (user, password) = home.login?;
        Some(self.run(home, &["login", &home.site.host, "-u", user, "--password-stdin"], password))
    }

    fn push(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        fs::write(home.folder.join("file"), super::support::noise(7, 100_000)).unwrap();
        let said = self.run(home, &["push", &home.image(repository), "file:application/x-noise"], "");
        (said, super::support::noise(7, 100_000))
    }

    fn pull(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        let pulled = Pulled::new(home);
        let said = self.run(home, &["pull", "-o", "pulled", &home.image(repository)], "");
        (said, fs::read(pulled.0.join("file")).unwrap_or_default())
    }

    fn refusals(&self) -> &'static [&'static str] {
        ORAS
    }
}

/// Pushes charts. The name of the chart comes below the repository, and its version is the tag.
pub(super) struct Helm(pub(super) PathBuf);

impl Helm {
    fn run(&self, home: &Home<'_>, arguments: &[&str], input: &str) -> Said {
        let tls = home.tls_flags(["--ca-file", "--cert-file", "--key-file"]);
        let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
        home.run(&self.0, &[arguments, &tls].concat(), input)
    }
}

impl Client for Helm {
    fn login(&self, home: &Home<'_>) -> Option<Said> {
        let (user, password) = home.login?;
        let arguments = ["registry", "login", &home.site.host, "-u", user, "--password-stdin"];
        Some(self.run(home, &arguments, password))
    }

    fn push(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        let chart = home.folder.join("chart");
        fs::create_dir_all(chart.join("templates")).unwrap();
        fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: chart\nversion: 1.0.0\n").unwrap();
        fs::write(chart.join("templates/empty.yaml"), "# empty\n").unwrap();
        home.run(&self.0, &["package", "chart"], "").expect();
        let to = format!("oci://{}/{repository}", home.site.host);
        let said = self.run(home, &["push", "chart-1.0.0.tgz", &to], "");
        (said, fs::read(home.folder.join("chart-1.0.0.tgz")).unwrap())
    }

    fn pull(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        let pulled = Pulled::new(home);
        fs::create_dir_all(&pulled.0).unwrap();
        let from = format!("oci://{}/{repository}/chart", home.site.host);
        let said = self.run(home, &["pull", &from, "--version", "1.0.0", "-d", "pulled"], "");
        (said, files(&pulled.0).into_values().next().unwrap_or_default())
    }

    fn refusals(&self) -> &'static [&'static str] {
        ORAS
    }
}

/// Pushes an image and its signature; pulls the image, and verifies the signature.
pub(super) struct Cosign(pub(super) PathBuf);

impl Cosign {
    fn run(&self, home: &Home<'_>, arguments: &[&str]) -> Said {
        let flags = ["--registry-cacert", "--registry-client-cert", "--registry-client-key"];
        let tls = home.tls_flags(flags);
        let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
        home.run(&self.0, &[arguments, &tls].concat(), "")
    }
}

impl Client for Cosign {
    fn login(&self, home: &Home<'_>) -> Option<Said> {
        let (user, password) = home.login?;
        Some(home.run(&self.0, &["login", &home.site.host, "-u", user, "--password-stdin"], password))
    }

    fn push(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        let manifest = layout(&home.folder);
        let image = home.image(repository);
        let mut said = self.run(home, &["load", "--dir", "layout", &image]);
        if said.ok {
            // The key is of the site, so that others can verify with it.
            if !home.shared("cosign.key").exists() {
                home.run(&self.0, &["generate-key-pair"], "").expect();
                fs::rename(home.folder.join("cosign.key"), home.shared("cosign.key")).unwrap();
                fs::rename(home.folder.join("cosign.pub"), home.shared("cosign.pub")).unwrap();
            }
            let name = image.rsplit_once(':').unwrap().0;
            let image = format!("{name}@{}", hyper_sdk::Digest::sha256(&manifest));
            let key = home.shared("cosign.key");
            let sign = ["sign", "--yes", "--tlog-upload=false", "--key", key.to_str().unwrap(), &image];
            said = self.run(home, &sign);
        }
        (said, content(&home.folder.join("layout")))
    }

    fn pull(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>) {
        let pulled = Pulled::new(home);
        let image = home.image(repository);
        let mut said = self.run(home, &["save", "--dir", "pulled", &image]);
        if said.ok {
            let key = home.shared("cosign.pub");
            let verify = ["verify", "--insecure-ignore-tlog", "--key", key.to_str().unwrap(), &image];
            said = self.run(home, &verify);
        }
        (said, pulled.content())
    }

    fn refusals(&self) -> &'static [&'static str] {
        &["UNAUTHORIZED: ", "401 Unauthorized", "DENIED: "]
    }
}
