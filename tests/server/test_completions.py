"""/v1/completions: every form of a prompt, echo, and models without a tokenizer."""

import pytest

from chats import COMPLETIONS, NS, script
from wire import ask, events, post

SHORT = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}


def text_of(found) -> str:
    """The text of a stream's only choice, which must keep to the protocol."""
    assert found[-1].data == "[DONE]"
    chunks = [event.data for event in found[:-1]]
    assert len({(c["id"], c["object"], c["created"], c["model"]) for c in chunks}) == 1
    assert chunks[0]["object"] == "text_completion" and chunks[0]["id"].startswith("cmpl-")
    finishes = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
    assert finishes[-1] and not any(finishes[:-1])
    return "".join(c["choices"][0]["text"] for c in chunks if c["choices"])


def test_the_form_of_an_answer(server):
    answer = ask(server, COMPLETIONS, {"prompt": "Hello"} | SHORT)
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 4
    assert text_of(events(server, COMPLETIONS, {"prompt": "Hello"} | SHORT)) == (
        answer["choices"][0]["text"])


def test_16_tokens_where_nothing_is_said(server):
    answer = ask(server, COMPLETIONS, {"prompt": "Hello", "ignore_eos": True})
    assert answer["usage"]["completion_tokens"] == 16


def test_ids_are_the_text_they_stand_for(server):
    ids = ask(server, "/tokenize", {"content": "Hello there"})["tokens"]
    text = [ask(server, COMPLETIONS, {"prompt": prompt} | SHORT)["choices"][0]["text"]
            for prompt in ("Hello there", ids)]
    assert text[0] == text[1]


@pytest.mark.parametrize("prompts", [["Hello", "there"], [[300, 301], [302]], ["Hello", [300]]])
def test_several_prompts_give_choices_in_order(server, prompts):
    many = ask(server, COMPLETIONS, {"prompt": prompts, "n": 2, "seed": 1} | SHORT)
    assert [c["index"] for c in many["choices"]] == [0, 1, 2, 3]
    for i, prompt in enumerate(prompts):
        alone = ask(server, COMPLETIONS, {"prompt": prompt} | SHORT)
        assert many["choices"][2 * i]["text"] == alone["choices"][0]["text"]
    assert many["usage"]["completion_tokens"] == 16
    found = events(server, COMPLETIONS, {"prompt": prompts, "n": 2, "seed": 1} | SHORT)
    for choice in many["choices"]:
        assert choice["text"] == "".join(
            e.data["choices"][0]["text"] for e in found[:-1]
            if e.data["choices"][0]["index"] == choice["index"])


@pytest.mark.parametrize("prompt", ["Hello 🙂", [300, 301]])
def test_echo(server, prompt):
    plain = ask(server, COMPLETIONS, {"prompt": prompt} | SHORT)["choices"][0]["text"]
    body = {"prompt": prompt, "echo": True} | SHORT
    said = prompt if isinstance(prompt, str) else ask(server, "/detokenize",
                                                      {"tokens": prompt})["prompt"]
    assert ask(server, COMPLETIONS, body)["choices"][0]["text"] == said + plain
    assert text_of(events(server, COMPLETIONS, body)) == said + plain


LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def test_echo_with_logprobs(server):
    """§8.5: with echo the first token has null; each other what the model says after those before."""
    ids = list(range(300, 310))
    told = ask(server, COMPLETIONS, {"prompt": ids, "echo": True, "logprobs": 3} | SHORT)[
        "choices"][0]["logprobs"]
    assert {len(told[key]) for key in LISTS} == {14}
    assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
    for i in range(1, 10):
        after = ask(server, COMPLETIONS, {"prompt": ids[:i], "logprobs": 3, "max_tokens": 1,
                                          "logit_bias": {str(ids[i]): 100}})["choices"][0]
        for key in LISTS[:3]:
            assert after["logprobs"][key] == [told[key][i]]
    plain = ask(server, COMPLETIONS, {"prompt": ids, "logprobs": 3} | SHORT)["choices"][0]
    for key in LISTS[:3]:
        assert plain["logprobs"][key] == told[key][10:]


