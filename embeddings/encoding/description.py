"""What is known of an encoder's model without running it."""

import hashlib
import json
from dataclasses import asdict, dataclass


class EncoderError(Exception):
    """There is no encoder as asked for. The message says what is wrong and what would be right."""


@dataclass(frozen=True, slots=True)
class Description:
    """What decides the numbers in a model's vectors, and what is needed to feed it.

    Attributes:
        weights_sha256: Over all parameters, however they are stored.
        tokenizer_sha256: Over the tokenizer's JSON.
        pooling: How token vectors become one: "mean" or "cls", and the layers behind it.
        normalisation: "l2": every vector has length 1.
        precision: "fp32".
        dimension: Numbers in a vector.
        window_tokens: The most tokens of a text, special ones included.
        padding_id: The token that fills up shorter texts.
        unknown_id: The token for what is not in the vocabulary; None if everything is.
    """

    weights_sha256: str
    tokenizer_sha256: str
    pooling: str
    normalisation: str
    precision: str
    dimension: int
    window_tokens: int
    padding_id: int
    unknown_id: int | None

    @property
    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits that differ wherever two encoders' vectors do.

        What runs the model is not in it: onnxruntime on a CPU and torch on a GPU compute the same
        numbers, up to rounding, as long as both do so in `precision`.
        """
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
