"""What the neighbours say together: tables of neighbours, and what holds of any."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.decision.consensus import FEATURES, Consensus, Floats, consensus

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


def among(
    scores: list[float],
    groups: list[bytes],
    *,
    similar: float = 0.5,
    similarities: Floats | None = None,
) -> Consensus:
    """Return what neighbours say that are all `similar` to each other unless told otherwise."""
    count = len(scores)
    if similarities is None:
        similarities = np.full((count, count), similar)
        np.fill_diagonal(similarities, 1.0)
    return consensus(np.array(scores), similarities, groups)


def said(found: Consensus, feature: str) -> float:
    return float(found.evidence[FEATURES.index(feature)])


@pytest.mark.parametrize(
    ("scores", "groups", "wanted"),
    [
        ([0.9], [A], A),
        ([0.9, 0.5], [A, B], A),
        ([0.9, 0.89, 0.88], [A, B, B], B),
        ([0.95, 0.6, 0.6], [A, B, B], A),
        ([0.9, 0.8, 0.8, 0.8], [C, A, B, A], A),
    ],
    ids=["alone", "nearer", "two of three", "much nearer", "of three groups"],
)
def test_neighbours_speak_for_the_group_with_the_largest_share(
    scores: list[float], groups: list[bytes], wanted: bytes
) -> None:
    """Nearness counts, and so do numbers."""
    assert among(scores, groups).group == wanted


def test_neighbours_that_are_near_to_each_other_are_hardly_more_than_one_witness() -> None:
    """Three wordings of one question outvote one that is nearer only where they are independent."""
    scores, groups = [0.8, 0.72, 0.72, 0.72], [A, B, B, B]
    alike = np.full((4, 4), 0.5)
    alike[1:, 1:] = 0.99
    np.fill_diagonal(alike, 1.0)

    assert among(scores, groups, similar=0.4).group == B
    assert among(scores, groups, similarities=alike).group == A


def test_evidence_grows_with_agreement() -> None:
    """Another neighbour of the group: more share, more lead, less that is unexplained."""
    alone, agreed = among([0.9], [A]), among([0.9, 0.85], [A, A])
    contradicted = among([0.9, 0.85], [A, B])

    for feature in ("share", "lead", "three-best", "members"):
        assert said(agreed, feature) > said(alone, feature)
    assert said(agreed, "unexplained") < said(alone, "unexplained")
    for feature in ("share", "lead", "vote-wide", "vote-narrow", "lead-in-score"):
        assert said(contradicted, feature) < said(agreed, feature)


def test_scores_are_told_as_they_are() -> None:
    """The group's best, and the best of the others."""
    found = among([0.9, 0.8, 0.7], [A, B, A])

    assert said(found, "best-score") == 0.9
    assert said(found, "next-score") == 0.8
    assert said(found, "lead-in-score") == pytest.approx(0.1)
    assert said(found, "share-squared") == pytest.approx(said(found, "share") ** 2)


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from([A, B, C])), min_size=1, max_size=64)
)
def test_any_neighbours_give_finite_evidence_of_a_group_among_them(
    drawn: list[tuple[int, bytes]],
) -> None:
    """Repeated ones, opposite ones, one or sixty-four."""
    question = np.random.default_rng(0).standard_normal(8)
    question /= np.linalg.norm(question)
    found = []
    for seed, group in drawn:
        vector = np.random.default_rng(seed).standard_normal(8)
        vector /= np.linalg.norm(vector)
        found.append((float(vector @ question), vector, group))
    found.sort(key=lambda one: -one[0])
    vectors = np.stack([vector for _, vector, _ in found])

    agreed = consensus(
        np.array([score for score, _, _ in found]),
        vectors @ vectors.T,
        [group for _, _, group in found],
    )

    assert agreed.group in {group for _, _, group in found}
    assert agreed.evidence.shape == (len(FEATURES),)
    assert np.isfinite(agreed.evidence).all()
