"""A retriever from a configuration: a YAML, TOML or JSON file, or a dict, for either framework."""

from __future__ import annotations

import difflib
import inspect
import json
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from splade_retriever.encoding.model_loading import load_encoder
from splade_retriever.errors import InputError

if TYPE_CHECKING:
    import splade_retriever.langchain
    import splade_retriever.llama_index
    from splade_retriever.index.search_request import Mode
    from splade_retriever.index.splade_index import SpladeIndex
    from splade_retriever.protocols import DenseEncoder, NodeEncoder

__all__ = ["RetrieverConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieverConfig:
    """Where an index is and how it is searched.

    Attributes:
        location: A folder, or the http(s) URL of a Qdrant server, where there is an index already.
        collection: Its collection.
        model: Name or folder of the model; None is the one that the collection remembers.
        encoder: Arguments of `SparseTextEmbedding` for that model: `precision`, `threads`, `cache_dir`,
            `local_files_only`, ...
        index: Further arguments of `SpladeIndex`: `vector_name`, `query_max_active_dims`, `timeout`, ...
        api_key_variable: The environment variable with the server's key: a key has no place in a file.
        k: Most documents that are found.
        filter: What they must have in their metadata, see `splade_retriever.filters`.
        mode: "sparse", "dense" or "hybrid"; None for hybrid where a dense encoder is given, else sparse.
        explain: Say in each document's metadata why it was found.

    Raises:
        InputError: If a value is not of its kind.
    """

    location: str
    collection: str = "splade"
    model: str | None = None
    encoder: Mapping[str, Any] = field(default_factory=dict)
    index: Mapping[str, Any] = field(default_factory=dict)
    api_key_variable: str | None = None
    k: int = 4
    filter: Mapping[str, Any] | None = None
    mode: Mode | None = None
    explain: bool = False

    def __post_init__(self) -> None:
        # True is an int to Python, and no number of documents.
        wrong = {"k": isinstance(self.k, bool) or (isinstance(self.k, int) and self.k < 1)}
        wrong["mode"] = isinstance(self.mode, str) and self.mode not in ("sparse", "dense", "hybrid")
        for name, (kind, told) in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or wrong.get(name):
                raise InputError(f"the configuration has {name}={value!r}, expected {told}. Mend it there.")
        if self.location == ":memory:":
            raise InputError(
                "the configuration has location=':memory:', where there is nothing to find: such an index "
                "ends with its process. Name a folder or a URL."
            )
        if self.encoder and self.model is None:
            raise InputError(
                f"the configuration has encoder={dict(self.encoder)!r} and no model, expected the model that "
                "these are for. Add it; the index tells it as `index.model_name`."
            )

    @classmethod
    def read(cls, path: str | Path) -> RetrieverConfig:
        """Read a file that ends in .yaml, .yml, .toml or .json.

        A folder in it is meant from the file's own folder, not from where the program runs.

        Raises:
            InputError: If there is no such file, it is not of its format, or it says what is none of the
                attributes.
        """
        file = Path(path)
        if file.suffix.lower() not in _READERS:
            raise InputError(
                f"the configuration {str(file)!r} ends in {file.suffix!r}, expected one of "
                f"{', '.join(_READERS)}. Rename it, or pass its content to from_dict."
            )
        try:
            found = _READERS[file.suffix.lower()](file.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"the configuration {str(file)!r} cannot be read ({error.strerror}). Check the path."
            ) from error
        except ValueError as error:
            raise InputError(
                f"the configuration {str(file)!r} is no {file.suffix[1:].upper()} file ({error}). Mend it."
            ) from error
        if not isinstance(found, Mapping):
            raise InputError(
                f"the configuration {str(file)!r} holds a {type(found).__name__}, expected names and values."
            )
        return cls.from_dict(found, base=file.parent)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, base: str | Path | None = None) -> RetrieverConfig:
        """Take a dict with the attributes.

        Args:
            values: Name -> value; `location` is needed.
            base: The folder that a relative location and model folder are meant from; None is the working
                folder.

        Raises:
            InputError: If a name is none of the attributes (near ones are suggested), or a value is not of
                its kind.
        """
        _check_names("", values, [field.name for field in fields(cls)])
        if "location" not in values:
            raise InputError(
                "the configuration has no location. Name the folder of an index, or the URL of a server."
            )
        given = dict(values)
        if base is not None:
            given["location"] = _from(Path(base), given["location"])
            if isinstance(model := given.get("model"), str) and (Path(base) / model).is_dir():
                given["model"] = str(Path(base) / model)
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes by name; the inverse of `from_dict`."""
        return asdict(self)

    def open(self, *, dense: DenseEncoder | NodeEncoder | None = None) -> SpladeIndex:
        """Open the index; it is never created.

        Args:
            dense: The dense encoder of a hybrid index, which no file can name.

        Raises:
            InputError: If an argument under `index` or `encoder` makes no sense, or `api_key_variable` is
                not set.
            SpladeError: What `SpladeIndex` and `SparseTextEmbedding` raise.
        """
        from splade_retriever.encoding.text_embedding import SparseTextEmbedding
        from splade_retriever.index.splade_index import SpladeIndex

        taken = {"self", "location", "collection", "model", "client", "api_key", "dense"}
        _check_names("index.", self.index, [name for name in _arguments(SpladeIndex) if name not in taken])
        taken = {"self", "model_name", "cuda", "device_ids"}
        _check_names(
            "encoder.", self.encoder, [name for name in _arguments(SparseTextEmbedding) if name not in taken]
        )
        key = None
        if self.api_key_variable is not None:
            key = os.environ.get(self.api_key_variable)
            if not key:
                raise InputError(
                    f"the environment variable {self.api_key_variable} is not set, which the configuration "
                    "names for the server's key. Set it."
                )
        model = load_encoder(self.model, settings=self.encoder) if self.encoder else self.model
        return SpladeIndex(
            self.location,
            collection=self.collection,
            model=model,
            dense=dense,
            api_key=key,
            **{"create": False, **self.index},
        )

    def langchain(
        self, *, dense: DenseEncoder | NodeEncoder | None = None
    ) -> splade_retriever.langchain.SpladeRetriever:
        """Return LangChain's retriever of the index, which `retriever.close()` closes.

        Args:
            dense: As for `open`.

        Raises:
            MissingExtraError: Without langchain-core.
            SpladeError: As for `open`.
        """
        from splade_retriever.langchain import SpladeRetriever

        return SpladeRetriever(
            index=self.open(dense=dense),
            k=self.k,
            filter=None if self.filter is None else dict(self.filter),
            mode=self.mode,
            with_explanations=self.explain,
        )

    def llama_index(
        self, *, dense: DenseEncoder | NodeEncoder | None = None
    ) -> splade_retriever.llama_index.SpladeRetriever:
        """Return LlamaIndex's retriever of the index, which `retriever.vector_store.index.close()` closes.

        Args:
            dense: As for `open`.

        Raises:
            MissingExtraError: Without llama-index-core.
            InputError: In mode "dense", which LlamaIndex has not.
            SpladeError: As for `open`.
        """
        from splade_retriever.llama_index import SpladeRetriever

        if self.mode == "dense":
            raise InputError(
                "the configuration has mode='dense', expected 'sparse' or 'hybrid' for LlamaIndex. For dense "
                "vectors alone use its VectorStoreIndex."
            )
        return SpladeRetriever(
            index=self.open(dense=dense),
            similarity_top_k=self.k,
            filter=None if self.filter is None else dict(self.filter),
            mode=self.mode or ("sparse" if dense is None else "hybrid"),
            explain=self.explain,
        )


def _arguments(made: type) -> list[str]:
    """Name the arguments of a class's constructor."""
    return list(inspect.signature(made.__init__).parameters)  # type: ignore[misc]


