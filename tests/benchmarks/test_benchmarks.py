"""The benchmarks still run, and refuse to measure the wrong thing. No figure is judged here."""

import os
import shutil
from pathlib import Path

import pytest

from benchmarks import load, run, scenarios, servers, traffic
from benchmarks.compare import Comparison, Cost, Side, Size, compare
from benchmarks.scenarios import SCENARIOS, Scenario

_TINY = Size(rounds=1, requests=32)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_each_scenario_measures_both_sides(scenario: Scenario) -> None:
    """Every row of `make bench` starts its servers, gets the answers it expects, and has a cost."""
    if "nginx" in scenario.name and shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")

    measured = scenarios.run(scenario, _TINY)

    assert measured.server_us > 0
    assert measured.reference_us > 0
    assert measured.ratio == measured.server_us / measured.reference_us


def test_table_names_its_machine_and_its_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table without machine, versions and commit cannot be compared with another."""
    file = tmp_path / "table.md"

    status = run.main(["--quick", "--only", "start", "--markdown", str(file)])

    assert status == 0, capsys.readouterr().out
    table = file.read_text()
    assert "worker start to first answer" in table
    assert "≤ 1.5 s, ≤ 100 MB" in table
    for word in ("cores", "commit", "Python 3.", "uvicorn ", "redis-server "):
        assert word in table


def test_row_that_cannot_be_measured_fails_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make bench` must not end well with a row missing."""
    broken = tmp_path / "redis-server"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Redis server v=0"\n')
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    status = run.main(["--quick", "--only", "start"])

    assert status == 1
    assert "start was not measured" in capsys.readouterr().out


def test_every_request_is_sent_exactly_once(tmp_path: Path) -> None:
    """CPU time per request is a lie when the count is not exact."""
    with servers.fake_upstream(tmp_path) as upstream:
        requests = [traffic.request(traffic.JSON_MODEL, number) for number in range(100)]
        seen: list[bytes] = []

        load.drive(upstream.port, requests, 16, seen.append)

        assert servers.upstream_calls(upstream) == 100
        assert len(seen) == 100


@pytest.mark.parametrize("model", [traffic.PACED_MODEL, traffic.BURST_MODEL])
def test_stream_is_taken_to_its_end(tmp_path: Path, model: str) -> None:
    """An answer counts only when its last chunk is there, however it was cut into packets."""
    with servers.fake_upstream(tmp_path) as upstream:
        answer = load.ask(upstream.port, traffic.request(model, 0, stream=True))

    assert answer.count(b"chat.completion.chunk") == traffic.CHUNKS
    assert answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "expected",
    [
        load.Expectation(b"recollect; hit", b'"finish_reason":"stop"'),
        load.Expectation(b"content-type: application/json", b"[DONE]"),
    ],
    ids=["header", "body"],
)
def test_answer_that_is_not_what_the_row_means_stops_it(
    tmp_path: Path, expected: load.Expectation
) -> None:
    """A miss that is measured as a hit would be a figure of something else."""
    with servers.raw_app(tmp_path) as raw, pytest.raises(load.UnexpectedAnswer):
        load.drive(raw.port, [traffic.request(traffic.JSON_MODEL, 0)], 1, expected.check)


def test_wrong_count_of_upstream_calls_stops_the_row(tmp_path: Path) -> None:
    """An answer may look like a hit; the upstream knows better."""
    with servers.fake_upstream(tmp_path) as upstream:
        side = Side(
            server=upstream,
            requests=lambda number: traffic.request(traffic.JSON_MODEL, number),
            expected=load.Expectation(b"", b'"finish_reason":"stop"'),
            upstream=upstream,
            upstream_calls_per_request=0,
        )

        with pytest.raises(load.UnexpectedAnswer, match="32 upstream calls for 32 requests"):
            compare(side, side, _TINY)


def test_ratio_is_the_median_of_the_rounds() -> None:
    """One disturbed round counts for nothing, as neighbours in time are compared."""
    measured = [Cost(10, 0), Cost(30, 0), Cost(500, 0)]
    reference = [Cost(10, 0), Cost(20, 0), Cost(10, 0)]

    assert Comparison(measured, reference).ratio == 1.5


def test_request_and_answer_have_the_sizes_they_are_said_to_have() -> None:
    """The figures are for a 258-byte body and an answer of 1 KB."""
    body = traffic.request(traffic.JSON_MODEL, 7).partition(b"\r\n\r\n")[2]

    assert len(body) == traffic.BODY_BYTES
    assert len(traffic.json_answer(traffic.JSON_MODEL, 1024)) == 1024
    assert len(traffic.stream_events(traffic.BURST_MODEL)) == traffic.CHUNKS + 1
