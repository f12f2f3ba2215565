"""Chat completions: what is accepted and what refused (chat-and-api §8.2, §9.1, §9.2), and the
forms of answers (§8.3, §8.4)."""

import pytest

from chats import CHAT, both, chat, chat_stream, joined, play, tool, user
from wire import ask, events, metrics, open_stream, post

PING = tool("ping", {"host": {"type": "string"}})
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Hello"}
SAID = {"role": "assistant", "content": "Hi."}


def call(name: str = "ping", arguments="{}", id: str = "call_1") -> dict:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls, **fields) -> dict:
    return {"role": "assistant", "tool_calls": list(calls)} | fields


def result(content="done", id: str = "call_1") -> dict:
    return {"role": "tool", "tool_call_id": id, "content": content}


ACCEPTED_MESSAGES = {
    "role root": [{"role": "root", "content": "You are root."}, USER],
    "system overridden by root": [{"role": "root", "content": "R"}, SYSTEM, USER],
    "developer": [{"role": "developer", "content": "D"}, USER],
    "several system messages": [SYSTEM, SYSTEM, USER, SAID, SYSTEM, USER],
    "a system message at the end": [USER, SYSTEM],
    "system alone": [SYSTEM],
    "consecutive assistants": [USER, SAID, SAID, USER],
    "consecutive users": [USER, USER],
    "assistant last": [USER, SAID],
    "content null beside calls": [USER, calling(call(), content=None), result(), USER],
    "content missing beside calls": [USER, calling(call()), result(), USER],
    "content empty beside calls": [USER, calling(call(), content=""), result()],
    "arguments {}": [USER, calling(call(arguments="{}")), result()],
    "arguments empty": [USER, calling(call(arguments="")), result()],
    "arguments an object": [USER, calling(call(arguments={"host": "h"})), result()],
    "results in another order": [USER, calling(call(id="a"), call(id="b")),
                                 result(id="b"), result(id="a")],
    "a result as parts": [USER, calling(call()), result([{"type": "text", "text": "done"}])],
    "a result that is null": [USER, calling(call()), result(None)],
    "an empty list of calls": [USER, {"role": "assistant", "content": "x", "tool_calls": []}, USER],
    "content as parts": [{"role": "user", "content": [{"type": "text", "text": "a"},
                                                      {"type": "input_text", "text": "b"}]}],
    "content empty": [{"role": "user", "content": ""}],
    "content null": [{"role": "user", "content": None}],
    "reasoning_content": [USER, SAID | {"reasoning_content": "why"}, USER],
    "reasoning": [USER, SAID | {"reasoning": "why"}, USER],
    "reasoning_details": [USER, SAID | {"reasoning_details": [{"type": "reasoning.text",
                                                               "text": "why"}]}, USER],
    "a name": [USER | {"name": "ann"}],
    "unknown fields of a message": [USER | {"mood": "fine"}],
}


@pytest.mark.parametrize("name", ACCEPTED_MESSAGES)
def test_messages_are_accepted(server, name):
    body = {"messages": ACCEPTED_MESSAGES[name], "max_tokens": 1, "tools": [PING]}
    assert post(server, CHAT, body).status == 200, post(server, CHAT, body).text


ACCEPTED_FIELDS = [
    *({"temperature": t} for t in (0, 0.5, 1, 2)), {"top_p": 1}, {"top_p": 0.01}, {"top_k": -1},
    {"top_k": 0}, {"top_k": 40}, {"min_p": 0.1}, {"presence_penalty": -2},
    {"frequency_penalty": 2}, {"repetition_penalty": 1.1}, {"repeat_penalty": 1.1},
    {"seed": 0}, {"seed": -1}, {"seed": 2**63}, {"seed": 1.0}, {"stop": "x"}, {"stop": ["x"] * 4},
    {"stop": []}, {"stop": None}, {"stop_token_ids": [1]}, {"max_tokens": 0},
    {"max_tokens": 512000}, {"max_tokens": 524288}, {"max_completion_tokens": 2},
    {"max_tokens": None}, {"n": 1}, {"user": "ann"}, {"metadata": {"a": "b"}}, {"store": True},
    {"service_tier": "auto"}, {"logit_bias": {"5": 1.5}}, {"logit_bias": {}},
    {"logit_bias": None}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 20},
    {"logprobs": False, "top_logprobs": 0}, {"allowed_token_ids": [5, 6]},
    {"response_format": {"type": "text"}}, {"response_format": None}, {"tools": []},
    {"tools": None}, {"tool_choice": "auto"}, {"tool_choice": "none"},
    {"parallel_tool_calls": True}, {"unknown_field": {"a": [1]}}, {"documents": []},
    {"reasoning_effort": None}, {"reasoning_split": True}, {"priority": 1},
    {"stream_options": None}, {"min_tokens": 0}, {"best_of": 1}, {"bad_words": []},
    {"cache_prompt": True}, {"timings_per_token": False}, {"top_logprobs": None},
    {"model": "nano"}, {"model": "also-nano"}, {"model": None},
    *({"reasoning_effort": e} for e in ("minimal", "low", "medium", "high", "xhigh", "max",
                                        "none", "odd")),
    *({"thinking": {"type": t}} for t in ("adaptive", "enabled", "disabled")),
    {"thinking": {"type": "enabled", "budget_tokens": 5}},
    *({"tools": [t]} for t in (
        {"type": "function", "function": {"name": "f"}},
        {"type": "function", "function": {"name": "f", "parameters": {}}},
        {"type": "function", "function": {"name": "f", "description": None, "parameters": None}},
        {"type": "function", "function": {"name": "my-tool.v2", "strict": False}},
        {"type": "function", "name": "flat", "parameters": {"type": "object"}})),
]


