"""The endpoints whose answers are cached, and the two forms such an answer comes in."""

from enum import StrEnum


class Endpoint(StrEnum):
    """A cacheable endpoint. Its value is the word in keys, metric labels and logs."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"


class Form(StrEnum):
    """How an answer travels: one JSON document, or a stream of server-sent events."""

    JSON = "json"
    SSE = "sse"
