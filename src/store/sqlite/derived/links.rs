//! `_links`: the user that each anonymous id belongs to.

use rusqlite::{CachedStatement, Connection, Transaction, params};

use super::states::{StateTable, put_state, select_state};
use crate::analytics::{Change, Link, Links, State};
use crate::store::error::StoreError;

const STATES: &str = "_links";
const SELECT: &str = "SELECT state FROM _links WHERE anonymous_id = ?1";
const INSERT: &str = "INSERT INTO _links (anonymous_id, state) VALUES (?1, ?2)";
const UPDATE: &str = "UPDATE _links SET state = ?2 WHERE anonymous_id = ?1";

pub(super) struct LinkTable<'tx> {
    select: CachedStatement<'tx>,
    insert: CachedStatement<'tx>,
    update: CachedStatement<'tx>,
}

impl<'tx> LinkTable<'tx> {
    pub(super) fn prepare(tx: &'tx Transaction<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            select: tx.prepare_cached(SELECT)?,
            insert: tx.prepare_cached(INSERT)?,
            update: tx.prepare_cached(UPDATE)?,
        })
    }
}

/// Returns the user of an anonymous id. `None` if the id is not linked.
pub(in crate::store) fn user_of(connection: &Connection, anonymous_id: &str) -> Result<Option<String>, StoreError> {
    let mut select = connection.prepare_cached(SELECT)?;
    let link: Option<Link> = select_state(&mut select, [anonymous_id], STATES, || anonymous_id.to_owned())?;
    Ok(link.map(|link| link.user_id))
}

impl StateTable<Links> for LinkTable<'_> {
    fn load(&mut self, facts: &[(String, Link)]) -> Result<Vec<Option<Link>>, StoreError> {
        let select = &mut self.select;
        facts.iter().map(|(id, _)| select_state(select, [id], STATES, || id.clone())).collect()
    }

    fn put_many(&mut self, changes: &[(String, Change<Links>)]) -> Result<(), StoreError> {
        for (id, Change { before, after }) in changes {
            if before.as_ref() != Some(after) {
                let execute = |put: &mut CachedStatement<'_>| put.execute(params![id, after.to_bytes()]);
                put_state(&mut self.insert, &mut self.update, before.is_some(), execute)?;
            }
        }
        Ok(())
    }
}
