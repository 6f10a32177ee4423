//! Which groups of derived tables are current, and which are being rebuilt.
//!
//! A group stores the fingerprint of the rules and of the configuration that made its rows. If that is not the
//! current fingerprint, the group is frozen: its rows stay as they are. It is rebuilt in a shadow file, together with
//! all groups that depend on it.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::analytics::{GroupName, GroupSet, Rules, with_dependents};
use crate::clock;

/// The beginning of the id of a rebuild that freezes nothing.
const CURRENT_PREFIX: &str = "current ";

/// A rebuild of groups in a shadow file, to be installed.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRebuild {
    /// The rebuild's name. A shadow file belongs to one rebuild, and is of no use to another.
    pub(in crate::store) id: String,
    /// The groups that are rebuilt.
    pub(in crate::store) groups: GroupSet,
    /// The rules of the rebuild.
    pub(in crate::store) rules: Rules,
}

impl GroupRebuild {
    /// Returns whether the rows stay as they are until the result is installed, because other rules made them. A
    /// rebuild that somebody asked for freezes nothing: the rules are the same.
    pub(in crate::store) fn freezes(&self) -> bool {
        !self.id.starts_with(CURRENT_PREFIX)
    }

    /// Returns the names of the groups.
    pub fn names(&self) -> Vec<String> {
        self.groups.iter().map(GroupName::name).collect()
    }
}

/// Freezes the groups that these rules did not make, and the groups that depend on them. Returns the rebuild that
/// makes them current. If that rebuild was begun already and nothing else has changed since, returns that one.
/// Returns `None` if all groups are current.
pub(in crate::store) fn freeze_changed(tx: &Transaction<'_>, rules: &Rules) -> rusqlite::Result<Option<GroupRebuild>> {
    let (mut changed, mut begun) = (GroupSet::new(), BTreeSet::new());
    let mut select = tx.prepare("SELECT fingerprint, rebuild FROM _groups WHERE name = ?1")?;
    for group in GroupName::all(rules) {
        let stored: Option<(String, Option<String>)> =
            select.query_row([group.name()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let (fingerprint, rebuild) = stored.unwrap_or_default();
        let is_current = fingerprint == group.fingerprint(rules);
        if !is_current || rebuild.is_some() {
            changed.insert(group);
            begun.insert(rebuild.filter(|_| is_current));
        }
    }
    if !changed.contains(&GroupName::Sessions) && !has_watermark(tx)? {
        changed.insert(GroupName::Sessions);
        begun.insert(None);
    }
    let groups = with_dependents(rules, changed.clone());
    if groups.is_empty() {
        return Ok(None);
    }
    if groups == changed
        && begun.len() == 1
        && let Some(Some(id)) = begun.pop_first()
    {
        return Ok(Some(GroupRebuild { id, groups, rules: rules.clone() }));
    }
    begin(tx, rules, groups).map(Some)
}

/// Returns whether there is a T, or no stored message that could give one.
fn has_watermark(tx: &Transaction<'_>) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM _watermark) OR NOT EXISTS (SELECT 1 FROM _positions WHERE stored > 0)";
    tx.query_row(sql, [], |row| row.get(0))
}

/// Begins a rebuild that freezes its groups.
fn begin(tx: &Transaction<'_>, rules: &Rules, groups: GroupSet) -> rusqlite::Result<GroupRebuild> {
    begin_as(tx, rules, groups, clock::new_id().to_string())
}

fn begin_as(tx: &Transaction<'_>, rules: &Rules, groups: GroupSet, id: String) -> rusqlite::Result<GroupRebuild> {
    let rebuild = GroupRebuild { id, groups, rules: rules.clone() };
    let sql = "INSERT INTO _groups (name, fingerprint, rebuild) VALUES (?1, ?2, ?3) \
               ON CONFLICT (name) DO UPDATE SET fingerprint = excluded.fingerprint, rebuild = excluded.rebuild";
    for group in &rebuild.groups {
        tx.execute(sql, params![group.name(), group.fingerprint(rules), rebuild.id])?;
    }
    Ok(rebuild)
}

/// Begins to rebuild these groups, and the groups that depend on them. Their rows stay as they are until the result
/// is installed.
pub(in crate::store) fn freeze(
    tx: &Transaction<'_>,
    rules: &Rules,
    groups: GroupSet,
) -> rusqlite::Result<GroupRebuild> {
    begin(tx, rules, with_dependents(rules, groups))
}

/// Begins to rebuild groups that are current, as far as is known, and the groups that depend on them. The groups keep
/// being updated until the result is installed.
pub(in crate::store) fn begin_current(
    tx: &Transaction<'_>,
    rules: &Rules,
    groups: GroupSet,
) -> rusqlite::Result<GroupRebuild> {
    begin_as(tx, rules, with_dependents(rules, groups), format!("{CURRENT_PREFIX}{}", clock::new_id()))
}

/// Marks the groups of an installed rebuild as current.
pub(in crate::store) fn thaw(tx: &Transaction<'_>, rebuild: &GroupRebuild) -> rusqlite::Result<()> {
    tx.execute("UPDATE _groups SET rebuild = NULL WHERE rebuild = ?1", [&rebuild.id])?;
    Ok(())
}

/// Returns whether there are raw rows.
pub(in crate::store) fn has_raw_rows(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM analytics_events) OR EXISTS (SELECT 1 FROM metrics) \
               OR EXISTS (SELECT 1 FROM _session_messages)";
    connection.query_row(sql, [], |row| row.get(0))
}
