"""Reasoning and content are told apart whatever the model writes (chat-and-api §6.1, §6.2)."""

import pytest

from chats import CHAT, NS, REPLACEMENT, block, both, chat, chat_stream, invoke, play, script, tool
from wire import ask

MANNERS = ["tokens", "text", "characters", "bytes"]

# mode, what the model writes, its reasoning, its content
TURNS = [
    ("adaptive", "<mm:think>why</mm:think>because", "why", "because"),
    ("adaptive", "</mm:think>plain", "", "plain"),
    ("adaptive", "plain", "", "plain"),
    ("adaptive", "", "", ""),
    ("adaptive", "<mm:think>only", "only", ""),
    ("adaptive", "<mm:think></mm:think>none", "", "none"),
    ("adaptive", "<mm:think>a<mm:think>b</mm:think>c", "ab", "c"),
    ("adaptive", "x<mm:think>y</mm:think>z", "y", "xz"),
    ("adaptive", "</mm:think>a</mm:think>b", "", "ab"),
    ("adaptive", "<mm:think>a</mm:think>b</mm:think>c", "a", "bc"),
    ("adaptive", "<mm:think>\n why \n</mm:think> because", "\n why \n", " because"),
    ("adaptive", "ends like a marker </mm:thi", "", "ends like a marker </mm:thi"),
    ("adaptive", "<mm:think>so does this <", "so does this <", ""),
    ("adaptive", "a < b && c > d </b>", "", "a < b && c > d </b>"),
    ("enabled", "deep</mm:think>out", "deep", "out"),
    ("enabled", "never closed", "never closed", ""),
    ("enabled", "<mm:think>again</mm:think>out", "again", "out"),
    ("enabled", "</mm:think>out", "", "out"),
    ("disabled", "out", "", "out"),
    ("disabled", "</mm:think>out", "", "out"),
    ("disabled", "a<mm:think>b</mm:think>c", "b", "ac"),
]


def thinking(mode: str) -> dict:
    return {"chat_template_kwargs": {"thinking_mode": mode}}


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("mode, said, reasoning, content", TURNS)
def test_turn(scripted, mode, said, reasoning, content, manner):
    answer = both(scripted, play(said, by=manner, **thinking(mode))).only
    assert (answer.reasoning, answer.content) == (reasoning, content)
    assert answer.finish == "stop"


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("joint", ["\u200b", "\u200c", "\u200d", "\ufeff", "\u200b\u200b"])
def test_zero_width_characters_do_not_hide_a_marker(scripted, joint, manner):
    said = f"<{joint}mm:think>why</mm:{joint}think>because"
    answer = both(scripted, play(said, by=manner)).only
    assert (answer.reasoning, answer.content) == ("why", "because")


@pytest.mark.parametrize("mode", ["adaptive", "enabled"])
def test_line_feeds_behind_the_closer_may_go_and_nothing_else(scripted, mode):
    opener = "<mm:think>" if mode == "adaptive" else ""
    answer = both(scripted, play(f"{opener}\nwhy\n</mm:think>\n\nbe\n\ncause\n",
                                 **thinking(mode))).only
    assert answer.reasoning == "\nwhy\n"
    assert answer.content in ("\n\nbe\n\ncause\n", "be\n\ncause\n")


def test_the_old_tags_are_text(scripted):
    assert both(scripted, play("<think>a</think>b", by="text")).only.content == "<think>a</think>b"


@pytest.mark.parametrize("mode", ["adaptive", "enabled", "disabled"])
def test_every_cut_of_a_turn_reads_alike(scripted, mode):
    said = "<mm:think>why</mm:think>because" if mode != "enabled" else "why</mm:think>because"
    whole = chat(scripted, play(said, **thinking(mode))).only.said()
    for cut in range(1, len(said)):
        answer = chat_stream(scripted, play(said[:cut], said[cut:], by="text", **thinking(mode)))
        assert answer.only.said() == whole, f"cut before character {cut}"


@pytest.mark.parametrize("manner", MANNERS)
def test_reasoning_without_end_leaves_content_null(scripted, manner):
    body = play("<mm:think>and then", by=manner, finish="length")
    message = ask(scripted, CHAT, body)["choices"][0]
    assert message["message"]["content"] is None
    assert message["message"]["reasoning_content"] == "and then"
    assert message["finish_reason"] == "length"


def test_both_names_of_the_field_say_the_same(scripted):
    message = ask(scripted, CHAT, play("<mm:think>why</mm:think>so"))["choices"][0]["message"]
    assert message["reasoning"] == message["reasoning_content"] == "why"


def test_reasoning_can_be_left_out(scripted):
    answer = both(scripted, play("<mm:think>why</mm:think>so", include_reasoning=False)).only
    assert (answer.reasoning, answer.content) == ("", "so")


@pytest.mark.parametrize("field", [{"reasoning_format": "none"}, {"separate_reasoning": False}])
def test_reasoning_may_stay_in_the_text(scripted, field):
    said = "<mm:think>why</mm:think>so"
    answer = both(scripted, play(said, **field)).only
    assert (answer.reasoning, answer.content) == ("", said)


