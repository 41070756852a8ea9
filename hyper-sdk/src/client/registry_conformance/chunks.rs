//! Pushing blobs in chunks.

use super::kit::{Kit, Outcome, range};
use crate::Digest;
use bytes::Bytes;
use reqwest::Method;

super::define! {
    "chunks-in-order", "end-5", Must, "chunks with their Content-Range add up, and each answer says what is there" => in_order;
    "chunks-last-in-put", "end-6", Must, "the closing PUT may have the last chunk" => last_in_put;
    "chunks-status", "end-13", Must, "GET of an upload says what is there, and the upload goes on" => status;
    "chunks-stream", "end-5", Should, "one PATCH without a Content-Range is all bytes" => stream;
    "chunks-unannounced", "end-5", Should, "a PATCH without a Content-Length is read to its end" => unannounced;
    "chunks-gap", "end-5", Must, "a chunk that leaves a gap is 416, and the upload goes on where it was" => gap;
    "chunks-overlap", "end-5", Must, "a chunk that begins before the end is 416, and changes nothing" => overlap;
    "chunks-first", "end-5", Must, "a first chunk that does not begin at 0 is 416" => first;
    "chunks-gap-in-put", "end-6", Must, "a last chunk that leaves a gap is 416" => gap_in_put;
    "chunks-gap-in-put-goes-on", "end-13", Should, "after a last chunk that left a gap the upload goes on" => gap_in_put_goes_on;
    "chunks-length-wrong", "end-5", Should, "a chunk of another length than its Content-Range is refused, and changes nothing" => wrong_length;
    "chunks-range-invalid", "end-5", Should, "a Content-Range that is none is an error of the client" => invalid_range;
    "chunks-digest-wrong", "end-6", Must, "chunks under another digest are refused and store nothing" => wrong_digest;
}

async fn in_order(kit: &Kit) -> Outcome {
    let mut session = kit.session().await?;
    let chunk = session.chunk();
    let bytes = kit.bytes(2 * chunk + 17);
    let digest = Digest::sha256(&bytes);
    for start in (0..bytes.len()).step_by(chunk) {
        let end = bytes.len().min(start + chunk);
        session.patch(kit, start, bytes.slice(start..end)).await?;
    }
    session.put(kit, &digest).send().await?.expect(&[201])?;
    kit.has(&digest, &bytes).await
}

async fn last_in_put(kit: &Kit) -> Outcome {
    let mut session = kit.session().await?;
    let chunk = session.chunk();
    let bytes = kit.bytes(chunk + 17);
    let digest = Digest::sha256(&bytes);
    session.patch(kit, 0, bytes.slice(..chunk)).await?;
    let put = session.put(kit, &digest).with("content-range", range(chunk, bytes.len()));
    put.body(bytes.slice(chunk..)).send().await?.expect(&[201])?;
    kit.has(&digest, &bytes).await
}

async fn status(kit: &Kit) -> Outcome {
    let mut session = kit.session().await?;
    let chunk = session.chunk();
    let bytes = kit.bytes(chunk + 17);
    let digest = Digest::sha256(&bytes);
    session.patch(kit, 0, bytes.slice(..chunk)).await?;
    session.status(kit, chunk).await?;
    session.patch(kit, chunk, bytes.slice(chunk..)).await?;
    session.status(kit, bytes.len()).await?;
    session.put(kit, &digest).send().await?.expect(&[201])?;
    kit.has(&digest, &bytes).await
}

async fn stream(kit: &Kit) -> Outcome {
    let mut session = kit.session().await?;
    let bytes = kit.bytes(session.chunk() + 17);
    let digest = Digest::sha256(&bytes);
    let patch = session.ask(kit, Method::PATCH).body(bytes.clone()).send().await?;
    session.follow(&patch.expect(&[202])?, bytes.len())?;
    session.put(kit, &digest).send().await?.expect(&[201])?;
    kit.has(&digest, &bytes).await
}

async fn unannounced(kit: &Kit) -> Outcome {
    let mut session = kit.session().await?;
    let bytes = kit.bytes(session.chunk() + 50_000);
    let digest = Digest::sha256(&bytes);
    let patch = session.ask(kit, Method::PATCH).chunked(bytes.clone()).send().await?;
    session.follow(&patch.expect(&[202])?, bytes.len())?;
    session.put(kit, &digest).send().await?.expect(&[201])?;
    kit.has(&digest, &bytes).await
}

