//! The table of the language: every row of docs/conformance.md names tests, and they exist.

use crate::repository;
use std::path::Path;

const TABLE: &str = "docs/conformance.md";

/// Checks the table.
pub(super) fn check(breaches: &mut Vec<String>) {
    let path = repository::root().join(TABLE);
    let Ok(text) = std::fs::read_to_string(&path) else {
        breaches.push(format!("{TABLE}: cannot be read"));
        return;
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| # "));
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').splitn(3, " | ").collect();
        let [number, _, tests] = cells.as_slice() else {
            breaches.push(format!("{TABLE}: a row has not three cells: {row}"));
            continue;
        };
        let (number, mut found) = (number.trim(), 0);
        // `name`, `name` in [file](path); …
        for part in tests.split(';').filter(|part| part.contains("](")) {
            let Some((names, link)) = part.split_once(" in [") else { continue };
            let target =
                link.split_once("](").and_then(|(_, rest)| rest.split_once(')')).map(|(path, _)| path);
            let source = target.and_then(|target| std::fs::read_to_string(folder.join(target)).ok());
            let Some(source) = source else {
                breaches.push(format!("{TABLE}: row {number} links to a file that is not there: {part}"));
                continue;
            };
            for name in names.split('`').skip(1).step_by(2) {
                found += 1;
                if !source.contains(&format!("fn {name}(")) {
                    breaches.push(format!(
                        "{TABLE}: row {number} names `{name}`, which {} lacks",
                        target.unwrap_or("")
                    ));
                }
            }
        }
        if found == 0 {
            breaches.push(format!("{TABLE}: row {number} names no test"));
        }
    }
}
