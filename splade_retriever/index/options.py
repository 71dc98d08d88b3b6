"""The options of an index and of a search, in groups; and the keywords that set them in a short call.

`SpladeIndex(..., timeout=5)` and `search(..., mode="sparse")` take the keywords of `IndexKeywords` and
`SearchKeywords`; an unknown keyword is a TypeError. Inside the package they travel as the frozen groups.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias, TypedDict, Unpack

from splade_retriever.errors import InputError
from splade_retriever.index.keywords import refuse_unknown
from splade_retriever.index.payload import Layout
from splade_retriever.validation import checked_float, checked_int, is_number, type_name

__all__ = [
    "BRANCHES",
    "INDEX_ARGUMENTS",
    "BranchName",
    "CreateOptions",
    "Fusion",
    "IndexKeywords",
    "IndexOptions",
    "Mode",
    "SearchKeywords",
    "SearchOptions",
    "ServerKeywords",
    "ServerOptions",
    "VectorOptions",
]

BranchName: TypeAlias = Literal["sparse", "second", "dense"]
Mode: TypeAlias = Literal["sparse", "second", "dense", "hybrid"]
Windows: TypeAlias = Literal["truncate", "merge", "points"]
Datatype: TypeAlias = Literal["float32", "float16", "uint8"]

BRANCHES: Final[tuple[BranchName, ...]] = ("sparse", "second", "dense")
"""Rankings that an index can have, in the order of the weights of a fusion."""
MODES: Final = (*BRANCHES, "hybrid")
_DATATYPES: Final = ("float32", "float16", "uint8")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How to connect to a Qdrant server."""

    api_key: str | None = field(default=None, repr=False)
    prefer_grpc: bool = False
    """Send requests over gRPC."""
    grpc_port: int | None = None
    """The server's gRPC port; None for the REST port + 1, for a URL without a port 6334."""
    timeout: int | None = None
    """Seconds after which one try of a request fails; None for 10, or `retry_for` where that is shorter. A
    write that is not answered in time is repeated in halves, each with twice the time."""
    retry_for: float | None = None
    """Seconds for which a request is repeated while the server does not answer; 0 for one try. None for 10,
    and 300 for the requests of `add`; then a server that never answered is an error at once."""
    ca: str | Path | None = None
    """File (PEM) with the certificates of the authorities that are trusted instead of the system's."""
    verify: bool = True
    """False to accept any certificate of the server, over REST only."""
    allow_insecure_key: bool = False
    """Whether the key may be sent over http, which does not encrypt it, to another machine."""

    def __post_init__(self) -> None:
        _keep_int(self, "timeout", minimum=1)
        _keep_int(self, "grpc_port", minimum=1)
        _keep_float(self, "retry_for", "seconds: a number of 0 or more, or None", minimum=0.0)
        _check_bool(self, "prefer_grpc")
        _check_bool(self, "allow_insecure_key")
        _check_bool(self, "verify", advice=" Pass the file of an authority as ca=.")
        if self.prefer_grpc and not self.verify:
            raise InputError(
                "verify=False is passed with prefer_grpc=True, but gRPC verifies every certificate. Pass ca= "
                "with the server's certificate or its authority's."
            )

    def without_key(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, but for the key."""
        return {
            option.name: str(value) if isinstance(value, Path) else value
            for option in fields(self)
            if option.name != "api_key" and (value := getattr(self, option.name)) != option.default
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOptions:
    """How the engine stores a new collection."""

    datatype: Datatype | None = None
    """How weights are stored."""
    on_disk: bool | None = None
    """Keep the sparse index on disk instead of in memory."""
    shard_number: int | None = None
    """Shards on a cluster."""
    replication_factor: int | None = None
    """Copies of each shard on a cluster."""

    def __post_init__(self) -> None:
        _keep_int(self, "shard_number", minimum=1)
        _keep_int(self, "replication_factor", minimum=1)
        _check_bool(self, "on_disk", optional=True)
        if self.datatype not in (None, *_DATATYPES):
            raise InputError(f"datatype is {self.datatype!r}, expected one of: {', '.join(_DATATYPES)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorOptions:
    """How vectors are made of texts, which the collection stores. None leaves the stored setting as it is."""

    windows: Windows | None = None
    window_overlap: int | None = None
    max_active_dims: int | None = None
    min_weight: float | None = None

    def __post_init__(self) -> None:
        _keep_int(self, "window_overlap", minimum=0)
        _keep_int(self, "max_active_dims", minimum=1)
        _keep_float(self, "min_weight", "a finite number of 0.0 or more", minimum=0.0)

    def set(self) -> dict[str, Any]:
        """Return the options that are not None, by name."""
        return {
            option.name: value for option in fields(self) if (value := getattr(self, option.name)) is not None
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """Every option of an index, in groups."""

    server: ServerOptions = field(default_factory=ServerOptions)
    create: CreateOptions = field(default_factory=CreateOptions)
    vectors: VectorOptions = field(default_factory=VectorOptions)
    vector_name: str = "splade"
    dense_name: str = "dense"
    second_name: str | None = None
    """None for the name that the collection stores, for a new one "second"."""
    layout: Layout | None = None
    query_max_active_dims: int | None = None
    indexed_fields: Mapping[str, str] = field(default_factory=dict)
    tenant_field: str | None = None
    engine_in_subprocess: bool = False
    read_only: bool = False
    default_windows: Windows = "truncate"
    metadata: Literal["json", "coerce"] = "json"

    def __post_init__(self) -> None:
        _keep_int(self, "query_max_active_dims", minimum=1)
        if self.metadata not in ("json", "coerce"):
            raise InputError(f"metadata is {self.metadata!r}, expected 'json' or 'coerce'.")
        if not isinstance(self.layout, Layout | None):
            raise InputError(
                f"layout is {type_name(self.layout)}, expected a Layout, or its fields as a dict."
            )
        _check_bool(self, "read_only")
        _check_bool(self, "engine_in_subprocess")

    @classmethod
    def of(cls, keywords: "IndexKeywords") -> Self:
        """Sort keywords into their groups.

        Raises:
            TypeError: There is no such keyword.
            InputError: A value is not valid.
        """
        refuse_unknown("SpladeIndex", keywords, INDEX_ARGUMENTS)
        groups = {"server": ServerOptions, "create": CreateOptions, "vectors": VectorOptions}
        rest: dict[str, Any] = dict(keywords)
        options = {}
        for group, kind in groups.items():
            options[group] = kind(**{o.name: rest.pop(o.name) for o in fields(kind) if o.name in rest})
        if rest.get("indexed_fields", ()) is None:
            del rest["indexed_fields"]
        if isinstance(rest.get("layout"), Mapping):
            rest["layout"] = _layout_of(rest["layout"])
        return cls(**options, **rest)


class ServerKeywords(TypedDict, total=False):
    """The fields of `ServerOptions` as keywords, but for the key."""

    prefer_grpc: bool
    grpc_port: int | None
    timeout: int | None
    retry_for: float | None
    ca: str | Path | None
    verify: bool
    allow_insecure_key: bool


class IndexKeywords(ServerKeywords, total=False):
    """What `SpladeIndex(location, ...)` takes beside its own arguments; described there."""

    windows: Windows | None
    window_overlap: int | None
    max_active_dims: int | None
    min_weight: float | None
    query_max_active_dims: int | None
    vector_name: str
    dense_name: str
    second_name: str | None
    layout: Layout | Mapping[str, Any] | None
    indexed_fields: Mapping[str, str] | None
    tenant_field: str | None
    datatype: Datatype | None
    on_disk: bool | None
    shard_number: int | None
    replication_factor: int | None
    api_key: str | None
    engine_in_subprocess: bool
    read_only: bool
    default_windows: Windows
    metadata: Literal["json", "coerce"]


@dataclass(frozen=True, slots=True)
class Fusion:
    """How a hybrid search joins its rankings, inside the engine.

    Source:
        RRF: Cormack, Clarke, Buettcher, SIGIR 2009; with weights as Qdrant has it: sum over branches of
        1 / (rank / weight + k - 1), ranks from 1.
        DBSF: scores normalised by mean and three standard deviations of each branch, then summed (Qdrant).
    """

    method: Literal["rrf", "dbsf"] = "rrf"
    rrf_k: int = 60
    """With a large value a document needs all rankings to win; with a small one, first place in one."""
    weights: tuple[float, float] | tuple[float, float, float] | None = None
    """Weight of each ranking that the index has, in the order sparse, second, dense; RRF only."""
    depth: int = 200
    """How many places of each branch are read, for any k and offset, so that pages fit together."""

    def __post_init__(self) -> None:
        if self.method not in ("rrf", "dbsf"):
            raise InputError(f"fusion method is {self.method!r}, expected 'rrf' or 'dbsf'.")
        _keep_int(self, "rrf_k", minimum=1)
        _keep_int(self, "depth", minimum=1)
        if self.weights is not None:
            if self.method == "dbsf":
                raise InputError("fusion weights are given with method 'dbsf', which has none. Use 'rrf'.")
            object.__setattr__(self, "weights", _checked_weights(self.weights))

    def best_score(self, rankings: int = 2) -> float:
        """Return the RRF score of a document that is first in all rankings: no hybrid score is higher.

        Args:
            rankings: How many rankings are joined, where no weights say it.

        Raises:
            InputError: If it is not a positive integer.
        """
        weights = self.weights or (1.0,) * checked_int("rankings", rankings, minimum=1)
        return sum(1.0 / (1.0 / weight + self.rrf_k - 1.0) for weight in weights if weight > 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How a search ranks and what it returns, beside query, `k` and filter."""

    offset: int = 0
    """Hits to skip, for the next pages."""
    score_threshold: float | None = None
    """The lowest score that is returned."""
    with_vectors: bool = False
    """Return each hit's stored sparse vector, of the model and not of the second one."""
    mode: Mode | None = None
    """None for "hybrid" where the index has a second model or a dense encoder, else "sparse"."""
    fusion: Fusion = field(default_factory=Fusion)
    """How a hybrid search joins its rankings; RRF with k = 60 unless set."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "offset", checked_int("offset", self.offset, minimum=0))
        _keep_float(self, "score_threshold", "a finite number or None")
        if self.mode not in (None, *MODES):
            raise InputError(f"mode is {self.mode!r}, expected {', '.join(map(repr, MODES))} or None.")
        if not isinstance(self.fusion, Fusion):
            raise InputError(f"fusion is {self.fusion!r}, expected a Fusion or None.")

    def changed(self, **keywords: Unpack["SearchKeywords"]) -> Self:
        """Return these options with some replaced; a `fusion` of None is the default.

        Raises:
            TypeError: There is no such option.
            InputError: A value is not valid.
        """
        refuse_unknown("search", keywords, _SEARCH_ARGUMENTS)
        changes: dict[str, Any] = dict(keywords)
        if changes.get("fusion", ()) is None:
            changes["fusion"] = Fusion()
        return replace(self, **changes) if changes else self


class SearchKeywords(TypedDict, total=False):
    """The fields of `SearchOptions` as keywords of a search."""

    offset: int
    score_threshold: float | None
    with_vectors: bool
    mode: Mode | None
    fusion: Fusion | None


INDEX_ARGUMENTS: Final = (
    "location",
    "collection",
    "model",
    "second_model",
    "dense",
    "client",
    "create",
    "adopt",
    *IndexKeywords.__annotations__,
)
"""Every argument of `SpladeIndex`."""
_SEARCH_ARGUMENTS: Final = ("query", "k", "filter", "options", *SearchKeywords.__annotations__)


def _keep_int(options: Any, name: str, *, minimum: int) -> None:
    """Check a field that is an int or None, and keep it as an int of Python."""
    value = getattr(options, name)
    if value is not None:
        object.__setattr__(options, name, checked_int(name, value, minimum=minimum))


def _keep_float(options: Any, name: str, expected: str, *, minimum: float = -math.inf) -> None:
    """Check a field that is a number or None, and keep it as a float of Python."""
    value = getattr(options, name)
    if value is not None:
        object.__setattr__(options, name, checked_float(name, value, expected, minimum=minimum))


def _check_bool(options: Any, name: str, *, optional: bool = False, advice: str = "") -> None:
    value = getattr(options, name)
    if not isinstance(value, bool) and not (optional and value is None):
        shown = repr(value) if isinstance(value, str | int | float) else type_name(value)
        expected = "True, False or None" if optional else "True or False"
        raise InputError(f"{name} is {shown}, expected {expected}.{advice}")


def _layout_of(stated: Mapping[str, Any]) -> Layout:
    """Return the layout that a configuration states as a dict."""
    names = [option.name for option in fields(Layout)]
    unknown = [str(name) for name in stated if name not in names]
    if unknown:
        raise InputError(f"layout has the key {unknown[0]!r}, expected some of: {', '.join(names)}.")
    return Layout(**stated)


def _checked_weights(weights: Any) -> tuple[float, ...]:
    valid = isinstance(weights, Sequence) and len(weights) in (2, 3) and all(map(is_number, weights))
    if not valid or not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise InputError(
            f"fusion weights are {weights!r}, expected (sparse, dense), or one of each ranking in the order "
            "sparse, second, dense, each >= 0 and not all 0."
        )
    return tuple(map(float, weights))
