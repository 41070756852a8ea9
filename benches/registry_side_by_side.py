#!/usr/bin/env python3
"""Time hyperregistry beside docker-registry and distribution's own program on the same requests, in one run, as ratios.

    registry_side_by_side.py HYPERREGISTRY [--storage folder|s3] [--distribution PROGRAM] [--seconds N] [--rows manifest,…]

`guarded` is hyperregistry with users, a policy, rates, the audit log and metrics on. `--storage s3` gives each server a bucket of
an S3 server of its own (seaweedfs), and hyperregistry a PostgreSQL of its own.

Reads of one thing are made by wrk with 16 connections. The other rows are made by 16 connections of this script, each request
after the other: `push-…` a POST and a PUT, `chunk-1m` a POST, a PATCH and a PUT. The rows that end in `zb` have the shapes of zot's
benchmark; `production` is what public studies saw: 92 % GET, two thirds of the layers below 1 MB. All servers listen on
loopback. A server that is not installed is left out, and said to be. The figures of one machine say little: compare
the ratios.
"""
import argparse, hashlib, http.client, json, os, random, re, shutil, socket, subprocess, sys, time
from concurrent.futures import ProcessPoolExecutor

import registries

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
KIB, MIB = 1 << 10, 1 << 20
SIZES = {"4k": 4 * KIB, "1m": MIB, "10m": 10 * MIB, "16m": 16 * MIB, "100m": 100 * MIB}
# row -> what its connections do: (share, operation, size)
MIXES = {
    "push-4k": [(1, "push", "4k")], "push-1m": [(1, "push", "1m")], "put-manifest": [(1, "put", None)],
    "push-1m-zb": [(1, "push", "1m")], "push-10m-zb": [(1, "push", "10m")], "chunk-1m-zb": [(1, "chunk", "1m")],
    "pull-1m-zb": [(1, "pull", "1m")], "pull-10m-zb": [(1, "pull", "10m")],
    "pull-mixed-zb": [(20, "pull", "1m"), (70, "pull", "10m"), (10, "pull", "100m")],
    "push-mixed-zb": [(33, "push", "1m"), (33, "push", "10m"), (33, "push", "100m")],
    "pull75-push25-1m-zb": [(75, "pull", "1m"), (25, "push", "1m")],
    "pull75-push25-10m-zb": [(75, "pull", "10m"), (25, "push", "10m")],
    "production": [(42, "get", None), (33, "pull", "4k"), (10, "pull", "1m"), (6, "pull", "10m"), (1, "pull", "16m"), (3, "head", None),
                   (3, "push", "4k"), (1, "push", "1m"), (1, "put", None)],
}
READS = ["manifest", "blob-4k", "blob-1m", "blob-16m", "tags-page", "catalog-zb"]
ROWS = READS[:4] + ["push-4k", "push-1m", "put-manifest", "tags-page", "catalog-zb"] + [row for row in MIXES if row.endswith("-zb")] + [
    "production"]
REPOSITORIES, TAGS = 200, 4300


class Client:
    """One connection."""

    def __init__(self, port, headers):
        self.headers = headers
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method, path, body=None, headers=None):
        if path.startswith("http"):
            path = "/" + path.split("/", 3)[3]
        self.connection.request(method, path, body, {**self.headers, **(headers or {})})
        answer = self.connection.getresponse()
        data = answer.read() if answer.status >= 400 or answer.length is None or answer.length < MIB else self.skip(answer)
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:300]!r}")
        return answer, data

    @staticmethod
    def skip(answer):
        buffer, left = bytearray(MIB), answer.length
        while left:
            got = answer.readinto(buffer)
            if not got:
                raise RuntimeError("the body is cut")
            left -= got

    def push(self, data, repository="bench", chunk=False):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        binary = {"Content-Type": "application/octet-stream"}
        place = self.ask("POST", f"/v2/{repository}/blobs/uploads/", b"")[0].getheader("Location")
        if chunk:
            place = self.ask("PATCH", place, data, binary)[0].getheader("Location")
        place += ("&" if "?" in place else "?") + "digest=" + digest
        self.ask("PUT", place, b"" if chunk else data, binary)
        return digest

    def put(self, tag, config, repository="bench"):
        body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "annotations": {"tag": tag}, "layers": [],
                           "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2}})
        self.ask("PUT", f"/v2/{repository}/manifests/{tag}", body, {"Content-Type": MANIFEST})


def work(port, headers, row, number, seconds, there):
    """What one connection does: how many operations ended, and how many bytes they had."""
    client, chance = Client(port, headers), random.Random(number)
    mix = MIXES[row]
    filler = {size: os.urandom(SIZES[size]) for _, what, size in mix if size and what != "pull"}
    done = moved = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        _, what, size = chance.choices(mix, [share for share, _, _ in mix])[0]
        name = f"{row}-{number}-{done}-"
        if what in ("push", "chunk"):
            client.push(name.encode() + filler[size][len(name):], chunk=what == "chunk")
        elif what == "pull":
            client.ask("GET", "/v2/bench/blobs/" + chance.choice(there[size]))
        elif what == "put":
            client.put(name + "x", there["config"])
        else:
            client.ask("GET" if what == "get" else "HEAD", "/v2/bench/manifests/latest", None, {"Accept": MANIFEST})
        done, moved = done + 1, moved + SIZES.get(size, 0)
    return done, moved


