"""The package as a whole: public names, import cost, the error tree."""

import subprocess
import sys

import pytest

import splade_retriever
from splade_retriever import errors

HEAVY = (
    "onnxruntime",
    "onnx",
    "tokenizers",
    "huggingface_hub",
    "qdrant_client",
    "qdrant_edge",
    "langchain_core",
    "llama_index",
)


def test_importing_the_package_loads_no_heavy_dependency() -> None:
    script = "import sys, splade_retriever; print('\\n'.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not [name for name in HEAVY if name in loaded]


def test_an_unknown_public_name_is_refused_by_name() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = splade_retriever.no_such_name


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "SpladeError"])
def test_every_error_is_a_splade_error_and_a_builtin(name) -> None:
    leaf = getattr(errors, name)
    builtin = leaf.__bases__[1]
    assert leaf.__bases__[0] is errors.SpladeError
    assert builtin.__module__ == "builtins"
    assert f"{name} ({builtin.__name__})" in (errors.__doc__ or "")
    assert str(leaf("a sentence")) == "a sentence"
