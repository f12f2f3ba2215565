"""OpenAI's responses (chat-and-api §8.9)."""

import json

import pytest

from chats import block, invoke, script
from test_tools import E5
from wire import Event, ask, events, post

RESPONSES = "/v1/responses"
WEATHER = {"type": "function", "name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}


def said(*pieces, **fields) -> dict:
    scripts = {key: fields.pop(key) for key in ("by", "gap_ms", "finish") if key in fields}
    return {"input": script(*pieces, **scripts)} | fields


PART = {"message": "output_text", "reasoning": "reasoning_text"}


def told(found: list[Event]) -> dict:
    """The response that a stream tells, which must keep to the protocol."""
    assert all(event.name == event.data["type"] for event in found)
    data = [event.data for event in found]
    assert [event["sequence_number"] for event in data] == list(range(len(data)))
    kinds = [event["type"] for event in data]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] in ("response.completed", "response.incomplete", "response.failed")
    final = data[-1]["response"]
    items = []
    rest = data[2:-1]
    while rest:
        item, rest = read_item(rest, len(items))
        items.append(item)
    assert final["output"] == items
    assert final["id"] == data[0]["response"]["id"]
    return final


def read_item(rest: list[dict], index: int) -> tuple[dict, list[dict]]:
    """The first item of what remains, and what follows it."""
    added = rest.pop(0)
    assert added["type"] == "response.output_item.added" and added["output_index"] == index
    item = added["item"]
    kind = PART.get(item["type"])
    if kind:
        opened = rest.pop(0)
        assert opened["type"] == "response.content_part.added" and opened["part"]["text"] == ""
    name = f"response.{kind}" if kind else "response.function_call_arguments"
    text = ""
    while rest[0]["type"] == name + ".delta":
        text += rest.pop(0)["delta"]
    done = rest.pop(0)
    assert done["type"] == name + ".done" and done["text" if kind else "arguments"] == text
    if kind:
        closed = rest.pop(0)
        assert closed["type"] == "response.content_part.done" and closed["part"]["text"] == text
    last = rest.pop(0)
    assert last["type"] == "response.output_item.done" and last["output_index"] == index
    assert last["item"]["id"] == item["id"] == done["item_id"]
    return last["item"], rest


def plain(response: dict) -> tuple:
    output = [{k: v for k, v in item.items() if k not in ("id", "call_id")}
              for item in response["output"]]
    usage = response["usage"]
    return (output, response["status"], response["incomplete_details"], usage["input_tokens"],
            usage["output_tokens"], usage["output_tokens_details"])


def both(server, body: dict) -> dict:
    whole, streamed = ask(server, RESPONSES, body), told(events(server, RESPONSES, body))
    assert plain(streamed) == plain(whole)
    assert whole["object"] == "response" and whole["id"].startswith("resp_")
    assert whole["usage"]["total_tokens"] == (whole["usage"]["input_tokens"]
                                              + whole["usage"]["output_tokens"])
    return streamed


@pytest.mark.parametrize("by", ["tokens", "bytes"])
def test_items_follow_one_another(scripted, by):
    response = both(scripted, said(E5, by=by, tools=[WEATHER]))
    kinds = [item["type"] for item in response["output"]]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    reasoning, message, first, _ = response["output"]
    assert reasoning["content"][0] == {"type": "reasoning_text", "text": "Two lookups."}
    assert message["content"][0]["text"] == "Checking." and message["role"] == "assistant"
    assert message["content"][0]["annotations"] == []
    assert first["arguments"] == '{"city":"Paris","days":2}' and first["name"] == "get_weather"
    assert first["status"] == "completed" and first["call_id"].startswith("call_")
    assert response["status"] == "completed"


def test_length_is_incomplete(scripted):
    response = both(scripted, said("</mm:think>one two", finish="length"))
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


def test_max_output_tokens(server):
    response = ask(server, RESPONSES, {"input": "Hello", "max_output_tokens": 3})
    assert response["usage"]["output_tokens"] <= 3


