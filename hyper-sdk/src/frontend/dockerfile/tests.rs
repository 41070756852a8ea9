//! Tests of lowering, with fake images.

mod epochs;
mod outlines;
mod windows;

use crate::build::{check_dockerfile, lower_dockerfile};
use crate::frontend::{EpochOf, FrontendOptions, Lowered, Resolved, Resolver};
use crate::graph::{FileAction, MountKind, Op, SourceOp};
use crate::oci::ImageConfig;
use crate::platform::Platform;
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;

/// A resolver with fake images, and with the time of the context.
struct Images(Option<i64>);

#[async_trait]
impl Resolver for Images {
    async fn context(&self, name: &str, _: &Platform) -> Result<Option<Resolved>> {
        let folder = (name == "folder").then(|| Resolved::Folder(name.to_owned()));
        Ok(folder.or((name == "nothing").then_some(Resolved::Scratch)))
    }

    async fn epoch(&self, of: EpochOf) -> Result<Option<i64>> {
        Ok(match of {
            EpochOf::Context => self.0,
            EpochOf::Named(_) => None,
            EpochOf::Stage { fetches, newest_base } => {
                let git = fetches.iter().any(|source| matches!(source, SourceOp::Git(_)));
                if git { Some(1234) } else { newest_base }
            }
        })
    }

    async fn image(&self, name: &str, platform: &Platform) -> Result<Resolved> {
        let mut config = ImageConfig::empty(platform);
        config.config.env = vec!["PATH=/bin".into()];
        config.config.cmd = Some(vec!["sh".into()]);
        match name {
            "base" => {}
            "bare" => config.config.env.clear(),
            "multi" => {}
            "nano" => {
                config.os = "windows".into();
                config.rootfs.diff_ids.push(Digest::sha256("windows"));
                config.config.env.clear();
            }
            "faulty" => {
                let triggers = ["STOPSIGNAL FOO", "COPY a", "EXPOSE $P/x"];
                config.config.on_build = triggers.map(str::to_owned).to_vec();
            }
            "pipefail" => {
                config.config.shell = Some(["/bin/bash", "-o", "pipefail", "-c"].map(str::to_owned).to_vec());
            }
            "old" => {
                config.variant = Some("v8".into());
                config.extra.insert("container".into(), "c".into());
            }
            "triggers" => {
                config.config.on_build = vec!["COPY --from=tools /t /t".into(), "ENV DONE=1".into()]
            }
            _ => return Err(Error::new(ErrorKind::ManifestUnknown, "no such image")),
        }
        Ok(Resolved::Image {
            reference: format!("{name} {platform}"),
            manifest: Digest::sha256(name),
            config: Box::new(config),
        })
    }
}

async fn try_lower(text: &str, options: FrontendOptions) -> Result<Lowered> {
    lower_dockerfile("Dockerfile", text, &options, &Images(None), &mut Vec::new()).await
}

async fn lowered(text: &str) -> Lowered {
    try_lower(text, FrontendOptions::default()).await.unwrap()
}

fn root(lowered: &Lowered) -> &Op {
    &lowered.graph.vertex(lowered.root).op
}

#[tokio::test]
async fn config_instructions_change_the_config() {
    let l = lowered(
        "FROM base\nENV A=1 B=$A\nENV A=2 C=$A\nLABEL k=v\nUSER u:g\nWORKDIR /w/\nWORKDIR x\nEXPOSE 80 90-91/udp\n\
         VOLUME /v\nSTOPSIGNAL 9\nSHELL [\"/bin/x\", \"-y\"]\nCMD a b\nHEALTHCHECK --retries=3 CMD true\nONBUILD RUN z\n",
    )
    .await;
    let c = &l.config.config;
    assert_eq!(c.env, ["PATH=/bin", "A=2", "B=", "C=1"]);
    assert_eq!((c.user.as_str(), c.working_dir.as_str()), ("u:g", "/w/x"));
    assert_eq!(c.cmd.as_deref().unwrap(), ["/bin/x", "-y", "a b"]);
    assert_eq!(c.exposed_ports.keys().collect::<Vec<_>>(), ["80/tcp", "90/udp", "91/udp"]);
    assert_eq!(c.healthcheck.as_ref().unwrap().retries, Some(3));
    assert_eq!(c.on_build, ["RUN z"]);
    assert_eq!(l.history.iter().filter(|h| h.layer).count(), 2);
}

