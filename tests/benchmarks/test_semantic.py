"""The semantic tier's benchmarks still run, and refuse to measure the wrong thing."""

import itertools

import pytest

from benchmarks import paraphrases, run, semantic, semantic_servers
from benchmarks.compare import Size
from benchmarks.semantic_stage import new_texts

_needs_data = pytest.mark.skipif(
    not paraphrases.are_there(), reason="needs the questions that RECOLLECT_DATA names"
)


@_needs_data
@pytest.mark.parametrize("name", [name for name in semantic.NAMES if name != semantic.LONG])
def test_each_row_measures_both_sides(name: str) -> None:
    """Every row starts its servers, gets the answers it expects, and has its figures."""
    if name == "semantic-gptcache" and not semantic_servers.GPTCACHE.exists():
        pytest.skip("needs GPTCache in an environment of its own; see benchmarks/README.md")

    rows = semantic.run(name, quick=True, size=Size(rounds=1, requests=32))

    assert rows
    for row in rows:
        assert any(figure.isdigit() and figure != "0" for figure in row.measured), row


def test_row_without_its_data_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the questions are not there, the table says so; that is no failure."""
    monkeypatch.setenv("RECOLLECT_DATA", "/nowhere")

    status = run.main(["--quick", "--only", "semantic-hit"])

    assert status == 0
    assert "semantic-hit was left out" in capsys.readouterr().out


def test_respelled_texts_differ_in_blanks_alone() -> None:
    """Other texts to the exact tier; the same words to the encoder and to the guards."""
    text = "Is the capital of France Paris, or Lyon?"

    respelled = {paraphrases.respelled(text, number) for number in range(1000)}

    assert len(respelled) == 1000
    assert text in respelled
    assert {" ".join(other.split()) for other in respelled} == {text}


def test_no_new_text_comes_twice() -> None:
    """A text that was asked before would be an exact hit."""
    pairs = [paraphrases.Pair("unused", "What is it that you want of us now?")]

    texts = list(itertools.islice(new_texts(pairs), 500))

    assert len(set(texts)) == 500
    assert pairs[0].asked not in texts
