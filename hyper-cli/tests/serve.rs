//! `hyperbuild serve`: the local store as a registry.

use crate::support::{Place, told};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

/// A server on the store of a place.
pub(crate) struct Serving {
    child: Child,
    host: String,
}

impl Serving {
    pub(crate) fn start(place: &Place, more: &[&str]) -> Self {
        let arguments = [&["serve", "--listen", "localhost:0"], more].concat();
        let mut child = place.hyper(&arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let host = line.trim().strip_prefix("http://").expect("the address is printed");
        Self { child, host: host.trim_end_matches('/').to_owned() }
    }

    /// The host and port.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn request(&self, method: &str, path: &str, content_type: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.host).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: {content_type}\r\n\
             content-length: {length}\r\n\r\n{body}",
            self.host
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_error_of_listening_names_the_address_and_the_flag() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    // 192.0.2.0/24 is for documents and belongs to no machine.
    for (address, why) in [
        (taken.as_str(), "another program listens there"),
        ("192.0.2.1:5000", "no interface of this machine"),
        ("no-such-host.invalid:5000", "the host has no address"),
    ] {
        let output = place.hyper(&["serve", "--listen", address]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let told = told(&output);
        for part in [why, address, "hint: choose another address with --listen"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert_eq!(told.matches(address).count(), 1, "{told}");
        assert!(!told.contains("input or output failed"), "{told}");
    }
}

#[test]
fn internal_repositories_of_the_builder_are_not_served() {
    let place = Place::new();
    place.write("context/file", "content\n");
    place.built("FROM scratch\nCOPY file /\n", &["-t", "localhost/app:1"]);
    let server = Serving::start(&place, &[]);
    let catalog = server.request("GET", "/v2/_catalog", "", "");
    assert!(catalog.ends_with(r#"{"repositories":["localhost/app"]}"#), "{catalog}");
    let manifest = server.request("GET", "/v2/localhost/app/manifests/1", "", "");
    assert!(manifest.starts_with("HTTP/1.1 200"), "{manifest}");
    let digest = manifest.rsplit(r#""digest":""#).next().unwrap().split('"').next().unwrap();
    let blob = |repository: &str| server.request("GET", &format!("/v2/{repository}/blobs/{digest}"), "", "");
    assert!(blob("localhost/app").starts_with("HTTP/1.1 200"));
    assert!(blob("hyper.local/layers").starts_with("HTTP/1.1 403"));
    let push = server.request("POST", "/v2/hyper.local/layers/blobs/uploads/", "", "");
    assert!(push.starts_with("HTTP/1.1 403"), "{push}");
}

#[test]
fn sparse_manifests_are_accepted_with_the_flag() {
    let place = Place::new();
    let kind = "application/vnd.oci.image.index.v1+json";
    let digest = format!("sha256:{}", "0".repeat(64));
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":7}}]}}"#
    );
    for (more, status) in [(&[][..], 400), (&["--sparse"][..], 201)] {
        let server = Serving::start(&place, more);
        let answer = server.request("PUT", "/v2/a/manifests/x", kind, &index);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
}
