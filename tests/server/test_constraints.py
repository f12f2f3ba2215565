"""Answers that are held to a form, drawn from random weights, which by themselves would never keep
to it (chat-and-api §5.4, §8.6)."""

import json
import re

import pytest

from chats import (CHAT, COMPLETIONS, block, both, chat, chat_stream, invoke, play, tool, user)
from wire import ask, post

SEEDS = range(3)
# Few letters, so that random weights come to an end.
WORD = {"type": "string", "pattern": "^[a-c]{1,5}$"}

SCHEMAS = {
    "an object": {"type": "object", "properties": {"a": {"type": "integer", "minimum": 0,
                                                         "maximum": 99}, "b": WORD},
                  "required": ["a", "b"], "additionalProperties": False},
    "an optional member": {"type": "object", "properties": {"a": {"type": "boolean"},
                                                            "b": {"type": "null"}},
                           "required": ["b"], "additionalProperties": False},
    "a list": {"type": "array", "items": {"enum": ["x", 1, None, True]}, "minItems": 1,
               "maxItems": 3},
    "nesting": {"type": "object", "properties": {"deep": {
        "type": "object", "properties": {"list": {"type": "array", "items": {"type": "boolean"},
                                                  "maxItems": 2}},
        "required": ["list"], "additionalProperties": False}},
        "required": ["deep"], "additionalProperties": False},
    "alternatives": {"anyOf": [{"type": "boolean"}, {"const": "x"}]},
    "a reference": {"$ref": "#/$defs/yes", "$defs": {"yes": {"enum": ["yes", "no"]}}},
}


def valid(value, schema: dict, root: dict | None = None) -> bool:
    """JSON Schema, as far as SCHEMAS need it."""
    root = root or schema
    if "$ref" in schema:
        return valid(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
    if "anyOf" in schema:
        return any(valid(value, one, root) for one in schema["anyOf"])
    if "enum" in schema:
        return any(value == one and type(value) is type(one) for one in schema["enum"])
    if "const" in schema:
        return value == schema["const"]
    match schema["type"]:
        case "object":
            return (isinstance(value, dict) and set(schema["required"]) <= set(value)
                    and set(value) <= set(schema["properties"])
                    and all(valid(v, schema["properties"][k], root) for k, v in value.items()))
        case "array":
            return (isinstance(value, list)
                    and schema.get("minItems", 0) <= len(value) <= schema["maxItems"]
                    and all(valid(v, schema["items"], root) for v in value))
        case "string":
            return isinstance(value, str) and re.search(schema["pattern"], value) is not None
        case "integer":
            return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
    raise AssertionError(schema)


def of_schema(schema: dict) -> dict:
    return {"response_format": {"type": "json_schema",
                                "json_schema": {"name": "it", "schema": schema, "strict": True}}}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("mode", ["disabled", "adaptive"])
def test_json_schema(server, name, mode):
    for seed in SEEDS:
        body = user("Hello", seed=seed, max_tokens=300, **of_schema(SCHEMAS[name]))
        body["chat_template_kwargs"] = {"thinking_mode": mode}
        answer = both(server, body).only
        if mode == "adaptive" and answer.finish == "length":
            continue  # of reasoning, which is free, and may have no end
        assert answer.finish == "stop"
        assert valid(json.loads(answer.content), SCHEMAS[name]), answer.content


def test_json_object(server):
    body = user("Hello", max_tokens=150, response_format={"type": "json_object"},
                chat_template_kwargs={"thinking_mode": "disabled"})
    finished = 0
    for seed in range(8):
        answer = chat(server, body | {"seed": seed, "temperature": 0.7}).only
        assert answer.content.lstrip().startswith("{")
        if answer.finish == "stop":
            finished += 1
            assert isinstance(json.loads(answer.content), dict)
    biased = chat(server, body | {"logit_bias": {str(i): 50 for i in braces(server)}}).only
    assert isinstance(json.loads(biased.content), dict) and biased.finish == "stop"


def test_json_object_with_a_schema(server):
    """llama.cpp's form of a schema."""
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
              "additionalProperties": False}
    body = user("Hello", seed=2, response_format={"type": "json_object", "schema": schema},
                chat_template_kwargs={"thinking_mode": "disabled"})
    assert valid(json.loads(both(server, body).only.content), schema)


@pytest.mark.parametrize("outputs", [{}, {"foo": 1}, {"structural_tag": "x"}])
def test_structured_outputs_of_no_known_kind_are_400(server, outputs):
    assert post(server, CHAT, user("x", structured_outputs=outputs)).status == 400


