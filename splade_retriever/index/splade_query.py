"""SpladeQuery: a query with controls: words to boost, to require, to exclude, synonyms, and no expansion."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Self

from splade_retriever.errors import InputError
from splade_retriever.validation import checked_float, text_fault, type_name

__all__ = ["QueryControls", "SpladeQuery", "with_default_controls"]

_PART: Final = re.compile(r'([+-]?)("[^"]*"|[^\s"^]+)(?:\^(\S*))?')
_TEXT_WORD: Final = re.compile(r"[^\W_]+")
_HAS_A_LETTER: Final = re.compile(r"[^\W_]")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryControls:
    """What a query asks for beside its text.

    Raises:
        InputError: A value is not valid.
    """

    boost: Mapping[str, float] = field(default_factory=dict)
    """Word -> factor of its weight. A word that the text does not have is added."""
    require: Sequence[str] = ()
    """Words that a document must contain literally, in any case."""
    exclude: Sequence[str] = ()
    """Words that a document must not contain literally."""
    expand: bool = True
    """False to keep the words of the query alone, without those that the model adds."""
    synonyms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Word -> further words that get its weight."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "boost", _checked_boosts(self.boost))
        object.__setattr__(self, "require", _checked_words("require", self.require))
        object.__setattr__(self, "exclude", _checked_words("exclude", self.exclude))
        if not isinstance(self.expand, bool):
            raise InputError(f"expand is {self.expand!r}, expected True or False.")
        if not isinstance(self.synonyms, Mapping):
            raise InputError(f"synonyms is {type_name(self.synonyms)}, expected a dict of lists.")
        synonyms = {word: _checked_words("synonyms", words) for word, words in self.synonyms.items()}
        _checked_words("synonyms", list(synonyms))
        object.__setattr__(self, "synonyms", synonyms)

    @classmethod
    def of(cls, value: object) -> Self | None:
        """Return controls as they are, and make them of a mapping of their fields; None for None.

        Raises:
            InputError: The value is something else, has an unknown name, or one of its values is not valid.
        """
        if value is None or isinstance(value, cls):
            return value
        names = [known.name for known in fields(cls)]
        if not isinstance(value, Mapping):
            raise InputError(
                f"controls is {type_name(value)}, expected QueryControls, or a dict with {', '.join(names)}."
            )
        if unknown := [str(name) for name in value if name not in names]:
            raise InputError(
                f"controls has the unknown name {', '.join(unknown)}; allowed: {', '.join(names)}."
            )
        return cls(**value)

    @property
    def changes_weights(self) -> bool:
        """Whether the weights of the query change; `require` and `exclude` only filter."""
        return bool(self.boost or self.synonyms) or not self.expand

    @property
    def filter(self) -> dict[str, Any] | None:
        """The filter of `require` and `exclude`; None without both."""
        conditions = [_any_of([{"$text": form} for form in _forms(word)]) for word in self.require]
        conditions += [{"$not": {"$text": form}} for word in self.exclude for form in _forms(word)]
        return {"$and": conditions} if conditions else None

    def accepts(self, text: str) -> bool:
        """Return whether a text has all required words and no excluded one, as the engine compares words."""
        present = _words_in(text)

        def has(word: str) -> bool:
            return present.issuperset(_words_in(word))

        return all(map(has, self.require)) and not any(map(has, self.exclude))

    def notes(self) -> tuple[str, ...]:
        """Say what the controls do, one sentence part each."""
        notes = [f"boost {word} x{factor:g}" for word, factor in self.boost.items()]
        notes += [f"require {word}" for word in self.require]
        notes += [f"exclude {word}" for word in self.exclude]
        notes += [f"synonyms of {word}: {', '.join(words)}" for word, words in self.synonyms.items()]
        return (*notes, *([] if self.expand else ["no expansion"]))

    def to_dict(self) -> dict[str, Any]:
        """Return the controls as keyword arguments of JSON values."""
        return {
            "boost": dict(self.boost),
            "require": list(self.require),
            "exclude": list(self.exclude),
            "expand": self.expand,
            "synonyms": {word: list(words) for word, words in self.synonyms.items()},
        }


class SpladeQuery(str):
    """A query with controls. It is a `str`, its text, so every retriever and framework accepts it.

    Example:
        index.search(SpladeQuery("moon lander", boost={"rover": 2}, exclude=["india"]))
    """

    __slots__ = ("controls",)
    controls: QueryControls

    def __new__(cls, text: str, controls: QueryControls | None = None, **values: Any) -> Self:
        """Make a query.

        Args:
            text: What to look for.
            controls: The controls as one value.
            **values: Fields of `QueryControls`; they replace those of `controls`.

        Raises:
            InputError: A value is not valid.
            TypeError: There is no such control.
        """
        if not isinstance(text, str):
            raise InputError(f"SpladeQuery got a text of type {type(text).__name__}, expected a string.")
        query = super().__new__(cls, text)
        query.controls = QueryControls(**values) if controls is None else replace(controls, **values)
        return query

    @classmethod
    def parse(cls, query: str) -> Self:
        """Read the syntax of the terminal: `moon +lander -india rover^2 "south pole"`.

        `+word` requires a word and `-word` excludes it. `word^2` doubles its weight. Quotes join several
        words to one; a required or excluded group of words must occur with all of its words.

        Raises:
            InputError: The query has an unclosed quote, or a factor that is not a number.
        """
        if query.count('"') % 2:
            raise InputError(f"The query {query!r} has an unclosed quote. Close it, or leave it out.")
        text: list[str] = []
        boost: dict[str, float] = {}
        signed: dict[str, list[str]] = {"+": [], "-": []}
        for sign, quoted, factor in _PART.findall(query):
            word = quoted.strip('"')
            if sign and _HAS_A_LETTER.search(word):
                signed[sign].append(word)
            if sign != "-" and word:
                text.append(word)
            if factor:
                boost[word] = _factor(word, factor)
        return cls(" ".join(text), boost=boost, require=signed["+"], exclude=signed["-"])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpladeQuery):
            return NotImplemented if not isinstance(other, str) else False
        return str(self) == str(other) and self.controls == other.controls

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((str(self), repr(self.controls)))

    def __repr__(self) -> str:
        usual, values = QueryControls().to_dict(), self.controls.to_dict()
        controls = "".join(f", {name}={values[name]!r}" for name in values if values[name] != usual[name])
        return f"SpladeQuery({str(self)!r}{controls})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.controls)


def with_default_controls(query: str, controls: QueryControls | None) -> str:
    """Add controls to a query without controls; a `SpladeQuery` keeps those that it has."""
    if controls is None or isinstance(query, SpladeQuery) or not isinstance(query, str):
        return query
    return SpladeQuery(query, controls)


def _words_in(text: str) -> set[str]:
    return set(_TEXT_WORD.findall(unicodedata.normalize("NFC", text).lower()))


def _forms(word: str) -> list[str]:
    """Return the ways in which Unicode writes the accents of a word: in its letters, or after them."""
    forms = [word, unicodedata.normalize("NFC", word), unicodedata.normalize("NFD", word)]
    return list(dict.fromkeys(forms))


def _any_of(conditions: list[dict[str, Any]]) -> dict[str, Any]:
    return conditions[0] if len(conditions) == 1 else {"$or": conditions}


def _factor(word: str, factor: str) -> float:
    try:
        return float(factor)
    except ValueError as error:
        raise InputError(
            f"The query has {word}^{factor}, expected a number after ^, such as {word}^2."
        ) from error


def _checked_boosts(boost: object) -> dict[str, float]:
    if not isinstance(boost, Mapping):
        raise InputError(f"boost is {type_name(boost)}, expected a dict of factors by word.")
    _checked_words("boost", list(boost))
    return {
        word: checked_float(f"boost of {word!r}", factor, "a finite number of 0 or more", minimum=0.0)
        for word, factor in boost.items()
    }


def _checked_words(name: str, words: object) -> tuple[str, ...]:
    if isinstance(words, str) or not isinstance(words, Sequence):
        raise InputError(f"{name} is {words!r}, expected a list of words.")
    return tuple(_words(name, words))


def _words(name: str, words: Sequence[object]) -> Iterator[str]:
    for word in words:
        fault = text_fault(f"{name} {word!r}", word)
        if fault:
            raise InputError(f"{fault}.")
        if not _HAS_A_LETTER.search(str(word)):
            raise InputError(f"{name} has {word!r}, expected a word with a letter or a digit.")
        yield str(word)
