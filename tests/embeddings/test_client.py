"""A worker's client: an answer or an error within the deadline, whatever the process does.

How long a slow machine takes for a look-up is no subject here. Where the deadline is none either it
is long; where it is one, what counts is what comes first: the end of the look-up, or a timer set
for a little later. The breaker's clock stands still unless a test moves it.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from embeddings.client import EmbeddingClient, EmbeddingsUnavailable
from embeddings.service.http_server import Server, serve
from embeddings.wire import Feedback, LookUp
from tests.embeddings.fake_service import FakeService, found_for

_ROOT = Path(__file__).parents[2]
_LONG_S = 30.0
"""A deadline that nobody reaches: a test takes no longer than 60 s."""
_SHORT_S = 0.1
"""A deadline that is to be reached."""
_FAIR_S = 1.0
"""One that is to be reached by what never answers, and by nothing that does."""
_KEYS = [bytes([number]) * 32 for number in range(5)]


def question(text: str) -> LookUp:
    return LookUp(b"p" * 32, text, 3)


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def turns_of_the_loop() -> None:
    """Let run what has become ready, and what that makes ready."""
    for _ in range(30):
        await asyncio.sleep(0)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what is bound to come."""
    while not is_so():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def kind_of_failure(
    client: EmbeddingClient,
    text: str = "hello",
    deadline_s: float = _LONG_S,
    *,
    is_clients: bool = True,
) -> str:
    """Look up, and return how that failed; it must have done so within the deadline.

    A timer of the same loop says so: were the loop held up, it would be so as well. The deadline is
    the client's, or else one that the look-up is given.
    """
    end = None if is_clients else asyncio.get_running_loop().time() + deadline_s
    asking = asyncio.create_task(client.look_up(question(text), end))
    timer = asyncio.create_task(asyncio.sleep(deadline_s + 0.02))
    await asyncio.wait({asking, timer}, return_when=asyncio.FIRST_COMPLETED)
    await turns_of_the_loop()
    assert asking.done()
    timer.cancel()
    with pytest.raises(EmbeddingsUnavailable) as caught:
        await asking
    return caught.value.kind


class States:
    """What the client told of its breaker."""

    def __init__(self) -> None:
        self.told: list[bool] = []

    def __call__(self, is_up: bool, reason: str) -> None:
        assert bool(reason) is not is_up
        self.told.append(is_up)


@pytest.fixture
def states() -> States:
    return States()


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix://{tmp_path}/e.sock"


@pytest.fixture
def clock() -> Clock:
    return Clock()


Clients = Callable[[float], EmbeddingClient]


@pytest.fixture
async def clients(address: str, states: States, clock: Clock) -> AsyncIterator[Clients]:
    """Make clients with the deadline that the test wants."""
    made: list[EmbeddingClient] = []

    def make(deadline_s: float) -> EmbeddingClient:
        made.append(EmbeddingClient(address, None, deadline_s, states, clock))
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest.fixture
def client(clients: Clients) -> EmbeddingClient:
    """A client that has the time it needs."""
    return clients(_LONG_S)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


async def serving(service: FakeService, address: str) -> Server:
    return await serve(lambda: service, address, None, bytes, lambda: True)


