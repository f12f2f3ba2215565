"""Short forms of load.py and hostile.py; and a thousand streams at once."""

import asyncio
import json
import pathlib
import resource

import hostile
import load
from servers import PATIENCE, SANITIZED, Server, serve


def options_for(server: Server, streams: int, seconds: float, max_tokens: int) -> load.Options:
    return load.Options(server.host, server.port, streams, seconds, max_tokens, key=None,
                        pid=server.pid, seed=1, patience=60 * PATIENCE)


def test_many_clients(start, nano):
    """Some of whom hang up or send nonsense: the others get their answers, and nothing is left."""
    server = start(serve, nano, "--max-num-seqs", "16", "--max-queue", "64", "--kv-cache-tokens",
                   "16384", "--quiet")
    report = asyncio.run(load.run(options_for(server, 8 if SANITIZED else 32, 10, 8)))
    load.print_report(report, 10)
    assert not report.errors and not any(report.left.values())
    assert report.done["streamed"] > 0 and report.done["left"] + report.done["vanished"] > 0
    assert server.stop() == 0


def test_more_clients_than_places(start, nano):
    """The surplus is told 429 and when to come again; all others get whole answers."""
    server = start(serve, nano, "--max-num-seqs", "4", "--max-queue", "2", "--kv-cache-tokens",
                   "8192", "--quiet")
    reports = asyncio.run(load.press(options_for(server, 0, 6, 32), places=4))
    for report in reports:
        assert not report.errors and not any(report.left.values())
        assert report.done["streamed"] > 0
    assert reports[1].done["busy"] > 0
    assert server.stop() == 0


def threads_of(server: Server) -> int:
    status = pathlib.Path(f"/proc/{server.pid}/status").read_text()
    return int(status.split("Threads:")[1].split()[0])


async def open_many(options: load.Options) -> list[load.Connection]:
    """Streams of which every other is short, behind their first words."""
    async def open_one(number: int) -> tuple[load.Connection, bytes]:
        connection = await load.Connection(options).__aenter__()
        await connection.send("/v1/chat/completions", json.dumps({
            "messages": [{"role": "user", "content": f"Count from {number}"}], "stream": True,
            "max_tokens": 2 if number % 2 else 3000, "ignore_eos": True}).encode())
        status, _ = await connection.head()
        assert status == 200
        return connection, await connection.chunk()

    opened = await asyncio.gather(*(open_one(i) for i in range(options.streams)))
    # Most have no place yet: what they hear is that the server lives.
    assert sum(words.startswith(b":") for _, words in opened) > options.streams / 2
    return [connection for connection, _ in opened]


async def use_many(options: load.Options, server: Server) -> int:
    connections = await open_many(options)
    threads = threads_of(server)
    for connection in connections[::2]:  # the long ones hang up
        await connection.__aexit__()
    for connection in connections[1::2]:
        *_, last = [data async for data in connection.events()]
        assert last == b"[DONE]"
        await connection.__aexit__()
    assert not any((await load.what_is_left(options)).values())
    return threads


def test_a_thousand_streams_need_no_thousand_threads(start, nano):
    """Most wait, and are told so; nothing is held when they have gone."""
    streams = 100 if SANITIZED else 1000
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = start(serve, nano, "--max-num-seqs", "8", "--max-queue", str(streams),
                   "--kv-cache-tokens", "32768", "--quiet")
    threads = threads_of(server)
    assert asyncio.run(use_many(options_for(server, streams, 0, 0), server)) <= threads < 20
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
