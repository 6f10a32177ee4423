//! Hands batches to the writer; after their commit, acknowledges them and tells the outboxes.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Pipeline;
use super::ended::PipelineError;
use super::round::{Round, Write, WriteResult};
use crate::judge::Batch;
use crate::nats::NatsError;
use crate::store::CommitReceipt;

impl Pipeline {
    /// Takes the batch for the writer, and begins the next one. If sequences in its gaps may still be in the stream,
    /// drops the batch and returns the error.
    pub(super) async fn take_batch(&mut self, round: &mut Round) -> Result<Batch, NatsError> {
        if !round.batch.gaps.is_empty()
            && let Err(error) = self.source.vouch_for(&mut round.batch).await
        {
            round.batch = Batch::after(round.batch.after.clone());
            return Err(error);
        }
        self.source.mark_batch();
        let next = Batch::after(round.batch.end());
        Ok(std::mem::replace(&mut round.batch, next))
    }

    /// Begins a transaction. Under backlog it takes more batches as they fill.
    pub(super) async fn begin_write(&mut self, round: &mut Round) -> Result<(), NatsError> {
        let mut left_over = std::mem::take(&mut round.left_over);
        let batch = match left_over.pop_front() {
            Some(batch) => batch,
            None => self.take_batch(round).await?,
        };
        let (feed, mut more) = mpsc::channel(self.mode.batches_ahead());
        let (runtime, max_delay) = (Handle::current(), self.batch.max_delay);
        let committed = self.writer.run(move |writer| {
            let mut came =
                || runtime.block_on(async { tokio::time::timeout(max_delay, more.recv()).await.ok().flatten() });
            let committed = writer.commit_all(&batch, || left_over.pop_front().or_else(&mut came))?;
            Ok((committed, left_over, more))
        });
        let feed = self.has_backlog().then_some(feed);
        round.write = Some(Write { began: Instant::now(), feed, committed });
        Ok(())
    }

    /// Commits the messages that were read. They are complete, whatever failed after them.
    pub(super) async fn finish(&mut self, round: &mut Round) -> Result<(), PipelineError> {
        round.close_feed();
        while !round.is_idle() {
            if round.write.is_none() && self.begin_write(round).await.is_err() {
                break;
            }
            round.close_feed();
            let written = round.written().await?;
            self.committed(round, written).await;
        }
        Ok(())
    }

    /// Runs after a commit, and only then: acknowledges the messages, and tells the outboxes.
    pub(super) async fn committed(&mut self, round: &mut Round, (committed, left_over, mut more): WriteResult) {
        let took = round.write.take().map(|write| write.began.elapsed()).unwrap_or_default();
        round.left_over = left_over;
        round.left_over.extend(std::iter::from_fn(|| more.try_recv().ok()));
        round.has_committed = true;
        self.source.ack(&committed).await;
        self.publish(&committed, took);
    }

    pub(super) fn publish(&self, receipt: &CommitReceipt, took: Duration) {
        let (last_seq, counts) = (receipt.position().last_seq, receipt.counts());
        self.telemetry.committed(receipt, self.source.pending(), took);
        if counts.rejected > 0 {
            self.mode.tell_of_rejections(last_seq);
        }
        tracing::debug!(last_seq, took_ms = took.as_millis(), ?counts, "committed");
    }
}
