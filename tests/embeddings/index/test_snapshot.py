"""A snapshot on disk: whole, or not there."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from embeddings.index.faiss_index import FaissIndex
from embeddings.index.part_files import read_table
from embeddings.index.partition import GRAPH_AT
from embeddings.index.snapshot import read_manifest, write_manifest
from tests.embeddings.fakes import CountingObserver
from tests.embeddings.index.index_rig import (
    DIMENSION,
    OTHER_PARTITION,
    entries,
    files,
    found,
    key,
    some_vectors,
)

ENCODER = "e" * 32
ROOMY = 1 << 30
# Room for the names and keys of some thousand vectors, and for few vectors.
CRAMPED = 800_000
BIG = some_vectors(GRAPH_AT + 200)
SMALL = some_vectors(40, seed=3)
THIRD_PARTITION = b"t" * 32

Damage = Callable[[Path], None]


@asynccontextmanager
async def opened(
    folder: Path, memory_bytes: int = ROOMY, encoder: str = ENCODER, dimension: int = DIMENSION
) -> AsyncIterator[tuple[FaissIndex, CountingObserver]]:
    """An index over `folder`, and its observer."""
    observer = CountingObserver()
    index = FaissIndex(folder, dimension, encoder, memory_bytes=memory_bytes, observer=observer)
    try:
        yield index, observer
    finally:
        await index.close()


async def fill(index: FaissIndex) -> None:
    """Add a small partition, and one with a graph of which some are dead."""
    await index.add(entries(SMALL, first=10_000, partition=OTHER_PARTITION))
    await index.add(entries(BIG))
    while (await index.stats()).vectors["graph"] < len(BIG):
        pass
    await index.remove([key(at) for at in range(10)])


async def found_in_time(index: FaissIndex, *args: Any, **kwargs: Any) -> list[int]:
    """Return what is found once a large partition has come from disk."""
    async with asyncio.timeout(20):
        while not (numbers := await found(index, *args, **kwargs)):
            pass
    return numbers


async def check_filled(index: FaissIndex) -> None:
    """Check that what `fill` added is there."""
    for at in range(10, len(BIG), 50):
        assert await found_in_time(index, BIG[at]) == [at]
    for at in range(10):
        assert at not in await found(index, BIG[at], k=5)
    for at in range(len(SMALL)):
        assert await found(index, SMALL[at], partition=OTHER_PARTITION) == [10_000 + at]
    stats = await index.stats()
    assert sum(stats.vectors.values()) == len(BIG) - 10 + len(SMALL)
    assert stats.partitions == 2


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a snapshot: a graph, a small partition, and one out of memory."""
    folder = tmp_path_factory.mktemp("saved")

    async def save() -> None:
        async with opened(folder, memory_bytes=CRAMPED) as (index, _):
            await fill(index)
            await index.save("7-0")

    asyncio.run(save())
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of that, to be hurt."""
    return Path(shutil.copytree(saved, tmp_path / "index"))


async def test_a_first_start_is_not_an_unusable_snapshot(tmp_path: Path) -> None:
    """There was none."""
    async with opened(tmp_path / "new") as (index, observer):
        assert await index.load() is None
        assert observer.snapshots == []


@pytest.mark.parametrize("memory_bytes", [CRAMPED, ROOMY])
@pytest.mark.parametrize("later_memory_bytes", [CRAMPED, ROOMY])
async def test_a_restart_finds_what_was_saved(
    tmp_path: Path, memory_bytes: int, later_memory_bytes: int
) -> None:
    """In memory or on disk, before and after."""
    async with opened(tmp_path, memory_bytes) as (index, _):
        await fill(index)
        await index.save("7-0")
        await check_filled(index)
    async with opened(tmp_path, later_memory_bytes) as (index, observer):
        assert await index.load() == "7-0"
        await check_filled(index)
        assert observer.snapshots == []
        await index.add(entries(some_vectors(5, seed=9), first=20_000))
        await index.save("8-0")
    async with opened(tmp_path) as (index, _):
        assert await index.load() == "8-0"
        assert sum((await index.stats()).vectors.values()) == len(BIG) - 10 + len(SMALL) + 5


async def test_a_sweep_after_a_restart_forgets_what_is_not_added_again(tmp_path: Path) -> None:
    """Those on disk too, after any number of sweeps before."""
    async with opened(tmp_path, memory_bytes=10_000) as (index, _):
        for _ in range(3):
            await index.begin_sweep()
        await index.add(entries(SMALL[:10]))
        await index.add(entries(SMALL[10:20], first=10, partition=OTHER_PARTITION))
        await index.add(entries(SMALL[20:30], first=20, partition=THIRD_PARTITION))
        await index.save("1-0")
    async with opened(tmp_path, memory_bytes=10_000) as (index, _):
        assert await index.load() == "1-0"
        await index.begin_sweep()
        await index.add(entries(SMALL[:3]))
        await index.add(entries(SMALL[20:30], first=20, partition=THIRD_PARTITION))
        assert await index.end_sweep() == 17
        assert (await index.stats()).partitions == 2


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def truncate(path: Path) -> None:
    """Cut it in half."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """Leave nothing in it."""
    os.truncate(path, 0)


def lengthen(path: Path) -> None:
    """Append something."""
    with path.open("ab") as file:
        file.write(b"\0" * 100)


def lose(path: Path) -> None:
    """Remove it."""
    path.unlink()


@pytest.mark.parametrize("damage", [flip, truncate, empty, lengthen, lose])
async def test_a_damaged_snapshot_is_not_used(saved: Path, tmp_path: Path, damage: Damage) -> None:
    """Whichever file it is: nothing is loaded, all is removed, and it is counted once."""
    names = [path.name for path in files(saved)]
    assert {name.rpartition(".")[2] for name in names} == {"json", "flat", "graph", "pack"}
    for name in names:
        if name.endswith(".pack"):
            continue
        folder = Path(shutil.copytree(saved, tmp_path / name))
        (folder / "encoder.json").write_text("another's")
        damage(folder / name)
        async with opened(folder) as (index, observer):
            assert await index.load() is None
            # Without a manifest there is no snapshot, only rubbish.
            is_none = name == "manifest.json" and damage is lose
            assert observer.snapshots == ([] if is_none else ["unusable"])
            assert [path.name for path in files(folder)] == ["encoder.json"]
            assert (await index.stats()).partitions == 0
            assert await found(index, BIG[50]) == []
            await index.add(entries(SMALL))
            await index.save("9-0")
        async with opened(folder) as (index, observer):
            assert await index.load() == "9-0"


@pytest.mark.parametrize(
    ("encoder", "dimension"), [("f" * 32, DIMENSION), (ENCODER, DIMENSION + 1)]
)
async def test_another_encoders_snapshot_is_not_used(
    folder: Path, encoder: str, dimension: int
) -> None:
    """Vectors of two encoders are never compared."""
    async with opened(folder, encoder=encoder, dimension=dimension) as (index, observer):
        assert await index.load() is None
        assert observer.snapshots == ["unusable"]
        assert files(folder) == []


async def test_files_that_have_changed_places_are_not_used(folder: Path) -> None:
    """Their own digest is right; what the manifest says of them is not."""
    flats = [*files(folder, "*.flat"), *files(folder, "*.pack")]
    contents = [path.read_bytes() for path in flats]
    for path, content in zip(flats, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)
    async with opened(folder) as (index, observer):
        assert await index.load() is None
        assert observer.snapshots == ["unusable"]


async def test_the_next_snapshot_writes_no_graph_twice(tmp_path: Path) -> None:
    """An unchanged graph keeps its file; what no snapshot names is removed."""
    async with opened(tmp_path) as (index, _):
        await fill(index)
        await index.save("1-0")
        [graph] = files(tmp_path, "*.graph")
        before = graph.stat().st_ino
        await index.remove([key(20)])
        await index.add(entries(SMALL[:1], first=30_000, partition=OTHER_PARTITION))
        (tmp_path / "flat-1-1.draft").write_text("left by one who died")
        await index.save("2-0")
        assert [path.stat().st_ino for path in files(tmp_path, "*.graph")] == [before]
        assert len(files(tmp_path)) == 3
    async with opened(tmp_path) as (index, _):
        assert await index.load() == "2-0"
        assert 20 not in await found(index, BIG[20], k=3)
        await index.save("3-0")
        assert [path.stat().st_ino for path in files(tmp_path, "*.graph")] == [before]


async def test_two_snapshots_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    """Neither takes the other's files away."""
    async with opened(tmp_path, memory_bytes=CRAMPED) as (index, _):
        await fill(index)
        await asyncio.gather(*(index.save(f"{number}-0") for number in range(5)))
    async with opened(tmp_path) as (index, _):
        assert await index.load() == "4-0"
        await check_filled(index)


