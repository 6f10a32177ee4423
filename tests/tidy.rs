use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::support::{files_under, root};

const MAX_FILE_LINES: usize = 400;
const MAX_STORE_ROOMS: usize = 12;
const MAX_CHAIN_LINES: usize = 150;

/// The rooms of `src`, from the ground up: each room uses only rooms before it.
const SRC_ORDER: &[&str] = &[
    "clock",
    "model",
    "position",
    "analytics",
    "judge",
    "config",
    "store",
    "nats",
    "telemetry",
    "pipeline",
    "http",
    "rebuild",
    "app",
    "cli",
    "main",
];
/// The rooms of `src/store`, in the same kind of order.
const STORE_ORDER: &[&str] = &[
    "error",
    "receipt",
    "notice",
    "sqlite",
    "writer",
    "commit",
    "group_rebuilds",
    "shadow",
    "requests",
    "thread",
    "ask",
];
/// The rooms of `src/store/sqlite`, in the same kind of order.
const SQLITE_ORDER: &[&str] =
    &["schema", "values", "blocking", "file", "ledger", "raw", "derived", "rebuild", "read", "write"];

/// Returns a path of the project. Panics if it does not exist: a check on a missing path would check nothing.
fn existing(path: &str) -> PathBuf {
    assert!(root().join(path).exists(), "{path} does not exist");
    path.into()
}

/// A line of code: its place, and its text.
struct Line {
    at: String,
    text: String,
}

/// Returns the lines of a source file that are code of the program, without comments and tests.
fn code(path: &Path, text: &str) -> Vec<Line> {
    let is_test_file = path.file_name().is_some_and(|name| name == "tests.rs");
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code.lines().enumerate().filter(|(_, line)| !is_test_file && !line.trim_start().starts_with("//"));
    lines.map(|(at, line)| Line { at: format!("{}:{}", path.display(), at + 1), text: line.to_owned() }).collect()
}

/// Returns the lines of code that contain one of the words, in files where the words are not allowed.
fn offenders(words: &[&str], is_allowed: impl Fn(&Path) -> bool) -> Vec<String> {
    let files = files_under("src").into_iter().filter(|(path, _)| !is_allowed(path));
    let lines = files.flat_map(|(path, text)| code(&path, &text));
    let lines = lines.filter(|line| words.iter().any(|word| line.text.contains(word)));
    lines.map(|line| format!("{}: {}", line.at, line.text.trim())).collect()
}

/// Returns a function that tells whether a file is one of these paths, or lies in one of them.
fn is_within(paths: &[&str]) -> impl Fn(&Path) -> bool {
    let paths: Vec<PathBuf> = paths.iter().map(|path| existing(path)).collect();
    move |path: &Path| paths.iter().any(|allowed| path.starts_with(allowed))
}

fn none() -> Vec<String> {
    Vec::new()
}

#[test]
fn only_src_nats_names_async_nats() {
    // main.rs names it as a log target.
    assert_eq!(offenders(&["async_nats"], is_within(&["src/nats", "src/main.rs"])), none());
}

#[test]
fn only_src_store_names_a_sql_library() {
    assert_eq!(offenders(&["rusqlite"], is_within(&["src/store"])), none());
    // Library users read the model with sqlx, without a store.
    assert_eq!(offenders(&["sqlx"], is_within(&["src/store", "src/model"])), none());
}

#[test]
fn only_src_store_sqlite_holds_sql() {
    let sql = ["SELECT ", "INSERT ", "UPDATE ", "DELETE FROM", "PRAGMA ", "rusqlite", "sqlx::"];
    let allowed = is_within(&["src/store/sqlite", "src/model"]);
    assert_eq!(offenders(&sql, allowed), none());
}

