//! Counts of what is there, in pieces beside changes.

use super::*;

/// Counts a piece. Returns whether more is left.
async fn count(meta: &dyn MetaBackend, namespace: &str, rows: u64) -> bool {
    let namespace = QuotaNamespace::parse(namespace).unwrap();
    meta.write(Change::CountNamespace { namespace, rows }).await.unwrap() > 0
}

/// Counts namespaces in small pieces beside changes, on whichever server. What is counted so far is right after each change and
/// each piece, and what is counted whole is what the model has. Returns how often a namespace was seen while it was counted.
async fn is_counted_beside_changes(servers: &[Arc<dyn MetaBackend>], seed: u64, steps: usize) -> usize {
    let (mut dice, mut model) = (Dice(seed), Model::default());
    let mut halves = 0;
    // The first one keeps what it deletes.
    servers[0].set_undelete_window(3600).unwrap();
    for number in 0..steps {
        let at = dice.roll(servers.len() as u64) as usize;
        let (server, step) = (&*servers[at], step(&mut dice));
        let next = model.after(&step, at == 0);
        assert_eq!(make(server, &step).await.unwrap(), next.is_some(), "{number}: {step:?}");
        model = next.unwrap_or(model);
        if number > steps / 2 && dice.roll(2) == 0 {
            count(server, dice.pick(&NAMESPACES), 1 + dice.roll(3)).await;
        }
        are_right(server).await;
        for one in server.quota_use().await.unwrap() {
            let is_whole = one.counting.is_none();
            halves += usize::from(!is_whole);
            let of_model = model.used(&one.namespace.to_string());
            assert!(!is_whole || one.used == Some(of_model), "{number}: {step:?} {one:?} {of_model:?}");
        }
    }
    for namespace in NAMESPACES {
        while count(&*servers[0], namespace, 2).await {}
    }
    are_right(&*servers[0]).await;
    let uses = servers[0].quota_use().await.unwrap();
    assert_eq!(uses.len(), NAMESPACES.len());
    for one in uses {
        assert_eq!((one.counting, one.used), (None, Some(model.used(&one.namespace.to_string()))));
    }
    halves
}

#[tokio::test]
async fn memory_is_counted_beside_changes() {
    for seed in 1..20 {
        let servers: [Arc<dyn MetaBackend>; 1] = [Arc::new(meta::MemoryMeta::default())];
        is_counted_beside_changes(&servers, seed * 97, 300).await;
    }
}

#[tokio::test]
async fn sqlite_is_counted_beside_changes() {
    for seed in 1..13 {
        let folder = tempfile::tempdir().unwrap();
        let halves = is_counted_beside_changes(&sqlite(folder.path()).await, seed * 97, 160).await;
        assert!(halves > 80, "only {halves} looks found a count that went on");
    }
}

#[cfg(feature = "store-postgres")]
#[tokio::test]
async fn postgres_is_counted_beside_changes() {
    for seed in 1..5 {
        let Some(servers) = super::postgres::servers(&format!("quotas_pieces_{seed}")).await else { return };
        let halves = is_counted_beside_changes(&servers, seed * 1009, 160).await;
        assert!(halves > 80, "only {halves} looks found a count that went on");
    }
}

fn bytes_of(rules: &[(&str, u64)]) -> Arc<QuotaRules> {
    let rule = |(text, bytes): &(&str, u64)| {
        let limits = QuotaLimits { bytes: Some(*bytes), tags: None, manifests: None };
        QuotaRule { namespace: QuotaNamespace::parse(text).unwrap(), limits }
    };
    Arc::new(QuotaRules::new(rules.iter().map(rule).collect()).unwrap())
}

