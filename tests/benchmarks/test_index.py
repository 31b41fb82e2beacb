"""The benchmark of the index still runs. No figure is judged here."""

from benchmarks.index import rows


def test_a_size_is_filled_searched_saved_and_loaded() -> None:
    """With a graph, as any size worth measuring has one."""
    [row] = rows([2500])
    assert row.vectors == 2500
    assert row.recall_at_1 > 0.9
    assert 0 < row.search_p50_ms < 1000
    assert row.restarted_bytes > row.estimated_bytes > 2500 * 384
