"""Calls of tools, as the model writes them, arrive as JSON (chat-and-api §4, §5)."""

import json

import pytest

from chats import CHAT, NS, block, both, chat, chat_stream, element, invoke, play, tool, user
from servers import SANITIZED
from wire import ask, post

MANNERS = ["tokens", "text", "characters", "bytes"]
STRING = {"type": "string"}
WEATHER = tool("get_weather", {"city": STRING, "days": {"type": "integer"}})
TOOLS = [WEATHER, tool("ping"), tool("my-tool.v2", {"x-y.z": STRING})]

# The assistant's turn of the specification's example E5.
E5 = ("<mm:think>Two lookups.</mm:think>Checking."
      + block(invoke("get_weather", city="Paris", days=2), invoke("get_weather", city="Rome")))


def calls_of(answer) -> list[tuple]:
    return [(call["name"], json.loads(call["arguments"])) for call in answer.calls]


def said(scripted, text: str, by: str = "tokens", tools=None, **fields):
    return both(scripted, play(text, by=by, tools=TOOLS if tools is None else tools, **fields)).only


# ------------------------------------------------------------------------------- §5.5


@pytest.mark.parametrize("manner", MANNERS)
def test_the_specifications_example(scripted, manner):
    answer = said(scripted, E5, manner)
    assert (answer.reasoning, answer.content) == ("Two lookups.", "Checking.")
    assert calls_of(answer) == [("get_weather", {"city": "Paris", "days": 2}),
                                ("get_weather", {"city": "Rome"})]
    assert answer.finish == "tool_calls"


def test_every_cut_reads_alike(scripted):
    """Vector 1: the text in two pieces, cut before each of its characters."""
    text = "Hi " + block(invoke("get_weather", city="P]<]mi & </city>", days=3))
    whole = said(scripted, text).said()
    for cut in range(1, len(text), 5 if SANITIZED else 1):
        for by in ("text", "tokens"):
            answer = chat_stream(scripted, play(text[:cut], text[cut:], by=by, tools=TOOLS)).only
            assert answer.said() == whole, f"cut before character {cut} of {by}"


@pytest.mark.parametrize("manner", MANNERS)
def test_a_call_without_arguments(scripted, manner):
    answer = said(scripted, block(invoke("ping")), manner)
    assert [(c["name"], c["arguments"]) for c in answer.calls] == [("ping", "{}")]


def test_calls_have_their_own_indices_and_ids(scripted):
    answer = said(scripted, block(*[invoke("ping")] * 5))
    assert [call["name"] for call in answer.calls] == ["ping"] * 5
    ids = [call["id"] for call in answer.calls]
    assert len(set(ids)) == 5 and all(i.startswith("call_") and len(i) == 29 for i in ids)


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("value", [
    "</city>", "<tool_call>", "</tool_call>", "&amp; &lt; <", 'a "quote" and a \\ and a \\"',
    "a\0b", "tab\tfeed\nreturn\r", "🙂é漢", " spaces ", "\n\nfeeds\n\n", "", "null", "018956",
    '{"json": ["in", "it"]}', "<mm:think>x", "]", "]<", "]<]mini", "]<]minimax[>", "]]<]minimax",
    "<invoke name=\"ping\">", "\u2028\x7f\x1f",
])
def test_strings_arrive_as_they_were_written(scripted, value, manner):
    if "mm:think" in value and manner == "tokens":
        pytest.skip("a think marker as a token is a marker")
    answer = said(scripted, block(invoke("get_weather", city=value)), manner)
    assert calls_of(answer) == [("get_weather", {"city": value})]


@pytest.mark.parametrize("key", ["filename", "filepath", "reponame", "file_content"])
def test_control_strings_inside_a_call_are_text(scripted, key):
    """Names of parameters may be control strings, and then come as one token."""
    declared = tool("write", {key: STRING, "other": STRING})
    arguments = {key: "a.cc", "other": "see <filename>"}
    for by in ("tokens", "text"):
        answer = said(scripted, block(invoke("write", **arguments)), by, [declared])
        assert calls_of(answer) == [("write", arguments)]


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("end", ["]", "]<", "]<]mini", NS[:-1], "]]<]minimax", NS + "<tool_cal"])
def test_what_only_began_like_a_block_is_content(scripted, end, manner):
    answer = said(scripted, "text " + end, manner)
    assert answer.content == ("text " + end).replace(NS, "") and not answer.calls
    assert answer.finish == "stop"


@pytest.mark.parametrize("manner", MANNERS)
def test_names_with_dashes_and_dots(scripted, manner):
    answer = said(scripted, block(invoke("my-tool.v2", **{"x-y.z": "v"})), manner)
    assert calls_of(answer) == [("my-tool.v2", {"x-y.z": "v"})]


