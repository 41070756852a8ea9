//! Is this a registry, which names does it take, and what do its errors look like?

use super::kit::{Kit, MAX_PAGES, Outcome, require, skip};
use crate::Digest;
use crate::client::http::exchange::Permission;
use reqwest::Method;

super::define! {
    "registry-ping", "end-1", Must, "GET /v2/ says that this is a registry: 200" => ping;
    "registry-challenge", "end-1", Should, "a request that needs credentials is 401 and names a challenge" => challenge;
    "error-json", "errors", Must, "an error in JSON has a list of errors, each with a code of the specification" => errors;
    "error-codes", "errors", Should, "the code of an error says what is wrong" => codes;
    "name-invalid", "errors", Must, "a name that the specification does not permit is an error of the client" => names;
    "catalog", "ext", Should, "the list of repositories has the repositories that were pushed to" => catalog;
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
    if matches!(reply.status, 403..=405) {
        return skip("the registry takes no pushes without credentials, and asks for none");
    }
    let reply = reply.expect(&[401])?;
    let names_scheme = reply.all("www-authenticate").iter().any(|text| {
        let scheme = text.split_whitespace().next().unwrap_or_default();
        ["basic", "bearer"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
    });
    reply.require(names_scheme, "answered 401 without a challenge of Basic or Bearer")
}

async fn errors(kit: &Kit) -> Outcome {
    let missing = kit.name();
    for target in [kit.manifest(&missing), format!("/v2/{}/{missing}/tags/list", kit.repository)] {
        // A token for one repository says nothing of others.
        let reply = kit.get(target).send().await?.expect(&[401, 403, 404])?;
        for code in reply.codes()? {
            reply.require(CODES.contains(&code.as_str()), format_args!("answered with the code {code}"))?;
        }
    }
    Ok(())
}

/// The codes of the specification (distribution-spec, "Error Codes").
const CODES: [&str; 14] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
];

async fn codes(kit: &Kit) -> Outcome {
    // The repository is there.
    kit.put_image(&kit.image().await?).await?;
    let missing = Digest::sha256(kit.name());
    let session = kit.session().await?;
    let wrong = session.put(kit, &missing).body(kit.bytes(10)).send().await?;
    let invalid = kit.put(kit.name(), crate::media_type::OCI_MANIFEST, "{").await?;
    let mut seen = false;
    for (reply, code) in [
        (kit.get(kit.blob(&missing)).send().await?, "BLOB_UNKNOWN"),
        (kit.get(kit.manifest(&missing)).send().await?, "MANIFEST_UNKNOWN"),
        (wrong, "DIGEST_INVALID"),
        (invalid, "MANIFEST_INVALID"),
    ] {
        let codes = reply.codes()?;
        seen |= !codes.is_empty();
        let fits = codes.is_empty() || codes.iter().any(|c| c == code);
        reply.require(fits, format_args!("answered with the code {}, expected {code}", codes.join(", ")))?;
    }
    if seen { Ok(()) } else { skip("the registry gives no codes") }
}

async fn names(kit: &Kit) -> Outcome {
    for name in ["Upper/case", "two//slashes", "a/-dash", "a/dot.", "a/_b", "a..b"] {
        let reply = kit.get(format!("/v2/{name}/tags/list")).send().await?;
        // A front end may clean the path.
        let statuses: &[u16] =
            if name.contains("//") { &[301, 308, 400, 401, 403, 404, 405] } else { &[400, 401, 403, 404] };
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
    for _ in 0..MAX_PAGES {
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
        target = match reply.next()? {
            Some(next) if !names.is_empty() => next,
            _ => return reply.require(false, format_args!("answered without {}", kit.repository)),
        };
    }
    skip("the list of repositories has too many pages")
}
