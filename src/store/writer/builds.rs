//! Groups of derived tables that are made anew: frozen, built aside, put in.

use std::time::Instant;

use super::{Writer, up_to_date};
use crate::store::StoreError;
use crate::store::aside::{self, Aside};
use crate::store::committed::Swapped;
use crate::store::control::{self, Outcome};
use crate::store::derived::{self, Build, GroupSet, Touched};
use crate::store::disk::attachable;

impl Writer {
    /// Puts in what was built aside, brought up to date: one transaction, which writes the rows that differ. None where
    /// another build is wanted now.
    ///
    /// # Errors
    /// Where the transaction fails; then nothing changed.
    pub fn swap(&mut self, mut aside: Aside) -> Result<Option<Swapped>, StoreError> {
        let wanted = self.build.borrow().clone();
        let Some(build) = wanted.filter(|wanted| aside.is_of(wanted)) else { return Ok(None) };
        let began = Instant::now();
        // What was written since its last step. Nothing else is: whoever writes does it here.
        while aside.step(aside.step_messages())? {}
        // Should an earlier one have failed.
        let _ = self.connection.execute("DETACH built", []);
        self.connection.execute("ATTACH ?1 AS built", [attachable(aside.path())?])?;
        let swapped = self.swap_attached(&build);
        if let Err(error) = self.connection.execute("DETACH built", []) {
            tracing::warn!("{}: {error}", aside.path().display());
        }
        let rows_that_differed = swapped?;
        let swapped = Swapped { raw_rows: aside.progress().rows, rows_that_differed, pause: began.elapsed() };
        self.build.send_replace(None);
        self.answer(&build, swapped)?;
        drop(aside);
        aside::remove(&self.database)?;
        tracing::info!(
            groups = %build.names().join(" "),
            raw_rows = swapped.raw_rows,
            rows_that_differed,
            pause_ms = swapped.pause.as_millis(),
            "derived tables are made anew"
        );
        Ok(Some(swapped))
    }

    fn swap_attached(&self, build: &Build) -> Result<usize, StoreError> {
        let tx = self.begin()?;
        let mut differed = 0;
        for group in &build.groups {
            for table in group.tables() {
                let rows = derived::swap(&tx, table, group)?;
                differed += if table.is_public() { rows } else { 0 };
            }
        }
        derived::thaw(&tx, build)?;
        match derived::evaluate(&tx, &self.rules, &up_to_date(&self.rules, None), &Touched::default()) {
            // Of another number: the next commit that comes to it freezes it.
            Err(StoreError::Damaged { table, key, why }) => tracing::warn!("{table}, key {key:?}: {why}"),
            result => drop(result?),
        }
        tx.commit()?;
        self.board.send_modify(|board| board.commit(&self.rules, true));
        Ok(differed)
    }

    /// Tells those who asked for a build.
    fn answer(&self, build: &Build, swapped: Swapped) -> Result<(), StoreError> {
        for wanted in control::wanted(&self.connection)? {
            if wanted.so_far.build.as_ref() == Some(&build.id) {
                let rows_that_differed = swapped.rows_that_differed as u64;
                let outcome = Outcome { rows_that_differed, ..wanted.so_far.after(swapped.pause) };
                self.finish(&wanted, "done", &outcome)?;
            }
        }
        Ok(())
    }

    /// Makes what is frozen, or is asked for, anew, here and now.
    ///
    /// # Errors
    /// Where a file cannot be read or written.
    pub fn rebuild(&mut self) -> Result<(), StoreError> {
        loop {
            let Some(build) = self.build.borrow().clone() else { return Ok(()) };
            self.swap(Aside::open(&self.database, build)?)?;
        }
    }

    /// Freezes the groups of a damaged table, beside those that are frozen already.
    pub(super) fn freeze(&mut self, damaged: GroupSet) -> Result<(), StoreError> {
        let groups = self.frozen().into_iter().chain(damaged).collect();
        let tx = self.begin()?;
        // Should it be a definition that somebody took away.
        derived::define_funnels(&tx, &self.rules)?;
        let build = derived::freeze(&tx, &self.rules, groups)?;
        tx.commit()?;
        self.build.send_replace(Some(build));
        Ok(())
    }

    pub(super) fn frozen(&self) -> GroupSet {
        self.build.borrow().as_ref().map(|build| build.groups.clone()).unwrap_or_default()
    }
}
