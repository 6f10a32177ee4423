//! By which configuration a database was made.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::StoreError;
use super::derived::GroupName;
use super::open::open_blocking_reader;
use crate::analytics::Rules;

/// The groups of derived tables of a database that were not made by these rules, or are being made anew. Blocks.
///
/// # Errors
/// Where the database cannot be read.
pub fn differing_groups(database: &Path, rules: &Rules) -> Result<Vec<String>, StoreError> {
    let connection = open_blocking_reader(database)?;
    let mut differing = Vec::new();
    for group in GroupName::all(rules) {
        if made_by(&connection, &group)?.is_none_or(|found| found != group.fingerprint(rules)) {
            differing.push(group.name());
        }
    }
    Ok(differing)
}

/// What of a database a writer with these rules would take away or make otherwise: funnels and numbers that they do not
/// define, groups whose rules are others. Blocks.
///
/// # Errors
/// Where the database cannot be read.
pub fn undone_by(database: &Path, rules: &Rules) -> Result<Vec<String>, StoreError> {
    let connection = open_blocking_reader(database)?;
    let mut undone = Vec::new();
    let mut select = connection.prepare("SELECT name FROM funnels ORDER BY name")?;
    for name in select.query_map([], |row| row.get::<_, String>(0))? {
        let name = name?;
        if !rules.funnels.iter().any(|funnel| funnel.name == name) {
            undone.push(format!("funnel {name:?}"));
        }
    }
    let mut select = connection.prepare("SELECT widget_id, metric_key FROM dashboard_metrics ORDER BY 1, 2")?;
    for number in select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))? {
        let (id, key) = number?;
        if !rules.dashboards.widgets.iter().any(|widget| widget.id == id && widget.metrics.contains_key(&key)) {
            undone.push(format!("number {key:?} of widget {id:?}"));
        }
    }
    for group in GroupName::all(rules) {
        if made_by(&connection, &group)?.is_some_and(|found| found != group.fingerprint(rules)) {
            undone.push(group.name());
        }
    }
    Ok(undone)
}

/// By what a group was made; none where it is not there, or is being made anew.
fn made_by(connection: &Connection, group: &GroupName) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT fingerprint FROM _groups WHERE name = ?1 AND build IS NULL";
    connection.prepare_cached(sql)?.query_row([group.name()], |row| row.get(0)).optional()
}
