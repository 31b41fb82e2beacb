"""A stream of real questions through a real Recollect with an error budget, over HTTP.

    python -m benchmarks.quality_http banking77 [--max-error 0.01] [--wording varied] [--drift]

The upstream answers each question as its intent is answered: always in the same words, or in one
of five wordings (benchmarks/wordings). Recollect starts with an empty Redis, and learns only from
what its upstream answers. Questions are asked one after another; a hit is wrong if it is another
intent's answer. With --drift all answers are others from the middle of the stream on.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from benchmarks import quality, servers
from benchmarks.quality import Asked, interval, share
from benchmarks.semantic_servers import MODELS

STREAMS: Final = {"banking77": quality.banking77, "clinc150": quality.clinc150}
_WORDINGS: Final = Path(__file__).parent / "wordings"
_EVERY: Final = 1000
_EXPORT_S: Final = 120


@dataclass(slots=True)
class Tally:
    """What came of the questions so far; `hits` are those by meaning."""

    asked: int = 0
    exact: int = 0
    hits: int = 0
    wrong: int = 0
    upstream: int = 0


class Intents:
    """An upstream that knows what each question means.

    Args:
        stream: The questions.
        wordings: For each intent several answers; None for one answer in the same words.
    """

    def __init__(self, stream: list[Asked], wordings: dict[str, list[str]] | None) -> None:
        self._intents = {asked.text: asked.answer for asked in stream}
        self._wordings = wordings
        self._chance = random.Random(1)
        self.calls = 0
        self.version = 0

    def answers(self, intent: str) -> list[str]:
        """Return every right answer."""
        known = (self._wordings or {}).get(intent)
        plain = known or [f"This is what there is to say about the matter of {intent}."]
        return [f"{text} This has changed of late." if self.version else text for text in plain]

    async def complete(self, request: web.Request) -> web.Response:
        """Answer a chat completion."""
        body = await request.json()
        self.calls += 1
        intent = self._intents[body["messages"][-1]["content"]]
        return web.json_response(
            {
                "id": f"chatcmpl-{self.calls}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": body["model"],
                "choices": [
                    {
                        "index": 0,
                        "message": {
                            "role": "assistant",
                            "content": self._chance.choice(self.answers(intent)),
                        },
                        "finish_reason": "stop",
                    }
                ],
                "usage": {"prompt_tokens": 20, "completion_tokens": 30, "total_tokens": 50},
            }
        )


async def run(
    stream: list[Asked],
    *,
    max_error: float,
    wordings: dict[str, list[str]] | None = None,
    drifts: bool = False,
    is_told: bool = False,
) -> Tally:
    """Ask all questions of `stream` in their order; return what came of them."""
    upstream = Intents(stream, wordings)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream.complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    semantic = (
        f'mode = "on"\nmodels_dir = "{MODELS}"\ndeadline_ms = 5000\n'
        f"max_error = {max_error}\ncheck_tokens_per_hour = 10000000"
    )
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="rcq-") as name:
        folder = Path(name)
        with (
            servers.redis(folder) as redis,
            servers.recollect_serve(
                folder,
                servers.Server(port, ()),
                redis,
                servers.DEFAULT_L1_BYTES,
                semantic=semantic,
            ) as serving,
        ):
            await asyncio.to_thread(servers.wait_until_ready, serving)
            await asyncio.to_thread(_wait_for_encoder, serving)
            url = f"http://127.0.0.1:{serving.port}/v1/chat/completions"
            async with aiohttp.ClientSession() as session:
                for number, asked in enumerate(stream):
                    if drifts and number == len(stream) // 2:
                        upstream.version = 2
                    await _ask(session, url, asked, upstream, tally)
                    if is_told and tally.asked % _EVERY == 0:
                        print(_line(tally), flush=True)
    await runner.cleanup()
    tally.upstream = upstream.calls
    return tally


def _wait_for_encoder(serving: servers.Serving) -> None:
    deadline = time.monotonic() + _EXPORT_S
    while "embeddings listening" not in serving.log.read_text():
        if time.monotonic() > deadline:
            raise RuntimeError("the embedding process did not start")
        time.sleep(0.05)


async def _ask(
    session: aiohttp.ClientSession, url: str, asked: Asked, upstream: Intents, tally: Tally
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": asked.text}]}
    async with session.post(url, json=body) as response:
        said: dict[str, Any] = await response.json()
        status = response.headers["cache-status"]
    tally.asked += 1
    if "detail=exact" in status:
        tally.exact += 1
    elif "detail=semantic" in status:
        tally.hits += 1
        answer = said["choices"][0]["message"]["content"]
        tally.wrong += answer not in upstream.answers(asked.answer)


def _line(tally: Tally) -> str:
    low, high = interval(tally.wrong, tally.hits)
    return (
        f"{tally.asked:,} asked: {share(tally.hits, tally.asked)} hits by meaning, "
        f"{share(tally.wrong, tally.hits)} of them wrong ({100 * low:.2f}–{100 * high:.2f} %), "
        f"{tally.exact} exact"
    )


def main() -> None:
    """Run one stream and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("stream", choices=STREAMS)
    parser.add_argument("--max-error", type=float, default=0.01)
    parser.add_argument("--wording", choices=["same", "varied"], default="same")
    parser.add_argument("--drift", action="store_true", help="other answers from the middle on")
    parser.add_argument("--order", type=int, default=0, help="number of the order drawn")
    parser.add_argument("--first", type=int, help="ask only so many")
    given = parser.parse_args()
    stream = STREAMS[given.stream]()
    random.Random(given.order).shuffle(stream)
    wordings = None
    if given.wording == "varied":
        wordings = json.loads((_WORDINGS / f"{given.stream}.json").read_text())
    tally = asyncio.run(
        run(
            stream[: given.first],
            max_error=given.max_error,
            wordings=wordings,
            drifts=given.drift,
            is_told=True,
        )
    )
    print(_line(tally), f"; {tally.upstream:,} calls upstream", sep="")


if __name__ == "__main__":
    main()
