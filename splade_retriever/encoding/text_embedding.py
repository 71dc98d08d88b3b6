"""SparseTextEmbedding: texts to sparse embeddings, by a model's card, tokenizer and session."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator, Iterable, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Never, Self, TypeVar
from weakref import WeakValueDictionary

from splade_retriever.encoding.batching import TokenBatch
from splade_retriever.encoding.encode_stream import cores, encode_stream
from splade_retriever.encoding.fastembed_keywords import refuse_keywords
from splade_retriever.encoding.model_cards import (
    PRECISIONS,
    Activation,
    Catalogue,
    ModelCard,
    Precision,
    QuerySide,
    published,
)
from splade_retriever.encoding.model_files import (
    ModelFiles,
    ModelSource,
    bundled_doc_folder,
    bundled_folder,
    locate,
)
from splade_retriever.encoding.model_session import SharedSessions
from splade_retriever.encoding.query_weights import QueryWeights
from splade_retriever.encoding.token_weights import TokenWeights
from splade_retriever.encoding.tokenizer import TokenIds, Tokenizer, check_text, checked_ids
from splade_retriever.errors import InputError, ModelOutputError
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import checked_int, plain, type_name

if TYPE_CHECKING:
    from splade_retriever.encoding.batch_plan import BatchPlan
    from splade_retriever.encoding.session import DeviceSessions, ProviderArgument, Session
    from splade_retriever.encoding.token_origins import TokenOrigin, TokenOrigins

__all__ = ["SparseTextEmbedding"]

logger = logging.getLogger(__name__)

Encoding = TypeVar("Encoding", bound="SparseTextEmbedding")

_COUNT_BATCH_SIZE: Final = 256
_QUERY_KEYWORDS: Final = ("batch_size", "parallel")
_EMBED_KEYWORDS: Final = (*_QUERY_KEYWORDS, "show_progress")
_INIT_KEYWORDS: Final = (
    "model_name",
    "cache_dir",
    "threads",
    "providers",
    "lazy_load",
    "enable_cpu_mem_arena",
    "precision",
    "max_length",
    "local_files_only",
    "specific_model_path",
    "revision",
    "accept_license",
)


class SparseTextEmbedding:
    """A SPLADE model; safe to share between threads.

    Names and call shapes are FastEmbed's, and so are the numbers from the same ONNX file.

    Attributes:
        model_name: The model's name; a folder without a card is named after itself.
        max_length: Tokens per text that are read, special ones included.
        vocab_size: Entries of the vocabulary.
        tokenizer: The model's own tokenizer.
        precision: "fp32", "fp16" or "int8".
        truncated: Texts that were longer than `max_length` and were truncated, since the model was opened.
        unreadable: Texts without a token that the model knows, since the model was opened: emoji, another
            script, or nothing. The bundled model gives them an empty vector.
    """

    _catalogue: ClassVar[Catalogue] = Catalogue(published())
    _sessions: ClassVar[SharedSessions] = SharedSessions()
    _tokenizers: ClassVar[WeakValueDictionary[tuple[object, ...], Tokenizer]] = WeakValueDictionary()

    def __init__(  # noqa: PLR0917 - the order of FastEmbed's arguments
        self,
        model_name: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        providers: Sequence[ProviderArgument] | None = None,
        cuda: object = None,
        device_ids: Sequence[int] | None = None,
        lazy_load: bool = False,
        *,
        enable_cpu_mem_arena: bool = True,
        precision: Precision | None = None,
        max_length: int | None = None,
        local_files_only: bool = False,
        specific_model_path: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        accept_license: bool = False,
        **fastembed: Never,
    ) -> None:
        """Open a model; a published one is downloaded the first time and read from the cache afterwards.

        Args:
            model_name: A name of `list_supported_models()`, in any case, or the path of a model folder or of
                an archive of `splade bundle`; None is the bundled model, which needs no download. A known
                name wins over a folder of that name.
            cache_dir: The folder for downloads; None is huggingface_hub's cache (`HF_HOME`).
            threads: Batches that are computed at once; None means one per core.
            providers: ONNX Runtime execution providers, used exactly as given, without a fallback: names, or
                pairs of a name and its options.
            cuda: FastEmbed's argument; a value that asks for a GPU is an error that names `providers`.
            device_ids: Devices of the first of `providers`, each with a session; batches are computed on
                all of them at once. None is the provider's default device.
            enable_cpu_mem_arena: Let ONNX Runtime keep freed memory for later calls; False returns it to the
                system and is slower.
            lazy_load: Open the ONNX session when the first text is encoded. Of a model whose queries need no
                network, only the tokenizer and the table of query weights are downloaded until then.
            precision: "fp32" for the reference's numbers, "int8" for about twice the speed on processors,
                "fp16" for GPUs; None is the precision of the model's card: fp32 for published models, int8
                for the bundled one.
            max_length: Tokens per text to read; None is the model's own limit, which is the maximum.
            local_files_only: Never use the network, as with `HF_HUB_OFFLINE=1`.
            specific_model_path: A folder with the model's files, in place of the download.
            revision: Commit, branch or tag of the repository; None is the card's.
            accept_license: True states that you have read a non-commercial licence and comply with it. The
                environment variable `SPLADE_ACCEPT_LICENSE` does the same for the licences or models that it
                names, separated by commas.
            **fastembed: Arguments of FastEmbed's other models are refused with what to use instead.

        Raises:
            UnknownModelError: If no model has that name; similar names are suggested.
            LicenseError: If the licence is non-commercial and was not accepted; nothing is downloaded before.
            ModelFilesError: If a file is missing and could not be downloaded.
            ModelGraphError: If the ONNX file cannot be opened or quantised.
            InputError: If an argument is not valid.
        """
        refuse_keywords("SparseTextEmbedding", fastembed, _INIT_KEYWORDS)
        device_ids = _device_ids(device_ids)
        _refuse_fastembed_devices(cuda, device_ids if providers is None else None)
        threads = checked_int("threads", threads, minimum=1, optional=True)
        max_length = checked_int("max_length", max_length, minimum=1, optional=True)
        enable_cpu_mem_arena = plain(enable_cpu_mem_arena)
        if not isinstance(enable_cpu_mem_arena, bool):
            raise InputError(f"enable_cpu_mem_arena is {enable_cpu_mem_arena!r}, expected True or False.")
        self._arguments: dict[str, Any] = {
            "model_name": model_name,
            "cache_dir": cache_dir,
            "threads": threads,
            "providers": providers,
            "device_ids": device_ids,
            "enable_cpu_mem_arena": enable_cpu_mem_arena,
            "precision": precision,
            "max_length": max_length,
            "local_files_only": local_files_only,
            "specific_model_path": specific_model_path,
            "revision": revision,
            "accept_license": accept_license,
        }
        source = ModelSource(
            specific_model_path=specific_model_path,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
            accept_license=accept_license,
        )
        self._threads, self._providers, self._device_ids = threads, providers, device_ids
        self._cpu_mem_arena = enable_cpu_mem_arena
        self._files = locate(model_name, source, catalogue=self._catalogue, lazy=lazy_load)
        card = self._card = self._files.card
        self.precision: Precision = _precision(precision, self._files)
        self.model_name = card.model
        self.max_length = _max_length(max_length, card)
        self.tokenizer = self._shared_tokenizer()
        self.vocab_size = card.vocab_size or self.tokenizer.vocab_size
        self.truncated = self.unreadable = 0
        self._query_weights = _query_weights(self._files, self.tokenizer)
        self._processes: dict[int, _ProcessState] = {}
        if not lazy_load:
            self._opened_session()

    def __repr__(self) -> str:
        return (
            f"SparseTextEmbedding({self.model_name!r}, precision={self.precision!r}, "
            f"max_length={self.max_length})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle or a deep copy holds the arguments; the session is opened again at its first text.
        return _reopened, (type(self), self._arguments)

    def with_threads(self, threads: int | None) -> Self:
        """Return an encoder of the same model that computes another number of batches at once.

        Encoders of one process share the model's weights.
        """
        return _reopened(type(self), {**self._arguments, "threads": threads})

    # -- models ----------------------------------------------------------------------------------------------

    @classmethod
    def list_supported_models(cls) -> list[dict[str, Any]]:
        """Return one dict per model, with FastEmbed's keys and some more, the bundled models first.

        Among the keys: model, sources (`{"hf": ...}`), model_file, description, license, size_in_GB,
        vocab_size, activation, query_side, revision, export_needed (no ONNX file is published) and
        non_commercial.
        """
        bundled = [bundled_folder().card, bundled_doc_folder().card]
        return [card.as_dict() for card in chain(bundled, cls._catalogue)]

    @classmethod
    def add_custom_model(
        cls,
        model: str,
        *,
        sources: Mapping[str, str],
        model_file: str = "model.onnx",
        additional_files: Sequence[str] = (),
        description: str = "",
        license: str = "",
        size_in_gb: float = 0.0,
        vocab_size: int = 0,
        max_length: int = 512,
        activation: Activation = "log1p",
        query_side: QuerySide = "symmetric",
        zero_special_tokens: bool | None = None,
        revision: str | None = None,
    ) -> None:
        """Register a model of the hub by name, for this process. A model folder needs no registration.

        Args:
            model: The name of the model.
            sources: `{"hf": "owner/name"}`, the repository.
            model_file: Path of the ONNX file in it.
            additional_files: More files that it needs, such as external weights (`model.onnx_data`).
            description: One sentence.
            license: SPDX identifier; one with "-nc" must be accepted on opening.
            size_in_gb: Size of the weights.
            vocab_size: Entries of the vocabulary; 0 takes the tokenizer's.
            max_length: Tokens per text that the model reads.
            activation: "log1p", or "log1p_log1p" for the third OpenSearch series.
            query_side: "symmetric", "idf" (the repository has an `idf.json`) or "ones".
            zero_special_tokens: Special tokens get no weight; None means only if queries need no network.
            revision: The commit to download.

        Raises:
            InputError: If a value is not valid, or a model of that name has other settings.
        """
        repository = sources.get("hf") if isinstance(sources, Mapping) and len(sources) == 1 else None
        if not isinstance(repository, str) or repository.count("/") != 1:
            raise InputError(
                f"add_custom_model got sources={sources!r}, expected {{'hf': 'owner/name'}}. For a "
                f"folder, pass its path to SparseTextEmbedding."
            )
        if isinstance(additional_files, str) or not isinstance(additional_files, Iterable):
            raise InputError(
                f"add_custom_model got additional_files={additional_files!r}, expected a list of paths."
            )
        cls._catalogue.add(
            ModelCard(
                model=model,
                source=repository,
                model_file=model_file,
                additional_files=tuple(additional_files),
                description=description,
                license=license,
                size_gb=size_in_gb,
                vocab_size=vocab_size,
                max_length=max_length,
                activation=activation,
                query_side=query_side,
                zero_special_tokens=(
                    query_side != "symmetric" if zero_special_tokens is None else zero_special_tokens
                ),
                revision=revision,
            )
        )

    def save_archive(self, path: str | os.PathLike[str]) -> dict[str, int]:
        """Write the model to one file, which opens in place of its name on a machine without a network.

        The archive holds a SHA-256 digest of every file, the card and the licence; a changed byte is refused.

        Args:
            path: The file to write; its name ends in .tar.

        Returns:
            The size of each file in it, in bytes.

        Raises:
            InputError: If it is no path, or has another extension.
            ModelFilesError: If a file of the model could not be downloaded, or changed since.
            StorageError: If the file cannot be written.
        """
        from splade_retriever.encoding.model_archive import write_archive

        if not isinstance(path, str | os.PathLike):
            raise InputError(f"The archive is {type_name(path)}, expected a path that ends in .tar.")
        model = self._files.onnx_file()
        self._files.check_unchanged()
        folder = replace(self._files.folder, model=model)
        return write_archive(folder, Path(path).expanduser(), commit=self._files.commit)

    @property
    def fingerprint(self) -> dict[str, str | int | None]:
        """Everything that decides a document's vector; models with equal fingerprints return equal vectors.

        `revision` is the commit of a downloaded model, and a digest of the files of a folder. A model that
        shares the network of another one also states that model and its revision.
        """
        shared: dict[str, str | int | None] = {}
        if self._card.documents_by is not None:
            shared = {
                "documents_by": self._card.documents_by,
                "document_revision": self._files.document_revision,
            }
        return {
            "model": self.model_name,
            "revision": self._files.revision,
            "precision": self.precision,
            "activation": self._card.activation,
            "pooling": "max",
            "query_side": self._card.query_side,
            "zero_special_tokens": self._card.zero_special_tokens,
            "max_length": self.max_length,
            **shared,
        }

    # -- encoding --------------------------------------------------------------------------------------------

    def embed(
        self,
        documents: str | Iterable[str],
        batch_size: int | None = None,
        parallel: int | None = None,
        *,
        show_progress: bool = False,
        **fastembed: Never,
    ) -> Generator[SparseEmbedding, None, None]:
        """Encode documents, one embedding per text, in order.

        A vector depends only on its text, never on the rest of the batch. A stream of any length runs in
        bounded memory: at most two windows are read ahead, and the second is computed while the first is
        consumed. A window is 512 texts or a million characters on two cores, and more on more cores. Closing
        the generator early ends its threads. A text without a token that the model knows is counted
        (`unreadable`); the bundled model gives it an empty vector, other models the weights of its special
        tokens.

        Args:
            documents: A text or any iterable of texts.
            batch_size: Texts per batch; None for as many as fit into 512 tokens and 16 MB of weights, which
                are the limits in any case.
            parallel: Batches that are computed at once, in threads of this process; None for `threads`, 0
                for all cores.
            show_progress: Show a progress bar on stderr.
            **fastembed: Refused.

        Raises:
            InputError: If an argument is not valid, before anything is encoded. If an item is not a str or
                has a lone surrogate, after the embeddings of all items before it; the message states its
                position.
            ModelOutputError: If the model's output is not finite or has an unexpected shape.
        """
        refuse_keywords("embed", fastembed, _EMBED_KEYWORDS)
        batch_size = checked_int("batch_size", batch_size, minimum=1, optional=True)
        parallel = checked_int("parallel", parallel, minimum=0, optional=True)
        texts = _as_texts("embed", documents)
        workers = cores() if parallel == 0 else parallel
        vectors = self._embed(texts, batch_size, workers)
        return self._with_progress(vectors, texts) if show_progress else vectors

    def passage_embed(
        self,
        texts: str | Iterable[str],
        batch_size: int | None = None,
        parallel: int | None = None,
        *,
        show_progress: bool = False,
        **fastembed: Never,
    ) -> Generator[SparseEmbedding, None, None]:
        """Encode documents; the same as `embed`."""
        refuse_keywords("passage_embed", fastembed, _EMBED_KEYWORDS)
        return self.embed(texts, batch_size, parallel, show_progress=show_progress)

    def query_embed(
        self,
        query: str | Iterable[str],
        batch_size: int | None = None,
        parallel: int | None = None,
        **fastembed: Never,
    ) -> Generator[SparseEmbedding, None, None]:
        """Encode queries, one embedding per text, in order.

        A symmetric model encodes a query as it does a document. If its card says so, as that of the bundled
        model does, only the largest weights are kept (`query_max_active_dims`) and all are raised to a power
        (`query_power`). With an asymmetric model each unique token of the query has a fixed weight and may
        add others, from a table, and no ONNX session is opened.

        Args:
            query: A text or any iterable of texts.
            batch_size: As for `embed`.
            parallel: As for `embed`.
            **fastembed: Refused.

        Raises:
            InputError: As for `embed`.
        """
        refuse_keywords("query_embed", fastembed, _QUERY_KEYWORDS)
        if self._query_weights is None:
            return _as_queries(self.embed(query, batch_size, parallel), self._card)
        checked_int("batch_size", batch_size, minimum=1, optional=True)
        checked_int("parallel", parallel, minimum=0, optional=True)
        weighed = self._weigh_queries(_as_texts("query_embed", query), self._query_weights)
        return _as_queries(weighed, self._card)

    def token_count(
        self, texts: str | Iterable[str], batch_size: int = _COUNT_BATCH_SIZE, **fastembed: Never
    ) -> int:
        """Count the tokens of all texts, not truncated (FastEmbed truncates), special tokens included.

        Args:
            texts: A text or any iterable of texts.
            batch_size: Texts that are tokenised at once.
            **fastembed: Refused.

        Raises:
            InputError: If an item is not a str; the message states its position.
        """
        refuse_keywords("token_count", fastembed, ("texts", "batch_size"))
        batch_size = checked_int("batch_size", batch_size, minimum=1)
        stream = iter(_as_texts("token_count", texts))
        total = start = 0
        while batch := list(islice(stream, batch_size)):
            for position, text in enumerate(batch, start):
                check_text(text, position)
            start += len(batch)
            total += sum(len(item.ids) + item.truncated for item in self.tokenizer.encode_batch(batch))
        return total

    def tokens_and_weights(self, embedding: SparseEmbedding) -> TokenWeights:
        """Return `{token: weight}`, the largest weight first; a notebook shows it as a table with bars.

        Raises:
            InputError: If it is no embedding, or has an id that the vocabulary does not have.
        """
        return TokenWeights(SparseEmbedding.from_like(embedding).tokens_and_weights(self.tokenizer))

    def token_origins(self, text: str, ids: Sequence[int]) -> dict[int, TokenOrigin]:
        """Find which token of a text each weight of its vector comes from.

        The model is run without pooling. This takes as long as encoding the text; the first call also opens
        a second ONNX session.

        Args:
            text: The text, read as far as the model reads.
            ids: Vocabulary entries, such as those of an expansion.

        Returns:
            Id -> the token whose logit is the largest; without entries that have no weight, or the largest
            one at a special token.

        Raises:
            InputError: If the text is not a str, or an id is not one of the vocabulary.
            ModelGraphError: If the model's graph pools in another way than graphs of this package.
        """
        check_text(text, 0)
        return self._opened_origins().find(text, checked_ids(ids))

    def _opened_origins(self) -> TokenOrigins:
        from splade_retriever.encoding.token_origins import TokenOrigins

        process = self._this_process()
        with process.opening:
            if process.origins is None:
                process.origins = TokenOrigins(
                    self._files,
                    self.tokenizer,
                    providers=self._providers,
                    cpu_mem_arena=self._cpu_mem_arena,
                )
            return process.origins

    def _embed(
        self, texts: Iterable[str], batch_size: int | None, workers: int | None
    ) -> Generator[SparseEmbedding, None, None]:
        session = self._opened_session()
        zeroed = self.tokenizer.special_ids if self._card.zero_special_tokens else []
        plan = self._this_process().plan
        max_texts = max(1, plan.weights // self.vocab_size)
        special = frozenset(self.tokenizer.special_ids)
        total = truncated = 0

        def encode(batch: TokenBatch) -> list[SparseEmbedding]:
            weights = session.weights(batch.input_ids, batch.attention_mask)
            if zeroed:
                weights[:, zeroed] = 0
            try:
                return [SparseEmbedding.from_dense(row) for row in weights]
            except InputError as error:
                raise ModelOutputError(
                    f"Model {self.model_name!r} returned a vector that is not valid: {error} The ONNX file "
                    f"is damaged, or its precision overflows. Download or export it again."
                ) from error

        def count(window: Sequence[TokenIds]) -> None:
            nonlocal total, truncated
            total += len(window)
            longer = sum(text.truncated for text in window)
            truncated += longer
            self._count(longer, sum(special.issuperset(text.ids) for text in window))

        try:
            yield from encode_stream(
                texts,
                encode,
                tokenizer=self.tokenizer,
                workers=workers or self._threads or plan.workers or cores(),
                max_tokens=plan.tokens,
                min_tokens=plan.min_tokens,
                max_texts=max_texts if batch_size is None else min(batch_size, max_texts),
                on_window=count,
            )
        finally:
            if truncated:
                logger.info("Truncated %d of %d texts to %d tokens", truncated, total, self.max_length)

    def _weigh_queries(
        self, texts: Iterable[str], weights: QueryWeights
    ) -> Generator[SparseEmbedding, None, None]:
        special = frozenset(self.tokenizer.special_ids)
        for position, text in enumerate(texts):
            check_text(text, position)
            content = self.tokenizer.encode_content(text)
            self._count(int(content.truncated), int(special.issuperset(content.ids)))
            yield weights.embed(content.ids)

    def _count(self, truncated: int, unreadable: int) -> None:
        """Count texts that were truncated, and texts without a token that the model knows."""
        if not truncated and not unreadable:
            return
        with self._this_process().counting:
            first_truncated = truncated and not self.truncated
            first_unreadable = unreadable and not self.unreadable
            self.truncated += truncated
            self.unreadable += unreadable
        if first_unreadable:
            logger.warning(
                "A text has no token that model %r knows, such as a text in another script, so it cannot be "
                "searched by its words. This warning appears once; `unreadable` counts such texts.",
                self.model_name,
            )
        if first_truncated:
            logger.warning(
                "A text is longer than the %d tokens that model %r reads, and the rest of it is ignored. "
                "This warning appears once; `truncated` counts such texts. SpladeIndex(windows='merge') "
                "reads complete texts.",
                self.max_length,
                self.model_name,
            )

    def _with_progress(
        self, vectors: Generator[SparseEmbedding, None, None], texts: Iterable[str]
    ) -> Generator[SparseEmbedding, None, None]:
        from tqdm.auto import tqdm

        total = len(texts) if isinstance(texts, Sized) else None
        with tqdm(total=total, unit="text", desc=self.model_name) as bar, closing(vectors):
            for vector in vectors:
                yield vector
                bar.update()

    def _shared_tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the model's files; the encoders of a process share it."""
        key = (os.getpid(), self._files.tokenizer_digest, self.max_length)
        tokenizer = self._tokenizers.get(key)
        if tokenizer is None:
            tokenizer = Tokenizer.from_file(self._files.folder.tokenizer, max_length=self.max_length)
            self._tokenizers[key] = tokenizer
        return tokenizer

    def _opened_session(self) -> Session | DeviceSessions:
        process = self._this_process()
        with process.opening:
            if process.session is None:
                process.session, process.plan = self._sessions.open(
                    self._files,
                    precision=self.precision,
                    providers=self._providers,
                    device_ids=self._device_ids,
                    cpu_mem_arena=self._cpu_mem_arena,
                )
            return process.session

    def _this_process(self) -> _ProcessState:
        # setdefault is atomic. The parent's state stays in a forked child: its session is never used there.
        return self._processes.setdefault(os.getpid(), _ProcessState())


