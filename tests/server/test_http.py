"""HTTP itself: methods, paths, keys, limits, connections, and bytes that are no requests."""

import json
import socket
import time

import pytest

from chats import CHAT, user
from servers import PATIENCE, eventually, serve
from wire import ask, call, connect, get, headers_for, metrics, open_stream, post, raw, status_of

HELLO = user("Hello", max_tokens=2, temperature=0)


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def check_error(answer, status: int):
    """An error in OpenAI's form, with a sentence and its status as a number."""
    assert answer.status == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["code"] == status


def test_unknown_path_is_404(server):
    check_error(get(server, "/v2/chat"), 404)


@pytest.mark.parametrize("method, path", [("GET", CHAT), ("DELETE", "/v1/models"),
                                          ("PUT", "/tokenize"), ("POST", "/health")])
def test_other_method_is_405(server, method, path):
    answer = call(server, method, path)
    check_error(answer, 405)
    allowed = answer.headers["allow"].split(", ")
    assert method not in allowed and "OPTIONS" in allowed and len(allowed) > 1


def test_head_is_get_without_a_body(server):
    whole, head = get(server, "/v1/models"), call(server, "HEAD", "/v1/models")
    assert head.status == 200 and head.body == b""
    assert head.headers["content-length"] == str(len(whole.body))


