//! A real server of S3 for the tests of a run, and a front before it that counts requests and does what a test says.

use crate::peers::{Head, Peer, Wire};
use hyper_sdk::testing::S3Server;
use std::io::{BufRead as _, BufReader, Read as _, Result, Write as _};
use std::net::TcpStream;

/// The keys of somebody who may do everything, and of somebody who may only read.
pub(crate) const KEYS: [&str; 2] = S3Server::KEYS;
pub(crate) const READER: [&str; 2] = S3Server::READER;

/// The server of this run; `None` where the program is missing.
pub(crate) fn server() -> Option<Server> {
    S3Server::running().map(Server)
}

/// The server.
pub(crate) struct Server(&'static S3Server);

impl Server {
    /// Makes a bucket of a test's own.
    pub(crate) fn bucket(&self) -> Bucket {
        Bucket { name: self.0.bucket(), host: self.0.host().to_owned(), filer: self.0.filer().to_owned() }
    }
}

/// A bucket.
pub(crate) struct Bucket {
    pub(crate) name: String,
    host: String,
    filer: String,
}

impl Bucket {
    /// The attributes that name it at an address, with keys in them.
    pub(crate) fn at(&self, host: &str, [id, secret]: [&str; 2]) -> String {
        format!(
            "type=s3,bucket={},region=us-east-1,endpoint_url=http://{host},access_key_id={id},secret_access_key={secret}",
            self.name
        )
    }

    /// The attributes that name it at the server itself.
    pub(crate) fn attributes(&self) -> String {
        self.at(&self.host, KEYS)
    }

    /// The names of the objects in a folder of it.
    pub(crate) fn list(&self, folder: &str) -> Vec<String> {
        let target = format!("/buckets/{}/{folder}/?limit=1000", self.name);
        let answer = S3Server::request(&self.filer, "GET", &target, &[]).unwrap();
        let Some((_, body)) = answer.split_once("\r\n\r\n") else { return Vec::new() };
        let Some(start) = body.find('{') else { return Vec::new() };
        let mut values = serde_json::Deserializer::from_str(&body[start..]).into_iter::<serde_json::Value>();
        let Some(Ok(list)) = values.next() else { return Vec::new() };
        let entries = list["Entries"].as_array().cloned().unwrap_or_default();
        let name = |entry: &serde_json::Value| {
            entry["FullPath"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
        };
        entries.iter().map(name).collect()
    }

    /// Replaces the content of an object behind the server's back.
    pub(crate) fn overwrite(&self, key: &str, body: &[u8]) {
        let boundary = "hyper-boundary";
        let mut form =
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n")
                .into_bytes();
        form.extend_from_slice(body);
        form.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let mut stream = TcpStream::connect(&self.filer).unwrap();
        write!(
            stream,
            "POST /buckets/{}/{key} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: multipart/form-data; \
             boundary={boundary}\r\nContent-Length: {}\r\n\r\n",
            self.name,
            form.len()
        )
        .unwrap();
        stream.write_all(&form).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 201 "), "{answer}");
    }

    /// The size of an object.
    pub(crate) fn size(&self, key: &str) -> usize {
        let answer =
            S3Server::request(&self.filer, "HEAD", &format!("/buckets/{}/{key}", self.name), &[]).unwrap();
        let mut lengths = answer.lines().filter_map(|line| line.strip_prefix("Content-Length: "));
        lengths
            .next_back()
            .and_then(|length| length.trim().parse().ok())
            .unwrap_or_else(|| panic!("{answer}"))
    }

    /// A front before the server. `fault` answers a request in its place when it returns true.
    pub(crate) fn front(
        &self,
        fault: impl Fn(&Head, &mut Wire) -> Result<bool> + Send + Sync + 'static,
    ) -> Peer {
        let host = self.host.clone();
        Peer::start(move |head, wire| match fault(head, wire)? {
            true => Ok(()),
            false => pass_on(&host, head, wire, usize::MAX),
        })
    }
}

/// Passes a request on to a server, and at most so many bytes of the answer's body back.
pub(crate) fn pass_on(host: &str, head: &Head, wire: &mut Wire, most: usize) -> Result<()> {
    let body = wire.take(head.length())?;
    let mut server = TcpStream::connect(host)?;
    write!(server, "{} {} HTTP/1.1\r\n", head.method, head.target)?;
    for (name, value) in head.headers.iter().filter(|(name, _)| *name != "connection") {
        write!(server, "{name}: {value}\r\n")?;
    }
    write!(server, "connection: close\r\n\r\n")?;
    server.write_all(&body)?;
    let mut reader = BufReader::new(server);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            wire.send("Connection: close\r\n\r\n")?;
            break;
        }
        if !line.to_ascii_lowercase().starts_with("connection:") {
            wire.send(&line)?;
        }
    }
    let mut left = most;
    let mut block = [0; 16 << 10];
    while left > 0 {
        let length = block.len().min(left);
        let count = reader.read(&mut block[..length])?;
        if count == 0 {
            break;
        }
        wire.send(&block[..count])?;
        left -= count;
    }
    Ok(())
}
