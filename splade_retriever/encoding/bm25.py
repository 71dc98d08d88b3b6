"""BM25 as sparse vectors, equal to FastEmbed's `Qdrant/bm25`, without a download.

A document's weight of a word is the saturated count of its stem; a query weighs each of its stems 1.0. The
engine multiplies by the inverse document frequency: the collection must have the modifier IDF.

Source:
    fastembed.sparse.bm25.Bm25, 0.9; the stop words are those of Snowball and PostgreSQL (Turkish) as NLTK has
    them, without those that hold an apostrophe or another character which the tokenizer never returns. There
    is no list for Tamil, as in FastEmbed, and none for Arabic, Greek and Romanian, whose lists in NLTK have
    no licence.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from splade_retriever.encoding.tokenizer import check_text
from splade_retriever.errors import InputError, MissingExtraError
from splade_retriever.sparse import SparseEmbedding
from splade_retriever.validation import checked_float, checked_int, type_name

__all__ = ["BM25_MODEL", "Bm25Embedding", "Bm25Tokenizer"]

BM25_MODEL: Final = "Qdrant/bm25"

_WORD: Final = re.compile(r"\w+")
_PARAMETERS: Final = frozenset(("k", "b", "avg_len"))
_MAX_ID: Final = 2**31 - 1
_LANGUAGES: Final = (
    *("arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian"),
    *("italian", "norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "tamil", "turkish"),
)
_ENGLISH_WORDS: Final = """
a about above after again against ain all am an and any are aren as at be because been before being
below between both but by can couldn d did didn do does doesn doing don down during each few for
from further had hadn has hasn have haven having he her here hers herself him himself his how i if
in into is isn it its itself just ll m ma me mightn more most mustn my myself needn no nor not now o
of off on once only or other our ours ourselves out over own re s same shan she should shouldn so
some such t than that the their theirs them themselves then there these they this those through to
too under until up ve very was wasn we were weren what when where which while who whom why will with
won wouldn y you your yours yourself yourselves
"""
_ENGLISH: Final = frozenset(_ENGLISH_WORDS.split())


class Bm25Embedding:
    """BM25 with the ids and the weights of FastEmbed's `Bm25`; safe to share between threads.

    It needs the extra `bm25`. The ids are hashes of stems: `literal_tokenizer` names those of one query.

    Attributes:
        model_name: "Qdrant/bm25".
        language: The language of the stemmer.
    """

    def __init__(
        self,
        *,
        k: float = 1.2,
        b: float = 0.75,
        avg_len: float = 256.0,
        language: str = "english",
        token_max_length: int = 40,
        disable_stemmer: bool = False,
        stopwords: Collection[str] | None = None,
    ) -> None:
        """Set the parameters, which are FastEmbed's and have its defaults.

        Args:
            k: Saturation: with a larger one, repetitions of a word count more.
            b: How much longer documents weigh less, from 0 to 1.
            avg_len: The mean length of a document in words, stop words excluded.
            language: The language of the stemmer.
            token_max_length: Longer words are left out.
            disable_stemmer: Take words as they are, without stemming and without default stop words.
            stopwords: Words that are left out; None for the list of the language, () for none.

        Raises:
            InputError: If a parameter is not valid.
            MissingExtraError: If the extra `bm25` is not installed.
        """
        self._k = checked_float("k", k, "a positive number", minimum=0.0)
        self._b = checked_float("b", b, "a positive number up to 1", minimum=0.0, maximum=1.0)
        self._avg_len = checked_float("avg_len", avg_len, "a positive number", minimum=math.ulp(0.0))
        self._max_length = checked_int("token_max_length", token_max_length, minimum=1)
        if not disable_stemmer and language not in _LANGUAGES:
            raise InputError(f"language is {language!r}, expected one of {', '.join(_LANGUAGES)}.")
        _check_stopwords(stopwords)
        self.model_name, self.language = BM25_MODEL, language
        self._stemmed = not disable_stemmer
        default = self._default_stopwords()
        self._stopwords = default if stopwords is None else frozenset(word.lower() for word in stopwords)
        self._open()

    def _open(self) -> None:
        try:
            import mmh3
            from py_rust_stemmers import SnowballStemmer
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"{BM25_MODEL} needs {error.name}, which is not installed. Run: "
                'pip install "splade-retriever[bm25]"'
            ) from error
        self._hash = mmh3.hash
        self._stemmer = SnowballStemmer(self.language) if self._stemmed else None

    def _default_stopwords(self) -> frozenset[str]:
        if not self._stemmed:
            return frozenset()
        return _ENGLISH if self.language == "english" else _stop_words().get(self.language, frozenset())

    def __getstate__(self) -> dict[str, object]:
        # The stemmer cannot be pickled; it has no state.
        return {name: value for name, value in self.__dict__.items() if name not in ("_hash", "_stemmer")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()

    def __repr__(self) -> str:
        return f"Bm25Embedding(language={self.language!r}, k={self._k}, b={self._b}, avg_len={self._avg_len})"

    @property
    def fingerprint(self) -> dict[str, str | int | None]:
        """Everything that decides a vector, and the modifier that a collection of it needs."""
        default = self._default_stopwords()
        words = None if self._stopwords == default else " ".join(sorted(self._stopwords))
        return {
            "model": BM25_MODEL,
            "language": self.language if self._stemmed else None,
            "parameters": f"k={self._k} b={self._b} avg_len={self._avg_len}",
            "token_max_length": self._max_length,
            "stopwords": None if words is None else f"{self._hash(words, signed=False):08x}",
            "query_side": "ones",
            "modifier": "idf",
        }

    @classmethod
    def of_fingerprint(cls, fingerprint: Mapping[str, str | int | None]) -> Bm25Embedding:
        """Return the encoder with the parameters of a fingerprint, but for stop words of the caller.

        Raises:
            InputError: If a parameter is not valid.
            MissingExtraError: If the extra `bm25` is not installed.
        """
        text = str(fingerprint.get("parameters", ""))
        parts = [part.partition("=") for part in text.split()]
        try:
            options: dict[str, Any] = {name: float(value) for name, _, value in parts}
        except ValueError as error:
            raise _unreadable(text) from error
        if not options.keys() <= _PARAMETERS:
            raise _unreadable(text)
        language = fingerprint.get("language")
        options |= {"disable_stemmer": True} if language is None else {"language": language}
        return cls(token_max_length=fingerprint.get("token_max_length", 40), **options)  # type: ignore[arg-type]

    def literal_tokenizer(self, text: str) -> Bm25Tokenizer:
        """Return a tokenizer that names the tokens of a text: its stems.

        Raises:
            InputError: If it is no text.
        """
        check_text(text, 0)
        stems = next(self._all_stems(text))
        return Bm25Tokenizer(self, {self._id(stem): stem for stem in stems})

    def embed(
        self, documents: str | Iterable[str], batch_size: int | None = None, parallel: int | None = None
    ) -> Iterator[SparseEmbedding]:
        """Encode documents, one vector per text, in order.

        Args:
            documents: A text or any iterable of texts.
            batch_size: FastEmbed's argument; not used, since texts are encoded one by one.
            parallel: FastEmbed's argument; not used.

        Raises:
            InputError: If an item is not a str, or has a lone surrogate; the message states its position.
                If a number is not valid.
        """
        checked_int("batch_size", batch_size, minimum=1, optional=True)
        checked_int("parallel", parallel, minimum=0, optional=True)
        for stems in self._all_stems(documents):
            scale = self._k * (1 - self._b + self._b * len(stems) / self._avg_len)
            yield SparseEmbedding.from_dict(
                {self._id(stem): n * (self._k + 1) / (n + scale) for stem, n in Counter(stems).items()}
            )

    def passage_embed(
        self, texts: str | Iterable[str], batch_size: int | None = None, parallel: int | None = None
    ) -> Iterator[SparseEmbedding]:
        """Encode documents; the same as `embed`."""
        return self.embed(texts, batch_size, parallel)

    def query_embed(self, query: str | Iterable[str]) -> Iterator[SparseEmbedding]:
        """Encode queries, one vector per text, in order: 1.0 for each stem.

        Args:
            query: A text or any iterable of texts.

        Raises:
            InputError: As for `embed`.
        """
        for stems in self._all_stems(query):
            yield SparseEmbedding.from_dict(dict.fromkeys(map(self._id, stems), 1.0))

    def token_count(self, texts: str | Iterable[str]) -> int:
        """Count the words of all texts, stop words included."""
        return sum(len(_WORD.findall(text.lower())) for text in _checked(texts))

    def _all_stems(self, texts: str | Iterable[str]) -> Iterator[list[str]]:
        for text in _checked(texts):
            words = filter(self._is_read, _WORD.findall(text.lower()))
            stems = words if self._stemmer is None else map(self._stemmer.stem_word, words)
            yield [stem for stem in stems if stem]

    def _is_read(self, word: str) -> bool:
        return word != "_" and word not in self._stopwords and len(word) <= self._max_length

    def places(self, text: str) -> Iterator[tuple[int, tuple[int, int]]]:
        """Yield the id of each stem of a text, and where its word is: start and end in characters."""
        for found in _WORD.finditer(text):
            # The lower case of a few letters is several characters, which can split a word.
            for stem in next(self._all_stems(found.group())):
                yield self._id(stem), found.span()

    def _id(self, stem: str) -> int:
        # FastEmbed's ids; -2**31, which one stem in four thousand million has, has no positive counterpart.
        return min(abs(self._hash(stem)), _MAX_ID)


@dataclass(frozen=True, slots=True)
class Bm25Tokenizer:
    """Where the stems of texts are, and the names of those of one text."""

    encoder: Bm25Embedding
    names: Mapping[int, str]
    """Id -> stem."""

    def encode_batch(self, texts: Sequence[str]) -> list[Bm25Encoding]:
        """Return the ids and the places of the words of each text, without stop words."""
        return [Bm25Encoding.of(self.encoder.places(text)) for text in texts]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Return the stems of ids; of an id that the text does not have, the id in brackets."""
        return [self.names.get(id, f"[{id}]") for id in ids]


