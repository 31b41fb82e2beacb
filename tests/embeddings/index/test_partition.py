"""One partition: the tail, the graph, and what moves between them."""

import numpy as np
import pytest

from embeddings.index.partition import GRAPH_AT, Partition, Renewal, renewed
from embeddings.index.vector_index import IndexedVector
from tests.embeddings.index.index_rig import (
    DIMENSION,
    LATER,
    NOW,
    PARTITION,
    Q8_ERROR,
    Vectors,
    entries,
    key,
    near,
    number_of,
    some_vectors,
)


def filled(vectors: Vectors) -> Partition:
    """Return a partition that is done with moving."""
    partition = Partition(PARTITION, DIMENSION)
    for one in entries(vectors):
        partition.add(one, 0)
    tidy(partition)
    return partition


def tidy(partition: Partition) -> None:
    """Move all that should move."""
    while partition.is_untidy:
        partition.tend(100)


def nearest(partition: Partition, query: np.ndarray, k: int = 1, now: float = NOW) -> list[int]:
    """Return the numbers of the nearest."""
    return [number_of(match.key) for match in partition.search(query, k, now)]


def test_a_small_partition_has_no_graph() -> None:
    """Comparing with all is exact, and as fast."""
    partition = filled(some_vectors(GRAPH_AT))
    assert partition.graph is None
    assert len(partition) == GRAPH_AT


def test_a_grown_partition_finds_as_well_by_its_graph() -> None:
    """The nearest of all in at least 98 of 100 cases."""
    vectors = some_vectors(3 * GRAPH_AT, clusters=300)
    partition = filled(vectors)
    assert partition.graph is not None
    assert partition.in_graph == len(partition) == 3 * GRAPH_AT

    queries = near(vectors[np.random.default_rng(7).integers(0, len(vectors), 500)])
    scores = queries @ vectors.T
    right = 0
    for query, expected in zip(queries, scores, strict=True):
        [match] = partition.search(query, 1, NOW)
        right += number_of(match.key) == expected.argmax()
        assert match.score == pytest.approx(expected[number_of(match.key)], abs=Q8_ERROR)
    assert right >= 0.98 * 500


def test_everything_is_found_while_the_graph_fills() -> None:
    """In the tail or in the graph, never in neither, never in both."""
    vectors = some_vectors(GRAPH_AT + 500)
    partition = Partition(PARTITION, DIMENSION)
    for at, one in enumerate(entries(vectors)):
        partition.add(one, 0)
        assert nearest(partition, one.vector) == [at]
        if at % 10 == 0:
            partition.tend(8)
            assert nearest(partition, one.vector) == [at]
    tidy(partition)
    for at in range(0, len(vectors), 20):
        found = nearest(partition, vectors[at], k=30)
        assert found[0] == at
        assert len(set(found)) == 30


def test_vectors_unlike_those_the_graph_was_made_for_score_right() -> None:
    """The eight bits' range comes from the first vectors; later ones may lie outside of it."""
    vectors = some_vectors(GRAPH_AT + 1, clusters=3)
    partition = filled(vectors)
    others = some_vectors(500, seed=4, clusters=50)
    for one in entries(others, first=10_000):
        partition.add(one, 0)
    tidy(partition)
    for at, vector in enumerate(others):
        [match] = partition.search(vector, 1, NOW)
        assert number_of(match.key) == 10_000 + at
        assert match.score == pytest.approx(1, abs=0.02)


def test_what_leaves_the_tail_leaves_the_others_whole() -> None:
    """The last takes the place of the one that goes."""
    vectors = some_vectors(50)
    partition = filled(vectors)
    chance = np.random.default_rng(2)
    left = set(range(50))
    for at in chance.permutation(50).tolist():
        assert partition.remove(key(at))
        assert not partition.remove(key(at))
        left.discard(at)
        assert all(nearest(partition, vectors[other]) == [other] for other in left)
    assert not partition
    assert partition.search(vectors[0], 1, NOW) == []


def test_equal_scores_are_ordered_by_key_wherever_they_lie_in_the_tail() -> None:
    """However many there are: rows that are computed together and alone score the same."""
    [vector] = some_vectors(1)
    partition = Partition(PARTITION, DIMENSION)
    for at in np.random.default_rng(3).permutation(257).tolist():
        partition.add(IndexedVector(key(at), PARTITION, vector, LATER), 0)
    for left in range(257, 3, -7):
        assert nearest(partition, vector, k=3) == [257 - left, 258 - left, 259 - left]
        for at in range(257 - left, 264 - left):
            partition.remove(key(at))


def test_dead_and_expired_ones_do_not_hide_the_living() -> None:
    """In the graph they stay where they were, nearer than all others maybe."""
    vectors = some_vectors(GRAPH_AT + 1000, clusters=2)
    partition = Partition(PARTITION, DIMENSION)
    for at, vector in enumerate(vectors):
        expires_at = NOW if at % 3 == 0 else LATER
        partition.add(IndexedVector(key(at), PARTITION, vector, expires_at), 0)
    tidy(partition)
    for at in range(1, len(vectors), 3):
        partition.remove(key(at))

    for query in vectors[:30]:
        found = nearest(partition, query, k=10)
        assert len(found) == 10
        assert all(at % 3 == 2 for at in found)
    assert nearest(partition, vectors[2]) == [2]