@pytest.fixture
async def server(service: FakeService, address: str) -> AsyncIterator[Server]:
    server = await serving(service, address)
    yield server
    service.may_end.set()
    await server.close()


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def bad_server(address: str, behaviour: Behaviour) -> AsyncIterator[list[int]]:
    """A server that does as told once a request has come; yields a list of its connections."""
    connections: list[int] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(len(connections))
        try:
            await reader.readuntil(b"\r\n\r\n")
            await behaviour(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve_one(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_unix_server(begin, address.removeprefix("unix://"))
    yield connections
    server.close()
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def answer(content: bytes, *, length: int | None = None, status: bytes = b"200 OK") -> bytes:
    """Return an HTTP answer."""
    length = len(content) if length is None else length
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, length, content)


_GOOD = found_for("hello").to_bytes()


async def test_look_ups_are_answered_on_one_connection(
    client: EmbeddingClient, server: Server, service: FakeService, states: States
) -> None:
    """Nothing is connected twice while one connection is free."""
    for number in range(20):
        assert await client.look_up(question(f"text {number}")) == found_for(f"text {number}")

    assert len(server._connections) == 1
    assert states.told == []


async def test_each_gets_its_own_answer(client: EmbeddingClient, server: Server) -> None:
    """Many at once, each on its own connection; and the connections are used again."""
    for _ in range(3):
        texts = [f"text {number}" for number in range(60)]
        found = await asyncio.gather(*(client.look_up(question(text)) for text in texts))
        assert found == [found_for(text) for text in texts]

    assert len(server._connections) == 60


async def test_a_refusal_is_an_answer(client: EmbeddingClient, server: Server) -> None:
    """A text without a vector is no failure of the process."""
    assert (await client.look_up(question("refused"))).refused == "script"


async def test_more_than_the_bound_at_once_is_busy(
    client: EmbeddingClient, server: Server, states: States
) -> None:
    """What would only wait goes on without an answer at once; the breaker does not mind."""
    waiting = [asyncio.create_task(client.look_up(question("wait"))) for _ in range(64)]
    await asyncio.sleep(0)

    assert await kind_of_failure(client) == "busy"
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert await client.look_up(question("hello")) == found_for("hello")
    assert states.told == []


async def test_busy_never_opens_the_breaker(
    client: EmbeddingClient, server: Server, states: States
) -> None:
    """A full queue is a sign of life: the next text may have its turn."""
    for _ in range(10):
        assert await kind_of_failure(client, "busy") == "busy"

    assert await client.look_up(question("hello")) == found_for("hello")
    assert states.told == []


@pytest.mark.parametrize(
    ("text", "kind"), [("index down", "down"), ("defect", "protocol"), ("\ud800", "protocol")]
)
async def test_an_error_is_told_by_its_kind(
    client: EmbeddingClient, server: Server, text: str, kind: str
) -> None:
    """Whatever it is, it is an EmbeddingsUnavailable: a miss."""
    assert await kind_of_failure(client, text) == kind


async def test_a_late_answer_is_never_taken_for_anothers(
    clients: Clients, server: Server, service: FakeService
) -> None:
    """Past the deadline, or when the caller leaves, the connection goes with the request."""
    client = clients(_FAIR_S)
    assert await kind_of_failure(client, "wait", _FAIR_S) == "deadline"
    service.has_begun.clear()
    left = asyncio.create_task(client.look_up(question("wait")))
    await service.has_begun.wait()
    left.cancel()
    await asyncio.wait([left])
    service.may_end.set()

    for number in range(5):
        assert await client.look_up(question(f"text {number}")) == found_for(f"text {number}")
    assert len(server._connections) == 1


async def test_a_look_up_ends_when_the_time_it_was_left_is_over(
    clients: Clients, server: Server
) -> None:
    """The caller's deadline began before; more than the client's own is not to be had."""
    unhurried, hurried = clients(_LONG_S), clients(_SHORT_S)

    assert await kind_of_failure(unhurried, "wait", _SHORT_S, is_clients=False) == "deadline"
    end = asyncio.get_running_loop().time() + _LONG_S
    with pytest.raises(EmbeddingsUnavailable, match="within 100 ms"):
        await hurried.look_up(question("wait"), end)


async def test_who_has_no_time_left_does_not_even_ask(
    client: EmbeddingClient, server: Server, service: FakeService, states: States
) -> None:
    """It would be for nothing, and end a connection that is of use to others."""
    assert await client.look_up(question("hello")) == found_for("hello")
    connections = set(server._connections)

    for _ in range(3):
        assert await kind_of_failure(client, "wait", 0.0, is_clients=False) == "deadline"

    assert not service.has_begun.is_set()
    assert await client.look_up(question("hello")) == found_for("hello")
    assert set(server._connections) == connections
    assert states.told == []


@pytest.mark.parametrize(("share", "told"), [(0.1, []), (0.9, [False])])
async def test_a_process_is_blamed_only_if_it_was_given_time(
    clients: Clients, server: Server, states: States, share: float, told: list[bool]
) -> None:
    """Where another has spent most of the deadline, no answer says nothing of the process."""
    client = clients(_FAIR_S)
    left_s = share * _FAIR_S

    kinds = await asyncio.gather(
        *(kind_of_failure(client, "wait", left_s, is_clients=False) for _ in range(3))
    )

    assert kinds == ["deadline"] * 3
    assert states.told == told


async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in answer(_GOOD):
        writer.write(bytes([byte]))
        await asyncio.sleep(0.01)


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4000000000\r\n\r\n")
    while True:
        writer.write(bytes(65536))
        await writer.drain()


async def endless_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        writer.write(b"y" * 65536)
        await writer.drain()


def says(raw: bytes, *, is_last: bool = True) -> Behaviour:
    """Return: write `raw`, and close or wait."""

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        if is_last:
            writer.close()
            await writer.wait_closed()
        else:
            await asyncio.Event().wait()

    return behaviour


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (nothing, "deadline"),
        (dribble, "deadline"),
        (endless, "protocol"),
        (endless_head, "protocol"),
        (says(b""), "down"),
        (says(answer(_GOOD)[:-1]), "down"),
        (says(b"HTTP/1.1 200 OK\r\n"), "down"),
        (says(answer(_GOOD, length=len(_GOOD) + 1), is_last=False), "deadline"),
        (says(answer(_GOOD, length=len(_GOOD) - 4), is_last=False), "protocol"),
        (says(answer(_GOOD) * 2, is_last=False), "protocol"),
        (says(answer(_GOOD[:-1])), "protocol"),
        (says(answer(b"")), "protocol"),
        (says(b"\x00\x01\x02\x03", is_last=False), "protocol"),
        (says(b"-ERR unknown command\r\n", is_last=False), "protocol"),
        (says(answer(_GOOD, status=b"404 Not Found")), "protocol"),
        (says(answer(b"{}", status=b"503 Service Unavailable")), "protocol"),
        (says(b"HTTP/1.1 204 No Content\r\n\r\n"), "protocol"),
        (says(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(_GOOD), is_last=False), "protocol"),
        (says(b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), "protocol"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_nonsense_and_silence_end_within_the_deadline(
    clients: Clients, address: str, behaviour: Behaviour, kind: str, states: States
) -> None:
    """Three of these in a row, each on a new connection, and nobody asks any more.

    What can be known for nonsense is so at once, long before the deadline.
    """
    deadline_s = _SHORT_S if kind == "deadline" else _LONG_S
    client = clients(deadline_s)
    async with bad_server(address, behaviour) as connections:
        for _ in range(3):
            assert await kind_of_failure(client, deadline_s=deadline_s) == kind

        await until(lambda: len(connections) >= 3)
        assert len(connections) == 3
        assert states.told == [False]
        assert await kind_of_failure(client) == "open"
        assert len(connections) == 3


async def test_what_comes_unasked_ends_the_connection(
    client: EmbeddingClient, address: str
) -> None:
    """Bytes behind an answer would be taken for the next one's."""
    came, ended = asyncio.Event(), asyncio.Event()

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(_GOOD))
        await came.wait()
        came.clear()
        writer.write(b"more")
        try:
            await reader.readuntil(b"\r\n\r\n")
        finally:
            ended.set()

    async with bad_server(address, behaviour) as connections:
        assert await client.look_up(question("hello")) == found_for("hello")
        came.set()
        await ended.wait()
        assert await client.look_up(question("hello")) == found_for("hello")
        assert len(connections) == 2


async def test_a_connection_closed_while_it_was_idle_is_no_failure(
    client: EmbeddingClient, address: str, states: States
) -> None:
    """The process may close an idle connection in the moment in which it is used: one more try."""

    async def behaviour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(_GOOD))
        # Closes when the second request has come.
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"}")

    async with bad_server(address, behaviour) as connections:
        for _ in range(5):
            assert await client.look_up(question("hello")) == found_for("hello")
        assert len(connections) == 5
        assert states.told == []


