//! When reading brings nothing: when to read messages singly instead, and how many.

use std::time::Duration;

use tokio::time::Instant;

/// Rounds in a row that brought nothing before the next messages are read singly: one of them may be such that its
/// delivery ends the connection, or never comes.
const MAX_FRUITLESS_ROUNDS: u32 = 3;
/// Where that helped, one such round is enough for so long: such messages seldom come alone.
const SUSPICION: Duration = Duration::from_secs(60);
/// How many messages are then read singly; twice as many each time under suspicion, up to the maximum.
const MIN_SINGLE_MESSAGES: usize = 8;
const MAX_SINGLE_MESSAGES: usize = 1024;

/// Rounds in a row that brought nothing, and what is done about them.
pub(super) struct Trouble {
    fruitless_rounds: u32,
    single_messages: usize,
    suspicious_until: Option<Instant>,
    has_progress: bool,
}

impl Trouble {
    pub(super) fn none() -> Self {
        Self { fruitless_rounds: 0, single_messages: MIN_SINGLE_MESSAGES, suspicious_until: None, has_progress: false }
    }

    fn is_suspicious(&self) -> bool {
        self.suspicious_until.is_some_and(|until| Instant::now() < until)
    }

    /// How many messages to read singly before the next pull; none where pulls bring them.
    pub(super) fn single_messages(&self) -> Option<usize> {
        let enough = if self.is_suspicious() { 1 } else { MAX_FRUITLESS_ROUNDS };
        (self.fruitless_rounds >= enough).then_some(self.single_messages)
    }

    pub(super) fn after_single_messages(&mut self, helped: bool) {
        self.fruitless_rounds = 0;
        if helped {
            self.has_progress = true;
            self.suspicious_until = Some(Instant::now() + SUSPICION);
            self.single_messages = (self.single_messages * 2).min(MAX_SINGLE_MESSAGES);
        }
    }

    pub(super) fn after_commit(&mut self) {
        self.has_progress = true;
        self.fruitless_rounds = 0;
        if !self.is_suspicious() {
            self.single_messages = MIN_SINGLE_MESSAGES;
        }
    }

    /// There are messages, but they are not delivered: the next ones are read singly at once.
    pub(super) fn after_stall(&mut self) {
        self.fruitless_rounds = MAX_FRUITLESS_ROUNDS;
    }

    /// A round was interrupted while there were messages to read.
    pub(super) fn after_interruption(&mut self) {
        self.fruitless_rounds += 1;
    }

    /// Whether anything was committed since this was last asked.
    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.has_progress)
    }
}
