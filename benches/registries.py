"""The registry servers that the benches time, each on loopback with an empty store: hyperregistry, docker-registry, and
distribution's own program; on a folder, or on PostgreSQL and a bucket."""
import base64, contextlib, http.client, os, shutil, socket, subprocess, sys, tempfile, time

PASSWORD = "a password of the bench"
NOBODY = 65534
POLICY = """
[groups]
team = ["user:bench", "user:other"]

[[allow]]
who = ["anyone"]
repositories = ["public/**"]
actions = ["pull"]

[[allow]]
who = ["group:team"]
repositories = ["bench*", "bench/**"]
actions = ["pull", "push", "create-tag", "move-tag", "delete"]
"""
# Rates that are counted and never reached.
GUARDS = """
[auth]
htpasswd = "{folder}/users"
policy = "{folder}/policy.toml"

[limits.address]
reads = "10000000/s burst 10000000"
writes = "10000000/s burst 10000000"
requests-at-once = 100000
uploads-at-once = 100000

[limits.user]
reads = "10000000/s burst 10000000"
writes = "10000000/s burst 10000000"
requests-at-once = 100000
uploads-at-once = 100000
"""


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(what, is_there, process, log, seconds=60):
    end = time.monotonic() + seconds
    while not is_there():
        if time.monotonic() > end or process.poll() is not None:
            sys.exit(f"{what} does not answer:\n{open(log, errors='replace').read()[-2000:]}")
        time.sleep(0.005)


def answers(port, path="/", headers=None):
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path, None, headers or {})
        return connection.getresponse().status < 400
    return False


class Child:
    """A program that ends with the block."""

    def __init__(self, command, log, **more):
        self.log = log
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=open(log, "a"), stderr=subprocess.STDOUT, **more)
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def memory(self):
        """Resident memory in MB."""
        for line in open(f"/proc/{self.pid}/status"):
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024


class PostgreSQL(Child):
    def __init__(self, folder):
        versions = "/usr/lib/postgresql"
        found = sorted(os.listdir(versions)) if os.path.isdir(versions) else []
        if not found:
            sys.exit("PostgreSQL is not installed")
        programs = os.path.join(versions, found[-1], "bin")
        folder = os.path.join(folder, "postgres")
        os.mkdir(folder, 0o700)
        user = {}
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
            user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        data, log = os.path.join(folder, "data"), os.path.join(folder, "log")
        subprocess.run([programs + "/initdb", "--no-sync", "-Upostgres", "--encoding=UTF8", "--locale=C", "--auth=trust", "-D", data],
                       check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)
        super().__init__([programs + "/postgres", "-D", data, "-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}",
                          "-c", "max_connections=200", "-c", "shared_buffers=256MB"], log, cwd=folder, **user)
        self.url = f"postgres://postgres@localhost/postgres?host={folder}"
        self.sql = lambda text: subprocess.run([programs + "/psql", "-h", folder, "-U", "postgres", "-qc", text], capture_output=True)
        wait_for("PostgreSQL", lambda: self.sql("SELECT 1").returncode == 0, self.process, log)


class S3(Child):
    """seaweedfs with one bucket, `bench`."""

    def __init__(self, folder):
        here = os.path.dirname(os.path.abspath(__file__))
        program = shutil.which("weed") or os.path.join(here, "../target/weed/bin/weed")
        if not os.path.isfile(program):
            sys.exit("weed (seaweedfs) is neither in the PATH nor in target/weed/bin")
        folder = os.path.join(folder, "s3")
        os.mkdir(folder)
        names = ["master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc"]
        ports = dict(zip(names, free_ports(len(names))))
        with open(folder + "/s3.json", "w") as f:
            f.write('{"identities": [{"name": "bench", "credentials": [{"accessKey": "bench", "secretKey": "bench"}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}')
        command = [program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0",
                   "-master.telemetry=false", "-master.volumeSizeLimitMB=256", "-master.electionTimeout=1s", "-volume.max=1000",
                   f"-dir={folder}", f"-s3.config={folder}/s3.json", f"-filer.localSocket={folder}/filer.sock"]
        for name, port in ports.items():
            part, _, kind = name.partition(".")
            command.append(f"-{part}.port{'.grpc' if kind else ''}={port}")
        super().__init__(command, folder + "/log", cwd=folder)
        self.endpoint = f"http://127.0.0.1:{ports['s3']}"
        wait_for("seaweedfs", lambda: answers(ports["s3"], "/healthz"), self.process, self.log)
        made = http.client.HTTPConnection("127.0.0.1", ports["filer"])
        made.request("POST", "/buckets/bench/")
        if made.getresponse().status != 201:
            sys.exit("the bucket cannot be made")


KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}


class Registry(Child):
    headers = {}

    def __init__(self, name, command, folder, port, environment):
        self.name, self.port = name, port
        began = time.monotonic()
        super().__init__(command, os.path.join(folder, "log"), env={**os.environ, **environment})
        wait_for(name, lambda: answers(port, "/v2/", self.headers), self.process, self.log)
        self.start = time.monotonic() - began


class Hyper(Registry):
    """hyperregistry; `guarded` with users, a policy, rates, the audit log and metrics on."""

    def __init__(self, program, folder, postgres=None, bucket=None, guarded=False, more=""):
        port = free_ports(1)[0]
        head = f'listen = "127.0.0.1:{port}"\ndata = "{folder}/data"\n'
        body = '[log]\nlevel = "error"\n'
        environment = {}
        if bucket:
            head += f'blobs = "s3://bench/hyper?endpoint={bucket.endpoint}&path_style=true"\n'
            environment = KEYS
        if postgres:
            body += f'[database]\nurl = "{postgres.url}"\n'
        if guarded:
            body = body.replace("[log]\n", f'[log]\naudit = "{folder}/audit.log"\n') + GUARDS.format(folder=folder)
            users = subprocess.run([program, "htpasswd", "bench"], input=PASSWORD, text=True, capture_output=True, check=True).stdout
            for name, text in (("users", users), ("policy.toml", POLICY)):
                with open(os.path.join(folder, name), "w") as f:
                    f.write(text)
            self.headers = {"Authorization": "Basic " + base64.b64encode(f"bench:{PASSWORD}".encode()).decode()}
        else:
            body += "[metrics]\nenabled = false\n"
        config = os.path.join(folder, "config.toml")
        with open(config, "w") as f:
            f.write(head + body + more)
        super().__init__("hyperregistry", [program, "serve", "--config", config], folder, port, environment)


class Distribution(Registry):
    """Docker's registry, of whichever version, on a folder or on a bucket."""

    def __init__(self, name, program, folder, bucket=None):
        port = free_ports(1)[0]
        storage = f"filesystem: {{rootdirectory: {folder}/data}}"
        if bucket:
            storage = (f"s3: {{region: us-east-1, regionendpoint: '{bucket.endpoint}', bucket: bench, rootdirectory: /{name}, accesskey: bench, "
                       "secretkey: bench, secure: false, forcepathstyle: true, v4auth: true}, redirect: {disable: true}")
        config = os.path.join(folder, "config.yml")
        with open(config, "w") as f:
            f.write(f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{{storage}, delete: {{enabled: true}}, "
                    f"cache: {{blobdescriptor: inmemory}}}}\nhttp: {{addr: '127.0.0.1:{port}', secret: bench}}\n")
        super().__init__(name, [program, "serve", config], folder, port, {"OTEL_TRACES_EXPORTER": "none"})


@contextlib.contextmanager
def running(name, program, storage, guarded=False):
    """A server of that name with an empty store, in a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="hyper-bench-") as folder, contextlib.ExitStack() as stack:
        os.chmod(folder, 0o755)
        bucket = stack.enter_context(S3(folder)) if storage == "s3" else None
        if name == "hyperregistry":
            postgres = stack.enter_context(PostgreSQL(folder)) if bucket else None
            yield stack.enter_context(Hyper(program, folder, postgres, bucket, guarded))
        else:
            yield stack.enter_context(Distribution(name, program, folder, bucket))