async def test_nobody_there_is_down(client: EmbeddingClient, states: States) -> None:
    """No socket: the process has not been started, or has ended."""
    assert [await kind_of_failure(client) for _ in range(4)] == ["down", "down", "down", "open"]
    assert states.told == [False]


async def test_the_breaker_tries_again_and_closes(
    client: EmbeddingClient, address: str, service: FakeService, states: States, clock: Clock
) -> None:
    """One look-up at a time tries; a failure keeps it open for longer, a success closes it."""
    for _ in range(3):
        await kind_of_failure(client)
    assert await kind_of_failure(client) == "open"
    clock.now_s += 0.5
    assert await kind_of_failure(client) == "down"  # the trial
    clock.now_s += 0.5
    assert await kind_of_failure(client) == "open"  # for twice as long now
    server = await serving(service, address)
    clock.now_s += 0.5

    outcomes = await asyncio.gather(
        *(client.look_up(question("hello")) for _ in range(10)), return_exceptions=True
    )

    assert outcomes[0] == found_for("hello")
    assert [getattr(outcome, "kind", None) for outcome in outcomes[1:]] == ["open"] * 9
    assert await client.look_up(question("hello")) == found_for("hello")
    assert states.told == [False, True]
    await server.close()


async def test_a_trial_whose_caller_leaves_is_left_to_another(
    client: EmbeddingClient, address: str, service: FakeService, clock: Clock
) -> None:
    """Else the breaker would stay open for ever."""
    for _ in range(3):
        await kind_of_failure(client)
    server = await serving(service, address)
    clock.now_s += 0.5
    trial = asyncio.create_task(client.look_up(question("wait")))
    await service.has_begun.wait()

    trial.cancel()
    await asyncio.wait([trial])

    assert await client.look_up(question("hello")) == found_for("hello")
    await server.close()