#[tokio::test]
async fn an_entrypoint_removes_only_an_inherited_command() {
    assert_eq!(lowered("FROM base\nENTRYPOINT [\"e\"]").await.config.config.cmd, None);
    assert!(lowered("FROM base\nCMD [\"c\"]\nENTRYPOINT [\"e\"]").await.config.config.cmd.is_some());
}

#[tokio::test]
async fn run_sees_arguments_and_history_shows_them() {
    let options = FrontendOptions {
        build_args: [("A", "given"), ("HTTP_PROXY", "p")].map(|(k, v)| (k.into(), v.into())).into(),
        ..FrontendOptions::default()
    };
    let text = "ARG G=global\nFROM base\nARG A=default\nARG N G\nARG A\nENV A=env\nENV PATH=/x\nRUN echo $A";
    let l = try_lower(text, options).await.unwrap();
    let Op::Exec(exec) = root(&l) else { panic!("not a RUN") };
    assert_eq!(exec.args, ["/bin/sh", "-c", "echo $A"]);
    let env: Vec<String> = exec.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(env, ["G=global", "A=env", "PATH=/x"]);
    assert_eq!(l.history.last().unwrap().created_by, "RUN |3 A=env N= G=global /bin/sh -c echo $A");
}

#[tokio::test]
async fn proxies_are_set_in_lower_and_upper_case() {
    let given = [("HTTP_PROXY", "one"), ("http_proxy", "two"), ("No_Proxy", "x"), ("ftp_proxy", "")];
    let options = FrontendOptions {
        build_args: given.map(|(k, v)| (k.into(), v.into())).into(),
        ..FrontendOptions::default()
    };
    let l = try_lower("FROM base\nENV http_proxy=env\nRUN x", options).await.unwrap();
    let Op::Exec(exec) = root(&l) else { panic!("not a RUN") };
    let seen: Vec<String> = exec.uncached_env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(seen, ["HTTP_PROXY=two", "http_proxy=two", "NO_PROXY=x", "no_proxy=x"]);
}

#[tokio::test]
async fn a_stage_begins_with_the_environment_of_its_base() {
    let l = lowered("FROM base AS b\nENV A=env\nARG A=arg B=kept\nFROM b\nENV C=$A D=$B").await;
    assert_eq!(l.config.config.env, ["PATH=/bin", "A=env", "C=env", "D=kept"]);
    let l = lowered("FROM bare\nENV X=$PATH:/x").await;
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(l.config.config.env, [format!("PATH={path}"), format!("X={path}:/x")]);
}

#[tokio::test]
async fn only_bases_have_other_platforms_than_the_build() {
    let with = async |text: &str, platform: Option<&str>| {
        let platform = platform.map(|p| p.parse().unwrap());
        try_lower(text, FrontendOptions { platform, ..FrontendOptions::default() }).await.unwrap()
    };
    let images = |l: &Lowered| -> Vec<String> {
        let image = |v: &crate::graph::Vertex| match &v.op {
            Op::Source(SourceOp::Image { reference, .. }) => Some(reference.clone()),
            _ => None,
        };
        l.graph.vertices().iter().filter_map(image).collect()
    };
    let config = |l: &Lowered| {
        let c = &l.config;
        format!("{}/{}/{}", c.os, c.architecture, c.variant.as_deref().unwrap_or("-"))
    };
    let text =
        "FROM --platform=linux/riscv64 base\nCOPY --from=multi /a /\nRUN --mount=from=multi,target=/m x\n";
    let l = with(text, Some("linux/s390x")).await;
    assert_eq!(images(&l), ["base linux/riscv64", "multi linux/s390x"]);
    assert_eq!(config(&l), "linux/s390x/-", "the result has the requested platform");
    let l = with(text, None).await;
    assert_eq!(images(&l), ["base linux/riscv64".to_owned(), format!("multi {}", Platform::host())]);
    assert_eq!(config(&l), "linux/riscv64/-");
    let l = with("FROM --platform=linux/s390x scratch\n", Some("linux/arm/v6")).await;
    assert_eq!(config(&l), "linux/arm/v6");
    let l = with("FROM --platform=linux/arm64 old\n", None).await;
    assert_eq!(config(&l), "linux/arm64/-", "in normal form");
    assert!(l.config.extra.is_empty(), "fields of the base are removed");
}

