"""The adapter's imports where a framework package is not installed."""

import pytest

from tests.python_process import run_python


def run_without(package: str, code: str) -> str:
    """Run code where a package cannot be imported, and return the last line that it prints."""
    script = f"import sys; sys.modules[{package!r}] = None\n{code}"
    done = run_python(script)
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def test_without_langchain_core_the_extra_is_named() -> None:
    report = run_without("langchain_core", "import splade_retriever.langchain")

    assert "MissingExtraError" in report
    assert 'pip install "splade-retriever[langchain]"' in report


def test_only_sparse_embeddings_need_langchain_qdrant() -> None:
    everything = "from splade_retriever.langchain import SpladeRetriever, SpladeVectorStore, SpladeReranker"
    sparse = "from splade_retriever.langchain import SpladeSparseEmbeddings"

    assert run_without("langchain_qdrant", f"{everything}\nprint('fine')") == "fine"
    assert 'pip install "splade-retriever[langchain]"' in run_without("langchain_qdrant", sparse)


def test_an_unknown_name_of_the_adapter_is_refused_by_name() -> None:
    from splade_retriever import langchain

    with pytest.raises(AttributeError, match="SpladeRetreiver"):
        _ = langchain.SpladeRetreiver
