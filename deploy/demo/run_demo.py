"""`make run`: a small real language model, and Recollect in front of it.

Starts both, says how to talk to them, and waits. Ctrl-C, SIGTERM, or the end of either
ends everything; nothing is left running.
"""

from __future__ import annotations

import argparse
import errno
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import NoReturn

import child_process
from demo_model import MODEL_NAME, ModelError, demo_folder, prepare

HERE = Path(__file__).resolve().parent
READY_WITHIN_S = 60.0

GRACE_S = 10.0
"""How long a running answer may go on after Ctrl-C; a second Ctrl-C cuts it at once."""

INSTRUCTIONS = """
Recollect answers on {base_url}

Ask twice: `Cache-Status` says `fwd=miss` the first time, then `hit`, also after a restart. The same
in other words ("What is the capital city of France?") is a hit by its meaning, once the encoder is
ready; at the first start that takes some ten seconds.

  curl -i {base_url}/chat/completions \\
    -H 'Content-Type: application/json' -H 'Authorization: Bearer any' \\
    -d '{{"model": "{model}", "temperature": 0,
         "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'

The same from Python, with the same API key, is a hit too:

{python} - <<'END'
from openai import OpenAI
client = OpenAI(base_url="{base_url}", api_key="any")
answer = client.chat.completions.create(
    model="{model}", temperature=0,
    messages=[{{"role": "user", "content": "What is the capital of France?"}}],
)
print(answer.choices[0].message.content)
END

Ctrl-C ends it all.
"""


class DemoError(Exception):
    """The demo cannot start or go on. The text is for the person at the terminal."""


class StopSignal:
    """Remembers that this process was asked to end; asked again, it kills its children.

    A flag that waits look at, instead of an exception out of the handler: that could fall
    between the start of a child and the line that remembers it.
    """

    def __init__(self) -> None:
        self.is_set = False
        self.children: list[subprocess.Popen[str]] = []

    def install(self) -> None:
        """Take over the signals that ask a process to end."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_set:
            for child in self.children:
                child_process.kill(child)
        self.is_set = True


def main() -> None:
    """Run the demo; the exit status is 0 when it was asked to end, 1 when it could not go on."""
    arguments = _arguments()
    if arguments.end_with_parent:
        child_process.end_with_parent()
    stop = StopSignal()
    stop.install()
    try:
        run(arguments.host, arguments.port, arguments.workers, stop)
    except (DemoError, ModelError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        _say("Ended.")


def run(host: str, port: int, workers: int, stop: StopSignal) -> None:
    """Start the model and Recollect, and wait until one of them ends or `stop` is set.

    Raises:
        DemoError: The port is taken, or one of the two did not start or ended by itself.
        ModelError: The model's weights are missing or altered.
        KeyboardInterrupt: `stop` was set.
    """
    check_port(host, port)
    folder = demo_folder()
    _say("Checking the model")
    model = prepare(folder, lambda line: _say_unless(stop, line))
    with ExitStack() as children:
        log_path = folder / "llm_server.log"
        log = children.enter_context(log_path.open("wb"))
        _say(f"Starting the model (its log: {log_path})")
        llm_command = [sys.executable, str(HERE / "llm_server.py"), "--model", str(model)]
        llm = child_process.start(llm_command, log)
        stop.children.append(llm)
        children.callback(child_process.end, llm, 1.0)
        upstream = _address_of(llm, log_path, stop)

        _say(f"The model answers on {upstream}/v1; starting Recollect in front of it")
        # Not the data folder of a Recollect that runs here for real: its Redis and its secret.
        os.environ.setdefault("RECOLLECT_SERVER__DATA_DIR", str(folder))
        recollect_command = [
            *(str(Path(sys.executable).with_name("recollect")), "serve"),
            *("--upstream", f"{upstream}/v1"),
            *("--host", host, "--port", str(port), "--workers", str(workers)),
        ]
        recollect = child_process.start(recollect_command)
        stop.children.append(recollect)
        children.callback(child_process.end, recollect, GRACE_S)
        _wait_until_ready(host, port, recollect, stop)
        print(instructions(host, port), flush=True)
        _wait_for_an_end({"Recollect": recollect, "The model": llm}, stop)


def check_port(host: str, port: int) -> None:
    """Refuse a port Recollect could not listen on, before anything slow is begun.

    Raises:
        DemoError: The port is taken, or may not be had; or `host` is not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do, so that connections of an earlier run that linger are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise DemoError(
                f"Port {port} on {host} is taken by another program."
                f" Choose another: make run PORT={port + 1}"
            ) from error
        raise DemoError(f"Cannot listen on {host}:{port}: {error.strerror}") from error


def instructions(host: str, port: int) -> str:
    """Return what the user may type next, ready to be pasted into a shell."""
    base_url = f"http://{_reachable(host, bracketed=True)}:{port}/v1"
    return INSTRUCTIONS.format(base_url=base_url, model=MODEL_NAME, python=sys.executable)


def _address_of(llm: subprocess.Popen[str], log_path: Path, stop: StopSignal) -> str:
    """Return the address the model server prints when it is ready, as `http://host:port`."""
    assert llm.stdout is not None
    address = llm.stdout.readline().strip()
    if stop.is_set:
        raise KeyboardInterrupt
    if not address:
        raise DemoError(f"The model did not start; the end of {log_path}:\n{_tail(log_path)}")
    return address


def _wait_until_ready(
    host: str, port: int, recollect: subprocess.Popen[str], stop: StopSignal
) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not _is_ready(_reachable(host), port):
        if stop.is_set:
            raise KeyboardInterrupt
        if recollect.poll() is not None:
            raise DemoError(f"Recollect did not start: it ended with status {recollect.returncode}")
        if time.monotonic() > deadline:
            raise DemoError(f"Recollect was not ready within {READY_WITHIN_S:g} seconds")
        time.sleep(child_process.POLL_S)


def _is_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _wait_for_an_end(children: dict[str, subprocess.Popen[str]], stop: StopSignal) -> NoReturn:
    while True:
        if stop.is_set:
            raise KeyboardInterrupt
        for name, child in children.items():
            if child.poll() is not None:
                raise DemoError(f"{name} ended by itself, with status {child.returncode}")
        time.sleep(child_process.POLL_S)


def _reachable(host: str, bracketed: bool = False) -> str:
    """Return an address under which a server that listens on `host` is reached from here."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"[{address}]" if bracketed and ":" in address else address


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _say_unless(stop: StopSignal, line: str) -> None:
    if stop.is_set:
        raise KeyboardInterrupt
    _say(line)


def _say(line: str) -> None:
    print(f"==> {line}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the demo.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_port, default=8080)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--end-with-parent",
        action="store_true",
        help="also end when the process that started this one is killed (Linux)",
    )
    return parser.parse_args()


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise ValueError
    return port


if __name__ == "__main__":
    main()
