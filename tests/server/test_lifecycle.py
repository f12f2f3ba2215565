"""How the server begins and ends."""

import json
import resource
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from chats import CHAT, joined, play, user
from servers import PATIENCE, SANITIZED, eventually, program, serve, serve_scripts
from wire import ask, call, connect, get, metrics, open_stream, post


def refuses(server) -> bool:
    """Nobody gets a connection any more."""
    try:
        return get(server, "/health").status == 503
    except OSError:
        return True


def test_sigterm_drains(start, nano):
    """An open stream ends as it should, new connections are refused, and the exit status is 0."""
    server = start(serve, nano)
    stream = open_stream(server, CHAT, user("Go on", max_tokens=300, ignore_eos=True,
                                            stream_options={"include_usage": True}))
    stream.next()
    server.terminate()
    eventually(lambda: refuses(server))
    list(stream)
    answer = joined(stream.events)
    assert answer.only.finish == "length" and answer.usage["completion_tokens"] == 300
    assert server.wait() == 0


def test_sigterm_closes_idle_connections(start, nano):
    server = start(serve, nano)
    idle = connect(server)
    idle.request("GET", "/health")
    idle.getresponse().read()
    begin = time.monotonic()
    server.terminate()
    assert server.wait() == 0
    assert time.monotonic() - begin < 5 * PATIENCE


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_waits_for_nobody(start, nano, how):
    server = start(serve, nano)
    stream = open_stream(server, CHAT, user("Go on", max_tokens=3000, ignore_eos=True))
    stream.next()
    server.process.send_signal(how)
    eventually(lambda: refuses(server))
    server.process.send_signal(how)
    begin = time.monotonic()
    assert server.wait() == 0
    assert time.monotonic() - begin < 5 * PATIENCE
    stream.close()


def test_shutdown_timeout_cuts_what_takes_too_long(start, nano):
    """Whoever is cut off is told so."""
    server = start(serve, nano, "--shutdown-timeout", "0.2")
    body = user("Go on", max_tokens=3500, ignore_eos=True)
    stream = open_stream(server, CHAT, body)
    waiting = connect(server)
    waiting.request("POST", CHAT, json.dumps(body).encode())
    stream.next()
    eventually(lambda: metrics(server)["vllm:num_requests_running"] == 2)
    server.terminate()
    *_, error, done = list(stream)
    assert "shutting down" in error.data["error"]["message"] and done.data == "[DONE]"
    answer = waiting.getresponse()
    assert answer.status == 503 and b"shutting down" in answer.read()
    assert server.wait() == 0


def test_request_timeout_ends_an_answer_with_length(start, nano):
    server = start(serve, nano, "--request-timeout", "0.3")
    stream = open_stream(server, CHAT, user("Go on", max_tokens=3500, ignore_eos=True))
    answer = joined(list(stream))
    assert answer.only.finish == "length"
    assert server.stop() == 0