#[tokio::test]
async fn predefined_arguments_can_be_overridden() {
    let text = "FROM --platform=$TARGETPLATFORM base AS Last\nARG TARGETARCH TARGETSTAGE\nENV A=$TARGETARCH-$TARGETSTAGE";
    let with = async |target: Option<&str>, given: &[(&str, &str)]| {
        let options = FrontendOptions {
            platform: Some("linux/s390x".parse().unwrap()),
            target: target.map(Into::into),
            build_args: given.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..FrontendOptions::default()
        };
        let l = try_lower(text, options).await.unwrap();
        let image = l.graph.vertices().iter().find_map(|v| match &v.op {
            Op::Source(SourceOp::Image { reference, .. }) => Some(reference.clone()),
            _ => None,
        });
        (l.config.config.env[1].clone(), image.unwrap())
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(with(None, &[]).await, pair("A=s390x-last", "base linux/s390x"));
    assert_eq!(with(Some("LAST"), &[]).await, pair("A=s390x-LAST", "base linux/s390x"));
    let given = [("TARGETPLATFORM", "linux/riscv64"), ("TARGETSTAGE", "x"), ("TARGETARCH", "zz")];
    assert_eq!(with(None, &given).await, pair("A=zz-x", "base linux/riscv64"));
}

#[tokio::test]
async fn empty_commands_run_an_empty_shell_or_remove_the_command() {
    let c = lowered("FROM base\nCMD\nENTRYPOINT\n").await.config.config;
    let shell = Some(["/bin/sh", "-c", ""].map(str::to_owned).to_vec());
    assert_eq!((c.cmd, c.entrypoint), (shell.clone(), shell));
    let c = lowered("FROM base\nENTRYPOINT [\"e\"]\nENTRYPOINT []\nCMD []\n").await.config.config;
    assert_eq!((c.cmd, c.entrypoint), (None, None));
}

#[tokio::test]
async fn caches_are_named_after_the_written_target() {
    let mounts = async |text: &str| {
        let l = lowered(&format!("FROM base AS s\nFROM base\nWORKDIR /w\nRUN {text} x\n")).await;
        let Op::Exec(exec) = root(&l) else { panic!("not a RUN") };
        exec.mounts.clone()
    };
    for (target, id, place) in [
        ("target=rel", "rel", "/w/rel"),
        ("target=./a//../b/", "b", "/w/b"),
        ("target=../up", "../up", "/up"),
        ("target=/w/../x/", "/x", "/x"),
        ("id=named,target=rel", "named", "/w/rel"),
        ("sharing=shared", ".", "/w"),
    ] {
        let found = mounts(&format!("--mount=type=cache,{target}")).await;
        let MountKind::Cache { id: found_id, owner, .. } = &found[0].kind else { panic!("no cache") };
        assert_eq!((found_id.as_str(), found[0].target.as_str(), owner.is_none()), (id, place, true));
    }
    for (options, expected) in [
        ("mode=1755", Some((0o755, 0, 0))),
        ("uid=0", Some((0o755, 0, 0))),
        ("from=s,gid=3", Some((0o755, 0, 3))),
        ("from=s,source=/a,uid=9", None),
        ("from=s", None),
    ] {
        let found = mounts(&format!("--mount=type=cache,target=/c,{options}")).await;
        let MountKind::Cache { owner, .. } = &found[0].kind else { panic!("no cache") };
        assert_eq!(owner.map(|o| (o.mode, o.uid, o.gid)), expected, "{options}");
    }
    let order =
        "--mount=type=ssh,target=/a --mount=type=secret,id=i,target=/a --mount=type=tmpfs,target=/a,ro";
    let kinds: Vec<bool> = mounts(order)
        .await
        .iter()
        .map(|m| matches!(m.kind, MountKind::Tmpfs { read_only: true, .. }))
        .collect();
    assert_eq!(kinds, [true, false, false]);
}

#[tokio::test]
async fn only_needed_stages_are_lowered_and_equal_ones_are_one() {
    let l = lowered("FROM base AS a\nRUN x\nFROM unknown AS never\nFROM base AS b\nRUN x\nFROM scratch\nCOPY --from=a /f /f\nCOPY --from=2 /g /g")
        .await;
    assert!(l.graph.vertices().iter().all(|v| !v.name.contains("unknown")));
    let runs = l.graph.vertices().iter().filter(|v| matches!(v.op, Op::Exec(_))).count();
    assert_eq!(runs, 1);
}

#[tokio::test]
async fn triggers_of_a_base_run_in_the_stage() {
    let l = lowered("FROM base AS tools\nRUN make\nFROM triggers\nRUN after").await;
    assert!(l.config.config.env.contains(&"DONE=1".to_owned()));
    assert!(l.config.config.on_build.is_empty());
    assert_eq!(l.history.len(), 3);
    let l = lowered("FROM base AS p\nONBUILD ENV X=1\nFROM p").await;
    assert!(l.config.config.env.contains(&"X=1".to_owned()));
}

#[tokio::test]
async fn heredocs_become_files_and_scripts() {
    let l = lowered("FROM base\nENV N=v\nCOPY <<A <<\"B\" /d/\n$N\nA\n$N\nB\n").await;
    let Op::File(file) = root(&l) else { panic!("not a COPY") };
    let contents: Vec<&str> = file
        .actions
        .iter()
        .map(|a| match a {
            FileAction::MakeFile(f) => f.content.as_str(),
            _ => panic!("not a file"),
        })
        .collect();
    assert_eq!(contents, ["v\n", "$N\n"]);
    let l = lowered("FROM base\nRUN <<E\n#!/bin/x\ny\nE\n").await;
    let Op::Exec(exec) = root(&l) else { panic!("not a RUN") };
    assert_eq!(exec.args, ["/bin/sh", "-c", "/dev/pipes/E"]);
    assert_eq!(l.history.last().unwrap().created_by, "RUN /bin/sh -c /dev/pipes/E");
    assert_eq!(exec.mounts[0].target, "/dev/pipes");
    assert!(matches!(&exec.mounts[0].kind, MountKind::Inline { name, mode: 0o755, .. } if name == "E"));
}

#[tokio::test]
async fn a_long_script_is_read_from_a_file() {
    let long = format!("echo {}", "x".repeat(128 << 10));
    let command = |shell: &str| format!("FROM base\n{shell}\nRUN {long}\n");
    for (shell, args) in [
        ("SHELL [\"/bin/sh\", \"-c\"]", vec!["/bin/sh", "-c"]),
        ("SHELL [\"bash\", \"-o\", \"pipefail\", \"-ec\"]", vec!["bash", "-o", "pipefail", "-ec"]),
        ("SHELL [\"/bin/busybox\", \"ash\", \"-c\"]", vec!["/bin/busybox", "ash", "-c"]),
    ] {
        let l = lowered(&command(shell)).await;
        let Op::Exec(exec) = root(&l) else { panic!("not a RUN") };
        assert_eq!(exec.args, [&args[..], &[". /dev/pipes/RUN"]].concat(), "{shell}");
        assert!(
            matches!(&exec.mounts[0].kind, MountKind::Inline { content, mode: 0o644, .. } if *content == long)
        );
    }
    // Other shells get the text, and the kernel may reject it.
    for shell in ["SHELL [\"python3\", \"-c\"]", "SHELL [\"/bin/sh\", \"-s\"]"] {
        let l = lowered(&command(shell)).await;
        let Op::Exec(exec) = root(&l) else { panic!("not a RUN") };
        assert!(exec.args.last() == Some(&long) && exec.mounts.is_empty(), "{shell}");
    }
}

#[tokio::test]
async fn named_contexts_replace_images() {
    let l = lowered("FROM base\nCOPY --from=folder a /a").await;
    assert!(
        l.graph.vertices().iter().any(|v| v.op == Op::Source(SourceOp::Folder { name: "folder".into() }))
    );
}

#[tokio::test]
async fn a_named_context_replaces_the_target() {
    let l = lowered("FROM missing AS folder\nRUN x\nLABEL a=b\n").await;
    assert!(matches!(root(&l), Op::File(_)) && l.config.config.labels.is_empty());
    assert_eq!(l.history.len(), 1);
}

#[tokio::test]
async fn cache_filters_are_case_insensitive() {
    for (filter, expected) in [("FOO", true), ("other", false)] {
        let options =
            FrontendOptions { no_cache_filter: vec![filter.to_owned()], ..FrontendOptions::default() };
        let l = try_lower("FROM base AS Foo\nRUN x", options).await.unwrap();
        assert_eq!(l.graph.vertex(l.root).no_cache, expected, "{filter}");
    }
}

#[tokio::test]
async fn errors_have_their_places() {
    for (text, expected) in [
        ("FROM missing", "cannot be resolved"),
        ("FROM base\nCOPY --from=missing a b", "cannot be resolved"),
        ("FROM later AS a\nFROM base AS later\nCOPY --from=a /b /b", "the stage `later` begins only below"),
        ("FROM base AS later\nFROM latex", "did you mean the stage `later`?"),
        ("FROM base AS build\nFROM base\nCOPY --from=buidl a b", "did you mean the stage `build`?"),
        ("FROM missing AS missing", "cannot be resolved"),
        ("FROM base\nRUN --mount=type=bind true", "target"),
        ("FROM base\nRUN --mount=type=ssh,target=/ true", "cannot have the target"),
        ("FROM base\nRUN --mount=type=ssh,source=x true", "`source` is not allowed"),
        ("FROM base\nRUN --mount=type=cache,target=/c,source=/x true", "without `from` has no `/x`"),
        ("FROM base\nSTOPSIGNAL SIGTREM", "did you mean `SIGTERM`?"),
        ("FROM base\nSTOPSIGNAL $NOTHING", "the signal is empty"),
        ("FROM base\nSTOPSIGNAL 0", "`0` is not a signal"),
        ("FROM base\nADD --checksum=sha256:1 https://example.com/x /", "64 hexadecimal"),
        ("FROM base\nADD --checksum=12 https://example.com/x.git /", "not a checksum of a git repository"),
        ("FROM base\nADD https://example.com/x.git?elephant=1 /", "unknown option `elephant`"),
        ("FROM base\nCOPY https://example.com/x /", "COPY cannot fetch a web address"),
        ("FROM base\nCOPY a git@example.com:x/y /z/", "COPY cannot fetch a git repository"),
        ("FROM scratch\nCOPY --chown=me a /b", "there is no /etc/passwd in `scratch`"),
        ("FROM scratch\nCOPY --chown=1:us a /b", "there is no /etc/group in `scratch`"),
        ("FROM scratch\nUSER me\nWORKDIR /w", "there is no /etc/passwd in `scratch`"),
    ] {
        let e = try_lower(text, FrontendOptions::default()).await.unwrap_err().to_string();
        assert!(e.contains(expected) && e.contains("^"), "{text}: {e}");
    }
}

#[tokio::test]
async fn only_repositories_keep_a_git_folder() {
    let l = lowered(
        "FROM base\nADD --keep-git-dir f https://example.com/x https://example.com/r.git <<E /d/\nE\nADD --keep-git-dir f /",
    )
    .await;
    let kept = l.graph.vertices().iter().find_map(|v| match &v.op {
        Op::Source(SourceOp::Git(git)) => Some(git.keep_git_dir),
        _ => None,
    });
    assert_eq!(kept, Some(true));
}

#[tokio::test]
async fn a_long_name_of_a_web_file_is_an_error() {
    let url = |length: usize| format!("https://example.com/{}", "x".repeat(length));
    let name = |text: String| async move {
        let l = try_lower(&text, FrontendOptions::default()).await?;
        let web = l.graph.vertices().iter().find_map(|v| match &v.op {
            Op::Source(SourceOp::Web(web)) => Some(web.file_name.clone()),
            _ => None,
        });
        Ok::<_, crate::Error>(web.unwrap_or_default())
    };
    assert_eq!(name(format!("FROM base\nADD {} /d/", url(255))).await.unwrap().len(), 255);
    assert_eq!(name(format!("FROM base\nADD {} /d/f", url(256))).await.unwrap(), "__unnamed__");
    for to in ["/d/", ".", "<<E /d\nE"] {
        let e = name(format!("FROM base\nWORKDIR /d\nADD {} {to}", url(256))).await.unwrap_err().to_string();
        for part in ["256 bytes", "`/d/NAME`", "Dockerfile:3:5"] {
            assert!(e.contains(part), "{to}: {e}");
        }
    }
}

#[tokio::test]
async fn passwords_in_addresses_are_hidden() {
    let l = lowered("FROM base\nADD --chown=1 https://me:s3cret@example.com/a.tar https://x:s3cret@h/b /d/")
        .await;
    let shown =
        format!("{:?}{:?}", l.history, l.graph.vertices().iter().map(|v| &v.name).collect::<Vec<_>>());
    assert!(shown.contains("example.com/a.tar") && !shown.contains("s3cret"), "{shown}");
}

#[tokio::test]
async fn history_shows_copies_with_expanded_words() {
    let l = lowered(
        "FROM base\nENV F=f E=\"\"\nCOPY --link --from=folder --exclude=x -- $F \"${F}x\" /q/\nCOPY [\"a b\", \"$F\", \"/x y/\"]\n\
         COPY --chmod=u+x --chown=1:2 --parents a /n/\nADD --chown=$E --chmod=$E <<a <<'b' a /n\nA\na\nB\nb\nCOPY a \"\"\n",
    )
    .await;
    let history: Vec<&str> = l.history.iter().skip(1).map(|h| h.created_by.as_str()).collect();
    assert_eq!(
        history,
        [
            "COPY f fx /q/",
            "COPY a b f /x y/",
            "COPY --parents --chown=1:2 --chmod=u+x a /n/",
            "ADD a <<a <<b /n",
            "COPY a ",
        ]
    );
}

#[tokio::test]
async fn values_that_expand_to_nothing_are_ignored() {
    let l = lowered("FROM base\nWORKDIR /w\nWORKDIR $NO\nADD --checksum=$NO https://example.com/x /").await;
    assert_eq!(l.config.config.working_dir, "/w");
    assert!(
        l.graph
            .vertices()
            .iter()
            .any(|v| matches!(&v.op, Op::Source(SourceOp::Web(w)) if w.checksum.is_none()))
    );
    let l = lowered("FROM base\nWORKDIR $NO").await;
    assert_eq!(l.config.config.working_dir, "/");
    let last = l.history.last().unwrap();
    assert_eq!((last.created_by.as_str(), last.layer), ("WORKDIR /", false));
    for owner in ["5", "root", "root:root", ":7", "$NO"] {
        lowered(&format!("FROM scratch\nCOPY --chown={owner} a /b")).await;
    }
}

#[tokio::test]
async fn a_linked_copy_with_a_mode_is_an_ordinary_one() {
    for (flags, linked) in
        [("--link", true), ("--link --chmod=$NO", true), ("--link --chmod=755", false), ("", false)]
    {
        let l = lowered(&format!("FROM base\nCOPY {flags} ./https://x github.com /b/")).await;
        let Op::File(file) = root(&l) else { panic!("not a COPY") };
        assert_eq!(file.link, linked, "{flags}");
    }
}

#[tokio::test]
async fn every_remote_source_is_a_vertex() {
    let l = lowered(
        "FROM base\nADD a https://example.com/x%5b1%5d https://example.com/r.git?tag=v1&subdir=s b c /all/\n",
    )
    .await;
    let Op::File(file) = root(&l) else { panic!("{:?}", root(&l)) };
    let sources: Vec<(Vec<String>, Option<bool>)> = file
        .actions
        .iter()
        .map(|action| match action {
            FileAction::Copy(copy) => (copy.sources.clone(), copy.unpack),
            other => panic!("{other:?}"),
        })
        .collect();
    let all = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        sources,
        [
            (all(&["a"]), None),
            (all(&["x[[]1]"]), Some(false)),
            (all(&["/"]), Some(false)),
            (all(&["b", "c"]), None)
        ]
    );
    let git = l.graph.vertices().iter().find_map(|v| match &v.op {
        Op::Source(SourceOp::Git(git)) => Some(git.clone()),
        _ => None,
    });
    let git = git.unwrap();
    assert_eq!((git.reference.as_deref(), git.subdir.as_deref()), (Some("refs/tags/v1"), Some("s")));
    assert!(git.submodules && !git.keep_git_dir);
}

