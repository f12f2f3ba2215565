"""Pictures and clips in requests (chat-and-api §8.7)."""

import base64
import struct
import zlib

import pytest

from chats import CHAT, both, chat, script, user
from conftest import MEDIA
from wire import ask, post

PNG = base64.b64encode((MEDIA / "smooth.png").read_bytes()).decode()
CLIP = base64.b64encode((MEDIA / "clip.mkv").read_bytes()).decode()
ADDRESS = "data:image/png;base64," + PNG


def image(url: str, **more) -> dict:
    return {"type": "image_url", "image_url": {"url": url}} | more


def showing(*parts, **fields) -> dict:
    content = [*parts, {"type": "text", "text": "What is this?"}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 2,
            "temperature": 0} | fields


@pytest.fixture(scope="module")
def plain(server):
    """The answer about the picture, asked for in the ordinary way."""
    return chat(server, showing(image(ADDRESS), max_tokens=8))


@pytest.mark.parametrize("url", [
    ADDRESS, "data:image/jpeg;base64," + PNG, "DATA:Image/PNG;Base64," + PNG,
    "data:image/png;name=a.png;charset=utf-8;base64," + PNG,
    "data:image/png;base64," + "\n".join(PNG[i:i + 76] for i in range(0, len(PNG), 76)),
    "data:image/png;base64," + PNG.rstrip("="), "data:;base64," + PNG,
    "data:application/octet-stream;base64," + PNG,
], ids=["plain", "labelled as JPEG", "upper case", "parameters", "line feeds", "no padding",
        "no type", "another type"])
def test_addresses_of_data(server, plain, url):
    """The bytes decide, whatever the address says of them."""
    answer = chat(server, showing(image(url), max_tokens=8))
    assert answer.only.said() == plain.only.said()
    assert answer.usage["prompt_tokens"] == plain.usage["prompt_tokens"]


@pytest.mark.parametrize("part", [
    {"type": "image_url", "image_url": ADDRESS}, {"type": "input_image", "image_url": ADDRESS},
    image(ADDRESS, image_url={"url": ADDRESS, "detail": "auto"}),
])
def test_forms_of_a_picture(server, plain, part):
    assert chat(server, showing(part, max_tokens=8)).only.said() == plain.only.said()


@pytest.mark.parametrize("name", ["smooth.jpg", "smooth.webp", "palette.gif", "turned.jpg",
                                  "rgb16.png", "grey-alpha.png", "cmyk.jpg", "moving.webp"])
def test_kinds_of_pictures(server, name):
    data = base64.b64encode((MEDIA / name).read_bytes()).decode()
    assert chat(server, showing(image("data:image/png;base64," + data))).usage["prompt_tokens"] > 0


def test_prompt_tokens_count_the_pictures(server, plain):
    """As expanded: more for a larger one, and twice for two."""
    without = chat(server, showing()).usage["prompt_tokens"]
    one = plain.usage["prompt_tokens"] - without
    two = chat(server, showing(image(ADDRESS), image(ADDRESS))).usage["prompt_tokens"] - without
    assert one >= 3 and two == 2 * one


def test_pictures_are_seen(server, plain):
    """Another picture gives other logits; the same one the same."""
    def first(url: str) -> list:
        body = showing(image(url), logprobs=True, top_logprobs=5, max_tokens=1)
        return chat(server, body).only.logprobs[0]["top_logprobs"]
    turned = base64.b64encode((MEDIA / "palette.png").read_bytes()).decode()
    assert first(ADDRESS) == first(ADDRESS)
    assert first(ADDRESS) != first("data:image/png;base64," + turned)


def test_pictures_stream_alike(server):
    assert both(server, showing(image(ADDRESS), max_tokens=6)).usage["prompt_tokens"] > 0


