#!/usr/bin/env python3
"""Time real builds of hyperbuild beside BuildKit, in one run, as ratios.

    real_builds.py HYPERBUILD --debian LAYOUT [--rows apt,cmake,pip,npm,go,cargo] [--rounds N] [--ca FILE] [--work FOLDER]
                   [--user USER] [--run]

Each row is a multi-stage project that fetches packages from its registry, so this needs a network. LAYOUT is an OCI
image layout of a minimal Debian (13 or newer, for its compilers). An image with the compilers is built on it first,
and kept in FOLDER for the next run. A row is timed cold (no cache, empty cache mounts) and after one line of its
source changed, by each program in turn; the median of N rounds counts. `own` is the time of the commands themselves,
which each step prints; the rest is what the builder adds.

BuildKit is timed when `buildkitd`, `buildctl` and `runc` are installed and this runs as root: it gets a daemon of its
own, with the host's network. `--user` builds as an ordinary user, too, and `--run` runs each image of hyperbuild with podman and
fails when a program of it does not do what its source says. The packages come over the network of the host: run more rounds when it is uneven.
"""
import argparse, json, os, shutil, subprocess, sys

from peers import BuildKit, Failed, Hyper, Podman, buildkit_is_missing, call, digest_of

CA = "/etc/ssl/certs/ca-certificates.crt"
PACKAGES = "ca-certificates cargo cmake g++ golang-go make ninja-build nodejs npm python3-venv"


def run(command, cache="", ca=True):
    """A RUN instruction that prints how long its command took, with the certificates of the host."""
    mounts = "".join(f"--mount=type=cache,target={target} " for target in cache.split())
    mounts += f"--mount=type=secret,id=ca,target={CA} " if ca else ""
    return f"RUN {mounts}a=$(date +%s%N); ( {command} ) && echo own=$(( ($(date +%s%N) - a) / 1000000 ))\n"


APT = "apt-get update -qq && apt-get install -y -qq --no-install-recommends"
TOOLS = f"FROM debian\nENV DEBIAN_FRONTEND=noninteractive\nRUN {APT} {PACKAGES} && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin\n"


def cpp(at):
    return (f"#include <algorithm>\n#include <map>\n#include <regex>\n#include <string>\n#include <vector>\n"
            f"int part{at}(const std::string &text) {{\n  std::map<std::string, int> counts;\n"
            f"  std::regex word(\"[a-z]+{at}\");\n"
            f"  for (std::sregex_iterator i(text.begin(), text.end(), word), end; i != end; ++i) ++counts[i->str()];\n"
            f"  std::vector<int> all;\n  for (auto &entry : counts) all.push_back(entry.second);\n"
            f"  std::sort(all.begin(), all.end());\n  return all.empty() ? {at} : all.back();\n}}\n")


