#!/usr/bin/env python3
"""Requests that nobody should send.

    tests/server/hostile.py --url http://127.0.0.1:8000 --requests 10000 --seed 1

Takes valid requests and spoils them: a value of another kind, a field gone, nesting without end,
numbers out of every range, bytes that are no UTF-8, a head that is no HTTP. The server may answer
2xx or 4xx, or hang up where the head is broken; anything else, or no end for 20 seconds, is an
error. Who spoils max_tokens is answered up to the end of the context, so a server that many ask at
once wants a short one: `--max-model-len 1024`. Exit status 0: all is well. What failed is written out, and comes again with the same seed.
"""

import argparse
import asyncio
import copy
import json
import multiprocessing
import random
import sys
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

Address = tuple[str, int]

TOOL = {"type": "function", "function": {"name": "f", "parameters": {
    "type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {
        "$ref": "#/$defs/x"}}}, "required": ["a"], "$defs": {"x": {"anyOf": [
            {"type": "integer", "minimum": 1}, {"enum": ["p", None]}]}}}}}
PIXEL = ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
         "DwADhgGAWjR9awAAAABJRU5ErkJggg==")
HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"},
                                 {"type": "image_url", "image_url": {"url": PIXEL}}]},
    {"role": "assistant", "content": None, "reasoning_content": "why", "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "x"}'}}]},
    {"role": "tool", "tool_call_id": "c", "content": "done"}, {"role": "user", "content": "Well?"}]

# Requests that are all right, each of which has a path and a body.
VALID = [
    ("/v1/chat/completions", {
        "model": "nano", "messages": HISTORY, "tools": [TOOL], "tool_choice": "auto",
        "max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 1, "n": 2,
        "stop": ["x"], "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1},
        "stream": False, "stream_options": {"include_usage": True},
        "chat_template_kwargs": {"thinking_mode": "adaptive"}}),
    ("/v1/chat/completions", {
        "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "stream": True,
        "response_format": {"type": "json_schema", "json_schema": {
            "name": "s", "schema": TOOL["function"]["parameters"]}}}),
    ("/v1/chat/completions", {
        "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ("/v1/completions", {"prompt": ["x", [5, 6]], "max_tokens": 2, "logprobs": 1, "n": 1,
                         "stop_token_ids": [3], "allowed_token_ids": [3, 4]}),
    ("/v1/completions", {"prompt": "x", "max_tokens": 2, "echo": True, "stream": True,
                         "guided_regex": "(a|b)*[c-e]{2,3}"}),
    ("/v1/messages", {
        "model": "nano", "max_tokens": 2, "system": [{"type": "text", "text": "s"}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]},
                     {"role": "assistant", "content": [
                         {"type": "thinking", "thinking": "t", "signature": "s"},
                         {"type": "tool_use", "id": "c", "name": "f", "input": {"a": "x"}}]},
                     {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c",
                                                   "content": "r"}]}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"}, "thinking": {"type": "enabled", "budget_tokens": 5},
        "stop_sequences": ["x"], "stream": True}),
    ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "x"}]}),
    ("/v1/responses", {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]},
                  {"type": "reasoning", "summary": [], "content": [
                      {"type": "reasoning_text", "text": "t"}]},
                  {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                  {"type": "function_call_output", "call_id": "c", "output": "r"}],
        "instructions": "i", "max_output_tokens": 2, "reasoning": {"effort": "low"},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
        "text": {"format": {"type": "text"}}, "stream": True}),
    ("/tokenize", {"prompt": "x", "return_token_strs": True}),
    ("/tokenize", {"messages": HISTORY, "tools": [TOOL]}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
    ("/apply-template", {"messages": HISTORY}),
]

ODD_VALUES = [None, True, False, 0, -1, 1, 2**31, 2**63, -2**63, 10**40, 1.5, -0.0, 1e308, 1e-320,
              "", "x", "\0", "\ud800", "\U0010ffff", "]<]minimax[>[<tool_call>", "[e~[", "]~b]ai\n",
              "<mm:think>", "a" * 5000, "\u200b" * 50, [], {}, [[]], [None], {"": ""},
              {"type": "function"}, {"$ref": "#"}, {"type": "object"}, "file:///etc/passwd",
              "http://127.0.0.1:1/", "data:,", "data:image/png;base64,AAAA", "(((((", "(a*)*" * 20,
              "[a-", "\\", "a{1,9999}", PIXEL]