@pytest.mark.parametrize("fields", ACCEPTED_FIELDS, ids=str)
def test_fields_are_accepted(server, fields):
    body = {"messages": [USER], "max_tokens": 1} | fields
    if fields.get("max_tokens", 1) != 1:
        body["stop_token_ids"] = list(range(4096))  # or it would take long
    answer = post(server, CHAT, body)
    assert answer.status == 200, answer.text


REJECTED = [
    {"messages": []}, {"messages": None}, {"messages": "Hello"}, {"messages": {}},
    {"messages": ["Hello"]}, {"messages": [{}]}, {"messages": [{"content": "no role"}]},
    {"messages": [{"role": "wizard", "content": "x"}]}, {"messages": [{"role": 5, "content": "x"}]},
    {"messages": [{"role": "user", "content": 5}]},
    {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
    *({"temperature": t} for t in (5, -0.1, 2.1, "hot", [])),
    *({"top_p": p} for p in (0, -1, 1.1, "x")), {"top_k": -2}, {"top_k": 1.5}, {"min_p": 2},
    {"min_p": -0.1}, {"presence_penalty": 3}, {"frequency_penalty": -3},
    {"repetition_penalty": 0}, {"repetition_penalty": -1},
    {"max_tokens": -1}, {"max_tokens": "many"}, {"max_tokens": 1.5}, {"max_completion_tokens": -1},
    {"n": 0}, {"n": -1}, {"n": 1000000}, {"n": "two"}, {"seed": "x"}, {"seed": 1.5},
    {"stop": 5}, {"stop": [5]}, {"stop_token_ids": "x"}, {"stop_token_ids": [-1]},
    {"stop_token_ids": [4096]}, {"min_tokens": -1},
    {"min_tokens": 5, "max_tokens": 4}, {"stream": "yes"}, {"stream": 1},
    {"stream_options": 5}, {"logprobs": "x"}, {"logprobs": True, "top_logprobs": 21},
    {"logprobs": True, "top_logprobs": -1}, {"top_logprobs": 2},
    {"logit_bias": {"x": 1}}, {"logit_bias": {"-1": 1}}, {"logit_bias": {"4096": 1}},
    {"logit_bias": {"5": 101}}, {"logit_bias": {"5": "x"}}, {"logit_bias": []},
    {"allowed_token_ids": [4096]}, {"allowed_token_ids": []}, {"model": "gpt-5"}, {"model": 5},
    {"response_format": {}}, {"response_format": {"type": "xml"}}, {"response_format": "json"},
    {"response_format": {"type": "json_schema"}},
    {"thinking": {"type": "odd"}}, {"thinking": "enabled"},
    {"chat_template_kwargs": {"thinking_mode": "odd"}}, {"chat_template_kwargs": 5},
    {"reasoning_effort": "none", "thinking": {"type": "enabled"}}, {"reasoning_effort": 5},
    # The history of calls.
    *({"messages": m, "tools": [PING]} for m in (
        [result()], [USER, result()], [USER, SAID, result()],
        [USER, calling(call()), result(id="call_2")],
        [USER, calling(call()), USER],
        [USER, calling(call(id="a"), call(id="b")), result(id="a")],
        [USER, calling(call(id="a"), call(id="b")), result(id="a"), USER],
        [USER, calling(call()), result(), result()],
        [USER, calling(call()), result({"t": 20})],
        [USER, calling(call()), {"role": "tool", "content": "x"}],
        [USER, calling(call(arguments="{broken")), result()],
        [USER, calling(call(arguments="[]")), result()],
        [USER, calling(call(arguments="5")), result()],
        [USER, calling(call(arguments=5)), result()],
        [USER, calling({"id": "call_1", "type": "function"}), result()],
        [USER, calling("ping"), result()],
    )),
]


@pytest.mark.parametrize("fields", REJECTED, ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_nonsense_is_refused(server, fields, stream):
    body = {"messages": [USER], "max_tokens": 1} | ({"stream": True} if stream else {}) | fields
    answer = post(server, CHAT, body)
    assert 400 <= answer.status < 500, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == answer.status
    assert len(error["message"]) > 10


def test_unknown_model_is_404(server):
    answer = post(server, CHAT, user("x", model="gpt-5"))
    assert answer.status == 404 and answer.json()["error"]["type"] == "not_found_error"
    assert "gpt-5" in answer.text and "nano" in answer.text


@pytest.mark.parametrize("fields, param", [({"temperature": 5}, "temperature"),
                                           ({"top_p": 0}, "top_p"), ({"n": 0}, "n"),
                                           ({"messages": []}, "messages"),
                                           ({"max_tokens": -1}, "max_tokens"),
                                           ({"model": "x"}, "model")])
def test_an_error_names_its_field(server, fields, param):
    error = post(server, CHAT, user("x") | fields).json()["error"]
    assert error["param"] == param and param in error["message"]


# ------------------------------------------------------------------------------- §8.3, §8.4


def test_the_form_of_an_answer(server):
    body = user("Hello", max_tokens=4, temperature=0)
    answer = ask(server, CHAT, body)
    assert set(answer) == {"id", "object", "created", "model", "choices", "usage"}
    assert answer["model"] == "nano" and answer["created"] > 1.6e9
    assert answer["usage"].keys() == {"prompt_tokens", "completion_tokens", "total_tokens",
                                      "prompt_tokens_details", "completion_tokens_details"}
    choice = answer["choices"][0]
    assert choice["logprobs"] is None and choice["index"] == 0
    assert choice["message"]["role"] == "assistant"


def test_length_means_max_tokens(server):
    for body in (user("Hello", max_tokens=5, ignore_eos=True),
                 user("Hello", max_tokens=50, max_completion_tokens=5, ignore_eos=True)):
        answer = both(server, body | {"temperature": 0})
        assert answer.only.finish == "length" and answer.usage["completion_tokens"] == 5


def test_usage_comes_last_or_not_at_all(scripted):
    body = play("</mm:think>" + "word " * 50, stream=True)
    without = events(scripted, CHAT, body)
    assert joined(without).usage is None
    assert not any(event.data.get("usage") for event in without[:-1])
    withit = events(scripted, CHAT, body | {"stream_options": {"include_usage": True}})
    assert joined(withit).usage["completion_tokens"] > 50
    assert withit[-2].data["choices"] == []


def test_usage_in_every_chunk_where_asked_for(scripted):
    options = {"include_usage": True, "continuous_usage_stats": True}
    found = events(scripted, CHAT, play("</mm:think>" + "word " * 50, stream_options=options))
    counts = [event.data["usage"]["completion_tokens"] for event in found[:-1]]
    assert counts == sorted(counts) and counts[-1] == joined(found, continuous=True
                                                             ).usage["completion_tokens"]


def test_an_error_after_the_head_is_an_event(scripted):
    """Then [DONE], as clients wait for it."""
    for finish in ("broken", "gone"):
        found = events(scripted, CHAT, play("</mm:think>" + "word " * 20, finish=finish))
        assert found[-1].data == "[DONE]"
        assert found[-2].data["error"]["message"]
        assert found[0].data["choices"][0]["delta"]["role"] == "assistant"


def test_an_error_before_the_head_is_a_status(scripted):
    assert post(scripted, CHAT, play(finish="broken", stream=True)).status == 500
    assert post(scripted, CHAT, play(finish="gone", stream=True)).status == 503


def test_a_repeated_prompt_is_found_in_the_cache(server):
    body = user("A prompt that is long enough. " * 30, max_tokens=1, seed=1)
    first, second = chat(server, body), chat(server, body)
    assert second.usage["prompt_tokens_details"]["cached_tokens"] > 200
    assert second.usage["prompt_tokens"] == first.usage["prompt_tokens"]
    assert second.only.said() == first.only.said()
    assert metrics(server)["vllm:prefix_cache_hits_total"] > 200


def test_choices_are_numbered_and_differ(server):
    body = user("Hello", n=4, max_tokens=12, seed=7, ignore_eos=True)
    whole, streamed = chat(server, body), chat_stream(server, body)
    texts = [choice.said() for choice in whole.choices]
    assert len(set(texts)) == 4
    assert [choice.said() for choice in streamed.choices] == texts
    assert whole.usage["completion_tokens"] == 48


def test_pings_keep_a_silent_stream_alive(scripted):
    """While nothing comes, a comment does, every few seconds."""
    stream = open_stream(scripted, CHAT, play("a", gap_ms=5500))
    lines = [stream.response.readline() for _ in range(2)]
    stream.close()
    assert any(line.startswith(b":") or b"role" in line for line in lines)
