//! Upload sessions.

use super::MetaOpener;
use super::kit::*;
use crate::ErrorKind;
use crate::digest::Algorithm;
use crate::store::UploadId;
use crate::store::blob::{BlobKey, StagedState};
use crate::store::meta::{Change, UploadRecord};

/// A time in the future.
pub(super) const FUTURE: i64 = i64::MAX / 2;

pub(super) fn record(name: &str) -> UploadRecord {
    UploadRecord {
        id: UploadId::random().unwrap(),
        repository: repository(name),
        algorithm: Algorithm::Sha512,
        state: StagedState::default(),
    }
}

pub(super) fn state() -> StagedState {
    StagedState { offset: 7, hash: vec![0, 1, 255], backend: vec![9, 0, 8] }
}

pub async fn a_session_exists_until_it_ends(opener: MetaOpener) {
    let meta = opener.open().await;
    let record = record("a");
    assert!(meta.upload(&record.id).await.unwrap().is_none());
    meta.write(Change::StartUpload { record: record.clone(), resends: None }).await.unwrap();
    assert_eq!(meta.upload(&record.id).await.unwrap().as_ref(), Some(&record));
    assert!(
        meta.tags(&record.repository, None, 1).await.unwrap().is_none(),
        "a session creates no repository"
    );
    for _ in 0..2 {
        meta.write(Change::EndUpload { id: record.id.clone(), writer: None }).await.unwrap();
        assert!(meta.upload(&record.id).await.unwrap().is_none());
    }
}

pub async fn a_saved_session_has_its_state(opener: MetaOpener) {
    let meta = opener.open().await;
    let [one, two] = ["a", "b"].map(record);
    for record in [&one, &two] {
        meta.write(Change::StartUpload { record: record.clone(), resends: None }).await.unwrap();
    }
    meta.write(Change::SaveUpload {
        id: one.id.clone(),
        from: 0,
        state: state(),
        writer: None,
        keeps_claim: false,
    })
    .await
    .unwrap();
    assert_eq!(meta.upload(&one.id).await.unwrap().unwrap().state, state());
    assert_eq!(meta.upload(&two.id).await.unwrap().unwrap().state, StagedState::default());
}

pub async fn saving_an_ended_session_is_rejected(opener: MetaOpener) {
    let meta = opener.open().await;
    let record = record("a");
    let save = || Change::SaveUpload {
        id: record.id.clone(),
        from: 0,
        state: state(),
        writer: None,
        keeps_claim: false,
    };
    fails(meta.write(save()).await, &[ErrorKind::UploadUnknown]);
    meta.write(Change::StartUpload { record: record.clone(), resends: None }).await.unwrap();
    meta.write(Change::EndUpload { id: record.id.clone(), writer: None }).await.unwrap();
    fails(meta.write(save()).await, &[ErrorKind::UploadUnknown]);
    assert!(meta.upload(&record.id).await.unwrap().is_none());
}

pub async fn one_of_two_writers_saves_a_session(opener: MetaOpener) {
    let meta = opener.open().await;
    let record = record("a");
    meta.write(Change::StartUpload { record: record.clone(), resends: None }).await.unwrap();
    let save = |from, offset| Change::SaveUpload {
        id: record.id.clone(),
        from,
        state: StagedState { offset, ..state() },
        writer: None,
        keeps_claim: false,
    };
    // Both began at the start. The one that saves later is too late, also with more bytes.
    let outcomes = futures::future::join(meta.write(save(0, 7)), meta.write(save(0, 9))).await;
    let saved = match &outcomes {
        (Ok(_), Err(e)) | (Err(e), Ok(_)) => {
            assert_eq!(e.kind(), ErrorKind::RangeInvalid, "{e}");
            if outcomes.0.is_ok() { 7 } else { 9 }
        }
        both => panic!("not exactly one of two writers saved: {both:?}"),
    };
    for from in [0, 8, 100] {
        fails(meta.write(save(from, 200)).await, &[ErrorKind::RangeInvalid]);
        assert_eq!(meta.upload(&record.id).await.unwrap().unwrap().state.offset, saved);
    }
    meta.write(save(saved, 10)).await.unwrap();
    assert_eq!(meta.upload(&record.id).await.unwrap().unwrap().state.offset, 10);
}

