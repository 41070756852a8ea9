//! Pulling blobs.

use super::kit::{Kit, Outcome, skip};
use crate::Digest;
use crate::digest::Algorithm;
use bytes::Bytes;

super::define! {
    "blob-get", "end-2", Must, "a blob comes back as its bytes, with its length" => get;
    "blob-head", "end-2", Must, "HEAD of a blob says its length" => head;
    "blob-digest-header", "end-2", Must, "GET and HEAD of a blob name a digest of it in Docker-Content-Digest" => digest_header;
    "blob-empty", "end-2", Must, "a blob without bytes is a blob" => empty;
    "blob-unknown", "end-2", Must, "a blob that is not there is 404" => unknown;
    "blob-digest-invalid", "end-2", Must, "a text that is no digest is an error of the client" => invalid;
    "blob-sha512", "end-2", Must, "a blob can be pushed and pulled under a digest of SHA-512" => sha512;
    "blob-sha512-header", "end-2", Should, "Docker-Content-Digest has the algorithm of the digest in the request" => algorithm;
    "blob-sha512-unannounced", "end-6", Should, "a blob can be pushed under SHA-512 without an announcement" => unannounced;
    "blob-range", "end-2", Should, "a range of a blob is 206 and exactly these bytes" => range;
    "blob-range-suffix", "end-2", Should, "a range without a start is the end of the blob" => suffix;
    "blob-range-outside", "end-2", Should, "a range behind the end of a blob is 416" => outside;
    "blob-private", "end-2", Should, "a blob of one repository is not there in another one" => private;
}

async fn get(kit: &Kit) -> Outcome {
    let bytes = kit.bytes(10_000);
    let digest = kit.push(&bytes).await?;
    let reply = kit.get(kit.blob(&digest)).send().await?.expect(&[200])?;
    reply.has_body(&bytes)?;
    reply.has_length(bytes.len())
}

async fn head(kit: &Kit) -> Outcome {
    let bytes = kit.bytes(3000);
    let digest = kit.push(&bytes).await?;
    kit.head(kit.blob(&digest)).send().await?.expect(&[200])?.has_length(bytes.len())
}

async fn digest_header(kit: &Kit) -> Outcome {
    let bytes = kit.bytes(20);
    let digest = kit.push(&bytes).await?;
    kit.get(kit.blob(&digest)).send().await?.expect(&[200])?.has_digest_of(&bytes)?;
    kit.head(kit.blob(&digest)).send().await?.expect(&[200])?.has_digest_of(&bytes)
}

async fn empty(kit: &Kit) -> Outcome {
    // Others have it, too: it stays.
    let digest = Digest::sha256(b"");
    let session = kit.session().await?;
    session.put(kit, &digest).body(Bytes::new()).send().await?.expect(&[201])?;
    let reply = kit.get(kit.blob(&digest)).send().await?.expect(&[200])?;
    reply.has_body(b"")?;
    kit.head(kit.blob(&digest)).send().await?.expect(&[200])?.has_length(0)
}

async fn unknown(kit: &Kit) -> Outcome {
    let digest = Digest::sha256(kit.name());
    kit.get(kit.blob(&digest)).send().await?.expect(&[404])?;
    kit.head(kit.blob(&digest)).send().await?.expect(&[404]).map(drop)
}

async fn invalid(kit: &Kit) -> Outcome {
    let short = &Digest::sha256(b"").as_str()[..60].to_owned();
    for text in ["sha256:", "sha256:zz", "no-digest", short, "md9:00"] {
        kit.get(format!("/v2/{}/blobs/{text}", kit.repository)).send().await?.expect(&[400, 404])?;
    }
    Ok(())
}

async fn sha512(kit: &Kit) -> Outcome {
    let bytes = kit.bytes(2000);
    let digest = kit.push_as(Algorithm::Sha512, &bytes).await?;
    kit.get(kit.blob(&digest)).send().await?.expect(&[200])?.has_body(&bytes)
}

async fn algorithm(kit: &Kit) -> Outcome {
    let digest = kit.push_as(Algorithm::Sha512, &kit.bytes(2000)).await?;
    kit.get(kit.blob(&digest)).send().await?.expect(&[200])?.has_digest(&digest)?;
    kit.head(kit.blob(&digest)).send().await?.expect(&[200])?.has_digest(&digest)
}

async fn unannounced(kit: &Kit) -> Outcome {
    // Whether it knows the algorithm at all.
    kit.push_as(Algorithm::Sha512, &kit.bytes(10)).await?;
    let bytes = kit.bytes(2000);
    let digest = Algorithm::Sha512.digest(&bytes);
    kit.has_blob(&digest);
    let session = kit.session().await?;
    session.put(kit, &digest).body(bytes.clone()).send().await?.expect(&[201])?;
    kit.get(kit.blob(&digest)).send().await?.expect(&[200])?.has_body(&bytes)
}

async fn range(kit: &Kit) -> Outcome {
    let bytes = kit.bytes(5000);
    let digest = kit.push(&bytes).await?;
    for (n, (start, end)) in
        [(0, 0), (0, 99), (1000, 1999), (4999, 4999), (4000, 9000)].into_iter().enumerate()
    {
        let reply = kit.get(kit.blob(&digest)).with("range", format!("bytes={start}-{end}")).send().await?;
        if reply.status == 200 && n == 0 {
            // RFC 9110 lets a server ignore it.
            reply.has_body(&bytes)?;
            return skip("the registry gives whole blobs only");
        }
        let reply = reply.expect(&[206])?;
        let last = end.min(bytes.len() - 1);
        reply.has_body(&bytes[start..=last])?;
        reply.has_length(last + 1 - start)?;
        let given = reply.header("content-range").unwrap_or("none");
        let expected = format!("bytes {start}-{last}/{}", bytes.len());
        reply.require(
            given == expected,
            format_args!("answered with the Content-Range {given}, expected {expected}"),
        )?;
    }
    Ok(())
}

async fn suffix(kit: &Kit) -> Outcome {
    let bytes = kit.bytes(5000);
    let digest = kit.push(&bytes).await?;
    for length in [1, 700, 9000] {
        let reply = kit.get(kit.blob(&digest)).with("range", format!("bytes=-{length}")).send().await?;
        // All of it may be 200, too.
        let statuses: &[u16] = if length > bytes.len() { &[200, 206] } else { &[206] };
        if length < bytes.len() && reply.status == 200 {
            return skip("the registry gives whole blobs only");
        }
        reply.expect(statuses)?.has_body(&bytes[bytes.len().saturating_sub(length)..])?;
    }
    Ok(())
}

async fn outside(kit: &Kit) -> Outcome {
    let bytes = kit.bytes(100);
    let digest = kit.push(&bytes).await?;
    let reply = kit.get(kit.blob(&digest)).with("range", "bytes=100-").send().await?;
    if reply.status == 200 {
        return skip("the registry gives whole blobs only");
    }
    reply.expect(&[416]).map(drop)
}

async fn private(kit: &Kit) -> Outcome {
    let digest = kit.push(&kit.bytes(50)).await?;
    let reply = kit.head(format!("/v2/{}/blobs/{digest}", kit.other)).send().await?;
    reply.expect(&[404]).map(drop)
}
