"""RetrieverConfig: where an index is and how it is searched, from a YAML, TOML or JSON file or a dict."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from splade_retriever.config.arguments import check_arguments, encoder_types, index_types
from splade_retriever.config.dense_encoder import DenseEncoderConfig, load_dense_encoder
from splade_retriever.config.environment import expand, fields_of_environment, unset_variables
from splade_retriever.config.faults import check_names, faults_of
from splade_retriever.config.files import ConfigFile, KeyPath, read_config_file
from splade_retriever.encoding.model_archive import is_archive
from splade_retriever.encoding.model_loading import load_encoder
from splade_retriever.errors import ConfigFault, ConfigurationError, InputError
from splade_retriever.index.options import Fusion, Mode
from splade_retriever.index.splade_query import QueryControls
from splade_retriever.validation import is_url, plain

if TYPE_CHECKING:
    import splade_retriever.langchain
    import splade_retriever.llama_index
    from splade_retriever.index.splade_index import SpladeIndex
    from splade_retriever.protocols import DenseEncoder, NodeEncoder

__all__ = ["RetrieverConfig"]

_USER_IN_URL: Final = re.compile(r"\w+://[^/@]*@")
_PATHS: Final = (("encoder", "specific_model_path"), ("encoder", "cache_dir"), ("index", "ca"))
"""Arguments that are paths."""
_GROUPS: Final = ("defaults", "retrievers")
"""Names of a file with several retrievers."""


class RetrieverConfig(BaseModel):
    """Where an index is and how it is searched.

    Strings may name environment variables: `${NAME}`, or `${NAME:-default}`; `$$` is a literal `$`. They are
    replaced when the index is opened, so that no `repr`, error message or `to_dict` shows their values. No
    error message and no `repr` shows the values of `index`, `encoder` and `dense.args`, which may hold
    secrets.

    Attributes:
        location: The folder of an existing index, or the http(s) URL of a Qdrant server.
        collection: The name of its collection.
        model: Name or folder of the model; None for the model that the collection records.
        second_model: Name or folder of the second sparse model; None for the one that the collection records.
        encoder: Arguments of `SparseTextEmbedding` for `model`: `precision`, `threads`, `cache_dir`,
            `local_files_only`, ...
        index: Further arguments of `SpladeIndex`: `vector_name`, `query_max_active_dims`, `timeout`, ...
        dense: The dense encoder of a hybrid index: `class`, an import path, and `args`.
        api_key_variable: The environment variable that holds the server's key. A key is never written here.
        k: Maximum number of documents.
        filter: Conditions on the metadata, see `splade_retriever.filters`.
        mode: "sparse", "second", "dense" or "hybrid"; None for hybrid where there is a second model or a
            dense encoder, else sparse.
        fusion: How a hybrid search joins its rankings: `method`, `rrf_k`, `weights`, `depth`, see `Fusion`.
        score_threshold: Minimum score, in the engine's scale.
        explain: Put an explanation of its score into each document's metadata.
        origins: Put the explanation there, with the word that each token of an expansion comes from.
        controls: Words to boost, require or exclude, `synonyms` and `expand`, for each query that is
            not a `SpladeQuery`, see `QueryControls`.

    Raises:
        ConfigurationError: If a name is not a field, or a value does not have the type of its field.
    """

    location: str = Field(description="Folder of an existing index, or URL of a Qdrant server.")
    collection: str = Field(default="splade", description="Name of the collection.")
    model: str | None = Field(
        default=None,
        description="Name or folder of the model; by default the model that the collection records.",
    )
    second_model: str | None = Field(
        default=None,
        description="Name or folder of a second model; by default the one that the collection records.",
    )
    encoder: dict[str, Any] = Field(
        default={}, description="Arguments of SparseTextEmbedding for the model, by name.", repr=False
    )
    index: dict[str, Any] = Field(
        default={}, description="Further arguments of SpladeIndex, by name.", repr=False
    )
    dense: DenseEncoderConfig | None = Field(default=None, description="Dense encoder of a hybrid index.")
    api_key_variable: str | None = Field(
        default=None, description="Environment variable that holds the server's API key."
    )
    k: int = Field(default=4, ge=1, description="Maximum number of documents.")
    filter: dict[str, Any] | None = Field(default=None, description="Conditions on the metadata, by key.")
    mode: Mode | None = Field(
        default=None,
        description="By default hybrid where there is a second model or a dense encoder, else sparse.",
    )
    fusion: Fusion | None = Field(default=None, description="How a hybrid search joins its rankings.")
    score_threshold: float | None = Field(default=None, description="Minimum score, in the engine's scale.")
    explain: bool = Field(
        default=False, description="Put an explanation of its score into each document's metadata."
    )
    origins: bool = Field(
        default=False,
        description="Name in the explanation the word that each token of an expansion comes from.",
    )
    controls: QueryControls | None = Field(
        default=None,
        description="Words to boost, require or exclude, synonyms, and whether queries are expanded.",
    )

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    if not TYPE_CHECKING:  # type checkers keep the signature that pydantic makes of the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**plain(values))
            except ValidationError as error:
                raise ConfigurationError.of(faults_of(error, type(self))) from None

    @field_validator("location", mode="before")
    @classmethod
    def _path_as_text(cls, location: object) -> object:
        return str(location) if isinstance(location, Path) else location

    @field_validator("location")
    @classmethod
    def _check_location(cls, location: str) -> str:
        if location == ":memory:":
            raise ValueError(
                "has location=':memory:', which is always empty: such an index ends with its process. Name a "
                "folder or a URL."
            )
        if _USER_IN_URL.match(location):
            raise ValueError(
                "has a user name or password in the URL of location. Remove it, and name the environment "
                "variable that holds the server's key in api_key_variable."
            )
        return location

    @field_validator("fusion", mode="before")
    @classmethod
    def _fusion_of_names(cls, fusion: object) -> object:
        if not isinstance(fusion, Mapping):
            return fusion
        values = {str(name): value for name, value in fusion.items()}
        check_names("fusion", values, [option.name for option in fields(Fusion)])
        if isinstance(weights := values.get("weights"), list):
            values["weights"] = tuple(weights)
        try:
            return Fusion(**values)
        except InputError as error:
            raise ValueError(f"has a wrong value under fusion: {error}") from None
        except TypeError:
            raise ValueError(
                "has a value of the wrong type under fusion, expected method: rrf or dbsf, rrf_k: an int, "
                "weights: two or three numbers, depth: an int."
            ) from None

    @field_validator("controls", mode="before")
    @classmethod
    def _controls_of_names(cls, controls: object) -> object:
        if not isinstance(controls, Mapping):
            return controls
        values = {str(name): value for name, value in controls.items()}
        check_names("controls", values, [control.name for control in fields(QueryControls)])
        try:
            return QueryControls(**values)
        except InputError as error:
            raise ValueError(f"has a wrong value under controls: {error}") from None

    @model_validator(mode="after")
    def _check_arguments(self) -> Self:
        if self.encoder and self.model is None:
            raise ValueError(
                f"has encoder arguments ({', '.join(self.encoder)}) and no model, expected the model that "
                "they are for. Add it; `index.model_name` returns the name."
            )
        check_arguments("index", self.index, index_types())
        check_arguments("encoder", self.encoder, encoder_types())
        return self

    @classmethod
    def read(cls, path: str | Path, *, retriever: str | None = None) -> RetrieverConfig:
        """Read a file that ends in .yaml, .yml, .toml or .json.

        Relative paths in it are relative to the file, not to the working folder; see `from_dict`.

        Args:
            path: The file.
            retriever: The retriever to take from a file that holds several under `retrievers`; None for a
                file that holds one.

        Raises:
            InputError: If the file cannot be read or is not valid in its format, or there is no such
                retriever.
            ConfigurationError: If it has a wrong name or value; the message names file, line, and the
                closest right name.
        """
        configs = cls.read_all(path)
        if retriever is None and len(configs) == 1:
            return next(iter(configs.values()))
        if retriever not in configs:
            found = "none was named" if retriever is None else f"there is no {retriever!r}"
            raise InputError(
                f"The configuration {str(path)!r} holds the retrievers {', '.join(configs)}, and {found}. "
                f"Pass retriever={next(iter(configs))!r}, for example."
            )
        return configs[retriever]

    @classmethod
    def read_all(cls, path: str | Path) -> dict[str, RetrieverConfig]:
        """Read all retrievers of a file: name -> configuration.

        Either the file is one configuration, named by the file's stem, or it has `retrievers` (name ->
        fields) and optional `defaults`, the fields that all of them share.

        Raises:
            InputError: As for `read`.
            ConfigurationError: As for `read`; it lists the faults of all retrievers.
        """
        file = read_config_file(path)
        configs: dict[str, RetrieverConfig] = {}
        faults: list[ConfigFault] = []
        for name, inner, values in _retrievers(file):
            try:
                configs[name] = cls.from_dict(values, base=file.path.parent)
            except ConfigurationError as error:
                faults += [_placed(fault, inner, file) for fault in error.faults]
        if faults:
            raise ConfigurationError.of(list(dict.fromkeys(faults)), file=str(file.path))
        return configs

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, base: str | Path | None = None) -> RetrieverConfig:
        """Make a configuration from a dict of its fields.

        Args:
            values: Name -> value; `location` is required.
            base: The folder that relative paths start from; None for the working folder. Paths are
                `location`, `encoder.specific_model_path`, `encoder.cache_dir` and `index.ca`, and `model` and
                `second_model` where a folder or an archive is there. A value that begins with an environment
                variable, and `dense.args`, are left as they are.

        Raises:
            ConfigurationError: If a name is not a field (a similar one is suggested), or a value does not
                have the type of its field.
        """
        named = {str(name): value for name, value in values.items()}
        if base is not None and "location" in named:
            named = _resolved(named, Path(base))
        return cls(**named)

    @classmethod
    def from_environment(
        cls, base: RetrieverConfig | None = None, *, prefix: str = "SPLADE_"
    ) -> RetrieverConfig:
        """Make a configuration from environment variables: `SPLADE_LOCATION`, `SPLADE_K`, ...

        The variable of a field is the prefix and the field's name in capitals. Fields that are not strings
        are written as JSON: `SPLADE_K=8`, `SPLADE_FILTER='{"year": 2023}'`.

        Args:
            base: A configuration whose fields are kept where no variable is set.
            prefix: What the names of the variables begin with.

        Raises:
            ConfigurationError: If a value is not valid, or no location is set.
        """
        values = fields_of_environment(list(cls.model_fields), prefix=prefix)
        return cls.from_dict({**({} if base is None else base.to_dict()), **values})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name; the inverse of `from_dict`. Names of variables stay names."""
        return self.model_dump()

    def check_environment(self) -> None:
        """Check that every environment variable is set that the configuration names.

        Raises:
            ConfigurationError: If one is not set; it lists all of them.
        """
        faults = list(unset_variables(self.to_dict()))
        if self.api_key_variable is not None and not os.environ.get(self.api_key_variable):
            faults.append(_unset_key(self.api_key_variable))
        if faults:
            raise ConfigurationError.of(faults)

    def open(
        self,
        *,
        dense: DenseEncoder | NodeEncoder | None = None,
        allowed_classes: Collection[str] = (),
    ) -> SpladeIndex:
        """Open the index; it is created only with `index={"create": True}`.

        Args:
            dense: The dense encoder of a hybrid index, instead of the one that the configuration names.
            allowed_classes: Import paths of classes that `dense.class` may name. Without it the class must
                be one of those that encode on this machine (`HuggingFaceEmbeddings`, `FastEmbedEmbeddings`
                and their counterparts of LlamaIndex), because loading a class runs its code.

        Raises:
            ConfigurationError: If an environment variable that the configuration names is not set, or the
                class under `dense` is not allowed or cannot be loaded.
            SpladeError: As raised by `SpladeIndex` and `SparseTextEmbedding`.
        """
        from splade_retriever.index.splade_index import SpladeIndex

        return SpladeIndex(**self._index_arguments(dense, allowed_classes))

    def langchain(
        self,
        *,
        dense: DenseEncoder | NodeEncoder | None = None,
        allowed_classes: Collection[str] = (),
    ) -> splade_retriever.langchain.SpladeRetriever:
        """Return a LangChain retriever of the index; `retriever.close()` closes the index.

        Args:
            dense: As for `open`.
            allowed_classes: As for `open`.

        Raises:
            MissingExtraError: If langchain-core is not installed.
            SpladeError: As for `open`.
        """
        from splade_retriever.langchain import SpladeRetriever

        return SpladeRetriever.owning(
            self.open(dense=dense, allowed_classes=allowed_classes),
            k=self.k,
            filter=self._expanded_filter(),
            mode=self.mode,
            fusion=self.fusion,
            score_threshold=self.score_threshold,
            with_explanations=self.explain,
            with_origins=self.origins,
            controls=self._expanded_controls(),
        )

    def llama_index(
        self,
        *,
        dense: DenseEncoder | NodeEncoder | None = None,
        allowed_classes: Collection[str] = (),
    ) -> splade_retriever.llama_index.SpladeRetriever:
        """Return a LlamaIndex retriever of the index; `retriever.close()` closes the index.

        Args:
            dense: As for `open`.
            allowed_classes: As for `open`.

        Raises:
            MissingExtraError: If llama-index-core is not installed.
            ConfigurationError: With fields that the adapter for LlamaIndex does not have: mode "dense",
                `fusion` and `score_threshold`.
            SpladeError: As for `open`.
        """
        from splade_retriever.llama_index import SpladeRetriever, SpladeVectorStore

        self._check_for_llama_index()
        store = SpladeVectorStore(**self._index_arguments(dense, allowed_classes))
        return SpladeRetriever.owning(
            store,
            similarity_top_k=self.k,
            filter=self._expanded_filter(),
            mode=self.mode or ("sparse" if len(store.index.branches) == 1 else "hybrid"),
            explain=self.explain,
            origins=self.origins,
            controls=self._expanded_controls(),
        )

    def _check_for_llama_index(self) -> None:
        if self.mode in ("second", "dense"):
            raise _fault(
                "mode",
                f"has mode={self.mode!r}, expected 'sparse' or 'hybrid' for LlamaIndex. For dense vectors "
                "alone use its VectorStoreIndex.",
            )
        if self.fusion is not None:
            raise _fault(
                "fusion",
                "has fusion, which LlamaIndex does not have. Leave it out, and pass alpha= in the code.",
            )
        if self.score_threshold is not None:
            raise _fault(
                "score_threshold",
                "has score_threshold, which a retriever of LlamaIndex does not have. Leave it out, and use "
                "LlamaIndex's SimilarityPostprocessor.",
            )

    def _expanded_filter(self) -> dict[str, Any] | None:
        return None if self.filter is None else dict(expand(self.filter, path=("filter",)))

    def _expanded_controls(self) -> QueryControls | None:
        if self.controls is None:
            return None
        return QueryControls.of(expand(self.controls.to_dict(), path=("controls",)))

    def _index_arguments(
        self, dense: DenseEncoder | NodeEncoder | None, allowed_classes: Collection[str]
    ) -> dict[str, Any]:
        """Return the arguments of `SpladeIndex`."""
        model = expand(self.model, path=("model",))
        settings = expand(self.encoder, path=("encoder",))
        if dense is None and self.dense is not None:
            dense = load_dense_encoder(self.dense, allowed=allowed_classes)
        return {
            "location": expand(self.location, path=("location",)),
            "collection": expand(self.collection, path=("collection",)),
            "api_key": self._api_key(),
            "model": load_encoder(model, settings=settings) if settings else model,
            "second_model": expand(self.second_model, path=("second_model",)),
            "dense": dense,
            "create": False,
            **expand(self.index, path=("index",)),
        }

    def _api_key(self) -> str | None:
        if self.api_key_variable is None:
            return None
        key = os.environ.get(self.api_key_variable)
        if not key:
            raise ConfigurationError.of([_unset_key(self.api_key_variable)])
        return key


