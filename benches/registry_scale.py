#!/usr/bin/env python3
"""How hyperregistry behaves with much in it: the cost of what a user does must not grow with what others have pushed.

    registry_scale.py HYPERREGISTRY [--rows tags,repositories,delete,connections,collect] [--part P] [--storage folder|s3]

tags          1 000 000 tags in one repository: the time from the start of a server to its first answer, and a page of 100
              tags at random places
repositories  100 000 repositories: the same with pages of the catalog
delete        a manifest with 10 000 tags is deleted
connections   manifests are pulled by 500 connections, while 10 000 others are open and idle: those that have asked once, and then,
              with another server, those that have never asked
collect       1 000 000 blobs, half of them garbage, are collected by `hyperregistry gc` beside a server: its peak of memory, and
              the time of pushes before and meanwhile

`--part 0.01` takes a hundredth of each number. The rows fill the store through the server, which takes minutes; so that a push of
now is garbage now, `collect` ends the leases of its blobs in the database of the server (SQLite alone).
"""
import argparse, contextlib, hashlib, os, random, re, resource, shutil, socket, sqlite3, subprocess, sys, tempfile, threading, time
from concurrent.futures import ProcessPoolExecutor

import registries
from registry_side_by_side import MANIFEST, Client

CONFIG = "application/vnd.oci.image.config.v1+json"
MORE = "\n[limits]\ntags-per-request = 2000\nconnections = 16000\n\n[gc]\nevery = \"0s\"\n\n[scrub]\nevery = \"0s\"\n"


def manifest(marker, blobs):
    """A manifest with these blobs, the first of which is the config; in JSON as it is pushed."""
    listed = ",".join(f'{{"mediaType":"{CONFIG}","digest":"{digest}","size":{size}}}' for digest, size in blobs[1:])
    digest, size = blobs[0]
    return (f'{{"schemaVersion":2,"mediaType":"{MANIFEST}","annotations":{{"n":"{marker}"}},'
            f'"config":{{"mediaType":"{CONFIG}","digest":"{digest}","size":{size}}},"layers":[{listed}]}}').encode()


def put(client, repository, reference, body, tags=()):
    query = "?" + "&".join("tag=" + tag for tag in tags) if tags else ""
    client.ask("PUT", f"/v2/{repository}/manifests/{reference}{query}", body, {"Content-Type": MANIFEST})


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def push_at_once(client, data):
    """The POST that brings the whole blob."""
    digest = digest_of(data)
    client.ask("POST", f"/v2/bench/blobs/uploads/?digest={digest}", data, {"Content-Type": "application/octet-stream"})
    return digest


class Site:
    """A server that can be started again on its store."""

    def __init__(self, program, storage):
        self.program, self.stack = program, contextlib.ExitStack()
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="hyper-scale-"))
        os.chmod(self.folder, 0o755)
        self.bucket = self.stack.enter_context(registries.S3(self.folder)) if storage == "s3" else None
        self.postgres = self.stack.enter_context(registries.PostgreSQL(self.folder)) if self.bucket else None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self.stack.__exit__(*error)

    def start(self):
        return registries.Hyper(self.program, self.folder, self.postgres, self.bucket, more=MORE)

    def starts(self):
        """The median of five starts, in milliseconds."""
        times = []
        for _ in range(5):
            with self.start() as server:
                times.append(server.start * 1000)
        return sorted(times)[2]