async def test_a_snapshot_that_nobody_waits_for_any_more_harms_nothing(tmp_path: Path) -> None:
    """The graph is held until it is written, not until the caller leaves."""
    async with opened(tmp_path) as (index, _):
        await fill(index)
        saving = asyncio.create_task(index.save("1-0"))
        await index.stats()
        saving.cancel()
        await asyncio.wait([saving])
        await index.add(entries(some_vectors(100, seed=5), first=20_000))
        await index.save("2-0")
        for at in range(0, 100, 10):
            assert await found(index, some_vectors(100, seed=5)[at]) == [20_000 + at]
    async with opened(tmp_path) as (index, _):
        assert await index.load() == "2-0"
        assert sum((await index.stats()).vectors.values()) == len(BIG) - 10 + len(SMALL) + 100


async def test_everything_held_all_the_while_is_in_a_snapshot(tmp_path: Path) -> None:
    """Though partitions go to disk and come back, fill and empty, while it is written."""
    async with opened(tmp_path, memory_bytes=CRAMPED) as (index, _):
        partitions = [bytes([number]) * 32 for number in range(30)]
        for number, partition in enumerate(partitions):
            await index.add(entries(SMALL, first=100 * number, partition=partition))

        async def disturb() -> None:
            for at in range(60):
                await found(index, SMALL[0], partition=partitions[at * 7 % 30])
                await index.add(
                    entries(SMALL[:1], first=9000 + at, partition=partitions[at * 11 % 30])
                )
                await index.remove([key(9000 + at)])

        for number in range(3):
            await asyncio.gather(index.save(f"{number}-0"), disturb())
    async with opened(tmp_path) as (index, _):
        assert await index.load() == "2-0"
        for number, partition in enumerate(partitions):
            for at, vector in enumerate(SMALL):
                assert 100 * number + at in await found(index, vector, k=3, partition=partition)


