//! The writer of a database that is built aside: it writes what another database has accepted.

use super::{Work, Writer};
use crate::batch::Batch;
use crate::position::Position;
use crate::store::committed::Committed;
use crate::store::history::{Accepted, History, Range};
use crate::store::raw::{self, Counts, Written};
use crate::store::spent::Spent;
use crate::store::{StoreError, position};

/// Sequences that stored rows stand for, in one transaction.
const MAX_STAND_INS: u64 = 50_000;
/// Dead letters that were applied late, before what they say is applied.
const MAX_LATE: usize = 10_000;

impl Writer {
    /// Begins an epoch as the database has it whose messages are replayed.
    ///
    /// # Errors
    /// Where the transaction fails.
    pub fn adopt_epoch(&mut self, epoch: &Position) -> Result<Position, StoreError> {
        let begun = Position { last_seq: epoch.first_seq - 1, last_recv_ns: 0, ..epoch.clone() };
        let tx = self.begin()?;
        position::insert(&tx, &begun)?;
        tx.commit()?;
        Ok(begun)
    }

    /// Goes on from `after` to a sequence, or as far as one transaction goes, with the stored rows alone.
    ///
    /// # Errors
    /// Where the transaction fails, or a row cannot be read; then nothing changed.
    pub fn stand_in(&mut self, after: &Position, last_seq: u64) -> Result<Position, StoreError> {
        let Some(history) = &self.history else { return Err(StoreError::PositionMoved) };
        let last_seq = last_seq.min(after.last_seq + MAX_STAND_INS);
        let _snapshot = history.snapshot()?;
        let recv_ns_at = |position: Position| (position.last_seq == last_seq).then_some(position.last_recv_ns);
        let known = recv_ns_at(after.clone()).or(history.position(after.epoch)?.and_then(recv_ns_at));
        let end = Position { last_seq, last_recv_ns: known.unwrap_or(0), ..after.clone() };
        let tx = self.begin()?;
        let mut work = self.work(&tx)?;
        position::advance(&tx, after, &end)?;
        let (mut counts, mut spent) = (Counts::default(), Spent::begin());
        let range = Range { first_seq: after.last_seq + 1, last_seq };
        self.write_rows(&mut work, history, after.epoch, range, &mut counts, &mut spent)?;
        let judged = work.judged;
        self.derive(work, &mut spent)?;
        position::add_counts(&tx, end.epoch, counts.stored(), counts.duplicates)?;
        tx.commit()?;
        history.has_taken_in(judged);
        Ok(end)
    }

    /// Takes in, in a transaction, dead letters that were applied after messages which the replay has passed already.
    pub(super) fn write_late(&self, work: &mut Work<'_>, history: &History) -> Result<(), StoreError> {
        let Some(passed) = position::last(work.tx)? else { return Ok(()) };
        let (mut counts, mut spent) = (Counts::default(), Spent::begin());
        loop {
            let (late, judged) = history.applied_after(work.judged, &passed, MAX_LATE)?;
            if judged == work.judged {
                return Ok(());
            }
            for (epoch, range) in late {
                self.write_rows(work, history, epoch, range, &mut counts, &mut spent)?;
            }
            self.apply(work, &mut spent)?;
            work.judged = judged;
        }
    }

    /// Writes what of a batch was accepted, and the stored rows of what is missing in it.
    pub(super) fn write_accepted(
        &self,
        work: &mut Work<'_>,
        batch: &Batch,
        history: &History,
        so_far: &mut Committed,
    ) -> Result<(), StoreError> {
        let epoch = batch.after.epoch;
        let Accepted { verdicts, stand_ins } = history.accepted(batch)?;
        // First: they were stored, so no other message was accepted with their ids before them.
        for range in stand_ins {
            self.write_rows(work, history, epoch, range, &mut so_far.counts, &mut so_far.spent)?;
        }
        let Written { counts, stored, .. } = raw::write(work.tx, epoch, verdicts)?;
        so_far.counts += counts;
        so_far.spent.lap("raw");
        work.facts.add(&self.rules, stored);
        so_far.spent.lap("facts");
        Ok(())
    }

    /// Writes stored rows of sequences.
    fn write_rows(
        &self,
        work: &mut Work<'_>,
        history: &History,
        epoch: i64,
        range: Range,
        counts: &mut Counts,
        spent: &mut Spent,
    ) -> Result<(), StoreError> {
        let mut chunks = 0;
        history.rows(epoch, range, |verdicts| {
            // What is held of a range that may be of any length is bounded.
            chunks += 1;
            if chunks > 1 {
                self.apply(work, spent)?;
            }
            let Written { counts: of_chunk, stored, .. } = raw::write(work.tx, epoch, verdicts)?;
            *counts += of_chunk;
            spent.lap("raw");
            work.facts.add(&self.rules, stored);
            spent.lap("facts");
            Ok(())
        })
    }
}