@dataclass(frozen=True, slots=True)
class Bm25Encoding:
    """The words of a text."""

    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, places: Iterable[tuple[int, tuple[int, int]]]) -> Bm25Encoding:
        """Collect the ids and places of words."""
        found = list(places)
        return cls([id for id, _ in found], [span for _, span in found])


def _check_stopwords(stopwords: object) -> None:
    if stopwords is None:
        return
    if isinstance(stopwords, str | bytes | bytearray) or not isinstance(stopwords, Collection):
        raise InputError(f"stopwords is {type_name(stopwords)}, expected a set or a list of words.")
    for word in stopwords:
        if not isinstance(word, str):
            raise InputError(f"stopwords holds {type_name(word)}, {word!r}; expected words only.")


def _unreadable(parameters: str) -> InputError:
    return InputError(
        f"The parameters of {BM25_MODEL} are {parameters!r}, expected numbers as in 'k=1.2 b=0.75 "
        f"avg_len=256.0'. Pass Bm25Embedding(...) with the parameters that the vectors were made with."
    )


@cache
def _stop_words() -> dict[str, frozenset[str]]:
    """Return the words of the languages other than English."""
    content = files("splade_retriever.encoding").joinpath("stop_words.json").read_text(encoding="utf-8")
    return {language: frozenset(words.split()) for language, words in json.loads(content).items()}


def _checked(texts: str | Iterable[str]) -> Iterator[str]:
    if isinstance(texts, bytes | bytearray) or not isinstance(texts, Iterable):
        raise InputError(f"BM25 got {type_name(texts)}, expected a str or an iterable of str.")
    for position, text in enumerate([texts] if isinstance(texts, str) else texts):
        check_text(text, position)
        yield text
