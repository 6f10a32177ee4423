//! How transactions begin.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::Writer;
use crate::store::StoreError;

const WARN_BUSY_EVERY: Duration = Duration::from_secs(5);

impl Writer {
    /// Begins IMMEDIATE, so that what is read inside is what is written on. Waits while another process writes.
    pub(super) fn begin(&self) -> Result<Transaction<'_>, StoreError> {
        let waiting_since = Instant::now();
        let mut warnings = 0;
        loop {
            // `unchecked` takes a shared borrow, which a loop that returns needs. A second one inside would fail.
            match Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate) {
                Ok(tx) => return Ok(tx),
                Err(error) if is_busy(&error) => {}
                Err(error) => return Err(error.into()),
            }
            if self.stop_waiting.load(Ordering::Relaxed) {
                return Err(StoreError::Busy);
            }
            if waiting_since.elapsed() >= WARN_BUSY_EVERY * (warnings + 1) {
                warnings += 1;
                tracing::warn!(
                    waited_s = waiting_since.elapsed().as_secs(),
                    "another process holds SQLite's write lock; messages wait in the stream until it lets go"
                );
            }
        }
    }
}

/// One transaction on a file that is built aside.
pub(in crate::store) fn transact<T>(
    connection: &Connection,
    body: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let tx = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let value = body(&tx)?;
    tx.commit()?;
    Ok(value)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
