//! Tests against the real nats-server and the real SQLite, through the real binary.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod support;

/// Messages that are not JSON, are too large or have a wrong type: each gets its reason, and none blocks the next.
mod bad_input;
/// Commands: exit status, output, configuration.
mod cli;
/// kill -9, a server that dies, connections that break, a locked database.
mod crash;
/// Live numbers: from the database through the bucket to subscribers.
mod dashboards;
/// Publication of the ledger to the stream of dead letters.
mod dead_letters;
/// The demo, and `watch` on it.
mod demo;
/// Dead letters: list, retry, drop.
mod dlq;
/// Duplicates and conflicts of ids.
mod duplicates;
/// Funnels: the commands, and definitions that change while messages flow.
mod funnels;
/// Health, metrics, version, and a stop in time.
mod http;
/// The laws of the tables as property tests, without NATS.
mod laws;
/// The page in a real browser, its access control and its limits.
mod page;
/// Messages that the server stores but cannot deliver to a client. The worker reads them in another way.
mod poison;
/// The publisher: acks, retries, and messages that it hands back.
mod publisher;
/// Who may write to a database, and who may read through a consumer.
mod readers;
/// Real data that this project did not make: the flights of nycflights13, the purchases of CDNOW.
mod real_data;
/// Rebuilds, and the files that they make.
mod rebuild;
/// Bugs that were mended, each with its test.
mod regression;
/// Restores of backups.
mod restore;
/// Streams that are purged, deleted, recreated or rolled back; epochs.
mod stream_life;
/// Rules for the source tree.
mod tidy;
/// `verify`: whether the database equals what its messages make.
mod verify;
