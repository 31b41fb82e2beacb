"""`make run`: starts a real model and Recollect, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="needs the demo extra")

from openai import OpenAI
from openai.types.chat import ChatCompletion

from run_demo import DemoError, check_port

pytestmark = [
    pytest.mark.demo,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

RUN_DEMO = Path(__file__).parents[2] / "deploy" / "demo" / "run_demo.py"
READY_WITHIN_S = 60.0
GONE_WITHIN_S = 15.0


@pytest.fixture(scope="module")
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data folder for all tests of this file, so that the model is requantised once."""
    return tmp_path_factory.mktemp("data")


class RunningDemo:
    """The demo as a person has it on a terminal: one process, and what it started."""

    def __init__(self, data_home: Path) -> None:
        self.port = free_port()
        self._output = data_home / f"output-{self.port}.txt"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(RUN_DEMO), "--port", str(self.port)],
                env={**os.environ, "XDG_DATA_HOME": str(data_home)},
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        self._family: set[int] = set()

    @property
    def output(self) -> str:
        """All that was printed so far."""
        return self._output.read_text()

    def wait_until_ready(self) -> None:
        """Wait for the instructions, and note which processes there are by then."""
        deadline = time.monotonic() + READY_WITHIN_S
        while "Ctrl-C ends it all." not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)
        self._family = descendants(self.process.pid)

    def child_running(self, word: str) -> int:
        """Return the id of the child among whose arguments `word` is one."""
        [pid] = [pid for pid in children(self.process.pid) if word in arguments(pid)]
        return pid

    def left_behind(self) -> set[int]:
        """Return those of the processes that still run when they have had their time to end."""
        deadline = time.monotonic() + GONE_WITHIN_S
        while (left := {pid for pid in self._family if is_running(pid)}) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.1)
        return left

    def close(self) -> None:
        """End by id what a failed test left."""
        self._family |= descendants(self.process.pid)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in self.left_behind():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def demo(data_home: Path) -> Iterator[RunningDemo]:
    """Run the demo until it is ready."""
    running = RunningDemo(data_home)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.close()


def free_port() -> int:
    """Return a port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def children(pid: int) -> list[int]:
    """Return the ids of the processes `pid` started (proc(5), task/children)."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(child) for child in text.split()]


def descendants(pid: int) -> set[int]:
    """Return `pid` and all that came of it, as far as their parents still run."""
    return {pid}.union(*(descendants(child) for child in children(pid)))


def arguments(pid: int) -> list[str]:
    """Return the file names and words of a process's command line."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return [Path(word).name for word in words]


def is_running(pid: int) -> bool:
    """Tell whether `pid` is a process; one that ended and was not yet asked about is none."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def paste(snippet: str) -> str:
    """Run what a person would paste into a shell, and return what it prints."""
    result = subprocess.run(
        ["bash", "-c", snippet], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_printed_snippets_work_as_printed_and_ctrl_c_ends_everything(demo: RunningDemo) -> None:
    """A newcomer pastes what is printed; after Ctrl-C no process is left."""
    printed, _, python = demo.output.partition("The same from Python")
    curl = printed[printed.index("  curl") :]
    python = python.partition("\n")[2].partition("Ctrl-C ends it all.")[0]

    assert "fwd=miss" in paste(curl)
    assert "recollect; hit" in paste(curl)
    assert "Paris" in paste(python)

    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(timeout=GONE_WITHIN_S) == 0
    assert demo.left_behind() == set()


def say(client: OpenAI, *, is_stream: bool, **sampling: float) -> tuple[str, str, str]:
    """Ask the real model; return its text, its finish reason and what `Cache-Status` said."""
    asked = client.chat.completions.with_raw_response.create(
        model="smollm2-135m-instruct",
        messages=[{"role": "user", "content": "In one short sentence: what is the sea?"}],
        max_completion_tokens=256,
        stream=is_stream,
        extra_body=sampling,
    )
    status = asked.headers["cache-status"]
    answer = asked.parse()
    if isinstance(answer, ChatCompletion):
        [choice] = answer.choices
        return choice.message.content or "", choice.finish_reason, status
    chunks = [chunk.choices[0] for chunk in answer if chunk.choices]
    text = "".join(chunk.delta.content or "" for chunk in chunks)
    return text, next(c.finish_reason for c in chunks if c.finish_reason), status


def test_real_model_is_asked_once_greedy_or_sampled_streamed_or_not(demo: RunningDemo) -> None:
    """Each complete answer is stored as the model gave it, and replayed in both forms."""
    with OpenAI(base_url=f"http://127.0.0.1:{demo.port}/v1", api_key="-", max_retries=0) as client:
        for is_stream in (False, True):
            seed = 10 + is_stream
            greedy = {"temperature": 0.0, "seed": seed}
            sampled = [{"temperature": 0.8, "seed": seed + 10 * n} for n in range(1, 6)]
            for sampling in (greedy, *sampled):
                text, reason, status = say(client, is_stream=is_stream, **sampling)
                assert "fwd=miss" in status
                again = [say(client, is_stream=form, **sampling) for form in (False, True)]
                if reason != "stop":
                    # Cut by the limit on tokens, and so not stored.
                    assert not any("hit" in status for _, _, status in again)
                    continue
                assert text
                assert [(t, r) for t, r, _ in again] == [(text, "stop")] * 2
                assert all("recollect; hit" in status for _, _, status in again)
                if sampling is not greedy:
                    break
            else:
                pytest.fail("none of the sampled answers came to its end")


@pytest.mark.parametrize("word", ["llm_server.py", "recollect"])
def test_demo_ends_with_a_word_when_one_of_its_two_programs_dies(
    demo: RunningDemo, word: str
) -> None:
    """Half a demo would only puzzle; what died is named."""
    os.kill(demo.child_running(word), signal.SIGKILL)

    assert demo.process.wait(timeout=GONE_WITHIN_S) == 1
    assert "ended by itself, with status -9" in demo.output
    assert demo.left_behind() == set()


def test_killed_demo_leaves_no_process_behind(demo: RunningDemo) -> None:
    """SIGKILL leaves no time to tidy up: the kernel ends the children (prctl(2), PDEATHSIG)."""
    demo.process.kill()
    demo.process.wait()

    assert demo.left_behind() == set()


def test_taken_port_is_refused_with_a_free_choice_named() -> None:
    """Before the model is loaded, and in words: not a traceback half a minute later."""
    with socket.socket() as other_program:
        other_program.bind(("127.0.0.1", 0))
        other_program.listen()
        port = other_program.getsockname()[1]

        with pytest.raises(DemoError, match=f"{port} on 127.0.0.1 is taken.*make run PORT="):
            check_port("127.0.0.1", port)
