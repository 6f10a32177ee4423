//! Makes the facts of large transactions on a thread beside the writer's. While the writer writes the raw rows of a
//! batch, the rules read the batch before.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use crate::analytics::{Facts, Rules};
use crate::judge::{Batch, Verdict};
use crate::position::Position;
use crate::store::receipt::{Ending, stored};
use crate::store::sqlite::rebuild::accepted_log::StoredRows;

/// The second thread starts only if the transaction's first batch has this many messages.
const MIN_MESSAGES: usize = 1_000;
/// How many written batches may wait for the rules.
const MAX_WAITING: usize = 1;

/// A part of a transaction.
pub(in crate::store) enum Part<'env> {
    /// A batch that the caller keeps.
    Borrowed(&'env Batch),
    /// A batch.
    Batch(Batch),
    /// Stored rows that stand in for messages.
    Rows(StoredRows),
}

impl Part<'_> {
    /// Returns the batch; `None` for stored rows.
    pub(super) fn as_batch(&self) -> Option<&Batch> {
        match self {
            Self::Borrowed(batch) => Some(batch),
            Self::Batch(batch) => Some(batch),
            Self::Rows(_) => None,
        }
    }

    pub(super) fn verdicts(&self) -> &[Verdict] {
        match self {
            Self::Borrowed(batch) => &batch.verdicts,
            Self::Batch(batch) => &batch.verdicts,
            Self::Rows(rows) => &rows.verdicts,
        }
    }

    /// Returns the position that the part follows.
    pub(super) fn after(&self) -> &Position {
        match self {
            Self::Borrowed(batch) => &batch.after,
            Self::Batch(batch) => &batch.after,
            Self::Rows(rows) => &rows.after,
        }
    }

    /// Returns the position after the part is written.
    pub(super) fn end(&self) -> Position {
        match self {
            Self::Borrowed(batch) => batch.end(),
            Self::Batch(batch) => batch.end(),
            Self::Rows(rows) => rows.end.clone(),
        }
    }
}

/// A part whose raw rows are written, and how its messages ended.
type WrittenPart<'env> = (Part<'env>, Vec<Ending>);

/// Where the facts of a transaction are made: here, on the writer's thread, or on a second thread.
pub(super) enum FactsThread<'scope, 'env> {
    Here(Box<Facts>, &'env Rules),
    Thread { written: SyncSender<WrittenPart<'env>>, keys: Arc<AtomicUsize>, thread: ScopedJoinHandle<'scope, Facts> },
}

impl<'scope, 'env> FactsThread<'scope, 'env> {
    pub(super) fn start(scope: &'scope Scope<'scope, 'env>, rules: &'env Rules, messages: usize) -> Self {
        if messages < MIN_MESSAGES {
            return Self::Here(Box::default(), rules);
        }
        let (written, queue) = sync_channel(MAX_WAITING);
        let keys = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&keys);
        let thread = Builder::new().name("facts".into());
        match thread.spawn_scoped(scope, move || gather(rules, &queue, &seen)) {
            Ok(thread) => Self::Thread { written, keys, thread },
            // The system cannot start a thread.
            Err(_) => Self::Here(Box::default(), rules),
        }
    }

    /// Adds the facts of a part. `endings` says which of its messages were stored.
    pub(super) fn add(&mut self, part: Part<'env>, endings: Vec<Ending>) {
        match self {
            Self::Here(facts, rules) => facts.add(rules, stored(part.verdicts(), &endings)),
            // This fails only if the thread has panicked; `finish` passes the panic on.
            Self::Thread { written, .. } => drop(written.send((part, endings))),
        }
    }

    /// Returns how many keys the facts have so far: a measure of their memory. Batches that still wait are not
    /// counted.
    pub(super) fn keys(&self) -> usize {
        match self {
            Self::Here(facts, _) => facts.keys(),
            Self::Thread { keys, .. } => keys.load(Ordering::Relaxed),
        }
    }

    /// Waits for the thread, if there is one. Returns all facts.
    pub(super) fn finish(self) -> Facts {
        match self {
            Self::Here(facts, _) => *facts,
            Self::Thread { written, thread, .. } => {
                drop(written);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        }
    }
}

fn gather(rules: &Rules, queue: &Receiver<WrittenPart<'_>>, keys: &AtomicUsize) -> Facts {
    let mut facts = Facts::default();
    for (part, endings) in queue {
        facts.add(rules, stored(part.verdicts(), &endings));
        keys.store(facts.keys(), Ordering::Relaxed);
    }
    facts
}
