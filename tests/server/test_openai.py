"""OpenAI's own client, unchanged, gets what it expects."""

import base64
import json

import openai
import pydantic
import pytest

from chats import block, invoke, script
from conftest import MEDIA
from servers import PATIENCE
from test_tools import E5


def client_of(server, key: str = "none", **options) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0,
                         timeout=30 * PATIENCE, **options)


@pytest.fixture(scope="module")
def client(server):
    return client_of(server)


@pytest.fixture(scope="module")
def actor(scripted):
    return client_of(scripted)


WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather now", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"]}}}


def says(*pieces, **fields) -> list[dict]:
    return [{"role": "user", "content": script(*pieces, **fields)}]


def test_models(client):
    assert [model.id for model in client.models.list()] == ["nano", "also-nano"]
    assert client.models.retrieve("nano").id == "nano"


def test_a_chat(client):
    answer = client.chat.completions.create(model="nano", max_tokens=5, messages=[
        {"role": "user", "content": "Hello"}], seed=1, temperature=0.5)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens <= 5


def test_a_chat_as_a_stream(actor):
    stream = actor.chat.completions.create(
        model="scripted", messages=says("<mm:think>why</mm:think>because of this"), stream=True,
        stream_options={"include_usage": True})
    content = reasoning = ""
    usage = None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
    assert (reasoning, content) == ("why", "because of this")
    assert usage.completion_tokens_details.reasoning_tokens > 0


def test_the_clients_own_accumulator(actor):
    """`chat.completions.stream` joins deltas by its own rules."""
    with actor.chat.completions.stream(model="scripted", messages=says(E5), tools=[WEATHER]) as s:
        kinds = {event.type for event in s}
        final = s.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    message = final.choices[0].message
    assert message.content == "Checking."
    assert [json.loads(c.function.arguments) for c in message.tool_calls] == [
        {"city": "Paris", "days": 2}, {"city": "Rome"}]
    assert final.choices[0].finish_reason == "tool_calls"


def test_a_round_of_tools(actor):
    messages = says(E5)
    first = actor.chat.completions.create(model="scripted", messages=messages, tools=[WEATHER])
    calls = first.choices[0].message.tool_calls
    messages.append(first.choices[0].message)
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "20"} for call in calls]
    messages += says("</mm:think>Paris 20, Rome 20.")
    second = actor.chat.completions.create(model="scripted", messages=messages, tools=[WEATHER])
    assert second.choices[0].message.content == "Paris 20, Rome 20."


def test_parsed_answers(client):
    class Colour(pydantic.BaseModel):
        red: bool
        name: str = pydantic.Field(pattern="^[a-c]{1,3}$")

    answer = client.chat.completions.parse(
        model="nano", messages=[{"role": "user", "content": "x"}], response_format=Colour,
        max_tokens=100, extra_body={"chat_template_kwargs": {"thinking_mode": "disabled"}})
    assert isinstance(answer.choices[0].message.parsed, Colour)


def test_a_picture(client):
    data = base64.b64encode((MEDIA / "smooth.png").read_bytes()).decode()
    answer = client.chat.completions.create(model="nano", max_tokens=1, messages=[
        {"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + data}},
            {"type": "text", "text": "?"}]}])
    assert answer.usage.prompt_tokens > 0


def test_completions(client):
    answer = client.completions.create(model="nano", prompt=["a", "b"], max_tokens=3, logprobs=2,
                                       temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert len(answer.choices[0].logprobs.tokens) <= 3
    stream = client.completions.create(model="nano", prompt="a", max_tokens=3, temperature=0,
                                       stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_logprobs(client):
    answer = client.chat.completions.create(
        model="nano", max_tokens=3, logprobs=True, top_logprobs=2,
        messages=[{"role": "user", "content": "Hello"}])
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


def test_errors_are_the_clients_own(client, narrow):
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="absent", messages=[{"role": "user", "content": "x"}])
    assert refused.value.type == "not_found_error" and "absent" in refused.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="nano", messages=[], temperature=5)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.AuthenticationError):
        client_of(narrow, "wrong").models.list()
    assert client_of(narrow, "sesame").models.list().data


# ------------------------------------------------------------------------------- responses


def test_a_response(client):
    answer = client.responses.create(model="nano", input="Hello", max_output_tokens=8)
    assert answer.object == "response" and answer.status in ("completed", "incomplete")
    assert answer.usage.output_tokens <= 8


def test_a_response_as_a_stream(actor):
    said = script("<mm:think>why</mm:think>because")
    with actor.responses.stream(model="scripted", input=said) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert final.output_text == "because"
    assert [item.type for item in final.output] == ["reasoning", "message"]


def test_a_response_with_a_call(actor):
    flat = {"type": "function"} | WEATHER["function"] | {"strict": False}
    said = script(block(invoke("get_weather", city="Paris")))
    first = actor.responses.create(model="scripted", input=said, tools=[flat])
    call = next(item for item in first.output if item.type == "function_call")
    assert json.loads(call.arguments) == {"city": "Paris"}
    again = actor.responses.create(model="scripted", tools=[flat], input=[
        {"role": "user", "content": "Weather?"}, call.model_dump(exclude_none=True),
        {"type": "function_call_output", "call_id": call.call_id, "output": "20"},
        {"role": "user", "content": script("</mm:think>It is 20.")}])
    assert again.output_text == "It is 20."
