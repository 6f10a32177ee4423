use std::path::{Path, PathBuf};

const MAX_FILE_LINES: usize = 400;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_under(folder: &str) -> Vec<(PathBuf, String)> {
    let mut folders = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!files.is_empty());
    files
}

/// Lines outside comments that contain one of the words, in files that may not.
fn offenders(words: &[&str], is_allowed: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files_under("src").into_iter().filter(|(path, _)| !is_allowed(path)) {
        for (at, line) in text.lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            if !is_comment && words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{}: {}", path.display(), at + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn only_src_nats_names_async_nats() {
    // main.rs names it as a log target.
    let allowed = |path: &Path| path.starts_with("src/nats") || path == Path::new("src/main.rs");
    assert_eq!(offenders(&["async_nats"], allowed), Vec::<String>::new());
}

#[test]
fn only_src_store_holds_sql() {
    let sql = ["SELECT ", "INSERT ", "UPDATE ", "DELETE FROM", "PRAGMA ", "rusqlite", "sqlx::query"];
    assert_eq!(offenders(&sql, |path| path.starts_with("src/store")), Vec::<String>::new());
}

#[test]
fn only_the_writer_begins_and_commits() {
    let words = [".commit()", "TransactionBehavior", "BEGIN"];
    assert_eq!(offenders(&words, |path| path.starts_with("src/store/writer")), Vec::<String>::new());
}

#[test]
fn sql_stays_plain() {
    let words = ["rowid", "changes()", "OR REPLACE", "json_", "strftime", "datetime("];
    assert_eq!(offenders(&words, |path| !path.starts_with("src/store")), Vec::<String>::new());
}

#[test]
fn only_the_clock_reads_the_clock() {
    let words = ["Utc::now", "SystemTime", "now_v7", "new_v4"];
    assert_eq!(offenders(&words, |path| path == Path::new("src/clock.rs")), Vec::<String>::new());
}

#[test]
fn files_stay_readable() {
    let long: Vec<_> = files_under("src")
        .into_iter()
        .chain(files_under("tests"))
        .filter(|(_, text)| text.lines().count() > MAX_FILE_LINES)
        .map(|(path, text)| format!("{} has {} lines", path.display(), text.lines().count()))
        .collect();
    assert_eq!(long, Vec::<String>::new());
}
