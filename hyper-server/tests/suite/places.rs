//! How a server is told what to do, and where its registry is: variables of the environment, a path before `/v2/`, and pages
//! of other origins.

use super::program::{PROGRAM, Process, run, stderr};
use hyper_sdk::Digest;
use reqwest::{Client, Response, StatusCode};
use std::path::Path;
use std::process::{Command, Output};

fn with(variables: &[(&str, &str)], args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).env_clear().envs(variables.iter().copied()).output().unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

/// A server whose configuration is in variables alone.
fn server(folder: &Path, variables: &[(&str, &str)]) -> Process {
    Process::start_in(Command::new(PROGRAM), &folder.join("data"), &[], variables)
}

#[test]
fn a_variable_is_checked_with_the_file_that_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let path = file.to_str().unwrap();
    // Each is invalid alone, and valid with the variable.
    std::fs::write(&file, "[database]\npassword-file = \"/x\"\n[limits]\npage = 0\n").unwrap();
    let check = ["config", "check", "--config", path];
    let url = ("HYPERREGISTRY_DATABASE_URL", "postgres://registry@db.example.com/registry");
    let page = ("HYPERREGISTRY_LIMITS_PAGE", "5");
    let output = with(&[url, page], &check);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&with(&[url], &check)).contains("limits.page"));
    assert!(stderr(&with(&[page], &check)).contains("database.password-file"));
    // Without a file, the variables are all.
    assert!(with(&[page], &["config", "check"]).status.success());
    let output = with(&[("HYPERREGISTRY_LIMITS_PAGES", "5")], &["config", "check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is it HYPERREGISTRY_LIMITS_PAGE?"), "{}", stderr(&output));
    // A value of the file that is wrong has its line, whatever the variables say.
    std::fs::write(&file, "[limits]\npage = \"many\"\n").unwrap();
    assert!(stderr(&with(&[page], &check)).contains("line 2"));
}

#[test]
fn a_word_that_is_no_level_is_refused_wherever_it_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let (path, data) = (file.to_str().unwrap(), dir.path().join("data"));
    // Without the error it would end as well, as nothing listens there.
    let database = "postgres://a@127.0.0.1:1/b";
    let serve = ["serve", "--listen=127.0.0.1:0", "--database", database, "--data", data.to_str().unwrap()];
    let check = ["config", "check", "--config", path];
    for level in ["warning", "eror", "loud", "hyper_server", "info,,debugg"] {
        std::fs::write(&file, "").unwrap();
        let variable = [("HYPERREGISTRY_LOG_LEVEL", level)];
        let flag = [&serve[..], &["--log-level", level]].concat();
        let mut refused = vec![with(&variable, &check), with(&variable, &serve), run(&flag, "")];
        std::fs::write(&file, format!("[log]\nlevel = \"{level}\"\n")).unwrap();
        refused.push(run(&check, ""));
        for output in refused {
            assert_eq!(output.status.code(), Some(1), "{level}: {}", stderr(&output));
            assert!(stderr(&output).contains("invalid log level"), "{level}: {}", stderr(&output));
        }
    }
}

#[test]
fn a_file_that_a_flag_completes_is_valid_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, "[database]\npassword-file = \"/does/not/exist\"\n").unwrap();
    // What a folder of blobs has.
    std::fs::write(dir.path().join("registry-id"), "x").unwrap();
    let (path, data) = (file.to_str().unwrap(), dir.path().to_str().unwrap());
    for command in [&["gc"][..], &["token", "ls"]] {
        let flags = ["--config", path, "--data", data, "--database", "postgres://a@127.0.0.1:1/b"];
        let args = [command, &flags].concat();
        let text = stderr(&run(&args, ""));
        assert!(text.contains("/does/not/exist"), "{command:?}: {text}");
    }
}

