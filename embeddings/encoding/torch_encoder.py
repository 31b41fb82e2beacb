"""An encoder on a GPU: sentence-transformers' own model, in torch.

Also where a model is loaded and described for its export. Imports torch, which takes seconds:
nothing imports this module before it is known to be needed.
"""

import hashlib
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
)
from transformers.utils import logging

from embeddings.encoding.description import Description, EncoderError
from embeddings.encoding.encoder import Refused, Vector
from embeddings.encoding.tokens import TokenReader, encode_tokens
from embeddings.out_of_memory import is_for_want_of_memory

Device = Literal["cpu", "cuda"]

_POOLINGS: Final = ("mean", "cls")

# Some models take 8,192 tokens or state no limit. The memory of their attention grows with the
# square, and no look-up could wait for it: 512 tokens take a small model an eighth of a second.
_MOST_WINDOW_TOKENS: Final = 512

# A GPU fills itself with thousands of tokens, and starting a run costs it more than they do. Chosen
# by that reasoning, not measured.
_RUN_COST_TOKENS: Final = 2048
_MOST_TOKENS: Final = 32_768


class Pipeline(torch.nn.Module):
    """A sentence-transformers model as a function of tensors: tokens in, vectors of length 1 out.

    Attributes:
        inputs: The names of the tensors that it takes, in order.
        description: The model.
        tokenizer_json: Its tokenizer, as `tokenizers` reads it.
    """

    def __init__(self, model: SentenceTransformer, name: str) -> None:
        super().__init__()
        self.model = model
        pooling = _pooling(model, name)
        tokenizer = model.tokenizer
        if not getattr(tokenizer, "is_fast", False) or tokenizer.pad_token_id is None:
            raise EncoderError(f"{name}: its tokenizer has no form that `tokenizers` reads")
        features = model.preprocess(["a"])
        known = ("input_ids", "attention_mask", "token_type_ids")
        self.inputs = [input_name for input_name in known if input_name in features]
        one = np.ones((1, 1), np.int64)
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        self.tokenizer_json: str = backend.to_str()
        self.description = Description(
            weights_sha256=_weights_sha256(model),
            tokenizer_sha256=hashlib.sha256(self.tokenizer_json.encode()).hexdigest(),
            pooling=pooling,
            normalisation="l2",
            precision="fp32",
            dimension=self.run(one, one).shape[1],
            window_tokens=min(model.max_seq_length or _MOST_WINDOW_TOKENS, _MOST_WINDOW_TOKENS),
            padding_id=int(tokenizer.pad_token_id),
            unknown_id=tokenizer.unk_token_id,
        )

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """Return the vectors of the texts whose tensors are given in the order of `inputs`."""
        pooled = self.model(dict(zip(self.inputs, features, strict=True)))["sentence_embedding"]
        return torch.nn.functional.normalize(pooled, dim=1)

    def run(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of texts that are tokens already, both arguments (texts, tokens).

        Raises:
            MemoryError: It found none, the GPU's included.
        """
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        vectors: NDArray[np.float32]
        try:
            with torch.inference_mode():
                tensors = [
                    torch.from_numpy(arrays[name]).to(self.model.device) for name in self.inputs
                ]
                vectors = self(*tensors).cpu().numpy()
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if is_for_want_of_memory(error):
                raise MemoryError(str(error)) from error
            raise
        return vectors


def load(location: str, name: str, device: Device) -> Pipeline:
    """Load the model at `location`, a folder or a name, onto `device`, in fp32.

    Raises:
        EncoderError: It cannot be loaded, or it is not of a kind that can be served.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise EncoderError(
            "no CUDA device can be used by the torch that is installed"
            f" ({torch.__version__}): install one built for CUDA, or set the device to cpu"
        )
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = SentenceTransformer(location, device=device)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise EncoderError(f"{name} cannot be loaded by sentence-transformers: {reason}") from error
    pipeline = Pipeline(model.float(), name)
    # The whole, not the model alone: the exporter gives all parts the mode of the outermost back.
    return pipeline.eval()


class TorchEncoder:
    """An `Encoder` over a loaded model.

    Its fingerprint is that of the same model exported: in fp32 torch computes the same numbers (its
    default for matrix products is full precision, TF32 off), so that vectors of a GPU host and of a
    CPU host may be compared.
    """

    def __init__(self, pipeline: Pipeline, scripts: frozenset[str]) -> None:
        self._pipeline = pipeline
        self._reader = TokenReader(pipeline.tokenizer_json, pipeline.description, scripts)

    @property
    def fingerprint(self) -> str:
        return self._pipeline.description.fingerprint

    @property
    def dimension(self) -> int:
        return self._pipeline.description.dimension

    @property
    def window_tokens(self) -> int:
        return self._pipeline.description.window_tokens

    def encode(self, texts: Sequence[str]) -> list[Vector | Refused]:
        return encode_tokens(
            [self._reader.read(text) for text in texts],
            self._pipeline.run,
            self._pipeline.description.padding_id,
            run_cost_tokens=_RUN_COST_TOKENS,
            most_tokens=_MOST_TOKENS,
        )


def _pooling(model: SentenceTransformer, name: str) -> str:
    """Return how `model` makes one vector of its tokens', if that is one of the ways served."""
    modules = list(model.children())
    kinds = [type(module) for module in modules]
    behind = kinds[2:-1] if kinds[-1] is Normalize else kinds[2:]
    if kinds[:2] != [Transformer, Pooling] or any(kind is not Dense for kind in behind):
        raise EncoderError(
            f"{name} is {' + '.join(kind.__name__ for kind in kinds)}; what can be served is"
            " Transformer + Pooling, with Dense and Normalize behind it or not"
        )
    pooling = str(modules[1].pooling_mode)
    if pooling not in _POOLINGS:
        raise EncoderError(f"{name} pools by {pooling}; what can be served is {_POOLINGS}")
    if model.default_prompt_name and model.prompts.get(model.default_prompt_name):
        raise EncoderError(f"{name} puts a prompt before each text, which is not supported")
    dense = [module for module in modules if isinstance(module, Dense)]
    layers = [f"dense-{type(module.activation_function).__name__}" for module in dense]
    return "+".join([pooling, *layers])


def _weights_sha256(model: SentenceTransformer) -> str:
    """Return a digest of the parameters that neither their file format nor their names change.

    Releases of the libraries rename them, and the same model comes as safetensors or not.
    """
    digests = []
    for parameter in model.parameters():
        array = parameter.detach().cpu().numpy()
        digests.append(hashlib.sha256(b"%a" % (array.shape,) + array.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
