//! What one transaction takes: judged messages in stream order, the gaps between them, and where it began.
//!
//! Architecture invariant: a batch knows nothing of NATS, of time, or of SQL.

use std::time::Duration;

use super::verdict::Verdict;
use crate::position::{Gap, GapReason, Position};

/// Bytes that a message takes beside what it took on the wire, for the limit.
const OVERHEAD_BYTES: usize = 256;

/// How much a batch takes.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Number of messages.
    pub max_messages: usize,
    /// Bytes of payloads.
    pub max_bytes: usize,
    /// How long to wait for a batch to fill, under backlog.
    pub max_delay: Duration,
}

/// Messages that are written together.
#[derive(Debug)]
pub struct Batch {
    /// The position that the first message follows: what the transaction compares with.
    pub after: Position,
    /// The messages, in stream order.
    pub verdicts: Vec<Verdict>,
    /// Sequences between them that the stream does not hold.
    pub gaps: Vec<Gap>,
    /// Whether they were not delivered, but are stored rows which stand for messages.
    pub is_of_rows: bool,
    size_bytes: usize,
    end: Position,
}

impl Batch {
    /// An empty batch after a position.
    pub fn after(position: Position) -> Self {
        let (end, after) = (position.clone(), position);
        Self { after, verdicts: Vec::new(), gaps: Vec::new(), is_of_rows: false, size_bytes: 0, end }
    }

    /// The stored rows of all messages from one position to another.
    pub fn of_rows(after: Position, verdicts: Vec<Verdict>, end: Position) -> Self {
        Self { after, verdicts, gaps: Vec::new(), is_of_rows: true, size_bytes: 0, end }
    }

    /// The position once this batch is written.
    pub fn end(&self) -> Position {
        self.end.clone()
    }

    /// The last sequence of that position.
    pub fn end_seq(&self) -> u64 {
        self.end.last_seq
    }

    /// Messages that the stream no longer held.
    pub fn missing(&self) -> u64 {
        self.gaps.iter().map(|gap| gap.last_seq - gap.first_seq + 1).sum()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.verdicts.is_empty()
    }

    /// Whether it has reached a limit.
    pub fn is_full(&self, limits: BatchLimits) -> bool {
        self.verdicts.len() >= limits.max_messages || self.size_bytes >= limits.max_bytes
    }

    /// Tells gaps that the stream's limits or a purge made, before its first sequence, from messages that were deleted.
    pub fn reason_gaps(&mut self, stream_first_seq: u64) {
        for gap in self.gaps.iter_mut().filter(|gap| gap.last_seq < stream_first_seq) {
            gap.reason = GapReason::ExpiredOrPurged;
        }
    }

    /// Adds the next message of the stream. Where sequences are missing before it, the stream does not hold them.
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