#[test]
fn only_the_writer_begins_and_commits() {
    // Methods of `Tx` begin and commit a transaction. Whoever calls them holds a writer.
    let begins = ["TransactionBehavior", "BEGIN"];
    assert_eq!(offenders(&begins, is_within(&["src/store/sqlite/file/database.rs"])), none());
    let commits = [".commit()"];
    let writers = [
        "src/store/sqlite/file/database.rs",
        "src/store/sqlite/write.rs",
        "src/store/writer.rs",
        "src/store/commit",
        "src/store/requests.rs",
        "src/store/group_rebuilds.rs",
        "src/store/shadow.rs",
    ];
    assert_eq!(offenders(&commits, is_within(&writers)), none());
}

#[test]
fn sql_stays_plain() {
    let words = ["rowid", "changes()", "OR REPLACE", "json_", "strftime", "datetime("];
    let is_store = is_within(&["src/store"]);
    assert_eq!(offenders(&words, |path| !is_store(path)), none());
}

#[test]
fn only_the_clock_reads_the_clock() {
    let words = ["Utc::now", "SystemTime", "now_v7", "new_v4"];
    assert_eq!(offenders(&words, is_within(&["src/clock.rs"])), none());
}

#[test]
fn rules_know_no_io() {
    let words = ["std::fs", "std::net", "std::env", "std::process", "std::thread", "tokio", "async ", "rusqlite"];
    let is_pure = is_within(&["src/model", "src/analytics", "src/judge", "src/position.rs"]);
    assert_eq!(offenders(&words, |path| !is_pure(path)), none());
}

#[test]
fn files_stay_readable() {
    let files = files_under("src").into_iter().chain(files_under("tests"));
    let long = files.filter(|(_, text)| text.lines().count() > MAX_FILE_LINES);
    let long: Vec<_> = long.map(|(path, text)| format!("{} has {}", path.display(), text.lines().count())).collect();
    assert_eq!(long, none());
    let chain = std::fs::read_to_string(root().join(existing("src/pipeline/mod.rs"))).unwrap();
    assert!(chain.lines().count() <= MAX_CHAIN_LINES, "the chain has {} lines", chain.lines().count());
}

/// One word for one thing: no two types share a name.
#[test]
fn no_two_types_have_one_name() {
    // Every command has its own `Args` and `Action`. A raw configuration type has the name of its checked type.
    let (of_commands, may_be_written) = (["Args", "Action"], existing("src/config/raw.rs"));
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in files_under("src").into_iter().filter(|(path, _)| *path != may_be_written) {
        for line in code(&path, &text) {
            // Associated types are indented.
            let Some(name) = type_name(&line.text).filter(|name| !of_commands.contains(&name.as_str())) else {
                continue;
            };
            places.entry(name).or_default().push(line.at);
        }
    }
    assert!(places.len() > 200);
    places.retain(|_, places| places.len() > 1);
    assert!(places.is_empty(), "{places:#?}");
}

fn type_name(line: &str) -> Option<String> {
    if line.starts_with(' ') {
        return None;
    }
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.strip_prefix(' ')?,
        None => line,
    };
    let rest = ["struct ", "enum ", "trait ", "type "].iter().find_map(|word| line.strip_prefix(word))?;
    Some(rest.split(|c: char| !c.is_alphanumeric()).next()?.to_owned())
}

/// Returns the modules and items of the crate that a source file uses, as paths from `src`, such as
/// `store/sqlite/values/to_sql`.
fn uses(path: &Path, text: &str) -> BTreeSet<PathBuf> {
    let own = path.strip_prefix("src").unwrap().with_extension("");
    let module = if own.ends_with("mod") { own.parent().unwrap().to_owned() } else { own };
    let code: String = code(path, text).into_iter().map(|line| line.text + "\n").collect();
    let mut uses = BTreeSet::new();
    for (start, _) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        let is_part_of_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        if code[..start].chars().next_back().is_some_and(is_part_of_word) {
            continue;
        }
        let end = code[start..].find(|c: char| !is_part_of_word(c)).map_or(code.len(), |end| start + end);
        let (head, tail) = (code[start..end].trim_end_matches(':'), &code[end..]);
        let mut base = if head.starts_with("crate") { PathBuf::new() } else { module.clone() };
        for segment in head.split("::") {
            match segment {
                "crate" => {}
                "super" => drop(base.pop()),
                name => base.push(name),
            }
        }
        // In `use a::{b, c::d}`, the items in braces belong to `a`.
        match tail.strip_prefix('{').filter(|_| code[start..end].ends_with("::")) {
            Some(rest) => {
                let list = rest.split('}').next().unwrap();
                let items = list.split(',').map(|item| item.trim().replace("::", "/").replace('{', ""));
                uses.extend(items.filter(|item| !item.is_empty()).map(|item| base.join(item)));
            }
            None => drop(uses.insert(base)),
        }
    }
    uses
}