#[tokio::test]
async fn variables_configure_a_server_and_flags_override_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(
        dir.path(),
        &[
            ("HYPERREGISTRY_READ_ONLY", "true"),
            ("HYPERREGISTRY_METRICS_ENABLED", "false"),
            ("HYPERREGISTRY_LISTEN", "127.0.0.1:1"),
            ("HYPERREGISTRY_SERVICE_HOST", "10.0.0.1"),
            ("HYPERREGISTRY_SERVICE_PORT", "5000"),
            ("HYPERREGISTRY_LOG_ACCESS", ""),
        ],
    );
    let client = Client::new();
    let metrics = client.get(format!("{}/metrics", server.url)).send().await.unwrap();
    assert_eq!(metrics.status(), StatusCode::NOT_FOUND);
    let push = client.post(format!("{}/v2/a/blobs/uploads/", server.url)).send().await.unwrap();
    assert_eq!(push.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[test]
fn the_schema_is_json_and_has_the_tables() {
    let output = run(&["config", "schema"], "");
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["properties"]["limits"]["properties"]["page"]["type"], "integer");
}

#[tokio::test]
async fn a_registry_below_a_path_names_that_path_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path(), &[("HYPERREGISTRY_PATH_PREFIX", "/team/registry/")]);
    let client = Client::new();
    let get = |path: &str| client.get(format!("{}{path}", server.url)).send();
    for path in
        ["/v2/", "/team/v2/", "/team/registry", "/team/registryv2/", "/team/registry/livez", "/v2/_catalog"]
    {
        assert_eq!(get(path).await.unwrap().status(), StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/livez", "/readyz", "/metrics", "/team/registry/v2/", "/team/registry/v2"] {
        assert_eq!(get(path).await.unwrap().status(), StatusCode::OK, "{path}");
    }
    // A push follows the paths that it is told.
    let root = format!("{}/team/registry/v2/app", server.url);
    let begun = client.post(format!("{root}/blobs/uploads/")).send().await.unwrap();
    let upload = header(&begun, "location").to_owned();
    assert!(upload.starts_with("/team/registry/v2/app/blobs/uploads/"), "{upload}");
    let digest = Digest::sha256("data");
    let patched = client.patch(format!("{}{upload}", server.url)).body("data").send().await.unwrap();
    assert_eq!(patched.status(), StatusCode::ACCEPTED);
    let upload = header(&patched, "location").to_owned();
    let ended = client.put(format!("{}{upload}?digest={digest}", server.url)).send().await.unwrap();
    assert_eq!(ended.status(), StatusCode::CREATED);
    assert_eq!(get(header(&ended, "location")).await.unwrap().text().await.unwrap(), "data");
    for tag in ["one", "two"] {
        let index =
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        let put = client.put(format!("{root}/manifests/{tag}")).body(index);
        let put = put.header("content-type", "application/vnd.oci.image.index.v1+json").send().await.unwrap();
        assert_eq!(put.status(), StatusCode::CREATED);
        assert_eq!(get(header(&put, "location")).await.unwrap().status(), StatusCode::OK);
    }
    let page = get("/team/registry/v2/app/tags/list?n=1").await.unwrap();
    let link = header(&page, "link").to_owned();
    let next = link.strip_prefix('<').unwrap().split('>').next().unwrap();
    assert!(get(next).await.unwrap().text().await.unwrap().contains("two"), "{link}");
    let extensions = get("/team/registry/v2/_oci/ext/discover").await.unwrap().text().await.unwrap();
    assert!(extensions.contains("\"/team/registry/v2/_catalog\""), "{extensions}");
}

#[tokio::test]
async fn a_challenge_names_the_token_endpoint_below_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("htpasswd");
    let entry = run(&["htpasswd", "ada", "--cost", "8"], "secret");
    std::fs::write(&file, entry.stdout).unwrap();
    let server = server(
        dir.path(),
        &[
            ("HYPERREGISTRY_PATH_PREFIX", "/registry"),
            ("HYPERREGISTRY_AUTH_HTPASSWD", file.to_str().unwrap()),
            ("HYPERREGISTRY_AUTH_ANONYMOUS", "pull"),
        ],
    );
    let client = Client::new();
    let refused = client.post(format!("{}/registry/v2/a/blobs/uploads/", server.url)).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let challenge = header(&refused, "www-authenticate");
    let realm = challenge.split("realm=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(realm, format!("{}/registry/v2/token", server.url));
    let token = client.get(realm).basic_auth("ada", Some("secret")).send().await.unwrap();
    assert_eq!(token.status(), StatusCode::OK);
}

