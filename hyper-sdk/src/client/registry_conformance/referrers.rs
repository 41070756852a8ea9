//! Manifests that refer to a subject.

use super::kit::{Kit, MAX_PAGES, Outcome, Reply, Stop, require, skip, with_query};
use crate::oci::{Descriptor, ImageIndex, ImageManifest};
use crate::{Digest, media_type};
use bytes::Bytes;

super::define! {
    "referrers-empty", "end-12", Must, "a subject without referrers has an empty index, also when it does not exist" => empty;
    "referrers-list", "end-12", Must, "a referrer is listed with its media type, size, artifact type and annotations" => list;
    "referrers-config-type", "end-12", Must, "without an artifact type the media type of the config stands for it" => config_type;
    "referrers-index", "end-12", Must, "an index may be a referrer" => index;
    "referrers-subject-missing", "end-7a", Must, "a subject need not exist when its referrer is pushed" => missing;
    "referrers-subject-header", "end-7a", Must, "the push of a referrer names its subject in OCI-Subject" => subject_header;
    "referrers-filter", "end-12", Should, "a filter of artifact types is applied, and named in OCI-Filters-Applied" => filter;
    "referrers-deleted", "end-12", Must, "a referrer that was deleted is not listed" => deleted;
    "referrers-digest-invalid", "end-12", Must, "the referrers of what is no digest are 400" => invalid;
}

const ARTIFACT: &str = "application/vnd.example.signature";

fn target(kit: &Kit, subject: &Digest) -> String {
    format!("/v2/{}/referrers/{subject}", kit.repository)
}

/// The list of referrers, as the answer to a request.
async fn ask(kit: &Kit, target: String) -> Result<(Reply, Vec<serde_json::Value>), Stop> {
    if !kit.has_referrers().await? {
        return skip("the registry has no list of referrers");
    }
    let mut all = Vec::new();
    let mut next = target;
    for _ in 0..MAX_PAGES {
        let reply = kit.get(next).send().await?.expect(&[200])?;
        let kind = reply.header("content-type").unwrap_or("none");
        reply.require(
            media_type::essence(kind) == media_type::OCI_INDEX,
            format_args!("answered with the Content-Type {kind}"),
        )?;
        let json = reply.json()?;
        reply.require(json["schemaVersion"] == 2, "answered without schemaVersion 2")?;
        reply.require(json["manifests"].is_array(), "answered with an index without manifests")?;
        all.extend(json["manifests"].as_array().into_iter().flatten().cloned());
        next = match reply.next()? {
            Some(page) => page,
            None => return Ok((reply, all)),
        };
    }
    Err(Stop::Broken(format!("a list of {} referrers has over {MAX_PAGES} pages", all.len())))
}

async fn of(kit: &Kit, subject: &Digest) -> Result<Vec<serde_json::Value>, Stop> {
    Ok(ask(kit, target(kit, subject)).await?.1)
}

fn artifact(mut image: ImageManifest, subject: &Descriptor, kind: Option<&str>) -> ImageManifest {
    image.subject = Some(subject.clone());
    image.artifact_type = kind.map(str::to_owned);
    image.annotations.insert("org.example.key".to_owned(), "value".to_owned());
    image
}

/// The one referrer in a list.
fn only<'a>(list: &'a [serde_json::Value], digest: &Digest) -> Result<&'a serde_json::Value, Stop> {
    match list {
        [one] if one["digest"] == digest.as_str() => Ok(one),
        _ => Err(Stop::Broken(format!(
            "the list of referrers has {} of them, and not {digest} alone",
            list.len()
        ))),
    }
}

async fn empty(kit: &Kit) -> Outcome {
    let image = kit.put_image(&kit.image().await?).await?;
    for subject in [image.digest, Digest::sha256(kit.name())] {
        let list = of(kit, &subject).await?;
        require(list.is_empty(), || format!("a subject without referrers has {}", list.len()))?;
    }
    Ok(())
}

async fn list(kit: &Kit) -> Outcome {
    let subject = kit.put_image(&kit.image().await?).await?;
    let referrer = kit.put_image(&artifact(kit.image().await?, &subject, Some(ARTIFACT))).await?;
    let list = of(kit, &subject.digest).await?;
    let one = only(&list, &referrer.digest)?;
    let is_whole = one["mediaType"] == media_type::OCI_MANIFEST
        && one["size"] == referrer.size
        && one["artifactType"] == ARTIFACT
        && one["annotations"]["org.example.key"] == "value";
    require(is_whole, || format!("the descriptor of a referrer is {one}"))
}