class _ProcessState:
    """The session of one encoder in one process, and its locks."""

    __slots__ = ("counting", "opening", "origins", "plan", "session")

    def __init__(self) -> None:
        self.opening, self.counting = threading.Lock(), threading.Lock()
        self.session: Session | DeviceSessions | None = None
        self.plan: BatchPlan
        self.origins: TokenOrigins | None = None


def _query_weights(files: ModelFiles, tokenizer: Tokenizer) -> QueryWeights | None:
    """Load the weights of an inference-free model; None where queries go through the network."""
    if files.card.query_side == "symmetric":
        return None
    special, table = tokenizer.special_ids, files.folder.query_weights
    if table is None:
        return QueryWeights.ones(tokenizer.vocab_size, without=special)
    return QueryWeights.from_file(table, tokenizer.vocabulary, without=special)


def _as_queries(
    vectors: Generator[SparseEmbedding, None, None], card: ModelCard
) -> Generator[SparseEmbedding, None, None]:
    """Turn the weights of texts into those of queries, as the card says."""
    with closing(vectors):
        for vector in vectors:
            limit = card.query_max_active_dims
            kept = vector if limit is None else vector.top(limit)
            yield kept if card.query_power == 1.0 else kept.power(card.query_power)


def _reopened(kind: type[Encoding], arguments: Mapping[str, Any]) -> Encoding:
    return kind(**arguments, lazy_load=True)


