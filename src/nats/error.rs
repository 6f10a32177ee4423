//! What can go wrong with NATS, and whether trying again can help.

use crate::position::StreamRefusal;

/// What went wrong with NATS.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// No server answers at the address.
    #[error("cannot connect to NATS at {url}: {reason}")]
    Unreachable {
        /// The address, without secrets.
        url: String,
        /// What the client said.
        reason: String,
    },
    /// The server does not let this client in, or the address is none.
    #[error("cannot connect to NATS at {url}: {reason}")]
    NotAdmitted {
        /// The address, without secrets.
        url: String,
        /// What the client said.
        reason: String,
    },
    /// The server cannot do what is needed.
    #[error("nats-server {version} is too old: {needed} or later is needed, which can reset a consumer")]
    ServerTooOld {
        /// The server's version.
        version: String,
        /// The first version that will do.
        needed: String,
    },
    /// A file with credentials cannot be used.
    #[error("{key} {path}: {reason}")]
    Credentials {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The connection was lost while something was being done.
    #[error("the connection was lost")]
    ConnectionLost,
    /// The server did not do what was asked, or did not answer.
    #[error("{request}: {reason}")]
    Request {
        /// What was asked, such as "cannot create stream ANALYTICS".
        request: String,
        /// What the server, or the client, said.
        reason: String,
    },
    /// A stream, a consumer or a bucket is not there.
    #[error("{what} does not exist{hint}")]
    Missing {
        /// What, such as "stream ANALYTICS".
        what: String,
        /// What to do, with the punctuation before it; empty where there is nothing to do.
        hint: String,
        /// Whether it may come by itself.
        may_come: bool,
    },
    /// The stream was deleted and made anew while it was being read.
    #[error("stream {stream} was recreated while it was being read")]
    Recreated {
        /// The stream.
        stream: String,
    },
    /// The consumer is of another sort than is needed.
    #[error(
        "consumer {consumer} of stream {stream} is not one that streamgauge can read through: {why}; delete it, or name \
         another with stream.consumer"
    )]
    UnfitConsumer {
        /// The consumer.
        consumer: String,
        /// Its stream.
        stream: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another process reads through the consumer.
    #[error(
        "consumer {consumer} of stream {stream} is being read by {other}: stop that one, or give this one a consumer of \
         its own with stream.consumer"
    )]
    ConsumerInUse {
        /// The consumer.
        consumer: String,
        /// Its stream.
        stream: String,
        /// The other reader.
        other: String,
    },
    /// Others reset the consumer again and again.
    #[error(
        "consumer {consumer} of stream {stream} was reset by others again and again; {other} uses it too: stop that one, \
         or give this one a consumer of its own with stream.consumer"
    )]
    ConsumerContested {
        /// The consumer.
        consumer: String,
        /// Its stream.
        stream: String,
        /// The other reader, as far as it is known.
        other: String,
    },
    /// The stream is not the one that was read.
    #[error(transparent)]
    Refused(#[from] StreamRefusal),
}

impl NatsError {
    /// Whether it may pass by itself: the server restarts, a leader changes, a request times out. Anything else passes only
    /// if somebody does something.
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

    /// Something is missing that may come by itself.
    pub(super) fn missing_yet(what: impl Into<String>, hint: &str) -> Self {
        Self::Missing { what: what.into(), hint: hint.to_owned(), may_come: true }
    }
}
