"""What Recollect is measured against: the least that an ASGI application can do.

`python -m benchmarks.reference_apps raw` reads the body and answers 1 KB;
`… passthrough URL` forwards to an upstream with aiohttp and streams back what comes.
Both print their port and run on uvicorn with uvloop and httptools, without access log.
"""

import sys
from typing import Any

import aiohttp
import uvicorn

from benchmarks import traffic

_CHAT_HEADERS = (b"authorization", b"content-type", b"accept")


async def _read_body(receive: Any) -> bytes:
    message = await receive()
    body: bytes = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    return body


class RawApp:
    """Read the body, answer a constant."""

    def __init__(self) -> None:
        self._body = traffic.json_answer(traffic.JSON_MODEL, 1024)
        self._headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self._body)),
        ]

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request (ASGI HTTP)."""
        await _read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body})


class PassThroughApp:
    """Forward the body, send back every piece as it comes."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request (ASGI HTTP)."""
        if self._session is None:
            # Made here, as a session belongs to the loop that is running.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
            )
        body = await _read_body(receive)
        headers = {
            name.decode(): value.decode()
            for name, value in scope["headers"]
            if name in _CHAT_HEADERS
        }
        async with self._session.post(
            self._url + scope["path"], data=body, headers=headers
        ) as answer:
            kept = [
                (name.lower(), value)
                for name, value in answer.raw_headers
                if name.lower() in (b"content-type", b"content-length")
            ]
            await send({"type": "http.response.start", "status": answer.status, "headers": kept})
            async for piece in answer.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def _main() -> None:
    match sys.argv[1:]:
        case ["raw"]:
            app: RawApp | PassThroughApp = RawApp()
        case ["passthrough", url]:
            app = PassThroughApp(url)
        case _:
            sys.exit(__doc__)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
    )
    listener = config.bind_socket()
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    _main()