/// Sends a chunk of `length` that says it begins at `start`, after one whole chunk; then the upload goes on.
async fn out_of_order(kit: &Kit, start: impl Fn(usize) -> usize) -> Outcome {
    let mut session = kit.session().await?;
    let chunk = session.chunk();
    let bytes = kit.bytes(2 * chunk);
    let digest = Digest::sha256(&bytes);
    session.patch(kit, 0, bytes.slice(..chunk)).await?;
    let start = start(chunk);
    let patch = session.ask(kit, Method::PATCH).with("content-range", range(start, start + chunk));
    patch.body(kit.bytes(chunk)).send().await?.expect(&[416])?;
    session.status(kit, chunk).await?;
    session.patch(kit, chunk, bytes.slice(chunk..)).await?;
    session.put(kit, &digest).send().await?.expect(&[201])?;
    kit.has(&digest, &bytes).await
}

async fn gap(kit: &Kit) -> Outcome {
    out_of_order(kit, |chunk| chunk + 1).await
}

async fn overlap(kit: &Kit) -> Outcome {
    out_of_order(kit, |chunk| chunk - 1).await
}

async fn first(kit: &Kit) -> Outcome {
    let mut session = kit.session().await?;
    let chunk = session.chunk();
    let patch = session.ask(kit, Method::PATCH).with("content-range", range(5, 5 + chunk));
    patch.body(kit.bytes(chunk)).send().await?.expect(&[416])?;
    session.status(kit, 0).await
}

async fn gap_in_put_goes_on(kit: &Kit) -> Outcome {
    let mut session = kit.session().await?;
    let chunk = session.chunk();
    let bytes = kit.bytes(2 * chunk);
    let digest = Digest::sha256(&bytes);
    session.patch(kit, 0, bytes.slice(..chunk)).await?;
    let put = session.put(kit, &digest).with("content-range", range(chunk + 1, 2 * chunk + 1));
    put.body(bytes.slice(chunk..)).send().await?.refused()?;
    session.status(kit, chunk).await?;
    let put = session.put(kit, &digest).with("content-range", range(chunk, 2 * chunk));
    put.body(bytes.slice(chunk..)).send().await?.expect(&[201])?;
    kit.has(&digest, &bytes).await
}

async fn gap_in_put(kit: &Kit) -> Outcome {
    let mut session = kit.session().await?;
    let chunk = session.chunk();
    let bytes = kit.bytes(2 * chunk);
    let digest = Digest::sha256(&bytes);
    session.patch(kit, 0, bytes.slice(..chunk)).await?;
    let put = session.put(kit, &digest).with("content-range", range(chunk + 1, 2 * chunk + 1));
    put.body(bytes.slice(chunk..)).send().await?.expect(&[416])?;
    kit.head(kit.blob(&digest)).send().await?.expect(&[404]).map(drop)
}

async fn wrong_length(kit: &Kit) -> Outcome {
    let mut session = kit.session().await?;
    let chunk = session.chunk();
    let patch = session.ask(kit, Method::PATCH).with("content-range", range(0, chunk + 10));
    patch.body(kit.bytes(chunk)).send().await?.expect(&[400, 416])?;
    session.status(kit, 0).await
}

async fn invalid_range(kit: &Kit) -> Outcome {
    for text in ["x", "5-1", "-", "0-18446744073709551616"] {
        let session = kit.session().await?;
        let patch = session.ask(kit, Method::PATCH).with("content-range", text);
        patch.body(kit.bytes(session.chunk())).send().await?.expect(&[400, 416])?;
    }
    Ok(())
}

async fn wrong_digest(kit: &Kit) -> Outcome {
    let mut session = kit.session().await?;
    let bytes: Bytes = kit.bytes(session.chunk());
    let digest = Digest::sha256(kit.name());
    session.patch(kit, 0, bytes).await?;
    session.put(kit, &digest).send().await?.refused()?;
    kit.head(kit.blob(&digest)).send().await?.expect(&[404]).map(drop)
}