@pytest.mark.parametrize("part", [
    {"type": "video_url", "video_url": {"url": "data:video/x-matroska;base64," + CLIP}},
    {"type": "video_url", "video_url": "data:video/mp4;base64," + CLIP},
    {"type": "input_video", "video_url": {"url": "data:video/mp4;base64," + CLIP}, "fps": 2},
])
def test_clips(server, part):
    without = chat(server, showing()).usage["prompt_tokens"]
    assert both(server, showing(part)).usage["prompt_tokens"] > without + 4


def test_frames_as_a_clip(server):
    """vLLM's "data:video/jpeg;base64,FRAME,FRAME"."""
    jpeg = base64.b64encode((MEDIA / "smooth.jpg").read_bytes()).decode()
    url = f"data:video/jpeg;base64,{jpeg},{jpeg}"
    answer = post(server, CHAT, showing({"type": "video_url", "video_url": {"url": url}}))
    assert answer.status in (200, 400), answer.text


PICTURE_TURNS = {
    "system": [{"role": "system", "content": [image(ADDRESS)]}, {"role": "user", "content": "x"}],
    "several turns": [{"role": "user", "content": [image(ADDRESS)]},
                      {"role": "assistant", "content": "A picture."},
                      {"role": "user", "content": [image(ADDRESS)]}],
    "a tool's result": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {
            "name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": [image(ADDRESS)]}],
    "with tools and thinking": [{"role": "user", "content": [image(ADDRESS)]}],
}


@pytest.mark.parametrize("name", PICTURE_TURNS)
def test_pictures_are_welcome_in_every_turn(server, name):
    body = {"messages": PICTURE_TURNS[name], "max_tokens": 1, "thinking": {"type": "enabled"},
            "tools": [{"type": "function", "function": {"name": "f"}}]}
    assert post(server, CHAT, body).status == 200


@pytest.mark.parametrize("url", [
    "data:image/png;base64,", "data:image/png;base64,!!!!", "data:image/png;base64,AAAA",
    "data:image/png;base64," + PNG[:len(PNG) // 2], "data:image/png;base64," + PNG[10:],
    "data:image/png," + PNG, "data:", "data:image/png;base64", "", "ftp://example.org/x.png",
    "x.png", "javascript:alert(1)", "data:image/png;base64," + "\u00e9" * 10,
    "data:image/png;base64," + base64.b64encode(b"plain text").decode(),
], ids=range(14))
def test_what_is_no_picture_is_400(server, url):
    for part in (image(url), {"type": "video_url", "video_url": {"url": url}}):
        answer = post(server, CHAT, showing(part))
        assert answer.status == 400, answer.text
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize("part", [
    {"type": "image_url"}, {"type": "image_url", "image_url": None},
    {"type": "image_url", "image_url": {}}, {"type": "image_url", "image_url": {"url": 5}},
    {"type": "image_url", "image_url": 5}, {"type": "video_url", "video_url": {}},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,AAAA"}},
])
def test_broken_parts_are_400(server, part):
    assert post(server, CHAT, showing(part)).status == 400


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x.png", "https://example.org/x.png",
                                 "HTTP://example.org/x.png"])
def test_nothing_is_fetched(server, url):
    answer = post(server, CHAT, showing(image(url)))
    assert answer.status == 400
    assert "fetches nothing from the network" in answer.json()["error"]["message"]


