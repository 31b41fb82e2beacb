"""`recollect tune`: what would a budget, or a plain score, have made of these questions?"""

import os
from collections.abc import Callable, Sequence

from admin.tune_answers import with_joined_answers
from admin.tune_files import Exchange
from admin.tune_replay import (
    BUDGETS,
    SCORES,
    budget_point,
    by_budget,
    by_score,
    calibration,
    score_point,
)
from admin.tune_report import Report
from admin.tune_stream import StreamReader
from config.load import data_folder
from config.settings import Settings
from embeddings.encoding.models import open_encoder


def tuned(
    exchanges: Sequence[Exchange],
    settings: Settings,
    max_error: float,
    *,
    seed: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Replay what a file says with every setting of both curves.

    Args:
        exchanges: In their order.
        settings: What the proxy would be started with.
        max_error: The budget that is looked at most closely, above 0 and below 1.
        seed: Which hits are checked.
        tell: Told what is being done, in a few words.

    Raises:
        EncoderError: The encoder cannot be opened.
    """
    semantic = settings.semantic
    tell("opening the encoder")
    encoder = open_encoder(
        semantic.model,
        semantic.models_dir or data_folder(settings, os.environ) / "models",
        device=semantic.device,
        threads=semantic.threads,
        scripts=semantic.scripts,
    )
    tell(f"encoding {len(exchanges):,} questions")
    reader = StreamReader(encoder, settings)
    stream = reader.read(exchanges)
    stream = with_joined_answers(stream, reader.encode, tell)
    budgets, bins = [], []
    for each in sorted({*BUDGETS, max_error}):
        tell(f"replaying with max_error = {each:g}")
        answered = by_budget(stream, each, semantic.check_share, seed)
        budgets.append(budget_point(each, answered))
        if each == max_error:
            bins = calibration(answered)
    scores = []
    for each in SCORES:
        tell(f"replaying with min_score = {each:g}")
        scores.append(score_point(each, by_score(stream, each)))
    asked = len(stream.asked)
    return Report(
        asked=asked,
        stored_first=len(stream.questions) - asked,
        left_out=stream.left_out,
        max_error=max_error,
        budgets=budgets,
        scores=scores,
        calibration=bins,
    )
