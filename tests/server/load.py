#!/usr/bin/env python3
"""Many clients at once, of whom some behave badly.

    tests/server/load.py --url http://127.0.0.1:8000 --streams 256 --minutes 10 --pid 4711

Nine in ten requests are answered to their end, streamed or whole; the others hang up in the middle
of their stream, hang up before the answer, or send a body that is no request. Reports what went
wrong, latencies, and the server's memory; and whether, once everybody has gone, the server still
runs or holds anything. Exit status 0: all is well.

    tests/server/load.py --url http://127.0.0.1:8000 --places 8 --minutes 2

compares two loads of requests that all ask for as much: half of the time by as many clients as
the server has places (its --max-num-seqs), then by ten times as many. Whoever is told 429 comes
again within half a second, sooner than Retry-After says. With --ids they send token ids, as a model
without a tokenizer wants. Those who are let in must be answered
within twice the time, at the median and at the 99th percentile.
"""

import argparse
import asyncio
import json
import pathlib
import random
import sys
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field, replace

MALFORMED = [b"", b"{", b"[]", b'{"messages": 5}', b'{"messages": []}', b"\xff\xfe\x00",
             b'{"messages": [{"role": "user", "content": "x"}], "temperature": 9}',
             b'{"messages": [{"role": "wizard", "content": "x"}]}', b"[" * 5000]
STORY = "Tell me a story about a fox, a harbour and the number "


@dataclass
class Options:
    host: str
    port: int
    streams: int
    seconds: float
    max_tokens: int
    key: str | None
    pid: int | None
    seed: int
    patience: float = 120  # seconds without a byte
    ids: bool = False      # prompts of token ids, to /v1/completions


@dataclass
class Report:
    done: Counter = field(default_factory=Counter)
    errors: Counter = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)  # seconds to the first event
    whole: list[float] = field(default_factory=list)
    tokens: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)  # seconds, bytes
    left: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return bool(self.errors) or any(self.left.values())


class WrongAnswer(Exception):
    """What the server said is not what it has to say."""


def expect(condition: bool, sentence: str):
    if not condition:
        raise WrongAnswer(sentence)


# ------------------------------------------------------------------------------- HTTP


class Connection:
    """One request, and its answer as it comes."""

    def __init__(self, options: Options):
        self.options = options

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection(
            self.options.host, self.options.port, limit=1 << 20)
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    async def send(self, path: str, body: bytes | None):
        head = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", "Host: load",
                "Connection: close"]
        if body is not None:
            head.append(f"Content-Length: {len(body)}")
        if self.options.key:
            head.append(f"Authorization: Bearer {self.options.key}")
        self.writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + (body or b""))
        await self.writer.drain()

    async def _line(self) -> bytes:
        return await asyncio.wait_for(self.reader.readline(), self.options.patience)

    async def head(self) -> tuple[int, dict[str, str]]:
        first = await self._line()
        expect(first.startswith(b"HTTP/1.1 "), f"no status line: {first[:40]!r}")
        headers = {}
        while (line := await self._line()) not in (b"\r\n", b""):
            name, value = line.decode().split(":", 1)
            headers[name.lower()] = value.strip()
        return int(first.split()[1]), headers

    async def body(self, headers: dict[str, str]) -> bytes:
        length = int(headers["content-length"])
        return await asyncio.wait_for(self.reader.readexactly(length), self.options.patience)

    async def chunk(self) -> bytes:
        """The next piece of a chunked answer; empty at its end."""
        size = int(await self._line() or b"0", 16)
        data = await asyncio.wait_for(self.reader.readexactly(size), self.options.patience)
        expect(await self._line() == b"\r\n", "a chunk does not end")
        return data

    async def events(self):
        """The data of a chunked stream of events, which must end as HTTP says."""
        text = b""
        while data := await self.chunk():
            *whole, text = (text + data).split(b"\n\n")
            for event in whole:
                if event.startswith(b"data: "):
                    yield event.removeprefix(b"data: ")
        expect(not text, "the stream has no end")


# ------------------------------------------------------------------------------- clients


