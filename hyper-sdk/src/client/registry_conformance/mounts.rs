//! Mounting blobs of another repository.

use super::kit::{Kit, Outcome, Reply, Stop, skip, with_query};
use crate::Digest;
use reqwest::Method;

super::define! {
    "mount", "end-11", Must, "a mount of a blob is 201 and the blob is there, or 202 and an upload" => mount;
    "mount-unknown", "end-11", Should, "a mount of a blob that is not there is 202 and an upload" => unknown;
    "mount-without-source", "end-11", Should, "a mount that names no repository is 201 or 202" => without_source;
    "mount-digest-invalid", "end-11", Should, "a mount of what is no digest is an error of the client, or an upload" => invalid;
}

async fn ask(kit: &Kit, query: &str) -> Result<Reply, Stop> {
    let uploads = format!("/v2/{}/blobs/uploads/", kit.other);
    kit.ask(Method::POST, with_query(&uploads, query)).send().await
}

async fn mount(kit: &Kit) -> Outcome {
    let bytes = kit.bytes(300);
    let digest = kit.push(&bytes).await?;
    let reply = ask(kit, &format!("mount={digest}&from={}", kit.repository)).await?.expect(&[201, 202])?;
    if reply.status == 202 {
        kit.opened_in(&kit.other, &reply)?;
        return skip("the registry mounts nothing");
    }
    kit.other_has_blob(&digest);
    kit.get(reply.location()?).send().await?.expect(&[200])?.has_body(&bytes)?;
    kit.get(format!("/v2/{}/blobs/{digest}", kit.other)).send().await?.expect(&[200])?.has_body(&bytes)
}

async fn unknown(kit: &Kit) -> Outcome {
    let bytes = kit.bytes(300);
    let digest = Digest::sha256(&bytes);
    let reply = ask(kit, &format!("mount={digest}&from={}", kit.repository)).await?.expect(&[202])?;
    let session = kit.opened_in(&kit.other, &reply)?;
    session.put(kit, &digest).body(bytes).send().await?.expect(&[201])?;
    kit.other_has_blob(&digest);
    Ok(())
}

async fn without_source(kit: &Kit) -> Outcome {
    let bytes = kit.bytes(300);
    let digest = kit.push(&bytes).await?;
    let reply = ask(kit, &format!("mount={digest}")).await?.expect(&[201, 202])?;
    if reply.status == 202 {
        kit.opened_in(&kit.other, &reply)?;
        return Ok(());
    }
    kit.other_has_blob(&digest);
    kit.get(reply.location()?).send().await?.expect(&[200])?.has_body(&bytes)
}

async fn invalid(kit: &Kit) -> Outcome {
    let reply = ask(kit, &format!("mount=sha256:short&from={}", kit.repository)).await?;
    if reply.status == 202 {
        kit.opened_in(&kit.other, &reply)?;
    }
    reply.expect(&[202, 400, 404]).map(drop)
}