async def test_a_key_that_moved_while_a_snapshot_was_written_is_held_once(tmp_path: Path) -> None:
    """It may be in both partitions as they were saved."""
    folder = tmp_path / "index"
    snapshots = []
    async with opened(folder, memory_bytes=10_000) as (index, _):
        await index.add(entries(SMALL[:10], partition=THIRD_PARTITION))
        for position, moved in (("1-0", SMALL[:0]), ("2-0", SMALL[:1])):
            await index.add(entries(moved, partition=OTHER_PARTITION))
            await index.add(entries(SMALL[10:20], first=10, partition=OTHER_PARTITION))
            await index.add(entries(SMALL[20:30], first=20))
            await index.save(position)
            copy = Path(shutil.copytree(folder, tmp_path / position))
            content = read_manifest(copy)
            assert content is not None
            rows = [
                (copy, file, row) for file in content["packs"] for row in read_table(copy, file)
            ]
            snapshots.append((content, {row.name: (path, file, row) for path, file, row in rows}))
    (_, old), (content, new) = snapshots
    packs: dict[str, list[int]] = {}
    for path, file, row in (old[THIRD_PARTITION], new[OTHER_PARTITION]):
        packs.setdefault(file, []).append(row.offset)
        if not (folder / file).exists():
            shutil.copy(path / file, folder)
    write_manifest(folder, content | {"packs": packs})
    async with opened(folder, memory_bytes=10_000) as (index, _):
        assert await index.load() == "2-0"
        assert sum((await index.stats()).vectors.values()) == 30
        assert await found(index, SMALL[0], partition=OTHER_PARTITION) == [0]
        assert await found(index, SMALL[1], partition=THIRD_PARTITION) == [1]
        assert 0 not in await found(index, SMALL[0], 20, THIRD_PARTITION)


@contextmanager
def in_the_way(folder: Path) -> Iterator[None]:
    """Have a file for a while where the folder is."""
    hidden = folder.rename(folder.with_name("hidden"))
    folder.write_text("in the way")
    yield
    folder.unlink()
    hidden.rename(folder)


async def test_a_full_disk_leaves_the_last_snapshot(folder: Path) -> None:
    """And the index as it was."""
    async with opened(folder) as (index, _):
        assert await index.load() == "7-0"
        await index.add(entries(some_vectors(5, seed=9), first=20_000))
        with in_the_way(folder), pytest.raises(FileExistsError):
            await index.save("8-0")
        assert await found_in_time(index, BIG[50]) == [50]
        await index.add(entries(some_vectors(5, seed=10), first=30_000))
    async with opened(folder) as (index, _):
        assert await index.load() == "7-0"


