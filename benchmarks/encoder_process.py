"""The encoder by itself, in a process of its own: what the semantic tier is compared with.

`python -m benchmarks.encoder_process FOLDER` opens the default encoder on one thread, exported to
FOLDER; it answers each line of JSON on standard input with one on standard output.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from embeddings.encoding.encoder import Encoder
from embeddings.encoding.models import DEFAULT_MODEL, open_encoder

_BATCH_TEXTS = 32


def _encode_s(encoder: Encoder, text: str) -> float:
    began = time.perf_counter()
    encoder.encode([text])
    return time.perf_counter() - began


def _batched_cpu_s(encoder: Encoder, texts: Sequence[str]) -> float:
    began = time.process_time()
    for start in range(0, len(texts), _BATCH_TEXTS):
        encoder.encode(texts[start : start + _BATCH_TEXTS])
    return time.process_time() - began


def main() -> None:
    """Answer until standard input ends."""
    encoder = open_encoder(DEFAULT_MODEL, Path(sys.argv[1]), device="cpu", threads=1)
    answers: dict[str, Callable[[Any], object]] = {
        "encode_s": lambda text: _encode_s(encoder, text),
        "batched_cpu_s": lambda texts: _batched_cpu_s(encoder, texts),
        "fingerprint": lambda _: encoder.fingerprint,
    }
    print(json.dumps("open"), flush=True)
    for line in sys.stdin:
        what, argument = json.loads(line)
        print(json.dumps(answers[what](argument)), flush=True)


if __name__ == "__main__":
    main()
