"""Chat completions and completions, whole and streamed, told in one form."""

import json
from dataclasses import dataclass, field

from servers import Server
from wire import Event, ask, events

NS = "]<]minimax[>["
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
REPLACEMENT = "\ufffd"


@dataclass
class Choice:
    """A choice of an answer, its streamed pieces joined; `fragments` are these pieces."""
    content: str = ""
    reasoning: str = ""
    calls: list[dict] = field(default_factory=list)  # {"id", "name", "arguments"}
    finish: str | None = None
    stop_reason: object = None
    logprobs: list[dict] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    fragments: list[tuple] = field(default_factory=list)  # (field, text)

    def said(self) -> tuple:
        """All but what is drawn by chance: ids of calls."""
        calls = tuple((call["name"], call["arguments"]) for call in self.calls)
        return self.content, self.reasoning, calls, self.finish, self.stop_reason


@dataclass
class Chat:
    choices: list[Choice]
    usage: dict | None
    id: str = ""

    @property
    def only(self) -> Choice:
        assert len(self.choices) == 1
        return self.choices[0]


def user(text: str, **fields) -> dict:
    return {"messages": [{"role": "user", "content": text}]} | fields


def choice_of(body: dict) -> Choice:
    message, logprobs = body["message"], body["logprobs"]
    assert message["role"] == "assistant"
    assert "tool_calls" not in message or message["tool_calls"], "an empty list of calls"
    calls = []
    for call in message.get("tool_calls", []):
        assert call["type"] == "function"
        calls.append({"id": call["id"], **call["function"]})
    return Choice(message["content"] or "", message.get("reasoning_content", ""), calls,
                  body["finish_reason"], body["stop_reason"],
                  logprobs["content"] if logprobs else [], body.get("token_ids", []))


def check_usage(usage: dict):
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 <= usage["prompt_tokens_details"]["cached_tokens"] <= usage["prompt_tokens"]
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert 0 <= reasoning <= usage["completion_tokens"]


def chat(server: Server, body: dict) -> Chat:
    """A chat completion as a whole."""
    answer = ask(server, CHAT, body)
    assert answer["object"] == "chat.completion" and answer["id"].startswith("chatcmpl-")
    check_usage(answer["usage"])
    indices = [choice["index"] for choice in answer["choices"]]
    assert indices == list(range(len(indices)))
    return Chat([choice_of(choice) for choice in answer["choices"]], answer["usage"], answer["id"])


def add_call(choice: Choice, piece: dict):
    """A header opens the next call; what follows belongs to the call of its index."""
    if "id" in piece:
        assert piece["index"] == len(choice.calls), "calls are numbered in order"
        assert piece["type"] == "function"
        choice.calls.append({"id": piece["id"], **piece["function"]})
        assert piece["function"]["arguments"] == ""
        return
    assert set(piece) == {"index", "function"} and set(piece["function"]) == {"arguments"}
    choice.calls[piece["index"]]["arguments"] += piece["function"]["arguments"]
    choice.fragments.append((("arguments", piece["index"]), piece["function"]["arguments"]))


def add_delta(choice: Choice, delta: dict):
    assert not ("content" in delta and "reasoning_content" in delta), "both in one delta"
    assert delta.get("reasoning", "") == delta.get("reasoning_content", "")
    for name, attribute in (("content", "content"), ("reasoning_content", "reasoning")):
        if text := delta.get(name, ""):
            setattr(choice, attribute, getattr(choice, attribute) + text)
            choice.fragments.append((attribute, text))
    for piece in delta.get("tool_calls", []):
        add_call(choice, piece)


def add_chunk(choices: dict[int, Choice], one: dict):
    first = one["index"] not in choices
    choice = choices.setdefault(one["index"], Choice())
    assert choice.finish is None, "a choice that has finished goes on"
    if first:
        assert one["delta"] == {"role": "assistant", "content": ""}
        assert one["finish_reason"] is None
        return
    add_delta(choice, one["delta"])
    if one["logprobs"]:
        choice.logprobs += one["logprobs"]["content"]
    choice.ids += one.get("token_ids", [])
    choice.finish = one["finish_reason"]
    if choice.finish:
        assert one["delta"] == {}
        choice.stop_reason = one["stop_reason"]


def joined(found: list[Event], continuous: bool = False) -> Chat:
    """The chat that a stream tells, which must keep to the protocol in every chunk."""
    assert found[-1].data == "[DONE]"
    chunks = [event.data for event in found[:-1]]
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    usage = None
    if chunks[-1]["choices"] == []:
        usage = chunks.pop()["usage"]
        check_usage(usage)
    choices: dict[int, Choice] = {}
    for chunk in chunks:
        assert continuous or chunk.get("usage") is None, "usage before the last chunk"
        assert len(chunk["choices"]) == 1
        add_chunk(choices, chunk["choices"][0])
    assert all(choice.finish for choice in choices.values())
    return Chat([choices[i] for i in range(len(choices))], usage, chunks[0]["id"])


def chat_stream(server: Server, body: dict) -> Chat:
    """A chat completion as a stream, with its usage."""
    asked = {"stream_options": {"include_usage": True}} | body
    return joined(events(server, CHAT, asked))


def both(server: Server, body: dict) -> Chat:
    """A chat completion asked for twice, whole and streamed, which must say the same. Gives the
    streamed one."""
    whole, streamed = chat(server, body), chat_stream(server, body)
    assert [c.said() for c in streamed.choices] == [c.said() for c in whole.choices]
    for key in ("prompt_tokens", "completion_tokens", "completion_tokens_details"):
        assert streamed.usage[key] == whole.usage[key]
    for choice in streamed.choices:
        assert [c["name"] for c in choice.calls] == [c["name"] for c in whole.choices[0].calls]
        assert len({call["id"] for call in choice.calls}) == len(choice.calls)
    return streamed


def script(*pieces, by: str = "tokens", gap_ms: float = 0, finish: str = "stop") -> str:
    """What makes the scripted model say `pieces` (script.h)."""
    text = json.dumps({"pieces": pieces, "by": by, "gap_ms": gap_ms, "finish": finish})
    return f"SCRIPT<<{text}>>END"


def play(*pieces, by: str = "tokens", gap_ms: float = 0, finish: str = "stop", **fields) -> dict:
    """The request of a chat whose answer is scripted."""
    return user(script(*pieces, by=by, gap_ms=gap_ms, finish=finish), **fields)


# ------------------------------------------------------------------------------- calls of tools


def tool(name: str, properties: dict | None = None, **more) -> dict:
    schema = {"type": "object", "properties": properties or {}} | more
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def element(key: str, value) -> str:
    """An argument in the model's notation, as the template renders it."""
    if isinstance(value, dict):
        inner = "".join(element(k, v) for k, v in value.items() if v is not None)
    elif isinstance(value, list):
        inner = "".join(element("item", v) for v in value)
    elif isinstance(value, bool):
        inner = str(value).lower()
    else:
        inner = str(value)
    return f"{NS}<{key}>{inner}{NS}</{key}>"


def invoke(name: str, **arguments) -> str:
    inner = "".join(element(key, value) for key, value in arguments.items())
    return f'{NS}<invoke name="{name}">{inner}{NS}</invoke>\n'


def block(*invokes: str) -> str:
    return f"{NS}<tool_call>\n" + "".join(invokes) + f"{NS}</tool_call>"
