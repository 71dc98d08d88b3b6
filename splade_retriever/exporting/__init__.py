"""Export a SPLADE model of PyTorch to a folder that this package opens. Needs the extra `export`.

export_model   write the folder, after its weights were compared with PyTorch's
ExportReport   what was written, and how far its weights are from PyTorch's
"""

from splade_retriever.errors import MissingExtraError

try:
    import sentence_transformers  # noqa: F401 - imported here to report its absence in one place
    import torch  # noqa: F401
    import transformers  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f"splade_retriever.exporting needs {error.name}, which is not installed. Run: "
        'pip install "splade-retriever[export]"'
    ) from error

from splade_retriever.exporting.export import ExportReport, export_model

__all__ = ["ExportReport", "export_model"]
