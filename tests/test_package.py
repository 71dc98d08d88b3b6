"""The package: public names, the cost of importing it, the error tree."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import splade_retriever
from splade_retriever import errors

ROOT = Path(__file__).parent.parent
HEAVY = (
    "onnxruntime",
    "onnx",
    "tokenizers",
    "huggingface_hub",
    "numpy",
    "pydantic",
    "qdrant_client",
    "qdrant_edge",
    "rich",
    "langchain_core",
    "llama_index",
)
PUBLIC = (
    "splade_retriever",
    "splade_retriever.langchain",
    "splade_retriever.llama_index",
    "splade_retriever.haystack",
)
DOCUMENTED = {
    *PUBLIC,
    "splade_retriever.distributed",
    "splade_retriever.errors",
    "splade_retriever.evaluation.tune",
    "splade_retriever.maintenance.diagnosis",
    "splade_retriever.maintenance.migrate",
    "splade_retriever.training",
}


def test_importing_the_package_loads_no_heavy_dependency() -> None:
    script = "import sys, splade_retriever; print('\\n'.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not [name for name in HEAVY if name in loaded]


def test_importing_the_package_takes_less_than_300_milliseconds() -> None:
    times = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import splade_retriever"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stderr
    (cumulative,) = re.findall(r"\|\s+(\d+) \|\s+splade_retriever$", times, re.M)
    assert int(cumulative) < 300_000


@pytest.mark.parametrize("name", PUBLIC)
def test_a_package_exports_exactly_what_all_lists(name: str) -> None:
    package = importlib.import_module(name)
    exported = list(package.__all__)
    assert len(set(exported)) == len(exported)
    assert [public for public in exported if not hasattr(package, public)] == []
    names = {
        public
        for public, value in vars(package).items()
        if not public.startswith("_") and public != "TYPE_CHECKING" and not is_submodule(value, of=name)
    }
    assert names <= set(exported)


def is_submodule(value: object, *, of: str) -> bool:
    return isinstance(value, ModuleType) and value.__name__.startswith(f"{of}.")


def test_an_unknown_public_name_is_refused_by_name() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = splade_retriever.no_such_name


def test_the_docs_import_from_public_packages_only() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.ipynb")]
    for page in pages:
        text = page.read_text("utf-8")
        imported = set(re.findall(r"\b(?:from|import) (splade_retriever[\w.]*)", text))
        assert imported <= DOCUMENTED, page.name


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "SpladeError"])
def test_every_error_is_a_splade_error_and_a_builtin(name: str) -> None:
    leaf = getattr(errors, name)
    root, *builtins = leaf.__bases__
    assert all(builtin.__module__ == "builtins" for builtin in builtins)
    if root is errors.SpladeError:
        assert builtins
        assert f"{name} ({', '.join(builtin.__name__ for builtin in builtins)})" in (errors.__doc__ or "")
    else:  # a special case of another error, which has the builtin
        assert issubclass(root, errors.SpladeError)
        assert f"└── {name} " in (errors.__doc__ or "")
    assert str(leaf("a sentence")) == "a sentence"


def test_the_program_of_a_user_runs(tmp_path: Path) -> None:
    """The types of the same program are checked by mypy here, and with the wheel by `nox -s wheel`."""
    pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
    pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")
    from tests.user_script import main

    main(tmp_path / "index")
