"""RetrieverConfig: where an index is and how it is searched, from a YAML, TOML or JSON file or a dict."""

from __future__ import annotations

import difflib
import inspect
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from splade_retriever.encoding.model_loading import load_encoder
from splade_retriever.errors import InputError
from splade_retriever.index.search_request import Mode
from splade_retriever.validation import MAX_DEPTH

if TYPE_CHECKING:
    import splade_retriever.langchain
    import splade_retriever.llama_index
    from splade_retriever.index.splade_index import SpladeIndex
    from splade_retriever.protocols import DenseEncoder, NodeEncoder

__all__ = ["RetrieverConfig"]

_FIELDS_OF_ENCODER: Final = frozenset({"self", "model_name", "cuda", "device_ids"})
_USER_IN_URL: Final = re.compile(r"\w+://[^/@]*@")


class RetrieverConfig(BaseModel):
    """Where an index is and how it is searched.

    No error message and no `repr` shows the values of `index` and `encoder`, which may hold secrets.

    Attributes:
        location: The folder of an existing index, or the http(s) URL of a Qdrant server.
        collection: The name of its collection.
        model: Name or folder of the model; None for the model that the collection remembers.
        encoder: Arguments of `SparseTextEmbedding` for that model: `precision`, `threads`, `cache_dir`,
            `local_files_only`, ...
        index: Further arguments of `SpladeIndex`: `vector_name`, `query_max_active_dims`, `timeout`, ...
        api_key_variable: The environment variable that holds the server's key. A key is never written here.
        k: Maximum number of documents.
        filter: Conditions on the metadata, see `splade_retriever.filters`.
        mode: "sparse", "dense" or "hybrid"; None for hybrid where a dense encoder is given, else sparse.
        explain: Put an explanation of its score into each document's metadata.

    Raises:
        InputError: If a name is not a field, or a value does not have the type of its field.
    """

    location: str = Field(description="a folder or a URL")
    collection: str = Field("splade", description="a name")
    model: str | None = Field(None, description="a name or a folder, or nothing")
    encoder: dict[str, Any] = Field({}, description="arguments of SparseTextEmbedding by name", repr=False)
    index: dict[str, Any] = Field({}, description="arguments of SpladeIndex by name", repr=False)
    api_key_variable: str | None = Field(None, description="the name of an environment variable, or nothing")
    k: int = Field(4, ge=1, description="an int of 1 or more")
    filter: dict[str, Any] | None = Field(None, description="conditions by metadata key, or nothing")
    mode: Mode | None = Field(None, description="'sparse', 'dense' or 'hybrid', or nothing")
    explain: bool = Field(False, description="true or false")

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    if not TYPE_CHECKING:  # type checkers keep the signature that pydantic makes of the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise InputError(_message(error)) from None

    @field_validator("location", mode="before")
    @classmethod
    def _path_as_text(cls, location: object) -> object:
        return str(location) if isinstance(location, Path) else location

    @field_validator("location")
    @classmethod
    def _check_location(cls, location: str) -> str:
        if location == ":memory:":
            raise ValueError(
                "The configuration has location=':memory:', which is always empty: such an index ends with "
                "its process. Name a folder or a URL."
            )
        if _USER_IN_URL.match(location):
            raise ValueError(
                "The configuration has a user name or password in the URL of location. Remove it, and name "
                "the environment variable that holds the server's key in api_key_variable."
            )
        return location

    @model_validator(mode="after")
    def _check_encoder(self) -> Self:
        if self.encoder and self.model is None:
            raise ValueError(
                f"The configuration has encoder arguments ({', '.join(self.encoder)}) and no model, expected "
                "the model that they are for. Add it; `index.model_name` returns the name."
            )
        return self

    @classmethod
    def read(cls, path: str | Path) -> RetrieverConfig:
        """Read a file that ends in .yaml, .yml, .toml or .json.

        Relative folders in it are relative to the file, not to the working folder.

        Raises:
            InputError: If the file cannot be read, is not valid in its format, or has a wrong name or value.
        """
        file = Path(path)
        parse = _PARSERS.get(file.suffix.lower())
        if parse is None:
            raise InputError(
                f"The configuration {str(file)!r} ends in {file.suffix!r}, expected one of "
                f"{', '.join(_PARSERS)}. Rename it, or pass its content to from_dict."
            )
        try:
            values = parse(_read_bounded(file))
        except OSError as error:
            raise InputError(
                f"The configuration {str(file)!r} cannot be read ({error.strerror}). Check the path."
            ) from error
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise InputError(
                f"The configuration {str(file)!r} is not a valid {file.suffix[1:].upper()} file ({reason}). "
                "Fix the file."
            ) from None
        if not isinstance(values, Mapping):
            raise InputError(
                f"The configuration {str(file)!r} holds a {type(values).__name__}, expected names and values."
            )
        return cls.from_dict(values, base=file.parent)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, base: str | Path | None = None) -> RetrieverConfig:
        """Make a configuration from a dict of its fields.

        Args:
            values: Name -> value; `location` is required.
            base: The folder that a relative location and a relative model folder start from; None for the
                working folder.

        Raises:
            InputError: If a name is not a field (a similar one is suggested), or a value does not have the
                type of its field.
        """
        named = {str(name): value for name, value in values.items()}
        if base is not None and "location" in named:
            named["location"] = _relative_to(Path(base), named["location"])
            if isinstance(model := named.get("model"), str) and (Path(base) / model).is_dir():
                named["model"] = str(Path(base) / model)
        return cls(**named)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name; the inverse of `from_dict`."""
        return self.model_dump()

    def open(self, *, dense: DenseEncoder | NodeEncoder | None = None) -> SpladeIndex:
        """Open the index; it is never created.

        Args:
            dense: The dense encoder of a hybrid index, which a file cannot hold.

        Raises:
            InputError: If a name under `index` or `encoder` is not an argument, or the environment variable
                named by `api_key_variable` is not set.
            SpladeError: As raised by `SpladeIndex` and `SparseTextEmbedding`.
        """
        from splade_retriever.index.splade_index import SpladeIndex

        return SpladeIndex(**self._index_arguments(dense))

    def langchain(
        self, *, dense: DenseEncoder | NodeEncoder | None = None
    ) -> splade_retriever.langchain.SpladeRetriever:
        """Return a LangChain retriever of the index; `retriever.close()` closes the index.

        Args:
            dense: As for `open`.

        Raises:
            MissingExtraError: If langchain-core is not installed.
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
        """Return a LlamaIndex retriever of the index; `retriever.vector_store.close()` closes the index.

        Args:
            dense: As for `open`.

        Raises:
            MissingExtraError: If llama-index-core is not installed.
            InputError: In mode "dense", which the adapter for LlamaIndex does not have.
            SpladeError: As for `open`.
        """
        from splade_retriever.llama_index import SpladeRetriever, SpladeVectorStore

        if self.mode == "dense":
            raise InputError(
                "The configuration has mode='dense', expected 'sparse' or 'hybrid' for LlamaIndex. For dense "
                "vectors alone use its VectorStoreIndex."
            )
        return SpladeRetriever(
            SpladeVectorStore(**self._index_arguments(dense)),
            similarity_top_k=self.k,
            filter=None if self.filter is None else dict(self.filter),
            mode=self.mode or ("sparse" if dense is None else "hybrid"),
            explain=self.explain,
        )

    def _index_arguments(self, dense: DenseEncoder | NodeEncoder | None) -> dict[str, Any]:
        """Return the arguments of `SpladeIndex`, after checking all names."""
        from splade_retriever.encoding.text_embedding import SparseTextEmbedding
        from splade_retriever.index.options import IndexKeywords

        options = [name for name in IndexKeywords.__annotations__ if name != "api_key"]
        _check_names("index", self.index, ["create", "adopt", *options])
        _check_names("encoder", self.encoder, _arguments(SparseTextEmbedding, without=_FIELDS_OF_ENCODER))
        return {
            "location": self.location,
            "collection": self.collection,
            "api_key": self._api_key(),
            "model": load_encoder(self.model, settings=self.encoder) if self.encoder else self.model,
            "dense": dense,
            "create": False,
            **self.index,
        }

    def _api_key(self) -> str | None:
        if self.api_key_variable is None:
            return None
        key = os.environ.get(self.api_key_variable)
        if not key:
            raise InputError(
                f"The environment variable {self.api_key_variable} is not set. The configuration names it in "
                "api_key_variable for the server's key. Set it."
            )
        return key


