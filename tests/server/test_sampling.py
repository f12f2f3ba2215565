"""Seeds, stops, biases, and the probabilities of what was drawn, of a model with random weights."""

import math

import pytest

from chats import CHAT, COMPLETIONS, both, chat, chat_stream, play, script, user
from wire import ask, events, post

STREAMED = {"stream": True}
FREE = {"max_tokens": 16, "ignore_eos": True}


def ids_of(server, text: str) -> list[int]:
    return ask(server, "/tokenize", {"content": text})["tokens"]


def drawn(server, **fields) -> list[int]:
    """The ids of an answer."""
    body = user("Hello", return_token_ids=True) | FREE | fields
    return ask(server, CHAT, body)["choices"][0]["token_ids"]


# ------------------------------------------------------------------------------- seeds


def test_a_seed_repeats_its_answer(server):
    assert drawn(server, seed=5) == drawn(server, seed=5)
    assert drawn(server, seed=5) != drawn(server, seed=6)


def test_without_a_seed_answers_differ(server):
    assert drawn(server) != drawn(server)


def test_temperature_0_needs_no_seed(server):
    assert drawn(server, temperature=0) == drawn(server, temperature=0)


def test_choices_of_one_request_are_those_of_a_seed_each_time(server):
    body = user("Hello", n=3, seed=5, **FREE)
    first, second = chat(server, body), chat(server, body)
    assert [c.said() for c in first.choices] == [c.said() for c in second.choices]
    alone = chat(server, user("Hello", seed=5, **FREE))
    assert alone.only.said() == first.choices[0].said()


# ------------------------------------------------------------------------------- lengths


def test_min_tokens_holds_back_the_end_of_turn(server):
    eos = ids_of(server, "[e~[")[0]
    pushed = {"logit_bias": {str(eos): 100}, "max_tokens": 12}
    assert drawn(server, ignore_eos=False, **pushed) == [eos]
    held = drawn(server, ignore_eos=False, min_tokens=5, **pushed)
    assert len(held) == 6 and held.index(eos) == 5


def test_ignore_eos_goes_on(server):
    eos = ids_of(server, "[e~[")[0]
    assert drawn(server, logit_bias={str(eos): 100}, max_tokens=4) == [eos] * 4


def test_min_tokens_holds_back_stop_token_ids(server):
    pushed = {"logit_bias": {"300": 100}, "stop_token_ids": [300]}
    assert len(drawn(server, **pushed)) == 1
    assert len(drawn(server, min_tokens=3, **pushed)) == 4


# ------------------------------------------------------------------------------- biases


def test_logit_bias_forces_and_forbids(server):
    forced = drawn(server, logit_bias={"300": 100}, temperature=0)
    assert forced == [300] * 16
    plain = drawn(server, temperature=0)
    assert plain[0] not in drawn(server, temperature=0, logit_bias={str(plain[0]): -100})


def test_allowed_token_ids_are_the_only_ones(server):
    assert set(drawn(server, allowed_token_ids=[300, 301, 302])) <= {300, 301, 302}


def test_ids_without_a_string_are_never_drawn(server):
    """Nor placeholders of pictures, which mean nothing in an answer."""
    picture = ids_of(server, "]<]image[>[")[0]
    assert picture not in drawn(server, logit_bias={str(picture): 100}, temperature=2)


@pytest.mark.parametrize("fields", [{"logit_bias": {"4095": 1}}, {"allowed_token_ids": [4095]}])
def test_ids_without_a_string_are_refused(server, fields):
    """The model's vocabulary is a little longer than the tokenizer's (§1.1)."""
    assert post(server, CHAT, user("x", max_tokens=1) | fields).status == 400


def test_nothing_left_to_draw_is_the_requests_mistake(server):
    """And no sign of damaged weights."""
    picture = ids_of(server, "]<]image[>[")[0]
    for fields in ({"allowed_token_ids": [picture]},
                   {"allowed_token_ids": [300], "guided_choice": ["red", "green"]}):
        answer = post(server, COMPLETIONS, {"prompt": "x", "max_tokens": 2} | fields)
        assert 400 <= answer.status < 500, answer.text
        assert "weights" not in answer.text