/// Returns the arrows between the children of a folder: which child uses which, and in which files. The folder's
/// `mod.rs` is not a child.
fn arrows(folder: &str) -> BTreeMap<(String, String), BTreeSet<PathBuf>> {
    let within = existing(folder).strip_prefix("src").unwrap().to_owned();
    let child = |path: &Path| {
        let name = path.strip_prefix(&within).ok()?.components().next()?;
        Some(name.as_os_str().to_str()?.trim_end_matches(".rs").to_owned())
    };
    let children: BTreeSet<String> = std::fs::read_dir(root().join(folder))
        .unwrap()
        .filter_map(|entry| child(&within.join(entry.unwrap().file_name())))
        .filter(|name| !["mod", "lib", "tests"].contains(&name.as_str()))
        .collect();
    let mut arrows: BTreeMap<_, BTreeSet<PathBuf>> = BTreeMap::new();
    for (path, text) in files_under(folder) {
        let Some(from) = child(path.strip_prefix("src").unwrap()).filter(|from| children.contains(from)) else {
            continue;
        };
        for to in uses(&path, &text).iter().filter_map(|used| child(used)) {
            if to != from && children.contains(&to) {
                arrows.entry((from.clone(), to)).or_default().insert(path.clone());
            }
        }
    }
    arrows
}

fn folders_under(folder: &str) -> Vec<String> {
    let files = files_under(folder);
    let folders: BTreeSet<&Path> = files.iter().flat_map(|(path, _)| path.ancestors().skip(1)).collect();
    folders.into_iter().filter(|path| path.starts_with("src")).map(|path| path.display().to_string()).collect()
}

#[test]
fn no_circle_anywhere() {
    let folders = folders_under("src");
    assert!(folders.len() > 20);
    for folder in folders {
        let arrows = arrows(&folder);
        let mut rooms: BTreeSet<&String> = arrows.keys().flat_map(|(from, to)| [from, to]).collect();
        // A room that uses none of the remaining rooms cannot be part of a circle.
        while let Some(free) =
            rooms.iter().copied().find(|room| !arrows.keys().any(|(from, to)| from == *room && rooms.contains(to)))
        {
            rooms.remove(free);
        }
        let left: Vec<_> = arrows.iter().filter(|((from, to), _)| rooms.contains(from) && rooms.contains(to)).collect();
        assert!(left.is_empty(), "{folder} has a circle: {left:#?}");
    }
}

#[test]
fn rooms_stand_in_their_order() {
    for (folder, order) in [("src", SRC_ORDER), ("src/store", STORE_ORDER), ("src/store/sqlite", SQLITE_ORDER)] {
        // Counted with `mod.rs`.
        assert!(folder == "src" || order.len() < MAX_STORE_ROOMS, "{folder} has {} rooms", order.len() + 1);
        let is_root = |room: &String| room == "mod" || room == "lib";
        let rooms: BTreeSet<String> = std::fs::read_dir(root().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .filter(|room| !is_root(room))
            .collect();
        assert_eq!(
            rooms,
            order.iter().map(|room| (*room).to_owned()).collect(),
            "the rooms of {folder}, and their order"
        );
        let floor = |room: &String| order.iter().position(|name| name == room);
        for ((from, to), files) in arrows(folder) {
            let (Some(above), Some(below)) = (floor(&from), floor(&to)) else {
                panic!("{folder}: {from} and {to} must both stand in the order");
            };
            assert!(above > below, "{folder}: {from} uses {to}, against the order, in {files:?}");
        }
    }
}
