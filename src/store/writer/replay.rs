//! The writer of a database that is built aside: it writes what another database has accepted.

use std::sync::mpsc::sync_channel;

use super::{Work, Writer};
use crate::judge::Batch;
use crate::position::Position;
use crate::store::committed::Committed;
use crate::store::history::{AcceptedParts, History, Range};
use crate::store::raw::{self, Counts, End, Written};
use crate::store::spent::Spent;
use crate::store::{StoreError, position, replica};

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

    /// Goes on from `after` to a sequence, or as far as one transaction goes, with the stored rows alone. They are read on
    /// a thread beside the writer's.
    ///
    /// # Errors
    /// Where the transaction fails, or a row cannot be read; then nothing changed.
    pub fn stand_in(&mut self, after: &Position, last_seq: u64) -> Result<Position, StoreError> {
        let Some(history) = &self.history else { return Err(StoreError::PositionMoved) };
        let live = history.path().to_owned();
        std::thread::scope(|scope| {
            let (batches, read) = sync_channel(1);
            let reader = scope.spawn(move || History::open(&live)?.batches(after.clone(), last_seq, &batches));
            // None but the reader's end closes it, so the first is there, or an error.
            let committed = read.recv().map(|first| self.commit_all(&first, || read.recv().ok()));
            drop(read);
            let end = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match committed {
                Ok(committed) => Ok(committed?.position().clone()),
                Err(_) => end.map(|()| after.clone()),
            }
        })
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
                replica::take_in(work.tx, epoch, range.first_seq)?;
                self.write_rows(work, history, epoch, range, &mut counts, &mut spent)?;
            }
            self.apply(work, &mut spent)?;
            work.judged = judged;
        }
    }

    /// Writes what of a batch was accepted, and the stored rows of what is missing in it. Returns how messages ended.
    pub(super) fn write_accepted(
        &self,
        work: &mut Work<'_>,
        batch: &Batch,
        history: &History,
        listed: &[u64],
        so_far: &mut Committed,
    ) -> Result<Vec<End>, StoreError> {
        let epoch = batch.after.epoch;
        let AcceptedParts { are_accepted, stand_ins } = History::accepted(batch, listed);
        // First: they were stored, so no other message was accepted with their ids before them.
        for range in stand_ins {
            self.write_rows(work, history, epoch, range, &mut so_far.counts, &mut so_far.spent)?;
        }
        let verdicts = batch.verdicts.iter().zip(are_accepted);
        let Written { counts, ends } = raw::write_accepted(work.tx, epoch, verdicts)?;
        so_far.counts += counts;
        so_far.spent.lap("raw");
        Ok(ends)
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
            let Written { counts: of_chunk, ends } = raw::write(work.tx, epoch, &*verdicts)?;
            *counts += of_chunk;
            spent.lap("raw");
            work.facts.add(&self.rules, raw::stored(verdicts, &ends));
            spent.lap("facts");
            Ok(())
        })
    }
}