/// A large namespace is counted neither by a push nor at once: until then its limit holds for what is counted.
#[tokio::test]
async fn a_large_namespace_is_used_while_it_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let [meta, other] = sqlite(folder.path()).await;
    let size = |blobs: u64| 7 * blobs * (blobs - 1) / 2;
    for blob in 0..400 {
        make(&*meta, &Step::Link { to: "team/a", blob }).await.unwrap();
    }
    assert!(!meta.is_counting().await.unwrap());
    meta.set_quotas(bytes_of(&[("team", size(300))])).unwrap();
    let team = async || meta.quota_use().await.unwrap().remove(0);
    make(&*meta, &Step::Link { to: "team/b", blob: 3 }).await.unwrap();
    let first = team().await;
    // Half of one of the two repositories, of which links are the first third.
    assert!(first.counting.is_some_and(|done| (5..12).contains(&done)), "{first:?}");
    assert!(first.used.unwrap().bytes < size(300), "{first:?}");
    assert!(other.is_counting().await.unwrap());
    // What is deleted behind the count and before it.
    for blob in [1, 399] {
        make(&*other, &Step::Unlink { from: "team/a", blob }).await.unwrap();
    }
    assert_eq!(team().await.used.unwrap().bytes, first.used.unwrap().bytes - 7);
    while team().await.used.unwrap().bytes <= size(300) {
        assert!(count(&*other, "team", 30).await);
    }
    assert!(team().await.counting.is_some());
    let refused = make(&*meta, &Step::Link { to: "team/b", blob: 500 }).await.unwrap_err();
    assert!(is_quota_exceeded(&refused), "{refused}");
    are_right(&*meta).await;
    while count(&*meta, "team", 30).await {}
    let counted = team().await;
    assert_eq!((counted.counting, counted.used.unwrap().bytes), (None, size(400) - 7 - 399 * 7));
    assert!(!other.is_counting().await.unwrap());
    are_right(&*meta).await;
}

/// A namespace that cannot be counted keeps nobody from deleting, nor from pushing elsewhere.
#[tokio::test]
async fn a_count_that_fails_fails_nothing_else() {
    use sqlx::ConnectOptions as _;
    let folder = tempfile::tempdir().unwrap();
    let [meta, _] = sqlite(folder.path()).await;
    for blob in 0..5 {
        make(&*meta, &Step::Link { to: "team/a", blob }).await.unwrap();
    }
    let path = folder.path().join("hyper.db");
    let mut connection = sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    let fault = "CREATE TRIGGER fault BEFORE INSERT ON quota_blobs WHEN NEW.blob_id = 3 BEGIN SELECT RAISE(ABORT, 'a fault'); END";
    // The third one is the blob 2.
    sqlx::raw_sql(fault).execute(&mut connection).await.unwrap();
    meta.set_quotas(bytes_of(&[("team", 1000), ("other", 1000)])).unwrap();
    let namespace = QuotaNamespace::parse("team").unwrap();
    let piece = Change::CountNamespace { namespace, rows: 100 };
    assert!(!is_quota_exceeded(&meta.write(piece).await.unwrap_err()));
    make(&*meta, &Step::Link { to: "team/b", blob: 9 }).await.unwrap_err();
    assert!(make(&*meta, &Step::Link { to: "other", blob: 9 }).await.unwrap());
    for blob in [1, 2] {
        assert!(make(&*meta, &Step::Unlink { from: "team/a", blob }).await.unwrap());
    }
    while count(&*meta, "team", 100).await {}
    make(&*meta, &Step::Link { to: "team/b", blob: 9 }).await.unwrap();
    are_right(&*meta).await;
    assert_eq!(meta.quota_use().await.unwrap().len(), 2);
}

async fn forget(meta: &dyn MetaBackend) {
    let mut after = 0;
    loop {
        after = meta.write(Change::ForgetNamespaces { after }).await.unwrap();
        if after == 0 {
            return;
        }
    }
}

