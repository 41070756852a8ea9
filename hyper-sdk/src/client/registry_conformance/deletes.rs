//! Deleting tags, manifests and blobs.

use super::kit::{Kit, Outcome, Reply, Stop, skip};
use crate::{Digest, media_type};

super::define! {
    "delete-tag", "end-9", Must, "a deleted tag is 404, and its manifest stays" => tag;
    "delete-manifest", "end-9", Must, "a deleted manifest is 404 by its digest and by its tags" => manifest;
    "delete-manifest-unknown", "end-9", Must, "the deletion of a manifest that is not there is 404" => unknown_manifest;
    "delete-manifest-again", "end-9", Should, "a deleted manifest can be pushed again" => again;
    "delete-blob", "end-10", Must, "a deleted blob is 404" => blob;
    "delete-blob-unknown", "end-10", Must, "the deletion of a blob that is not there is 404" => unknown_blob;
}

async fn delete(kit: &Kit, target: String) -> Result<Reply, Stop> {
    let reply = kit.delete(target).send().await?;
    if matches!(reply.status, 400 | 405) {
        return skip("the registry does not delete this");
    }
    Ok(reply)
}

async fn tag(kit: &Kit) -> Outcome {
    let tags = [kit.name(), kit.name()];
    let bytes = kit.tagged(&tags[0]).await?;
    kit.put(&tags[1], media_type::OCI_MANIFEST, bytes.clone()).await?.expect(&[201])?;
    delete(kit, kit.manifest(&tags[0])).await?.expect(&[202])?;
    kit.get(kit.manifest(&tags[0])).send().await?.expect(&[404])?;
    for target in [kit.manifest(&tags[1]), kit.manifest(Digest::sha256(&bytes))] {
        kit.pull(target).await?.has_body(&bytes)?;
    }
    Ok(())
}

async fn manifest(kit: &Kit) -> Outcome {
    let tag = kit.name();
    let digest = Digest::sha256(kit.tagged(&tag).await?);
    delete(kit, kit.manifest(&digest)).await?.expect(&[202])?;
    for target in [kit.manifest(&digest), kit.manifest(&tag)] {
        kit.get(target).send().await?.expect(&[404])?;
    }
    Ok(())
}

async fn unknown_manifest(kit: &Kit) -> Outcome {
    // Whether it deletes manifests at all.
    let image = kit.put_image(&kit.image().await?).await?;
    delete(kit, kit.manifest(&image.digest)).await?.expect(&[202])?;
    for _ in 0..2 {
        kit.delete(kit.manifest(&image.digest)).send().await?.expect(&[404])?;
    }
    Ok(())
}

async fn again(kit: &Kit) -> Outcome {
    let image = kit.image().await?;
    let descriptor = kit.put_image(&image).await?;
    delete(kit, kit.manifest(&descriptor.digest)).await?.expect(&[202])?;
    kit.put_image(&image).await?;
    kit.head(kit.manifest(&descriptor.digest)).send().await?.expect(&[200]).map(drop)
}

async fn blob(kit: &Kit) -> Outcome {
    let digest = kit.push(&kit.bytes(100)).await?;
    delete(kit, kit.blob(&digest)).await?.expect(&[202])?;
    kit.get(kit.blob(&digest)).send().await?.expect(&[404])?;
    kit.head(kit.blob(&digest)).send().await?.expect(&[404]).map(drop)
}

async fn unknown_blob(kit: &Kit) -> Outcome {
    let digest = kit.push(&kit.bytes(100)).await?;
    delete(kit, kit.blob(&digest)).await?.expect(&[202])?;
    kit.delete(kit.blob(&digest)).send().await?.expect(&[404]).map(drop)
}
