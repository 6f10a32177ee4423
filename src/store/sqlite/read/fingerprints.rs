//! The configuration that made the groups of a database.

use rusqlite::{Connection, Transaction};

use crate::analytics::{Rules, fingerprints};

/// A group as the database records it.
struct Made {
    name: String,
    fingerprint: String,
    /// False while the group is being rebuilt by the rules of its fingerprint.
    is_ready: bool,
}

/// Returns the groups of derived tables that these rules did not make, or that are being rebuilt.
pub(super) fn differing_groups(tx: &Transaction<'_>, rules: &Rules) -> rusqlite::Result<Vec<String>> {
    let made = made(tx)?;
    let mut differing = others(&made, rules);
    for name in fingerprints(rules).into_keys() {
        if !made.iter().any(|made| made.name == name && made.is_ready) {
            differing.push(name);
        }
    }
    differing.sort();
    differing.dedup();
    Ok(differing)
}

/// Returns what a writer with these rules would delete or rebuild: groups that these rules do not have or define
/// otherwise, and numbers of widgets that these rules do not have.
pub(super) fn undone_by(tx: &Transaction<'_>, rules: &Rules) -> rusqlite::Result<Vec<String>> {
    let mut undone = others(&made(tx)?, rules);
    let mut select = tx.prepare("SELECT widget_id, metric_key FROM dashboard_metrics ORDER BY 1, 2")?;
    for number in select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))? {
        let (id, key) = number?;
        if !rules.dashboards.widgets.iter().any(|widget| widget.id == id && widget.metrics.contains_key(&key)) {
            undone.push(format!("number {key:?} of widget {id:?}"));
        }
    }
    Ok(undone)
}

/// Returns the groups that the rules do not have or define otherwise.
fn others(made: &[Made], rules: &Rules) -> Vec<String> {
    let fingerprints = fingerprints(rules);
    let is_other =
        |made: &&Made| fingerprints.get(&made.name).is_none_or(|fingerprint| *fingerprint != made.fingerprint);
    made.iter().filter(is_other).map(|made| made.name.clone()).collect()
}

fn made(connection: &Connection) -> rusqlite::Result<Vec<Made>> {
    let mut select = connection.prepare("SELECT name, fingerprint, rebuild IS NULL FROM _groups ORDER BY name")?;
    let made =
        select.query_map([], |row| Ok(Made { name: row.get(0)?, fingerprint: row.get(1)?, is_ready: row.get(2)? }))?;
    made.collect()
}
