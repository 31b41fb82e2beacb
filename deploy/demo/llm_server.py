"""A small real language model behind llama.cpp's OpenAI-compatible server, on loopback.

    python deploy/demo/llm_server.py --port 8090

Serves chat, completions, responses, embeddings, Anthropic's messages, `/metrics` and
`/slots` until SIGINT or SIGTERM. Its one line on standard output is the server's address,
written once it answers; llama.cpp's own log goes to standard error.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import xllamacpp

from demo_model import MODEL_NAME, ModelError, demo_folder, prepare

SLOTS = 2
"""Requests decoded together; more wait."""

CONTEXT_TOKENS_PER_SLOT = 4096

THREADS = 1
"""Two threads that share busy cores wait for each other: decoding gets 5 to 13 times dearer."""

PROMPT_CACHE_MIB = 256
"""For the attention state of earlier prompts; llama.cpp would take up to 8 GiB."""


def main() -> None:
    """Serve until a signal says to end."""
    arguments = _arguments()
    try:
        model = arguments.model or prepare(demo_folder(), _say)
    except ModelError as error:
        sys.exit(str(error))
    # Blocked before llama.cpp starts its threads, which inherit that: so the signal waits for
    # the main thread to ask for it, and no handler runs in the midst of C++ code.
    awaited = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        server = xllamacpp.Server(parameters(model, arguments.host, arguments.port))
    except RuntimeError as error:
        sys.exit(f"The model server did not start on {arguments.host}:{arguments.port}: {error}")
    print(server.listening_address, flush=True)
    signal.sigwait(awaited)
    # Leaves the model's memory to the kernel: its destructors would wait for running requests.
    os._exit(0)


def parameters(model: Path, host: str, port: int) -> xllamacpp.CommonParams:
    """Return llama.cpp's settings for the demo.

    Args:
        model: A GGUF file.
        host: A numeric address or a name of this machine.
        port: 0 lets the kernel choose.
    """
    chosen = xllamacpp.CommonParams()
    chosen.model.path = str(model)
    chosen.model_alias = {MODEL_NAME}
    chosen.hostnames = [host]
    chosen.port = port
    chosen.offline = True
    chosen.ui = False
    chosen.n_parallel = SLOTS
    chosen.n_ctx = SLOTS * CONTEXT_TOKENS_PER_SLOT
    chosen.cont_batching = True
    chosen.cache_ram_mib = PROMPT_CACHE_MIB
    chosen.cpuparams.n_threads = THREADS
    chosen.cpuparams_batch.n_threads = THREADS
    chosen.use_jinja = True
    chosen.endpoint_metrics = True
    chosen.endpoint_slots = True
    # The same context answers chats and gives embeddings, as long as these are pooled.
    chosen.embedding = True
    chosen.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return chosen


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve the demo's language model.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0, the default: any free port")
    parser.add_argument("--model", type=Path, help="a GGUF file; default: the demo's own")
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