def test_replacements_in_the_graph_count_at_once() -> None:
    """The old vector is dead, the new one in the tail."""
    vectors = some_vectors(GRAPH_AT + 100)
    partition = filled(vectors)
    [moved] = some_vectors(1, seed=11)
    partition.add(entries([moved], first=5)[0], 0)
    assert nearest(partition, moved) == [5]
    assert 5 not in nearest(partition, vectors[5], k=3)
    assert len(partition) == len(vectors)
    tidy(partition)
    assert nearest(partition, moved) == [5]


def worn(vectors: Vectors, gone: int) -> Partition:
    """Return a partition of whose graph the first vectors are dead."""
    partition = filled(vectors)
    for at in range(gone):
        partition.remove(key(at))
    assert partition.is_worn
    return partition


def renewal_of(partition: Partition) -> Renewal:
    """Return the graph made anew."""
    assert partition.graph is not None
    renewal = renewed(partition.graph)
    assert renewal is not None
    return renewal


def test_a_graph_made_anew_holds_the_living_alone() -> None:
    """Nothing of the dead stays."""
    vectors = some_vectors(GRAPH_AT + 1000)
    partition = worn(vectors, 900)
    partition.begin_renewal()
    graph, rows = renewal_of(partition)
    partition.take_over((graph, rows))

    assert len(graph.keys) == len(partition) == len(vectors) - 900
    assert graph.dead == 0
    assert not partition.is_worn
    for at in range(900, len(vectors), 10):
        [match] = partition.search(vectors[at], 1, NOW)
        assert number_of(match.key) == at
        assert match.score == pytest.approx(1, abs=2 * Q8_ERROR)


def test_changes_while_a_graph_is_made_anew_are_in_it() -> None:
    """Removals, replacements, additions, and removals of replacements."""
    vectors = some_vectors(GRAPH_AT + 1000)
    moved = some_vectors(30, seed=21)
    partition = worn(vectors, 900)
    partition.holds += 1
    partition.begin_renewal()
    partition.remove(key(999))
    renewal = renewal_of(partition)
    for at in range(1000, 1010):
        partition.remove(key(at))
    for one in entries(moved[:20], first=1010):
        partition.add(one, 1)
    for at in range(1010, 1015):
        partition.remove(key(at))
    for one in entries(moved[20:], first=5000):
        partition.add(one, 1)
    assert not partition.is_untidy
    partition.holds -= 1
    partition.take_over(renewal)

    for step in range(2):
        for at in range(999, 1015):
            assert at not in nearest(partition, vectors[at], k=5)
        for at in range(1015, 1030):
            assert nearest(partition, moved[at - 1010]) == [at]
            assert at not in nearest(partition, vectors[at], k=5)
        for at in range(20, 30):
            assert nearest(partition, moved[at]) == [5000 + at - 20]
        for at in range(1030, len(vectors), 10):
            assert nearest(partition, vectors[at]) == [at]
        if step == 0:
            tidy(partition)
    assert len(partition) == len(vectors) - 900 - 11 - 5 + 10
    assert len(partition.older_than(1)) == len(partition) - 25


def test_a_graph_is_not_made_anew_of_nothing_or_when_told_to_stop() -> None:
    """It may take minutes, which a closing index does not have."""
    vectors = some_vectors(GRAPH_AT + 10)
    partition = worn(vectors, 1000)
    assert partition.graph is not None
    partition.begin_renewal()
    assert renewed(partition.graph, lambda: False) is None
    partition.take_over(None)
    assert nearest(partition, vectors[1005]) == [1005]
    for at in range(1000, GRAPH_AT + 10):
        partition.remove(key(at))
    assert renewed(partition.graph) is None


def test_a_newer_partition_is_absorbed() -> None:
    """What is in it counts; what is not stays."""
    vectors, moved = some_vectors(GRAPH_AT + 100), some_vectors(2, seed=6)
    partition = filled(vectors)
    newer = Partition(PARTITION, DIMENSION)
    for number, vector in zip((5, 9000), moved, strict=True):
        newer.add(IndexedVector(key(number), PARTITION, vector, NOW + 1), 3)
    partition.absorb(newer)
    assert len(partition) == len(vectors) + 1
    assert nearest(partition, moved[0]) == [5]
    assert nearest(partition, moved[1]) == [9000]
    assert nearest(partition, vectors[6]) == [6]
    assert 5 not in nearest(partition, vectors[5], k=3)
    assert {number_of(one) for one in partition.expired(NOW + 1)} == {5, 9000}
    assert len(partition.older_than(3)) == len(vectors) - 1


def test_expired_and_older_ones_are_told_from_tail_and_graph() -> None:
    """By row they lie in different tables."""
    vectors = some_vectors(GRAPH_AT + 10)
    partition = filled(vectors)
    for one in entries(some_vectors(3, seed=5), first=9000, expires_at=NOW):
        partition.add(one, 2)
    assert {number_of(one) for one in partition.expired(NOW)} == {9000, 9001, 9002}
    assert len(partition.older_than(2)) == len(vectors)
    assert len(partition.expired(LATER)) == len(vectors) + 3
