// The script that people write instead, in JavaScript: it inserts raw rows only, and acks after each commit.
//
// Usage: node instead.mjs URL DATABASE MESSAGES PRAGMAS
// Prints the committed rows a second, from the first request to the last commit.
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import Database from "better-sqlite3";

const BATCH = 5_000;
const CONSUMER = "instead-node";
const [url, file, messages, pragmas] = process.argv.slice(2);
const count = Number(messages);

const database = new Database(file);
for (const [pragma, value] of JSON.parse(pragmas)) database.pragma(`${pragma} = ${value}`);
const insertEvent = database.prepare(`INSERT OR IGNORE INTO analytics_events (id, event_type, event_name, timestamp,
  session_id, user_id, properties, context, page_url, referrer, epoch, stream_seq, recv_ms, supplied, anonymous_id)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, 0, ?)`);
const insertMetric = database.prepare(`INSERT OR IGNORE INTO metrics (id, name, metric_type, value, timestamp, tags, unit,
  epoch, stream_seq, recv_ms, supplied) VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?, 0)`);

const text = (value) => (value === undefined ? null : JSON.stringify(value));
const write = database.transaction((batch) => {
  for (const message of batch) {
    const body = message.json();
    const { streamSequence, timestampNanos } = message.info;
    const recvMs = Math.floor(timestampNanos / 1_000_000);
    if (message.subject === "analytics.metrics") {
      insertMetric.run(
        body.id, body.name, body.metric_type, body.value, body.timestamp, text(body.tags), body.unit ?? null,
        streamSequence, recvMs,
      );
    } else {
      insertEvent.run(
        body.id, body.event_type, body.event_name, body.timestamp, body.session_id ?? null, body.user_id ?? null,
        text(body.properties), text(body.context), body.page_url ?? null, body.referrer ?? null, streamSequence, recvMs,
        body.anonymous_id ?? null,
      );
    }
  }
});

const connection = await connect({ servers: url });
const manager = await jetstreamManager(connection);
await manager.consumers.add("ANALYTICS", {
  durable_name: CONSUMER, ack_policy: AckPolicy.All, max_ack_pending: 4 * BATCH,
});
const consumer = await jetstream(connection).consumers.get("ANALYTICS", CONSUMER);
const arriving = await consumer.consume({ max_messages: 2 * BATCH });
let [rows, batch] = [0, []];
const began = performance.now();
for await (const message of arriving) {
  batch.push(message);
  if (batch.length < BATCH && rows + batch.length < count) continue;
  write(batch);
  message.ack();
  rows += batch.length;
  batch = [];
  if (rows >= count) break;
}
console.log((rows * 1_000) / (performance.now() - began));
await connection.close();
