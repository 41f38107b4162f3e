"""Headless Chromium, driven by the DevTools protocol over a pair of pipes: nothing to install.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions",
)  # fmt: skip
#: For one answer.
TIMEOUT_S = 60


def find() -> str | None:
    """The browser's path; None if there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def missing() -> str:
    """Why no page can be looked at here; empty if one can."""
    return "" if find() else f"no {NAMES[0]} is installed (apt-get install chromium)"


class Browser:
    """One page of a browser.

    Attributes
    ----------
    events : list of dict
        All that it told without being asked.
    """

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self.events: list[dict[str, Any]] = []
        self._process, self._to, self._back = process, to, back
        self._buffer = b""
        self._id = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol."""
        self._id += 1
        message: dict[str, Any] = {"id": self._id, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self._back], [], [], left)[0]
            assert ready, f"the browser says nothing (exit status {self._process.poll()})"
            data = os.read(self._back, 1 << 20)
            assert data, f"the browser has ended (exit status {self._process.wait(10)})"
            self._buffer += data
        answer, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(answer)
        return found

    def show(self, path: Path, *, width: int, scheme: str) -> None:
        """Open a file as someone sees it whose window is `width` wide, light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        already = len(self.events)
        self.call("Page.navigate", url=path.absolute().as_uri())
        while "Page.loadEventFired" not in [e.get("method") for e in self.events[already:]]:
            self.events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, which the page's own policy does not bind."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def screenshot(self, selector: str = "html") -> bytes:
        """All of an element as PNG."""
        clip = self.evaluate(
            f"(b => ({{x: b.x, y: b.y, width: b.width, height: b.height, scale: 1}}))"
            f"(document.querySelector({selector!r}).getBoundingClientRect())"
        )
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(found["data"])

    def told(self, *methods: str) -> list[dict[str, Any]]:
        """Parameters of the events of these names."""
        return [e["params"] for e in self.events if e.get("method") in methods]


@contextmanager
def opened(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own below `folder`."""
    found = find()
    assert found is not None
    read_end, to = os.pipe()
    back, write_end = os.pipe()
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # which Chromium refuses to root
    with open(folder / "chromium.log", "wb") as log:
        process = subprocess.Popen(
            # It expects its pipes to be 3 and 4.
            ["bash", "-c", f'exec "$@" 3<&{read_end} 4>&{write_end}', "bash", found, *FLAGS, *root,
             f"--user-data-dir={folder / 'profile'}", "about:blank"],
            pass_fds=(read_end, write_end), stdout=log, stderr=log,
        )  # fmt: skip
    os.close(read_end)
    os.close(write_end)
    try:
        yield Browser(process, to, back)
    finally:
        os.close(to)  # which ends it
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(back)