def _refuse_fastembed_devices(cuda: object, device_ids: object) -> None:
    """Refuse FastEmbed's device arguments where they ask for a GPU.

    `cuda` may be None, a bool or FastEmbed's `Device`, whose values are "cpu", "cuda" and "auto".
    """
    no_gpu = cuda in (None, False) or getattr(cuda, "value", cuda) in ("cpu", "auto")
    for name, value, accepted in (("cuda", cuda, no_gpu), ("device_ids", device_ids, not device_ids)):
        if not accepted:
            raise InputError(
                f"SparseTextEmbedding does not take {name}={value!r}: the device is chosen by the name of an "
                f"execution provider. Pass providers=['CUDAExecutionProvider'] and install onnxruntime-gpu."
            )


def _device_ids(device_ids: object) -> list[int] | None:
    if device_ids is None:
        return None
    if isinstance(device_ids, str) or not isinstance(device_ids, Iterable):
        raise InputError(f"device_ids is {device_ids!r}, expected a list of ints.")
    numbers: list[int] = plain(list(device_ids))
    return numbers


def _precision(requested: Precision | None, files: ModelFiles) -> Precision:
    card = files.card
    if requested is None:
        return card.precision
    if requested not in PRECISIONS:
        raise InputError(f"precision is {requested!r}, expected 'fp32', 'fp16' or 'int8'.")
    if files.folder.finished and requested != "int8" and card.precision == "int8":
        raise InputError(
            f"precision is {requested!r}, and model {card.model!r} exists only as int8. Leave precision= "
            f"out, or open another model."
        )
    return requested


def _max_length(requested: int | None, card: ModelCard) -> int:
    if requested is not None and requested > card.max_length:
        raise InputError(
            f"max_length is {requested}, and model {card.model!r} reads at most {card.max_length} tokens. "
            f"Pass a smaller number, or split long texts with SpladeIndex(windows='merge')."
        )
    return requested or card.max_length


def _as_texts(caller: str, texts: object) -> Iterable[str]:
    """Return one text or several as an iterable; raise InputError for anything else."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, bytes | bytearray) or not isinstance(texts, Iterable):
        raise InputError(f"{caller} got {type_name(texts)}, expected a str or an iterable of str.")
    return texts
