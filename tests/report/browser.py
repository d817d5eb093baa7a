"""A real Chromium without a network, driven over its DevTools pipe: JSON messages that end in a NUL byte.

https://chromedevtools.github.io/devtools-protocol/
"""

import fcntl
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe")
# The browser reads commands from descriptor 3 and answers on 4.
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
)


@dataclass(kw_only=True)
class Tab:
    """One page in the browser: ``ask`` sends a command and returns its result; ``events`` are what came meanwhile."""

    ask: Callable[..., dict[str, Any]]
    events: list[dict[str, Any]] = field(default_factory=list)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"]["value"]

    def happened(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event["method"] == method]


@contextmanager
def open_page(page: Path, profile: Path, *, width: int, scheme: str) -> Iterator[Tab]:
    """Load ``page`` in a window ``width`` pixels wide that prefers ``scheme`` (light or dark), with the network off."""
    with _browser(profile) as (send, receive):
        events: list[dict[str, Any]] = []
        numbers = itertools.count(1)

        def ask(method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
            number = next(numbers)
            send({"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {}))
            while (message := receive()).get("id") != number:
                events.append(message)
            assert "error" not in message, message
            return message["result"]

        target = ask("Target.createTarget", url="about:blank")["targetId"]
        session = ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(ask=lambda method, **parameters: ask(method, session, **parameters), events=events)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.ask(f"{domain}.enable")
        tab.ask("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        tab.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        tab.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.ask("Page.navigate", url=page.resolve().as_uri())
        while not tab.happened("Page.loadEventFired"):
            events.append(receive())
        yield tab


@contextmanager
def _browser(profile: Path) -> Iterator[tuple[Callable[[dict[str, Any]], None], Callable[[], dict[str, Any]]]]:
    """Start Chromium; yields a function that sends it a message and one that waits for its next."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    assert program, f"none of {', '.join(NAMES)} is installed; this test needs a real browser"
    (commands, to_browser), (from_browser, answers) = _pipe(), _pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(commands), str(answers), program, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(commands, answers),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands)
    os.close(answers)
    with process, os.fdopen(to_browser, "wb", 0) as out, os.fdopen(from_browser, "rb") as incoming:
        try:
            yield lambda message: _send(out, message), lambda: _receive(incoming)
        finally:
            process.terminate()


def _pipe() -> tuple[int, int]:
    """A pipe on descriptors of ten and more, clear of the two that the browser wants."""
    ends = os.pipe()
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return read, write


def _send(out: Any, message: dict[str, Any]) -> None:
    out.write(json.dumps(message).encode() + b"\0")


def _receive(incoming: Any) -> dict[str, Any]:
    letters = bytearray()
    while (letter := incoming.read(1)) != b"\0":
        assert letter, "the browser went away"
        letters += letter
    return json.loads(letters)
