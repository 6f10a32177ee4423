//! The batch: the unit that the pipeline hands to the writer. It holds judged messages in stream order, the gaps
//! between them, and the start position.
//!
//! Architecture invariant: a batch does not depend on NATS, on the clock, or on SQL.

use std::time::Duration;

use super::verdict::Verdict;
use crate::position::{Gap, GapReason, Position};

/// Bytes that the size limit counts for each message, in addition to its size on the wire.
const OVERHEAD_BYTES: usize = 256;

/// The limits of a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// The maximum number of messages.
    pub max_messages: usize,
    /// The maximum size in bytes: each message's size on the wire, plus a fixed overhead per message.
    pub max_bytes: usize,
    /// How long a batch may wait to fill, under backlog.
    pub max_delay: Duration,
}

/// Messages that one transaction writes together.
#[derive(Debug)]
pub struct Batch {
    /// The position before the first message. The transaction compares this position with the database's.
    pub after: Position,
    /// The messages, in stream order.
    pub verdicts: Vec<Verdict>,
    /// The sequences between the messages that the stream does not hold.
    pub gaps: Vec<Gap>,
    size_bytes: usize,
    end: Position,
}

impl Batch {
    /// Makes an empty batch that begins after a position.
    pub fn after(position: Position) -> Self {
        let (end, after) = (position.clone(), position);
        Self { after, verdicts: Vec::new(), gaps: Vec::new(), size_bytes: 0, end }
    }

    /// Returns the position that the database has after this batch is written.
    pub fn end(&self) -> Position {
        self.end.clone()
    }

    /// Returns the last sequence of [`Batch::end`].
    pub fn end_seq(&self) -> u64 {
        self.end.last_seq
    }

    /// Returns the number of messages in the gaps.
    pub fn missing(&self) -> u64 {
        self.gaps.iter().map(|gap| gap.last_seq - gap.first_seq + 1).sum()
    }

    /// Returns whether the batch has no messages.
    pub fn is_empty(&self) -> bool {
        self.verdicts.is_empty()
    }

    /// Returns whether the batch has reached its limit of messages or of bytes.
    pub fn is_full(&self, limits: BatchLimits) -> bool {
        self.verdicts.len() >= limits.max_messages || self.size_bytes >= limits.max_bytes
    }

    /// Marks the gaps that end before the stream's first sequence: the stream's limits or a purge made these gaps.
    /// Any other gap stays marked as deleted messages.
    pub fn reason_gaps(&mut self, stream_first_seq: u64) {
        for gap in self.gaps.iter_mut().filter(|gap| gap.last_seq < stream_first_seq) {
            gap.reason = GapReason::ExpiredOrPurged;
        }
    }

    /// Adds the next message of the stream. Records a gap if sequences are missing before this message: the stream
    /// does not hold them.
    pub fn push(&mut self, verdict: Verdict) {
        let previous_seq = self.end.last_seq;
        let seq = verdict.delivery.stream_sequence;
        debug_assert!(seq > previous_seq, "{seq} after {previous_seq}");
        if seq > previous_seq + 1 {
            self.gaps.push(Gap { first_seq: previous_seq + 1, last_seq: seq - 1, reason: GapReason::Deleted });
        }
        (self.end.last_seq, self.end.last_recv_ns) = (seq, verdict.delivery.recv_ns);
        self.size_bytes += verdict.delivery.size_bytes + OVERHEAD_BYTES;
        self.verdicts.push(verdict);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::judge::{Delivery, Reason, Rejection};

    fn position(last_seq: u64) -> Position {
        let stream = "S".into();
        Position { stream, epoch: 1, stream_created_ns: 0, first_seq: 1, last_seq, last_recv_ns: 0 }
    }

    fn verdict(stream_sequence: u64, bytes: usize) -> Verdict {
        let payload = Bytes::from(vec![b'x'; bytes]);
        let recv_ns = i64::try_from(stream_sequence).unwrap() * 10;
        Verdict {
            delivery: Delivery { subject: "s".into(), payload, size_bytes: bytes, stream_sequence, recv_ns },
            kind: None,
            outcome: Err(Rejection::message(Reason::UnknownSubject, "x")),
        }
    }

    #[test]
    fn gaps_between_messages_are_seen_and_the_position_follows_the_last() {
        let mut batch = Batch::after(position(4));
        assert_eq!(batch.end(), position(4));
        for seq in [5, 8, 9, 11] {
            batch.push(verdict(seq, 1));
        }
        let gaps: Vec<_> = batch.gaps.iter().map(|gap| (gap.first_seq, gap.last_seq)).collect();
        assert_eq!(gaps, [(6, 7), (10, 10)]);
        assert_eq!(batch.end(), Position { last_recv_ns: 110, ..position(11) });
    }

    #[test]
    fn a_batch_is_full_by_count_or_by_bytes() {
        let limits = BatchLimits { max_messages: 3, max_bytes: 10_000, max_delay: Duration::ZERO };
        let mut batch = Batch::after(position(0));
        for (seq, full) in [(1, false), (2, false), (3, true)] {
            batch.push(verdict(seq, 10));
            assert_eq!(batch.is_full(limits), full);
        }
        let mut batch = Batch::after(position(0));
        batch.push(verdict(1, 10_000));
        assert!(batch.is_full(limits));
    }
}