# -- messages ------------------------------------------------------------------------------------------------


def _message(error: ValidationError) -> str:
    """Write pydantic's errors as sentences with the path, the fault and what was expected.

    Values are shown for `k` and `mode` alone, where they cannot be secrets.
    """
    return " ".join(_sentence(fault) for fault in error.errors(include_url=False))


def _sentence(fault: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    fields = RetrieverConfig.model_fields
    if fault["type"] == "missing":
        return f"The configuration has no {path}, expected {fields[path].description}."
    if fault["type"] == "extra_forbidden":
        return _unknown_name(path, list(fields))
    value, name = fault["input"], str(fault["loc"][0])
    if "[key]" in fault["loc"]:
        return f"The configuration has a key of type {type(value).__name__} in {path}, expected a string."
    if name in ("k", "mode") and isinstance(value, int | float | str):
        found = f"{path}={value!r}"
    else:
        found = f"a value of type {type(value).__name__} for {path}"
    return f"The configuration has {found}, expected {fields[name].description}."


def _unknown_name(path: str, allowed: Sequence[str]) -> str:
    similar = difflib.get_close_matches(path.rpartition(".")[2], allowed, n=1)
    hint = f" Did you mean {similar[0]!r}?" if similar else ""
    return f"The configuration has the unknown name {path!r}; allowed: {', '.join(allowed)}.{hint}"


def _check_names(parent: str, values: Mapping[str, Any], allowed: Sequence[str]) -> None:
    for name in values:
        if name not in allowed:
            raise InputError(_unknown_name(f"{parent}.{name}", allowed))


def _arguments(constructed: type, *, without: frozenset[str]) -> list[str]:
    """Return the names of the arguments of a class's constructor."""
    return [name for name in inspect.signature(constructed.__init__).parameters if name not in without]  # type: ignore[misc]


# -- files ---------------------------------------------------------------------------------------------------


def _relative_to(base: Path, location: Any) -> Any:
    """Resolve a relative folder from a base; everything else is returned unchanged."""
    if not isinstance(location, str) or location == ":memory:" or "://" in location:
        return location
    return str(base / Path(location).expanduser())


def _read_bounded(file: Path) -> str:
    """Read a file of a reasonable size.

    Raises:
        OSError: It cannot be read, or is not a regular file.
        ValueError: It is too large, or not UTF-8.
    """
    if file.exists() and not file.is_file():
        raise OSError(0, "it is not a regular file")
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
    return file.read_text(encoding="utf-8")


def _parse_yaml(text: str) -> Any:
    """Parse YAML without aliases, a few of which can stand for terabytes.

    Raises:
        ValueError: With the reason and the line, and without the content of the line.
        RecursionError: The values are nested too deeply; the time to parse them would grow with the square of
            the depth.
    """
    import yaml

    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it has an alias, and aliases (*name) are not supported")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise RecursionError
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" at line {error.problem_mark.line + 1}"
        raise ValueError(f"{error.problem}{line}") from None
    except yaml.YAMLError as error:
        raise ValueError(type(error).__name__) from None


def _parse_toml(text: str) -> Any:
    """Parse TOML.

    Raises:
        RecursionError: A key has too many parts; the memory to parse it would grow with the square of their
            number.
    """
    if any(line.split("=", 1)[0].count(".") > MAX_DEPTH for line in text.splitlines()):
        raise RecursionError
    return tomllib.loads(text)


_MAX_BYTES: Final = 2**20
_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
    ".toml": _parse_toml,
    ".json": json.loads,
}
