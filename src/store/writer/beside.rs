//! Facts of large transactions, made on a thread beside the writer's: while it writes the raw rows of a batch, the rules go
//! over the one before.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use crate::analytics::{Facts, Rules};
use crate::judge::Batch;
use crate::store::raw::{End, stored};

/// Batches of fewer messages are not worth a thread.
const MIN_MESSAGES: usize = 1_000;
/// Batches that wait to be gone over.
const MAX_WAITING: usize = 1;

/// A batch whose raw rows are written.
pub(super) enum Held<'env> {
    Borrowed(&'env Batch),
    Owned(Batch),
}

impl Deref for Held<'_> {
    type Target = Batch;

    fn deref(&self) -> &Batch {
        match self {
            Self::Borrowed(batch) => batch,
            Self::Owned(batch) => batch,
        }
    }
}

type Job<'env> = (Held<'env>, Vec<End>);

/// Where facts of a transaction are made.
pub(super) enum FactsBeside<'scope, 'env> {
    Here(Box<Facts>, &'env Rules),
    Beside { jobs: SyncSender<Job<'env>>, keys: Arc<AtomicUsize>, thread: ScopedJoinHandle<'scope, Facts> },
}

impl<'scope, 'env> FactsBeside<'scope, 'env> {
    pub(super) fn start(scope: &'scope Scope<'scope, 'env>, rules: &'env Rules, messages: usize) -> Self {
        if messages < MIN_MESSAGES {
            return Self::Here(Box::default(), rules);
        }
        let (jobs, queue) = sync_channel(MAX_WAITING);
        let keys = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&keys);
        let thread = Builder::new().name("facts".into());
        match thread.spawn_scoped(scope, move || gather(rules, &queue, &seen)) {
            Ok(thread) => Self::Beside { jobs, keys, thread },
            // The system gives no thread.
            Err(_) => Self::Here(Box::default(), rules),
        }
    }

    /// Adds what a batch says, of which these messages were stored.
    pub(super) fn add(&mut self, batch: Held<'env>, ends: Vec<End>) {
        match self {
            Self::Here(facts, rules) => facts.add(rules, stored(&batch.verdicts, &ends)),
            // Nobody takes it where the thread has panicked, which `finish` passes on.
            Self::Beside { jobs, .. } => drop(jobs.send((batch, ends))),
        }
    }

    /// How many keys they speak of, of the batches that were gone over: what they take in memory.
    pub(super) fn keys(&self) -> usize {
        match self {
            Self::Here(facts, _) => facts.keys(),
            Self::Beside { keys, .. } => keys.load(Ordering::Relaxed),
        }
    }

    /// All of them.
    pub(super) fn finish(self) -> Facts {
        match self {
            Self::Here(facts, _) => *facts,
            Self::Beside { jobs, thread, .. } => {
                drop(jobs);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        }
    }
}

fn gather(rules: &Rules, queue: &Receiver<Job<'_>>, keys: &AtomicUsize) -> Facts {
    let mut facts = Facts::default();
    for (batch, ends) in queue {
        facts.add(rules, stored(&batch.verdicts, &ends));
        keys.store(facts.keys(), Ordering::Relaxed);
    }
    facts
}