def test_browsers_may_ask_from_other_pages(server):
    asked = call(server, "OPTIONS", CHAT, headers={
        "Origin": "http://example.org", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type"})
    assert asked.status in (200, 204)
    assert asked.headers["access-control-allow-origin"] == "*"
    assert "POST" in asked.headers["access-control-allow-methods"]
    # A star does not stand for Authorization, which has to be named (Fetch standard).
    assert "authorization" in asked.headers["access-control-allow-headers"].lower()
    assert get(server, "/v1/models").headers["access-control-allow-origin"] == "*"


def test_request_ids_come_back(server):
    named = get(server, "/health", headers={"X-Request-Id": "mine-1"})
    assert named.headers["x-request-id"] == "mine-1"
    ids = {get(server, "/health").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    odd = get(server, "/health", headers={"X-Request-Id": 'a"b c'})
    assert odd.headers["x-request-id"] != 'a"b c'


# ------------------------------------------------------------------------------- keys


@pytest.mark.parametrize("path", ["/v1/models", "/metrics"])
@pytest.mark.parametrize("key", [None, "Bearer wrong", "Bearer ", "Basic sesame", "sesame",
                                 "Bearer sesam", "Bearer sesamee"])
def test_wrong_key_is_401(narrow, path, key):
    check_error(get(narrow, path, headers={"Authorization": key or ""}), 401)


def test_wrong_key_is_401_where_tokens_are_made(narrow):
    check_error(post(narrow, CHAT, HELLO, headers={"Authorization": "Bearer wrong"}), 401)


def test_wrong_key_is_told_in_anthropics_form(narrow):
    answer = post(narrow, "/v1/messages", {}, headers={"Authorization": "Bearer wrong"})
    assert answer.status == 401
    assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer second"},
                                     {"Authorization": "bearer sesame"},
                                     {"Authorization": "", "x-api-key": "sesame"}])
def test_every_key_counts_in_both_headers(narrow, headers):
    assert get(narrow, "/v1/models", headers=headers).status == 200


@pytest.mark.parametrize("path", ["/health", "/ping", "/version", "/openapi.json"])
def test_these_need_no_key(narrow, path):
    assert get(narrow, path, headers={"Authorization": ""}).status == 200


# ------------------------------------------------------------------------------- limits


def test_body_too_large_is_413(narrow):
    answer = post(narrow, CHAT, user("a" * (1 << 20)))
    check_error(answer, 413)
    assert str(1 << 20) in answer.json()["error"]["message"]


def test_413_comes_before_the_body(narrow):
    """Of a body whose length is told, none needs to be sent."""
    head = (f"POST {CHAT} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer sesame\r\n"
            f"Content-Length: {1 << 40}\r\n\r\n").encode()
    assert status_of(raw(narrow, head, shut=False)) == 413


def test_413_counts_chunks(narrow):
    chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    head = f"POST {CHAT} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert status_of(raw(narrow, head + chunk * 17 + b"0\r\n\r\n")) == 413


def test_huge_headers_are_431(server):
    assert status_of(raw(server, request("GET", "/health", b"", "X-Long: " + "a" * 40000))) == 431
    many = ["X-Many: a"] * 5000
    assert status_of(raw(server, request("GET", "/health", b"", *many))) == 431
    assert status_of(raw(server, b"GET /" + b"a" * 70000)) in (400, 414, 431)


def test_prompt_longer_than_the_context_names_both_numbers(narrow):
    answer = post(narrow, "/v1/completions", {"prompt": [1] * 3000})
    check_error(answer, 400)
    assert "2048" in answer.json()["error"]["message"] and "3000" in answer.text


def test_a_full_queue_is_429(narrow):
    """One runs, one waits, the third is told when to come back; all others are answered."""
    body = user("Count", max_tokens=1500, ignore_eos=True)
    streams = [open_stream(narrow, CHAT, body)]
    streams[0].next()
    waiting = connect(narrow)
    waiting.request("POST", CHAT, json.dumps(body | {"stream": True}), headers_for(narrow))
    eventually(lambda: metrics(narrow)["vllm:num_requests_waiting"] == 1)
    refused = post(narrow, CHAT, body)
    check_error(refused, 429)
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert int(refused.headers["retry-after"]) >= 1
    streams[0].close()
    waiting.close()
    eventually(lambda: metrics(narrow)["vllm:num_requests_running"] == 0
               and metrics(narrow)["vllm:num_requests_waiting"] == 0)
    assert post(narrow, CHAT, HELLO).status == 200


def test_without_a_queue_nobody_waits(start, nano):
    server = start(serve, nano, "--max-num-seqs", "1", "--max-queue", "0", "--quiet")
    stream = open_stream(server, CHAT, user("Count", max_tokens=3000, ignore_eos=True))
    stream.next()
    check_error(post(server, CHAT, HELLO), 429)
    stream.close()
    eventually(lambda: metrics(server)["vllm:num_requests_running"] == 0)
    # More prompts than places are taken where nobody waits.
    answer = ask(server, "/v1/completions", {"prompt": ["a", "b", "c"], "max_tokens": 2})
    assert len(answer["choices"]) == 3
    assert server.stop() == 0


# ------------------------------------------------------------------------------- connections


def test_a_connection_takes_many_requests(server):
    connection = connect(server)
    for _ in range(3):
        assert call(server, "GET", "/health", connection=connection).status == 200
        assert call(server, "POST", CHAT, HELLO, connection=connection).status == 200
        assert call(server, "GET", "/nowhere", connection=connection).status == 404
    connection.close()


def test_pipelined_requests_are_answered_in_order(server):
    body = json.dumps(HELLO).encode()
    received = raw(server, request("POST", CHAT, body) + request("GET", "/version")
                   + request("GET", "/nowhere") + request("GET", "/health", b"",
                                                          "Connection: close"), shut=False)
    statuses = [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 200, 404, 200]
    assert received.index(b"chat.completion") < received.index(b'"version"')


def test_http_1_0_streams_without_chunks(server):
    body = json.dumps(HELLO | {"stream": True}).encode()
    head = f"POST {CHAT} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    received = raw(server, head + body, shut=False)
    assert status_of(received) == 200
    assert b"Transfer-Encoding" not in received and b"Content-Length" not in received
    assert received.endswith(b"data: [DONE]\n\n")


def test_connection_close_is_kept(server):
    received = raw(server, request("GET", "/health", b"", "Connection: close"), shut=False)
    assert b"connection: close" in received.lower()


def test_expect_100_continue(server):
    body = json.dumps(HELLO).encode()
    with socket.create_connection((server.host, server.port), 10 * PATIENCE) as s:
        s.sendall(request("POST", CHAT, body, "Expect: 100-continue")[:-len(body)])
        assert s.recv(1000).startswith(b"HTTP/1.1 100")
        s.sendall(body)
        assert status_of(s.recv(65536)) == 200


def test_a_body_may_come_in_chunks(server):
    connection = connect(server)
    body = json.dumps(HELLO).encode()
    connection.request("POST", CHAT, iter([body[:5], body[5:30], body[30:]]), headers_for(server),
                       encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 200 and json.loads(response.read())["choices"]
    connection.close()


@pytest.mark.parametrize("path, status", [("/health?deep=1", 200), ("/v1/models?limit=5", 200),
                                          ("/v1%2Fmodels", 200), ("/v1/models/also%2Dnano", 200),
                                          ("/v1/models/%00", 404), ("/%ff", 404), ("*", 404),
                                          ("/v1/models/..%2f..%2fetc", 404), ("//health", 404)])
def test_paths_are_decoded_and_queries_ignored(server, path, status):
    received = raw(server, request("GET", path, b"", "Connection: close"), shut=False)
    assert status_of(received) in (status, 400 if status != 200 else status)


@pytest.mark.parametrize("data", [
    b"\x00\x01\x02\x03\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS handshake
    b"GET\r\n\r\n",
    b"GET /health\r\n\r\n",
    b"GET /health HTTP/9.9\r\n\r\n",
    b"GET /health HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /health HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    b"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"POST /tokenize HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST /tokenize HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
])
def test_what_is_no_request_is_refused(server, data):
    """With 4xx, or by hanging up; and nothing else suffers."""
    assert status_of(raw(server, data + b"\r\n\r\n")) in (0, 400, 404, 411, 501, 505)
    assert get(server, "/health").status == 200


def test_half_a_request_and_gone(server):
    for length in (1, 20, 60, 90):
        raw(server, request("POST", CHAT, json.dumps(HELLO).encode())[:length])
    assert get(server, "/health").status == 200


def test_slow_clients_hold_up_nobody(server):
    slow = []
    for _ in range(50):
        s = socket.create_connection((server.host, server.port))
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Le")
        slow.append(s)
    begin = time.monotonic()
    assert get(server, "/health").status == 200
    assert time.monotonic() - begin < 2 * PATIENCE
    for s in slow:
        s.close()


def test_a_request_may_come_byte_by_byte(server):
    data = request("GET", "/health", b"", "Connection: close")
    with socket.create_connection((server.host, server.port), 10 * PATIENCE) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(data)):
            s.sendall(data[i:i + 1])
        assert status_of(s.recv(65536)) == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"text"', b"{}x", b"\xff\xfe",
                                  b'{"messages": "\xff"}', b"[" * 100000, b'{"a":' * 20000,
                                  b'{"messages": [{"role": "user", "content": "\\ud800"}]}'])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/messages", "/v1/responses",
                                  "/tokenize", "/detokenize", "/apply-template",
                                  "/v1/messages/count_tokens"])
