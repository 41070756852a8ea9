//! Is this a registry, which names does it take, and what do its errors look like?

use super::kit::{Kit, Outcome, require, skip};
use crate::client::http::exchange::Permission;
use reqwest::Method;

super::define! {
    "registry-ping", "end-1", Must, "GET /v2/ is 200" => ping;
    "registry-challenge", "end-1", Must, "a request that needs credentials is 401 and names a challenge" => challenge;
    "error-json", "errors", Must, "an error in JSON has a list of errors with codes in upper case" => errors;
    "name-invalid", "errors", Must, "a name that the specification does not permit is an error of the client" => names;
    "catalog", "end-8", Should, "the list of repositories has the repositories that were pushed to" => catalog;
}

async fn ping(kit: &Kit) -> Outcome {
    kit.get("/v2/").send().await?.expect(&[200]).map(drop)
}

async fn challenge(kit: &Kit) -> Outcome {
    let uploads = format!("/v2/{}/blobs/uploads/", kit.repository);
    let reply = kit.ask(Method::POST, uploads).permission(Permission::Nobody).send().await?;
    if reply.status == 202 {
        kit.opened(&reply)?;
        return skip("the registry takes pushes of everybody");
    }
    let reply = reply.refused(&[401], "UNAUTHORIZED")?;
    let names_scheme = reply.all("www-authenticate").iter().any(|text| {
        let scheme = text.split_whitespace().next().unwrap_or_default();
        ["basic", "bearer"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
    });
    reply.require(names_scheme, "answered 401 without a challenge of Basic or Bearer")
}

async fn errors(kit: &Kit) -> Outcome {
    let missing = kit.name();
    for target in [kit.manifest(&missing), format!("/v2/{}/{missing}/tags/list", kit.repository)] {
        let reply = kit.get(target).send().await?.expect(&[404])?;
        for code in reply.codes()? {
            let is_code = !code.is_empty() && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
            reply.require(is_code, format_args!("answered with the code {code:?}"))?;
        }
    }
    Ok(())
}

async fn names(kit: &Kit) -> Outcome {
    for name in ["Upper/case", "two//slashes", "a/-dash", "a/dot.", "a/_b", "a..b"] {
        let reply = kit.get(format!("/v2/{name}/tags/list")).send().await?;
        // A front end may clean the path.
        let statuses: &[u16] = if name.contains("//") { &[301, 308, 400, 404, 405] } else { &[400, 404] };
        reply.expect(statuses)?;
        let reply = kit.ask(Method::POST, format!("/v2/{name}/blobs/uploads/")).send().await?;
        require((300..500).contains(&reply.status), || {
            format!(
                "POST /v2/{name}/blobs/uploads/ answered {}, expected an error of the client",
                reply.status
            )
        })?;
    }
    Ok(())
}

async fn catalog(kit: &Kit) -> Outcome {
    kit.tagged(&kit.name()).await?;
    let mut target = "/v2/_catalog?n=1000".to_owned();
    let mut seen = 0;
    loop {
        let reply = kit.get(&target).permission(Permission::Catalog).send().await?;
        if matches!(reply.status, 401 | 403 | 404 | 405) {
            return skip("the registry lists no repositories");
        }
        let reply = reply.expect(&[200])?;
        let json = reply.json()?;
        let names: Vec<&str> =
            json["repositories"].as_array().into_iter().flatten().filter_map(|v| v.as_str()).collect();
        if names.contains(&kit.repository.as_str()) {
            return Ok(());
        }
        seen += names.len();
        target = match reply.next()? {
            Some(next) if !names.is_empty() && seen < 1_000_000 => next,
            _ => return reply.require(false, format_args!("answered without {}", kit.repository)),
        };
    }
}
