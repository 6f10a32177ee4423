//! Does the requests of other commands: one bounded step at a time, between batches.

use std::path::Path;

use super::error::StoreError;
use super::receipt::{Ending, Timings, stored};
use super::sqlite::ledger::rejections::{DeadLetterKey, Selection};
use super::sqlite::ledger::requests::{OpenRequest, Request, RequestOutcome};
use super::sqlite::rebuild::shadow_database::remove_installed;
use super::sqlite::values::to_sql;
use super::writer::Writer;
use crate::analytics::GroupName;
use crate::clock;
use crate::judge::{Criteria, Delivery};
use crate::position::Position;

/// How many dead letters one transaction judges again at most, and how many bytes of their payloads.
const MAX_RETRIED: usize = 1_000;
const MAX_RETRIED_BYTES: usize = 8 << 20;

fn asks_to_install(open: &OpenRequest, shadow: &Path) -> bool {
    matches!(&open.request, Ok(Request::Install { file }) if file == shadow)
}

impl Writer {
    /// Does the next step of the open requests. Returns whether there may be more to do now.
    ///
    /// # Errors
    /// Fails if a transaction fails. Then nothing changed, and the next call does the step again.
    pub fn do_next_request(&mut self, criteria: &Criteria) -> Result<bool, StoreError> {
        for wanted in self.file.open_requests()? {
            let is_rebuilding = self.rebuild.borrow().is_some();
            match wanted.request.clone() {
                // A running rebuild goes on by itself. Other requests are done meanwhile.
                Ok(Request::Rebuild { .. }) if is_rebuilding => continue,
                Ok(Request::Rebuild { .. }) if wanted.is_begun => self.finish(&wanted, "done", &wanted.so_far)?,
                Ok(Request::Rebuild { groups }) => self.begin_rebuild(&wanted, &groups)?,
                Ok(Request::Retry(which)) => self.retry(&wanted, &which, criteria)?,
                Ok(Request::Drop(which)) => self.drop_dead_letters(&wanted, &which)?,
                // The process died just after it installed the shadow.
                Ok(Request::Install { file }) if wanted.so_far.is_in_place => {
                    self.remove_installed(&file, &wanted.id)?;
                    self.finish(&wanted, "done", &wanted.so_far)?;
                }
                Ok(Request::Install { file }) => match self.install_database(&file, &wanted) {
                    Ok(outcome) => self.answer_all_for(&file, &outcome)?,
                    Err(error) => self.refuse(&wanted, error.to_string())?,
                },
                Err(error) => self.refuse(&wanted, format!("this worker does not know this request: {error}"))?,
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Removes a shadow that a request has installed. If another request asks to install the same file, that may be a
    /// new one: it stays. The request stays open until the file is gone, so a process that dies here loses nothing.
    fn remove_installed(&self, shadow: &Path, installed_by: &str) -> Result<(), StoreError> {
        let is_wanted = |open: &OpenRequest| open.id != installed_by && asks_to_install(open, shadow);
        if !self.file.open_requests()?.iter().any(is_wanted)
            && let Err(error) = remove_installed(shadow)
        {
            tracing::warn!("{} is installed, but stays on the disk: {error}", shadow.display());
        }
        Ok(())
    }

    /// Answers all requests to install a file. A command that was killed may have left such a request.
    fn answer_all_for(&self, installed: &Path, outcome: &RequestOutcome) -> Result<(), StoreError> {
        for wanted in self.file.open_requests()? {
            if asks_to_install(&wanted, installed) {
                self.finish(&wanted, "done", outcome)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(&self, wanted: &OpenRequest, state: &str, outcome: &RequestOutcome) -> Result<(), StoreError> {
        let tx = self.file.begin()?;
        tx.record_outcome(&wanted.id, state, outcome)?;
        tx.commit()
    }

    fn drop_dead_letters(&self, wanted: &OpenRequest, which: &Selection) -> Result<(), StoreError> {
        let tx = self.file.begin()?;
        let dropped = tx.drop_dead_letters(which)? as u64;
        tx.record_outcome(&wanted.id, "done", &RequestOutcome { dropped, ..RequestOutcome::default() })?;
        tx.commit()
    }

    /// Begins to rebuild the requested groups, in the same way as groups whose rules have changed. The groups keep
    /// being updated meanwhile.
    fn begin_rebuild(&mut self, wanted: &OpenRequest, words: &[String]) -> Result<(), StoreError> {
        let groups = GroupName::meant_by(&self.rules, words);
        if groups.is_empty() {
            return self.finish(wanted, "done", &wanted.so_far);
        }
        let tx = self.file.begin()?;
        let rebuild = tx.begin_current(&self.rules, groups)?;
        tx.record_outcome(
            &wanted.id,
            "wanted",
            &RequestOutcome { rebuild: Some(rebuild.id.clone()), ..RequestOutcome::default() },
        )?;
        tx.commit()?;
        self.rebuild.send_replace(Some(rebuild));
        Ok(())
    }

    fn refuse(&self, wanted: &OpenRequest, error: String) -> Result<(), StoreError> {
        tracing::warn!("the request of a command cannot be done: {error}");
        self.finish(wanted, "failed", &RequestOutcome { error: Some(error), ..wanted.so_far.clone() })
    }

    /// Marks the selected dead letters at the first call. Each call judges some of them again.
    fn retry(&mut self, wanted: &OpenRequest, which: &Selection, criteria: &Criteria) -> Result<(), StoreError> {
        if !wanted.is_begun {
            let tx = self.file.begin()?;
            let marked = tx.mark_for_retry(&wanted.id, which)?;
            tx.record_outcome(&wanted.id, "wanted", &wanted.so_far)?;
            tx.commit()?;
            tracing::info!(marked, "dead letters are judged again");
        }
        match self.file.marked_for_retry(&wanted.id, MAX_RETRIED, MAX_RETRIED_BYTES)? {
            Some((epoch, deliveries)) => match self.file.position_of(epoch)? {
                Some(of) => self.unless_damaged(|writer| writer.judge_again(wanted, &of, &deliveries, criteria)),
                None => self.refuse(wanted, format!("dead letters belong to epoch {epoch}, which does not exist")),
            },
            None => self.finish(wanted, "done", &wanted.so_far),
        }
    }

    /// Judges rejected messages again, as if they had just come, with their original subject, sequence and time.
    /// Records the outcome in the ledger in the same transaction, so each message is applied at most once.
    fn judge_again(
        &self,
        wanted: &OpenRequest,
        of_epoch: &Position,
        deliveries: &[Delivery],
        criteria: &Criteria,
    ) -> Result<(), StoreError> {
        let tx = self.file.begin()?;
        let mut work = self.begin_work(&tx)?;
        let epoch = of_epoch.epoch;
        let judge = criteria.judge_at(of_epoch);
        let verdicts: Vec<_> = deliveries.iter().map(|delivery| judge.judge(delivery.clone())).collect();
        let endings = tx.write_messages(epoch, &verdicts)?.endings;
        // A database that was restored from a backup must never use a number again that it had before.
        let at = clock::now_ms().max(tx.last_retry()? + 1);
        let mut so_far = wanted.so_far.clone();
        for (delivery, ending) in deliveries.iter().zip(&endings) {
            let key = DeadLetterKey { epoch, stream_seq: to_sql(delivery.stream_sequence) };
            tx.record_retry(key, *ending, at)?;
            *match ending {
                Ending::Stored => &mut so_far.applied,
                Ending::Duplicate => &mut so_far.duplicate,
                Ending::Rejected => &mut so_far.rejected,
            } += 1;
        }
        work.facts.add(&self.rules, stored(&verdicts, &endings));
        let has_shown = self.derive(work, &mut Timings::begin())?;
        tx.record_outcome(&wanted.id, "wanted", &so_far)?;
        tx.commit()?;
        self.notify(has_shown);
        Ok(())
    }
}
