"""An embedding process is kept running: real processes, but of a stand-in that loads no model."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from proxy.embedding.keeper import EmbeddingKeeper
from tests.support import processes

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks at the processes through /proc"
)

# Notes what it was given. Then it does what the file "does" says: nothing, end, or not end.
STAND_IN = """
import json, os, pathlib, signal, sys
folder = pathlib.Path({folder!r})
given = json.load(sys.stdin)
does = (folder / "does").read_text()
if does == "not end":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if does != "end":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
note = {{"pid": os.getpid(), "group": os.getpgrp(), "given": given,
         "metrics": os.environ["PROMETHEUS_MULTIPROC_DIR"]}}
with (folder / "notes").open("a") as notes:
    notes.write(json.dumps(note) + "\\n")
if does == "end":
    sys.exit(3)
while True:
    signal.pause()
"""


async def until(is_so: Callable[[], bool]) -> None:
    """Look until `is_so`: another process sends no event."""
    assert await asyncio.to_thread(processes.wait_until, is_so, 15)


class Rig:
    """A keeper of stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redis_url = "redis://one"
        self.lifeline, self._held = os.pipe()
        self.keeper = EmbeddingKeeper(
            folder / "data", str(folder), self.lifeline, lambda: self.redis_url
        )
        self.does("nothing")

    def does(self, what: str) -> None:
        """Say what the next stand-in does."""
        (self.folder / "does").write_text(what)

    @property
    def notes(self) -> list[dict[str, Any]]:
        """What each stand-in noted."""
        path = self.folder / "notes"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def pids(self) -> list[int]:
        """The stand-ins that are alive."""
        return [note["pid"] for note in self.notes if processes.state(note["pid"])]

    def settings(self, **sections: dict[str, object]) -> Settings:
        """Return settings in effect: with a process of our own unless told otherwise."""
        semantic = {"mode": "on", "address": self.keeper.address, **sections.pop("semantic", {})}
        return Settings.model_validate({"semantic": semantic, **sections})

    async def started(self, count: int) -> int:
        """Wait for the `count`-th stand-in and return its process id."""
        await until(lambda: len(self.notes) == count)
        return int(self.notes[-1]["pid"])

    async def close(self) -> None:
        """End everything."""
        self.keeper.kill()
        await self.keeper.stop()
        os.close(self.lifeline)
        os.close(self._held)


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """A keeper whose processes are stand-ins; nothing of them outlives the test."""
    package = tmp_path / "overlay" / "proxy" / "embedding"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text(
            "from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n"
        )
    (package / "process.py").write_text(STAND_IN.format(folder=str(tmp_path)))
    others = os.environ.get("PYTHONPATH", "")
    path = f"{package.parents[1]}{os.pathsep}{others}".rstrip(os.pathsep)
    monkeypatch.setenv("PYTHONPATH", path)
    rig = Rig(tmp_path)
    yield rig
    await rig.close()
    assert not rig.pids


async def test_process_is_started_with_all_it_needs(rig: Rig) -> None:
    """Over its standard input, secrets in clear; in a group of its own, as Ctrl-C is not for it."""
    await rig.keeper.apply(rig.settings(semantic={"token": "pa55"}, redis={"namespace": "n"}))
    pid = await rig.started(1)

    [note] = rig.notes
    given = note["given"]
    assert given["address"] == rig.keeper.address == f"unix://{rig.folder}/embeddings.sock"
    assert given["redis_url"] == "redis://one"
    assert given["folder"] == str(rig.folder / "data")
    assert (given["lifeline_fd"], given["run_dir"]) == (rig.lifeline, str(rig.folder))
    assert given["settings"]["semantic"]["token"] == "pa55"
    assert given["settings"]["redis"]["namespace"] == "n"
    assert note["metrics"] == str(rig.folder)
    assert note["group"] == pid
    assert "pa55" not in processes.command_line(pid)


async def test_killed_process_is_started_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """With the same settings; and the end is logged."""
    await rig.keeper.apply(rig.settings())
    first = await rig.started(1)

    os.kill(first, signal.SIGKILL)
    second = await rig.started(2)

    assert rig.pids == [second]
    assert rig.notes[0]["given"] == rig.notes[1]["given"]
    assert "ended with exit code -9" in caplog.text


async def test_process_that_ends_again_and_again_is_started_less_and_less_often(rig: Rig) -> None:
    """0.2 s, then twice that each time: it must not keep the machine busy."""
    rig.does("end")
    began = asyncio.get_running_loop().time()
    await rig.keeper.apply(rig.settings())

    await rig.started(3)
    assert asyncio.get_running_loop().time() - began >= 0.2 + 0.4
    rig.does("nothing")
    await rig.started(4)

    assert asyncio.get_running_loop().time() - began >= 0.2 + 0.4 + 0.8
    assert len(rig.pids) == 1


