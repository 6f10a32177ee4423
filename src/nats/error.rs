//! Errors of NATS, and whether another try can help.

use crate::position::StreamRefusal;

/// An error of NATS.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// No server answers at the address.
    #[error("cannot connect to NATS at {url}: {reason}")]
    Unreachable {
        /// The address, without secrets.
        url: String,
        /// The reason that the client gave.
        reason: String,
    },
    /// The server does not admit this client, or the address is invalid.
    #[error("cannot connect to NATS at {url}: {reason}")]
    NotAdmitted {
        /// The address, without secrets.
        url: String,
        /// The reason that the client gave.
        reason: String,
    },
    /// The server is too old to reset a consumer.
    #[error("nats-server {version} is too old: streamgauge needs {needed} or later, which can reset a consumer")]
    ServerTooOld {
        /// The server's version.
        version: String,
        /// The first version that is new enough.
        needed: String,
    },
    /// A file with credentials cannot be used.
    #[error("{key} {path}: {reason}")]
    Credentials {
        /// The configuration key that names the file.
        key: &'static str,
        /// The file.
        path: String,
        /// Why the file cannot be used.
        reason: String,
    },
    /// The connection was lost before the work was done.
    #[error("the connection was lost")]
    ConnectionLost,
    /// The server refused a request, or did not answer.
    #[error("{request}: {reason}")]
    Request {
        /// The request that failed, such as "cannot create stream ANALYTICS".
        request: String,
        /// The reason that the server or the client gave.
        reason: String,
    },
    /// A stream, a consumer or a bucket does not exist.
    #[error("{what} does not exist{hint}")]
    Missing {
        /// The missing thing, such as "stream ANALYTICS".
        what: String,
        /// A hint for the operator, with the punctuation before it; empty if there is none.
        hint: String,
        /// Whether the missing thing may appear by itself.
        may_come: bool,
    },
    /// The stream was deleted and created again while it was being read.
    #[error("stream {stream} was recreated while it was being read")]
    Recreated {
        /// The stream.
        stream: String,
    },
    /// The settings of the consumer do not fit.
    #[error(
        "streamgauge cannot read through consumer {consumer} of stream {stream}: {why}; delete the consumer, or name \
         another one with stream.consumer"
    )]
    UnfitConsumer {
        /// The consumer.
        consumer: String,
        /// Its stream.
        stream: String,
        /// The setting that does not fit.
        why: &'static str,
    },
    /// Another process reads through the consumer.
    #[error(
        "consumer {consumer} of stream {stream} is being read by {other}: stop that process, or give this \
         worker its own consumer with stream.consumer"
    )]
    ConsumerInUse {
        /// The consumer.
        consumer: String,
        /// Its stream.
        stream: String,
        /// The other reader.
        other: String,
    },
    /// Other processes reset the consumer again and again.
    #[error(
        "consumer {consumer} of stream {stream} was reset by others again and again; {other} uses it too: stop that \
         process, or give this worker its own consumer with stream.consumer"
    )]
    ConsumerContested {
        /// The consumer.
        consumer: String,
        /// Its stream.
        stream: String,
        /// The other reader, if it is known.
        other: String,
    },
    /// The stream cannot be read from the position in the database.
    #[error(transparent)]
    Refused(#[from] StreamRefusal),
}

impl NatsError {
    /// Whether the error may pass by itself: the server restarts, a leader changes, a request times out. Any other
    /// error needs action by somebody.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::ConnectionLost | Self::Request { .. } | Self::Recreated { .. } => true,
            Self::Missing { may_come, .. } => *may_come,
            Self::NotAdmitted { .. }
            | Self::ServerTooOld { .. }
            | Self::Credentials { .. }
            | Self::UnfitConsumer { .. }
            | Self::ConsumerInUse { .. }
            | Self::ConsumerContested { .. }
            | Self::Refused(_) => false,
        }
    }

    pub(super) fn request(request: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Request { request: request.into(), reason: reason.to_string() }
    }

    /// Makes a [`NatsError::Missing`] for a thing that may appear by itself.
    pub(super) fn missing_yet(what: impl Into<String>, hint: &str) -> Self {
        Self::Missing { what: what.into(), hint: hint.to_owned(), may_come: true }
    }
}
