"""A stream of questions as the proxy and the embedding process see it.

Keys, partitions and answer groups are made by the proxy's own code, vectors by the encoder that
would serve. All requests are one tenant's: a file has no credentials. Answers are one group where
they are equal but for blanks; those worded otherwise are `tune_answers`' affair.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

import orjson

from admin.tune_files import Exchange
from cachestore.vector_record import GROUP_BYTES, Answer
from config.settings import Settings
from embeddings.encoding.encoder import Encoder, Refused, Vector
from proxy.lookup.answers import StoredAnswer, answer_of
from proxy.lookup.ask import Reader as AskReader
from proxy.lookup.keys import Unkeyable, exact_key
from proxy.lookup.meaning import ExactOnly, question_of
from proxy.lookup.policy import Bypass, may_look_up
from proxy.lookup.routes import Routes
from proxy.lookup.tenants import Tenants
from proxy.wire.endpoint import Endpoint
from proxy.wire.record import NotStorable, RecordPolicy, record
from proxy.wire.request import BadRequest

REPEAT: Final = "repeat"
"""Its very words were asked before: the exact tier's."""

_SECRET: Final = b"no credential is here to be told"
_BATCH: Final = 32


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One question that is compared by meaning.

    Attributes:
        key: Its exact key, 32 bytes.
        route: Whose budget it belongs to.
        partition: Only questions of one partition are compared, 32 bytes.
        strict_partition: The same where no budget decides.
        text: What is compared.
        vector: Of `text`.
        group: Equal for answers that say the same, 16 bytes.
        answer: What was answered; empty where a label stands for it, or it is not a text.
        is_asked: False: it is stored, and nothing is looked up.
    """

    key: bytes
    route: str
    partition: bytes
    strict_partition: bytes
    text: str
    vector: Vector
    group: bytes
    answer: str
    is_asked: bool


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """What is compared of a file, and how much was asked that is not.

    Attributes:
        questions: In their order.
        left_out: How many were asked that are not compared, by reason: REPEAT, or the words of
            `ExactOnly`, `Refused`, `NotStorable` and `Bypass`.
    """

    questions: tuple[Question, ...]
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def asked(self) -> list[Question]:
        """Those for which something is looked up."""
        return [question for question in self.questions if question.is_asked]


@dataclass(frozen=True, slots=True)
class _Parted:
    """A question without its vector."""

    key: bytes
    route: str
    partition: bytes
    strict_partition: bytes
    text: str
    group: bytes
    answer: str
    is_asked: bool


def labelled_group(label: str) -> bytes:
    """Return the answer group of what people labelled so."""
    return blake2b(label.encode(), digest_size=GROUP_BYTES).digest()


class StreamReader:
    """Makes a stream of what a file says. Each text is encoded once.

    Args:
        encoder: The one that would serve.
        settings: What the proxy would be started with.
    """

    def __init__(self, encoder: Encoder, settings: Settings) -> None:
        self._encoder = encoder
        self._asks = AskReader(
            Routes(settings), Tenants(_SECRET, {}), tuple(settings.cache.key_headers)
        )
        self._policy = RecordPolicy(
            finish_reasons=frozenset(settings.cache.store_finish_reasons),
            store_refusals=settings.cache.store_refusals,
            max_bytes=settings.cache.max_entry_bytes,
        )
        self._vectors: dict[str, Vector | Refused] = {}

    def read(self, exchanges: Iterable[Exchange]) -> Stream:
        """Return the stream that `exchanges` are."""
        left_out: Counter[str] = Counter()
        seen: set[bytes] = set()
        parted = []
        for exchange in exchanges:
            known = self._parted(exchange, seen)
            if isinstance(known, _Parted):
                parted.append(known)
            else:
                left_out[known] += exchange.is_asked
        questions = []
        for one, vector in zip(parted, self.encode([one.text for one in parted]), strict=True):
            if isinstance(vector, Refused):
                left_out[vector] += one.is_asked
                continue
            questions.append(
                Question(
                    one.key,
                    one.route,
                    one.partition,
                    one.strict_partition,
                    one.text,
                    vector,
                    one.group,
                    one.answer,
                    one.is_asked,
                )
            )
        # A counter keeps what was counted zero times.
        return Stream(tuple(questions), +left_out)

    def encode(self, texts: Sequence[str]) -> list[Vector | Refused]:
        """Return for each of `texts`, in order, its vector or why it has none."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        # Of one length: short ones need not be filled up.
        missing.sort(key=len)
        for first in range(0, len(missing), _BATCH):
            some = missing[first : first + _BATCH]
            self._vectors |= zip(some, self._encoder.encode(some), strict=True)
        return [self._vectors[text] for text in texts]

    def _parted(self, exchange: Exchange, seen: set[bytes]) -> _Parted | str:
        """Return what the proxy makes of a question, or why nothing is compared."""
        request = exchange.request
        try:
            # What the client had said in header fields and in the URL is not in the file.
            ask = self._asks.read(request, orjson.dumps(request.body), [], {}, "")
            looked = may_look_up(request, ask.directives, ask.route.rules)
            if isinstance(looked, Bypass):
                return looked.reason
            key = exact_key(request, ask.scope)
            if key in seen:
                return REPEAT
            loose = question_of(request, ask.scope, is_budgeted=True)
            partition = b"" if isinstance(loose, ExactOnly) else loose.partition
            answer = self._answer(exchange, key, partition)
            if isinstance(answer, str):
                return answer
            seen.add(key)
            strict = question_of(request, ask.scope)
        except (BadRequest, Unkeyable):
            return ExactOnly.TURN
        if isinstance(loose, ExactOnly):
            return loose
        assert not isinstance(strict, ExactOnly)
        return _Parted(
            key,
            ask.route.name,
            loose.partition,
            strict.partition,
            loose.text,
            answer.group,
            answer.text,
            exchange.is_asked,
        )

    def _answer(self, exchange: Exchange, key: bytes, partition: bytes) -> Answer | str:
        """Return what of an answer is compared, or why it would not be stored."""
        if exchange.label:
            return Answer(labelled_group(exchange.label), 0.0)
        raw = exchange.response
        recording = record(Endpoint.CHAT, b"application/json", b"", raw, self._policy)
        if isinstance(recording, NotStorable):
            return recording.reason
        stored = StoredAnswer(key, 0.0, 0.0, 0.0, 0.0, Endpoint.CHAT, recording, (), (), 0.0)
        return answer_of(stored, partition)
