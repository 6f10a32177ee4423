//! A message as it comes from the stream.

use bytes::Bytes;

use crate::model::Timestamp;

/// A message as the stream delivers it. The same on every redelivery and replay.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The subject that it was published to.
    pub subject: String,
    /// Its bytes.
    pub payload: Bytes,
    /// What it took on the wire, headers included, in bytes.
    pub size_bytes: usize,
    /// Its sequence in the stream.
    pub stream_sequence: u64,
    /// When the server received it, in nanoseconds since the Unix epoch.
    pub recv_ns: i64,
}

impl Delivery {
    /// When the server received it, floored to milliseconds: the time that rules judge by.
    pub fn recv(&self) -> Timestamp {
        Timestamp::from_nanos(self.recv_ns)
    }
}
