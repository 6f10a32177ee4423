//! The position of reading in a stream, and the check of the stream: may it be read, and is it still the one
//! that was read before? Pure.

use crate::model::Timestamp;

/// How far a stream was read, according to the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The stream's name.
    pub stream: String,
    /// The epoch: one life of a stream. Epochs are numbered from 1 through the whole database.
    pub epoch: i64,
    /// When the stream was created, in nanoseconds since the Unix epoch. Nothing else identifies a stream.
    pub stream_created_ns: i64,
    /// The sequence at which reading began in this epoch.
    pub first_seq: u64,
    /// The sequence of the last message that is stored, a duplicate, rejected, or known to be gone.
    pub last_seq: u64,
    /// When the server received that message, in nanoseconds since the Unix epoch. 0 if the message was not read.
    pub last_recv_ns: i64,
}

/// The state of a stream, as the server reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// The stream's name.
    pub name: String,
    /// When the stream was created, in nanoseconds since the Unix epoch.
    pub created_ns: i64,
    /// The first sequence that the stream holds. One past the last sequence if the stream is empty.
    pub first_seq: u64,
    /// The last sequence that the stream has assigned.
    pub last_seq: u64,
    /// Whether the stream keeps messages until it reaches a limit, instead of until they are read.
    pub has_limits_retention: bool,
    /// When the server received the message at the position's `last_seq`, in nanoseconds since the Unix epoch. `None`
    /// if the stream no longer holds a message there, or if the position has no `last_recv_ns`.
    pub recv_ns_at_position: Option<i64>,
}

/// Messages that the stream no longer holds: sequences from first to last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first sequence that is gone.
    pub first_seq: u64,
    /// The last sequence that is gone.
    pub last_seq: u64,
    /// How the messages were lost.
    pub reason: GapReason,
}

/// How the stream lost messages before they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    /// Removed one by one, between messages that are still there.
    Deleted,
    /// Removed from the front of the stream, by its limits or by a purge.
    ExpiredOrPurged,
}

impl GapReason {
    /// Returns the text that the gap ledger stores.
    pub const fn as_str(self) -> &'static str {
        match self {
            GapReason::Deleted => "deleted",
            GapReason::ExpiredOrPurged => "expired_or_purged",
        }
    }
}

/// What to do before reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Read on after the position.
    Resume(Position),
    /// Record the gap after the position, then read on after the gap.
    Behind(Position, Gap),
    /// Begin a new epoch at this sequence.
    Begin {
        /// The first sequence to read.
        first_seq: u64,
    },
}

/// Why a stream is not read. Everything in the database stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum StreamRefusal {
    #[error(
        "stream {stream} does not have retention `limits`: it drops messages after they are read, so a replay could \
         not read them again; set its retention to `limits`, or name another stream with stream.name"
    )]
    Retention { stream: String },
    #[error(
        "stream {stream} was recreated: it was created at {found}, but the database was filled from a stream created at \
         {expected}, so its sequences mean other messages now; to read the new stream, run `streamgauge run \
         --new-epoch`: rows stay, and messages with ids are still counted once"
    )]
    Recreated { stream: String, expected: Timestamp, found: Timestamp },
    #[error(
        "stream {stream} was deleted after the database had read it up to sequence {last_seq}; restore it, or run \
         `streamgauge run --new-epoch` to read a new stream: rows stay, and messages with ids are still counted once"
    )]
    Deleted { stream: String, last_seq: u64 },
    #[error(
        "stream {stream} was rolled back: it ends at sequence {found}, but the database has read it up to {expected} \
         (nats-server lost messages that it had not synced, or an older copy was restored); run `streamgauge run \
         --new-epoch` to read the messages that it holds now: rows stay, and messages with ids are still counted once"
    )]
    RolledBack { stream: String, expected: u64, found: u64 },
    #[error(
        "stream {stream} holds another message at sequence {last_seq} than the database has read there: the stream was \
         rolled back, then received new messages; run `streamgauge run --new-epoch` to read the messages that it holds \
         now: rows stay, and messages with ids are still counted once"
    )]
    Regrown { stream: String, last_seq: u64 },
    #[error(
        "the database was filled from stream {other}, not from {stream}; set stream.name back to {other}, use another \
         database, or run `streamgauge run --new-epoch` to read {stream} into this database"
    )]
    OtherStream { stream: String, other: String },
}

