//! Rebuilds of groups of derived tables: freezes groups, rebuilds them in a shadow file, and installs the result.

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
    /// Brings rebuilt groups up to date and installs them. One transaction writes the rows that differ. Returns
    /// `None` if this rebuild is no longer the wanted one.
    ///
    /// # Errors
    /// Fails if the transaction fails; nothing changed then.
    pub fn install_groups(&mut self, mut shadow: ShadowGroups) -> Result<Option<InstallReceipt>, StoreError> {
        let wanted = self.rebuild.borrow().clone();
        let Some(rebuild) = wanted.filter(|wanted| shadow.is_of(wanted)) else { return Ok(None) };
        let began = Instant::now();
        // Add what was written since the last step. Nothing is written meanwhile, because only this thread writes.
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
            "derived tables were rebuilt"
        );
        Ok(Some(receipt))
    }

    fn install_attached(&self, rebuild: &GroupRebuild) -> Result<usize, StoreError> {
        let tx = self.file.begin()?;
        let differed = tx.install_groups(rebuild)?;
        tx.thaw(rebuild)?;
        match tx.evaluate(&self.rules, &current_groups(&self.rules, None), &Touched::default()) {
            // The damage concerns a number outside this rebuild, so the install goes on. The next commit that evaluates
            // that number freezes its group.
            Err(StoreError::Damaged { table, key, why }) => tracing::warn!("{table}, key {key:?}: {why}"),
            result => drop(result?),
        }
        tx.commit()?;
        self.notify(true);
        Ok(differed)
    }

    /// Answers the requests that wait for this rebuild.
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

    /// Rebuilds and installs all groups that are frozen or requested, before it returns.
    ///
    /// # Errors
    /// Fails if a file cannot be read or written.
    pub fn rebuild_groups(&mut self) -> Result<(), StoreError> {
        loop {
            let Some(rebuild) = self.rebuild.borrow().clone() else { return Ok(()) };
            self.install_groups(ShadowGroups::open(self.file.path(), rebuild)?)?;
        }
    }

    /// Freezes the groups of a damaged table, together with the groups of the rebuild that is wanted already.
    pub(super) fn freeze(&mut self, damaged: GroupSet) -> Result<(), StoreError> {
        let groups = self.groups_in_rebuild().into_iter().chain(damaged).collect();
        let tx = self.file.begin()?;
        // The damage may be a funnel definition that another program deleted.
        tx.define_funnels(&self.rules)?;
        let rebuild = tx.freeze(&self.rules, groups)?;
        tx.commit()?;
        self.rebuild.send_replace(Some(rebuild));
        Ok(())
    }
}
