//! Cases about uploads and mounts.

use super::kit::*;
use crate::client::{Mount, RegistryUpload, ResumeToken, SharedClient};
use crate::{Digest, Error, ErrorKind};
use bytes::Bytes;
use futures::StreamExt as _;
use std::time::Duration;

/// An upload that is over: some registries know, some do not.
const GONE: &[ErrorKind] = &[ErrorKind::UploadUnknown, ErrorKind::UploadInvalid];
/// What a handle meets whose session another handle moved on.
const MOVED: &[ErrorKind] = &[ErrorKind::RangeInvalid, ErrorKind::UploadInvalid, ErrorKind::Conflict];

pub async fn an_empty_blob_is_a_blob(client: SharedClient) {
    needs!(client, push);
    let (name, digest) = (repository("a"), Digest::sha256(b""));
    let mut upload = client.start_upload(&name).await.unwrap();
    assert_eq!(upload.offset(), 0);
    upload.finish(&digest, None).await.unwrap();
    assert_eq!(client.stat_blob(&name, &digest).await.unwrap(), Some(0));
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), b"");
}

pub async fn chunks_add_up(client: SharedClient) {
    needs!(client, push, append);
    let (name, bytes) = (repository("a"), noise(3000, 6));
    let mut upload = client.start_upload(&name).await.unwrap();
    for at in [0, 1000, 2000] {
        assert_eq!(upload.offset(), at as u64);
        upload.append(bytes.slice(at..at + 1000)).await.unwrap();
    }
    let digest = Digest::sha256(&bytes);
    upload.finish(&digest, None).await.unwrap();
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), bytes);
}

pub async fn chunks_and_a_rest_add_up(client: SharedClient) {
    needs!(client, push, append);
    let (name, bytes) = (repository("a"), noise(3000, 7));
    let mut upload = client.start_upload(&name).await.unwrap();
    upload.append(bytes.slice(..1234)).await.unwrap();
    let digest = Digest::sha256(&bytes);
    finish(upload.as_mut(), &digest, &bytes.slice(1234..)).await.unwrap();
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), bytes);
}

pub async fn appending_nothing_changes_nothing(client: SharedClient) {
    needs!(client, push, append);
    let (name, bytes) = (repository("a"), noise(3000, 21));
    let mut upload = client.start_upload(&name).await.unwrap();
    upload.append(Bytes::new()).await.unwrap();
    assert_eq!(upload.offset(), 0);
    upload.append(bytes.slice(..2000)).await.unwrap();
    upload.append(Bytes::new()).await.unwrap();
    assert_eq!(upload.offset(), 2000);
    let digest = Digest::sha256(&bytes);
    finish(upload.as_mut(), &digest, &bytes.slice(2000..)).await.unwrap();
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), bytes);
}

pub async fn an_upload_says_how_far_it_is(client: SharedClient) {
    needs!(client, push, append, resume);
    let (name, bytes) = (repository("a"), noise(3000, 8));
    let mut upload = client.start_upload(&name).await.unwrap();
    assert_eq!(upload.refresh().await.unwrap(), 0);
    upload.append(bytes.slice(..2000)).await.unwrap();
    assert_eq!((upload.refresh().await.unwrap(), upload.offset()), (2000, 2000));
    finish(upload.as_mut(), &Digest::sha256(&bytes), &bytes.slice(2000..)).await.unwrap();
}

pub async fn an_unfinished_upload_is_not_a_blob(client: SharedClient) {
    needs!(client, push, append);
    let (name, bytes) = (repository("a"), noise(1000, 22));
    let mut upload = client.start_upload(&name).await.unwrap();
    upload.append(bytes.clone()).await.unwrap();
    assert_eq!(client.stat_blob(&name, &Digest::sha256(&bytes)).await.unwrap(), None);
    drop(upload);
    assert_eq!(client.stat_blob(&name, &Digest::sha256(&bytes)).await.unwrap(), None);
}

pub async fn a_dropped_upload_is_resumed(client: SharedClient) {
    needs!(client, push, append, resume);
    let (name, bytes) = (repository("a"), noise(3000, 23));
    let mut upload = client.start_upload(&name).await.unwrap();
    upload.append(bytes.slice(..1000)).await.unwrap();
    upload.append(bytes.slice(1000..1500)).await.unwrap();
    let text = upload.token().unwrap().as_str().to_owned();
    drop(upload);
    // As text it goes through a file into another process.
    let mut upload = client.resume_upload(&name, &ResumeToken::new(text)).await.unwrap();
    assert_eq!(upload.offset(), 1500);
    upload.append(bytes.slice(1500..2000)).await.unwrap();
    let digest = Digest::sha256(&bytes);
    finish(upload.as_mut(), &digest, &bytes.slice(2000..)).await.unwrap();
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), bytes);
}

