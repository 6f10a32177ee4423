//! `_rejections`: the ledger of messages that were not accepted, and the outbox of dead letters.
//!
//! `write` stores rejected messages and drops them. `retry` records which messages were judged again. `read` lists
//! rows, for people and for the stream of dead letters. `selection` selects rows.

mod read;
mod retry;
mod selection;
mod write;

pub use read::{ClosedDeadLetters, DeadLetter, DeadLetterMessage, Unpublished};
pub(in crate::store) use read::{
    count_closed, dead_letter_with_payload, for_each_dead_letter, message_of, unpublished,
};
pub(in crate::store) use retry::{
    applied_after, is_known_retry, last_retry, mark_for_retry, marked_for_retry, not_accepted, record_retry,
};
pub use selection::{DeadLetterId, DeadLetterKey, Selection};
pub(in crate::store) use write::{RejectionInsert, drop_selected, mark_published};