def test_echo_with_logprobs_says_where_tokens_are(server):
    choice = ask(server, COMPLETIONS, {"prompt": "Hello 🙂 there", "echo": True, "logprobs": 0}
                 | SHORT)["choices"][0]
    told = choice["logprobs"]
    assert told["text_offset"][0] == 0 and told["text_offset"] == sorted(told["text_offset"])
    for token, offset in zip(told["tokens"], told["text_offset"]):
        if "\ufffd" not in token:
            assert choice["text"][offset:offset + len(token)] == token


def test_echo_with_logprobs_streamed(server):
    body = {"prompt": ["Hello there", [300, 301, 302]], "n": 2, "echo": True, "logprobs": 2,
            "seed": 4, "max_tokens": 4, "ignore_eos": True}
    whole = ask(server, COMPLETIONS, body)["choices"]
    found = [e.data["choices"][0] for e in events(server, COMPLETIONS, body)[:-1]]
    for choice in whole:
        chunks = [c["logprobs"] for c in found if c["index"] == choice["index"] and c["logprobs"]]
        for key in LISTS:
            assert sum((chunk[key] for chunk in chunks), []) == choice["logprobs"][key]
    assert whole[0]["logprobs"]["token_logprobs"][:2] == whole[1]["logprobs"]["token_logprobs"][:2]


def test_prompts_alone_are_scored(server):
    """max_tokens 0 with echo, as evaluations ask: nothing is drawn, and the cache changes nothing."""
    ids = [300 + i * 7 % 500 for i in range(400)]
    body = {"prompt": ids, "echo": True, "logprobs": 1, "max_tokens": 0}
    first = ask(server, COMPLETIONS, body)
    choice = first["choices"][0]
    assert choice["finish_reason"] == "length" and first["usage"]["completion_tokens"] == 0
    assert {len(choice["logprobs"][key]) for key in LISTS} == {400}
    assert all(logprob < 0 for logprob in choice["logprobs"]["token_logprobs"][1:])
    ask(server, COMPLETIONS, {"prompt": ids} | SHORT)  # now all of it is in the cache
    again = ask(server, COMPLETIONS, body)
    assert again["choices"][0]["logprobs"] == choice["logprobs"]
    assert text_of(events(server, COMPLETIONS, body)) == choice["text"]


def test_prompt_logprobs(server):
    """vLLM's form of the same."""
    ids = [300, 301, 302, 303]
    body = {"prompt": ids, "prompt_logprobs": 2} | SHORT
    told = ask(server, COMPLETIONS, body)["choices"][0]["prompt_logprobs"]
    echoed = ask(server, COMPLETIONS, {"prompt": ids, "echo": True, "logprobs": 2} | SHORT)[
        "choices"][0]["logprobs"]
    assert told[0] is None and len(told) == 4
    for i in range(1, 4):
        own = told[i][str(ids[i])]
        assert own["logprob"] == echoed["token_logprobs"][i] and own["rank"] >= 1
        assert own["decoded_token"] == echoed["tokens"][i]
        ranks = sorted(entry["rank"] for entry in told[i].values())
        assert ranks[:2] == [1, 2] and len(ranks) == (2 if own["rank"] <= 2 else 3)
    assert post(server, COMPLETIONS, body | {"stream": True}).status == 400
    for wrong in (-1, 21, "x", 1.5):
        assert post(server, COMPLETIONS, body | {"prompt_logprobs": wrong}).status == 400