class Client:
    """One of many: asks again and again until its time is over."""

    def __init__(self, options: Options, report: Report, number: int, end: float):
        self.options, self.report, self.end = options, report, end
        self.random = random.Random(options.seed * 100003 + number)
        self.acts = {self.stream: 60, self.whole: 30, self.leave: 5, self.vanish: 2,
                     self.malformed: 3}

    async def run(self):
        while time.monotonic() < self.end:
            act = self.random.choices(list(self.acts), list(self.acts.values()))[0]
            try:
                done = await act()
                self.report.done[done] += 1
            except WrongAnswer as wrong:
                self.report.errors[f"{act.__name__}: {wrong}"] += 1
            except (OSError, EOFError, ValueError, KeyError, TimeoutError) as error:
                self.report.errors[f"{act.__name__}: {type(error).__name__} {error}"[:200]] += 1
                await asyncio.sleep(0.1)

    def request(self, stream: bool) -> bytes:
        text = STORY * self.random.randint(1, 4) + str(self.random.randint(1, 1000))
        body = {"messages": [{"role": "user", "content": text}], "stream": stream,
                "max_tokens": self.random.randint(1, self.options.max_tokens),
                "seed": self.random.randint(1, 1000), "stream_options": {"include_usage": True},
                "user": f"client-{self.random.randint(1, 20)}"}
        return json.dumps(body).encode()

    async def busy(self, status: int, headers: dict[str, str]) -> bool:
        """Whether the server asked to come again later."""
        if status != 429:
            return False
        expect("retry-after" in headers, "429 without Retry-After")
        await asyncio.sleep(self.random.uniform(0.05, 0.5))
        return True

    async def stream(self) -> str:
        begin = time.monotonic()
        path = "/v1/completions" if self.options.ids else "/v1/chat/completions"
        async with Connection(self.options) as connection:
            await connection.send(path, self.request(stream=True))
            status, headers = await connection.head()
            if await self.busy(status, headers):
                return "busy"
            expect(status == 200, f"status {status}")
            finish, last, first = None, b"", None
            async for data in connection.events():
                first = first or time.monotonic()
                expect(last != b"[DONE]", "something follows [DONE]")
                last = data
                if data == b"[DONE]":
                    continue
                event = json.loads(data)
                expect("error" not in event, f"an error in the stream: {event.get('error')}")
                for choice in event["choices"]:
                    finish = choice["finish_reason"] or finish
                if event.get("usage"):
                    self.report.tokens += event["usage"]["completion_tokens"]
            expect(last == b"[DONE]", "the stream ends without [DONE]")
            expect(finish in ("stop", "length"), f"finish_reason {finish}")
        self.report.first.append(first - begin)
        self.report.whole.append(time.monotonic() - begin)
        return "streamed"

    async def whole(self) -> str:
        async with Connection(self.options) as connection:
            await connection.send("/v1/chat/completions", self.request(stream=False))
            status, headers = await connection.head()
            answer = json.loads(await connection.body(headers))
            if await self.busy(status, headers):
                return "busy"
            expect(status == 200, f"status {status}: {answer}")
            self.report.tokens += answer["usage"]["completion_tokens"]
        return "whole"

    async def leave(self) -> str:
        """Hangs up in the middle of its stream."""
        async with Connection(self.options) as connection:
            await connection.send("/v1/chat/completions", self.request(stream=True))
            status, headers = await connection.head()
            if await self.busy(status, headers):
                return "busy"
            expect(status == 200, f"status {status}")
            left = self.random.randint(1, 4)
            async for _ in connection.events():
                left -= 1
                if left == 0:
                    break
        return "left"

    async def vanish(self) -> str:
        """Hangs up before its answer."""
        async with Connection(self.options) as connection:
            await connection.send("/v1/chat/completions", self.request(stream=False))
            await asyncio.sleep(self.random.uniform(0, 0.2))
        return "vanished"

    async def malformed(self) -> str:
        async with Connection(self.options) as connection:
            await connection.send("/v1/chat/completions", self.random.choice(MALFORMED))
            status, headers = await connection.head()
            await connection.body(headers)
            expect(status == 400, f"status {status}")
        return "malformed"


class Steady(Client):
    """Streams answers of one length to their ends, one after the other."""

    def __init__(self, *given):
        super().__init__(*given)
        self.acts = {self.stream: 1}

    def request(self, stream: bool) -> bytes:
        if self.options.ids:
            prompt = {"prompt": [self.random.randint(1, 999) for _ in range(32)]}
        else:
            text = f"{self.random.randint(1, 1 << 60)}: {STORY}"  # a beginning that nobody shares
            prompt = {"messages": [{"role": "user", "content": text}]}
        return json.dumps({**prompt, "stream": stream,
                           "max_tokens": self.options.max_tokens, "ignore_eos": True,
                           "stream_options": {"include_usage": True}}).encode()