async def test_a_pause_of_our_own_does_not_open_the_breaker(
    clients: Clients, server: Server, states: States, clock: Clock
) -> None:
    """When the worker's event loop stood still, an overdue answer says nothing of the process."""
    client = clients(_SHORT_S)
    waiting = [asyncio.create_task(client.look_up(question("wait"))) for _ in range(5)]
    await asyncio.sleep(0)  # all have begun
    clock.now_s += _SHORT_S + 0.1
    time.sleep(_SHORT_S + 0.1)  # noqa: ASYNC251  it is this that is tested

    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert [getattr(outcome, "kind", None) for outcome in outcomes] == ["deadline"] * 5
    assert states.told == []


class Process:
    """The fake service as a process of its own, to be stopped and killed."""

    def __init__(self, address: str, *token: str) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.embeddings.fake_service", address, *token],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._popen.stdout is not None
        self.address = self._popen.stdout.readline().strip()

    def signal(self, number: int) -> None:
        """Send a signal; SIGKILL is waited for."""
        os.kill(self._popen.pid, number)
        if number == signal.SIGKILL:
            self._popen.wait()

    def close(self) -> None:
        """End it."""
        self._popen.kill()
        self._popen.wait()
        assert self._popen.stdout is not None
        self._popen.stdout.close()


@pytest.fixture
def process(address: str) -> Iterator[Process]:
    process = Process(address)
    yield process
    process.close()


async def test_a_stopped_process_holds_nobody_up(
    process: Process, clients: Clients, states: States, clock: Clock
) -> None:
    """SIGSTOP: the kernel still accepts connections and bytes, and nobody answers."""
    client = clients(_FAIR_S)
    assert await client.look_up(question("hello")) == found_for("hello")
    process.signal(signal.SIGSTOP)

    kinds = [await kind_of_failure(client, deadline_s=_FAIR_S) for _ in range(3)]
    assert kinds == ["deadline"] * 3
    assert await asyncio.gather(*(kind_of_failure(client) for _ in range(20))) == ["open"] * 20
    assert states.told == [False]

    process.signal(signal.SIGCONT)
    clock.now_s += 0.5
    assert await client.look_up(question("again")) == found_for("again")
    assert states.told == [False, True]


async def test_a_stopped_process_holds_nobody_up_when_all_come_at_once(
    process: Process, clients: Clients
) -> None:
    """More look-ups than connections, and more connections than the socket's queue takes."""
    process.signal(signal.SIGSTOP)
    waiting = [
        asyncio.create_task(client.look_up(question("hello")))
        for client in [clients(_SHORT_S) for _ in range(20)]
        for _ in range(80)
    ]
    await asyncio.sleep(0)  # all have begun

    await asyncio.sleep(_SHORT_S + 0.02)
    await turns_of_the_loop()

    assert all(task.done() for task in waiting)
    assert all(isinstance(task.exception(), EmbeddingsUnavailable) for task in waiting)


async def test_a_killed_process_fails_what_waits_at_once(
    process: Process, client: EmbeddingClient, address: str
) -> None:
    """The kernel tells; nobody waits for the deadline. A new process is found by itself."""
    assert await client.look_up(question("hello")) == found_for("hello")
    waiting = [asyncio.create_task(client.look_up(question("wait"))) for _ in range(2)]
    await asyncio.sleep(0.05)  # they have been asked; if not yet, it is the same to them

    process.signal(signal.SIGKILL)

    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [getattr(outcome, "kind", None) for outcome in outcomes] == ["down"] * 2
    new = Process(address)
    assert await client.look_up(question("hello")) == found_for("hello")
    new.close()


async def test_over_tcp_the_token_is_shown(states: States) -> None:
    """With the token an answer, without it "protocol"."""
    process = Process("http://127.0.0.1:0", "secret")
    for token, is_answered in (("secret", True), ("wrong", False), (None, False)):
        client = EmbeddingClient(process.address, token, _LONG_S)
        if is_answered:
            assert await client.look_up(question("hello")) == found_for("hello")
        else:
            with pytest.raises(EmbeddingsUnavailable) as caught:
                await client.look_up(question("hello"))
            assert caught.value.kind == "protocol"
        await client.close()
    process.close()


