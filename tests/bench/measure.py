"""Measures a worker from outside: stream to rows, memory under backlog, latency when idle. Called by deploy/bench."""

import argparse
import json
import os
import random
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path

POLL_S = 0.01


def uuid7(ms, rng):
    bits = (ms << 80) | (7 << 76) | (rng.getrandbits(12) << 64) | (2 << 62) | rng.getrandbits(62)
    return str(uuid.UUID(int=bits))


def write_events(path, count):
    """Events of about 350 bytes: 20,000 users, 30 names, half of them in sessions."""
    rng = random.Random(1)
    start_ms = int(time.time() * 1000) - count
    with open(path, "w") as out:
        for n in range(count):
            ms = start_ms + n
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03}Z"
            user = rng.randrange(20_000)
            session = f',"session_id":"s{user}-{n // 200_000}"' if n % 2 else ""
            out.write(
                f'{{"id":"{uuid7(ms, rng)}","event_type":"track","event_name":"event_{rng.randrange(30)}",'
                f'"timestamp":"{stamp}","user_id":"u{user}"{session},"properties":{{"plan":"pro","value":{n % 997},'
                f'"source":"measure"}},"context":{{"os":"linux","browser":"firefox","locale":"en-GB"}},'
                f'"page_url":"https://example.com/page/{n % 500}"}}\n'
            )
    return os.path.getsize(path) // count - 1


class NatsServer:
    def __init__(self, binary, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.log = open(folder / "nats.log", "w")
        arguments = [binary, "-js", "-sd", folder / "js", "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", folder]
        self.process = subprocess.Popen(arguments, stderr=self.log)
        ports = folder / f"nats-server_{self.process.pid}.ports"
        wait_for(lambda: ports.exists() and ports.read_text().strip().endswith("}"), 10, "nats-server")
        self.url = json.loads(ports.read_text())["nats"][0]

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


class Worker:
    def __init__(self, binary, folder, env):
        self.log = open(folder / "worker.log", "w")
        self.process = subprocess.Popen([binary, "run"], cwd=folder, env=env, stderr=self.log)

    def status_kib(self, key):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1])

    def cpu_s(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.terminate()
        code = self.process.wait()
        self.log.close()
        if code != 0:
            sys.exit(f"the worker ended with {code}: see its log")


def wait_for(condition, seconds, what):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            sys.exit(f"waited {seconds} s for {what}")
        time.sleep(POLL_S)


def applied(database):
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return connection.execute("SELECT max(last_seq) FROM _positions").fetchone()[0] or 0
    except sqlite3.OperationalError:
        return 0


def throughput(binary, database, worker, count):
    """Rows a second from the first commit that is seen to the last."""
    wait_for(lambda: applied(database) > 0, 60, "the first commit")
    first, began = applied(database), time.monotonic()
    wait_for(lambda: applied(database) >= count, 600, "the backlog")
    seconds = time.monotonic() - began
    return (count - first) / seconds, worker.status_kib("VmHWM") / 1024, worker.cpu_s() / count * 1e6


def latency(url, database, samples):
    """Milliseconds from a publish on a raw connection to the row, seen by another reader; one message at a time."""
    host, port = url.removeprefix("nats://").split(":")
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    taken_ms = []
    with socket.create_connection((host, int(port))) as nats:
        nats.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        nats.recv(65536)
        nats.sendall(b'CONNECT {"verbose":false}\r\n')
        for n in range(samples):
            key = f"latency-{n}-{time.time_ns()}"
            body = json.dumps({"id": key, "event_type": "track", "event_name": "latency"}).encode()
            began = time.perf_counter()
            nats.sendall(b"PUB analytics.events %d\r\n%b\r\n" % (len(body), body))
            while not connection.execute("SELECT 1 FROM analytics_events WHERE id = ?", (key,)).fetchone():
                if time.perf_counter() - began > 10:
                    sys.exit(f"waited 10 s for the row of {key}")
                time.sleep(0.0002)
            taken_ms.append((time.perf_counter() - began) * 1000)
            time.sleep(0.02)
    connection.close()
    return taken_ms


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--nats-server", required=True)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--messages", type=int, default=1_000_000)
    options = parser.parse_args()
    folder, count = options.folder, options.messages
    lines = folder / f"events-{count}.jsonl"
    size_bytes = write_events(lines, count)
    server = NatsServer(options.nats_server, folder)
    env = os.environ | {"NATS_URL": server.url, "STREAMGAUGE_HTTP__LISTEN": "127.0.0.1:0"}
    database = folder / "streamgauge.db"
    try:
        # The first run makes the stream, so that publishing has where to go.
        worker = Worker(options.binary, folder, env)
        wait_for(lambda: applied(database) == 0 and "reading" in (folder / "worker.log").read_text(), 30, "the worker")
        worker.stop()
        began = time.monotonic()
        subprocess.run([options.binary, "publish", lines], env=env, check=True, stderr=subprocess.DEVNULL)
        publish_rate = count / (time.monotonic() - began)
        worker = Worker(options.binary, folder, env)
        rate, peak_mib, cpu_us = throughput(options.binary, database, worker, count)
        taken_ms = sorted(latency(server.url, database, 200))
        worker.stop()
    finally:
        server.stop()
    print(f"messages             {count} events of {size_bytes} bytes")
    print(f"publish              {publish_rate:,.0f}/s")
    print(f"stream to rows       {rate:,.0f}/s")
    print(f"CPU of the worker    {cpu_us:.1f} s for a million messages")
    print(f"peak resident        {peak_mib:.0f} MiB, with that backlog")
    print(f"publish to row, idle p50 {statistics.median(taken_ms):.1f} ms, p99 {taken_ms[int(len(taken_ms) * 0.99)]:.1f} ms")


if __name__ == "__main__":
    main()