def test_reasoning_tokens_are_counted_without_markers(scripted):
    """Of a text that is one token a byte, as of one in the tokenizer's own."""
    why = ask(scripted, "/tokenize", {"content": "Why, because of this."})["count"]
    for by, count in (("tokens", why), ("bytes", len("Why, because of this."))):
        usage = both(scripted, play("<mm:think>Why, because of this.</mm:think>So.", by=by)).usage
        assert usage["completion_tokens_details"]["reasoning_tokens"] == count
    usage = both(scripted, play("</mm:think>So.")).usage
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 0


def test_completion_tokens_count_the_end_of_turn(scripted):
    count = ask(scripted, "/tokenize", {"content": "<mm:think>a</mm:think>b"})["count"]
    usage = both(scripted, play("<mm:think>a</mm:think>b")).usage
    assert usage["completion_tokens"] == count + 1


@pytest.mark.parametrize("text", ["🙂🏳️‍🌈👩‍👩‍👧", "é ß 漢字 ไทย", "a🙂b" * 100])
def test_no_character_is_ever_cut(scripted, text):
    answer = both(scripted, play(f"<mm:think>{text}</mm:think>{text}", by="bytes")).only
    assert (answer.reasoning, answer.content) == (text, text)
    assert not any(REPLACEMENT in fragment for _, fragment in answer.fragments)


def test_an_unfinished_character_at_the_end_is_told_once(scripted):
    ids = ask(scripted, "/tokenize", {"content": "\U000130AB"})["tokens"]
    assert len(ids) == 4
    assert both(scripted, play("</mm:think>a", *ids[:3])).only.content == "a" + REPLACEMENT


def test_control_tokens_are_hidden_unless_asked_for(scripted):
    body = play("</mm:think>a<fim_prefix>b")
    assert both(scripted, body).only.content == "ab"
    assert both(scripted, body | {"skip_special_tokens": False}).only.content == "a<fim_prefix>b"


def test_a_call_ends_reasoning(scripted):
    said = "<mm:think>I should look." + block(invoke("look", at="it"))
    answer = both(scripted, play(said, tools=[tool("look", {"at": {"type": "string"}})])).only
    assert answer.reasoning == "I should look." and answer.content == ""
    assert answer.calls[0]["arguments"] == '{"at":"it"}' and answer.finish == "tool_calls"


@pytest.mark.parametrize("field, state", [
    ({"chat_template_kwargs": {"thinking_mode": "enabled"}}, "enabled"),
    ({"chat_template_kwargs": {"thinking_mode": "disabled"}}, "disabled"),
    ({"chat_template_kwargs": {"enable_thinking": True}}, "enabled"),
    ({"chat_template_kwargs": {"enable_thinking": False}}, "disabled"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1000}}, "enabled"),
    ({"thinking": {"type": "adaptive"}}, "adaptive"),
    ({"thinking": {"type": "disabled"}}, "disabled"),
    ({"reasoning_effort": "none"}, "disabled"),
    ({"reasoning_effort": "high"}, "adaptive"),
    ({"reasoning_effort": "who knows"}, "adaptive"),
    ({"reasoning": {"effort": "none"}}, "disabled"),
    ({}, "adaptive"),
    # The more particular field wins.
    ({"chat_template_kwargs": {"thinking_mode": "enabled"}, "thinking": {"type": "disabled"}},
     "enabled"),
    ({"thinking": {"type": "disabled"}, "reasoning_effort": "high"}, "disabled"),
])
def test_thinking_fields(scripted, field, state):
    """Each alias has its effect on the prompt's end and on how the answer is read (§3)."""
    body = play("x", **field)
    prompt = ask(scripted, "/apply-template", body)["prompt"]
    end = {"enabled": "]~b]ai\n<mm:think>", "disabled": "]~b]ai\n</mm:think>",
           "adaptive": "]~b]ai\n"}[state]
    assert prompt.endswith(end) and f"Current thinking mode: {state}." in prompt
    answer = both(scripted, body).only
    assert (answer.reasoning, answer.content) == (("x", "") if state == "enabled" else ("", "x"))


def test_a_message_is_continued_in_its_own_state(scripted):
    """§6.1: the state follows from the text behind the last opening of a turn."""
    def state_after(message: dict) -> tuple:
        body = {"messages": [{"role": "user", "content": script("more")},
                             {"role": "assistant"} | message],
                "continue_final_message": True, "add_generation_prompt": False}
        answer = both(scripted, body).only
        return answer.reasoning, answer.content
    assert state_after({"content": "Sure"}) == ("", "more")
    assert state_after({"content": "So", "reasoning_content": "why"}) == ("", "more")


def test_a_continued_prompt_ends_in_its_message(scripted):
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Sure"}]
    body = {"messages": messages, "continue_final_message": True}
    prompt = ask(scripted, "/apply-template", body)["prompt"]
    assert prompt.endswith("]~b]ai\n</mm:think>Sure")


def test_the_namespace_string_is_never_part_of_a_text(scripted):
    answer = both(scripted, play(f"<mm:think>a{NS}b</mm:think>c{NS}d")).only
    assert NS not in answer.reasoning + answer.content
