"""What libraries say when memory is refused, and what they say else."""

import pytest

from embeddings.out_of_memory import is_for_want_of_memory


@pytest.mark.parametrize(
    ("words", "is_so"),
    [
        ("bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 12582912", True),
        ("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc", True),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.", True),
        ("CUDA out of memory. Tried to allocate 2.00 GiB.", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: an illegal memory access was encountered", True),
        ("indices element out of data bounds, idx=1000000 must be within the range", False),
        ("The size of tensor a (33) must match the size of tensor b (32)", False),
    ],
)
def test_want_of_memory_is_told_from_other_failures(words: str, is_so: bool) -> None:
    """The words are those of onnxruntime and torch; their classes do not say it."""
    assert is_for_want_of_memory(RuntimeError(words)) is is_so