/// Decides how reading goes on, from the stream's state and the database's position.
///
/// | the stream, compared with the position | outcome |
/// |---|---|
/// | does not keep messages until it reaches a limit | refused, also with `new_epoch` |
/// | is the first stream that this database reads | [`Standing::Begin`] at its first sequence |
/// | has another name or created time, ends before the position, or holds another message there | refused; with `new_epoch` [`Standing::Begin`] |
/// | begins after the sequence that follows the position | [`Standing::Behind`], with the gap |
/// | anything else | [`Standing::Resume`] |
///
/// `last` is the position in the stream that the database read last. A new epoch begins only if the old epoch cannot
/// go on. So `new_epoch` without need, for example in a service's start command, changes nothing.
///
/// # Errors
/// [`StreamRefusal`] if the stream has the wrong retention, or if the stream is not the one that was read and
/// `new_epoch` is false.
pub fn stand(last: Option<&Position>, state: &StreamState, new_epoch: bool) -> Result<Standing, StreamRefusal> {
    let stream = || state.name.clone();
    if !state.has_limits_retention {
        return Err(StreamRefusal::Retention { stream: stream() });
    }
    let begin = Standing::Begin { first_seq: state.first_seq.max(1) };
    let Some(position) = last else { return Ok(begin) };
    let refusal = if position.stream != state.name {
        StreamRefusal::OtherStream { stream: stream(), other: position.stream.clone() }
    } else if position.stream_created_ns != state.created_ns {
        StreamRefusal::Recreated {
            stream: stream(),
            expected: Timestamp::from_nanos(position.stream_created_ns),
            found: Timestamp::from_nanos(state.created_ns),
        }
    } else if state.last_seq < position.last_seq {
        StreamRefusal::RolledBack { stream: stream(), expected: position.last_seq, found: state.last_seq }
    } else if position.last_recv_ns != 0
        && state.recv_ns_at_position.is_some_and(|recv_ns| recv_ns != position.last_recv_ns)
    {
        StreamRefusal::Regrown { stream: stream(), last_seq: position.last_seq }
    } else if state.first_seq > position.last_seq + 1 {
        let (first_seq, last_seq) = (position.last_seq + 1, state.first_seq - 1);
        let gap = Gap { first_seq, last_seq, reason: GapReason::ExpiredOrPurged };
        return Ok(Standing::Behind(position.clone(), gap));
    } else {
        return Ok(Standing::Resume(position.clone()));
    };
    if new_epoch { Ok(begin) } else { Err(refusal) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position() -> Position {
        Position { stream: "S".into(), epoch: 1, stream_created_ns: 5, first_seq: 1, last_seq: 100, last_recv_ns: 77 }
    }

    fn state() -> StreamState {
        StreamState {
            name: "S".into(),
            created_ns: 5,
            first_seq: 1,
            last_seq: 200,
            has_limits_retention: true,
            recv_ns_at_position: Some(77),
        }
    }

    #[test]
    fn a_fresh_database_begins_where_the_stream_does() {
        let empty = StreamState { first_seq: 0, last_seq: 0, recv_ns_at_position: None, ..state() };
        assert_eq!(stand(None, &empty, false), Ok(Standing::Begin { first_seq: 1 }));
        let trimmed = StreamState { first_seq: 41, ..state() };
        assert_eq!(stand(None, &trimmed, false), Ok(Standing::Begin { first_seq: 41 }));
    }

    #[test]
    fn the_same_stream_goes_on_and_what_it_lost_is_a_gap() {
        let gap = |first_seq, last_seq| Gap { first_seq, last_seq, reason: GapReason::ExpiredOrPurged };
        for (state, expected) in [
            (state(), Standing::Resume(position())),
            (StreamState { first_seq: 101, recv_ns_at_position: None, ..state() }, Standing::Resume(position())),
            (StreamState { recv_ns_at_position: None, ..state() }, Standing::Resume(position())),
            (StreamState { first_seq: 102, ..state() }, Standing::Behind(position(), gap(101, 101))),
            (StreamState { first_seq: 201, ..state() }, Standing::Behind(position(), gap(101, 200))),
        ] {
            for new_epoch in [false, true] {
                assert_eq!(stand(Some(&position()), &state, new_epoch), Ok(expected.clone()), "{state:?}");
            }
        }
        let unread = Position { last_recv_ns: 0, ..position() };
        assert_eq!(stand(Some(&unread), &state(), false), Ok(Standing::Resume(unread)));
    }

    #[test]
    fn another_stream_is_refused_until_a_new_epoch_is_named() {
        for state in [
            StreamState { created_ns: 6, ..state() },
            StreamState { last_seq: 99, recv_ns_at_position: None, ..state() },
            StreamState { recv_ns_at_position: Some(78), ..state() },
            StreamState { name: "T".into(), ..state() },
        ] {
            let refusal = stand(Some(&position()), &state, false).unwrap_err().to_string();
            assert!(refusal.contains("--new-epoch"), "{refusal}");
            assert_eq!(stand(Some(&position()), &state, true), Ok(Standing::Begin { first_seq: 1 }));
        }
        let workqueue = StreamState { has_limits_retention: false, ..state() };
        assert!(matches!(stand(Some(&position()), &workqueue, true), Err(StreamRefusal::Retention { .. })));
    }
}
