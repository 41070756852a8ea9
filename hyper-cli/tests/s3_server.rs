//! A real server of S3 for the tests of a run, and a front before it that counts requests and does what a test says.

use crate::peers::{Head, Peer, Wire};
use crate::support::{find, wait_for};
use std::io::{BufRead as _, BufReader, Read as _, Result, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The keys of somebody who may do everything, and of somebody who may only read.
pub(crate) const KEYS: [&str; 2] = ["hyper-key", "hyper-secret"];
pub(crate) const READER: [&str; 2] = ["reader-key", "reader-secret"];

/// The server: SeaweedFS. It ends with the program of the tests.
pub(crate) struct Server {
    /// Its address, and that of the files behind it.
    host: String,
    filer: String,
}

fn weed() -> Option<PathBuf> {
    let set_up = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../weed/bin/weed");
    find("weed").or_else(|| Some(set_up).filter(|path| path.is_file()))
}

/// The server of this run; `None` where the program is missing.
pub(crate) fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(|| weed().map(Server::start)).as_ref()
}

impl Server {
    fn start(program: PathBuf) -> Self {
        // Held until all are known, so that they differ.
        let free: Vec<TcpListener> = (0..8).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = free.iter().map(|one| one.local_addr().unwrap().port()).collect();
        drop(free);
        let folder = tempfile::tempdir().unwrap().keep();
        let right = |name: &str, [id, secret]: [&str; 2], actions: &str| {
            format!(
                "{{\"name\":\"{name}\",\"credentials\":[{{\"accessKey\":\"{id}\",\"secretKey\":\"{secret}\"}}],\
                 \"actions\":[{actions}]}}"
            )
        };
        let all = right("all", KEYS, "\"Admin\",\"Read\",\"Write\",\"List\"");
        let config = format!("{{\"identities\":[{all},{}]}}", right("reader", READER, "\"Read\",\"List\""));
        std::fs::write(folder.join("s3.json"), config).unwrap();
        let mut arguments: Vec<String> = [
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-master.electionTimeout=1s",
            "-volume.max=1000",
        ]
        .map(str::to_owned)
        .into();
        let named =
            ["master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc"];
        for (name, port) in named.iter().zip(&ports) {
            let (part, kind) = name.split_once('.').map_or((*name, ""), |(part, _)| (part, ".grpc"));
            arguments.push(format!("-{part}.port{kind}={port}"));
        }
        arguments.push(format!("-dir={}", folder.display()));
        arguments.push(format!("-s3.config={}", folder.join("s3.json").display()));
        arguments.push(format!("-filer.localSocket={}", folder.join("filer.sock").display()));
        // Ends when this program does, whose end of the pipe closes.
        let script = "cd \"$1\" || exit 1; folder=$1; shift; \"$@\" >log 2>&1 </dev/null & child=$!; read -r line; \
                      kill -9 $child; cd /; rm -rf \"$folder\"; for port in $PORTS; do rm -f /tmp/seaweedfs-*-\"$port\".sock; \
                      done";
        let shown: Vec<String> = ports.iter().map(u16::to_string).collect();
        let mut child = Command::new("sh")
            .args(["-c", script, "weed"])
            .arg(&folder)
            .arg(program)
            .args(arguments)
            .env("PORTS", shown.join(" "))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The pipe stays open, and nobody waits for the program.
        std::mem::forget(child.stdin.take());
        std::mem::forget(child);
        let server =
            Self { host: format!("127.0.0.1:{}", ports[6]), filer: format!("127.0.0.1:{}", ports[4]) };
        wait_for("the server of S3 to answer", || {
            request(&server.host, "GET", "/healthz", &[]).is_ok_and(|answer| answer.contains(" 200 "))
        });
        server
    }

    /// Makes a bucket of a test's own.
    pub(crate) fn bucket(&self) -> Bucket {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let made = request(&self.filer, "POST", &format!("/buckets/{name}/"), &[]).unwrap();
        assert!(made.contains(" 201 "), "{made}");
        Bucket { name, host: self.host.clone(), filer: self.filer.clone() }
    }
}

/// Sends a request, and returns the whole answer.
fn request(host: &str, method: &str, target: &str, body: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(host)?;
    let length = body.len();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAccept: application/json\r\nContent-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
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
        let answer = request(&self.filer, "GET", &target, &[]).unwrap();
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
        let answer = request(&self.filer, "HEAD", &format!("/buckets/{}/{key}", self.name), &[]).unwrap();
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
