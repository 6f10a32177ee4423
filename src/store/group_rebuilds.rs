//! Groups of derived tables that are rebuilt: frozen, rebuilt in a shadow file, installed.

use std::time::Instant;

use super::error::StoreError;
use super::receipt::InstallReceipt;
use super::sqlite::ledger::requests::RequestOutcome;
use super::sqlite::rebuild::frozen::GroupRebuild;
use super::sqlite::rebuild::shadow_groups::{self, ShadowGroups};
use super::writer::{Writer, current_groups};
use crate::analytics::GroupSet;
use crate::analytics::dashboard::Touched;

impl Writer {
    /// Brings rebuilt groups up to date and installs them, in one transaction that writes the rows that differ. None where
    /// another rebuild is wanted now.
    ///
    /// # Errors
    /// Where the transaction fails; then nothing changed.
    pub fn install_groups(&mut self, mut shadow: ShadowGroups) -> Result<Option<InstallReceipt>, StoreError> {
        let wanted = self.rebuild.borrow().clone();
        let Some(rebuild) = wanted.filter(|wanted| shadow.is_of(wanted)) else { return Ok(None) };
        let began = Instant::now();
        // What was written since its last step. Nothing else is written meanwhile: whoever writes does it here.
        while shadow.step(shadow.step_messages())? {}
        let rows_that_differed = self.file.attached(shadow.path(), "shadow", |_| self.install_attached(&rebuild))?;
        let receipt = InstallReceipt { raw_rows: shadow.progress().rows, rows_that_differed, pause: began.elapsed() };
        self.rebuild.send_replace(None);
        self.answer(&rebuild, receipt)?;
        drop(shadow);
        shadow_groups::remove(self.file.path())?;
        tracing::info!(
            groups = %rebuild.names().join(" "),
            raw_rows = receipt.raw_rows,
            rows_that_differed,
            pause_ms = receipt.pause.as_millis(),
            "derived tables are rebuilt"
        );
        Ok(Some(receipt))
    }

    fn install_attached(&self, rebuild: &GroupRebuild) -> Result<usize, StoreError> {
        let tx = self.file.begin()?;
        let differed = tx.install_groups(rebuild)?;
        tx.thaw(rebuild)?;
        match tx.evaluate(&self.rules, &current_groups(&self.rules, None), &Touched::default()) {
            // Of another number: the next commit that comes to it freezes it.
            Err(StoreError::Damaged { table, key, why }) => tracing::warn!("{table}, key {key:?}: {why}"),
            result => drop(result?),
        }
        tx.commit()?;
        self.notify(true);
        Ok(differed)
    }

    /// Tells those who asked for a rebuild.
    fn answer(&self, rebuild: &GroupRebuild, receipt: InstallReceipt) -> Result<(), StoreError> {
        for wanted in self.file.open_requests()? {
            if wanted.so_far.rebuild.as_ref() == Some(&rebuild.id) {
                let rows_that_differed = receipt.rows_that_differed as u64;
                let outcome = RequestOutcome { rows_that_differed, ..wanted.so_far.after(receipt.pause) };
                self.finish(&wanted, "done", &outcome)?;
            }
        }
        Ok(())
    }

    /// Rebuilds what is frozen, or is asked for, here and now.
    ///
    /// # Errors
    /// Where a file cannot be read or written.
    pub fn rebuild_groups(&mut self) -> Result<(), StoreError> {
        loop {
            let Some(rebuild) = self.rebuild.borrow().clone() else { return Ok(()) };
            self.install_groups(ShadowGroups::open(self.file.path(), rebuild)?)?;
        }
    }

    /// Freezes the groups of a damaged table, beside those that are frozen already.
    pub(super) fn freeze(&mut self, damaged: GroupSet) -> Result<(), StoreError> {
        let groups = self.groups_in_rebuild().into_iter().chain(damaged).collect();
        let tx = self.file.begin()?;
        // Should it be a definition that somebody took away.
        tx.define_funnels(&self.rules)?;
        let rebuild = tx.freeze(&self.rules, groups)?;
        tx.commit()?;
        self.rebuild.send_replace(Some(rebuild));
        Ok(())
    }
}