async def test_one_who_closes_while_saving_leaves_the_last_snapshot_or_the_new_one(
    folder: Path,
) -> None:
    """Whole in both cases, and soon."""
    async with opened(folder) as (index, _):
        await index.load()
        await index.add(entries(some_vectors(500, seed=9), first=20_000))
        saving = asyncio.create_task(index.save("8-0"))
        await asyncio.sleep(0)
        await index.close()
        await asyncio.wait([saving])
    async with opened(folder) as (index, observer):
        assert await index.load() in ("7-0", "8-0")
        assert observer.snapshots == []


_SAVER = """
    import asyncio, sys
    from pathlib import Path
    from embeddings.index.faiss_index import FaissIndex
    from tests.embeddings.fakes import CountingObserver
    from tests.embeddings.index.index_rig import DIMENSION, entries, some_vectors

    async def main():
        observer = CountingObserver()
        index = FaissIndex(
            Path(sys.argv[1]), DIMENSION, "e" * 32, memory_bytes=800_000, observer=observer
        )
        assert await index.load() is not None
        for number in range(1000):
            await index.add(entries(some_vectors(20, seed=number), first=20_000 + 20 * number))
            await index.save(f"{8 + number}-0")
            print(number, flush=True)

    asyncio.run(main())
"""


def test_one_who_is_killed_while_saving_leaves_a_whole_snapshot(folder: Path) -> None:
    """At whichever moment."""
    for moment in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_SAVER), str(folder)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        ) as child:
            assert child.stdout is not None
            for _ in range(1 + moment):
                assert child.stdout.readline()
            time.sleep(0.002 * moment)
            child.kill()
        assert child.returncode == -signal.SIGKILL
        asyncio.run(check_loaded(folder, 8 + moment))


async def check_loaded(folder: Path, least: int) -> None:
    """Check that a snapshot not older than `least` is there."""
    async with opened(folder) as (index, observer):
        position = await index.load()
        assert observer.snapshots == []
        assert position is not None
        assert int(position.partition("-")[0]) >= least
        assert await found_in_time(index, BIG[50]) == [50]


async def test_every_step_of_saving_leaves_a_whole_snapshot(folder: Path, tmp_path: Path) -> None:
    """Files of the new one lie there, the manifest is the old one's, and the other way round."""
    before = {path.name: path for path in files(folder)}
    after = Path(shutil.copytree(folder, tmp_path / "after"))
    async with opened(after) as (index, _):
        await index.load()
        await index.add(entries(some_vectors(300, seed=9), first=20_000))
        await index.save("8-0")
    new = [path for path in files(after) if path.name not in before]
    assert {path.suffix for path in new} == {".flat", ".graph"}
    # Step by step: each new file, the manifest, then each old file's end.
    for path in new:
        shutil.copy(path, folder)
        await self_check(folder, tmp_path, "7-0")
    shutil.copy(after / "manifest.json", folder)
    await self_check(folder, tmp_path, "8-0")
    for name in before:
        if not (after / name).exists():
            (folder / name).unlink()
            await self_check(folder, tmp_path, "8-0")


async def self_check(folder: Path, tmp_path: Path, position: str) -> None:
    """Check that a copy of `folder` can be loaded."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    async with opened(copy) as (index, _):
        assert await index.load() == position
        assert await found_in_time(index, BIG[50]) == [50]
    shutil.rmtree(copy)


async def test_a_manifest_of_nonsense_is_not_used(folder: Path) -> None:
    """Though its digest is right."""
    content = read_manifest(folder)
    assert content is not None
    changes: list[dict[str, Any]] = [
        {"format": 1},
        {"graphs": []},
        {"flat": "../../etc/passwd"},
        {"flat": "/etc/passwd"},
        {"packs": []},
        {"packs": {"zz": ["x"]}},
        {"packs": {"../../etc/passwd": [0]}},
        {"position": None, "generation": "x"},
    ]
    for change in changes:
        copy = Path(shutil.copytree(folder, folder.with_name("copy")))
        write_manifest(copy, content | change)
        async with opened(copy) as (index, observer):
            assert await index.load() is None, change
            assert observer.snapshots == ["unusable"]
        shutil.rmtree(copy)