/// A namespace of many repositories that have nothing any more is no way around its limit.
#[tokio::test]
async fn a_namespace_of_many_empty_repositories_keeps_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let [meta, _] = sqlite(folder.path()).await;
    meta.set_quotas(bytes_of(&[("*", 40)])).unwrap();
    let (digest, size) = blob_of(1);
    for number in 0..260 {
        let repository = name(&format!("me/r{number:03}"));
        let (key, digest) = (blob::BlobKey::Digest(digest.clone()), digest.clone());
        let link = Change::LinkBlob {
            repository: repository.clone(),
            digest: digest.clone(),
            size,
            key,
            upload: None,
            leased_until: 0,
        };
        meta.write(link).await.unwrap();
        meta.write(Change::UnlinkBlob { repository, digest }).await.unwrap();
    }
    forget(&*meta).await;
    let link = |blob: u64| {
        let (digest, size) = blob_of(blob);
        let key = blob::BlobKey::Digest(digest.clone());
        Change::LinkBlob { repository: name("me/zz"), digest, size, key, upload: None, leased_until: 0 }
    };
    for blob in [2, 3] {
        meta.write(link(blob)).await.unwrap();
    }
    assert!(is_quota_exceeded(&meta.write(link(4)).await.unwrap_err()));
    are_right(&*meta).await;
}

/// Names that clients make up leave no rows, and the rows of what is gone go.
#[tokio::test]
async fn rows_are_there_for_what_has_content() {
    let folder = tempfile::tempdir().unwrap();
    let memory: Arc<dyn MetaBackend> = Arc::new(meta::MemoryMeta::default());
    let [meta, _] = sqlite(folder.path()).await;
    meta.set_quotas(bytes_of(&[("*", 20)])).unwrap();
    for to in ["team", "other", "team-x"] {
        let refused = make(&*meta, &Step::Link { to, blob: 5 }).await.unwrap_err();
        assert!(is_quota_exceeded(&refused));
    }
    let names = async |meta: &dyn MetaBackend| {
        let uses = meta.quota_use().await.unwrap();
        uses.iter().map(|one| one.namespace.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&*meta).await, ["*"]);
    for meta in [meta, memory] {
        meta.set_quotas(bytes_of(&[("*", 20), ("team-x", 20)])).unwrap();
        count(&*meta, "team-x", 100).await;
        for namespace in ["team", "other"] {
            count(&*meta, namespace, 100).await;
        }
        make(&*meta, &Step::Link { to: "team/a", blob: 1 }).await.unwrap();
        // It has no bytes, and is there.
        make(&*meta, &Step::Link { to: "other", blob: 0 }).await.unwrap();
        forget(&*meta).await;
        assert_eq!(names(&*meta).await, ["*", "other", "team", "team-x"]);
        make(&*meta, &Step::Unlink { from: "team/a", blob: 1 }).await.unwrap();
        forget(&*meta).await;
        assert_eq!(names(&*meta).await, ["*", "other", "team-x"]);
        are_right(&*meta).await;
        make(&*meta, &Step::Link { to: "team/a", blob: 2 }).await.unwrap();
        let uses = meta.quota_use().await.unwrap();
        let team = uses.iter().find(|one| one.namespace.to_string() == "team");
        if let Some(team) = team {
            assert_eq!((team.used.unwrap().bytes, team.counting), (14, None));
        }
        are_right(&*meta).await;
    }
}

/// A row of before that belongs to no namespace after a repair goes, and is not taken for one of another namespace.
#[tokio::test]
async fn a_repair_leaves_no_rows_behind() {
    use sqlx::ConnectOptions as _;
    let folder = tempfile::tempdir().unwrap();
    let [meta, _] = sqlite(folder.path()).await;
    count(&*meta, "**", 1).await;
    for step in [Step::Link { to: "team", blob: 3 }, Step::Put { to: "team", manifest: 2, tags: vec![1] }] {
        make(&*meta, &step).await.unwrap();
    }
    let path = folder.path().join("hyper.db");
    let mut connection = sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::raw_sql("UPDATE quotas SET bytes = 1").execute(&mut connection).await.unwrap();
    assert!(!meta.check_quotas(true).await.unwrap()[0].is_right());
    are_right(&*meta).await;
    let rows = "SELECT (SELECT COUNT(*) FROM quota_blobs) * 10 + (SELECT COUNT(*) FROM quota_manifests)";
    let rows: i64 = sqlx::query_scalar(rows).fetch_one(&mut connection).await.unwrap();
    assert_eq!(rows, 11);
}
