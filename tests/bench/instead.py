"""The script that people write instead, in Python: it inserts raw rows only, and acks after each commit.

Usage: instead.py URL DATABASE MESSAGES PRAGMAS
Prints the committed rows a second, from the first request to the last commit.
"""

import asyncio
import json
import sqlite3
import sys
import time

import nats
from nats.js.api import AckPolicy, ConsumerConfig

BATCH = 5_000
EVENT = """INSERT OR IGNORE INTO analytics_events (id, event_type, event_name, timestamp, session_id, user_id, properties,
    context, page_url, referrer, epoch, stream_seq, recv_ms, supplied, anonymous_id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, 0, ?)"""
METRIC = """INSERT OR IGNORE INTO metrics (id, name, metric_type, value, timestamp, tags, unit, epoch, stream_seq, recv_ms,
    supplied) VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?, ?, 0)"""


def text(value):
    return None if value is None else json.dumps(value)


def event_row(event, seq, recv_ms):
    get = event.get
    return (
        event["id"], event["event_type"], event["event_name"], event["timestamp"], get("session_id"), get("user_id"),
        text(get("properties")), text(get("context")), get("page_url"), get("referrer"), seq, recv_ms,
        get("anonymous_id"),
    )


def metric_row(metric, seq, recv_ms):
    get = metric.get
    return (
        metric["id"], metric["name"], metric["metric_type"], metric["value"], metric["timestamp"], text(get("tags")),
        get("unit"), seq, recv_ms,
    )


def write(connection, messages):
    events, metrics = [], []
    for message in messages:
        metadata = message.metadata
        seq, recv_ms = metadata.sequence.stream, int(metadata.timestamp.timestamp() * 1000)
        if message.subject == "analytics.metrics":
            metrics.append(metric_row(json.loads(message.data), seq, recv_ms))
        else:
            events.append(event_row(json.loads(message.data), seq, recv_ms))
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(EVENT, events)
    connection.executemany(METRIC, metrics)
    connection.execute("COMMIT")


async def main(url, database, count, pragmas):
    connection = sqlite3.connect(database, isolation_level=None)
    for pragma, value in json.loads(pragmas):
        connection.execute(f"PRAGMA {pragma} = {value}")
    client = await nats.connect(url)
    config = ConsumerConfig(ack_policy=AckPolicy.ALL, max_ack_pending=4 * BATCH)
    subscription = await client.jetstream().pull_subscribe(
        "", durable="instead-python", stream="ANALYTICS", config=config
    )
    rows, began = 0, time.monotonic()
    while rows < count:
        messages = await subscription.fetch(min(BATCH, count - rows), timeout=10)
        write(connection, messages)
        await messages[-1].ack()
        rows += len(messages)
    print(rows / (time.monotonic() - began))
    await client.close()


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