def test_tokens_by_their_ids(server):
    body = {"prompt": [300, 301], "return_token_ids": True, "return_tokens_as_token_ids": True,
            "logprobs": 1, "echo": True} | SHORT
    choice = ask(server, COMPLETIONS, body)["choices"][0]
    assert choice["prompt_token_ids"] == [300, 301]
    assert choice["logprobs"]["tokens"] == [
        f"token_id:{i}" for i in [300, 301, *choice["token_ids"]]]


def test_nothing_is_read_into_the_text(scripted):
    """No reasoning, no calls; control tokens are hidden unless asked for."""
    said = f"<mm:think>a</mm:think>b{NS}<tool_call>c<fim_prefix>"
    body = {"prompt": script(said), "max_tokens": 99}
    hidden = ask(scripted, COMPLETIONS, body)["choices"][0]["text"]
    assert hidden == said.removesuffix("<fim_prefix>")
    shown = ask(scripted, COMPLETIONS, body | {"skip_special_tokens": False})["choices"][0]["text"]
    assert shown == said
    assert text_of(events(scripted, COMPLETIONS, body | {"skip_special_tokens": False})) == said


@pytest.mark.parametrize("body", [
    {}, {"prompt": None}, {"prompt": []}, {"prompt": [[]]}, {"prompt": ""}, {"prompt": 5},
    {"prompt": {}}, {"prompt": [None]}, {"prompt": [1.5]}, {"prompt": [-1]}, {"prompt": [4096]},
    {"prompt": [1, "x"]}, {"prompt": ["x", 1]}, {"prompt": [[1], ["x"]]},
    {"prompt": "x", "suffix": "y"}, {"prompt": "x", "best_of": 3}, {"prompt": "x", "n": 1000},
    {"prompt": "]<]image[>["}, {"prompt": "x", "max_tokens": -1}, {"prompt": "x", "echo": 5},
], ids=str)
def test_nonsense_is_refused(server, body):
    answer = post(server, COMPLETIONS, body)
    assert answer.status == 400 and answer.json()["error"]["message"], answer.text


# ------------------------------------------------------------------------------- without words


def test_ids_alone_are_served_without_a_tokenizer(wordless_server, server):
    body = {"prompt": [300, 301, 302], "return_token_ids": True} | SHORT
    answer = ask(wordless_server, COMPLETIONS, body)
    ids = answer["choices"][0]["token_ids"]
    assert len(ids) == 4 and answer["usage"]["prompt_tokens"] == 3
    assert ask(server, COMPLETIONS, body)["choices"][0]["token_ids"] == ids
    found = events(wordless_server, COMPLETIONS, body)
    assert found[-1].data == "[DONE]"
    assert [i for e in found[:-1] for i in e.data["choices"][0]["token_ids"]] == ids


@pytest.mark.parametrize("path, body", [
    (COMPLETIONS, {"prompt": "text"}), (COMPLETIONS, {"prompt": [1], "stop": "x"}),
    (COMPLETIONS, {"prompt": [1], "logprobs": 1}), (COMPLETIONS, {"prompt": [1], "echo": True}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}),
    ("/v1/responses", {"input": "x"}), ("/tokenize", {"prompt": "x"}),
    ("/detokenize", {"tokens": [1]}), ("/apply-template", {"messages": []}),
])
def test_what_needs_a_tokenizer_says_so(wordless_server, path, body):
    answer = post(wordless_server, path, body)
    assert answer.status == 400 and "tokenizer" in answer.text


def test_stop_token_ids_work_without_a_tokenizer(wordless_server):
    body = {"prompt": [300], "logit_bias": {"400": 100}, "stop_token_ids": [400]}
    choice = ask(wordless_server, COMPLETIONS, body)["choices"][0]
    assert choice["finish_reason"] == "stop" and choice["stop_reason"] == 400


def test_a_prompt_beyond_the_context_has_its_own_error(server):
    answer = post(server, COMPLETIONS, {"prompt": [5] * 4096, "max_tokens": 1})
    assert answer.status == 400
    assert answer.json()["error"]["type"] == "exceed_context_size_error"
