"""The memory store's own half: bytes, eviction, values of any kind."""

from dataclasses import dataclass

from cachestore.entry import StoredResponse
from cachestore.memory_store import EvictionCause, MemoryStore

OVERHEAD_BYTES = 400


@dataclass(frozen=True)
class Value:
    """Something with a size."""

    size_bytes: int


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def a_store(places: int, causes: list[EvictionCause] | None = None) -> MemoryStore[Value]:
    """Return a store with room for so many values of 600 bytes, at least 8."""
    assert places >= 8
    on_evict = None if causes is None else causes.append
    return MemoryStore(places * 1000, on_evict=on_evict)


def test_the_value_used_longest_ago_goes_first() -> None:
    """Least recently used: `peek` counts as use."""
    store = a_store(8)
    for number in range(8):
        store.keep(key(number), Value(600))
    assert store.peek(key(0)) == Value(600)

    store.keep(key(8), Value(600))

    assert store.peek(key(1)) is None
    assert store.peek(key(0)) is not None
    assert store.entries == 8


def test_bytes_never_exceed_the_bound_and_count_what_holding_costs() -> None:
    """Short answers cost more to hold than they have bytes."""
    store = a_store(8)
    for number in range(100):
        store.keep(key(number), Value(number))
        assert store.bytes <= 8000

    assert store.entries == 16
    assert store.bytes == sum(range(84, 100)) + 16 * OVERHEAD_BYTES


def test_evictions_are_counted_and_told_but_drops_are_not() -> None:
    """The metric says whether the store is too small."""
    causes: list[EvictionCause] = []
    store = a_store(8, causes)
    for number in range(10):
        store.keep(key(number), Value(600))
    assert store.drop(key(9))
    store.clear()

    assert causes == ["capacity", "capacity"]
    assert store.evictions == 2


def test_without_anyone_to_tell_evictions_are_counted_all_the_same() -> None:
    """The callback is optional."""
    store = a_store(8)
    for number in range(9):
        store.keep(key(number), Value(600))

    assert store.evictions == 1


def test_a_value_above_an_eighth_of_the_store_is_not_kept() -> None:
    """One huge answer must not push out everything else."""
    store = a_store(8)
    store.keep(key(1), Value(600))
    store.keep(key(2), Value(601))

    assert store.peek(key(1)) is not None
    assert store.peek(key(2)) is None


def test_a_value_too_large_to_keep_takes_the_older_one_away() -> None:
    """Else the answer of before would go on being served."""
    store = a_store(8)
    store.keep(key(1), Value(600))

    store.keep(key(1), Value(5000))

    assert store.peek(key(1)) is None
    assert store.bytes == 0


def test_replacing_a_value_counts_only_the_new_size() -> None:
    """Bytes are what lies there now."""
    store = a_store(8)
    store.keep(key(1), Value(600))
    store.keep(key(1), Value(100))

    assert store.entries == 1
    assert store.bytes == 100 + OVERHEAD_BYTES


def test_drop_says_whether_there_was_something_and_clear_leaves_nothing() -> None:
    """Invalidations drop, reconnects clear."""
    store = a_store(8)
    store.keep(key(1), Value(600))
    store.keep(key(2), Value(600))

    assert store.drop(key(1))
    assert not store.drop(key(1))
    store.clear()
    assert store.peek(key(2)) is None
    assert (store.bytes, store.entries) == (0, 0)


def test_a_store_of_no_bytes_keeps_nothing() -> None:
    """0 turns the first tier off."""
    store: MemoryStore[Value] = MemoryStore(0)
    store.keep(key(1), Value(0))

    assert store.peek(key(1)) is None


async def test_an_entry_found_past_its_keep_time_is_counted_as_expired() -> None:
    """It leaves when it is asked for, not before."""
    now = [100.0]
    causes: list[EvictionCause] = []
    store: MemoryStore[StoredResponse] = MemoryStore(
        1 << 20, clock=lambda: now[0], on_evict=causes.append
    )
    await store.put(StoredResponse(key(1), 100.0, 60.0, 0.0, b"", b""))
    now[0] = 160.0

    assert await store.get(key(1)) is None
    assert causes == ["expired"]
    assert store.entries == 0