def _check_names(under: str, values: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Refuse a name that is not allowed, and suggest one that is near."""
    for name in values:
        if name not in allowed:
            near = difflib.get_close_matches(str(name), allowed, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"the configuration has {under + str(name)!r}, expected some of {', '.join(allowed)}.{hint}"
            )


def _from(base: Path, location: Any) -> Any:
    """Return a folder as seen from the working folder; what is no folder stays."""
    if not isinstance(location, str) or location == ":memory:" or "://" in location:
        return location
    return str(base / Path(location).expanduser())


def _read_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".toml": tomllib.loads,
    ".json": json.loads,
}
_OPTIONAL_TEXT: Final = (str, type(None))
_KINDS: Final[Mapping[str, tuple[Any, str]]] = {
    "location": (str, "a folder or a URL"),
    "collection": (str, "a name"),
    "model": (_OPTIONAL_TEXT, "a name or a folder, or nothing"),
    "encoder": (Mapping, "arguments of SparseTextEmbedding by name"),
    "index": (Mapping, "arguments of SpladeIndex by name"),
    "api_key_variable": (_OPTIONAL_TEXT, "the name of an environment variable, or nothing"),
    "k": (int, "an int of 1 or more"),
    "filter": ((Mapping, type(None)), "conditions by metadata key, or nothing"),
    "mode": (_OPTIONAL_TEXT, "'sparse', 'dense' or 'hybrid', or nothing"),
    "explain": (bool, "true or false"),
}
"""Attribute -> its kind, and the kind in words."""