async def test_machine_without_room_for_a_process_gets_one_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No defect; the workers serve on."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(rig.folder / "missing"))
        await rig.keeper.apply(rig.settings())
        await until(lambda: "cannot be started" in caplog.text)

    await rig.started(1)


async def test_stopped_keeper_ends_its_process_and_starts_no_other(rig: Rig) -> None:
    """Also while it waits before another try, and when there is nothing to stop."""
    await rig.keeper.stop()
    await rig.keeper.apply(rig.settings())
    await rig.started(1)

    await rig.keeper.stop()

    assert not rig.pids
    rig.does("end")
    await rig.keeper.apply(rig.settings())
    await rig.started(2)
    await rig.keeper.stop()
    await asyncio.sleep(0.5)
    assert len(rig.notes) == 2


async def test_process_that_does_not_end_in_time_is_killed(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """It has some seconds to write its index."""
    rig.does("not end")
    await rig.keeper.apply(rig.settings())
    pid = await rig.started(1)
    began = asyncio.get_running_loop().time()

    await rig.keeper.stop()

    assert not processes.state(pid)
    assert 1 <= asyncio.get_running_loop().time() - began <= 20


async def test_second_signal_does_not_wait_for_the_index(rig: Rig) -> None:
    """Who signals twice has no patience; twice over it does no harm."""
    rig.does("not end")
    await rig.keeper.apply(rig.settings())
    await rig.started(1)
    stopping = asyncio.create_task(rig.keeper.stop())
    await asyncio.sleep(0)

    rig.keeper.kill()
    async with asyncio.timeout(2):
        await stopping

    rig.keeper.kill()
    assert not rig.pids


@pytest.mark.parametrize(
    "changed",
    [
        {"semantic": {"model": "another"}},
        {"semantic": {"threads": 2}},
        {"semantic": {"max_queued": 7}},
        {"semantic": {"token": "other"}},
        {"redis": {"namespace": "other"}},
        {"log": {"level": "debug"}},
    ],
)
async def test_settings_of_its_own_that_change_bring_a_new_process(
    rig: Rig, changed: dict[str, dict[str, object]]
) -> None:
    """The old one has ended before: both would write one folder."""
    await rig.keeper.apply(rig.settings())
    first = await rig.started(1)

    await rig.keeper.apply(rig.settings(**changed))

    assert not processes.state(first)
    assert await rig.started(2) != first
    assert rig.notes[0]["given"] != rig.notes[1]["given"]


async def test_another_redis_brings_a_new_process(rig: Rig) -> None:
    """The private one's URL is not among the settings."""
    await rig.keeper.apply(rig.settings())
    await rig.started(1)
    rig.redis_url = "redis://other"

    await rig.keeper.apply(rig.settings())
    await rig.started(2)

    assert rig.notes[1]["given"]["redis_url"] == "redis://other"


async def test_settings_of_the_workers_leave_the_process_alone(rig: Rig) -> None:
    """A reload that changes a threshold must not cost an index."""
    await rig.keeper.apply(rig.settings())
    first = await rig.started(1)

    for semantic in ({"mode": "shadow"}, {"min_score": 0.9}, {"history": "chain"}):
        await rig.keeper.apply(rig.settings(semantic={**semantic, "deadline_ms": 70}))
    await rig.keeper.apply(rig.settings(cache={"ttl_s": 5}, server={"workers": 3}))

    assert rig.pids == [first]
    assert len(rig.notes) == 1


@pytest.mark.parametrize("semantic", [{"mode": "off"}, {"address": "http://gpu-host:8200"}])
async def test_there_is_no_process_where_none_of_ours_is_needed(
    rig: Rig, semantic: dict[str, object]
) -> None:
    """One that ran ends; and comes back when it is needed again."""
    await rig.keeper.apply(rig.settings())
    first = await rig.started(1)

    await rig.keeper.apply(rig.settings(semantic=semantic))
    assert not processes.state(first)
    await rig.keeper.apply(rig.settings())

    await rig.started(2)


async def test_metrics_of_an_ended_process_leave_its_gauges_behind(rig: Rig) -> None:
    """Else the vectors of a process that is gone would be added to those of the next one."""
    await rig.keeper.apply(rig.settings())
    pid = await rig.started(1)
    gauges = [rig.folder / f"gauge_{mode}_{pid}.db" for mode in ("livesum", "livemax")]
    for gauge in gauges:
        gauge.touch()

    await rig.keeper.stop()

    assert not any(gauge.exists() for gauge in gauges)