pub async fn an_upload_without_bytes_is_resumed(client: SharedClient) {
    needs!(client, push, resume);
    let (name, bytes) = (repository("a"), noise(1000, 18));
    let digest = Digest::sha256(&bytes);
    let token = client.start_upload(&name).await.unwrap().token().unwrap();
    let mut upload = client.resume_upload(&name, &token).await.unwrap();
    assert_eq!(upload.offset(), 0);
    finish(upload.as_mut(), &digest, &bytes).await.unwrap();
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), bytes);
}

pub async fn an_upload_belongs_to_its_repository(client: SharedClient) {
    needs!(client, push, append, resume);
    let (name, other, bytes) = (repository("a"), repository("b"), noise(1000, 24));
    let mut upload = client.start_upload(&name).await.unwrap();
    upload.append(bytes.slice(..500)).await.unwrap();
    let token = upload.token().unwrap();
    drop(upload);
    fails(client.resume_upload(&other, &token).await, GONE);
    let mut upload = client.resume_upload(&name, &token).await.unwrap();
    finish(upload.as_mut(), &Digest::sha256(&bytes), &bytes.slice(500..)).await.unwrap();
    assert_eq!(client.stat_blob(&other, &Digest::sha256(&bytes)).await.unwrap(), None);
}

pub async fn an_unknown_token_is_upload_unknown(client: SharedClient) {
    needs!(client, push, resume);
    for text in ["", "a", "00112233445566778899aabbccddeeff", "\n"] {
        fails(client.resume_upload(&repository("a"), &ResumeToken::new(text)).await, GONE);
    }
}

pub async fn two_uploads_beside_each_other_do_not_mix(client: SharedClient) {
    needs!(client, push, append);
    let name = repository("a");
    let contents = [noise(3000, 25), noise(4000, 26)];
    let mut one = client.start_upload(&name).await.unwrap();
    let mut other = client.start_upload(&name).await.unwrap();
    if client.capabilities().resume {
        assert_ne!(one.token().unwrap(), other.token().unwrap());
    }
    for part in [0..1000, 1000..1700] {
        one.append(contents[0].slice(part.clone())).await.unwrap();
        other.append(contents[1].slice(part)).await.unwrap();
    }
    let digests = contents.clone().map(|bytes| Digest::sha256(&bytes));
    finish(other.as_mut(), &digests[1], &contents[1].slice(1700..)).await.unwrap();
    finish(one.as_mut(), &digests[0], &contents[0].slice(1700..)).await.unwrap();
    for (digest, bytes) in digests.iter().zip(contents) {
        assert_eq!(read(&client, &name, digest, None).await.unwrap(), bytes);
    }
}

pub async fn two_handles_of_one_upload_do_not_mix(client: SharedClient) {
    needs!(client, push, append, resume);
    let (name, bytes) = (repository("a"), noise(3000, 10));
    let mut first = client.start_upload(&name).await.unwrap();
    first.append(bytes.slice(..1000)).await.unwrap();
    let mut second = client.resume_upload(&name, &first.token().unwrap()).await.unwrap();
    assert_eq!(second.offset(), 1000);
    second.append(bytes.slice(1000..2000)).await.unwrap();
    // The first handle does not know of that. Its bytes would be in the wrong place.
    fails(first.append(bytes.slice(..500)).await, MOVED);
    assert_eq!(first.refresh().await.unwrap(), 2000);
    let digest = Digest::sha256(&bytes);
    finish(first.as_mut(), &digest, &bytes.slice(2000..)).await.unwrap();
    assert_eq!(read(&client, &name, &digest, None).await.unwrap(), bytes);
    fails(second.refresh().await, GONE);
}

pub async fn a_wrong_digest_is_digest_invalid(client: SharedClient) {
    needs!(client, push);
    let (name, bytes, wrong) = (repository("a"), noise(100, 9), Digest::sha256(b"other"));
    let mut upload = client.start_upload(&name).await.unwrap();
    fails(finish(upload.as_mut(), &wrong, &bytes).await, &[ErrorKind::DigestInvalid]);
    assert_eq!(client.stat_blob(&name, &wrong).await.unwrap(), None);
    assert_eq!(client.stat_blob(&name, &Digest::sha256(&bytes)).await.unwrap(), None);
}

pub async fn a_cancelled_upload_is_gone(client: SharedClient) {
    needs!(client, push);
    let (name, bytes) = (repository("a"), noise(100, 27));
    let mut upload = client.start_upload(&name).await.unwrap();
    if client.capabilities().append {
        upload.append(bytes.clone()).await.unwrap();
    }
    let token = upload.token();
    upload.cancel().await.unwrap();
    fails(upload.refresh().await, GONE);
    fails(finish(upload.as_mut(), &Digest::sha256(&bytes), &bytes).await, GONE);
    if let Some(token) = token {
        fails(client.resume_upload(&name, &token).await, GONE);
    }
    assert_eq!(client.stat_blob(&name, &Digest::sha256(&bytes)).await.unwrap(), None);
}