def wrk(server, path, seconds):
    """(requests a second, p99 in milliseconds)"""
    headers = [part for name, text in {"Accept": MANIFEST, **server.headers}.items() for part in ("-H", f"{name}: {text}")]
    command = ["wrk", "-t2", "-c16", f"-d{seconds}s", "--latency", *headers, f"http://127.0.0.1:{server.port}{path}"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in text:
        sys.exit(f"{path} was refused:\n{text}")
    number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    p99 = float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
    return float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1)), p99


def read(server, client, row, seconds, there):
    if row.startswith("blob-"):
        size = SIZES[row[5:]]
        rate, p99 = wrk(server, "/v2/bench/blobs/" + there[row[5:]][0], seconds)
        return rate, (f"{rate / 1000:.1f} k/s" if size < MIB else f"{rate * size / 1e9:.2f} GB/s") + f", p99 {p99:.1f} ms"
    path = {"manifest": "/v2/bench/manifests/latest", "tags-page": "/v2/bench/tags/list?n=100", "catalog-zb": "/v2/_catalog?n=100"}[row]
    if row == "tags-page":
        body = client.ask("GET", "/v2/bench/manifests/latest", None, {"Accept": MANIFEST})[1]
        for i in range(TAGS):
            client.ask("PUT", f"/v2/bench/manifests/page-{i:05}", body, {"Content-Type": MANIFEST})
    elif row == "catalog-zb":
        for i in range(REPOSITORIES):
            client.put("latest", client.push(b"{}", f"bench/{i:03}"), f"bench/{i:03}")
    rate, p99 = wrk(server, path, seconds)
    return rate, f"{rate / 1000:.2f} k/s, p99 {p99:.1f} ms"


def measure(server, rows, seconds):
    """row -> (a second, what to print)"""
    result, client = {}, Client(server.port, server.headers)
    there = {"config": client.push(b"{}")}
    client.put("latest", there["config"])
    wanted = {size for row in rows for _, what, size in MIXES.get(row, []) if what == "pull"}
    wanted |= {row[5:] for row in rows if row.startswith("blob-")}
    for size in sorted(wanted):
        there[size] = [client.push(os.urandom(SIZES[size])) for _ in range(3)]
    for row in rows:
        if row in READS:
            result[row] = read(server, client, row, seconds, there)
        else:
            with ProcessPoolExecutor(16) as pool:
                ends = [pool.submit(work, server.port, server.headers, row, i, seconds, there) for i in range(16)]
                counts = [end.result() for end in ends]
            rate, moved = (sum(count[i] for count in counts) / seconds for i in (0, 1))
            result[row] = rate, f"{rate:.0f} /s" + (f", {moved / 1e6:.0f} MB/s" if moved > 16e6 else "")
        if row == rows[-1] or (row in READS[:4] and rows[rows.index(row) + 1] not in READS[:4]):
            memory = server.memory()
            result["memory after " + row] = 1 / memory, f"{memory:.0f} MB"
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hyperregistry")
    parser.add_argument("--distribution", help="distribution's program, of a newer version than docker-registry")
    parser.add_argument("--storage", choices=["folder", "s3"], default="folder")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rows", default=",".join(ROWS))
    args = parser.parse_args()
    shutil.which("wrk") or sys.exit("wrk is needed to make the requests")
    rows = args.rows.split(",")
    if unknown := set(rows) - set(ROWS):
        sys.exit(f"there is no row {', '.join(sorted(unknown))}: the rows are {', '.join(ROWS)}")
    servers = {"hyperregistry": (args.hyperregistry, False), "guarded": (args.hyperregistry, True)}
    for name, program in {"docker-registry": shutil.which("docker-registry"), "distribution": args.distribution}.items():
        if program:
            servers[name] = program, False
        else:
            print(f"{name} is not there: left out")
    results = {}
    for name, (program, guarded) in servers.items():
        with registries.running("hyperregistry" if guarded else name, program, args.storage, guarded) as server:
            results[name] = measure(server, rows, args.seconds)
        print(f"{name} is done", file=sys.stderr)
    print("row".ljust(24) + "".join(name.rjust(27 if i == 0 else 36) for i, name in enumerate(results)))
    for row in results["hyperregistry"]:
        line, ours = row.ljust(24), results["hyperregistry"][row][0]
        for i, (name, rates) in enumerate(results.items()):
            rate, text = rates[row]
            line += text.rjust(27) if i == 0 else f"{text} ({rate / ours if name == 'guarded' else ours / rate:.2f}×)".rjust(36)
        print(line)
    print("(×: guarded as a part of hyperregistry, hyperregistry as a multiple of the others)")


if __name__ == "__main__":
    main()
