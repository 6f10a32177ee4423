//! A message as the stream delivers it.

use bytes::Bytes;

use crate::model::Timestamp;

/// A message as the stream delivers it. Every redelivery and replay brings the same values.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The subject that the message was published to.
    pub subject: String,
    /// The body of the message.
    pub payload: Bytes,
    /// The message's size on the wire in bytes, headers included.
    pub size_bytes: usize,
    /// The message's sequence in the stream.
    pub stream_sequence: u64,
    /// When the server received the message, in nanoseconds since the Unix epoch.
    pub recv_ns: i64,
}

impl Delivery {
    /// Returns when the server received the message, floored to milliseconds. Rules judge a message's timestamp
    /// against this time.
    pub fn recv(&self) -> Timestamp {
        Timestamp::from_nanos(self.recv_ns)
    }
}
