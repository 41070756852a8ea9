#!/usr/bin/env python3
"""Time hyperregistry beside docker-registry on the same requests, in one run, as ratios.

    registry_side_by_side.py HYPERREGISTRY [--seconds N] [--rows manifest,blob-4k,...]

Reads are made by wrk with 16 connections, pushes by 16 connections of this script, each a POST and a PUT. Both servers
listen on loopback, each with an empty folder. A server that is not installed is left out, and said to be.
The figures of one machine say little: compare the ratios.
"""
import argparse, hashlib, http.client, json, os, re, shutil, socket, subprocess, sys, tempfile, time
from concurrent.futures import ProcessPoolExecutor

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SIZES = {"4k": 4 << 10, "1m": 1 << 20, "16m": 16 << 20}
ROWS = ["manifest", "blob-4k", "blob-1m", "blob-16m", "push-4k", "push-1m", "put-manifest", "tags-page"]


def request(connection, method, path, body=None, headers=None):
    if path.startswith("http"):
        path = "/" + path.split("/", 3)[3]
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    data = answer.read()
    if answer.status >= 400:
        raise RuntimeError(f"{method} {path}: {answer.status} {data[:300]!r}")
    return answer, data


def push_blob(connection, data):
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    place = request(connection, "POST", "/v2/bench/blobs/uploads/", b"")[0].getheader("Location")
    place += ("&" if "?" in place else "?") + "digest=" + digest
    request(connection, "PUT", place, data, {"Content-Type": "application/octet-stream"})
    return digest


def put_manifest(connection, config, tag, size):
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "annotations": {"tag": tag}, "layers": [],
                       "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size}})
    request(connection, "PUT", f"/v2/bench/manifests/{tag}", body, {"Content-Type": MANIFEST})


def work(port, row, number, seconds, config):
    """One connection's pushes: how many were acknowledged."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    done, end = 0, time.monotonic() + seconds
    filler = os.urandom(SIZES.get(row.split("-")[1], 0))
    while time.monotonic() < end:
        name = f"{row}-{number}-{done}-"
        if row == "put-manifest":
            put_manifest(connection, config[0], name + "x", config[1])
        else:
            push_blob(connection, name.encode() + filler[len(name):])
        done += 1
    return done


def wrk(port, path, seconds):
    """(requests a second, bytes a second, p99 in milliseconds)"""
    command = ["wrk", "-t2", "-c16", f"-d{seconds}s", "--latency", "-H", "Accept: " + MANIFEST, f"http://127.0.0.1:{port}{path}"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in text:
        sys.exit(f"{path} was refused:\n{text}")
    number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    p99 = float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))
    return rate, p99


def start(name, program, folder):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    if name == "hyperregistry":
        command = [program, "serve", "--listen", f"127.0.0.1:{port}", "--data", folder + "/data", "--log-level", "error"]
    else:
        config = os.path.join(folder, "config.yml")
        with open(config, "w") as f:
            f.write(f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}, "
                    f"delete: {{enabled: true}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n")
        command = [program, "serve", config]
    log = open(os.path.join(folder, "log"), "w")
    server = subprocess.Popen(command, stdout=log, stderr=log)
    for _ in range(100):
        try:
            request(http.client.HTTPConnection("127.0.0.1", port), "GET", "/v2/")
            return server, port
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{name} does not answer:\n{open(log.name).read()[-2000:]}")


def measure(name, program, rows, seconds):
    """row -> (a second, what to print)"""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        server, port = start(name, program, folder)
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            config = (push_blob(connection, b"{}"), 2)
            put_manifest(connection, config[0], "latest", config[1])
            for row in rows:
                if row.startswith("blob-"):
                    size = SIZES[row[5:]]
                    rate, p99 = wrk(port, "/v2/bench/blobs/" + push_blob(connection, os.urandom(size)), seconds)
                    text = f"{rate / 1000:.1f} k/s" if size < 1 << 20 else f"{rate * size / 1e9:.2f} GB/s"
                    result[row] = rate, f"{text}, p99 {p99:.1f} ms"
                elif row == "manifest" or row == "tags-page":
                    if row == "tags-page":
                        body = request(connection, "GET", "/v2/bench/manifests/latest", None, {"Accept": MANIFEST})[1]
                        for i in range(4300):
                            request(connection, "PUT", f"/v2/bench/manifests/page-{i:05}", body, {"Content-Type": MANIFEST})
                    rate, p99 = wrk(port, "/v2/bench/manifests/latest" if row == "manifest" else "/v2/bench/tags/list?n=100", seconds)
                    result[row] = rate, f"{rate / 1000:.2f} k/s, p99 {p99:.1f} ms"
                else:
                    with ProcessPoolExecutor(16) as pool:
                        counts = [pool.submit(work, port, row, i, seconds, config) for i in range(16)]
                        rate = sum(count.result() for count in counts) / seconds
                    result[row] = rate, f"{rate:.0f} /s"
            for line in open(f"/proc/{server.pid}/status"):
                if line.startswith("VmRSS"):
                    memory = int(line.split()[1]) / 1024
                    result["memory after"] = 1 / memory, f"{memory:.0f} MB"
        finally:
            server.terminate()
            server.wait()
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hyperregistry")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rows", default=",".join(ROWS))
    args = parser.parse_args()
    shutil.which("wrk") or sys.exit("wrk is needed to make the requests")
    rows = args.rows.split(",")
    if unknown := set(rows) - set(ROWS):
        sys.exit(f"there is no row {', '.join(sorted(unknown))}: the rows are {', '.join(ROWS)}")
    ours = measure("hyperregistry", args.hyperregistry, rows, args.seconds)
    peer = shutil.which("docker-registry")
    if not peer:
        print("docker-registry is not installed: left out")
    theirs = measure("docker-registry", peer, rows, args.seconds) if peer else {}
    print(f"{'row':14} {'hyperregistry':>26} {'docker-registry':>26} {'ratio':>8}")
    for row, (rate, text) in ours.items():
        other, peer_text = theirs.get(row, (None, "-"))
        print(f"{row:14} {text:>26} {peer_text:>26} " + (f"{rate / other:7.1f}×" if other else ""))


if __name__ == "__main__":
    main()
