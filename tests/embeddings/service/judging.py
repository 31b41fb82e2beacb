"""A judge over a fake store, with questions that are near where they are about the same."""

import asyncio
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import numpy as np

from embeddings.decision.decision import Decision
from embeddings.decision.sample import Sample
from embeddings.encoding.encoder import Vector
from embeddings.index.vector_index import Match
from embeddings.service.judge import Judge
from embeddings.service.source import Witness
from embeddings.wire import Budgeted, LookUp
from tests.embeddings.fakes import (
    FAR_FUTURE,
    PARTITION,
    CountingObserver,
    FakeEncoder,
    FakeSource,
    FakeStore,
    key_of,
)

ROUTE: Final = "r"
MAX_ERROR: Final = 0.1
ABOUT: Final = (
    "How do I reset my password?",
    "Where can I see the menu for dinner?",
    "What do I need for my visa?",
    "Why is the heating cold at night?",
    "Who may borrow books from the library?",
    "When is the garbage collected?",
)
_DIMENSION: Final = 16


def group_of(answer: str) -> bytes:
    """Return the group of an answer's own words."""
    return blake2b(answer.encode(), digest_size=16).digest()


class Host:
    """One embedding process' judge, and clients that ask it."""

    def __init__(
        self, store: FakeStore, *, chance: float = 0.5, max_error: float = MAX_ERROR
    ) -> None:
        self.store = store
        self.encoder = FakeEncoder(_DIMENSION)
        self.source = FakeSource(store, self.encoder.fingerprint)
        self.observer = CountingObserver()
        self.chance = chance
        self.max_error = max_error
        self.now = 1000.0
        self.poison = ""
        self.judge = Judge(
            self.source,
            self._encode,
            self.observer,
            clock=lambda: self.now,
            chance=lambda: self.chance,
        )

    async def _encode(self, texts: object) -> list[Vector]:
        assert isinstance(texts, list)
        if self.poison and any(self.poison in text for text in texts):
            raise ValueError("a defect at some text")
        return [self.encoder.vector(text) for text in texts]

    def vector(self, about: int, name: object) -> Vector:
        """Return the vector of a question: near to all that are about the same."""
        vector = np.zeros(_DIMENSION, dtype=np.float32)
        vector[about] = 1.0
        noise = np.random.default_rng(int.from_bytes(key_of(name)[:4])).standard_normal(_DIMENSION)
        vector += np.float32(0.08) * noise.astype(np.float32)
        return vector / np.float32(np.linalg.norm(vector))

    def asked(
        self, name: object, about: int = 0, *, check_share: float = 0.25
    ) -> tuple[LookUp, Budgeted, list[Match]]:
        """Return what a look-up passes to the judge."""
        vector = self.vector(about, name)
        budgeted = Budgeted(key_of(name), ROUTE, self.max_error, check_share)
        matches = [
            Match(one.key, float(np.frombuffer(one.vector, "<f4") @ vector))
            for one in self.store.witnesses.values()
        ]
        matches.sort(key=lambda match: (-match.score, match.key))
        return LookUp(PARTITION, ABOUT[about], 64, budgeted), budgeted, matches[:64]

    async def ask(
        self, name: object, about: int = 0, *, check_share: float = 0.25
    ) -> tuple[Decision, bool]:
        """Ask a question about something; return what is decided, and whether it is a check."""
        look_up, budgeted, matches = self.asked(name, about, check_share=check_share)
        decided = await self.judge.judge(budgeted, look_up.text, matches)
        await settle()
        return decided

    def record(self, name: object, about: int = 0, answer: str | None = None) -> Witness:
        """Return a question's record, with the usual answer unless told otherwise."""
        said = f"All about number {about}." if answer is None else answer
        return Witness(
            key=key_of(name),
            partition=PARTITION,
            expires_at=FAR_FUTURE,
            text=ABOUT[about],
            vector=self.vector(about, name).tobytes(),
            group=group_of(said),
            words=group_of(said),
            stored_at=self.now,
            answer=said,
        )

    async def answer(self, name: object, about: int = 0, answer: str | None = None) -> None:
        """Let the upstream's answer be stored."""
        await self.store_record(self.record(name, about, answer))

    async def store_record(self, record: Witness) -> None:
        """Let a record be stored, and the process be told of it."""
        self.store.witnesses[record.key] = record
        self.judge.changed([record.key])
        await settle()

    async def teach(self, rounds: int = 20) -> None:
        """Ask and answer until the route serves."""
        for number in range(rounds):
            for about in range(len(ABOUT)):
                self.now += 1
                name = f"lesson {number} about {about}"
                decision, is_check = await self.ask(name, about)
                if not decision.would_serve or is_check or not self.observer.is_serving[ROUTE]:
                    await self.answer(name, about)
                    await self.has_taken_up_all()
        assert self.observer.is_serving[ROUTE]

    async def has_taken_up_all(self) -> None:
        """Wait until this host knows all that was learned."""
        own = [name for name, _, _ in self.store.samples if name]
        await until(lambda: self.judge.states()[ROUTE]["samples"] >= len(own), every_s=0.0)

    @property
    def samples(self) -> list[Sample]:
        """What was learned, by whomever."""
        return [Sample.from_bytes(raw) for name, _, raw in self.store.samples if name]


async def settle() -> None:
    """Let all run that can run without time passing."""
    for _ in range(30):
        await asyncio.sleep(0)


async def until(is_so: Callable[[], bool], every_s: float = 0.01) -> None:
    """Wait until something is so, for at most 5 s."""
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(every_s)
