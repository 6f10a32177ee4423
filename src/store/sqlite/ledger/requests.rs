//! `_control`: requests of other commands to the holder of the database, and their outcomes.

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

/// How often the command that asked looks for the outcome.
const POLL: Duration = Duration::from_millis(50);

/// How many answers are kept for the commands that asked.
const MAX_ANSWERS: u32 = 100;

/// A request to the holder of the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Judge dead letters again.
    Retry(Selection),
    /// Drop dead letters: they stay in the ledger, but are no longer open.
    Drop(Selection),
    /// Rebuild groups of derived tables from the raw rows.
    Rebuild {
        /// The kinds of the groups.
        groups: Vec<String>,
    },
    /// Install a shadow database into this database.
    #[serde(alias = "replace")]
    Install {
        /// The file of the shadow.
        file: PathBuf,
    },
}

/// The outcome of a request, so far or in the end.
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
    /// Dead letters that were dropped.
    #[serde(default)]
    pub dropped: u64,
    /// How long ingestion waited, in milliseconds.
    #[serde(default)]
    pub pause_ms: u64,
    /// Rows that differed and were written, if groups were rebuilt.
    #[serde(default)]
    pub rows_that_differed: u64,
    /// The id of the rebuild of groups that was begun.
    #[serde(default, alias = "build", skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<String>,
    /// Whether the shadow database is installed.
    #[serde(default)]
    pub is_in_place: bool,
    /// Why the request failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl RequestOutcome {
    /// Returns this outcome with the time for which ingestion waited.
    pub(in crate::store) fn after(&self, pause: Duration) -> Self {
        Self { pause_ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), ..self.clone() }
    }
}

/// A request that is not done yet.
#[derive(Debug, Clone)]
pub(in crate::store) struct OpenRequest {
    pub(in crate::store) id: String,
    pub(in crate::store) request: Result<Request, String>,
    pub(in crate::store) is_begun: bool,
    pub(in crate::store) so_far: RequestOutcome,
}

/// Returns the requests that are not done yet, oldest first.
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

/// Records the outcome of a request, so far or in the end. Deletes old answers.
pub(in crate::store) fn record_outcome(
    tx: &Transaction<'_>,
    id: &str,
    state: &str,
    outcome: &RequestOutcome,
) -> rusqlite::Result<()> {
    let outcome = serde_json::to_string(outcome).unwrap_or_default();
    tx.execute("UPDATE _control SET state = ?2, outcome = ?3 WHERE id = ?1", params![id, state, outcome])?;
    // Commands that were killed while they waited leave their answers.
    let sql = "DELETE FROM _control WHERE state <> 'wanted' AND id NOT IN (SELECT id FROM _control \
               ORDER BY id DESC LIMIT ?1)";
    tx.execute(sql, [MAX_ANSWERS])?;
    Ok(())
}

/// A request that a command has left for the holder of the database.
#[derive(Debug)]
pub struct PendingRequest {
    connection: Connection,
    id: String,
    request: String,
}

impl PendingRequest {
    /// Leaves a request in the database. Blocks while another process holds SQLite's write lock.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
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

    /// Returns the outcome, once there is one. Blocks for 50 ms, then looks once.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn outcome(&self) -> Result<Option<RequestOutcome>, StoreError> {
        std::thread::sleep(POLL);
        let sql = "SELECT state, outcome FROM _control WHERE id = ?1";
        let found: Option<(String, Option<String>)> =
            self.connection.query_row(sql, [&self.id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        match found {
            // A database that was installed meanwhile did not have the request.
            None => self.insert().map(|()| None),
            Some((state, _)) if state == "wanted" => Ok(None),
            Some((_, outcome)) => {
                self.take_back()?;
                Ok(Some(outcome.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()))
            }
        }
    }

    /// Withdraws the request.
    ///
    /// # Errors
    /// Fails if the database cannot be written.
    pub fn take_back(&self) -> Result<(), StoreError> {
        transact(&self.connection, |tx| {
            tx.execute("DELETE FROM _control WHERE id = ?1", [&self.id])?;
            Ok(())
        })
    }
}