async def test_a_host_that_drops_packets_holds_nobody_up(clock: Clock) -> None:
    """Over TCP a connect may hang too: a full accept queue drops what comes."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        address = f"http://127.0.0.1:{port}"
        client = EmbeddingClient(address, "secret", _SHORT_S, clock=clock)
        kinds = [await kind_of_failure(client, deadline_s=_SHORT_S) for _ in range(4)]
        assert kinds == ["deadline"] * 3 + ["open"]
        await client.close()
        for filler in fillers:
            filler.close()


async def test_hints_are_gathered(
    client: EmbeddingClient, server: Server, service: FakeService
) -> None:
    """Keys of one moment leave in one message, each once, in order."""
    client.add_soon(_KEYS[:2])
    client.add_soon(_KEYS[1:4])
    await service.was_hinted.wait()
    service.was_hinted.clear()
    client.remove_soon(_KEYS[4:])
    await service.was_hinted.wait()

    assert service.refreshed == [_KEYS[:4]]
    assert service.forgotten == [_KEYS[4:]]


async def test_hints_are_dropped_when_nobody_is_there(
    client: EmbeddingClient, address: str, service: FakeService, clock: Clock
) -> None:
    """The log brings them anyway; nothing piles up, nothing is thrown, and later ones arrive."""
    client.add_soon(_KEYS[:1])
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})  # it has been sent
    for _ in range(3):
        await kind_of_failure(client)
    client.add_soon(_KEYS[1:2])
    server = await serving(service, address)
    clock.now_s += 0.5
    assert await client.look_up(question("hello")) == found_for("hello")
    client.add_soon(_KEYS[2:3])
    await service.was_hinted.wait()

    assert service.refreshed == [_KEYS[2:3]]
    await server.close()


async def test_hints_do_not_pile_up(
    client: EmbeddingClient, server: Server, service: FakeService
) -> None:
    """At most one message's worth waits."""
    for first in range(100):
        client.add_soon([bytes([first, number]) * 16 for number in range(100)])
    await service.was_hinted.wait()

    assert [len(keys) for keys in service.refreshed] == [4000]


async def test_closing_fails_what_waits(
    client: EmbeddingClient, server: Server, service: FakeService
) -> None:
    """And what comes later, without connecting again."""
    waiting = asyncio.create_task(client.look_up(question("wait")))
    await service.has_begun.wait()
    client.add_soon(_KEYS)
    await asyncio.sleep(0)

    await client.close()

    with pytest.raises(EmbeddingsUnavailable, match="down"):
        await waiting
    assert await kind_of_failure(client) == "down"
    client.add_soon(_KEYS)


@pytest.mark.parametrize("token", ["a\nb", "é", "a\rb"])
def test_a_token_that_cannot_be_sent_is_refused(token: str) -> None:
    """It would end the header field, or be another token for the server."""
    with pytest.raises(ValueError, match="token"):
        EmbeddingClient("http://localhost:1", token, 1.0)


def test_the_client_is_light() -> None:
    """Workers import it: they start in a second and stay under 100 MB."""
    heavy = ("numpy", "faiss", "onnxruntime", "tokenizers", "torch", "sentence_transformers")
    code = f"""
import sys
import embeddings.client
sys.exit(bool(set({heavy!r}) & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=_ROOT, check=False).returncode == 0


async def test_what_operators_ask_and_tell_is_answered(
    client: EmbeddingClient, server: Server, service: FakeService
) -> None:
    """Explanations, feedback, statistics."""
    good, bad = Feedback(_KEYS[0], None, True), Feedback(_KEYS[1], _KEYS[2], False)

    assert await client.explain(question("why?")) == {"verdict": "why?"}
    assert not await client.feedback(good)
    assert await client.feedback(bad)
    assert await client.stats() == {"vectors": {"flat": 1}}
    assert service.feedback == [good, bad]


async def test_operators_are_told_that_nobody_answers(client: EmbeddingClient) -> None:
    """No process listens."""
    for asking in (
        client.explain(question("why?")),
        client.feedback(Feedback(_KEYS[0], None, True)),
        client.stats(),
    ):
        with pytest.raises(EmbeddingsUnavailable) as caught:
            await asking
        assert caught.value.kind == "down"


async def test_operators_are_told_that_the_store_is_away(
    client: EmbeddingClient, server: Server, service: FakeService
) -> None:
    """What was told may not have been taken up."""
    service.is_store_down = True

    with pytest.raises(EmbeddingsUnavailable):
        await client.feedback(Feedback(_KEYS[0], None, False))
    with pytest.raises(EmbeddingsUnavailable):
        await client.explain(question("why?"))