@pytest.mark.parametrize("fields", [
    {"regex": "a", "guided_choice": ["b"]},
    {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}])
def test_two_forms_at_once_are_400(server, fields):
    answer = post(server, CHAT, user("x", **fields))
    assert answer.status == 400 and all(key in answer.text for key in fields)


def test_a_form_beside_plain_text(server):
    body = user("x", seed=1, regex="ab?", response_format={"type": "text"},
                chat_template_kwargs={"thinking_mode": "disabled"})
    assert both(server, body).only.content in ("a", "ab")


def braces(server) -> list[int]:
    return ask(server, "/tokenize", {"content": "}"})["tokens"]


def test_a_constraint_cut_by_length_says_so(server):
    schema = {"type": "object", "properties": {"a": {"type": "string", "minLength": 200}},
              "required": ["a"], "additionalProperties": False}
    answer = both(server, user("x", max_tokens=8, seed=1, **of_schema(schema),
                               chat_template_kwargs={"thinking_mode": "disabled"}))
    assert answer.only.finish == "length" and answer.usage["completion_tokens"] == 8


@pytest.mark.parametrize("fields", [
    {"structured_outputs": {"json": SCHEMAS["alternatives"]}},
    {"structured_outputs": {"json": json.dumps(SCHEMAS["alternatives"])}},
    {"guided_json": SCHEMAS["alternatives"]}, {"json_schema": SCHEMAS["alternatives"]},
])
def test_other_names_of_a_schema(server, fields):
    for path, body in ((CHAT, user("x")), (COMPLETIONS, {"prompt": "x"})):
        choice = ask(server, path, body | fields | {
            "max_tokens": 20, "chat_template_kwargs": {"thinking_mode": "disabled"}})["choices"][0]
        text = choice["text"] if path == COMPLETIONS else choice["message"]["content"]
        assert json.loads(text) in (True, False, "x")


@pytest.mark.parametrize("fields, pattern", [
    ({"guided_choice": ["red", "green", "blue"]}, "red|green|blue"),
    ({"structured_outputs": {"choice": ["red", "rose"]}}, "red|rose"),
    ({"guided_regex": "[ab]{2,4}x"}, "[ab]{2,4}x"), ({"regex": "(yes|no)!"}, "(yes|no)!"),
    ({"structured_outputs": {"regex": "\\d{3}"}}, r"\d{3}"),
])
def test_choices_and_patterns(server, fields, pattern):
    for seed in SEEDS:
        body = {"prompt": "x", "max_tokens": 30, "seed": seed} | fields
        assert re.fullmatch(pattern, ask(server, COMPLETIONS, body)["choices"][0]["text"])


def test_reasoning_is_free_and_content_is_not(scripted):
    """The constraint begins where reasoning ends."""
    fields = of_schema({"enum": ["yes"]})
    answer = both(scripted, play('<mm:think>{ nothing } of "json"</mm:think>"yes"', **fields)).only
    assert json.loads(answer.content) == "yes"
    assert post(scripted, CHAT, play("<mm:think>a</mm:think>no", **fields)).status == 409
    assert post(scripted, CHAT, play('</mm:think>"ye', **fields)).status == 409
    # At the start the model may also go straight to its answer.
    assert both(scripted, play('"yes"', **fields)).only.content == '"yes"'


TOOLS = [tool("first", {"n": {"type": "integer"}, "kind": {"enum": ["a", "b"]}},
              required=["n", "kind"], additionalProperties=False),
         tool("second", {"on": {"type": "boolean"}}, required=["on"], additionalProperties=False),
         tool("third")]
DISABLED = {"chat_template_kwargs": {"thinking_mode": "disabled"}}


def check_call(call: dict):
    assert call["name"] in ("first", "second", "third")
    arguments = json.loads(call["arguments"])
    if call["name"] == "first":
        assert set(arguments) == {"n", "kind"} and arguments["kind"] in ("a", "b")
        assert isinstance(arguments["n"], int)
    if call["name"] == "second":
        assert isinstance(arguments["on"], bool)


@pytest.mark.parametrize("choice", ["required", "first", "second"])
@pytest.mark.parametrize("parallel", [True, False])
def test_demanded_calls(server, choice, parallel):
    """A call with a declared name and arguments after its schema, whatever the weights."""
    for seed in range(4):
        demand = choice if choice == "required" else {"type": "function",
                                                      "function": {"name": choice}}
        body = user("x", tools=TOOLS, tool_choice=demand, parallel_tool_calls=parallel, seed=seed,
                    max_tokens=200, **DISABLED)
        answer = both(server, body).only
        assert answer.calls and answer.content == ""
        assert parallel or len(answer.calls) == 1
        assert answer.finish == ("tool_calls" if answer.finish != "length" else "length")
        for call in answer.calls if answer.finish == "tool_calls" else answer.calls[:-1]:
            check_call(call)
            assert choice in ("required", call["name"])