def run(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run([program(), "serve", *options], capture_output=True, text=True,
                          timeout=30 * PATIENCE, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("options, word", [
    (["/nowhere"], "/nowhere"), (["NANO", "--port", "70000"], "port"),
    (["NANO", "--host", "300.1.1.1"], "300.1.1.1"), (["NANO", "--api-key", ""], "key"),
    (["NANO", "--limit-mm-per-prompt", "{"], "limit-mm-per-prompt"),
    (["NANO", "--limit-mm-per-prompt", '{"audio": 1}'], "audio"),
    (["NANO", "--default-chat-template-kwargs", '{"thinking_mode": "odd"}'], "thinking_mode"),
    (["NANO", "--api-key-file", "/nowhere"], "/nowhere"),
    (["NANO", "--allowed-local-media-path", "/nowhere"], "/nowhere"),
    (["NANO", "--max-num-seqs", "0"], "max-num-seqs"), (["NANO", "--max-body-mb", "0"], "max-body"),
    (["NANO", "--max-num-seqs", "64", "--max-num-batched-tokens", "8"], "max-num-batched-tokens"),
    (["NANO", "--served-model-name", ""], "served-model-name"),
    (["NANO", "--max-model-len", "8192"], "4096 positions"),
])
def test_what_cannot_be_served_is_one_sentence(nano, options, word):
    ended = run(*[nano if option == "NANO" else option for option in options])
    assert 1 <= ended.returncode <= 110
    assert word in ended.stderr and len(ended.stderr.strip().splitlines()) <= 3


def test_a_port_in_use_is_one_sentence(server, nano):
    ended = run(nano, "--port", str(server.port))
    assert ended.returncode != 0 and str(server.port) in ended.stderr


def test_the_cache_may_hold_more_than_one_context(start, nano):
    """What all requests share is not bounded by what one may have."""
    server = start(serve, nano, "--kv-cache-tokens", "16384", "--quiet")
    assert get(server, "/v1/models").json()["data"][0]["max_model_len"] == 4096
    assert server.stop() == 0


def test_keys_from_a_file(start, nano, tmp_path):
    """A key a line; blanks around them, empty lines and comments do not count."""
    (tmp_path / "keys").write_text("# ours\n\n  \n  alpha \r\nbeta\n")
    server = start(serve, nano, "--api-key-file", str(tmp_path / "keys"), "--quiet")
    for key, status in (("alpha", 200), ("beta", 200), ("# ours", 401), ("", 401)):
        assert get(server, "/v1/models", headers={"Authorization": f"Bearer {key}"}
                   ).status == status
    assert server.stop() == 0
    assert not any(line.startswith("{") for line in server.lines)
    (tmp_path / "keys").write_text(" \n# none\n")
    assert "holds no key" in run(nano, "--api-key-file", str(tmp_path / "keys")).stderr


def test_all_choices_end_where_time_is_over_before_the_prompt_is_read(start, nano):
    server = start(serve, nano, "--request-timeout", "0.0001", "--max-num-batched-tokens", "64",
                   "--quiet")
    body = {"prompt": [5] * 3000, "max_tokens": 9, "n": 3}
    reasons = [choice["finish_reason"] for choice in ask(server, "/v1/completions", body)["choices"]]
    assert reasons == ["length"] * 3
    assert server.stop() == 0


@pytest.mark.parametrize("options, limits", [([], "16 sequences at a time, 4 more may wait"),
                                             (["--max-num-seqs", "1"], "1 more may wait"),
                                             (["--max-queue", "0"], "0 more may wait")])
def test_a_quarter_as_many_wait_as_run(start, nano, options, limits):
    server = start(serve, nano, "--quiet", *options)
    assert get(server, "/health").status == 200
    assert server.stop() == 0
    assert any(limits in line for line in server.lines)


def test_clients_may_be_more_than_the_usual_limit_of_files(start, nano):
    """Connections are files; a shell allows 1024, of which a server may want more."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, most[1]))
    try:
        server = start(serve, nano, "--quiet")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)
    connections = [connect(server) for _ in range(100)]
    for connection in connections:
        assert call(server, "GET", "/health", connection=connection).status == 200
    for connection in connections:
        connection.close()
    assert server.stop() == 0


def test_flags_of_other_servers_do_no_harm(start, nano):
    server = start(serve, nano, "--tool-call-parser", "minimax_m3", "--enable-auto-tool-choice",
                   "--reasoning-parser", "minimax_m3", "--jinja", "--trust-remote-code",
                   "--default-chat-template-kwargs", '{"thinking_mode": "disabled"}',
                   "--language-model-only")
    prompt = post(server, "/apply-template", user("x")).json()["prompt"]
    assert prompt.endswith("]~b]ai\n</mm:think>")
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    refused = post(server, CHAT, {"messages": [{"role": "user", "content": [picture]}]})
    assert refused.status == 400 and "vision" in refused.text
    assert get(server, "/v1/models").json()["data"][0]["modalities"] == ["text"]
    assert server.stop() == 0


def test_the_servers_thinking_mode_is_a_default(start, nano):
    server = start(serve_scripts, nano, "--thinking", "enabled")
    answer = post(server, CHAT, play("words")).json()["choices"][0]["message"]
    assert answer["reasoning_content"] == "words"
    body = play("words", thinking={"type": "disabled"})
    assert post(server, CHAT, body).json()["choices"][0]["message"]["content"] == "words"
    assert server.stop() == 0


@pytest.mark.skipif(SANITIZED, reason="takes long at a sanitizer's speed")
def test_sequences_give_way_to_one_another(start, nano):
    """More runs at once than fits the cache: some start again, and none is lost or changed."""
    server = start(serve, nano, "--kv-cache-tokens", "320", "--max-num-seqs", "3", "--quiet")
    body = [{"prompt": [300 + i] * 100, "max_tokens": 100, "ignore_eos": True, "seed": i,
             "return_token_ids": True} for i in range(4)]

    def ids_of(one: dict) -> list[int]:
        return ask(server, "/v1/completions", one)["choices"][0]["token_ids"]

    alone = ids_of(body[0])
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ids_of, body))
    assert [len(ids) for ids in together] == [100] * 4 and together[0] == alone
    assert metrics(server)["vllm:num_preemptions_total"] > 0
    eventually(lambda: metrics(server)["vllm:kv_cache_usage_perc"] == 0)
    assert server.stop() == 0