def _unset_key(variable: str) -> ConfigFault:
    return ConfigFault(
        ("api_key_variable",),
        f"has api_key_variable: the environment variable {variable} is not set. Set it to the server's key.",
    )


def _fault(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError.of([ConfigFault((name,), reason)])


# -- files ---------------------------------------------------------------------------------------------------


def _retrievers(file: ConfigFile) -> Iterator[tuple[str, KeyPath, Mapping[str, Any]]]:
    """Yield the name, the path and the values of each retriever in a file.

    Raises:
        ConfigurationError: If `retrievers` or `defaults` hold something else than names and values.
    """
    if "retrievers" not in file.values:
        yield file.path.stem, (), file.values
        return
    faults = [
        ConfigFault((name,), _unknown_beside_retrievers(name)) for name in file.values if name not in _GROUPS
    ]
    defaults, retrievers = file.values.get("defaults", {}), file.values["retrievers"]
    entries = retrievers.items() if isinstance(retrievers, Mapping) else ()
    for path, values in [(("defaults",), defaults), *((("retrievers", str(n)), v) for n, v in entries)]:
        if not isinstance(values, Mapping):
            faults.append(ConfigFault(path, f"has no names and values under {'.'.join(path)}."))
    if not entries:
        faults.append(ConfigFault(("retrievers",), "has no names and values under retrievers."))
    if faults:
        raise ConfigurationError.of([_placed(fault, (), file) for fault in faults], file=str(file.path))
    for name, values in entries:
        yield str(name), ("retrievers", str(name)), {**defaults, **values}


def _unknown_beside_retrievers(name: str) -> str:
    return f"has {name!r} beside retrievers, expected only defaults. Move it under defaults."


def _placed(fault: ConfigFault, inner: KeyPath, file: ConfigFile) -> ConfigFault:
    """Add the line to a fault of a retriever; a shared value stands under `defaults`."""
    path = (*inner, *fault.path)
    shared = ("defaults", *fault.path)
    if inner and path not in file.lines and shared in file.lines:
        path = shared
    return fault._replace(path=path, line=file.line_of(path))


def _resolved(fields: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Return fields with their relative paths resolved from a base."""
    resolved = dict(fields)
    location = fields.get("location")
    if location != ":memory:" and not is_url(location):
        resolved["location"] = _relative_to(base, location)
    for name in ("model", "second_model"):
        if isinstance(model := fields.get(name), str):
            path = Path(_relative_to(base, model))
            resolved[name] = str(path) if path.is_dir() or is_archive(path) else model
    for group, name in _PATHS:
        arguments = resolved.get(group)
        if isinstance(arguments, Mapping) and name in arguments:
            resolved[group] = {**arguments, name: _relative_to(base, arguments[name])}
    return resolved


def _relative_to(base: Path, path: Any) -> Any:
    """Resolve a relative path from a base; everything else is returned unchanged."""
    if not isinstance(path, str | os.PathLike) or not str(path) or str(path).startswith("${"):
        return path
    return str(base / os.path.expanduser(path))