def test_an_undeclared_tool_is_told(scripted):
    answer = said(scripted, block(invoke("unheard_of", a="1")))
    assert calls_of(answer) == [("unheard_of", {"a": "1"})]
    assert answer.finish == "tool_calls"


def test_every_truncation_closes_its_json(scripted):
    """Vector 7: E5's turn, cut by the limit behind each of its tokens."""
    ids = ask(scripted, "/tokenize", {"content": E5})["tokens"]
    lengths = []
    for count in range(1, len(ids) + 1):
        body = play(*ids[:count], finish="length", tools=TOOLS, max_tokens=count)
        answer = both(scripted, body)
        assert answer.only.finish == "length"
        assert answer.usage["completion_tokens"] == count
        for name, arguments in calls_of(answer.only):
            assert name == "get_weather" and set(arguments) <= {"city", "days"}
        lengths.append(len(answer.only.calls))
    assert lengths == sorted(lengths) and lengths[-1] == 2


# ------------------------------------------------------------------------------- §5.2

INT, NUM, BOOL = {"type": "integer"}, {"type": "number"}, {"type": "boolean"}
ANY_OBJECT, ANY_LIST = {"type": "object"}, {"type": "array"}
NULLABLE = {"type": ["string", "null"]}

COERCIONS = [
    (STRING, "text", "text"), (STRING, "5", "5"), (STRING, "null", "null"), (STRING, "", ""),
    ({"type": "str"}, "5", "5"), ({"enum": ["1", "2"]}, "1", "1"),
    (INT, "42", 42), (INT, " 42\n", 42), (INT, "-7", -7), (INT, "4.5", "4.5"), (INT, "x", "x"),
    (INT, "123456789012345678901234567890", 123456789012345678901234567890),
    ({"type": "int64"}, "42", 42),
    (NUM, "2.5", 2.5), (NUM, "5.0", 5.0), (NUM, "1e-05", 1e-05), (NUM, "x", "x"),
    ({"type": "float"}, "0.5", 0.5),
    (BOOL, "true", True), (BOOL, "False", False), (BOOL, "1", True), (BOOL, "0", False),
    (BOOL, "maybe", "maybe"),
    (INT, "null", None), (NULLABLE, "null", None), (NULLABLE, "text", "text"),
    ({"anyOf": [INT, STRING]}, "42", 42), ({"anyOf": [INT, STRING]}, "x", "x"),
    ({"oneOf": [BOOL, INT]}, "7", 7), ({"type": ["integer", "string"]}, "9", 9),
    (ANY_OBJECT, '{"a": [1, 2]}', {"a": [1, 2]}), (ANY_OBJECT, "", {}),
    (ANY_OBJECT, "not json", "not json"),
    (ANY_LIST, "[1, 2]", [1, 2]), (ANY_LIST, "", []),
    ({"$ref": "#/$defs/n"}, "42", 42),
]


@pytest.mark.parametrize("schema, text, value", COERCIONS)
def test_values_follow_their_schema(scripted, schema, text, value):
    declared = tool("f", {"v": schema}, **{"$defs": {"n": INT}})
    for by in ("tokens", "bytes"):
        answer = said(scripted, block(invoke("f", v=text)), by, [declared])
        assert calls_of(answer) == [("f", {"v": value})]
        assert type(calls_of(answer)[0][1]["v"]) is type(value)


NESTED = tool("order", {
    "user_id": INT, "tags": {"type": "array", "items": STRING},
    "addr": {"type": "object", "properties": {"zip": STRING, "floor": INT}},
    "items": {"type": "array", "items": {"type": "object", "properties": {
        "sku": STRING, "count": INT, "dims": {"type": "array", "items": NUM}}}},
    "map": {"type": "object", "additionalProperties": INT}})


@pytest.mark.parametrize("manner", MANNERS)
def test_nested_values_follow_their_schema(scripted, manner):
    value = {"user_id": 42, "tags": ["a", "b"], "addr": {"zip": "018956", "floor": 3},
             "items": [{"sku": "x<y>", "count": 2, "dims": [1.5, 2]}, {"sku": "", "count": 0}],
             "map": {"a": 1, "b": 2}}
    answer = said(scripted, block(invoke("order", **value)), manner, [NESTED])
    assert calls_of(answer) == [("order", value)]
    assert list(json.loads(answer.calls[0]["arguments"])) == list(value)


def test_what_no_schema_knows_is_strings(scripted):
    value = {"a": "1", "deep": {"b": ["2", "x"]}}
    answer = said(scripted, block(invoke("order", extra=value)), tools=[NESTED])
    assert calls_of(answer) == [("order", {"extra": value})]


