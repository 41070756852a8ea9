//! Pushing blobs whole.

use super::kit::{Kit, Outcome, skip, with_query};
use crate::Digest;
use reqwest::Method;

super::define! {
    "upload-open", "end-4a", Must, "POST opens an upload: 202 and where it is" => open;
    "upload-whole", "end-6", Must, "POST, then PUT with all bytes, is 201 and says where the blob is" => whole;
    "upload-again", "end-6", Must, "a blob that is there can be pushed again" => again;
    "upload-single-post", "end-4b", Must, "POST with the digest and all bytes stores the blob, or opens an upload" => single_post;
    "upload-single-post-wrong", "end-4b", Must, "POST with another digest than that of the bytes is refused and stores nothing" => single_post_wrong;
    "upload-digest-wrong", "end-6", Must, "PUT with another digest than that of the bytes is refused and stores nothing" => wrong_digest;
    "upload-digest-wrong-400", "end-6", Should, "PUT with another digest than that of the bytes is 400" => wrong_digest_400;
    "upload-digest-invalid", "end-6", Should, "PUT with a text that is no digest is 400" => invalid_digest;
    "upload-digest-missing", "end-6", Should, "PUT without a digest is 400" => missing_digest;
    "upload-digest-algorithm", "end-4c", Should, "an upload that announces an algorithm is opened, or refused with 400" => algorithm;
    "upload-algorithm-unknown", "end-4c", Should, "an algorithm that the registry does not know is 400" => unknown_algorithm;
    "upload-status-new", "end-13", Must, "GET of a new upload is 204 and says where to go on" => status_of_new;
    "upload-cancel", "end-14", Should, "DELETE of an upload is 204, and it is 404 afterwards" => cancel;
    "upload-finished", "end-5", Should, "a finished upload is 404" => finished;
}

async fn open(kit: &Kit) -> Outcome {
    kit.session().await.map(drop)
}

async fn whole(kit: &Kit) -> Outcome {
    let bytes = kit.bytes(4000);
    let digest = Digest::sha256(&bytes);
    let session = kit.session().await?;
    let reply = session.put(kit, &digest).body(bytes.clone()).send().await?.expect(&[201])?;
    kit.has_blob(&digest);
    kit.get(reply.location()?).send().await?.expect(&[200])?.has_body(&bytes)
}

async fn again(kit: &Kit) -> Outcome {
    let bytes = kit.bytes(100);
    let digest = kit.push(&bytes).await?;
    kit.push(&bytes).await?;
    kit.get(kit.blob(&digest)).send().await?.expect(&[200])?.has_body(&bytes)
}

async fn single_post(kit: &Kit) -> Outcome {
    let bytes = kit.bytes(100);
    let digest = Digest::sha256(&bytes);
    let target = format!("/v2/{}/blobs/uploads/?digest={digest}", kit.repository);
    let reply = kit.ask(Method::POST, target).body(bytes.clone()).send().await?.expect(&[201, 202])?;
    kit.has_blob(&digest);
    if reply.status == 202 {
        let session = kit.opened(&reply)?;
        session.put(kit, &digest).body(bytes).send().await?.expect(&[201])?;
        return skip("the registry opens an upload instead");
    }
    kit.get(reply.location()?).send().await?.expect(&[200])?.has_body(&bytes)
}

async fn single_post_wrong(kit: &Kit) -> Outcome {
    let (bytes, digest) = (kit.bytes(100), Digest::sha256(kit.name()));
    let target = format!("/v2/{}/blobs/uploads/?digest={digest}", kit.repository);
    let reply = kit.ask(Method::POST, target).body(bytes).send().await?;
    if reply.status == 202 {
        kit.opened(&reply)?;
        return skip("the registry opens an upload instead");
    }
    reply.refused()?;
    kit.head(kit.blob(&digest)).send().await?.expect(&[404]).map(drop)
}

async fn wrong_digest_400(kit: &Kit) -> Outcome {
    let session = kit.session().await?;
    let put = session.put(kit, Digest::sha256(kit.name())).body(kit.bytes(100));
    put.send().await?.expect(&[400]).map(drop)
}

async fn wrong_digest(kit: &Kit) -> Outcome {
    let (bytes, digest) = (kit.bytes(100), Digest::sha256(kit.name()));
    let session = kit.session().await?;
    session.put(kit, &digest).body(bytes.clone()).send().await?.refused()?;
    for digest in [digest, Digest::sha256(&bytes)] {
        kit.head(kit.blob(&digest)).send().await?.expect(&[404])?;
    }
    Ok(())
}

async fn invalid_digest(kit: &Kit) -> Outcome {
    let session = kit.session().await?;
    let reply = session.put(kit, "sha256:short").body(kit.bytes(10)).send().await?;
    reply.expect(&[400]).map(drop)
}

async fn missing_digest(kit: &Kit) -> Outcome {
    let session = kit.session().await?;
    let reply = session.ask(kit, Method::PUT).body(kit.bytes(10)).send().await?;
    reply.expect(&[400]).map(drop)
}

async fn algorithm(kit: &Kit) -> Outcome {
    let uploads = format!("/v2/{}/blobs/uploads/", kit.repository);
    for algorithm in ["sha256", "sha512"] {
        let target = with_query(&uploads, &format!("digest-algorithm={algorithm}"));
        let reply = kit.ask(Method::POST, target).send().await?;
        // Every registry knows sha256.
        let statuses: &[u16] = if algorithm == "sha256" { &[202] } else { &[202, 400] };
        let reply = reply.expect(statuses)?;
        if reply.status == 202 {
            kit.opened(&reply)?;
        }
    }
    Ok(())
}

async fn unknown_algorithm(kit: &Kit) -> Outcome {
    let target = format!("/v2/{}/blobs/uploads/?digest-algorithm=crc32", kit.repository);
    let reply = kit.ask(Method::POST, target).send().await?;
    if reply.status == 202 {
        kit.opened(&reply)?;
    }
    reply.expect(&[400]).map(drop)
}

async fn status_of_new(kit: &Kit) -> Outcome {
    kit.session().await?.status(kit, 0).await
}

async fn cancel(kit: &Kit) -> Outcome {
    let session = kit.session().await?;
    let reply = session.ask(kit, Method::DELETE).send().await?;
    if matches!(reply.status, 404 | 405) {
        return skip("the registry cancels no uploads");
    }
    reply.expect(&[204])?;
    session.ask(kit, Method::GET).send().await?.expect(&[404]).map(drop)
}

async fn finished(kit: &Kit) -> Outcome {
    let bytes = kit.bytes(100);
    let digest = Digest::sha256(&bytes);
    let session = kit.session().await?;
    session.put(kit, &digest).body(bytes.clone()).send().await?.expect(&[201])?;
    kit.has_blob(&digest);
    session.ask(kit, Method::GET).send().await?.expect(&[404])?;
    let patch = session.ask(kit, Method::PATCH).body(bytes).send().await?;
    patch.expect(&[404]).map(drop)
}
