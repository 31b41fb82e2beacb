"""What `recollect tune` says: tables, one JSON document, a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from admin.tune_replay import Bin, Point
from embeddings.verdict import Verdict

_DOTS_PER_INCH: Final = 120


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        asked: How many questions were looked up by meaning.
        stored_first: How many were stored before anything was asked.
        left_out: How many were asked that are not compared, by reason.
        max_error: The budget that was asked for.
        budgets: The curve with an error budget, by budget.
        scores: The curve with one least score for all, highest first.
        calibration: What the asked budget's decisions said, and what was so.
    """

    asked: int
    stored_first: int
    left_out: Mapping[str, int]
    max_error: float
    budgets: Sequence[Point]
    scores: Sequence[Point]
    calibration: Sequence[Bin]

    @property
    def chosen(self) -> Point | None:
        """Which budget would be chosen: of those up to the asked one that kept to it, the one with
        the most hits; None where none had hits and kept to it.

        By the share itself, not by the end of its interval: with some hundred hits no honest 1 %
        could be told from 2 %, and online a budget goes on watching itself.
        """
        kept = [
            point
            for point in self.budgets
            if point.setting <= self.max_error
            and point.hits
            and point.wrong_share <= self.max_error
        ]
        return max(kept, key=lambda point: point.hits, default=None)

    @property
    def mode(self) -> str:
        """`semantic.mode` as it would be chosen."""
        return "on" if self.chosen is not None else "shadow"

    @property
    def chosen_max_error(self) -> float:
        """`semantic.max_error` as it would be chosen."""
        return self.max_error if self.chosen is None else self.chosen.setting

    @property
    def why(self) -> str:
        """Why those settings, in a sentence."""
        asked = next(point for point in self.budgets if point.setting == self.max_error)
        if not asked.hits:
            if asked.verdicts.get(Verdict.EARNING):
                return "No hits: the stream ended before enough answers had been right in a row"
            return "No hits: nothing was sure enough; a longer stream may show more"
        why = f"{_measured(asked)}, {_share(self.max_error)} asked for"
        if self.chosen is not None and self.chosen is not asked:
            why += f"; with max_error = {self.chosen_max_error:g} {_measured(self.chosen)}"
        return why

    @property
    def settings(self) -> str:
        """The settings that would be chosen, as TOML."""
        lines = ["[semantic]", f'mode = "{self.mode}"', f"max_error = {self.chosen_max_error:g}"]
        return "\n".join(lines)


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as one JSON document."""
    return {
        "asked": report.asked,
        "stored_first": report.stored_first,
        "left_out": dict(report.left_out),
        "budgets": [
            {"max_error": point.setting, **_point(point), "verdicts": dict(point.verdicts)}
            for point in report.budgets
        ],
        "scores": [{"min_score": point.setting, **_point(point)} for point in report.scores],
        "calibration": [
            {"from": one.low, "to": one.high, "count": one.count, "said": one.said}
            | {"right": one.right}
            for one in report.calibration
        ],
        "semantic": {"mode": report.mode, "max_error": report.chosen_max_error},
        "why": report.why,
    }


def print_report(report: Report, console: Console) -> None:
    """Print the report as tables."""
    left_out = ", ".join(f"{count:,} {why}" for why, count in sorted(report.left_out.items()))
    console.print(f"{report.asked:,} questions looked up by meaning", end="")
    console.print(
        f", {report.stored_first:,} stored before them" if report.stored_first else "", end=""
    )
    console.print(f"; left out: {left_out or 'none'}", highlight=False)
    console.print("\nWith an error budget (semantic.max_error):")
    verdicts = [verdict.value for verdict in Verdict if verdict is not Verdict.SERVE]
    budgets = _table("max_error", *verdicts)
    for point in report.budgets:
        counts = [f"{point.verdicts.get(verdict, 0):,}" for verdict in verdicts]
        budgets.add_row(*_cells(point), *counts)
    console.print(budgets)
    console.print("\nWith one score for all questions (semantic.min_score, no budget):")
    scores = _table("min_score")
    for point in report.scores:
        scores.add_row(*_cells(point))
    console.print(scores)
    console.print(f"\nCalibration at max_error = {report.max_error:g}:")
    bins = Table("said to be right", "look-ups", "mean said", "were right", box=None)
    for one in report.calibration:
        shares = [_share(one.said), _share(one.right)] if one.count else ["–", "–"]
        bins.add_row(f"{one.low:g} … {one.high:g}", f"{one.count:,}", *shares)
    console.print(bins)
    console.print(f"\n{report.why}. Settings to choose:\n")
    console.print(report.settings, markup=False, highlight=False)


def draw(report: Report, file: Path) -> None:
    """Draw both rules' curves into a PNG: hits over wrong hits, with 95 % intervals.

    Raises:
        ImportError: There is no matplotlib.
        OSError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    # By itself, without pyplot: no display is looked for, and nothing is kept open.
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for label, name, marker, points in (
        ("error budget", "max_error", "o", report.budgets),
        ("one score for all", "min_score", "s", report.scores),
    ):
        some = [point for point in points if point.hits]
        if not some:
            continue
        x = [100 * point.wrong_share for point in some]
        y = [100 * point.hit_share for point in some]
        axes.errorbar(
            x,
            y,
            xerr=_bars([(point.wrong_share, point.wrong_interval) for point in some]),
            yerr=_bars([(point.hit_share, point.hit_interval) for point in some]),
            marker=marker,
            capsize=2,
            label=f"{label} ({name})",
        )
        for point, at_x, at_y in zip(some, x, y, strict=True):
            axes.annotate(
                f"{point.setting:g}", (at_x, at_y), xytext=(5, 5), textcoords="offset points"
            )
    axes.axvline(100 * report.max_error, color="grey", linestyle=":", label="budget asked for")
    axes.set_xlabel("wrong answers among the hits (%)")
    axes.set_ylabel("hits among the questions (%)")
    # By the shares, not by their intervals: those of a few hits reach far.
    shares = [point.wrong_share for point in (*report.budgets, *report.scores)]
    axes.set_xlim(0, 120 * max(*shares, 2 * report.max_error))
    axes.set_ylim(bottom=0)
    axes.set_title(f"{report.asked:,} questions looked up by meaning")
    axes.legend()
    figure.savefig(file, format="png", dpi=_DOTS_PER_INCH)


