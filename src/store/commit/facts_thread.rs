//! Facts of large transactions, made on a thread beside the writer's: while it writes the raw rows of a batch, the rules go
//! over the one before.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use crate::analytics::{Facts, Rules};
use crate::judge::{Batch, Verdict};
use crate::position::Position;
use crate::store::receipt::{Ending, stored};
use crate::store::sqlite::rebuild::accepted_log::StoredRows;

/// Batches of fewer messages are not worth a thread.
const MIN_MESSAGES: usize = 1_000;
/// Batches that wait to be gone over.
const MAX_WAITING: usize = 1;

/// What a transaction takes at once.
pub(in crate::store) enum Part<'env> {
    /// A batch that the caller keeps.
    Borrowed(&'env Batch),
    /// A batch.
    Batch(Batch),
    /// Stored rows that stand for messages.
    Rows(StoredRows),
}

impl Part<'_> {
    /// The batch of messages that it is, if it is one.
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

    /// The position that it follows.
    pub(super) fn after(&self) -> &Position {
        match self {
            Self::Borrowed(batch) => &batch.after,
            Self::Batch(batch) => &batch.after,
            Self::Rows(rows) => &rows.after,
        }
    }

    /// The position once it is written.
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

/// Where facts of a transaction are made.
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
            // The system gives no thread.
            Err(_) => Self::Here(Box::default(), rules),
        }
    }

    /// Adds what a batch says, of which these messages were stored.
    pub(super) fn add(&mut self, part: Part<'env>, endings: Vec<Ending>) {
        match self {
            Self::Here(facts, rules) => facts.add(rules, stored(part.verdicts(), &endings)),
            // Nobody takes it where the thread has panicked, which `finish` passes on.
            Self::Thread { written, .. } => drop(written.send((part, endings))),
        }
    }

    /// How many keys they speak of, of the batches that were gone over: what they take in memory.
    pub(super) fn keys(&self) -> usize {
        match self {
            Self::Here(facts, _) => facts.keys(),
            Self::Thread { keys, .. } => keys.load(Ordering::Relaxed),
        }
    }

    /// All of them.
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