#[tokio::test]
async fn pages_of_listed_origins_may_talk_to_the_registry() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(
        dir.path(),
        &[
            ("HYPERREGISTRY_CORS_ORIGINS", "https://ui.example.com, http://localhost:8080"),
            ("HYPERREGISTRY_CORS_CREDENTIALS", "true"),
        ],
    );
    let client = Client::new();
    let ask = |origin: &'static str| {
        client
            .request(reqwest::Method::OPTIONS, format!("{}/v2/a/manifests/x", server.url))
            .header("origin", origin)
            .header("access-control-request-method", "DELETE")
            .header("access-control-request-headers", "authorization")
            .send()
    };
    let allowed = ask("http://localhost:8080").await.unwrap();
    assert_eq!(allowed.status(), StatusCode::NO_CONTENT);
    assert_eq!(header(&allowed, "access-control-allow-origin"), "http://localhost:8080");
    assert_eq!(header(&allowed, "access-control-allow-credentials"), "true");
    assert!(header(&allowed, "access-control-allow-methods").contains("DELETE"));
    assert!(header(&allowed, "access-control-allow-headers").contains("authorization"));
    assert_eq!(header(&allowed, "access-control-max-age"), "3600");
    assert!(!header(&allowed, "x-request-id").is_empty());
    let foreign = ask("https://evil.example.com").await.unwrap();
    assert_eq!(foreign.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(header(&foreign, "access-control-allow-origin"), "");
    // Answers of all kinds, errors too, can be read by the page, with the headers of the protocol.
    let get = |path: &str| {
        client.get(format!("{}{path}", server.url)).header("origin", "https://ui.example.com").send()
    };
    let missing = get("/v2/a/manifests/x").await.unwrap();
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    assert_eq!(header(&missing, "access-control-allow-origin"), "https://ui.example.com");
    assert!(header(&missing, "access-control-expose-headers").contains("docker-content-digest"));
    assert!(header(&missing, "vary").contains("origin"));
    // What is not of the API is not for pages.
    for path in ["/metrics", "/livez", "/readyz"] {
        assert_eq!(header(&get(path).await.unwrap(), "access-control-allow-origin"), "", "{path}");
    }
    // What asks nothing of this kind is answered as ever.
    let options =
        client.request(reqwest::Method::OPTIONS, format!("{}/v2/", server.url)).send().await.unwrap();
    assert_eq!(options.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(header(&options, "allow"), "GET, HEAD");
}

#[tokio::test]
async fn pages_learn_of_challenges_and_questions_count_for_the_limits() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("htpasswd");
    std::fs::write(&file, run(&["htpasswd", "ada", "--cost", "8"], "secret").stdout).unwrap();
    let server = server(
        dir.path(),
        &[
            ("HYPERREGISTRY_CORS_ORIGINS", "*"),
            ("HYPERREGISTRY_AUTH_HTPASSWD", file.to_str().unwrap()),
            ("HYPERREGISTRY_LIMITS_ADDRESS_READS", "3/h"),
        ],
    );
    let client = Client::new();
    let ask = |method: reqwest::Method| {
        let request = client.request(method, format!("{}/v2/", server.url));
        let request = request.header("origin", "https://any.example.com");
        request.header("access-control-request-method", "GET").send()
    };
    let challenge = ask(reqwest::Method::GET).await.unwrap();
    assert_eq!(challenge.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(header(&challenge, "access-control-allow-origin"), "*");
    assert!(header(&challenge, "access-control-expose-headers").contains("www-authenticate"));
    let mut answers = Vec::new();
    for _ in 0..4 {
        let answer = ask(reqwest::Method::OPTIONS).await.unwrap();
        assert_eq!(header(&answer, "access-control-allow-origin"), "*");
        answers.push(answer.status().as_u16());
    }
    assert_eq!(answers, [204, 204, 429, 429]);
}

#[tokio::test]
async fn without_origins_no_page_may_talk_to_the_registry() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path(), &[]);
    let answer = Client::new().get(format!("{}/v2/", server.url)).header("origin", "https://ui.example.com");
    assert_eq!(header(&answer.send().await.unwrap(), "access-control-allow-origin"), "");
    let ask = Client::new().request(reqwest::Method::OPTIONS, format!("{}/v2/", server.url));
    let ask = ask.header("origin", "https://ui.example.com").header("access-control-request-method", "GET");
    assert_eq!(ask.send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
}