#[tokio::test]
async fn a_folder_is_a_base_of_one_layer() {
    let l = lowered("FROM folder\nENV A=1\n").await;
    assert!(matches!(root(&l), Op::File(_)));
    assert_eq!(l.history.iter().filter(|h| h.layer).count(), 1);
}

#[tokio::test]
async fn the_errors_of_all_stages_are_reported() {
    let text =
        "FROM base AS a\nCOPY --chmod=$NO/x x y\nCOPY --chmod=9$NO x y\nFROM a\nARG P=http\nEXPOSE $P\n";
    let e = try_lower(text, FrontendOptions::default()).await.unwrap_err().to_string();
    for part in ["3 errors", "Dockerfile:2:", "Dockerfile:3:", "Dockerfile:6:"] {
        assert!(e.contains(part), "{part}: {e}");
    }
}

#[tokio::test]
async fn an_error_hides_no_other_errors_or_findings() {
    let text = "ARG SOURCE_DATE_EPOCH=soon BAD=${\nFROM base AS a\nSTOPSIGNAL FOO\nCOPY $NONE /\nFROM base-$BAD\n\
                COPY $BAD /\nFROM Bad\nSTOPSIGNAL BAR\nFROM --platform=$BAD base\nFROM a\nCOPY --from=9 x /\nCOPY $NONE /\n";
    for target in [None, Some("4".to_owned())] {
        let options = FrontendOptions { target: target.clone(), ..FrontendOptions::default() };
        let checked = check_dockerfile("Dockerfile", text, &options, None, &Images(None)).await.unwrap();
        let line = |span: crate::dockerfile::Span| checked.file.source.line_of(span.start);
        let errors: Vec<usize> = checked.diagnostics.iter().map(|d| line(d.span)).collect();
        let expected = if target.is_some() { vec![1, 1, 3, 11] } else { vec![1, 1, 3, 7, 8, 11] };
        assert_eq!(errors, expected, "{:?}", checked.diagnostics);
        let undefined = checked.findings.iter().filter(|f| f.rule.name == "UndefinedVar");
        assert_eq!(undefined.map(|f| line(f.span)).collect::<Vec<_>>(), [4, 12]);
    }
    let text = "ARG P=what\nFROM --platform=$P base\nENV A=1\n";
    let checked =
        check_dockerfile("Dockerfile", text, &FrontendOptions::default(), None, &Images(None)).await.unwrap();
    assert_eq!(checked.diagnostics.len(), 1, "{:?}", checked.diagnostics);
    // The wrong instruction may set the variable; the shell of the base is still known.
    let text = "FROM pipefail\nENV\nCOPY $NONE /\nRUN curl -f x | sh\n";
    let checked =
        check_dockerfile("Dockerfile", text, &FrontendOptions::default(), None, &Images(None)).await.unwrap();
    assert_eq!((checked.diagnostics.len(), checked.unresolved.len()), (1, 0), "{:?}", checked.diagnostics);
    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
}