def test_an_error_in_a_stream_fails_the_response(scripted):
    found = events(scripted, RESPONSES, said("</mm:think>" + "word " * 20, finish="broken"))
    assert found[-1].name == "response.failed"
    assert found[-1].data["response"]["status"] == "failed"
    assert found[-1].data["response"]["error"]["message"]


@pytest.mark.parametrize("effort, kinds", [("none", ["message"]), ("high", ["message"])])
def test_effort(scripted, effort, kinds):
    response = both(scripted, said("words", reasoning={"effort": effort}))
    assert [item["type"] for item in response["output"]] == kinds


def test_history_goes_into_the_prompt(server):
    body = {"instructions": "Be brief.", "max_output_tokens": 1, "tools": [WEATHER], "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text",
                                                         "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [],
         "content": [{"type": "reasoning_text", "text": "Look it up."}]},
        {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
         "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "get_weather",
         "arguments": '{"city": "Paris"}', "status": "completed"},
        {"type": "function_call_output", "call_id": "c1", "output": "20"},
        {"role": "user", "content": "Well?"}]}
    as_chat = {"tools": [WEATHER], "messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"},
        {"role": "assistant", "reasoning_content": "Look it up.", "content": "Let me see.",
         "tool_calls": [{"id": "c1", "type": "function", "function": {
             "name": "get_weather", "arguments": {"city": "Paris"}}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "20"},
        {"role": "user", "content": "Well?"}]}
    usage = ask(server, RESPONSES, body)["usage"]
    assert usage["input_tokens"] == ask(server, "/tokenize", as_chat)["count"]


def test_text_format(server):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
              "additionalProperties": False}
    body = {"input": "x", "max_output_tokens": 60, "reasoning": {"effort": "none"},
            "text": {"format": {"type": "json_schema", "name": "it", "schema": schema}}}
    response = both(server, body | {"seed": 1})
    assert isinstance(json.loads(response["output"][0]["content"][0]["text"])["a"], bool)


@pytest.mark.parametrize("choice, text, status", [
    ("required", block(invoke("get_weather", city="x")), 200), ("required", "no", 409),
    ({"type": "function", "name": "get_weather"}, block(invoke("get_weather", city="x")), 200),
    ("none", "no", 200),
])
def test_tool_choice(scripted, choice, text, status):
    body = said("</mm:think>" + text, tools=[WEATHER], tool_choice=choice)
    assert post(scripted, RESPONSES, body).status == status


@pytest.mark.parametrize("body", [
    {}, {"input": None}, {"input": 5}, {"input": []}, {"input": ["x"]},
    {"input": [{"type": "odd"}]}, {"input": [{"type": "message"}]},
    {"input": [{"role": "wizard", "content": "x"}]},
    {"input": [{"type": "function_call_output", "output": "x"}]},
    {"input": [{"type": "function_call_output", "call_id": "absent", "output": "x"}]},
    {"input": [{"type": "function_call", "name": "f"}]},
    {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]},
    {"input": "x", "previous_response_id": "resp_1"}, {"input": "x", "background": True},
    {"input": "x", "tools": 5},
    {"input": "x", "max_output_tokens": -1}, {"input": "x", "temperature": 5},
    {"input": "x", "text": {"format": {"type": "odd"}}}, {"input": "x", "text": 5},
    {"input": "x", "instructions": 5}, {"input": "x", "reasoning": {"effort": 5}},
    {"input": [{"type": "reasoning", "content": 5}]},
], ids=str)
def test_nonsense_is_refused(server, body):
    answer = post(server, RESPONSES, body)
    assert answer.status == 400 and answer.json()["error"]["message"], answer.text


def test_tools_of_other_servers_are_passed_over(server):
    """As agents offer them beside their own: the model is told of functions alone."""
    ping = {"type": "function", "name": "ping", "parameters": {"type": "object"}}
    body = {"input": "x", "max_output_tokens": 1}
    count = [ask(server, RESPONSES, body | {"tools": tools})["usage"]["input_tokens"]
             for tools in ([ping], [{"type": "web_search"}, ping, {"type": "custom", "name": "p"}])]
    assert count[0] == count[1]