def projects():
    """row -> (Dockerfile, files, the file of which one line changes, old text, new text)."""
    rows = {}
    rows["apt"] = (
        "FROM debian AS build\nENV DEBIAN_FRONTEND=noninteractive\n" + run(f"{APT} gcc libc6-dev make", ca=False)
        + "WORKDIR /src\nCOPY . .\n" + run("make", ca=False) + "FROM debian\nENV DEBIAN_FRONTEND=noninteractive\n"
        + run(f"{APT} curl ca-certificates", ca=False) + "COPY --from=build /src/app /usr/bin/app\n",
        {"Makefile": "app: main.c\n\tcc -O2 -o app main.c\n", "main.c": "#include <stdio.h>\nint main(void) { puts(\"one\"); return 0; }\n"},
        "main.c", "one", "two")
    count = 16
    rows["cmake"] = (
        "FROM tools AS build\nWORKDIR /src\nCOPY . .\n"
        + run("cmake -S . -B /out -G Ninja -DCMAKE_BUILD_TYPE=Release && cmake --build /out", "/out")
        + run("cmake --build /out && /out/app && install /out/app /app", "/out")
        + "FROM debian\nCOPY --from=build /app /usr/bin/app\n",
        {"CMakeLists.txt": "cmake_minimum_required(VERSION 3.20)\nproject(app CXX)\nfile(GLOB parts *.cpp)\nadd_executable(app ${parts})\n",
         "main.cpp": "#include <cstdio>\n#include <string>\n" + "".join(f"int part{i}(const std::string &);\n" for i in range(count))
         + "int main() { std::string text = \"one\"; int sum = 0;\n" + "".join(f"  sum += part{i}(text);\n" for i in range(count))
         + "  std::printf(\"%s %d\\n\", text.c_str(), sum); }\n",
         **{f"part{i}.cpp": cpp(i) for i in range(count)}},
        "main.cpp", "one", "two")
    rows["pip"] = (
        "FROM tools AS build\nWORKDIR /app\n" + run("python3 -m venv /venv && /venv/bin/pip install -q wheel", "/root/.cache/pip")
        + "COPY requirements.txt .\n" + run("/venv/bin/pip install -q -r requirements.txt", "/root/.cache/pip")
        + "COPY . .\n" + run("/venv/bin/python -m compileall -q . && /venv/bin/python app.py")
        + "FROM tools\nCOPY --from=build /venv /venv\nCOPY --from=build /app /app\n",
        {"requirements.txt": "flask\nrequests\nsqlalchemy\nnumpy\npydantic\n", "app.py": "import flask, numpy, requests, sqlalchemy\nprint('one')\n"},
        "app.py", "one", "two")
    rows["npm"] = (
        "FROM tools AS build\nWORKDIR /app\nCOPY package.json .\n" + run("npm install --no-audit --no-fund --silent", "/root/.npm")
        + "COPY . .\n" + run("npx tsc && npx esbuild out/main.js --bundle --minify --outfile=dist/main.js")
        + "FROM debian\nCOPY --from=build /app/dist /srv\n",
        {"package.json": json.dumps({"name": "app", "version": "1.0.0", "dependencies": {"react": "18.3.1", "react-dom": "18.3.1", "lodash": "4.17.21"},
                                     "devDependencies": {"typescript": "5.4.5", "esbuild": "0.21.5", "eslint": "8.57.0", "webpack": "5.91.0",
                                                         "@types/react": "18.3.3", "@types/lodash": "4.17.4"}}),
         "tsconfig.json": json.dumps({"compilerOptions": {"outDir": "out", "module": "es2020", "target": "es2020", "moduleResolution": "node",
                                                          "jsx": "react", "skipLibCheck": True, "esModuleInterop": True}, "include": ["src"]}),
         "src/main.tsx": "import React from 'react';\nimport { chunk } from 'lodash';\nexport const App = () => <p>one {chunk([1, 2], 1).length}</p>;\n"},
        "src/main.tsx", "one", "two")
    rows["go"] = (
        "FROM tools AS build\nWORKDIR /app\nENV GOSUMDB=off GOFLAGS=-mod=mod CGO_ENABLED=0\nCOPY go.mod .\n"
        + run("go mod download", "/root/go/pkg/mod") + "COPY . .\n"
        + run("go build -o /server .", "/root/go/pkg/mod /root/.cache/go-build") + "FROM scratch\nCOPY --from=build /server /server\n",
        {"go.mod": "module app\n\ngo 1.21\n\nrequire (\n\tgithub.com/gin-gonic/gin v1.9.1\n\tgithub.com/spf13/cobra v1.8.0\n)\n",
         "main.go": "package main\n\nimport (\n\t\"github.com/gin-gonic/gin\"\n\t\"github.com/spf13/cobra\"\n)\n\nfunc main() {\n"
                    "\tcommand := &cobra.Command{Use: \"app\", RunE: func(*cobra.Command, []string) error {\n\t\tengine := gin.New()\n"
                    "\t\tengine.GET(\"/\", func(c *gin.Context) { c.String(200, \"one\") })\n\t\treturn engine.Run()\n\t}}\n\tcommand.Execute()\n}\n"},
        "main.go", "one", "two")
    rows["cargo"] = (
        "FROM tools AS build\nWORKDIR /app\nCOPY . .\n"
        + run("cargo build --release && cp target/release/app /app/server", "/root/.cargo/registry /app/target")
        + run("cargo test --release -q", "/root/.cargo/registry /app/target") + "FROM debian\nCOPY --from=build /app/server /usr/bin/server\n",
        {"Cargo.toml": "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\nregex = \"=1.11.1\"\nserde = { version = \"=1.0.219\", features = [\"derive\"] }\n"
                       "serde_json = \"=1.0.140\"\naxum = \"=0.7.9\"\ntokio = { version = \"=1.44.2\", features = [\"full\"] }\nclap = { version = \"=4.5.37\", features = [\"derive\"] }\n\n[profile.release]\nopt-level = 1\n",
         "src/main.rs": "use clap::Parser;\n\n#[derive(Parser)]\nstruct Args {\n    #[arg(default_value = \"one\")]\n    word: String,\n}\n\n#[tokio::main]\nasync fn main() {\n"
                        "    let args = Args::parse();\n    let app: axum::Router = axum::Router::new().route(\"/\", axum::routing::get(|| async move { args.word }));\n"
                        "    let words = regex::Regex::new(\"o.e\").unwrap().find_iter(\"one\").count();\n    println!(\"{}\", serde_json::json!({ \"words\": words }));\n"
                        "    if std::env::var_os(\"SERVE\").is_some() {\n        axum::serve(tokio::net::TcpListener::bind(\"127.0.0.1:0\").await.unwrap(), app).await.unwrap();\n    }\n}\n\n"
                        "#[test]\nfn counts() {\n    assert_eq!(2 + 2, 4);\n}\n"},
        "src/main.rs", "default_value = \\\"one\\\"".replace("\\", ""), "default_value = \"two\"")
    return rows


