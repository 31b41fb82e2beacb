"""The proxy's own errors, in OpenAI's envelope.

An upstream's error never comes here: it passes unchanged, byte for byte.
"""

from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """One refusal or failure of the proxy itself.

    Attributes:
        status: HTTP status code.
        message: What is wrong, for the developer who reads it; never holds a prompt.
        code: One word to program against.
        param: The request's field it is about.
        headers: Header fields that its status asks for.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def content(self) -> bytes:
        """Return the envelope: `{"error": {"message", "type", "param", "code"}}`."""
        kind = "invalid_request_error" if self.status < 500 else "api_error"
        return orjson.dumps(
            {
                "error": {
                    "message": self.message,
                    "type": kind,
                    "param": self.param,
                    "code": self.code,
                }
            }
        )