pub async fn a_finished_upload_is_gone(client: SharedClient) {
    needs!(client, push);
    let (name, bytes) = (repository("a"), noise(100, 11));
    let mut upload = client.start_upload(&name).await.unwrap();
    let token = upload.token();
    finish(upload.as_mut(), &Digest::sha256(&bytes), &bytes).await.unwrap();
    fails(upload.refresh().await, GONE);
    if client.capabilities().append {
        fails(upload.append(bytes.clone()).await, GONE);
    }
    if let Some(token) = token {
        fails(client.resume_upload(&name, &token).await, GONE);
    }
}

pub async fn a_stream_that_fails_stores_nothing(client: SharedClient) {
    needs!(client, push);
    let (name, bytes) = (repository("a"), noise(100_000, 12));
    let (digest, half) = (Digest::sha256(&bytes), bytes.slice(..50_000));
    let failure = Err(Error::new(ErrorKind::Io, "the source failed"));
    // A stream that ends too early is as bad as one that fails.
    for items in [vec![Ok(half.clone()), failure], vec![Ok(half)]] {
        let mut upload = client.start_upload(&name).await.unwrap();
        let stream = futures::stream::iter(items).boxed();
        assert!(upload.finish(&digest, Some((100_000, stream))).await.is_err());
        assert_eq!(client.stat_blob(&name, &digest).await.unwrap(), None);
    }
}

pub async fn a_broken_upload_goes_on(client: SharedClient) {
    needs!(client, push, resume);
    let (name, bytes) = (repository("a"), noise(300_000, 28));
    let digest = Digest::sha256(&bytes);
    let mut upload = client.start_upload(&name).await.unwrap();
    let items = [Ok(bytes.slice(..150_000)), Err(Error::new(ErrorKind::Io, "the source failed"))];
    let broken = futures::stream::iter(items).boxed();
    upload.finish(&digest, Some((300_000, broken))).await.unwrap_err();
    // A registry may still be at work on what it got.
    for _ in 0..100 {
        match go_on(upload.as_mut(), &digest, &bytes).await {
            Ok(()) => break,
            Err(e) => assert!(e.is_retryable() || MOVED.contains(&e.kind()), "{e:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(read(&client, &name, &digest, None).await.unwrap() == bytes);
}

async fn go_on(upload: &mut dyn RegistryUpload, digest: &Digest, bytes: &Bytes) -> crate::Result<()> {
    let offset = upload.refresh().await? as usize;
    assert!(offset <= 150_000, "the registry has {offset} bytes of 150000");
    finish(upload, digest, &bytes.slice(offset..)).await
}

pub async fn a_mount_brings_the_blob(client: SharedClient) {
    needs!(client, push, mount);
    let (from, to, bytes) = (repository("from"), repository("to"), noise(1000, 14));
    let digest = push(&client, &from, &bytes).await;
    let mount = client.mount_blob(&to, &digest, &from).await.unwrap();
    assert!(matches!(mount, Mount::Mounted), "{mount:?}");
    assert_eq!(read(&client, &to, &digest, None).await.unwrap(), bytes);
}

pub async fn a_mount_of_nothing_is_an_upload(client: SharedClient) {
    needs!(client, push, mount);
    let (from, to, bytes) = (repository("from"), repository("to"), noise(1000, 15));
    let digest = Digest::sha256(&bytes);
    let Mount::Upload(mut upload) = client.mount_blob(&to, &digest, &from).await.unwrap() else {
        panic!("nothing can be mounted from an empty repository");
    };
    finish(upload.as_mut(), &digest, &bytes).await.unwrap();
    assert_eq!(read(&client, &to, &digest, None).await.unwrap(), bytes);
}

pub async fn an_offer_is_a_mount_or_an_upload(client: SharedClient) {
    needs!(client, push);
    let (from, to, bytes) = (repository("from"), repository("to"), noise(1000, 16));
    let digest = push(&client, &from, &bytes).await;
    let unknown = noise(1000, 17);
    for (digest, bytes) in [(digest, bytes), (Digest::sha256(&unknown), unknown)] {
        if let Mount::Upload(mut upload) = client.offer_blob(&to, &digest).await.unwrap() {
            finish(upload.as_mut(), &digest, &bytes).await.unwrap();
        }
        assert_eq!(read(&client, &to, &digest, None).await.unwrap(), bytes);
    }
}