# row -> (the command that is run in its image after the change, what it then writes)
PROOFS = {"apt": (["/usr/bin/app"], "two"), "cmake": (["/usr/bin/app"], "two"),
          "pip": (["/venv/bin/python", "/app/app.py"], "two"), "npm": (["grep", "-o", "two ", "/srv/main.js"], "two"),
          "go": (["/server", "--help"], "app"), "cargo": (["/usr/bin/server"], "words")}


def write(folder, dockerfile, files):
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in {"Dockerfile": dockerfile, **files}.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hyperbuild")
    parser.add_argument("--debian", required=True)
    parser.add_argument("--rows", default="apt,cmake,pip,npm,go,cargo")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ca", default=CA)
    parser.add_argument("--work", default="/tmp/real-builds")
    parser.add_argument("--user", help="an ordinary user with subordinate ids, who builds each row, too")
    parser.add_argument("--run", action="store_true", help="run each image with podman")
    parser.add_argument("--no-buildkit", action="store_true")
    parser.add_argument("--other", help="a second hyperbuild, timed beside the first")
    args = parser.parse_args()
    os.makedirs(args.work, mode=0o700, exist_ok=True)
    debian = os.path.abspath(args.debian)
    tools = os.path.join(args.work, "tools")
    if not os.path.exists(os.path.join(tools, "index.json")):
        context = os.path.join(args.work, "tools-context")
        write(context, TOOLS, {})
        call([args.hyperbuild, "--root", os.path.join(args.work, "tools-state"), "build", "--progress", "plain",
              "--build-context", f"debian=oci-layout://{debian}:latest", "-t", "tools:latest",
              "--output", f"type=oci,tar=false,dest={tools}", context])
        shutil.rmtree(os.path.join(args.work, "tools-state"), ignore_errors=True)
    bases = {"debian": (debian, digest_of(debian)), "tools": (tools, digest_of(tools))}
    builders = [Hyper(args.hyperbuild, args.work, bases, args.ca)]
    if args.other:
        builders.append(Hyper(args.other, os.path.join(args.work, "other"), bases, args.ca, name="other"))
    if args.user:
        os.chmod(args.work, 0o755)
        builders.append(Hyper(args.hyperbuild, args.work, bases, args.ca, name="as " + args.user, user=args.user))
    podman = Podman(args.work) if args.run else None
    if missing := "" if args.no_buildkit else buildkit_is_missing():
        print(missing)
    elif not args.no_buildkit:
        builders.append(BuildKit(args.work, bases, args.ca))
    rows, failed = projects(), 0
    try:
        print(f"{'row':7} {'builder':11} {'cold':>8} {'own':>7} {'rest':>7} {'edit':>8} {'own':>7} {'rest':>7}   {'cold ratio':>10} {'edit ratio':>10}", flush=True)
        for row in args.rows.split(","):
            dockerfile, files, changed, old, new = rows[row]
            context, out = os.path.join(args.work, "context"), os.path.join(args.work, "out.tar")
            times = {builder.name: ([], []) for builder in builders}
            for at in range(args.rounds):
                for builder in builders if at % 2 == 0 else builders[::-1]:
                    write(context, dockerfile, files)
                    builder.reset()
                    try:
                        cold = builder.build(context, out)
                        with open(os.path.join(context, changed), "w") as f:
                            assert old in files[changed], changed
                            f.write(files[changed].replace(old, new, 1))
                        edit = builder.build(context, out)
                        if podman and isinstance(builder, Hyper):
                            command, expected = PROOFS[row]
                            if expected not in podman.output_of(out, command):
                                raise Failed(f"the image does not write {expected!r}")
                    except Failed as failure:
                        print(f"{row:7} {builder.name:11} {failure}", flush=True)
                        failed = 1
                        continue
                    times[builder.name][0].append(cold)
                    times[builder.name][1].append(edit)
            first = None
            for builder in builders:
                if not times[builder.name][0]:
                    continue
                cold, edit = (sorted(measured)[len(measured) // 2] for measured in times[builder.name])
                first = first or (cold[0], edit[0])
                print(f"{row:7} {builder.name:11} {cold[0]:7.2f}s {cold[1]:6.2f}s {cold[0] - cold[1]:6.2f}s {edit[0]:7.2f}s {edit[1]:6.2f}s {edit[0] - edit[1]:6.2f}s"
                      f"   {cold[0] / first[0]:9.2f}x {edit[0] / first[1]:9.2f}x", flush=True)
    finally:
        for builder in [*builders, *([podman] if podman else [])]:
            builder.close()
    return failed


if __name__ == "__main__":
    sys.exit(main())
