"""Texts to sparse embeddings: card, files, tokenizer and session put together."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator, Iterable, Mapping, Sequence, Sized
from contextlib import closing
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, ClassVar, Final

from splade_retriever.encoding.encode_stream import cores, encode_stream
from splade_retriever.encoding.model_cards import (
    Activation,
    Catalogue,
    ModelCard,
    Precision,
    QuerySide,
    published,
)
from splade_retriever.encoding.model_files import ModelSource, bundled_folder, locate
from splade_retriever.encoding.query_weights import StaticWeights
from splade_retriever.encoding.token_weights import TokenWeights
from splade_retriever.encoding.tokenizer import Head, TokenBatch, Tokenizer, check_text
from splade_retriever.errors import InputError, ModelOutputError
from splade_retriever.sparse import SparseEmbedding

if TYPE_CHECKING:
    from splade_retriever.encoding.session import Session

__all__ = ["SparseTextEmbedding"]

log = logging.getLogger(__name__)

_COUNTED_AT_ONCE: Final = 256
# What leaves the session is one float32 a vocabulary entry and text: 16 MB, however short the texts are.
_WEIGHTS_OF_A_BATCH: Final = 4_000_000


class SparseTextEmbedding:
    """A SPLADE model; safe to share between threads.

    Names and call shapes are FastEmbed's, and so are the numbers from the same ONNX file.

    Attributes:
        model_name: The model's name; a folder without a card is named after itself.
        max_length: Tokens of a text that are read, special ones included.
        vocab_size: Entries of the vocabulary.
        tokenizer: The model's own tokenizer.
        precision: "fp32" or "int8".
        truncated: Texts that were longer than `max_length` and were cut, since the model was opened.
    """

    _catalogue: ClassVar[Catalogue] = Catalogue(published())

    def __init__(
        self,
        model_name: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
        *,
        cuda: object = None,
        device_ids: object = None,
        lazy_load: bool = False,
        precision: Precision | None = None,
        max_length: int | None = None,
        local_files_only: bool = False,
        specific_model_path: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        accept_license: bool = False,
    ) -> None:
        """Open a model; a published one is downloaded the first time and read from the cache from then on.

        Args:
            model_name: A name of `list_supported_models()`, in any case, or the path of a model folder; None
                is the bundled model, which needs no download. A known name goes before a folder of that name.
            cache_dir: Where downloads are kept; None is huggingface_hub's cache (`HF_HOME`).
            threads: Batches computed at once; None means one a core.
            providers: ONNX Runtime execution providers, used exactly as given: no fallback to another one.
            cuda: FastEmbed's; refused with a pointer to `providers`, where it asks for a GPU.
            device_ids: FastEmbed's; refused likewise.
            lazy_load: Open the ONNX session when the first text is encoded. A model whose queries need no
                network is then not even downloaded until a document is encoded, only its tokenizer and table.
            precision: "fp32" for the reference's numbers, "int8" for about twice the speed; None is what the
                model's card says: fp32 for published models, int8 for the bundled one.
            max_length: Tokens of a text to read; None is the model's own limit, which cannot be exceeded.
            local_files_only: Never use the network, as with `HF_HUB_OFFLINE=1`.
            specific_model_path: A folder with the model's files, in place of the download.
            revision: Commit, branch or tag of the repository; None is the card's.
            accept_license: True states that you have read a non-commercial licence and keep to it. The
                environment variable `SPLADE_ACCEPT_LICENSE` does the same for the licences or models that it
                names, separated by commas.

        Raises:
            UnknownModelError: If no model has that name; near names are suggested.
            LicenseError: If the licence is non-commercial and was not accepted; nothing is downloaded before.
            ModelFilesError: If the files are not here and cannot be had, or lack something.
            ModelGraphError: If the ONNX file cannot be opened, or not be quantised.
            InputError: If an argument makes no sense.
        """
        _refuse_fastembed_devices(cuda, device_ids)
        _check_count("threads", threads, least=1)
        source = ModelSource(
            specific_model_path=specific_model_path,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
            accept_license=accept_license,
        )
        self._threads, self._providers = threads, providers
        self._files = locate(model_name, source, catalogue=self._catalogue, lazy=lazy_load)
        card = self._card = self._files.card
        self.precision: Precision = _precision(precision, card, finished=self._files.folder.finished)
        self.model_name = card.model
        self.max_length = _max_length(max_length, card)
        self.tokenizer = Tokenizer.from_file(self._files.folder.tokenizer, max_length=self.max_length)
        self.vocab_size = card.vocab_size or self.tokenizer.vocab_size
        self.truncated = 0
        self._static = self._static_weights()
        self._session: Session | None = None
        self._opening, self._counting = threading.Lock(), threading.Lock()
        if not lazy_load:
            self._opened()

    def __repr__(self) -> str:
        return (
            f"SparseTextEmbedding({self.model_name!r}, precision={self.precision!r}, "
            f"max_length={self.max_length})"
        )

    # -- models ----------------------------------------------------------------------------------------------

    @classmethod
    def list_supported_models(cls) -> list[dict[str, Any]]:
        """Return one dict a model, in FastEmbed's keys and some more, the bundled model first.

        Among the keys: model, sources (`{"hf": ...}`), model_file, description, license, size_in_GB,
        vocab_size, activation, query_side, revision, export_needed (no ONNX file is published) and
        non_commercial.
        """
        return [card.as_dict() for card in chain([bundled_folder().card], cls._catalogue)]

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
        """Make a model of the hub known by name, for this process. A model folder needs no such call.

        Args:
            model: The name to ask for.
            sources: `{"hf": "owner/name"}`, the repository.
            model_file: Path of the ONNX file in it.
            additional_files: More files that it needs, such as external weights (`model.onnx_data`).
            description: One sentence.
            license: SPDX identifier; one with "-nc" must be accepted on opening.
            size_in_gb: Size of the weights.
            vocab_size: Entries of the vocabulary; 0 takes the tokenizer's.
            max_length: Tokens that the model reads.
            activation: "log1p", or "log1p_log1p" for the third OpenSearch series.
            query_side: "symmetric", "idf" (the repository has an `idf.json`) or "ones".
            zero_special_tokens: Special tokens get no weight; None: only where queries need no network.
            revision: A commit to pin.

        Raises:
            InputError: If a value makes no sense, or the name is taken by a model with other settings.
        """
        if set(sources) != {"hf"} or not isinstance(sources["hf"], str) or sources["hf"].count("/") != 1:
            raise InputError(
                f"add_custom_model got sources={dict(sources)!r}, expected {{'hf': 'owner/name'}}. For a "
                f"folder, pass its path to SparseTextEmbedding."
            )
        cls._catalogue.add(
            ModelCard(
                model=model,
                source=sources["hf"],
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

    @property
    def fingerprint(self) -> dict[str, str | int | None]:
        """Everything that decides a document's vector; two models of one fingerprint give the same ones.

        `revision` is the commit of a downloaded model, and a digest of the files of a folder.
        """
        return {
            "model": self.model_name,
            "revision": self._files.revision,
            "precision": self.precision,
            "activation": self._card.activation,
            "pooling": "max",
            "query_side": self._card.query_side,
            "zero_special_tokens": self._card.zero_special_tokens,
            "max_length": self.max_length,
        }

    # -- encoding --------------------------------------------------------------------------------------------

    def embed(
        self,
        documents: str | Iterable[str],
        batch_size: int | None = None,
        parallel: int | None = None,
        *,
        show_progress: bool = False,
    ) -> Generator[SparseEmbedding, None, None]:
        """Encode documents, one embedding a text, in order.

        No vector depends on what else is encoded with it. A stream of any length runs in bounded memory: at
        most two windows are read ahead, the second computed while the first is taken away; a window is 512
        texts or a million characters on two cores, more on more. Closing the generator early ends its
        threads. An empty text is a text: it has the weights that the model gives its special tokens.

        Args:
            documents: A text or any iterable of texts.
            batch_size: Texts of one batch at most; None for as many as fit into 512 tokens and 16 MB
                of weights, which are the limits in any case.
            parallel: Batches computed at once, in threads of this process; None for `threads`, 0 for all
                cores.
            show_progress: Show a progress bar on stderr.

        Raises:
            InputError: If an argument makes no sense, at once; if an item is not a str or has a lone
                surrogate, in its place: everything before it is yielded first, and the message names its
                position.
            ModelOutputError: If the model's output is not finite or has an unexpected shape.
        """
        _check_count("batch_size", batch_size, least=1)
        _check_count("parallel", parallel, least=0)
        texts = _as_texts("embed", documents)
        workers = cores() if parallel == 0 else parallel
        vectors = self._embed(texts, batch_size, workers)
        return self._progress(vectors, texts) if show_progress else vectors

    def passage_embed(
        self,
        texts: str | Iterable[str],
        batch_size: int | None = None,
        parallel: int | None = None,
        *,
        show_progress: bool = False,
    ) -> Generator[SparseEmbedding, None, None]:
        """Encode documents; the same as `embed`."""
        return self.embed(texts, batch_size, parallel, show_progress=show_progress)

    def query_embed(
        self,
        query: str | Iterable[str],
        batch_size: int | None = None,
        parallel: int | None = None,
    ) -> Generator[SparseEmbedding, None, None]:
        """Encode queries, one embedding a text, in order.

        A symmetric model encodes a query as it does a document; where its card says so, as that of the
        bundled model does, only the heaviest weights are kept (`query_max_active_dims`) and all are raised to
        a power (`query_power`). Of an asymmetric model each unique token of the query has its fixed weight,
        and no ONNX session is opened.

        Args:
            query: A text or any iterable of texts.
            batch_size: As for `embed`.
            parallel: As for `embed`.

        Raises:
            InputError: As for `embed`.
        """
        if self._static is None:
            return _as_queries(self.embed(query, batch_size, parallel), self._card)
        _check_count("batch_size", batch_size, least=1)
        _check_count("parallel", parallel, least=0)
        return self._weigh(_as_texts("query_embed", query), self._static)

    def token_count(self, texts: str | Iterable[str], batch_size: int = _COUNTED_AT_ONCE) -> int:
        """Count the tokens of all texts, uncut, special tokens included.

        Args:
            texts: A text or any iterable of texts.
            batch_size: Texts tokenised at once.

        Raises:
            InputError: If an item is not a str; the message names its position.
        """
        _check_count("batch_size", batch_size, least=1)
        stream = iter(_as_texts("token_count", texts))
        total = start = 0
        while some := list(islice(stream, batch_size)):
            for position, text in enumerate(some, start):
                check_text(text, position)
            start += len(some)
            total += sum(len(item.ids) + item.truncated for item in self.tokenizer.encode_batch(some))
        return total

    def tokens_and_weights(self, embedding: SparseEmbedding) -> TokenWeights:
        """Read an embedding back: `{token: weight}`, the heaviest first; a table with bars in a notebook."""
        return TokenWeights(embedding.tokens_and_weights(self.tokenizer))

    def _embed(
        self, texts: Iterable[str], batch_size: int | None, workers: int | None
    ) -> Generator[SparseEmbedding, None, None]:
        session = self._opened()
        zeroed = self.tokenizer.special_ids if self._card.zero_special_tokens else []
        most = max(1, _WEIGHTS_OF_A_BATCH // self.vocab_size)
        seen = cut = 0

        def encode(batch: TokenBatch) -> list[SparseEmbedding]:
            weights = session.weights(batch.input_ids, batch.attention_mask)
            if zeroed:
                weights[:, zeroed] = 0
            try:
                return [SparseEmbedding.from_dense(row) for row in weights]
            except InputError as err:
                raise ModelOutputError(
                    f"Model {self.model_name!r} gave a vector that is none: {err} The ONNX file is damaged, "
                    f"or its precision overflows; fetch or export it again."
                ) from err

        def count(heads: Sequence[Head]) -> None:
            nonlocal seen, cut
            seen += len(heads)
            longer = sum(head.cut for head in heads)
            cut += longer
            if longer:
                self._tell_cut(longer)

        try:
            yield from encode_stream(
                texts,
                encode,
                tokenizer=self.tokenizer,
                workers=workers or session.threads,
                max_texts=most if batch_size is None else min(batch_size, most),
                on_window=count,
            )
        finally:
            if cut:
                log.info("%d of %d texts were cut at %d tokens", cut, seen, self.max_length)

    def _weigh(self, texts: Iterable[str], static: StaticWeights) -> Generator[SparseEmbedding, None, None]:
        for position, text in enumerate(texts):
            check_text(text, position)
            content = self.tokenizer.content(text)
            if content.cut:
                self._tell_cut(1)
            yield static.embed(content.ids)

    def _tell_cut(self, texts: int) -> None:
        with self._counting:
            first = self.truncated == 0
            self.truncated += texts
        if first:
            log.warning(
                "a text is longer than the %d tokens that model %r reads; the rest of it is left out. This "
                "is said once; `truncated` counts such texts. SpladeIndex(windows='merge') reads them whole.",
                self.max_length,
                self.model_name,
            )

    def _progress(
        self, vectors: Generator[SparseEmbedding, None, None], texts: Iterable[str]
    ) -> Generator[SparseEmbedding, None, None]:
        from tqdm.auto import tqdm

        total = len(texts) if isinstance(texts, Sized) else None
        with tqdm(total=total, unit="text", desc=self.model_name) as bar, closing(vectors):
            for vector in vectors:
                yield vector
                bar.update()

    # -- opening ---------------------------------------------------------------------------------------------

    def _static_weights(self) -> StaticWeights | None:
        if self._card.query_side == "symmetric":
            return None
        special = self.tokenizer.special_ids
        table = self._files.folder.query_weights
        if table is None:
            return StaticWeights.ones(self.tokenizer.vocab_size, without=special)
        if table.suffix == ".safetensors":
            return StaticWeights.from_safetensors(table, without=special)
        return StaticWeights.from_idf(table, self.tokenizer.vocabulary, without=special)

    def _opened(self) -> Session:
        with self._opening:
            if self._session is None:
                from splade_retriever.encoding.model_session import open_session

                self._session = open_session(
                    self._files, precision=self.precision, threads=self._threads, providers=self._providers
                )
            return self._session


def _as_queries(
    vectors: Generator[SparseEmbedding, None, None], card: ModelCard
) -> Generator[SparseEmbedding, None, None]:
    """Make of a text's weights those of a query, as the card says."""
    with closing(vectors):
        for vector in vectors:
            most = card.query_max_active_dims
            kept = vector if most is None else vector.top(most)
            if card.query_power != 1.0:
                kept = SparseEmbedding(values=kept.values**card.query_power, indices=kept.indices)
            yield kept


