"""Model cards: the description of each model, known before any of its files is opened."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, get_args

from splade_retriever.errors import InputError, UnknownModelError
from splade_retriever.validation import plain, text_fault

__all__ = ["Activation", "Catalogue", "ModelCard", "Precision", "QuerySide", "published"]

Activation = Literal["log1p", "log1p_log1p"]
"""log1p: log(1 + relu(x)). log1p_log1p: log(1 + log(1 + relu(x))). The wrong one silently ruins ranking."""

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: Final = get_args(Precision)

QuerySide = Literal["symmetric", "idf", "ones"]
"""symmetric: queries go through the network, as documents do. idf: each token of a query has a weight from a
table. ones: each token weighs 1.0."""

_NON_COMMERCIAL: Final = "-nc"
_ALIASES: Final = {"prithvida/splade_pp_en_v1": "prithivida/splade_pp_en_v1"}
"""Other names of models that programs use: FastEmbed has listed its first model with this spelling."""


_ATTENTION: Final = (
    "Its weights of words come from attention, which is not supported here. SPLADE models weigh words and "
    "add related ones: SparseTextEmbedding() is the bundled model, and prithivida/Splade_PP_en_v1 a larger "
    "one. For exact words, use Qdrant/bm25. Encode your texts again with `splade reindex --model`."
)
_OTHER_SPARSE_MODELS: Final = {
    "qdrant/bm25": "Use Bm25Embedding(), from splade_retriever, in its place, or pass the name as model= of "
    "an index, a retriever or a store.",
    "qdrant/bm42-all-minilm-l6": _ATTENTION,
    "qdrant/minicoil": _ATTENTION.replace("attention", "a model per word"),
}
"""FastEmbed's other sparse models, and what to use in their place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The description of one model.

    Attributes:
        model: Its name.
        source: Its repository on the hub, "owner/name"; None for a model that exists only as a folder.
        model_file: Path of the ONNX file in the repository.
        additional_files: More files that it needs: external weights, `idf.json`.
        description: One sentence.
        license: SPDX identifier, in lower case.
        size_gb: Size of the weights, in GB (1e9 bytes).
        vocab_size: Entries of the vocabulary; 0 if unknown.
        max_length: Tokens per text that the model reads, special ones included.
        activation: The function that turns pooled logits into weights.
        query_side: How a query is encoded.
        query_max_active_dims: Number of largest weights that a query keeps; None for all.
        query_power: Exponent of a query's weights; above 1, its large weights decide more.
        zero_special_tokens: Special tokens get no weight in documents.
        revision: The commit to download; None is the newest of the main branch. The encoder's fingerprint
            states the commit in both cases.
        export_needed: The repository has no ONNX file; the user must export it once.
        precision: The precision of the ONNX file; "int8" for a file that is quantised already.
        documents_by: The symmetric model whose network encodes the documents, so that both give a document
            the same vector and can open the same collection; None for a model with another network.
    """

    model: str
    source: str | None = None
    model_file: str = "model.onnx"
    additional_files: tuple[str, ...] = ()
    description: str = ""
    license: str = ""
    size_gb: float = 0.0
    vocab_size: int = 0
    max_length: int = 512
    activation: Activation = "log1p"
    query_side: QuerySide = "symmetric"
    query_max_active_dims: int | None = None
    query_power: float = 1.0
    zero_special_tokens: bool = False
    revision: str | None = None
    export_needed: bool = False
    precision: Precision = "fp32"
    documents_by: str | None = None

    def __post_init__(self) -> None:
        for name in ("size_gb", "vocab_size", "max_length", "query_max_active_dims", "query_power"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        optional_text = "a str or None"
        for name, expected, valid in (
            ("model", "a name", _is_text(self.model) and bool(self.model)),
            ("source", optional_text, self.source is None or _is_text(self.source)),
            ("model_file", "a path", _is_text(self.model_file) and bool(self.model_file.strip("/. "))),
            (
                "additional_files",
                "a list of paths",
                isinstance(self.additional_files, tuple) and all(map(_is_text, self.additional_files)),
            ),
            ("description", "a str", _is_text(self.description)),
            ("license", "a str", _is_text(self.license)),
            ("size_gb", "a number of 0 or more", _is_number(self.size_gb) and self.size_gb >= 0),
            ("vocab_size", "an int of 0 or more", _is_int(self.vocab_size, minimum=0)),
            ("max_length", "an int of 1 or more", _is_int(self.max_length, minimum=1)),
            ("activation", _one_of(Activation), self.activation in get_args(Activation)),
            ("query_side", _one_of(QuerySide), self.query_side in get_args(QuerySide)),
            (
                "query_max_active_dims",
                "an int of 1 or more, or None",
                self.query_max_active_dims is None or _is_int(self.query_max_active_dims, minimum=1),
            ),
            ("query_power", "a finite number above 0", _is_number(self.query_power) and self.query_power > 0),
            ("zero_special_tokens", "a bool", isinstance(self.zero_special_tokens, bool)),
            ("revision", optional_text, self.revision is None or _is_text(self.revision)),
            ("export_needed", "a bool", isinstance(self.export_needed, bool)),
            ("precision", _one_of(Precision), self.precision in get_args(Precision)),
            ("documents_by", optional_text, self.documents_by is None or _is_text(self.documents_by)),
        ):
            if not valid:
                raise InputError(
                    f"The card of model {self.model!r} has {name}={getattr(self, name)!r}, expected "
                    f"{expected}."
                )

    @property
    def non_commercial(self) -> bool:
        """Whether the licence forbids commercial use."""
        return _NON_COMMERCIAL in self.license.lower()

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the model needs, the large file last."""
        return ("tokenizer.json", *self.query_files, *self.additional_files, self.model_file)

    @property
    def query_files(self) -> tuple[str, ...]:
        """The files that an inference-free query needs beside the tokenizer."""
        return ("idf.json",) if self.query_side == "idf" else ()

    def as_dict(self) -> dict[str, Any]:
        """Return the card with the keys of FastEmbed's `list_supported_models`, then our own keys."""
        return {
            "model": self.model,
            "sources": {"hf": self.source},
            "model_file": self.model_file,
            "description": self.description,
            "license": self.license,
            "size_in_GB": self.size_gb,
            "additional_files": [*self.query_files, *self.additional_files],
            "requires_idf": None,
            "vocab_size": self.vocab_size,
            "max_length": self.max_length,
            "activation": self.activation,
            "query_side": self.query_side,
            "query_max_active_dims": self.query_max_active_dims,
            "query_power": self.query_power,
            "revision": self.revision,
            "precision": self.precision,
            "export_needed": self.export_needed,
            "non_commercial": self.non_commercial,
        }

    @classmethod
    def known_fields(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entries of a card file that are fields of this class; a file may hold others."""
        names = {field.name for field in fields(cls)}
        kept = {name: value for name, value in content.items() if name in names}
        if isinstance(kept.get("additional_files"), list):
            kept["additional_files"] = tuple(kept["additional_files"])
        return kept


def _is_text(value: object) -> bool:
    return isinstance(value, str) and text_fault("value", value) is None


def _is_int(value: object, *, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _one_of(choices: object) -> str:
    return " or ".join(map(repr, get_args(choices)))


class Catalogue:
    """Models by name: the published ones and custom ones; safe to share between threads."""

    def __init__(self, cards: Iterator[ModelCard]) -> None:
        # Only single dictionary operations, which are atomic: a lock could stay locked in a forked child.
        self._cards = {card.model.lower(): card for card in cards}

    def __iter__(self) -> Iterator[ModelCard]:
        return iter(list(self._cards.values()))

    def find(self, name: str) -> ModelCard | None:
        """Return the card of a name or alias, in any case; None if there is none."""
        key = name.lower()
        return self._cards.get(_ALIASES.get(key, key))

    def add(self, card: ModelCard) -> None:
        """Add a model.

        Raises:
            InputError: If a model of that name has another card.
        """
        known = self._cards.setdefault(card.model.lower(), card)
        if known != card:
            raise InputError(
                f"A model named {known.model!r} is registered already, with other settings. Use another name."
            )

    def unknown(self, name: str, bundled: Iterable[str] = ()) -> UnknownModelError:
        """Return the error for a name that is neither a model nor a folder.

        Args:
            name: The name.
            bundled: Names of models that are in the package.
        """
        if (other := _OTHER_SPARSE_MODELS.get(re.sub(r"-v\d.*", "", name.lower()))) is not None:
            return UnknownModelError(f"{name!r} is not a SPLADE model. {other}")
        names = {model.lower(): model for model in [*bundled, *(card.model for card in self)]}
        close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.7)
        close = close or [full for full in names if len(name) > 3 and name.lower() in full][:3]
        hint = f" Did you mean {' or '.join(repr(names[key]) for key in close)}?" if close else ""
        return UnknownModelError(
            f"There is no model {name!r} and no folder of that name.{hint} "
            "`splade models` and SparseTextEmbedding.list_supported_models() list the SPLADE models. Pass "
            "one of them or the path of a model folder, or register a model with "
            "SparseTextEmbedding.add_custom_model()."
        )


def published() -> Iterator[ModelCard]:
    """Yield the cards of the published models.

    A revision is pinned only if the commit of the ONNX file is certain. Otherwise, and if the user makes the
    ONNX file, the newest commit of the main branch is used, and the encoder's fingerprint states it.
    """
    yield ModelCard(
        model="prithivida/Splade_PP_en_v1",
        source="Qdrant/Splade_PP_en_v1",
        revision="efcd182bc7eb351e81a9445752d4388c2bab500b",
        description="Independent implementation of SPLADE++ for English.",
        license="apache-2.0",
        size_gb=0.532,
        vocab_size=_BERT,
    )
    yield ModelCard(
        model="prithivida/Splade_PP_en_v2",
        source="prithivida/Splade_PP_en_v2",
        description="Independent implementation of SPLADE++ for English, second version.",
        license="apache-2.0",
        size_gb=0.532,
        vocab_size=_BERT,
        export_needed=True,
    )
    yield from _naver()
    yield from _opensearch()
    yield ModelCard(
        model="ibm-granite/granite-embedding-30m-sparse",
        source="ibm-granite/granite-embedding-30m-sparse",
        description="Small SPLADE for English on RoBERTa's vocabulary, trained on permissive data.",
        license="apache-2.0",
        size_gb=0.061,
        vocab_size=50265,
        export_needed=True,
    )


_BERT: Final = 30522


def _naver() -> Iterator[ModelCard]:
    """Yield the models of SPLADE's authors: BERT's vocabulary, a non-commercial licence, no ONNX file."""
    for name, size_gb, description in (
        ("splade-v3", 0.438, "SPLADE-v3, the strongest of the family for English."),
        ("splade-v3-distilbert", 0.268, "SPLADE-v3 on DistilBERT, twice as fast."),
        ("splade-v3-doc", 0.438, "SPLADE-v3 for documents only."),
        ("splade-cocondenser-ensembledistil", 0.438, "SPLADE++ EnsembleDistil for English."),
        ("splade-cocondenser-selfdistil", 0.438, "SPLADE++ SelfDistil for English."),
    ):
        documents_only = name.endswith("-doc")
        yield ModelCard(
            model=f"naver/{name}",
            source=f"naver/{name}",
            description=description,
            license="cc-by-nc-sa-4.0",
            size_gb=size_gb,
            vocab_size=_BERT,
            query_side="ones" if documents_only else "symmetric",
            zero_special_tokens=documents_only,
            export_needed=True,
        )


def _opensearch() -> Iterator[ModelCard]:
    """Yield OpenSearch's models: documents through the network, queries by a table of IDF weights."""
    prefix = "opensearch-project/opensearch-neural-sparse-encoding"
    for name, size_gb, activation, description in _OPENSEARCH:
        exported = name == "doc-v3-gte"
        yield ModelCard(
            model=f"{prefix}-{name}",
            source=f"Qdrant/opensearch-neural-sparse-encoding-{name}" if exported else f"{prefix}-{name}",
            description=description,
            license="apache-2.0",
            size_gb=size_gb,
            vocab_size=105879 if name.startswith("multilingual") else _BERT,
            activation=activation,
            query_side="idf",
            zero_special_tokens=True,
            export_needed=not exported,
        )


_OPENSEARCH: Final[tuple[tuple[str, float, Activation, str], ...]] = (
    ("doc-v1", 0.532, "log1p", "Inference-free queries, English, BERT base."),
    ("doc-v2-distill", 0.268, "log1p", "Inference-free queries, English, DistilBERT."),
    ("doc-v2-mini", 0.091, "log1p", "Inference-free queries, English, MiniLM of 23 million parameters."),
    ("doc-v3-distill", 0.268, "log1p_log1p", "Inference-free queries, English, DistilBERT, third series."),
    ("doc-v3-gte", 0.55, "log1p_log1p", "Inference-free queries, English, GTE base, the best of its kind."),
    ("multilingual-v1", 0.67, "log1p", "Inference-free queries, fifteen languages."),
)
