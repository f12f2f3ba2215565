"""Requests as bytes on the wire: no client library stands between a test and the server."""

import http.client
import json
import socket
from dataclasses import dataclass, field

from servers import PATIENCE, Server


@dataclass
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self):
        return json.loads(self.body)


@dataclass
class Event:
    """One server-sent event. `data` is JSON, or the text "[DONE]"."""
    name: str
    data: object


def connect(server: Server, seconds: float = 30) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.host, server.port, timeout=seconds * PATIENCE)


def headers_for(server: Server, more: dict[str, str] | None = None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if server.key:
        headers["Authorization"] = f"Bearer {server.key}"
    return headers | (more or {})


def encode(body) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    return json.dumps(body).encode()


def call(server: Server, method: str, path: str, body=None, headers: dict[str, str] | None = None,
         connection: http.client.HTTPConnection | None = None) -> Answer:
    """One request and its whole answer; `body` is bytes, or becomes JSON."""
    used = connection or connect(server)
    used.request(method, path, encode(body), headers_for(server, headers))
    response = used.getresponse()
    answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()},
                    response.read())
    if connection is None:
        used.close()
    return answer


def get(server: Server, path: str, **more) -> Answer:
    return call(server, "GET", path, **more)


def post(server: Server, path: str, body, **more) -> Answer:
    return call(server, "POST", path, body, **more)


def ask(server: Server, path: str, body) -> dict:
    """The JSON of an answer that must be a success."""
    answer = post(server, path, body)
    assert answer.status == 200, answer.text
    return answer.json()


def read_event(response) -> Event | None:
    """The next event; None at the stream's end. Comments are skipped."""
    name, data = "", []
    while line := response.readline():
        line = line.decode().removesuffix("\n")
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data.append(line.removeprefix("data: "))
        elif line == "" and data:
            text = "\n".join(data)
            return Event(name, text if text == "[DONE]" else json.loads(text))
        else:
            assert line == "" or line.startswith(":"), f"no line of an event stream: {line!r}"
    assert not data, "the stream ends within an event"
    return None


@dataclass
class Stream:
    """A stream that is open. Reading it gives its events; close() hangs up."""
    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse
    events: list[Event] = field(default_factory=list)

    def __iter__(self):
        while event := read_event(self.response):
            self.events.append(event)
            yield event

    def next(self) -> Event:
        return next(iter(self))

    def close(self):
        """Hangs up at once, whatever is still to come."""
        if self.response.fp is not None:
            self.response.close()
        self.connection.close()


def open_stream(server: Server, path: str, body: dict,
                headers: dict[str, str] | None = None) -> Stream:
    """A streamed answer, behind its head."""
    connection = connect(server)
    connection.request("POST", path, encode(body | {"stream": True}), headers_for(server, headers))
    response = connection.getresponse()
    assert response.status == 200, response.read()
    assert response.headers["Content-Type"].startswith("text/event-stream")
    return Stream(connection, response)


def events(server: Server, path: str, body: dict) -> list[Event]:
    """All events of a stream, which must end as HTTP says."""
    stream = open_stream(server, path, body)
    found = list(stream)
    stream.close()
    return found


def raw(server: Server, data: bytes, seconds: float = 10, shut: bool = True) -> bytes:
    """Sends bytes, and gives all that comes back until the server hangs up."""
    with socket.create_connection((server.host, server.port), seconds * PATIENCE) as s:
        s.sendall(data)
        if shut:
            s.shutdown(socket.SHUT_WR)
        received = b""
        while part := s.recv(65536):
            received += part
        return received


def status_of(received: bytes) -> int:
    """The status of the first answer in what came back; 0 where nothing did."""
    return int(received.split(b" ", 2)[1]) if received.startswith(b"HTTP/1.1 ") else 0


def metrics(server: Server) -> dict[str, float]:
    """The samples of GET /metrics by name; those that differ in labels are added."""
    answer = get(server, "/metrics")
    assert answer.status == 200, answer.text
    samples: dict[str, float] = {}
    for line in answer.text.splitlines():
        if line.startswith("#"):
            continue
        name = line.split("{", 1)[0].split(" ", 1)[0]
        samples[name] = samples.get(name, 0) + float(line.rsplit(" ", 1)[1])
    return samples