def _refuse_fastembed_devices(cuda: object, device_ids: object) -> None:
    """Refuse what FastEmbed calls by these names; `cuda=False` asks for what happens anyway."""
    for name, value in (("cuda", cuda), ("device_ids", device_ids)):
        if value is not None and value is not False:
            raise InputError(
                f"SparseTextEmbedding does not take {name}={value!r}: ONNX Runtime is told by name where to "
                f"run. Pass providers=['CUDAExecutionProvider'] and install onnxruntime-gpu."
            )


def _check_count(name: str, value: object, *, least: int) -> None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        return
    raise InputError(f"{name} is {value!r}, expected an int of {least} or more, or None.")


def _precision(asked: Precision | None, card: ModelCard, *, finished: bool) -> Precision:
    if asked is None:
        return card.precision
    if asked not in ("fp32", "int8"):
        raise InputError(f"precision is {asked!r}, expected 'fp32' or 'int8'.")
    if finished and asked == "fp32" and card.precision == "int8":
        raise InputError(
            f"Model {card.model!r} exists as int8 only, and fp32 was asked for. Leave precision= out, or "
            f"open another model."
        )
    return asked


def _max_length(asked: int | None, card: ModelCard) -> int:
    _check_count("max_length", asked, least=1)
    if asked is not None and asked > card.max_length:
        raise InputError(
            f"max_length is {asked}, and model {card.model!r} reads {card.max_length} tokens at most. Ask "
            f"for less, or cut long texts into windows (SpladeIndex(windows='merge'))."
        )
    return asked or card.max_length


def _as_texts(caller: str, given: object) -> Iterable[str]:
    """Take one text or many; what is neither is refused before anything runs."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, bytes | bytearray) or not isinstance(given, Iterable):
        raise InputError(f"{caller} got a {type(given).__name__}, expected a str or an iterable of them.")
    return given
