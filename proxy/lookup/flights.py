"""The flights of one worker: where requests with one key find the one that is under way."""

from collections.abc import Coroutine
from typing import Any

from proxy.lookup.single_flight import Flight, Landed


class Flights:
    """The flights of one worker, by key.

    Args:
        max_bytes: The largest content kept for those who join late.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._by_key: dict[bytes, Flight] = {}
        self._running: set[Flight] = set()

    def get(self, board_key: bytes) -> Flight | None:
        """Return the flight under way, unless it can no longer be joined."""
        flight = self._by_key.get(board_key)
        if flight is None or flight.is_oversize or flight.is_deserted:
            return None
        if isinstance(flight.landed, Landed):
            return None
        return flight

    def open(
        self, key: bytes, form: object, board_key: bytes | None, *, failures: int = 0
    ) -> Flight:
        """Return a new flight.

        Args:
            key: The exact key.
            form: See `Flight`.
            board_key: Under which others find it; None: nobody is to.
            failures: See `Flight`.
        """
        flight = Flight(key, form, self._max_bytes)
        flight.failures = failures
        flight.board_key = board_key
        if board_key is not None:
            self._by_key[board_key] = flight
        return flight

    def run(self, flight: Flight, fetching: Coroutine[Any, Any, None]) -> None:
        """Start a flight's fetching task. When that ends, the flight goes off the board."""
        self._running.add(flight)
        flight.run(fetching).add_done_callback(lambda _: self._close(flight))

    def _close(self, flight: Flight) -> None:
        self._running.discard(flight)
        if flight.board_key is not None and self._by_key.get(flight.board_key) is flight:
            del self._by_key[flight.board_key]

    async def stop(self) -> None:
        """Cancel what still comes, and wait for what only has to be stored."""
        for flight in list(self._running):
            await flight.settled_or_cancelled()
