"""Adapt the bundled model to your texts, without labels. Needs the extra `train`.

Corpus         pairs to learn from and headings to measure with, made from a folder
adapt          train the model on a corpus and write the new model folder
measure        compare models and BM25 on the held-out files
load_model     the bundled model in PyTorch
"""

from splade_retriever.errors import MissingExtraError

try:
    import torch  # noqa: F401 - imported here to report its absence in one place
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "splade_retriever.training needs PyTorch, which is not installed. Run: "
        'pip install "splade-retriever[train]"'
    ) from error

from splade_retriever.training.adaptation import AdaptSettings, adapt
from splade_retriever.training.corpus import Corpus, Pair
from splade_retriever.training.load_model import bundled_folder, load_model
from splade_retriever.training.quality import measure, quality_table

__all__ = [
    "AdaptSettings",
    "Corpus",
    "Pair",
    "adapt",
    "bundled_folder",
    "load_model",
    "measure",
    "quality_table",
]
