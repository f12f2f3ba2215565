"""An answer depends on its request alone: not on what runs beside it, what the cache holds, whether
tokens are drafted, or how it is sent."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from chats import chat, chat_stream, user
from servers import SANITIZED, eventually
from wire import metrics, open_stream

TOKENS = 8 if SANITIZED else 24
STORY = "Once upon a time there was a fox, and the fox had a plan. "


def request(i: int, **fields) -> dict:
    """Requests of different lengths, greedy and seeded ones."""
    sampling = {"temperature": 0} if i % 2 else {"seed": 100 + i, "temperature": 1.0}
    return user(STORY * (1 + 3 * (i % 4)) + str(i), max_tokens=TOKENS, ignore_eos=True,
                return_token_ids=True, **sampling, **fields)


@pytest.fixture(scope="module")
def alone(server) -> list[list[int]]:
    """The ids of each request, asked for on its own with a cold cache."""
    return [chat(server, request(i)).only.ids for i in range(8)]


def test_in_a_batch(server, alone):
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            together = list(pool.map(lambda i: chat(server, request(i)).only.ids, range(8)))
            assert together == alone


def test_with_a_prefix_from_the_cache(server, alone):
    for i in range(8):
        again = chat(server, request(i))
        assert again.only.ids == alone[i]
        assert again.usage["prompt_tokens_details"]["cached_tokens"] > 0


def test_streamed(server, alone):
    with ThreadPoolExecutor(4) as pool:
        streamed = list(pool.map(lambda i: chat_stream(server, request(i)).only.ids, range(8)))
    assert streamed == alone


def test_with_drafts(speculative, alone):
    for i in range(4):
        assert chat(speculative, request(i)).only.ids == alone[i]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: chat_stream(speculative, request(i)).only.ids, range(8)))
    assert together == alone


def test_drafts_are_made_and_accepted(speculative, server):
    """Of a text that repeats itself; and it stays as it is. How many are made is a matter of time,
    which the drafter measures, so it gets more than one chance."""
    body = request(1, logit_bias={str(i): 30 for i in (300, 301)}, frequency_penalty=0.5)
    body["max_tokens"] = 32
    expected = chat(server, body).only.ids

    def accepted() -> bool:
        assert chat(speculative, body).only.ids == expected
        return metrics(speculative)["vllm:spec_decode_num_accepted_tokens_total"] > 0

    eventually(accepted)
    assert metrics(speculative)["vllm:spec_decode_num_draft_tokens_total"] > 0


def test_beside_clients_that_hang_up(server, alone):
    streams = [open_stream(server, "/v1/chat/completions", request(8 + i)) for i in range(3)]
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(lambda i=i: chat(server, request(i)).only.ids) for i in range(4)]
        for stream in streams:
            stream.next()
            stream.close()
        assert [one.result() for one in asked] == alone[:4]


def test_with_logprobs(server, alone):
    for i in range(4):
        assert chat(server, request(i, logprobs=True, top_logprobs=3)).only.ids == alone[i]


def test_with_reasoning_hidden(server, alone):
    assert chat(server, request(1, include_reasoning=False)).only.ids == alone[1]


def test_a_smaller_limit_gives_a_beginning(server, alone):
    shorter = chat(server, request(2) | {"max_tokens": TOKENS // 2}).only.ids
    assert shorter == alone[2][:TOKENS // 2]