#[tokio::test]
async fn errors_of_triggers_are_shown_at_their_base() {
    let text = "# a comment that is long enough\nFROM faulty\n";
    let checked =
        check_dockerfile("Dockerfile", text, &FrontendOptions::default(), None, &Images(None)).await.unwrap();
    let shown: Vec<String> = checked.diagnostics.iter().map(|d| d.render(&checked.file.source)).collect();
    assert_eq!(shown.len(), 3, "{shown:?}");
    for (error, trigger) in shown.iter().zip(["COPY a", "STOPSIGNAL FOO", "EXPOSE $P/x"]) {
        assert!(error.contains(&format!("in the trigger `{trigger}` of the base")), "{error}");
        assert!(error.contains("Dockerfile:2:6"), "{error}");
    }
    // Only variables depend on an unknown image.
    let text = format!("{text}COPY --from=gone a b\n");
    let checked = check_dockerfile("Dockerfile", &text, &FrontendOptions::default(), None, &Images(None))
        .await
        .unwrap();
    assert_eq!((checked.diagnostics.len(), checked.unresolved.len()), (2, 1), "{:?}", checked.diagnostics);
    let message =
        try_lower("# a long comment\nFROM triggers\n", FrontendOptions::default()).await.unwrap_err();
    assert!(message.to_string().contains("Dockerfile:2:6"), "{message}");
    let text = "FROM base AS b\nONBUILD STOPSIGNAL FOO\nFROM b\n";
    let message = try_lower(text, FrontendOptions::default()).await.unwrap_err().to_string();
    assert!(message.contains("Dockerfile:3:6") && message.contains("in the trigger"), "{message}");
}