def _bars(shares: Sequence[tuple[float, tuple[float, float]]]) -> list[list[float]]:
    """Return how far the intervals reach below and above, in per cent."""
    below = [100 * max(0.0, share - low) for share, (low, _) in shares]
    above = [100 * max(0.0, high - share) for share, (_, high) in shares]
    return [below, above]


def _point(point: Point) -> dict[str, Any]:
    low, high = point.wrong_interval
    return {
        "hits": point.hits,
        "hit_share": point.hit_share,
        "wrong": point.wrong,
        "wrong_share": point.wrong_share,
        "wrong_low": low,
        "wrong_high": high,
    }


def _measured(point: Point) -> str:
    low, high = point.wrong_interval
    return (
        f"{point.wrong:,} of {point.hits:,} hits wrong"
        f" ({_share(point.wrong_share)}, 95 % interval {_share(low)} to {_share(high)})"
    )


def _table(setting: str, *more: str) -> Table:
    return Table(setting, "hits", "share", "wrong", "of the hits", "95 %", *more, box=None)


def _cells(point: Point) -> list[str]:
    low, high = point.wrong_interval
    return [
        f"{point.setting:g}",
        f"{point.hits:,}",
        _share(point.hit_share),
        f"{point.wrong:,}",
        _share(point.wrong_share) if point.hits else "–",
        f"{100 * low:.2f}–{100 * high:.2f} %",
    ]


def _share(share: float) -> str:
    return f"{100 * share:.2f} %"
