//! Tests of files that are read ahead.

use super::super::planned_entry::Content;
use super::super::reading::for_each;
use super::*;
use std::os::unix::fs::FileExt as _;

/// What is given for each entry: its path, and the content when the file was read ahead.
fn read(plan: &Plan, threads: usize) -> Result<Vec<(String, Option<Vec<u8>>)>> {
    let mut all = Vec::new();
    for_each(&plan.entries, threads, |planned, small| {
        all.push((planned.entry.path.to_string(), small.map(|small| small.content.to_vec())));
        Ok(())
    })?;
    Ok(all)
}

/// A folder with 1000 small files, some that are empty or large, and their plan.
fn many() -> (tempfile::TempDir, Plan) {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..1000 {
        let size = [0, 1, 7, 511, 512, 4096, 32 << 10, (32 << 10) + 1][i % 8];
        let path = folder.path().join(format!("{}/{i:04}", i % 10));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, vec![i as u8; size]).unwrap();
    }
    let root = Arc::new(SourceRoot::open(folder.path(), SourceKind::Context, None).unwrap());
    let plan = plan(&root, &EmptyDestination, &CopySpec::new(["."], "/")).unwrap();
    (folder, plan)
}

fn layer(plan: &Plan) -> Result<Vec<u8>> {
    let mut writer = LayerWriter::new(Vec::new(), None);
    plan.write(&mut writer)?;
    Ok(writer.finish()?.0)
}

#[test]
fn entries_come_in_order_with_their_own_files_whatever_reads_them() {
    let (folder, plan) = many();
    let paths: Vec<_> = plan.entries().iter().map(|planned| planned.entry.path.to_string()).collect();
    for threads in [1, 2, 3, 7] {
        let all = read(&plan, threads).unwrap();
        assert_eq!(all.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), paths);
        let ahead: Vec<_> =
            all.iter().filter_map(|(path, content)| Some((path, content.as_ref()?))).collect();
        for (path, content) in &ahead {
            assert_eq!(**content, std::fs::read(folder.path().join(path)).unwrap(), "{path}");
            assert!(content.len() <= 32 << 10);
        }
        let expected = if threads == 1 { 0 } else { 875 };
        assert!(ahead.len() <= expected && (ahead.len() > 600) == (threads > 1), "{}", ahead.len());
    }
}

#[test]
fn the_layer_is_the_same_as_of_files_that_are_read_one_by_one() {
    let (folder, plan) = many();
    let mut writer = LayerWriter::new(Vec::new(), None);
    for planned in plan.entries() {
        match planned.content {
            Content::Source { root, file } => {
                let mut file = root.open_file(&file.path()).unwrap();
                writer.append(&planned.entry, Some(&mut file)).unwrap();
            }
            _ => writer.append(&planned.entry, None).unwrap(),
        }
    }
    assert!(layer(&plan).unwrap() == writer.finish().unwrap().0);
    drop(folder);
}

#[test]
fn a_small_file_that_changes_after_it_was_planned_is_an_error() {
    let (folder, plan) = many();
    let path = folder.path().join("5/0565");
    let size = std::fs::metadata(&path).unwrap().len();
    for (other, text) in [(size - 1, "shrank"), (size + 1, "grew"), (size + 9000, "grew"), (0, "shrank")] {
        std::fs::File::options().write(true).open(&path).unwrap().set_len(other).unwrap();
        let e = layer(&plan).unwrap_err();
        assert!(e.kind() == ErrorKind::Conflict && e.to_string().contains(text), "{e}");
        assert!(e.to_string().contains("5/0565"), "{e}");
    }
    std::fs::File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
    layer(&plan).unwrap();
    // The same size: who made the key finds out.
    std::fs::File::options().write(true).open(&path).unwrap().write_all_at(b"other", 0).unwrap();
    layer(&plan).unwrap();
    std::fs::remove_file(&path).unwrap();
    let e = layer(&plan).unwrap_err();
    assert!(e.to_string().contains("5/0565"), "{e}");
    symlink("0555", &path).unwrap();
    assert!(layer(&plan).is_err());
    std::fs::remove_file(&path).unwrap();
    let directory = std::fs::File::open(folder.path().join("5")).unwrap();
    rustix::fs::mknodat(&directory, "0565", rustix::fs::FileType::Fifo, 0o622.into(), 0).unwrap();
    assert_eq!(layer(&plan).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn nothing_is_read_after_the_writer_failed() {
    let (_folder, plan) = many();
    for last in [0, 1, 127, 128, 700, 1009] {
        let mut seen = 0;
        let result = for_each(&plan.entries, 3, |_, _| {
            seen += 1;
            if seen > last { Err(crate::Error::internal("full")) } else { Ok(()) }
        });
        assert!(result.is_err());
        assert_eq!(seen, last + 1);
    }
}
