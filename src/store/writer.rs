//! The writer: the only begin and commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::outbox::DeadLetterKey;
use super::raw::{self, Counts, Written};
use super::spent::Spent;
use super::{StoreError, derived, gaps, position, rejections};
use crate::analytics::{Facts, Rules};
use crate::batch::Batch;
use crate::position::{Gap, Position};

const WARN_BUSY_EVERY: Duration = Duration::from_secs(5);

/// Proof that a batch is in the database. Only a commit makes one, and only with one can the source acknowledge.
#[derive(Debug)]
pub struct Committed {
    position: Position,
    counts: Counts,
    spent: Spent,
}

impl Committed {
    /// Where the database stands now.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// How the messages ended.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What writing took.
    pub fn spent(&self) -> &Spent {
        &self.spent
    }
}

/// The one connection that writes. Dropped, it moves the WAL into the file, as far as readers let it.
#[derive(Debug)]
pub struct Writer {
    connection: Connection,
    rules: Rules,
    stop_waiting: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn new(connection: Connection, rules: Rules) -> Self {
        Self { connection, rules, stop_waiting: Arc::default() }
    }

    /// When set, a transaction that cannot begin because another process holds SQLite's write lock fails at once.
    pub(super) fn stop_waiting_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop_waiting)
    }

    /// Where the database stands.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn position(&self) -> Result<Option<Position>, StoreError> {
        Ok(position::last(&self.connection)?)
    }

    /// Makes derived tables anew, from the raw rows, whose rules are not those that they were made by. To be called
    /// before the first commit; takes its time where there are many rows.
    ///
    /// # Errors
    /// Where the transaction fails; then nothing changed.
    pub fn rebuild_changed(&mut self) -> Result<(), StoreError> {
        if derived::is_current(&self.connection, &self.rules)? {
            return Ok(());
        }
        if self.position()?.is_some() {
            tracing::info!(
                "derived tables were made with another limits.session_timeout, or by another version: making them anew from raw rows"
            );
        }
        self.rebuild()
    }

    fn rebuild(&mut self) -> Result<(), StoreError> {
        let (rules, began) = (self.rules.clone(), Instant::now());
        let tx = self.begin()?;
        let rows = derived::rebuild(&tx, &rules)?;
        tx.commit()?;
        if rows > 0 {
            tracing::info!(rows, took_ms = began.elapsed().as_millis(), "derived tables are made anew");
        }
        Ok(())
    }

    /// Begins an epoch: the next number, at `first_seq` of the stream.
    ///
    /// # Errors
    /// Where the transaction fails; then nothing changed.
    pub fn begin_epoch(
        &mut self,
        stream: &str,
        stream_created_ns: i64,
        first_seq: u64,
    ) -> Result<Position, StoreError> {
        let tx = self.begin()?;
        let epoch = position::last(&tx)?.map_or(1, |last| last.epoch + 1);
        let begun = Position {
            stream: stream.to_owned(),
            epoch,
            stream_created_ns,
            first_seq,
            last_seq: first_seq - 1,
            last_recv_ns: 0,
        };
        position::insert(&tx, &begun)?;
        tx.commit()?;
        Ok(begun)
    }

    /// Records that messages after `after` are gone, and moves the position past them.
    ///
    /// # Errors
    /// Where the transaction fails; then nothing changed.
    pub fn skip(&mut self, after: &Position, gap: Gap) -> Result<Position, StoreError> {
        let tx = self.begin()?;
        let end = Position { last_seq: gap.last_seq, last_recv_ns: 0, ..after.clone() };
        gaps::insert(&tx, after.epoch, &[gap])?;
        position::advance(&tx, after, &end)?;
        tx.commit()?;
        Ok(end)
    }

    /// Writes a batch: raw rows, what they add up to, the ledger of rejections, gaps and the position, all or nothing.
    ///
    /// # Errors
    /// [`StoreError::PositionMoved`] where somebody else wrote; in every case nothing changed.
    pub fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        match self.try_commit(batch) {
            Err(damage @ StoreError::Damaged { .. }) => {
                tracing::error!("{damage}: making derived tables anew from raw rows");
                self.rebuild()?;
                self.try_commit(batch)
            }
            result => result,
        }
    }

    fn try_commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        let rules = self.rules.clone();
        let tx = self.begin()?;
        let mut spent = Spent::begin();
        let position = batch.end();
        // First: where it fails, nothing else need be tried.
        position::advance(&tx, &batch.after, &position)?;
        let Written { counts, stored } = raw::write(&tx, batch)?;
        gaps::insert(&tx, batch.after.epoch, &batch.gaps)?;
        spent.lap("raw");
        let facts = Facts::of(&rules, stored);
        spent.lap("facts");
        derived::apply(&tx, &rules, facts, &mut spent)?;
        position::add_counts(&tx, batch.after.epoch, counts.stored(), counts.duplicates)?;
        tx.commit()?;
        spent.lap("commit");
        Ok(Committed { position, counts, spent })
    }

    /// Marks dead letters as published.
    ///
    /// # Errors
    /// Where the transaction fails; then they are published again, and the stream's duplicate window drops them.
    pub fn mark_published(&mut self, keys: &[DeadLetterKey]) -> Result<(), StoreError> {
        let tx = self.begin()?;
        rejections::mark_published(&tx, keys)?;
        tx.commit()?;
        Ok(())
    }

    /// Begins IMMEDIATE, so that what is read inside is what is written on. Waits while another process writes.
    fn begin(&mut self) -> Result<Transaction<'_>, StoreError> {
        let waiting_since = Instant::now();
        let mut warnings = 0;
        loop {
            // `unchecked` takes a shared borrow, which a loop that returns needs; `&mut self` rules out a second one.
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

impl Drop for Writer {
    fn drop(&mut self) {
        if let Err(error) = self.connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::debug!("the WAL stays, and is read at the next start: {error}");
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