class Spoiler:
    """Makes a request that is not all right out of one that is."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)

    def request(self) -> tuple[bytes, bool]:
        """The bytes of a request; and whether its head is HTTP still."""
        path, body = self.random.choice(VALID)
        body = copy.deepcopy(body)
        for _ in range(self.random.choice([1, 1, 1, 2, 5])):
            body = self.spoil_json(body)
        data = json.dumps(body).encode()
        if self.random.random() < 0.15:
            data = self.spoil_bytes(data)
        lines = [f"POST {path} HTTP/1.1", "Host: hostile", "Content-Type: application/json",
                 f"Content-Length: {len(data)}", "Connection: close"]
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        if self.random.random() < 0.15:
            return self.spoil_bytes(head) + data, False
        return head + data, True

    def places(self, value, found: list, parent=None, key=None) -> list:
        if parent is not None:
            found.append((parent, key))
        children = value.items() if isinstance(value, dict) else (
            enumerate(value) if isinstance(value, list) else ())
        for k, v in children:
            self.places(v, found, value, k)
        return found

    def odd_value(self):
        if self.random.random() < 0.05:
            value: object = 5
            wrap = self.random.choice([lambda v: [v], lambda v: {"a": v}, lambda v: {"items": v},
                                       lambda v: {"anyOf": [v]},
                                       lambda v: {"properties": {"p": v}}])
            for _ in range(self.random.choice([20, 150, 900])):
                value = wrap(value)
            return value
        return copy.deepcopy(self.random.choice(ODD_VALUES))

    def spoil_json(self, body):
        found = self.places(body, [])
        if not found:
            return self.odd_value()
        parent, key = self.random.choice(found)
        match self.random.randint(0, 5):
            case 0 | 1 | 2:
                parent[key] = self.odd_value()
            case 3:
                del parent[key]
            case 4:  # what stands elsewhere
                other, place = self.random.choice(found)
                parent[key] = copy.deepcopy(other[place])
            case 5:
                if isinstance(parent, list):
                    parent.extend(copy.deepcopy([parent[key]]) * self.random.choice([1, 3, 100]))
                else:
                    parent[str(key) + self.random.choice(["", "x", "\0", "s"])] = self.odd_value()
        return body

    def spoil_bytes(self, data: bytes) -> bytes:
        for _ in range(self.random.randint(1, 4)):
            at = self.random.randint(0, max(0, len(data) - 1))
            match self.random.randint(0, 4):
                case 0:
                    data = data[:at] + bytes([self.random.randint(0, 255)]) + data[at + 1:]
                case 1:
                    data = data[:at] + self.random.randbytes(self.random.randint(1, 20)) + data[at:]
                case 2:
                    data = data[:at] + data[at + self.random.randint(1, 10):]
                case 3:
                    data = data[:at] + data[max(0, at - 20):at] * 3 + data[at:]
                case 4:
                    data = data[:at]
        return data


@dataclass
class Report:
    statuses: Counter = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


async def receive(reader: asyncio.StreamReader, received: bytearray):
    """Takes what comes until the server hangs up."""
    try:
        while part := await reader.read(1 << 16):
            received += part
    except ConnectionResetError:
        pass


async def exchange(address: Address, data: bytes, is_http: bool, seconds: float) -> bytes:
    """What comes back until the server hangs up."""
    received = bytearray()
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(data)
        reading = asyncio.create_task(receive(reader, received))
        if not is_http:
            # Half a head, or less body than it says: the server waits, until no more can come.
            await asyncio.wait({reading}, timeout=1)
            if not reading.done():
                writer.write_eof()
        await asyncio.wait_for(reading, seconds)
    finally:
        writer.close()
    return bytes(received)


def judge(received: bytes, is_http: bool) -> tuple[str, bool]:
    """What came, in a word, and whether it may."""
    if not received:
        return "hung up", not is_http
    if not received.startswith(b"HTTP/1.1 "):
        return "no HTTP", False
    # Interim answers come before the answer.
    while received.startswith(b"HTTP/1.1 100"):
        received = received.split(b"\r\n\r\n", 1)[1]
    status = received.split(b" ", 2)[1].decode() if received else ""
    return status, len(status) == 3 and status[0] in "24"


async def try_one(address: Address, seed: int, seconds: float, report: Report):
    data, is_http = Spoiler(seed).request()
    try:
        word, fine = judge(await exchange(address, data, is_http, seconds), is_http)
    except TimeoutError:
        word, fine = "no end", False
    except OSError as error:
        word, fine = f"{type(error).__name__}", False
    report.statuses[word] += 1
    if not fine:
        report.errors.append(f"seed {seed}: {word}: {data[:600]!r}")


async def try_many(address: Address, seeds: Iterator[int], seconds: float, clients: int) -> Report:
    report = Report()

    async def client():
        for seed in seeds:
            await try_one(address, seed, seconds, report)

    await asyncio.gather(*(client() for _ in range(clients)))
    return report


def run_part(address: Address, seeds: range, seconds: float, clients: int) -> Report:
    sys.setrecursionlimit(20_000)  # some requests are nested deeply
    return asyncio.run(try_many(address, iter(seeds), seconds, clients))


def run(host: str, port: int, requests: int, seed: int, seconds: float = 20, clients: int = 8,
        processes: int = 1) -> Report:
    address, first = (host, port), seed * 1_000_003
    parts = [range(first + i, first + requests, processes) for i in range(processes)]
    report = Report()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for part in [pool.submit(run_part, address, part, seconds, clients) for part in parts]:
            report.statuses += part.result().statuses
            report.errors += part.result().errors
    health = b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    try:
        alive = asyncio.run(exchange(address, health, True, seconds))
    except OSError as error:
        alive = str(error).encode()
    if not alive.startswith(b"HTTP/1.1 200"):
        report.errors.append(f"the server is not alive any more: {alive[:200]!r}")
    return report


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=8, help="at once, of each process")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args(words)
    url = urllib.parse.urlsplit(given.url)
    report = run(url.hostname or "127.0.0.1", url.port or 80, given.requests, given.seed,
                 clients=given.clients, processes=given.processes)
    print("answers ", ", ".join(f"{n} x {word}" for word, n in report.statuses.most_common()))
    for error in report.errors[:20]:
        print("ERROR   ", error)
    print(f"FAILED: {len(report.errors)}" if report.errors else "all is well")
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
