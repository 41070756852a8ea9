//! A real server of S3 for the tests of a run: SeaweedFS.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long the server may take to start.
const START: Duration = Duration::from_secs(60);

/// A server of S3 (SeaweedFS), which ends with the program of the tests.
///
/// Its program is `weed`, on the path or in the folder `weed/bin` beside the program of the tests or above it.
#[derive(Debug)]
pub struct S3Server {
    host: String,
    filer: String,
}

impl S3Server {
    /// An access key with its secret for everything.
    pub const KEYS: [&'static str; 2] = ["hyper-key", "hyper-secret"];
    /// An access key with its secret for reading.
    pub const READER: [&'static str; 2] = ["reader-key", "reader-secret"];

    /// The server of this program of tests, which the first call starts; `None` where there is no `weed`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn running() -> Option<&'static Self> {
        static SERVER: OnceLock<Option<S3Server>> = OnceLock::new();
        SERVER.get_or_init(|| program().map(|program| Self::start(&program))).as_ref()
    }

    #[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    fn start(program: &Path) -> Self {
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
        let all = right("all", Self::KEYS, "\"Admin\",\"Read\",\"Write\",\"List\"");
        let reader = right("reader", Self::READER, "\"Read\",\"List\"");
        std::fs::write(folder.join("s3.json"), format!("{{\"identities\":[{all},{reader}]}}")).unwrap();
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
        let begun = Instant::now();
        while !Self::request(&server.host, "GET", "/healthz", &[]).is_ok_and(|text| text.contains(" 200 ")) {
            assert!(begun.elapsed() < START, "the server of S3 did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// Makes a bucket of a test's own, and returns its name.
    ///
    /// # Panics
    /// When the server does not make it.
    #[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    pub fn bucket(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let made = Self::request(&self.filer, "POST", &format!("/buckets/{name}/"), &[]).unwrap();
        assert!(made.contains(" 201 "), "{made}");
        name
    }

    /// Its address, as `HOST:PORT`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The address of the files behind it: an object is at `/buckets/BUCKET/KEY`.
    pub fn filer(&self) -> &str {
        &self.filer
    }

    /// Sends a request, and returns the whole answer.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn request(host: &str, method: &str, target: &str, body: &[u8]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(host)?;
        let length = body.len();
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAccept: application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        )?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("weed"));
    let own = std::env::current_exe().unwrap_or_default();
    let above = own.ancestors().skip(1).map(|folder| folder.join("weed/bin/weed"));
    on_path.chain(above).find(|program| program.is_file())
}