def wrk(port, script, connections=1, seconds=5):
    """(median, p99) in milliseconds and the requests a second, of requests that a script makes."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as f:
        f.write(script)
        f.flush()
        threads = min(2, connections)
        text = subprocess.run(["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "30s", "-s", f.name,
                               f"http://127.0.0.1:{port}/"], check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        sys.exit(f"requests failed:\n{text}")
    unit = {"us": 0.001, "ms": 1, "s": 1000}
    times = [float(number) * unit[kind] for number, kind in re.findall(r"(?:50|99)%\s+([\d.]+)(us|ms|s)", text)]
    return times[0], times[1], float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))


def pages(site, path, pattern, number):
    with site.start() as server:
        script = (f'request = function() return wrk.format("GET", string.format("{path}?n=100&last={pattern}", '
                  f'math.random(0, {number - 1}))) end\n')
        median, p99, _ = wrk(server.port, script)
        return f"a page of 100: {median:.2f} ms, p99 {p99:.2f} ms; memory {server.memory():.0f} MB"


def tags(site, part):
    number = int(1_000_000 * part)
    with site.start() as server:
        client = Client(server.port, {})
        config = (client.push(b"{}"), 2)
        for first in range(0, number, 2000):
            body = manifest(first, [config])
            put(client, "bench", digest_of(body), body, [f"t{i:07}" for i in range(first, min(number, first + 2000))])
    return f"{number} tags: first answer {site.starts():.0f} ms after the start; " + pages(site, "/v2/bench/tags/list", "t%07d", number)


def fill_repositories(port, first, last, config):
    client = Client(port, {})
    for i in range(first, last):
        config = (client.push(b"{}", f"bench/r{i:06}"), 2)
        put(client, f"bench/r{i:06}", "latest", manifest("x", [config]))


def in_processes(function, port, number, *arguments, processes=8):
    bounds = [number * i // processes for i in range(processes + 1)]
    with ProcessPoolExecutor(processes) as pool:
        ends = [pool.submit(function, port, first, last, *arguments) for first, last in zip(bounds, bounds[1:])]
        return [result for end in ends for result in end.result() or []]


def repositories(site, part):
    number = int(100_000 * part)
    with site.start() as server:
        in_processes(fill_repositories, server.port, number, None)
    return (f"{number} repositories: first answer {site.starts():.0f} ms after the start; "
            + pages(site, "/v2/_catalog", "bench/r%06d", number))


def delete(site, part):
    number, times = int(10_000 * part), []
    with site.start() as server:
        client = Client(server.port, {})
        config = (client.push(b"{}"), 2)
        for round in range(5):
            body = manifest(f"delete {round}", [config])
            for first in range(0, number, 2000):
                put(client, "bench", digest_of(body), body, [f"r{round}-{i:05}" for i in range(first, min(number, first + 2000))])
            began = time.perf_counter()
            client.ask("DELETE", "/v2/bench/manifests/" + digest_of(body))
            times.append((time.perf_counter() - began) * 1000)
    return f"a manifest with {number} tags is deleted in {sorted(times)[2]:.1f} ms"


def connections(site, part):
    idle, active = int(10_000 * part), max(1, int(500 * part))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    script = f'wrk.headers["Accept"] = "{MANIFEST}"\nrequest = function() return wrk.format("GET", "/v2/bench/manifests/latest") end\n'
    lines = []
    for kind in ("have asked once", "have never asked"):
        with site.start() as server:
            client = Client(server.port, {})
            put(client, "bench", "latest", manifest("x", [(client.push(b"{}"), 2)]))
            before = wrk(server.port, script, active)
            alone = server.memory()
            held = []
            for _ in range(idle):
                one = socket.create_connection(("127.0.0.1", server.port))
                if kind == "have asked once":
                    one.sendall(b"GET /v2/ HTTP/1.1\r\nHost: bench\r\n\r\n")
                    if not one.recv(4096).startswith(b"HTTP/1.1 200"):
                        sys.exit("an idle connection was refused")
                held.append(one)
            after = wrk(server.port, script, active)
            memory = server.memory()
            for one in held:
                one.close()
        lines.append(f"{active} active connections: {before[2] / 1000:.1f} k/s, p99 {before[1]:.1f} ms, memory {alone:.0f} MB; with {idle} "
                     f"idle ones that {kind} {after[2] / 1000:.1f} k/s, p99 {after[1]:.1f} ms, memory {memory:.0f} MB")
    return "\n  ".join(lines)


def fill_blobs(port, first, last):
    """Blobs; the first half of them get manifests that keep them."""
    client, kept = Client(port, {}), []
    for i in range(first, last):
        data = f"blob {i}".encode()
        digest = push_at_once(client, data)
        if i % 2:
            kept.append((digest, len(data)))
        if len(kept) == 500 or (kept and i == last - 1):
            body = manifest(f"keeps {i}", kept)
            put(client, "bench", f"keep-{i}", body)
            kept = []


def pushes(port, stop, times):
    client, number = Client(port, {}), 0
    mark = os.urandom(8).hex()
    while not stop.is_set():
        began = time.perf_counter()
        push_at_once(client, f"{mark} {number}".encode() + b"." * 4096)
        times.append((time.perf_counter() - began) * 1000)
        number += 1


def p99_of_pushes(port, wait):
    """What `wait` returns, and the p99 of the pushes of four connections meanwhile, in milliseconds."""
    stop, times = threading.Event(), []
    threads = [threading.Thread(target=pushes, args=(port, stop, times)) for _ in range(4)]
    for thread in threads:
        thread.start()
    result = wait()
    stop.set()
    for thread in threads:
        thread.join()
    return result, sorted(times)[int(len(times) * 0.99)], len(times)


def collect(site, part):
    if site.postgres:
        return "collect: with SQLite alone"
    number = int(1_000_000 * part)
    with site.start() as server:
        began = time.monotonic()
        in_processes(fill_blobs, server.port, number)
        print(f"{number} blobs pushed in {time.monotonic() - began:.0f} s", file=sys.stderr)
        _, before, rate = p99_of_pushes(server.port, lambda: time.sleep(20))
        database = next(os.path.join(folder, name) for folder, _, names in os.walk(site.folder + "/data") for name in names
                        if name.endswith(".db"))
        with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
            connection.execute("UPDATE blob_links SET leased_until = 0")
            connection.commit()

        def gc():
            command = subprocess.Popen([site.program, "gc", "--data", site.folder + "/data"], stdout=subprocess.PIPE, text=True)
            text = command.stdout.read()
            _, status, used = os.wait4(command.pid, 0)
            command.returncode = status
            return text.strip().splitlines()[-1], used.ru_maxrss / 1024, status

        began = time.monotonic()
        (said, peak, status), meanwhile, during = p99_of_pushes(server.port, gc)
        took = time.monotonic() - began
        if status:
            sys.exit("the collection failed")
        return (f"{number} blobs are collected in {took:.0f} s, peak {peak:.0f} MB ({said}); pushes: p99 {before:.1f} ms before "
                f"({rate / 20:.0f} /s), {meanwhile:.1f} ms meanwhile ({during / took:.0f} /s): {meanwhile / before:.1f}×; "
                f"memory of the server {server.memory():.0f} MB")


def main():
    rows = {"tags": tags, "repositories": repositories, "delete": delete, "connections": connections, "collect": collect}
    parser = argparse.ArgumentParser()
    parser.add_argument("hyperregistry")
    parser.add_argument("--rows", default=",".join(rows))
    parser.add_argument("--part", type=float, default=1)
    parser.add_argument("--storage", choices=["folder", "s3"], default="folder")
    args = parser.parse_args()
    shutil.which("wrk") or sys.exit("wrk is needed to make the requests")
    for row in args.rows.split(","):
        if row not in rows:
            sys.exit(f"there is no row {row}: the rows are {', '.join(rows)}")
        with Site(args.hyperregistry, args.storage) as site:
            print(f"{row}: {rows[row](site, args.part)}", flush=True)


if __name__ == "__main__":
    main()
