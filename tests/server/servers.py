"""Starts and stops the programs under test."""

import os
import re
import signal
import subprocess
import threading
import time

# The sanitizers' programs take their time.
SANITIZED = bool(os.environ.get("M3_SANITIZED"))
PATIENCE = 10 if SANITIZED else 1


def program() -> str:
    return os.environ["M3_PROGRAM"]


def scripted_program() -> str:
    return os.environ["M3_SCRIPTED_SERVER"]


class Server:
    """A server process, listening at `host` and `port`; what it writes on stderr is in `lines`."""

    def __init__(self, command: list[str], key: str | None = None):
        self.key = key
        self.lines: list[str] = []
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(30 * PATIENCE) or self.process.poll() is not None:
            self.process.kill()
            raise RuntimeError("the server did not start:\n" + "\n".join(self.lines))

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            address = re.match(r"m3 serve: .* at http://([^:]+):(\d+)$", self.lines[-1])
            if address:
                self.host, self.port = address[1], int(address[2])
                self._ready.set()
        self._ready.set()  # also where it ended without a word

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_words(self) -> str:
        """The beginning of a sanitizer's report where there is one, else the last lines."""
        for number, line in enumerate(self.lines):
            if "Sanitizer" in line or "runtime error" in line:
                return "\n".join(self.lines[number:number + 40])
        return "\n".join(self.lines[-20:])

    def terminate(self):
        """Asks it to end, and does not wait."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 30) -> int:
        """Waits for its end, and gives its exit status."""
        status = self.process.wait(seconds * PATIENCE)
        self._reader.join(5)
        return status

    def stop(self) -> int:
        if self.process.poll() is None:
            self.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def serve(model: str, *options: str, key: str | None = None) -> Server:
    """`m3 serve` at a free port."""
    return Server([program(), "serve", model, "--port", "0", "--threads", "1", *options], key=key)


def serve_scripts(model: str, *options: str) -> Server:
    """The server whose model says what its prompts tell it to say."""
    return Server([scripted_program(), model, *options])


def eventually(condition, seconds: float = 10):
    """Waits until `condition()` is true, and gives its value; fails where it does not become so."""
    end = time.monotonic() + seconds * PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.01)
    return value