pub async fn a_session_is_sealed_with_one_content(opener: MetaOpener) {
    let meta = opener.open().await;
    let [one, two] = ["a", "b"].map(record);
    let seal_from = |record: &UploadRecord, from, writer: &str, content: &str| Change::SealUpload {
        id: record.id.clone(),
        from,
        writer: writer.to_owned(),
        content: digest(content),
    };
    let claim = |record: &UploadRecord, from, writer: &str| Change::ClaimUpload {
        id: record.id.clone(),
        from,
        writer: writer.to_owned(),
        seconds: -1,
        renews: false,
    };
    let seal = |record: &UploadRecord, content: &str| seal_from(record, 0, "one", content);
    fails(meta.write(seal(&one, "x")).await, &[ErrorKind::UploadUnknown]);
    for record in [&one, &two] {
        meta.write(Change::StartUpload { record: record.clone(), resends: None }).await.unwrap();
        fails(meta.write(seal(record, "x")).await, &[ErrorKind::Unavailable]);
        meta.write(claim(record, 0, "two")).await.unwrap();
        meta.write(claim(record, 0, "one")).await.unwrap();
        fails(meta.write(seal_from(record, 0, "two", "x")).await, &[ErrorKind::Unavailable]);
        fails(meta.write(seal_from(record, 7, "one", "x")).await, &[ErrorKind::RangeInvalid]);
    }
    // Two that finish one session at once: the content of one of them counts, and it may come again.
    let outcomes = futures::future::join(meta.write(seal(&one, "x")), meta.write(seal(&one, "y"))).await;
    let (sealed, other) = match &outcomes {
        (Ok(_), Err(e)) | (Err(e), Ok(_)) => {
            assert_eq!(e.kind(), ErrorKind::UploadUnknown, "{e}");
            if outcomes.0.is_ok() { ("x", "y") } else { ("y", "x") }
        }
        both => panic!("not exactly one content was accepted: {both:?}"),
    };
    meta.write(Change::SaveUpload {
        id: one.id.clone(),
        from: 0,
        state: state(),
        writer: None,
        keeps_claim: false,
    })
    .await
    .unwrap();
    // It was saved further meanwhile.
    fails(meta.write(seal(&one, sealed)).await, &[ErrorKind::RangeInvalid]);
    let there = state().offset;
    meta.write(claim(&one, there, "three")).await.unwrap();
    let seal_there = |content: &str| seal_from(&one, there, "three", content);
    for _ in 0..2 {
        meta.write(seal_there(sealed)).await.unwrap();
        fails(meta.write(seal_there(other)).await, &[ErrorKind::UploadUnknown]);
        meta.write(seal(&two, other)).await.unwrap();
    }
    assert_eq!(meta.upload(&one.id).await.unwrap().unwrap().state, state());
    meta.write(Change::EndUpload { id: one.id.clone(), writer: None }).await.unwrap();
    fails(meta.write(seal_there(sealed)).await, &[ErrorKind::UploadUnknown]);
}

pub async fn a_session_has_one_claim(opener: MetaOpener) {
    let meta = opener.open().await;
    let record = record("a");
    let claim_or_renew = |from, writer: &str, seconds, renews| Change::ClaimUpload {
        id: record.id.clone(),
        from,
        writer: writer.to_owned(),
        seconds,
        renews,
    };
    let claim = |from, writer: &str, seconds| claim_or_renew(from, writer, seconds, false);
    let save = |from, writer: Option<&str>, keeps_claim| Change::SaveUpload {
        id: record.id.clone(),
        from,
        state: StagedState { offset: from + 1, ..state() },
        writer: writer.map(str::to_owned),
        keeps_claim,
    };
    let end =
        |writer: Option<&str>| Change::EndUpload { id: record.id.clone(), writer: writer.map(str::to_owned) };
    let expire = || Change::ExpireUpload { id: record.id.clone(), before: FUTURE };
    fails(meta.write(claim(0, "one", 600)).await, &[ErrorKind::UploadUnknown]);
    meta.write(Change::StartUpload { record: record.clone(), resends: None }).await.unwrap();
    fails(meta.write(claim(7, "one", 600)).await, &[ErrorKind::RangeInvalid]);
    // Its holder prolongs it; nobody else gets it, saves by it, or ends the session.
    for _ in 0..2 {
        meta.write(claim(0, "one", 600)).await.unwrap();
        let error = meta.write(claim(0, "two", 600)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.retry_after().is_some_and(|left| (500..=600).contains(&left.as_secs())), "{error}");
        fails(meta.write(save(0, Some("two"), false)).await, &[ErrorKind::Unavailable]);
        fails(meta.write(end(None)).await, &[ErrorKind::Unavailable]);
        fails(meta.write(end(Some("two"))).await, &[ErrorKind::Unavailable]);
        assert_eq!(meta.write(expire()).await.unwrap(), 1, "a claimed session expired");
        let release = Change::ReleaseUpload { id: record.id.clone(), writer: "two".to_owned() };
        meta.write(release).await.unwrap();
    }
    // A save ends it, or keeps it.
    meta.write(save(0, Some("one"), true)).await.unwrap();
    fails(meta.write(claim(1, "two", 600)).await, &[ErrorKind::Unavailable]);
    // One that needs no claim is as before.
    meta.write(save(1, None, false)).await.unwrap();
    meta.write(save(2, Some("one"), false)).await.unwrap();
    fails(meta.write(save(3, Some("one"), false)).await, &[ErrorKind::Unavailable]);
    meta.write(claim(3, "two", 600)).await.unwrap();
    let release = Change::ReleaseUpload { id: record.id.clone(), writer: "two".to_owned() };
    meta.write(release).await.unwrap();
    fails(meta.write(save(3, Some("two"), false)).await, &[ErrorKind::Unavailable]);
    // One whose time is over still saves, unless another one had the claim since.
    meta.write(claim(3, "one", -1)).await.unwrap();
    meta.write(save(3, Some("one"), false)).await.unwrap();
    meta.write(claim(4, "one", -1)).await.unwrap();
    meta.write(claim(4, "two", 600)).await.unwrap();
    fails(meta.write(save(4, Some("one"), false)).await, &[ErrorKind::Unavailable]);
    // Nor does it get the claim back by renewing it, when that of the other one is over, too.
    meta.write(claim_or_renew(4, "two", -1, true)).await.unwrap();
    fails(meta.write(claim_or_renew(4, "one", 600, true)).await, &[ErrorKind::Unavailable]);
    meta.write(end(Some("two"))).await.unwrap();
    assert!(meta.upload(&record.id).await.unwrap().is_none());
}

