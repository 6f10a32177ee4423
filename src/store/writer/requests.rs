//! What other commands ask for: one bounded step at a time, between batches.

use std::path::Path;

use super::Writer;
use crate::clock;
use crate::judge::{Criteria, Delivery};
use crate::position::Position;
use crate::store::control::{self, Outcome, Request, Wanted};
use crate::store::derived::{self, GroupName};
use crate::store::letters::{DeadLetterKey, Selection};
use crate::store::raw::{self, End};
use crate::store::spent::Spent;
use crate::store::{StoreError, position, rejections, to_sql};

/// Dead letters that one transaction judges again, and bytes of their payloads.
const MAX_RETRIED: usize = 1_000;
const MAX_RETRIED_BYTES: usize = 8 << 20;

impl Writer {
    /// Does the next step of what is asked for. Returns whether there is more to do now.
    ///
    /// # Errors
    /// Where a transaction fails; then nothing changed, and the step is done again when this is called next.
    pub fn attend(&mut self, criteria: &Criteria) -> Result<bool, StoreError> {
        for wanted in control::wanted(&self.connection)? {
            let is_building = self.build.borrow().is_some();
            match wanted.request.clone() {
                // What is being made anew goes on by itself, and lets others by.
                Ok(Request::Rebuild { .. }) if is_building => continue,
                Ok(Request::Rebuild { .. }) if wanted.is_begun => self.finish(&wanted, "done", &wanted.so_far)?,
                Ok(Request::Rebuild { groups }) => self.begin_rebuild(&wanted, &groups)?,
                Ok(Request::Retry(which)) => self.retry(&wanted, &which, criteria)?,
                Ok(Request::Drop(which)) => self.let_go(&wanted, &which)?,
                // The process died just after.
                Ok(Request::Replace { .. }) if wanted.so_far.is_in_place => {
                    self.finish(&wanted, "done", &wanted.so_far)?;
                }
                Ok(Request::Replace { file }) => match self.replace(&file, &wanted) {
                    Ok(outcome) => self.answer_all_for(&file, &outcome)?,
                    Err(error) => self.refuse(&wanted, error.to_string())?,
                },
                Err(error) => self.refuse(&wanted, format!("this worker does not know what was asked: {error}"))?,
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Tells all who asked for a file to be put in: one that was killed may have left its request.
    fn answer_all_for(&self, put_in: &Path, outcome: &Outcome) -> Result<(), StoreError> {
        for wanted in control::wanted(&self.connection)? {
            if matches!(&wanted.request, Ok(Request::Replace { file }) if file == put_in) {
                self.finish(&wanted, "done", outcome)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(&self, wanted: &Wanted, state: &str, outcome: &Outcome) -> Result<(), StoreError> {
        let tx = self.begin()?;
        control::record(&tx, &wanted.id, state, outcome)?;
        tx.commit()?;
        Ok(())
    }

    fn let_go(&self, wanted: &Wanted, which: &Selection) -> Result<(), StoreError> {
        let tx = self.begin()?;
        let dropped = rejections::let_go(&tx, which)? as u64;
        control::record(&tx, &wanted.id, "done", &Outcome { dropped, ..Outcome::default() })?;
        tx.commit()?;
        Ok(())
    }

    /// Has groups made anew, by the builder that makes those whose rules have changed; they go on meanwhile.
    fn begin_rebuild(&mut self, wanted: &Wanted, words: &[String]) -> Result<(), StoreError> {
        let groups = GroupName::meant_by(&self.rules, words);
        if groups.is_empty() {
            return self.finish(wanted, "done", &wanted.so_far);
        }
        let tx = self.begin()?;
        let build = derived::refresh(&tx, &self.rules, groups)?;
        control::record(&tx, &wanted.id, "wanted", &Outcome { build: Some(build.id.clone()), ..Outcome::default() })?;
        tx.commit()?;
        self.build.send_replace(Some(build));
        Ok(())
    }

    fn refuse(&self, wanted: &Wanted, error: String) -> Result<(), StoreError> {
        tracing::warn!("a command asked for what cannot be done: {error}");
        self.finish(wanted, "failed", &Outcome { error: Some(error), ..wanted.so_far.clone() })
    }

    /// Marks the chosen dead letters, then judges them again, some with each call.
    fn retry(&mut self, wanted: &Wanted, which: &Selection, criteria: &Criteria) -> Result<(), StoreError> {
        if !wanted.is_begun {
            let tx = self.begin()?;
            let marked = rejections::mark(&tx, &wanted.id, which)?;
            control::record(&tx, &wanted.id, "wanted", &wanted.so_far)?;
            tx.commit()?;
            tracing::info!(marked, "dead letters are judged again");
        }
        match rejections::marked(&self.connection, &wanted.id, MAX_RETRIED, MAX_RETRIED_BYTES)? {
            Some((epoch, deliveries)) => match position::of_epoch(&self.connection, epoch)? {
                Some(of) => self.unless_damaged(|writer| writer.judge_again(wanted, &of, &deliveries, criteria)),
                None => self.refuse(wanted, format!("there is no epoch {epoch}, which dead letters are of")),
            },
            None => self.finish(wanted, "done", &wanted.so_far),
        }
    }

    /// Messages that were rejected, as if they had just come: with the subject, the sequence and the time of then. What
    /// comes of them stands in the ledger in the same transaction, so each is applied once at most.
    fn judge_again(
        &self,
        wanted: &Wanted,
        of_epoch: &Position,
        deliveries: &[Delivery],
        criteria: &Criteria,
    ) -> Result<(), StoreError> {
        let tx = self.begin()?;
        let mut work = self.work(&tx)?;
        let epoch = of_epoch.epoch;
        let judge = criteria.judge_at(of_epoch);
        let verdicts: Vec<_> = deliveries.iter().map(|delivery| judge.judge(delivery.clone())).collect();
        let ends = raw::write(&tx, epoch, &verdicts)?.ends;
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
        work.facts.add(&self.rules, raw::stored(&verdicts, &ends));
        let has_shown = self.derive(work, &mut Spent::begin())?;
        control::record(&tx, &wanted.id, "wanted", &so_far)?;
        tx.commit()?;
        self.board.send_modify(|board| board.commit(&self.rules, has_shown));
        Ok(())
    }
}
