//! `_control`: what other commands ask of whoever holds the database, and what came of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use super::rejections::Selection;
use crate::clock;
use crate::model::Timestamp;
use crate::store::error::StoreError;
use crate::store::sqlite::file::database::transact;
use crate::store::sqlite::file::pragmas::READER_BUSY_TIMEOUT;

/// How often somebody who asked looks for the outcome.
const POLL: Duration = Duration::from_millis(50);

/// Answers that wait for whoever asked.
const MAX_ANSWERS: u32 = 100;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Judge dead letters again.
    Retry(Selection),
    /// Let go of dead letters.
    Drop(Selection),
    /// Make groups of derived tables anew from the raw rows.
    Rebuild {
        /// Their kinds.
        groups: Vec<String>,
    },
    /// Install a shadow database in the place of this one.
    #[serde(alias = "replace")]
    Install {
        /// The file.
        file: PathBuf,
    },
}

/// What came of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestOutcome {
    /// Dead letters that became rows.
    #[serde(default)]
    pub applied: u64,
    /// Dead letters that were copies of stored messages.
    #[serde(default)]
    pub duplicate: u64,
    /// Dead letters that were rejected again.
    #[serde(default)]
    pub rejected: u64,
    /// Dead letters that were let go.
    #[serde(default)]
    pub dropped: u64,
    /// How long ingestion waited, in milliseconds.
    #[serde(default)]
    pub pause_ms: u64,
    /// Rows that differed, where those that do were written.
    #[serde(default)]
    pub rows_that_differed: u64,
    /// The rebuild of groups that was begun.
    #[serde(default, alias = "build", skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<String>,
    /// What was built aside is in the place of the database.
    #[serde(default)]
    pub is_in_place: bool,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl RequestOutcome {
    /// So far, and ingestion waited for so long.
    pub(in crate::store) fn after(&self, pause: Duration) -> Self {
        Self { pause_ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), ..self.clone() }
    }
}

/// A request that waits.
#[derive(Debug, Clone)]
pub(in crate::store) struct OpenRequest {
    pub(in crate::store) id: String,
    pub(in crate::store) request: Result<Request, String>,
    pub(in crate::store) is_begun: bool,
    pub(in crate::store) so_far: RequestOutcome,
}

/// The requests that wait, in their order.
pub(in crate::store) fn open_requests(connection: &Connection) -> rusqlite::Result<Vec<OpenRequest>> {
    let sql = "SELECT id, request, outcome FROM _control WHERE state = 'wanted' ORDER BY id";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| {
        let (request, so_far): (String, Option<String>) = (row.get(1)?, row.get(2)?);
        let is_begun = so_far.is_some();
        let so_far = so_far.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let request = serde_json::from_str(&request).map_err(|error| error.to_string());
        Ok(OpenRequest { id: row.get(0)?, request, is_begun, so_far })
    })?;
    rows.collect()
}

/// Records what has come of a request so far, or in the end.
pub(in crate::store) fn record_outcome(
    tx: &Transaction<'_>,
    id: &str,
    state: &str,
    outcome: &RequestOutcome,
) -> rusqlite::Result<()> {
    let outcome = serde_json::to_string(outcome).unwrap_or_default();
    tx.execute("UPDATE _control SET state = ?2, outcome = ?3 WHERE id = ?1", params![id, state, outcome])?;
    // Of those who were killed while they waited.
    let sql = "DELETE FROM _control WHERE state <> 'wanted' AND id NOT IN (SELECT id FROM _control \
               ORDER BY id DESC LIMIT ?1)";
    tx.execute(sql, [MAX_ANSWERS])?;
    Ok(())
}

/// Asks whoever holds the database.
#[derive(Debug)]
pub struct PendingRequest {
    connection: Connection,
    id: String,
    request: String,
}

impl PendingRequest {
    /// Leaves a request. Blocks while another process holds SQLite's write lock.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn leave(database: &Path, request: &Request) -> Result<Self, StoreError> {
        let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.busy_timeout(READER_BUSY_TIMEOUT)?;
        let request =
            serde_json::to_string(request).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        let pending = Self { connection, id: clock::new_id().to_string(), request };
        pending.insert()?;
        Ok(pending)
    }

    fn insert(&self) -> Result<(), StoreError> {
        let sql = "INSERT INTO _control (id, request, asked_at) VALUES (?1, ?2, ?3)";
        transact(&self.connection, |tx| {
            tx.execute(sql, params![self.id, self.request, Timestamp::now().to_string()])?;
            Ok(())
        })
    }

    /// The outcome, once there is one. Blocks for as long as one look takes.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn outcome(&self) -> Result<Option<RequestOutcome>, StoreError> {
        std::thread::sleep(POLL);
        let sql = "SELECT state, outcome FROM _control WHERE id = ?1";
        let found: Option<(String, Option<String>)> =
            self.connection.query_row(sql, [&self.id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        match found {
            // A database that was put in meanwhile did not have it.
            None => self.insert().map(|()| None),
            Some((state, _)) if state == "wanted" => Ok(None),
            Some((_, outcome)) => {
                self.take_back()?;
                Ok(Some(outcome.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()))
            }
        }
    }

    /// Takes the request away.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub fn take_back(&self) -> Result<(), StoreError> {
        transact(&self.connection, |tx| {
            tx.execute("DELETE FROM _control WHERE id = ?1", [&self.id])?;
            Ok(())
        })
    }
}
