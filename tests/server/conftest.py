"""Models and servers that tests share. Each is made when the first test asks for it."""

import pathlib
import shutil
import subprocess

import pytest

from servers import PATIENCE, program, serve, serve_scripts

ROOT = pathlib.Path(__file__).resolve().parents[2]
MEDIA = ROOT / "tests" / "data" / "media"


def running(server):
    """The server, which must end well when its tests are over."""
    yield server
    assert server.process.poll() is None, "the server has ended:\n" + server.last_words()
    assert server.stop() == 0, server.last_words()


@pytest.fixture(scope="session")
def nano(tmp_path_factory):
    """A tiny model with random weights and every feature."""
    directory = tmp_path_factory.mktemp("models") / "nano"
    subprocess.run([program(), "synth", "--preset", "nano", "--out", directory], check=True,
                   capture_output=True, timeout=60 * PATIENCE)
    return str(directory)


@pytest.fixture(scope="session")
def wordless(nano, tmp_path_factory):
    """The same model without the files of its tokenizer."""
    directory = tmp_path_factory.mktemp("models") / "wordless"
    directory.mkdir()
    for file in pathlib.Path(nano).iterdir():
        if file.name in ("config.json", "generation_config.json") or "safetensors" in file.name:
            shutil.copy(file, directory)
    return str(directory)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A directory of which clients may name files; beside it one that they may not."""
    inside = tmp_path_factory.mktemp("pictures")
    shutil.copy(MEDIA / "smooth.png", inside / "smooth.png")
    shutil.copy(MEDIA / "smooth.png", inside.parent / "outside.png")
    (inside / "link.png").symlink_to(inside.parent / "outside.png")
    (inside / "folder").symlink_to(inside.parent)
    return inside


@pytest.fixture(scope="session")
def server(nano, pictures):
    """`m3 serve` with room for all that tests do beside one another."""
    yield from running(serve(nano, "--served-model-name", "nano", "--alias", "also-nano",
                             "--max-num-seqs", "8", "--max-queue", "256", "--kv-cache-tokens",
                             "16384", "--allowed-local-media-path", str(pictures),
                             "--limit-mm-per-prompt", '{"image": 8, "video": 2}'))


@pytest.fixture(scope="session")
def narrow(nano):
    """`m3 serve` with a key, and with little of everything."""
    yield from running(serve(nano, "--served-model-name", "nano", "--api-key", "sesame",
                             "--api-key", "second", "--max-num-seqs", "1", "--max-queue", "1",
                             "--max-body-mb", "1", "--max-model-len", "2048", key="sesame"))


@pytest.fixture(scope="session")
def speculative(nano):
    """`m3 serve` that drafts."""
    yield from running(serve(nano, "--served-model-name", "nano", "--speculative", "ngram"))


@pytest.fixture(scope="session")
def wordless_server(wordless):
    """`m3 serve` of a model without a tokenizer."""
    yield from running(serve(wordless, "--served-model-name", "wordless"))


@pytest.fixture(scope="session")
def scripted(nano):
    """The server whose model says what its prompts tell it to say."""
    yield from running(serve_scripts(nano))


@pytest.fixture
def start():
    """Starts servers for one test: `start(serve, model, *options)`. None outlives it."""
    started = []

    def begin(how, *arguments, **more):
        started.append(how(*arguments, **more))
        return started[-1]

    yield begin
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
