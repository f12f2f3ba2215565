"""The pieces of a stream are neither crumbs nor lumps (chat-and-api §9.3)."""

import json
from dataclasses import dataclass

import pytest

from chats import block, chat_stream, invoke, play, tool
from wire import ask

WORDS = ("The old harbour lay quiet under a sky of slate, and the gulls that had argued all "
         "morning over the fish market's leavings were asleep on the roofs. ")
ESSAY = WORDS * 20
STRING = {"type": "string"}


@dataclass
class Limits:
    """Shares of fragments: tiny ones of 1 to 4 characters, large ones of more than 200, normal
    ones between; and shares of characters."""
    tiny_max: float
    normal_min: float
    large_max: float
    normal_characters_min: float
    large_characters_max: float


CONTENT = Limits(0.05, 0.95, 0.02, 0.90, 0.10)


def check(sizes: list[int], limits: Limits):
    assert sizes
    normal = [size for size in sizes if 5 <= size <= 200]
    large = [size for size in sizes if size > 200]
    characters = sum(sizes)
    assert sum(size < 5 for size in sizes) / len(sizes) <= limits.tiny_max
    assert len(normal) / len(sizes) >= limits.normal_min
    assert len(large) / len(sizes) <= limits.large_max
    assert sum(normal) / characters >= limits.normal_characters_min
    assert sum(large) / characters <= limits.large_characters_max


def sizes_of(choice, *fields) -> list[int]:
    return [len(text) for field, text in choice.fragments if field in fields or not fields]


# What arrives at once, at an engine's pace, and slower than the clock that sends what waits.
PACES = [0, 1, 12]


@pytest.mark.parametrize("gap_ms", PACES)
@pytest.mark.parametrize("by", ["tokens", "characters"])
def test_an_essay(scripted, by, gap_ms):
    text = ESSAY if gap_ms == 0 else ESSAY[:400] if gap_ms == 1 else ESSAY[:120]
    answer = chat_stream(scripted, play("</mm:think>" + text, by=by, gap_ms=gap_ms)).only
    assert answer.content == text
    check(sizes_of(answer, "content"), CONTENT)


def test_content_that_is_json(scripted):
    text = json.dumps([{"id": i, "name": f"item {i}", "tags": ["a", "b"]} for i in range(60)])
    answer = chat_stream(scripted, play("</mm:think>" + text)).only
    check(sizes_of(answer, "content"), CONTENT)


TOOL_SCENARIOS = {
    "one string of 500 characters": (
        [invoke("write", content=ESSAY[:500])], Limits(0.15, 0.85, 0, 0.95, 0)),
    "a file's name and content": (
        [invoke("write", filename="src/main.cc", content=ESSAY[:900])],
        Limits(0.10, 0.90, 0, 0.95, 0)),
    "a string of 10,000 characters": (
        [invoke("write", content=(ESSAY * 5)[:10000])], Limits(0.05, 0.90, 0.10, 0.65, 0.35)),
    "a nested object of 2,000 characters": (
        [invoke("configure", config={f"section_{i}": {"title": WORDS[:60], "level": i,
                                                      "flags": [True, False, i]}
                                     for i in range(15)})], Limits(0.20, 0.75, 0.10, 0.60, 0.40)),
    "five parallel calls": (
        [invoke("write", filename=f"file_{i}.txt", content=ESSAY[:150]) for i in range(5)],
        Limits(0.15, 0.85, 0, 0.95, 0)),
}
SECTION = {"type": "object", "properties": {
    "title": STRING, "level": {"type": "integer"},
    "flags": {"type": "array", "items": {}}}}
TOOLS = [tool("write", {"filename": STRING, "content": STRING}),
         tool("configure", {"config": {"type": "object", "additionalProperties": SECTION}})]


@pytest.mark.parametrize("by", ["tokens", "characters"])
@pytest.mark.parametrize("name", TOOL_SCENARIOS)
def test_arguments(scripted, name, by):
    invokes, limits = TOOL_SCENARIOS[name]
    answer = chat_stream(scripted, play(block(*invokes), by=by, tools=TOOLS)).only
    assert len(answer.calls) == len(invokes)
    check(sizes_of(answer), limits)
    for index in range(len(invokes)):
        check(sizes_of(answer, ("arguments", index)), limits)


@pytest.mark.parametrize("gap_ms", [0, 2])
def test_reasoning_then_a_call(scripted, gap_ms):
    text = f"<mm:think>{ESSAY[:600]}</mm:think>" + block(invoke("write", content=ESSAY[:300]))
    answer = chat_stream(scripted, play(text, tools=TOOLS, gap_ms=gap_ms)).only
    assert len(answer.reasoning) == 600
    check(sizes_of(answer), Limits(0.10, 0.85, 0.05, 0.85, 0.15))


def test_a_nested_object_comes_leaf_by_leaf(scripted):
    """Its first leaf is sent before its last is written."""
    ids = ask(scripted, "/tokenize",
              {"content": block(invoke("configure", config={"a": {"title": "t" * 50, "level": 1},
                                                            "b": {"title": "u" * 50}}))})["tokens"]
    answer = chat_stream(scripted, play(*ids[:len(ids) * 2 // 3], tools=TOOLS, finish="length"))
    assert "t" * 50 in answer.only.calls[0]["arguments"]


def test_slow_text_is_not_held_back(scripted):
    """Words that come every 80 ms arrive one after the other, and not at the end."""
    ids = ask(scripted, "/tokenize", {"content": " international"})["tokens"]
    answer = chat_stream(scripted, play("</mm:think>", *(ids * 6), gap_ms=80 / len(ids))).only
    assert len(answer.fragments) >= 5


def test_a_character_is_never_split(scripted):
    text = "🙂漢é" * 200
    answer = chat_stream(scripted, play(block(invoke("write", content=text)), by="bytes",
                                        tools=TOOLS)).only
    assert json.loads(answer.calls[0]["arguments"])["content"] == text
    assert not any("\ufffd" in fragment for _, fragment in answer.fragments)


def test_no_escape_is_ever_split(scripted):
    """Each fragment of arguments can be put into a JSON string as it is."""
    text = '"\\\n\x01\u2028' * 100
    answer = chat_stream(scripted, play(block(invoke("write", content=text)), by="characters",
                                        tools=TOOLS)).only
    assert json.loads(answer.calls[0]["arguments"])["content"] == text
    for _, fragment in answer.fragments:
        backslashes = len(fragment) - len(fragment.rstrip("\\"))
        assert backslashes % 2 == 0
