//! Lists of tags.

use super::kit::{Kit, Outcome, Reply, Stop, require};
use std::collections::BTreeSet;

super::define! {
    "tags-list", "end-8", Must, "the list of tags names the repository and has every tag" => list;
    "tags-order", "end-8", Must, "tags are in lexical or ASCII order" => order;
    "tags-pages", "end-8", Must, "pages of n tags have every tag once, and link to the next page" => pages;
    "tags-page-size", "end-8", Must, "a page has n tags when there are more" => size;
    "tags-none", "end-8", Must, "n=0 is an empty list without a link" => none;
    "tags-last", "end-8", Must, "a page begins behind the tag `last`" => last;
    "tags-last-unknown", "end-8", Must, "the tag `last` need not exist" => last_unknown;
    "tags-n-invalid", "end-8", Should, "an n that is no number is an error of the client" => invalid;
    "tags-unknown-repository", "end-8", Must, "the tags of a repository that does not exist are 404" => unknown;
}

/// Pushes one image under several tags, which are in order.
async fn some(kit: &Kit, count: usize) -> Result<Vec<String>, Stop> {
    let name = kit.name();
    let tags: Vec<String> = (0..count).map(|i| format!("{name}-{i:03}")).collect();
    let bytes = kit.tagged(&tags[0]).await?;
    // Not in their order.
    for tag in tags[1..].iter().rev() {
        kit.put(tag, crate::media_type::OCI_MANIFEST, bytes.clone()).await?.expect(&[201])?;
    }
    Ok(tags)
}

fn target(kit: &Kit, query: &str) -> String {
    format!("/v2/{}/tags/list{query}", kit.repository)
}

fn tags(reply: &Reply) -> Result<Vec<String>, Stop> {
    let json = reply.json()?;
    // Several registries write no list for no tags.
    if json["tags"].is_null() {
        return Ok(Vec::new());
    }
    let list = json["tags"].as_array().into_iter().flatten().map(|tag| tag.as_str().map(str::to_owned));
    match (json["tags"].is_array(), list.collect()) {
        (true, Some(tags)) => Ok(tags),
        _ => {
            reply.require(false, "answered with tags that are no list of texts")?;
            Ok(Vec::new())
        }
    }
}

/// All tags, page by page.
async fn walk(kit: &Kit, query: &str) -> Result<Vec<String>, Stop> {
    let mut next = Some(target(kit, query));
    let mut all = Vec::new();
    let mut seen = BTreeSet::new();
    while let Some(target) = next {
        require(seen.insert(target.clone()), || format!("the pages of tags come back to {target}"))?;
        let reply = kit.get(target).send().await?.expect(&[200])?;
        all.extend(tags(&reply)?);
        next = reply.next()?;
    }
    Ok(all)
}

async fn list(kit: &Kit) -> Outcome {
    let pushed = some(kit, 3).await?;
    let reply = kit.get(target(kit, "")).send().await?.expect(&[200])?;
    let json = reply.json()?;
    reply.require(
        json["name"] == kit.repository.as_str(),
        format_args!("answered with the name {}", json["name"]),
    )?;
    let all = walk(kit, "").await?;
    for tag in &pushed {
        reply.require(all.contains(tag), format_args!("answered without the tag {tag}"))?;
    }
    Ok(())
}

async fn order(kit: &Kit) -> Outcome {
    let name = kit.name();
    let bytes = kit.tagged(&format!("{name}.b")).await?;
    for end in ["-C", "_a", ".a", "-c", ".B", "-0"] {
        let tag = format!("{name}{end}");
        kit.put(tag, crate::media_type::OCI_MANIFEST, bytes.clone()).await?.expect(&[201])?;
    }
    let all = walk(kit, "").await?;
    let ascii = all.windows(2).all(|pair| pair[0] < pair[1]);
    let lexical = all.windows(2).all(|pair| pair[0].to_lowercase() <= pair[1].to_lowercase());
    require(ascii || lexical, || "the list of tags is in no order of the specification".to_owned())
}

async fn pages(kit: &Kit) -> Outcome {
    let pushed = some(kit, 5).await?;
    let whole = walk(kit, "").await?;
    let paged = walk(kit, "?n=2").await?;
    require(whole == paged, || {
        format!("pages of 2 tags have {} tags, and the whole list {}", paged.len(), whole.len())
    })?;
    let once: BTreeSet<&String> = paged.iter().collect();
    require(once.len() == paged.len(), || "a tag is on two pages".to_owned())?;
    require(pushed.iter().all(|tag| once.contains(tag)), || "a tag is on no page".to_owned())
}

async fn size(kit: &Kit) -> Outcome {
    some(kit, 4).await?;
    for n in [1, 3] {
        let reply = kit.get(target(kit, &format!("?n={n}"))).send().await?.expect(&[200])?;
        let count = tags(&reply)?.len();
        reply.require(count == n, format_args!("answered with {count} tags for n={n}"))?;
    }
    Ok(())
}

async fn none(kit: &Kit) -> Outcome {
    some(kit, 1).await?;
    let reply = kit.get(target(kit, "?n=0")).send().await?.expect(&[200])?;
    let count = tags(&reply)?.len();
    reply.require(count == 0, format_args!("answered with {count} tags for n=0"))?;
    reply.require(reply.next()?.is_none(), "answered with a Link for n=0")
}

/// The tags of this case behind `last`.
async fn behind(kit: &Kit, pushed: &[String], last: &str) -> Result<Vec<String>, Stop> {
    let all = walk(kit, &format!("?n=100&last={last}")).await?;
    Ok(all.into_iter().filter(|tag| pushed.contains(tag)).collect())
}

async fn last(kit: &Kit) -> Outcome {
    let pushed = some(kit, 4).await?;
    let found = behind(kit, &pushed, &pushed[1]).await?;
    require(found == pushed[2..], || format!("behind the second of four tags there are {}", found.len()))
}

async fn last_unknown(kit: &Kit) -> Outcome {
    let pushed = some(kit, 4).await?;
    let found = behind(kit, &pushed, &format!("{}a", pushed[1])).await?;
    require(found == pushed[2..], || {
        format!("behind a text between the second and the third of four tags there are {}", found.len())
    })
}

async fn invalid(kit: &Kit) -> Outcome {
    some(kit, 1).await?;
    for text in ["x", "-1", "1.5"] {
        kit.get(target(kit, &format!("?n={text}"))).send().await?.expect(&[400])?;
    }
    Ok(())
}

async fn unknown(kit: &Kit) -> Outcome {
    let name = format!("{}/{}", kit.repository, kit.name());
    kit.get(format!("/v2/{name}/tags/list")).send().await?.refused(&[404], "NAME_UNKNOWN").map(drop)
}