def test_a_body_that_is_no_request_is_400(server, path, body):
    answer = post(server, path, body)
    assert answer.status == 400, answer.text
    assert answer.json()["error"]["message"]


# ------------------------------------------------------------------------------- clients that go


def test_hanging_up_frees_the_slot(server):
    stream = open_stream(server, CHAT, user("Go on", max_tokens=3000, ignore_eos=True))
    stream.next()
    assert metrics(server)["vllm:num_requests_running"] >= 1
    stream.close()
    eventually(lambda: metrics(server)["vllm:num_requests_running"] == 0)
    assert metrics(server)["vllm:request_success_total"] > 0


def test_hanging_up_before_the_answer_frees_the_slot(server):
    connection = connect(server)
    connection.request("POST", CHAT, json.dumps(user("Go on", max_tokens=3000, ignore_eos=True)),
                       headers_for(server))
    eventually(lambda: metrics(server)["vllm:num_requests_running"] == 1)
    connection.close()
    eventually(lambda: metrics(server)["vllm:num_requests_running"] == 0)


def test_hanging_up_ends_all_choices(server):
    body = user("Go on", max_tokens=3000, ignore_eos=True, n=4)
    stream = open_stream(server, CHAT, body)
    stream.next()
    eventually(lambda: metrics(server)["vllm:num_requests_running"] == 4)
    stream.close()
    eventually(lambda: metrics(server)["vllm:num_requests_running"] == 0)
    assert metrics(server)["vllm:num_requests_waiting"] == 0


def test_a_client_that_reads_late_gets_everything(server):
    """Its stream waits in buffers, and holds up nobody."""
    late = open_stream(server, CHAT, user("Go on", max_tokens=200, ignore_eos=True))
    assert post(server, CHAT, HELLO).status == 200
    eventually(lambda: metrics(server)["vllm:num_requests_running"] == 0)
    assert [event.data for event in late][-1] == "[DONE]"
    late.close()
