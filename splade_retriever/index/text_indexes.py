"""Text indexes of a server for the fields that `$text` searches.

Without one, a server before 1.19.1 takes `$text` for a substring and respects case: it finds other documents
than the embedded engine, and deletes others.
"""

from collections.abc import Callable, Iterator
from typing import Final

from qdrant_client import models

from splade_retriever.errors import FilterError, NotSupportedError, ServerError, StorageError

__all__ = ["TEXT_INDEX", "TextIndexes"]

TEXT_INDEX: Final = models.TextIndexParams(
    type=models.TextIndexType.TEXT, tokenizer=models.TokenizerType.WORD, lowercase=True
)
"""Words, in lower case, as the embedded engine matches them without an index."""


class TextIndexes:
    """Creates the text indexes of one collection when a filter first needs them."""

    def __init__(
        self,
        collection: str,
        *,
        schema: Callable[[], dict[str, models.PayloadIndexInfo]],
        create: Callable[[str, models.TextIndexParams], object],
    ) -> None:
        """Keep how to reach the collection; no request is sent.

        Args:
            collection: Its name, for messages.
            schema: Reads its payload indexes: path -> index.
            create: Creates a payload index for a path.
        """
        self._collection = collection
        self._schema = schema
        self._create = create
        self._present: frozenset[str] = frozenset()

    def ensure(self, filter: models.Filter | None) -> None:
        """Create the text indexes that a filter needs.

        Raises:
            FilterError: A field has an index of another kind, or the server refuses to create one.
        """
        paths = set(_text_paths(filter))
        if paths <= self._present:
            return
        schema = self._schema()
        for path in sorted(paths - self._present):
            self._ensure_path(path, schema.get(path))
        self._present |= paths

    def _ensure_path(self, path: str, present: models.PayloadIndexInfo | None) -> None:
        if present is not None:
            if present.data_type is not models.PayloadSchemaType.TEXT:
                raise FilterError(
                    f"$text searches {path!r}, which has an index of kind {present.data_type.value!r} in "
                    f"collection {self._collection!r}; a server then compares substrings. Compare with "
                    "another operator, or replace the index by one of kind 'text'."
                )
            return
        try:
            self._create(path, TEXT_INDEX)
        except (NotSupportedError, ServerError, StorageError) as error:
            raise FilterError(
                f"$text searches {path!r}, which has no text index in collection {self._collection!r}, and "
                f"creating one failed: {error} Create it with a key that may: client.create_payload_index("
                f"{self._collection!r}, {path!r}, models.TextIndexParams(type='text', tokenizer='word', "
                "lowercase=True))."
            ) from error


def _text_paths(condition: object) -> Iterator[str]:
    """Walk over the paths that a filter searches by words."""
    if isinstance(condition, list):
        for part in condition:
            yield from _text_paths(part)
    elif isinstance(condition, models.FieldCondition):
        if isinstance(condition.match, models.MatchText):
            yield condition.key
    elif isinstance(condition, models.Filter):
        for part in (condition.must, condition.should, condition.must_not):
            yield from _text_paths(part)
        if condition.min_should is not None:
            yield from _text_paths(condition.min_should.conditions)
