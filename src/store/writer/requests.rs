//! What other commands ask for: one bounded step at a time, between batches.

use super::Writer;
use crate::analytics::Facts;
use crate::batch::Batch;
use crate::clock;
use crate::decode::Delivery;
use crate::judge::Judge;
use crate::position::Position;
use crate::store::control::{self, Outcome, Request, Wanted};
use crate::store::derived::{self, GroupName, Touched};
use crate::store::letters::{DeadLetterKey, Selection};
use crate::store::raw::{self, End, Written};
use crate::store::spent::Spent;
use crate::store::{StoreError, position, rejections, to_sql};

/// Dead letters that one transaction judges again, and bytes of their payloads.
const MAX_RETRIED: usize = 1_000;
const MAX_RETRIED_BYTES: usize = 8 << 20;

impl Writer {
    /// Does the next step of what is asked for. Returns whether there is more to do.
    ///
    /// # Errors
    /// Where a transaction fails; then nothing changed, and the step is done again when this is called next.
    pub fn attend(&mut self, judge: &Judge) -> Result<bool, StoreError> {
        let Some(wanted) = control::next(&self.connection)? else { return Ok(false) };
        match wanted.request.clone() {
            Ok(Request::Retry(which)) => self.retry(wanted, &which, judge)?,
            Ok(Request::Drop(which)) => {
                let tx = self.begin()?;
                let dropped = rejections::let_go(&tx, &which)? as u64;
                control::record(&tx, &wanted.id, "done", &Outcome { dropped, ..Outcome::default() })?;
                tx.commit()?;
            }
            Ok(Request::Rebuild { .. } | Request::Replace { .. }) => {}
            Err(error) => self.refuse(&wanted, format!("this worker does not know what was asked: {error}"))?,
        }
        Ok(true)
    }

    fn refuse(&self, wanted: &Wanted, error: String) -> Result<(), StoreError> {
        tracing::warn!("a command asked for what cannot be done: {error}");
        let tx = self.begin()?;
        control::record(&tx, &wanted.id, "failed", &Outcome { error: Some(error), ..wanted.so_far.clone() })?;
        tx.commit()?;
        Ok(())
    }

    /// Marks the chosen dead letters, then judges them again, some with each call.
    fn retry(&mut self, wanted: Wanted, which: &Selection, judge: &Judge) -> Result<(), StoreError> {
        if !wanted.is_begun {
            let tx = self.begin()?;
            let marked = rejections::mark(&tx, &wanted.id, which)?;
            control::record(&tx, &wanted.id, "wanted", &wanted.so_far)?;
            tx.commit()?;
            tracing::info!(marked, "dead letters are judged again");
        }
        match rejections::marked(&self.connection, &wanted.id, MAX_RETRIED, MAX_RETRIED_BYTES)? {
            Some((epoch, deliveries)) => match position::of_epoch(&self.connection, epoch)? {
                Some(of) => self.unless_damaged(|writer| writer.judge_again(&wanted, &of, &deliveries, judge)),
                None => self.refuse(&wanted, format!("there is no epoch {epoch}, which dead letters are of")),
            },
            None => {
                let tx = self.begin()?;
                control::record(&tx, &wanted.id, "done", &wanted.so_far)?;
                tx.commit()?;
                Ok(())
            }
        }
    }

    /// Messages that were rejected, as if they had just come: with the subject, the sequence and the time of then. What
    /// comes of them stands in the ledger in the same transaction, so each is applied once at most.
    fn judge_again(
        &self,
        wanted: &Wanted,
        of_epoch: &Position,
        deliveries: &[Delivery],
        judge: &Judge,
    ) -> Result<(), StoreError> {
        let groups = super::up_to_date(&self.rules, self.build.borrow().as_ref());
        let tx = self.begin()?;
        let epoch = of_epoch.epoch;
        let judge = Judge { stream: of_epoch.stream.clone(), epoch, ..judge.clone() };
        let mut batch = Batch::after(Position { last_seq: 0, ..of_epoch.clone() });
        for delivery in deliveries {
            batch.push(judge.judge(delivery.clone()));
        }
        batch.gaps.clear();
        let Written { stored, ends, .. } = raw::write(&tx, &batch)?;
        // In a database that was put back, never a number that it had before.
        let at = clock::now().as_millis().max(rejections::last_judged(&tx)? + 1);
        let mut so_far = wanted.so_far.clone();
        for (delivery, end) in deliveries.iter().zip(&ends) {
            let key = DeadLetterKey { epoch, stream_seq: to_sql(delivery.stream_sequence) };
            rejections::judged(&tx, key, *end, at)?;
            *match end {
                End::Stored => &mut so_far.applied,
                End::Duplicate => &mut so_far.duplicate,
                End::Rejected => &mut so_far.rejected,
            } += 1;
        }
        let mut facts = Facts::default();
        facts.add(&self.rules, stored);
        let t_before = if groups.contains(&GroupName::Sessions) { derived::watermark(&tx)? } else { None };
        let series = derived::apply(&tx, &self.rules, &groups, facts, t_before, &mut Spent::begin())?;
        let has_shown = derived::evaluate(&tx, &self.rules, &groups, &Touched { series, t_before })?;
        control::record(&tx, &wanted.id, "wanted", &so_far)?;
        tx.commit()?;
        self.board.send_modify(|board| board.commit(&self.rules, has_shown));
        Ok(())
    }
}
