"""Anthropic's messages (chat-and-api §8.8), raw and with Anthropic's own client."""

import json

import anthropic
import pytest

from chats import block, invoke, script
from servers import PATIENCE
from test_tools import E5
from wire import Event, ask, events, post

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
WEATHER = {"name": "get_weather", "description": "Weather now", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"]}}
PING = {"name": "ping", "input_schema": {"type": "object"}}


def said(*pieces, **fields) -> dict:
    """A request whose answer is scripted; fields of the script's come before those of ours."""
    scripts = {key: fields.pop(key) for key in ("by", "gap_ms", "finish") if key in fields}
    return {"max_tokens": 4096,
            "messages": [{"role": "user", "content": script(*pieces, **scripts)}]} | fields


def told(found: list[Event]) -> dict:
    """The message that a stream tells, which must keep to the protocol."""
    assert all(event.name == event.data["type"] for event in found)
    found = [event.data for event in found if event.name != "ping"]
    assert found[0]["type"] == "message_start" and found[-1]["type"] == "message_stop"
    assert found[-2]["type"] == "message_delta"
    message = found[0]["message"]
    assert message["content"] == [] and message["stop_reason"] is None
    blocks, is_open = [], False
    for event in found[1:-2]:
        match event["type"]:
            case "content_block_start":
                assert not is_open and event["index"] == len(blocks)
                blocks.append(event["content_block"] | {"json": ""})
                is_open = True
            case "content_block_delta":
                assert is_open and event["index"] == len(blocks) - 1
                add_delta(blocks[-1], event["delta"])
            case "content_block_stop":
                assert is_open and event["index"] == len(blocks) - 1
                is_open = False
            case other:
                raise AssertionError(other)
    assert not is_open
    return message | {"content": [finished(b) for b in blocks]} | found[-2]["delta"] | {
        "usage": message["usage"] | found[-2]["usage"]}


def add_delta(open_block: dict, delta: dict):
    kinds = {"thinking": {"thinking_delta": "thinking", "signature_delta": "signature"},
             "text": {"text_delta": "text"}, "tool_use": {"input_json_delta": "json"}}
    field = kinds[open_block["type"]][delta["type"]]
    open_block[field] += delta["partial_json" if field == "json" else field]


def finished(one: dict) -> dict:
    text = one.pop("json")
    if one["type"] == "tool_use":
        assert one["input"] == {}
        one["input"] = json.loads(text or "{}")
    return one


def plain(message: dict) -> tuple:
    """What of a message does not differ from one answer to the next."""
    content = [{k: v for k, v in one.items() if k != "id"} for one in message["content"]]
    usage = message["usage"]
    return (content, message["stop_reason"], message["stop_sequence"], usage["output_tokens"],
            usage["input_tokens"] + usage["cache_read_input_tokens"])


def both(server, body: dict) -> dict:
    whole = ask(server, MESSAGES, body)
    streamed = told(events(server, MESSAGES, body))
    assert plain(streamed) == plain(whole)
    assert whole["type"] == "message" and whole["role"] == "assistant"
    assert whole["id"].startswith("msg_")
    return streamed


@pytest.mark.parametrize("by", ["tokens", "bytes"])
def test_blocks_follow_one_another(scripted, by):
    message = both(scripted, said(E5, by=by, tools=[WEATHER]))
    kinds = [one["type"] for one in message["content"]]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    assert message["content"][0]["thinking"] == "Two lookups."
    assert message["content"][0]["signature"]
    assert message["content"][1]["text"] == "Checking."
    assert [one["input"] for one in message["content"][2:]] == [{"city": "Paris", "days": 2},
                                                                {"city": "Rome"}]
    assert all(one["id"].startswith("toolu_") for one in message["content"][2:])
    assert message["stop_reason"] == "tool_use"


def test_blocks_are_in_the_order_in_which_they_were_written(scripted):
    """Reasoning may come behind text, streamed or whole (§6.2)."""
    message = both(scripted, said("x<mm:think>y</mm:think>z"))
    assert [one["type"] for one in message["content"]] == ["text", "thinking", "text"]


def test_a_call_without_arguments(scripted):
    message = both(scripted, said(block(invoke("ping")), tools=[PING]))
    assert message["content"][0]["input"] == {}


@pytest.mark.parametrize("fields, pieces, reason, sequence", [
    ({}, ["</mm:think>done"], "end_turn", None),
    ({"stop_sequences": ["two", "x"]}, ["</mm:think>one two three"], "stop_sequence", "two"),
    ({"finish": "length"}, ["</mm:think>one two"], "max_tokens", None),
])
def test_stop_reasons(scripted, fields, pieces, reason, sequence):
    message = both(scripted, said(*pieces, **fields))
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)


