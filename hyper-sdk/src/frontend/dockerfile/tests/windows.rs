//! Images for Windows.

use super::*;

#[tokio::test]
async fn only_the_config_of_a_windows_image_can_be_changed() {
    let l = lowered("# escape=`\nFROM nano\nENV A=C:\\x\\\nCMD dir\nENTRYPOINT run\nVOLUME C:\\data\n").await;
    let config = &l.config.config;
    assert_eq!(config.env, ["A=C:\\x\\"], "no default PATH is added");
    assert_eq!(config.cmd.clone().unwrap(), ["cmd", "/S", "/C", "dir"]);
    assert_eq!(config.entrypoint.clone().unwrap(), ["cmd", "/S", "/C", "run"]);
    assert_eq!(
        root(&l),
        &Op::Source(SourceOp::Image {
            reference: format!("nano {}", Platform::host()),
            manifest: Digest::sha256("nano")
        })
    );
    let text = "FROM nano AS n\nRUN dir\nWORKDIR C:\\\\x\nADD a b\nFROM base\nCOPY --from=n /a /a\nCOPY --from=nano /a /a\n";
    let e = try_lower(text, FrontendOptions { target: Some("n".into()), ..FrontendOptions::default() })
        .await
        .unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    for part in ["3 errors", "RUN cannot be done in an image for Windows", "Dockerfile:3:1", "ADD cannot"] {
        assert!(e.to_string().contains(part), "{part}: {e}");
    }
    let text = "FROM nano AS n\nFROM base\nCOPY --from=n /a /a\nCOPY --from=nano /a /a\n";
    let e = try_lower(text, FrontendOptions::default()).await.unwrap_err().to_string();
    assert!(
        e.contains("2 errors") && e.contains("`n` is an image for Windows") && e.contains("`nano` is"),
        "{e}"
    );
}

#[tokio::test]
async fn a_windows_image_from_scratch_has_files_under_windows_paths() {
    let options =
        || FrontendOptions { platform: Some("windows/amd64".parse().unwrap()), ..FrontendOptions::default() };
    let text = "# escape=`\nFROM scratch AS s\nWORKDIR C:\\w\nCOPY a\\b x\\\nCOPY c \\z\nCMD run\nFROM scratch\nCOPY --from=s z /\n";
    let l = try_lower(text, FrontendOptions { target: Some("s".into()), ..options() }).await.unwrap();
    assert_eq!((l.config.config.working_dir.as_str(), l.config.os.as_str()), ("\\w", "windows"));
    assert_eq!(l.config.config.cmd.clone().unwrap(), ["cmd", "/S", "/C", "run"]);
    assert_eq!(l.history[0].created_by, "WORKDIR /w");
    let copies = l.graph.vertices().iter().filter_map(|v| match &v.op {
        Op::File(file) => match &file.actions[0] {
            FileAction::Copy(copy) => Some((copy.sources[0].clone(), copy.destination.clone())),
            _ => None,
        },
        _ => None,
    });
    let copies: Vec<(String, String)> = copies.collect();
    let expected = [("a/b", "/w/x/"), ("c", "/z")].map(|(from, to)| (from.to_owned(), to.to_owned()));
    assert_eq!(copies, expected);
    assert_eq!(try_lower(text, options()).await.unwrap().config.config.working_dir, "\\");
    for error in ["WORKDIR D:/x", "COPY a D:/x", "RUN dir"] {
        let e = try_lower(&format!("FROM scratch\n{error}\n"), options()).await.unwrap_err().to_string();
        assert!(e.contains("Dockerfile:2:"), "{error}: {e}");
    }
}
