"""Short forms of load.py and hostile.py."""

import asyncio

import hostile
import load
from servers import PATIENCE, SANITIZED, serve


def test_many_clients(start, nano):
    """Some of whom hang up or send nonsense: the others get their answers, and nothing is left."""
    server = start(serve, nano, "--max-num-seqs", "16", "--max-queue", "64", "--kv-cache-tokens",
                   "16384", "--quiet")
    report = asyncio.run(load.run(load.Options(
        server.host, server.port, streams=8 if SANITIZED else 32, seconds=10, max_tokens=8,
        key=None, pid=server.pid, seed=1, patience=60 * PATIENCE)))
    load.print_report(report, 10)
    assert not report.errors and not any(report.left.values())
    assert report.done["streamed"] > 0 and report.done["left"] + report.done["vanished"] > 0
    assert server.stop() == 0


def test_hostile_requests(start, nano):
    """Are answered with 2xx or 4xx, one and all."""
    server = start(serve, nano, "--served-model-name", "nano", "--max-model-len", "700",
                   "--max-queue", "256", "--request-timeout", "1", "--quiet")
    report = hostile.run(server.host, server.port, 60 if SANITIZED else 600, seed=1,
                         seconds=3 * PATIENCE)
    assert not report.errors, "\n".join(report.errors)
    assert report.statuses["200"] > 0 and report.statuses["400"] > 0
    assert server.stop() == 0