def test_thinking_can_be_turned_off(scripted):
    for thinking, kinds in (({"type": "disabled"}, ["text"]),
                            ({"type": "enabled", "budget_tokens": 1024}, ["thinking"]),
                            ({"type": "adaptive"}, ["text"])):
        message = both(scripted, said("words", thinking=thinking))
        assert [one["type"] for one in message["content"]] == kinds


def test_history_goes_into_the_prompt(server):
    """System text, thinking, calls and results, as a chat would have them."""
    body = {"model": "nano", "max_tokens": 1, "tools": [WEATHER],
            "system": [{"type": "text", "text": "Be brief.",
                        "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "Look it up.", "signature": "m3"},
                    {"type": "redacted_thinking", "data": "xyz"},
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "toolu_1", "name": "get_weather",
                     "input": {"city": "Paris"}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": [
                        {"type": "text", "text": "20"}]},
                    {"type": "text", "text": "Well?"}]}]}
    as_chat = {"tools": [{"type": "function", "function": {
        "name": "get_weather", "description": "Weather now",
        "parameters": WEATHER["input_schema"]}}], "messages": [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"},
            {"role": "assistant", "reasoning_content": "Look it up.", "content": "Let me see.",
             "tool_calls": [{"id": "toolu_1", "type": "function", "function": {
                 "name": "get_weather", "arguments": {"city": "Paris"}}}]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "20"},
            {"role": "user", "content": "Well?"}]}
    count = ask(server, COUNT, body)
    assert count == {"input_tokens": ask(server, "/tokenize", as_chat)["count"]}
    usage = ask(server, MESSAGES, body)["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == count["input_tokens"]


def test_a_result_may_be_an_error_or_nothing(server):
    for result in ({"content": "broken", "is_error": True}, {}, {"content": []},
                   {"content": None}):
        body = {"max_tokens": 1, "tools": [PING], "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "t", "name": "ping", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t"} | result]}]}
        assert post(server, MESSAGES, body).status == 200


@pytest.mark.parametrize("choice, text, status", [
    ({"type": "any"}, block(invoke("ping")), 200), ({"type": "any"}, "no", 409),
    ({"type": "tool", "name": "ping"}, block(invoke("ping")), 200),
    ({"type": "tool", "name": "get_weather"}, block(invoke("ping")), 409),
    ({"type": "auto", "disable_parallel_tool_use": True},
     block(invoke("ping"), invoke("ping")), 409),
    ({"type": "none"}, "no", 200),
])
def test_tool_choice(scripted, choice, text, status):
    body = said("</mm:think>" + text, tools=[PING, WEATHER], tool_choice=choice)
    assert post(scripted, MESSAGES, body).status == status