def test_demanded_calls_behind_reasoning(server):
    """In adaptive mode the answer begins with reasoning or with the call."""
    for seed in SEEDS:
        body = user("x", tools=TOOLS, tool_choice="required", seed=seed, max_tokens=60)
        for answer in (chat(server, body).only, chat_stream(server, body).only):
            assert answer.content == "" and (answer.calls or answer.finish == "length")


def test_tools_win_over_a_schema(scripted):
    """Where both are given, the model may call or answer in the schema's form, and nothing else."""
    fields = of_schema({"enum": ["yes"]}) | {"tools": TOOLS}
    called = both(scripted, play("</mm:think>" + block(invoke("third")), **fields)).only
    assert [call["name"] for call in called.calls] == ["third"]
    assert both(scripted, play('</mm:think>"yes"', **fields)).only.content == '"yes"'
    assert post(scripted, CHAT, play("</mm:think>neither", **fields)).status == 409


def test_strict_tools_hold_calls_to_their_schema(scripted):
    strict = tool("f", {"n": {"type": "integer"}}, required=["n"], additionalProperties=False)
    strict["function"]["strict"] = True
    good = both(scripted, play("</mm:think>So: " + block(invoke("f", n=5)), tools=[strict])).only
    assert json.loads(good.calls[0]["arguments"]) == {"n": 5} and good.content == "So: "
    bad = play("</mm:think>" + block(invoke("f", n="five")), tools=[strict])
    assert post(scripted, CHAT, bad).status == 409


@pytest.mark.parametrize("schema, keyword", [
    ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
    ({"not": {"type": "string"}}, "not"), ({"if": {}, "then": {"type": "null"}}, "if"),
    ({"$ref": "http://example.org/x"}, "$ref"), ({"$ref": "#/$defs/none"}, "$ref"),
    ({"type": "wizard"}, "type"), ({"type": 5}, "type"), ({"enum": 5}, "enum"),
    ({"type": "string", "pattern": "("}, "pattern"), ({"anyOf": {}}, "anyOf"),
    ({"type": "array", "contains": {}, "minContains": 2}, "contains"),
    ({"type": "string", "pattern": "(a)\\1"}, "pattern"),
    ({"type": "object", "properties": 5}, "properties"),
    ({"type": "integer", "minimum": "x"}, "minimum"),
])
def test_a_schema_that_is_not_understood_is_400(server, schema, keyword):
    """Naming the keyword."""
    nested = {"type": "object", "properties": {"p": schema}, "required": ["p"]}
    for one in (schema, nested):
        answer = post(server, CHAT, user("x", max_tokens=1, **of_schema(one)))
        assert answer.status == 400, answer.text
        assert keyword in answer.json()["error"]["message"]


@pytest.mark.parametrize("schema", [False, {"enum": []}, {"type": "object", "properties": {
    "a": False}, "required": ["a"]}])
def test_a_schema_that_nothing_fits_is_400(server, schema):
    assert post(server, CHAT, user("x", max_tokens=1, **of_schema(schema))).status == 400


@pytest.mark.parametrize("fields", [
    {"guided_grammar": "root ::= x"}, {"grammar": "root ::= x"}, {"ebnf": "root ::= x"},
    {"guided_regex": "("}, {"guided_regex": 5}, {"guided_choice": []}, {"guided_choice": 5},
    {"guided_json": "{"}, {"structured_outputs": {"grammar": "x"}}, {"structured_outputs": 5},
    {"regex": "a{1000000000}"}, {"regex": "((((a{99}){99}){99}){99})"},
], ids=str)
def test_what_cannot_be_held_to_is_400(server, fields):
    answer = post(server, COMPLETIONS, {"prompt": "x", "max_tokens": 1} | fields)
    assert answer.status == 400 and answer.json()["error"]["message"], answer.text


def test_large_schemas_are_answered_soon_or_refused(server):
    many = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(300)},
            "required": [f"p{i}" for i in range(300)]}
    deep: dict = {"type": "null"}
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    for schema in (many, deep):
        answer = post(server, CHAT, user("x", max_tokens=1, **of_schema(schema)))
        assert answer.status in (200, 400), answer.text