def test_repeated_siblings_become_a_list(scripted):
    """Unless the object's form is known: its members are sent before their twins are seen."""
    inner = element("k", "1") + element("k", "2")
    text = block(f'{NS}<invoke name="f">{NS}<o>{inner}{NS}</o>{NS}</invoke>\n')
    assert calls_of(said(scripted, text, tools=[tool("f")])) == [("f", {"o": {"k": ["1", "2"]}})]
    known = tool("f", {"o": ANY_OBJECT})
    assert calls_of(said(scripted, text, tools=[known])) == [("f", {"o": {"k": "1"}})]


# ------------------------------------------------------------------------------- §4, §5.3


def test_content_before_a_block_stays(scripted):
    answer = said(scripted, "</mm:think>Let me see." + block(invoke("ping")))
    assert answer.content == "Let me see." and len(answer.calls) == 1


def test_content_is_null_beside_calls_alone(scripted):
    body = play(block(invoke("ping")), tools=TOOLS)
    message = ask(scripted, CHAT, body)["choices"][0]["message"]
    assert message["content"] is None and len(message["tool_calls"]) == 1


def test_tool_calls_are_left_out_where_there_are_none(scripted):
    message = ask(scripted, CHAT, play("plain", tools=TOOLS))["choices"][0]["message"]
    assert "tool_calls" not in message


@pytest.mark.parametrize("attribute", ['"ping"', "'ping'", "ping", '" ping "'])
def test_quotes_around_a_name(scripted, attribute):
    text = block(f"{NS}<invoke name={attribute}>{NS}</invoke>\n")
    assert calls_of(said(scripted, text)) == [("ping", {})]


@pytest.mark.parametrize("by", MANNERS)
def test_a_second_block_counts_too(scripted, by):
    answer = said(scripted, block(invoke("ping")) + "\n" + block(invoke("ping")), by)
    assert len(answer.calls) == 2


def test_text_behind_a_block_is_dropped(scripted):
    assert said(scripted, "a" + block(invoke("ping")) + "b").content == "a"


@pytest.mark.parametrize("fields", [{}, {"tools": TOOLS, "tool_choice": "none"}])
def test_a_block_that_nobody_asked_for_is_dropped(scripted, fields):
    answer = both(scripted, play("a" + block(invoke("ping")), **fields)).only
    assert answer.content == "a" and not answer.calls and answer.finish == "stop"


@pytest.mark.parametrize("text", [
    block(invoke("ping"))[:-len(f"{NS}</tool_call>")],
    f'{NS}<tool_call>\n{NS}<invoke name="get_weather">{NS}<city>Par',
    f'{NS}<tool_call>\n{NS}<invoke name="get_weather">{NS}<city>Paris{NS}</city>',
    f'{NS}<tool_call>\n{NS}<invoke name="get_weather">{NS}<days>3',
    f'{NS}<tool_call>\n{NS}<invoke name="get_weather">{NS}<city>a{NS}</wrong>{NS}</invoke>\n'
    f'{NS}</tool_call>',
    f'{NS}<tool_call>\n{NS}<invoke name="get_weather">junk{NS}<city>a{NS}</city>{NS}</invoke>\n'
    f'{NS}</tool_call>',
    f'{NS}<tool_call>\njunk {NS}<invoke name="ping">{NS}</invoke>\n{NS}</tool_call>',
    f'{NS}<tool_call>\n{NS}<invoke name="get_weather">{NS}</city>{NS}</invoke>\n{NS}</tool_call>',
    f'{NS}<tool_call>\n{NS}<invoke name="ping">{NS}{NS}{NS}</invoke>\n{NS}</tool_call>',
])
def test_malformed_blocks_still_give_json(scripted, text):
    for by in ("tokens", "bytes"):
        answer = said(scripted, text, by)
        assert answer.finish == "tool_calls" and len(answer.calls) == 1
        assert isinstance(calls_of(answer)[0][1], dict)
        assert NS not in answer.content + answer.calls[0]["arguments"]


@pytest.mark.parametrize("text", [
    f"{NS}<tool_call>", f"{NS}<tool_call>\n", f"{NS}<tool_call>{NS}</tool_call>",
    f"{NS}<tool_call>\n{NS}<invoke", f'{NS}<tool_call>\n{NS}<invoke name="pi',
    f'{NS}<tool_call>\n{NS}<invoke name="">{NS}</invoke>{NS}</tool_call>', f"{NS}<tool_call>\njunk",
])
def test_blocks_without_a_call_are_no_call(scripted, text):
    for by in ("tokens", "bytes"):
        answer = said(scripted, text, by)
        assert not answer.calls and answer.finish == "stop"