# ------------------------------------------------------------------------------- stops


@pytest.mark.parametrize("by", ["tokens", "characters", "bytes"])
@pytest.mark.parametrize("stop, content", [
    ("STOP", "one two "), (["nothing", "two"], "one "), ("wo ST", "one t"), ("e", "on"),
    (["three", "STOP", "two S"], "one "), ("é", "one two STOP three "), ("absent", None),
    ("four!", None),
])
def test_stop_strings(scripted, stop, content, by):
    """Found across the borders of tokens, never shown in part, told in stop_reason."""
    text = "one two STOP three é four"
    answer = both(scripted, play("</mm:think>" + text, by=by, stop=stop)).only
    assert answer.content == (text if content is None else content)
    assert answer.finish == "stop"
    assert (answer.stop_reason is None) == (content is None)
    if content is not None:
        assert answer.stop_reason in ([stop] if isinstance(stop, str) else stop)


def test_a_stop_string_ends_generation(scripted):
    """Usage counts what was drawn until then."""
    whole = both(scripted, play("</mm:think>one two three four five")).usage
    cut = both(scripted, play("</mm:think>one two three four five", stop="two")).usage
    assert cut["completion_tokens"] < whole["completion_tokens"]


def test_include_stop_str_in_output(scripted):
    body = play("</mm:think>one two three", stop="two", include_stop_str_in_output=True)
    assert both(scripted, body).only.content == "one two"


def test_stop_strings_do_not_count_in_reasoning(scripted):
    answer = both(scripted, play("<mm:think>one two</mm:think>one two three", stop="two")).only
    assert (answer.reasoning, answer.content) == ("one two", "one ")


def test_stop_strings_in_completions(scripted):
    body = {"prompt": script("one two three"), "stop": ["two"], "max_tokens": 99}
    choice = ask(scripted, COMPLETIONS, body)["choices"][0]
    assert (choice["text"], choice["stop_reason"]) == ("one ", "two")
    found = events(scripted, COMPLETIONS, body)
    assert "".join(e.data["choices"][0]["text"] for e in found[:-1]) == "one "


def test_stop_token_ids_are_hidden_and_told(scripted):
    ids = ids_of(scripted, "one two three")
    answer = both(scripted, play("</mm:think>", *ids, stop_token_ids=[ids[-1]])).only
    assert answer.stop_reason == ids[-1] and answer.finish == "stop"
    assert "one two three".startswith(answer.content) and answer.content != "one two three"


# ------------------------------------------------------------------------------- probabilities


def check_logprobs(entries: list[dict], top: int):
    for entry in entries:
        assert set(entry) == {"token", "logprob", "bytes", "top_logprobs"}
        assert -9999 <= entry["logprob"] <= 0
        others = [other["logprob"] for other in entry["top_logprobs"]]
        assert len(others) == top and others == sorted(others, reverse=True)
        assert sum(math.exp(other) for other in others) <= 1.001


@pytest.mark.parametrize("top", [0, 3, 20])
def test_chat_logprobs(server, top):
    body = user("Hello", logprobs=True, top_logprobs=top, seed=3, return_token_ids=True, **FREE)
    whole, streamed = chat(server, body).only, chat_stream(server, body).only
    check_logprobs(whole.logprobs, top)
    assert len(whole.logprobs) == len(whole.ids) == 16
    assert [e["token"] for e in streamed.logprobs] == [e["token"] for e in whole.logprobs]
    assert streamed.ids == whole.ids


def test_the_prompt_has_logprobs_too(server):
    body = user("Hello", prompt_logprobs=1, return_token_ids=True, **FREE)
    answer = post(server, CHAT, body).json()
    told, ids = answer["prompt_logprobs"], answer["prompt_token_ids"]
    assert ids == ask(server, "/tokenize", user("Hello"))["tokens"]
    assert len(told) == len(ids) == answer["usage"]["prompt_tokens"] and told[0] is None
    assert all(str(i) in entry for i, entry in zip(ids[1:], told[1:]))
    first = events(server, CHAT, user("Hello", return_token_ids=True, **FREE))[0].data
    assert first["prompt_token_ids"] == ids


