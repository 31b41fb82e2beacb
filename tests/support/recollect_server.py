"""`recollect serve`, as an operator starts it, and what can be seen of it from outside."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support import processes
from tests.support.http_client import DEFAULT_KEY, Answer, Headers, exchange, post_bytes, wire

START_S = 20.0
STOP_S = 20.0
DRAIN_S = 5.0
_LISTENING = re.compile(r"recollect listening on (http://[^/\s]+)/v1")

Settings = Mapping[str, object]


def to_toml(settings: Settings) -> str:
    """Return `settings` (sections of plain values, lists of tables) as TOML."""
    lines: list[str] = []
    for name, section in settings.items():
        tables = [(f"[{name}]", section)]
        if isinstance(section, (list, tuple)):
            tables = [(f"[[{name}]]", table) for table in section]
        for head, table in tables:
            assert isinstance(table, Mapping)
            lines.append(head)
            # JSON's strings, numbers, booleans and arrays are TOML's too.
            lines += [f"{key} = {_value(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


class RecollectServer:
    """One `recollect serve` with all its processes.

    Args:
        upstream_url: Where misses go.
        redis_url: "" lets it start a private redis-server.
        settings: Sections of the settings file, over the above.
        environment: Added to the test's own.
        data_folder: Kept by the caller; a fresh one of its own otherwise.
    """

    def __init__(
        self,
        upstream_url: str,
        redis_url: str = "",
        settings: Settings | None = None,
        environment: Mapping[str, str] | None = None,
        data_folder: Path | None = None,
    ) -> None:
        # Short: a UNIX socket's path may have no more than 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="rc-"))
        self._data_folder = (data_folder or self._folder / "data").resolve()
        self.settings_file = self._folder / "recollect.toml"
        self._write_settings(upstream_url, redis_url, settings or {})
        self._mark = f"RECOLLECT_TEST={uuid.uuid4().hex}"
        self._environment = dict(environment or {})
        self.stderr: list[str] = []
        self._said = threading.Condition()
        self._process = self._start()
        self.origin = self._wait_for_address()

    def _write_settings(self, upstream_url: str, redis_url: str, settings: Settings) -> None:
        own: dict[str, dict[str, object]] = {
            "server": {"port": 0, "data_dir": str(self._data_folder), "drain_s": DRAIN_S},
            "upstream": {"base_url": upstream_url},
            "redis": {"url": redis_url},
            # Tests of the semantic tier switch it on; the others' prompts differ in a word or two.
            "semantic": {"mode": "off"},
        }
        merged: dict[str, object] = dict(own)
        for name, section in settings.items():
            if isinstance(section, Mapping):
                merged[name] = {**own.get(name, {}), **section}
            else:
                merged[name] = section
        self.settings_file.write_text(to_toml(merged))

    def _start(self) -> "subprocess.Popen[str]":
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("RECOLLECT_") and not name.lower().endswith("_proxy")
        }
        name, _, value = self._mark.partition("=")
        command = Path(sys.executable).with_name("recollect")
        process = subprocess.Popen(
            [str(command), "serve", "--config", str(self.settings_file)],
            env={**inherited, **self._environment, name: value},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_stderr, args=(process,), daemon=True)
        self._reader.start()
        return process

    def _read_stderr(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                with self._said:
                    self.stderr.append(line)
                    self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def _wait_for_address(self) -> str:
        def listening() -> str | None:
            matches = (_LISTENING.search(line) for line in self.stderr)
            return next((match[1] for match in matches if match), None)

        with self._said:
            self._said.wait_for(
                lambda: listening() is not None or self._process.poll() is not None, START_S
            )
            origin = listening()
        if origin is None:
            self.kill()
            raise AssertionError("recollect did not start:\n" + "".join(self.stderr))
        return origin

    def wait_for_log(self, text: str, timeout_s: float = 10.0) -> None:
        """Return when a line that holds `text` has been written to standard error."""
        with self._said:
            said = self._said.wait_for(lambda: any(text in x for x in self.stderr), timeout_s)
        assert said, f"{text!r} was not said:\n" + "".join(self.stderr)

    @property
    def url(self) -> str:
        """The base URL for an OpenAI client."""
        return self.origin + "/v1"

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self._process.pid

    def worker_pids(self) -> list[int]:
        """Return the worker processes alive now."""
        return [
            pid
            for pid in processes.children(self.pid)
            if "proxy.worker" in processes.command_line(pid)
        ]

    def pids(self) -> list[int]:
        """Return every process that came of this server and is alive."""
        marked = processes.pids_with_environment(self._mark)
        return sorted({*marked, *processes.pids_working_in(self._data_folder)})

    def post(
        self,
        path: str,
        body: object,
        *,
        key: str = DEFAULT_KEY,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> Answer:
        """POST `body` (JSON unless bytes) on a connection of its own."""
        raw = post_bytes(self.origin, path, body, key=key, headers=headers)
        return asyncio.run(exchange(self.origin, raw, timeout_s))

    def chat(
        self,
        prompt: str,
        *,
        key: str = DEFAULT_KEY,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
        **fields: Any,
    ) -> Answer:
        """Ask a chat completion for `prompt`."""
        body = chat_body(prompt, **fields)
        return self.post(CHAT, body, key=key, headers=headers, timeout_s=timeout_s)

    def send(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: bytes | None = None,
        host: str = "localhost",
    ) -> Answer:
        """Send a request with just these headers."""
        return asyncio.run(exchange(self.origin, wire(method, target, host, headers, body)))

    def get(self, target: str, headers: Headers = ()) -> Answer:
        """GET `target`."""
        return self.send("GET", target, headers)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of all samples of `name` that carry `labels`."""
        return sum(
            value
            for found, given, value in samples(self.get("/metrics").body.decode())
            if found == name and all(given.get(k) == v for k, v in labels.items())
        )

    def terminate(self) -> None:
        """Send SIGTERM, and do not wait."""
        self._process.send_signal(signal.SIGTERM)

    def reload(self) -> None:
        """Send SIGHUP."""
        self._process.send_signal(signal.SIGHUP)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait for the supervisor's end and return its exit status."""
        return self._process.wait(timeout_s)

    def close(self) -> None:
        """End it as an operator would, and check that nothing of it is left."""
        try:
            if self._process.poll() is None:
                self.terminate()
                self.wait()
            left = [(pid, processes.command_line(pid)) for pid in self._lingering()]
            assert not left, f"processes left: {left}"
        finally:
            self.kill()

    def _lingering(self) -> list[int]:
        # The private redis-server may need a moment after its parent to write its file.
        processes.wait_until(lambda: not self.pids(), 5)
        return self.pids()

    def kill(self) -> None:
        """SIGKILL everything at once; the data folder stays if it is the caller's."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(10)
        self._reader.join(10)
        shutil.rmtree(self._folder, ignore_errors=True)


StartRecollect = Callable[..., RecollectServer]
"""Starts a server that ends with the test; arguments as `RecollectServer` takes them."""

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"


def chat_body(prompt: str, **fields: Any) -> dict[str, Any]:
    """Return a chat request with one user message."""
    return {"model": "fake-1", "messages": [{"role": "user", "content": prompt}], **fields}


def unique(label: str) -> str:
    """Return a prompt nobody has used before."""
    return f"{label} {uuid.uuid4().hex[:12]}"


def samples(exposition: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield name, labels and value of every sample of a Prometheus text exposition.

    Raises:
        ValueError: A line is neither a comment nor a sample.
    """
    for line in exposition.splitlines():
        if not line or line.startswith("#"):
            continue
        match = _SAMPLE.fullmatch(line)
        if match is None:
            raise ValueError(f"not a sample: {line!r}")
        yield match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])


_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
_SAMPLE = re.compile(
    r'([a-zA-Z_:][\w:]*)(\{(?:[a-zA-Z_]\w*="(?:[^"\\]|\\.)*",?)*\})?'
    r" ([-+]?(?:\d[\d.eE+-]*|Inf|NaN))(?: \d+)?"
)