HELLO = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize("body", [
    {}, {"messages": HELLO}, {"max_tokens": 5}, {"max_tokens": 5, "messages": []},
    {"max_tokens": -1, "messages": HELLO}, {"max_tokens": "x", "messages": HELLO},
    {"max_tokens": 5, "messages": [{"role": "tool", "content": "x"}]},
    {"max_tokens": 5, "messages": [{"content": "x"}]}, {"max_tokens": 5, "messages": ["x"]},
    {"max_tokens": 5, "messages": [{"role": "user", "content": 5}]},
    {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "odd"}]}]},
    {"max_tokens": 5, "messages": [{"role": "user", "content": ["x"]}]},
    {"max_tokens": 5, "messages": HELLO, "system": 5},
    {"max_tokens": 5, "messages": HELLO, "tools": [{}]},
    {"max_tokens": 5, "messages": HELLO, "tool_choice": {"type": "any"}},
    {"max_tokens": 5, "messages": HELLO, "tool_choice": {"type": "odd"}, "tools": [PING]},
    {"max_tokens": 5, "messages": HELLO, "tool_choice": "any", "tools": [PING]},
    {"max_tokens": 5, "messages": HELLO, "temperature": 5},
    {"max_tokens": 5, "messages": HELLO, "thinking": {"type": "odd"}},
    {"max_tokens": 5, "messages": [{"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "absent", "content": "x"}]}]},
    {"max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "image"}]}]},
    {"max_tokens": 5, "messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "data": "!!"}}]}]},
], ids=str)
def test_nonsense_is_refused_in_anthropics_form(server, body):
    answer = post(server, MESSAGES, body)
    assert answer.status == 400, answer.text
    error = answer.json()
    assert error["type"] == "error" and error["error"]["type"] == "invalid_request_error"
    assert error["error"]["message"]


def test_a_user_who_says_nothing(server):
    usages = []
    for content in ("", [], [{"type": "text", "text": ""}]):
        answer = post(server, MESSAGES, {"max_tokens": 1, "messages": [
            {"role": "user", "content": content}]})
        assert answer.status == 200, answer.text
        usage = answer.json()["usage"]
        usages.append(usage["input_tokens"] + usage["cache_read_input_tokens"])
    assert len(set(usages)) == 1


def test_other_errors_in_anthropics_form(server, narrow):
    answer = post(server, MESSAGES, {"model": "x", "max_tokens": 1, "messages": HELLO})
    assert answer.status == 404 and answer.json()["error"]["type"] == "not_found_error"
    answer = post(narrow, MESSAGES, {"max_tokens": 1, "messages": [
        {"role": "user", "content": "a" * (1 << 20)}]})
    assert answer.status == 413 and answer.json()["error"]["type"] == "request_too_large"


def test_an_error_in_a_stream_is_an_event(scripted):
    found = events(scripted, MESSAGES, said("</mm:think>" + "word " * 20, finish="broken"))
    assert found[-1].name == "error" and found[-1].data["error"]["type"] == "api_error"


# ------------------------------------------------------------------------------- the client


@pytest.fixture(scope="module")
def actor(scripted):
    return anthropic.Anthropic(base_url=scripted.url, api_key="none", max_retries=0,
                               timeout=30 * PATIENCE)


def test_the_client_reads_a_message(actor):
    message = actor.messages.create(model="scripted", **said("<mm:think>why</mm:think>because"))
    assert [one.type for one in message.content] == ["thinking", "text"]
    assert message.content[1].text == "because"


def test_the_client_reads_a_stream(actor):
    with actor.messages.stream(model="scripted", **said(E5, tools=[WEATHER])) as stream:
        for _ in stream:
            pass
        message = stream.get_final_message()
    assert [one.type for one in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert message.content[2].input == {"city": "Paris", "days": 2}
    assert message.stop_reason == "tool_use" and message.usage.output_tokens > 10


def test_a_round_of_tools(actor):
    body = said(E5, tools=[WEATHER])
    first = actor.messages.create(model="scripted", **body)
    results = [{"type": "tool_result", "tool_use_id": one.id, "content": "20"}
               for one in first.content if one.type == "tool_use"]
    body["messages"] += [{"role": "assistant", "content": first.content},
                         {"role": "user", "content": results + [
                             {"type": "text", "text": script("</mm:think>It is 20.")}]}]
    assert actor.messages.create(model="scripted", **body).content[0].text == "It is 20."


def test_the_client_counts_tokens(actor):
    counted = actor.messages.count_tokens(model="scripted", messages=HELLO)
    assert counted.input_tokens > 100


def test_errors_are_the_clients_own(actor, narrow):
    with pytest.raises(anthropic.NotFoundError):
        actor.messages.create(model="absent", max_tokens=1, messages=HELLO)
    with pytest.raises(anthropic.BadRequestError):
        actor.messages.create(model="scripted", max_tokens=1, messages=[])
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=narrow.url, api_key="wrong", max_retries=0).messages.create(
            model="nano", max_tokens=1, messages=HELLO)
    with_key = anthropic.Anthropic(base_url=narrow.url, api_key="sesame", max_retries=0)
    assert with_key.messages.create(model="nano", max_tokens=1, messages=HELLO)


def test_tools_that_others_run_are_passed_over(server):
    body = {"max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    search = {"type": "web_search_20250305", "name": "web_search"}
    assert ask(server, COUNT, body | {"tools": [search, PING]}) == ask(
        server, COUNT, body | {"tools": [PING]})


def test_a_begun_answer_is_continued(server):
    """Anthropic's prefill."""
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "I say"}]
    expected = ask(server, "/tokenize", {"messages": messages, "continue_final_message": True,
                                         "add_generation_prompt": False})["count"]
    assert ask(server, COUNT, {"messages": messages}) == {"input_tokens": expected}


def test_a_schema_for_the_answer(server):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
              "additionalProperties": False}
    body = {"max_tokens": 100, "messages": [{"role": "user", "content": "x"}],
            "thinking": {"type": "disabled"}}
    for field in ({"output_config": {"format": {"type": "json_schema", "schema": schema}}},
                  {"output_format": {"type": "json_schema", "schema": schema}}):
        text = ask(server, MESSAGES, body | field)["content"][0]["text"]
        assert isinstance(json.loads(text)["a"], bool)
    odd = body | {"output_format": {"type": "yaml"}}
    assert post(server, MESSAGES, odd).status == 400
