#!/usr/bin/env python3
"""Prints a small stream of believable traffic of one kind, a JSON object a line: people who create missions, write
specs, complete missions and search, with what their requests took and the sessions they do it in."""

import json
import random
import sys
from datetime import datetime, timedelta, timezone

VISITS = 200


def stamp(time):
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def visits(rng):
    """Visits in the last two hours: a start, an end, a user, and what they did in between."""
    now = datetime.now(timezone.utc)
    for number in range(VISITS):
        time = now - timedelta(minutes=rng.uniform(5, 120))
        visit = {"session_id": f"visit-{number}", "user_id": f"user-{rng.randrange(60)}"}
        mission, steps = f"mission-{number}", []
        names = ["search_performed"] * rng.randrange(3) + ["mission_created"]
        names += ["spec_created"] if rng.random() < 0.7 else []
        names += ["mission_completed"] if rng.random() < 0.4 else []
        for name in names:
            time += timedelta(seconds=rng.uniform(2, 40))
            steps.append((time, name, mission))
        yield visit, steps


def events(rng):
    for visit, steps in list(visits(rng)):
        for time, name, mission in steps:
            results = rng.randrange(20)
            properties = {"query": "stream gauge", "result_count": results, "feature": "search",
                          "duration_ms": round(rng.lognormvariate(4, 0.5)), "success": results > 0}
            if name != "search_performed":
                properties = {"mission_id": mission}
            yield {"event_type": "track", "event_name": name, "timestamp": stamp(time), **visit,
                   "properties": properties, "page_url": f"https://example.com/{name}"}
    # What a buggy client sends: it ends in the ledger, with its reason.
    yield {"event_type": "track"}
    yield {"event_type": "track", "event_name": "login", "user_id": "undefined"}


def metrics(rng):
    for _, steps in list(visits(rng)):
        for time, name, _ in steps:
            yield {"name": "api.request.duration", "metric_type": "timer", "value": round(rng.lognormvariate(3, 0.6), 2),
                   "timestamp": stamp(time), "unit": "ms", "tags": {"endpoint": f"/{name}", "status": "200"}}


def sessions(rng):
    for visit, steps in list(visits(rng)):
        device = rng.choice(["desktop", "phone"])
        yield {"kind": "start", **visit, "timestamp": stamp(steps[0][0]), "device_type": device, "country": "DE"}
        yield {"kind": "end", **visit, "timestamp": stamp(steps[-1][0])}


def main():
    kinds = {"events": events, "metrics": metrics, "sessions": sessions}
    if len(sys.argv) != 2 or sys.argv[1] not in kinds:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(kinds)}")
    for message in kinds[sys.argv[1]](random.Random(1)):
        print(json.dumps(message))


if __name__ == "__main__":
    main()
