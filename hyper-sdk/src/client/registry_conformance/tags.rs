//! Lists of tags.

use super::kit::{Kit, MAX_PAGES, Outcome, Reply, Stop, require, skip};
use std::collections::BTreeSet;

super::define! {
    "tags-list", "end-8", Must, "the list of tags names the repository and has every tag" => list;
    "tags-order", "end-8", Must, "tags are in lexical or ASCII order" => order;
    "tags-pages", "end-8", Must, "pages of n tags have every tag once" => pages;
    "tags-page-size", "end-8", Must, "a page has n tags when there are more, or fewer and a link to the next page" => size;
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

/// All tags behind `last`, page by page: by links, or without them by the last tag of a full page.
async fn walk(kit: &Kit, n: Option<usize>, last: &str) -> Result<Vec<String>, Stop> {
    let query = |last: &str| match (n, last) {
        (None, "") => String::new(),
        (None, last) => format!("?last={last}"),
        (Some(n), "") => format!("?n={n}"),
        (Some(n), last) => format!("?n={n}&last={last}"),
    };
    let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
    let mut next = Some(target(kit, &query(last)));
    for _ in 0..MAX_PAGES {
        let Some(page) = next else { return Ok(all) };
        require(seen.insert(page.clone()), || "a page of tags links to one before it".to_owned())?;
        let reply = kit.get(page).send().await?.expect(&[200])?;
        let found = tags(&reply)?;
        next = match (reply.next()?, found.last()) {
            (Some(link), _) => Some(link),
            (None, Some(tag)) if n == Some(found.len()) => Some(target(kit, &query(tag))),
            (None, _) => None,
        };
        all.extend(found);
    }
    skip("the repository has too many pages of tags")
}

/// Those of the tags that a case pushed, as often as they are there.
fn own(all: Vec<String>, pushed: &[String]) -> Vec<String> {
    all.into_iter().filter(|tag| pushed.contains(tag)).collect()
}

async fn list(kit: &Kit) -> Outcome {
    let pushed = some(kit, 3).await?;
    let reply = kit.get(target(kit, "")).send().await?.expect(&[200])?;
    let json = reply.json()?;
    reply.require(
        json["name"] == kit.repository.as_str(),
        format_args!("answered with the name {}", json["name"]),
    )?;
    let all = walk(kit, None, "").await?;
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
    let all = walk(kit, None, "").await?;
    let ascii = all.windows(2).all(|pair| pair[0] < pair[1]);
    let lexical = all.windows(2).all(|pair| pair[0].to_lowercase() <= pair[1].to_lowercase());
    require(ascii || lexical, || "the list of tags is in no order of the specification".to_owned())
}

async fn pages(kit: &Kit) -> Outcome {
    let pushed = some(kit, 5).await?;
    let found = own(walk(kit, Some(2), "").await?, &pushed);
    require(found.iter().collect::<BTreeSet<_>>().len() == pushed.len(), || {
        format!("pages of 2 tags have {} of {} tags", found.len(), pushed.len())
    })?;
    require(found.len() == pushed.len(), || "a tag is on two pages".to_owned())
}

async fn size(kit: &Kit) -> Outcome {
    some(kit, 4).await?;
    for n in [1, 3] {
        let reply = kit.get(target(kit, &format!("?n={n}"))).send().await?.expect(&[200])?;
        let count = tags(&reply)?.len();
        let fits = count == n || count < n && reply.next()?.is_some();
        reply.require(fits, format_args!("answered with {count} tags for n={n}"))?;
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

/// That of four tags the last two are behind `last`.
async fn last_two(kit: &Kit, pushed: &[String], last: &str) -> Outcome {
    for n in [Some(100), None] {
        let found = own(walk(kit, n, last).await?, pushed);
        require(found == pushed[2..], || {
            format!("behind the second of four tags there are {}, expected the last two", found.len())
        })?;
    }
    Ok(())
}

async fn last(kit: &Kit) -> Outcome {
    let pushed = some(kit, 4).await?;
    last_two(kit, &pushed, &pushed[1]).await
}

async fn last_unknown(kit: &Kit) -> Outcome {
    let pushed = some(kit, 4).await?;
    last_two(kit, &pushed, &format!("{}a", pushed[1])).await
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
    let reply = kit.get(format!("/v2/{name}/tags/list")).send().await?;
    if matches!(reply.status, 401 | 403) {
        return skip("the registry tells nothing of repositories without rights");
    }
    reply.expect(&[404]).map(drop)
}