def test_a_lone_tool_call_tag_is_text(scripted):
    answer = said(scripted, "see <tool_call> here", "text")
    assert answer.content == "see <tool_call> here" and not answer.calls


# ------------------------------------------------------------------------------- §5.4


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "ping"}},
                                    {"type": "function", "name": "ping"}])
def test_a_demanded_call_may_be_made(scripted, choice):
    """Reasoning before it is free; streaming is no different."""
    text = "<mm:think>I must call: <x> {." + "</mm:think>" + block(invoke("ping"))
    assert calls_of(said(scripted, text, tool_choice=choice)) == [("ping", {})]


@pytest.mark.parametrize("choice, text", [
    ("required", "No, thanks."),
    ("required", block(invoke("unheard_of"))),
    ({"type": "function", "function": {"name": "ping"}},
     block(invoke("get_weather", city="Rome"))),
])
def test_a_demand_forbids_the_rest(scripted, choice, text):
    answer = post(scripted, CHAT, play("</mm:think>" + text, tools=TOOLS, tool_choice=choice))
    assert answer.status == 409, answer.text


def test_parallel_calls_can_be_forbidden(scripted):
    two = block(invoke("ping"), invoke("ping"))
    fields = {"tools": TOOLS, "parallel_tool_calls": False}
    assert post(scripted, CHAT, play(two, **fields)).status == 409
    assert calls_of(both(scripted, play(block(invoke("ping")), **fields)).only) == [("ping", {})]


@pytest.mark.parametrize("fields", [
    {"tool_choice": "required"}, {"tools": [], "tool_choice": "required"},
    {"tools": TOOLS, "tool_choice": "sometimes"}, {"tools": TOOLS, "tool_choice": 1},
    {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "absent"}}},
    {"tools": "ping"}, {"tools": [{}]}, {"tools": [{"type": "function"}]},
    {"tools": [{"type": "function", "function": {}}]}, {"tools": ["ping"]},
    {"tools": [{"type": "function", "function": {"name": 5}}]},
])
def test_impossible_demands_are_400(scripted, fields):
    answer = post(scripted, CHAT, user("x", **fields))
    assert answer.status == 400 and answer.json()["error"]["message"]


def test_the_old_fields_for_functions(scripted):
    body = play(block(invoke("ping")), functions=[{"name": "ping", "parameters": {}}],
                function_call={"name": "ping"})
    assert calls_of(both(scripted, body).only) == [("ping", {})]


def test_each_choice_has_its_own_calls(scripted):
    answer = chat_stream(scripted, play(E5, tools=TOOLS, n=3))
    assert len(answer.choices) == 3
    assert [len(choice.calls) for choice in answer.choices] == [2, 2, 2]
    assert len({call["id"] for choice in answer.choices for call in choice.calls}) == 6


def test_results_go_back_in_the_order_of_the_calls(scripted):
    calls = [{"id": f"call_{i}", "type": "function",
              "function": {"name": "ping", "arguments": "{}"}} for i in range(2)]
    messages = [{"role": "user", "content": "x"},
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "tool_call_id": "call_1", "content": "second"},
                {"role": "tool", "tool_call_id": "call_0", "content": "first"}]
    prompt = ask(scripted, "/apply-template", {"messages": messages, "tools": TOOLS})["prompt"]
    assert "<response>first</response>\n<response>second</response>" in prompt


def test_a_call_renders_back_to_the_prompts_form(scripted):
    """What was told as JSON becomes the model's own words again, so that the cache is of use."""
    answer = chat(scripted, play(E5, tools=TOOLS)).only
    calls = [{"id": c["id"], "type": "function",
              "function": {"name": c["name"], "arguments": c["arguments"]}} for c in answer.calls]
    history = [{"role": "user", "content": "x"},
               {"role": "assistant", "content": answer.content,
                "reasoning_content": answer.reasoning, "tool_calls": calls},
               *({"role": "tool", "tool_call_id": c["id"], "content": "1"} for c in calls)]
    prompt = ask(scripted, "/apply-template", {"messages": history, "tools": TOOLS})["prompt"]
    assert "]~b]ai\n" + E5 + "[e~[" in prompt


def test_a_history_of_functions_before_there_were_tools(server):
    """OpenAI's legacy form of a call and its result is that of today."""
    legacy = user("Well?", functions=[tool("f")["function"]])
    legacy["messages"] += [
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "x"}]
    modern = user("Well?", tools=[tool("f")])
    modern["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "x"}]
    counts = [ask(server, CHAT, body | {"max_tokens": 1})["usage"]["prompt_tokens"]
              for body in (legacy, modern)]
    assert counts[0] == counts[1]