def png(width: int, height: int) -> bytes:
    """A picture of one colour."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    row = b"\0" + bytes([200, 100, 50]) * width
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0,
                                                               0, 0))
            + chunk(b"IDAT", zlib.compress(row * height)) + chunk(b"IEND", b""))


def test_a_picture_of_3584_by_3584(scripted):
    url = "data:image/png;base64," + base64.b64encode(png(3584, 3584)).decode()
    messages = [{"role": "user", "content": [image(url), {"type": "text", "text": script("a")}]}]
    assert chat(scripted, {"messages": messages}).usage["prompt_tokens"] > 800


def test_200_pictures_and_no_more(scripted):
    """As many as the hosted service takes."""
    def asked(count: int) -> dict:
        content = [image(ADDRESS)] * count + [{"type": "text", "text": script("a")}]
        return {"messages": [{"role": "user", "content": content}]}
    assert chat(scripted, asked(200)).only.content == "a"
    refused = post(scripted, CHAT, asked(201))
    assert refused.status == 400 and "200" in refused.json()["error"]["message"]


def test_a_bomb_is_400(server):
    """A small file that says it is a huge picture."""
    header = bytearray((MEDIA / "smooth.png").read_bytes())
    header[16:24] = (60000).to_bytes(4, "big") * 2
    url = "data:image/png;base64," + base64.b64encode(bytes(header)).decode()
    assert post(server, CHAT, showing(image(url))).status == 400


def test_count_limits(server):
    """More than the server was told to take is refused, and nothing is left out in silence."""
    assert post(server, CHAT, showing(*[image(ADDRESS)] * 8)).status == 200
    answer = post(server, CHAT, showing(*[image(ADDRESS)] * 9))
    assert answer.status == 400 and "8" in answer.text
    clip = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + CLIP}}
    answer = post(server, CHAT, showing(*[clip] * 3))
    assert answer.status == 400
    assert "the num of video is larger than the limit: 2" in answer.text


# ------------------------------------------------------------------------------- files


def test_files_below_the_directory_may_be_named(server, plain, pictures):
    for url in (f"file://{pictures}/smooth.png", f"FILE://{pictures}/smooth.png",
                f"file://{pictures}/./smooth.png"):
        answer = chat(server, showing(image(url), max_tokens=8))
        assert answer.only.said() == plain.only.said()


@pytest.mark.parametrize("tail", ["../outside.png", "link.png", "folder/outside.png",
                                  "%2e%2e/outside.png", "folder/../../outside.png",
                                  "../outside.png%00.png", "link.png%00", "smooth.png%00"])
def test_files_elsewhere_may_not(server, pictures, tail):
    answer = post(server, CHAT, showing(image(f"file://{pictures}/{tail}")))
    assert answer.status == 400, answer.text


@pytest.mark.parametrize("url", ["file:///etc/passwd", "file://localhost/etc/passwd", "file://",
                                 "/etc/passwd", "file:///dev/zero", "file:///proc/self/mem"])
def test_files_of_the_system_may_not(server, url):
    answer = post(server, CHAT, showing(image(url)))
    assert answer.status == 400 and "root:" not in answer.text


def test_a_directory_and_an_absent_file_are_400(server, pictures):
    for url in (f"file://{pictures}", f"file://{pictures}/absent.png"):
        assert post(server, CHAT, showing(image(url))).status == 400


def test_without_a_directory_no_file_is_read(narrow, pictures):
    answer = post(narrow, CHAT, showing(image(f"file://{pictures}/smooth.png")))
    assert answer.status == 400 and "--allowed-local-media-path" in answer.text


# ------------------------------------------------------------------------------- other protocols


def test_anthropics_pictures(server):
    source = {"type": "base64", "media_type": "image/jpeg", "data": PNG}
    def count(*parts) -> int:
        content = [*parts, {"type": "text", "text": "x"}]
        return ask(server, "/v1/messages/count_tokens",
                   {"messages": [{"role": "user", "content": content}]})["input_tokens"]
    assert count({"type": "image", "source": source}) > count() + 2
    assert count({"type": "image", "source": source}) == count(
        {"type": "image", "source": {"type": "url", "url": ADDRESS}})


def test_responses_pictures(server):
    content = [{"type": "input_image", "image_url": ADDRESS}, {"type": "input_text", "text": "x"}]
    body = {"input": [{"role": "user", "content": content}], "max_output_tokens": 1}
    bare = body | {"input": [{"role": "user", "content": content[1:]}]}
    tokens = [ask(server, "/v1/responses", b)["usage"]["input_tokens"] for b in (body, bare)]
    assert tokens[0] > tokens[1] + 2


def test_without_a_picture_the_request_is_plain(server):
    assert post(server, CHAT, user("x", max_tokens=1)).status == 200
