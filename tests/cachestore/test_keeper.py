"""What keeps a connection up: it tries again and again, with pauses, until it is closed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from cachestore.keeper import Keeper
from tests.proxy.fakes import VirtualTimeLoop

HELD_S = 60.0


class Attempts:
    """Connections that last as long as a test says; notes when each was begun.

    Attributes:
        begun: When, in seconds of the loop's clock.
        lasting_s: How long each is up, in order; None, and all beyond the last: it cannot be made.
    """

    def __init__(self, *lasting_s: float | None) -> None:
        self.begun: list[float] = []
        self.lasting_s = lasting_s
        self.keeper = Keeper("test", self._hold)

    async def _hold(self) -> None:
        loop = asyncio.get_running_loop()
        number = len(self.begun)
        self.begun.append(loop.time())
        lasts_s = self.lasting_s[number] if number < len(self.lasting_s) else None
        if lasts_s is None:
            self.keeper.went_down("refused")
            return
        self.keeper.came_up()
        await asyncio.sleep(lasts_s)
        self.keeper.went_down("cut")

    def pauses_s(self) -> list[float]:
        """Return the pauses between attempts."""
        lasted = [*self.lasting_s, *[None] * len(self.begun)]
        ends = [begun + (lasts or 0) for begun, lasts in zip(self.begun, lasted, strict=False)]
        return [begun - end for end, begun in zip(ends, self.begun[1:], strict=False)]


def in_virtual_time(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test whose pauses cost nothing."""

    async def run() -> None:
        await test()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run())


def test_pauses_grow_while_no_connection_can_be_made() -> None:
    """From a tenth of a second to two, each shortened by half at most."""
    attempts = Attempts()

    async def test() -> None:
        await attempts.keeper.start(20)
        await attempts.keeper.close()

    in_virtual_time(test)

    longest = (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0)
    for pause_s, most_s in zip(attempts.pauses_s(), longest, strict=False):
        assert most_s / 2 <= pause_s < most_s + 0.05


def test_pauses_begin_anew_with_a_connection_that_held() -> None:
    """One that breaks at once does not count: its other side may be flapping."""
    attempts = Attempts(None, None, None, 0.1, HELD_S, 0.1)

    async def test() -> None:
        await attempts.keeper.start(20)
        await asyncio.sleep(2 * HELD_S)
        await attempts.keeper.close()

    in_virtual_time(test)

    pauses_s = attempts.pauses_s()
    assert pauses_s[3] >= 0.4, "after the one that broke at once"
    assert pauses_s[4] < 0.15, "after the one that held"


def test_each_fault_is_told_of_once_until_it_is_up_again(caplog: pytest.LogCaptureFixture) -> None:
    """A Redis that is away for a night fills no disk."""
    attempts = Attempts(None, None, 0.1, None, None)
    caplog.set_level(logging.INFO, "recollect.redis")

    async def test() -> None:
        await attempts.keeper.start(5)
        await asyncio.sleep(30)
        await attempts.keeper.close()

    in_virtual_time(test)

    assert len(attempts.begun) > 8
    assert caplog.messages == [
        "Redis is down: refused",
        "Redis is up",
        "Redis is down: cut",
        "Redis is down: refused",
    ]
    assert attempts.keeper.down_reason == "closed"


def test_waiting_for_a_start_ends_with_the_first_connection_or_the_patience() -> None:
    """A Redis that is down keeps nobody from starting."""
    up, down = Attempts(HELD_S), Attempts()

    async def test() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await up.keeper.start(20)
        assert loop.time() - began < 5
        await down.keeper.start(20)
        assert loop.time() - began >= 20
        await up.keeper.close()
        await down.keeper.close()

    in_virtual_time(test)