# ------------------------------------------------------------------------------- the server


def resident_bytes(pid: int) -> int:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


async def watch_memory(options: Options, report: Report, begin: float):
    while options.pid:
        report.memory.append((time.monotonic() - begin, resident_bytes(options.pid)))
        await asyncio.sleep(max(0.5, options.seconds / 60))


async def what_is_left(options: Options) -> dict[str, float]:
    """What the server runs and holds, once it has had a moment to see that everybody is gone."""
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    found: dict[str, float] = {}
    for _ in range(100):
        async with Connection(options) as connection:
            await connection.send("/metrics", None)
            _, headers = await connection.head()
            lines = (await connection.body(headers)).decode().splitlines()
        found = {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in lines
                 if line.split("{")[0] in names}
        if len(found) == 3 and not any(found.values()):
            break
        await asyncio.sleep(0.1)
    return found


async def run(options: Options, kind: type[Client] = Client) -> Report:
    report, begin = Report(), time.monotonic()
    watcher = asyncio.create_task(watch_memory(options, report, begin))
    end = begin + options.seconds
    await asyncio.gather(*(kind(options, report, i, end).run() for i in range(options.streams)))
    watcher.cancel()
    try:
        report.left = await what_is_left(options)
    except (OSError, EOFError, WrongAnswer, TimeoutError) as error:
        report.errors[f"the server is gone: {error}"] += 1
    return report


async def press(options: Options, places: int) -> list[Report]:
    """As many clients as there are places, then ten times as many."""
    reports = []
    for clients in (places, 10 * places):
        half = replace(options, streams=clients, seconds=options.seconds / 2)
        report = await run(half, Steady)
        if report.tokens != report.done["streamed"] * options.max_tokens:
            report.errors["an answer has another length"] += 1
        reports.append(report)
    return reports


# ------------------------------------------------------------------------------- what came of it


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def percentiles(name: str, values: list[float]) -> str:
    at = [percentile(values, share) for share in (0.5, 0.9, 0.99)]
    return f"{name:12} p50 {at[0]:.3f} s, p90 {at[1]:.3f} s, p99 {at[2]:.3f} s, " \
           f"longest {max(values):.3f} s"


def print_report(report: Report, seconds: float):
    print("requests    ", ", ".join(f"{n} {name}" for name, n in report.done.most_common()))
    if report.first:
        print(percentiles("first event", report.first))
        print(percentiles("last event", report.whole))
    print(f"tokens       {report.tokens}, {report.tokens / seconds:.0f} a second")
    for at, size in report.memory[::max(1, len(report.memory) // 12)]:
        print(f"memory       {size / 1e6:8.1f} MB after {at:.0f} s")
    for name, value in report.left.items():
        print(f"left         {name} {value:g}")
    for error, count in report.errors.most_common():
        print(f"ERROR        {count} x {error}")
    print("FAILED" if report.failed else "all is well")


def print_press(reports: list[Report], seconds: float) -> bool:
    """Whether those who were let in had to wait for too long."""
    for report in reports:
        print_report(report, seconds / 2)
    slow = False
    for share in (0.5, 0.99):
        calm, pressed = (percentile(report.whole, share) for report in reports)
        print(f"at {share:4.0%}      {pressed:.3f} s instead of {calm:.3f} s: {pressed / calm:.2f}")
        slow = slow or pressed > 2 * calm
    print("TOO SLOW" if slow else "within twice the time")
    return slow


def parse(words: list[str] | None) -> tuple[Options, int]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--streams", type=int, default=256, help="clients at once")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--key")
    parser.add_argument("--pid", type=int, help="the server's, to watch its memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--places", type=int, default=0, help="that the server has")
    parser.add_argument("--ids", action="store_true", help="of tokens, not text; with --places")
    given = parser.parse_args(words)
    url = urllib.parse.urlsplit(given.url)
    options = Options(url.hostname or "127.0.0.1", url.port or 80, given.streams,
                      given.minutes * 60, given.max_tokens, given.key, given.pid, given.seed,
                      ids=given.ids)
    return options, given.places


def main(words: list[str] | None = None) -> int:
    options, places = parse(words)
    if places:
        reports = asyncio.run(press(options, places))
        slow = print_press(reports, options.seconds)
        return 1 if slow or any(report.failed for report in reports) else 0
    report = asyncio.run(run(options))
    print_report(report, options.seconds)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