async fn config_type(kit: &Kit) -> Outcome {
    let subject = kit.put_image(&kit.image().await?).await?;
    let referrer = kit.put_image(&artifact(kit.image().await?, &subject, None)).await?;
    let list = of(kit, &subject.digest).await?;
    let one = only(&list, &referrer.digest)?;
    require(one["artifactType"] == media_type::OCI_CONFIG, || {
        format!("the descriptor of a referrer is {one}")
    })
}

async fn index(kit: &Kit) -> Outcome {
    let subject = kit.put_image(&kit.image().await?).await?;
    let mut index = ImageIndex::new(vec![subject.clone()]);
    index.subject = Some(subject.clone());
    index.annotations.insert("org.example.key".to_owned(), kit.name());
    let referrer = kit.put_index(&index).await?;
    let list = of(kit, &subject.digest).await?;
    let one = only(&list, &referrer.digest)?;
    let is_whole = one["mediaType"] == media_type::OCI_INDEX && one.get("artifactType").is_none();
    require(is_whole, || format!("the descriptor of an index without an artifact type is {one}"))
}

async fn missing(kit: &Kit) -> Outcome {
    let subject = kit.image().await?;
    let bytes = subject.to_bytes();
    let descriptor = Descriptor::of(media_type::OCI_MANIFEST, &bytes);
    let referrer = kit.put_image(&artifact(kit.image().await?, &descriptor, Some(ARTIFACT))).await?;
    only(&of(kit, &descriptor.digest).await?, &referrer.digest)?;
    kit.put_image(&subject).await?;
    only(&of(kit, &descriptor.digest).await?, &referrer.digest).map(drop)
}

async fn subject_header(kit: &Kit) -> Outcome {
    let subject = kit.put_image(&kit.image().await?).await?;
    let bytes = Bytes::from(artifact(kit.image().await?, &subject, Some(ARTIFACT)).to_bytes());
    let reply = kit.put(kit.name(), media_type::OCI_MANIFEST, bytes).await?.expect(&[201])?;
    let Some(given) = reply.header("oci-subject") else {
        if !kit.has_referrers().await? {
            return skip("the registry has no list of referrers");
        }
        return reply.require(false, "answered without OCI-Subject");
    };
    reply.require(given == subject.digest.as_str(), format_args!("answered with the OCI-Subject {given}"))
}

async fn filter(kit: &Kit) -> Outcome {
    let subject = kit.put_image(&kit.image().await?).await?;
    let wanted = kit.put_image(&artifact(kit.image().await?, &subject, Some(ARTIFACT))).await?;
    kit.put_image(&artifact(kit.image().await?, &subject, Some("application/vnd.example.other"))).await?;
    let target = with_query(&target(kit, &subject.digest), &format!("artifactType={ARTIFACT}"));
    let (reply, list) = ask(kit, target).await?;
    let applied = reply
        .all("oci-filters-applied")
        .iter()
        .any(|text| text.split(',').any(|f| f.trim() == "artifactType"));
    reply.require(applied, "answered without OCI-Filters-Applied: artifactType")?;
    only(&list, &wanted.digest).map(drop)
}

async fn deleted(kit: &Kit) -> Outcome {
    let subject = kit.put_image(&kit.image().await?).await?;
    let referrer = kit.put_image(&artifact(kit.image().await?, &subject, Some(ARTIFACT))).await?;
    only(&of(kit, &subject.digest).await?, &referrer.digest)?;
    let reply = kit.delete(kit.manifest(&referrer.digest)).send().await?;
    if matches!(reply.status, 400 | 405) {
        return skip("the registry deletes no manifests");
    }
    reply.expect(&[202])?;
    let list = of(kit, &subject.digest).await?;
    require(list.is_empty(), || "a deleted referrer is still listed".to_owned())
}

async fn invalid(kit: &Kit) -> Outcome {
    if !kit.has_referrers().await? {
        return skip("the registry has no list of referrers");
    }
    for text in ["sha256:short", "no-digest"] {
        kit.get(format!("/v2/{}/referrers/{text}", kit.repository)).send().await?.expect(&[400])?;
    }
    Ok(())
}
