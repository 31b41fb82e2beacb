"""GPTCache's own server, with the same encoder: a reference, run in an environment of its own.

`build/gptcache-venv/bin/python -m benchmarks.gptcache_server PORT MODEL FOLDER`

It serves what its command serves (`POST /put`, `POST /get`), with vectors in FAISS and answers in
SQLite, as its documentation recommends; only the embedding function is ours: the export that
Recollect serves, on onnxruntime, one thread.
"""

import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve on 127.0.0.1 until it is ended."""
    # Not installed in our environment: no types, and not to be imported with this module.
    import uvicorn
    from gptcache import cache  # type: ignore[import-not-found]
    from gptcache.manager import (  # type: ignore[import-not-found]
        CacheBase,
        VectorBase,
        get_data_manager,
    )
    from gptcache.processor.pre import get_prompt  # type: ignore[import-not-found]
    from gptcache.similarity_evaluation.distance import (  # type: ignore[import-not-found]
        SearchDistanceEvaluation,
    )
    from gptcache_server.server import app  # type: ignore[import-not-found]

    from embeddings.encoding.onnx_encoder import OnnxEncoder

    port, model, folder = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    encoder = OnnxEncoder(model, 1, frozenset({"Latin"}))

    def embed(text: str, **_: Any) -> object:
        [vector] = encoder.encode([text])
        return vector

    cache.init(
        pre_embedding_func=get_prompt,
        embedding_func=embed,
        data_manager=get_data_manager(
            CacheBase("sqlite", sql_url=f"sqlite:///{folder}/answers.db"),
            VectorBase(
                "faiss", dimension=encoder.dimension, index_path=str(folder / "faiss.index")
            ),
        ),
        similarity_evaluation=SearchDistanceEvaluation(),
    )
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