pub async fn a_link_ends_its_session(opener: MetaOpener) {
    let meta = opener.open().await;
    let [one, two] = ["a", "a"].map(record);
    for record in [&one, &two] {
        meta.write(Change::StartUpload { record: record.clone(), resends: None }).await.unwrap();
    }
    let link = Change::LinkBlob {
        repository: one.repository.clone(),
        digest: digest("x"),
        size: 5,
        key: BlobKey::Digest(digest("x")),
        upload: Some(one.id.clone()),
        leased_until: 0,
    };
    meta.write(link).await.unwrap();
    assert!(meta.upload(&one.id).await.unwrap().is_none());
    assert!(meta.upload(&two.id).await.unwrap().is_some());
}

pub async fn a_link_of_an_ended_session_is_rejected(opener: MetaOpener) {
    let meta = opener.open().await;
    let record = record("a");
    let link = || Change::LinkBlob {
        repository: record.repository.clone(),
        digest: digest("x"),
        size: 5,
        key: BlobKey::Digest(digest("x")),
        upload: Some(record.id.clone()),
        leased_until: 0,
    };
    fails(meta.write(link()).await, &[ErrorKind::UploadUnknown]);
    meta.write(Change::StartUpload { record: record.clone(), resends: None }).await.unwrap();
    meta.write(Change::EndUpload { id: record.id.clone(), writer: None }).await.unwrap();
    fails(meta.write(link()).await, &[ErrorKind::UploadUnknown]);
    assert!(meta.blob(&record.repository, &digest("x")).await.unwrap().is_none(), "the blob was linked");
}

pub async fn stale_sessions_are_listed(opener: MetaOpener) {
    let meta = opener.open().await;
    let record = record("a");
    meta.write(Change::StartUpload { record: record.clone(), resends: None }).await.unwrap();
    assert_eq!(meta.stale_uploads(FUTURE).await.unwrap(), std::slice::from_ref(&record.id));
    assert!(meta.stale_uploads(0).await.unwrap().is_empty(), "it was started after 1970");
    meta.write(Change::EndUpload { id: record.id, writer: None }).await.unwrap();
    assert!(meta.stale_uploads(FUTURE).await.unwrap().is_empty());
}

pub async fn only_stale_sessions_expire(opener: MetaOpener) {
    let meta = opener.open().await;
    let record = record("a");
    meta.write(Change::StartUpload { record: record.clone(), resends: None }).await.unwrap();
    let expire = |before| Change::ExpireUpload { id: record.id.clone(), before };
    assert_eq!(meta.write(expire(0)).await.unwrap(), 1, "the session was kept");
    assert!(meta.upload(&record.id).await.unwrap().is_some());
    for _ in 0..2 {
        assert_eq!(meta.write(expire(FUTURE)).await.unwrap(), 0);
        assert!(meta.upload(&record.id).await.unwrap().is_none());
    }
}