def test_bad_words_never_come(server):
    """A word of one token, and one of several."""
    body = {"prompt": "Hello", "temperature": 0, "max_tokens": 24, "ignore_eos": True,
            "return_token_ids": True}
    free = ask(server, COMPLETIONS, body)["choices"][0]
    for count in (1, 3):
        word = ask(server, "/detokenize", {"tokens": free["token_ids"][4:4 + count]})["prompt"]
        if not word or "\ufffd" in word:
            continue
        ids = ask(server, "/tokenize", {"content": word})["tokens"]
        held = ask(server, COMPLETIONS, body | {"bad_words": [word], "min_tokens": 24})["choices"][0]
        given = held["token_ids"]
        assert len(given) == 24
        assert all(given[i:i + len(ids)] != ids for i in range(24))
    for wrong in ([""], 5, ["x" * 2000], ["x"] * 1000):
        assert post(server, COMPLETIONS, body | {"bad_words": wrong}).status == 400


def test_greedy_draws_the_most_probable(server):
    answer = chat(server, user("Hello", logprobs=True, top_logprobs=1, temperature=0, **FREE))
    for entry in answer.only.logprobs:
        assert entry["top_logprobs"][0]["bytes"] == entry["bytes"]
        assert entry["top_logprobs"][0]["logprob"] == entry["logprob"]


def test_logprobs_are_those_before_sampling(server):
    """A bias changes what is drawn, not how probable the model finds it."""
    body = user("Hello", logprobs=True, top_logprobs=5, temperature=0, max_tokens=1)
    plain = chat(server, body).only.logprobs[0]
    biased = chat(server, body | {"logit_bias": {"300": 100}}).only.logprobs[0]
    assert biased["top_logprobs"] == plain["top_logprobs"]
    assert biased["logprob"] < plain["logprob"]


@pytest.mark.parametrize("by", ["tokens", "bytes"])
def test_logprobs_cover_every_token(scripted, by):
    """Also those of markers, of reasoning, of calls, and of the end of turn."""
    text = "<mm:think>why 🙂</mm:think>because é"
    body = play(text, by=by, logprobs=True)
    for answer in (chat(scripted, body), chat_stream(scripted, body)):
        entries = answer.only.logprobs
        told = b"".join(bytes(entry["bytes"]) for entry in entries).decode()
        assert told == text + "[e~["
        assert len(entries) == answer.usage["completion_tokens"]


def test_completion_logprobs(server):
    body = {"prompt": "Hello", "logprobs": 2, "seed": 1} | FREE
    choice = ask(server, COMPLETIONS, body)["choices"][0]
    told = choice["logprobs"]
    assert set(told) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert len(told["tokens"]) == 16 == len(told["token_logprobs"]) == len(told["text_offset"])
    assert all(len(top) <= 3 for top in told["top_logprobs"])  # the two, and the token itself
    for token, logprob, top in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"]):
        assert token in top or "\ufffd" in token
    assert told["text_offset"][0] == 0 and told["text_offset"] == sorted(told["text_offset"])
    found = events(server, COMPLETIONS, body)
    streamed = [e.data["choices"][0]["logprobs"] for e in found[:-1]]
    for key in told:
        assert [x for part in streamed if part for x in part[key]] == told[key]


def test_completion_logprobs_offsets_are_of_characters(scripted):
    text = "Hi é 漢字 there"
    body = {"prompt": script(text), "logprobs": 0, "max_tokens": 99}
    choice = ask(scripted, COMPLETIONS, body)["choices"][0]
    for token, offset in zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]):
        if "\ufffd" not in token and token != "[e~[":
            assert choice["text"][offset:offset + len(token)] == token


@pytest.mark.parametrize("fields", [{"logprobs": 21}, {"logprobs": -1}, {"logprobs": "x"}])
def test_completion_logprobs_out_of_range(server, fields):
    assert post(server, COMPLETIONS, {"prompt": "x"} | fields).status == 400
