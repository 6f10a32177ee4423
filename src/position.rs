//! Where reading stands in a stream, and whether the stream is still the one that was read. Pure.

use crate::model::Timestamp;

/// How far a stream was read, as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The stream's name.
    pub stream: String,
    /// Which life of the stream this is, numbered through the whole database from 1.
    pub epoch: i64,
    /// The stream's created time in nanoseconds: its only identity.
    pub stream_created_ns: i64,
    /// Where reading began in this epoch.
    pub first_seq: u64,
    /// The last message that is stored, a duplicate, rejected, or known to be gone.
    pub last_seq: u64,
    /// When the server received that message; 0 where it was not read.
    pub last_recv_ns: i64,
}

/// What a stream says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// Its name.
    pub name: String,
    /// When it was created, in nanoseconds.
    pub created_ns: i64,
    /// The first sequence that it holds; one past the last where it holds none.
    pub first_seq: u64,
    /// The last sequence that it gave out.
    pub last_seq: u64,
    /// Whether it keeps messages until a limit is met, not until they are read.
    pub has_limits_retention: bool,
    /// When it received the message at the position's `last_seq`, if it still holds one there.
    pub recv_ns_at_position: Option<i64>,
}

/// Messages that the stream no longer holds: sequences from first to last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first that is gone.
    pub first_seq: u64,
    /// The last that is gone.
    pub last_seq: u64,
    /// How they went.
    pub reason: GapReason,
}

/// How messages went before they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    /// Removed one by one, between messages that are still there.
    Deleted,
    /// Removed from the front of the stream, by its limits or by a purge.
    ExpiredOrPurged,
}

impl GapReason {
    /// As it stands in the gap ledger.
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
    /// Go on after the position.
    Resume(Position),
    /// Record the gap after the position, then go on after the gap.
    Behind(Position, Gap),
    /// Begin an epoch at this sequence.
    Begin {
        /// The first sequence to read.
        first_seq: u64,
    },
}

/// Why a stream is not read. What was read before stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum StreamRefusal {
    #[error(
        "stream {stream} does not have retention `limits`: it drops messages once they are read, so nothing could be \
         rebuilt from it; set its retention to limits, or name another stream with stream.name"
    )]
    Retention { stream: String },
    #[error(
        "stream {stream} was recreated: this one was created at {found}, but the database was filled from one created \
         at {expected}, so sequences mean other messages now; if that is what you want, run `streamgauge run \
         --new-epoch`: rows stay, and messages with ids are still counted once"
    )]
    Recreated { stream: String, expected: Timestamp, found: Timestamp },
    #[error(
        "stream {stream} was deleted after the database had read it up to sequence {last_seq}; restore it, or run \
         `streamgauge run --new-epoch` to go on with a new one: rows stay, and messages with ids are still counted once"
    )]
    Deleted { stream: String, last_seq: u64 },
    #[error(
        "stream {stream} was rolled back: it ends at sequence {found}, but the database has read it up to {expected} \
         (nats-server lost what it had not yet synced, or an older copy was restored); run `streamgauge run \
         --new-epoch` to read what it holds now: rows stay, and messages with ids are still counted once"
    )]
    RolledBack { stream: String, expected: u64, found: u64 },
    #[error(
        "stream {stream} holds another message at sequence {last_seq} than the one that the database has read there: \
         it was rolled back and has grown again; run `streamgauge run --new-epoch` to read what it holds now: rows \
         stay, and messages with ids are still counted once"
    )]
    Regrown { stream: String, last_seq: u64 },
    #[error(
        "the database was filled from stream {other}, not from {stream}; set stream.name back, use another database, \
         or run `streamgauge run --new-epoch` to go on with {stream} in this one"
    )]
    OtherStream { stream: String, other: String },
}

/// Decides how to go on with a stream.
///
/// | the stream, beside where the database stands | outcome |
/// |---|---|
/// | does not keep messages until a limit is met | refused, whatever is named |
/// | is the first that this database reads | [`Standing::Begin`] at its first sequence |
/// | has another name or created time, ends before the position, or holds another message there | refused; with `new_epoch` [`Standing::Begin`] |
/// | begins later than the position goes on | [`Standing::Behind`], with the gap |
/// | anything else | [`Standing::Resume`] |
///
/// `last` is where the database stands, in whatever stream it read last. A new epoch is begun only where the old one
/// cannot go on: naming it without need, say in a service's start command, changes nothing.
///
/// # Errors
/// [`StreamRefusal`] where the stream is not the one that was read, and the operator did not name a new epoch.
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
