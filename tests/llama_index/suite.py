"""What a sparse vector store of LlamaIndex has to do: a suite that any such store can run.

    class TestMyStore(SparseStoreSuite):
        def make(self, encoder):
            return MyStore(sparse_doc_fn=..., sparse_query_fn=..., collection="new")

The suite has a tiny encoder, so no model is needed; `sparse_encoders(encoder)` makes of it the pair of
functions of LlamaIndex's Qdrant store.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from tests.words import WordEncoder

__all__ = ["LoopWatcher", "SparseStoreSuite", "runs_a_loop", "sparse_query"]

SPARSE = VectorStoreQueryMode.SPARSE
HYBRID = VectorStoreQueryMode.HYBRID


def sparse_query(text: str, k: int = 10, **rest: Any) -> VectorStoreQuery:
    return VectorStoreQuery(query_str=text, similarity_top_k=k, **{"mode": SPARSE, **rest})


def uuid_of(n: int) -> str:
    """Make ids that every store takes; a separate test shows that any string is an id."""
    return f"00000000-0000-4000-8000-{n:012d}"


A, B, C, D = (uuid_of(n) for n in range(4))
NAMES = {A: "a", B: "b", C: "c", D: "d"}

METADATA: dict[str, dict[str, Any]] = {
    A: {"year": 2019, "lang": "en", "tags": ["moon", "isro"], "title": "Lunar orbit insertion", "cost": 0.5},
    B: {"year": 2023, "lang": "hi", "tags": ["moon"], "title": "Landing near the pole", "cost": 1.0},
    C: {"year": 2024, "lang": "en", "tags": [], "title": "Budget of the orbit", "cost": 2.5},
    D: {"author": {"name": "Ada"}},
}

IS = FilterOperator
OPERATORS: list[tuple[str, FilterOperator, Any, str]] = [
    ("lang", IS.EQ, "en", "ac"),
    ("year", IS.EQ, 2023, "b"),
    ("cost", IS.EQ, 0.5, "a"),
    ("lang", IS.NE, "en", "bd"),
    ("year", IS.GT, 2019, "bc"),
    ("year", IS.GTE, 2023, "bc"),
    ("cost", IS.LT, 1.0, "a"),
    ("cost", IS.LTE, 1.0, "ab"),
    ("lang", IS.IN, ["hi", "de"], "b"),
    ("year", IS.IN, [2019, 2024], "ac"),
    ("lang", IS.NIN, ["hi", "de"], "acd"),
    ("tags", IS.ANY, ["isro", "mars"], "a"),
    ("tags", IS.ALL, ["moon", "isro"], "a"),
    ("tags", IS.CONTAINS, "moon", "ab"),
    ("title", IS.TEXT_MATCH, "orbit", "ac"),
    ("title", IS.TEXT_MATCH_INSENSITIVE, "LUNAR", "a"),
    ("tags", IS.IS_EMPTY, None, "cd"),
    ("author.name", IS.EQ, "Ada", "d"),
]


def having(key: str, operator: FilterOperator, value: Any) -> MetadataFilter:
    return MetadataFilter(key=key, operator=operator, value=value)


def all_of(*filters: Any) -> MetadataFilters:
    return MetadataFilters(filters=[*filters], condition=FilterCondition.AND)


def any_of(*filters: Any) -> MetadataFilters:
    return MetadataFilters(filters=[*filters], condition=FilterCondition.OR)


def none_of(*filters: Any) -> MetadataFilters:
    return MetadataFilters(filters=[*filters], condition=FilterCondition.NOT)


EN, HI = having("lang", IS.EQ, "en"), having("lang", IS.EQ, "hi")
NEW = having("year", IS.GTE, 2023)
NESTED: dict[str, tuple[MetadataFilters, str]] = {
    "and": (all_of(EN, NEW), "c"),
    "or": (any_of(HI, having("year", IS.LT, 2020)), "ab"),
    "not": (none_of(EN), "bd"),
    "not of two holds where neither does": (none_of(EN, HI), "d"),
    "or inside and": (all_of(NEW, any_of(EN, HI)), "bc"),
    "and inside or": (any_of(all_of(EN, NEW), HI), "bc"),
    "not inside and": (all_of(NEW, none_of(HI)), "c"),
    "not inside not": (none_of(none_of(EN)), "ac"),
    "three deep": (all_of(any_of(all_of(EN, none_of(NEW)), HI)), "ab"),
    "an empty one is no filter": (all_of(), "abcd"),
    "an empty one inside is no filter": (all_of(EN, any_of()), "ac"),
}


def rich_nodes() -> dict[str, BaseNode]:
    """One node of each class, with all that a node can hold."""
    related: dict[Any, Any] = {
        NodeRelationship.SOURCE: RelatedNodeInfo(
            node_id="book", node_type="4", metadata={"shelf": 3}, hash="f00"
        ),
        NodeRelationship.PREVIOUS: RelatedNodeInfo(node_id="before"),
        NodeRelationship.NEXT: RelatedNodeInfo(node_id="after", hash="beef"),
        NodeRelationship.PARENT: RelatedNodeInfo(node_id="chapter"),
        NodeRelationship.CHILD: [RelatedNodeInfo(node_id="one"), RelatedNodeInfo(node_id="two")],
    }
    shared: dict[str, Any] = {
        "metadata": {"page": 7, "tags": ["x", "y"], "deep": {"er": [1, 2.5, None, True]}, "ü ☾": "é"},
        "excluded_embed_metadata_keys": ["page", "deep"],
        "excluded_llm_metadata_keys": ["tags"],
        "metadata_template": "{key} = {value}",
        "metadata_separator": " | ",
        "text_template": "<<{metadata_str}>> {content}",
        "relationships": related,
    }
    return {
        "text": TextNode(
            id_=uuid_of(10),
            text="A lander, ünïcode.\n",
            start_char_idx=3,
            end_char_idx=22,
            mimetype="text/x",
            **shared,
        ),
        "image": ImageNode(
            id_=uuid_of(11),
            text="A lander seen from above.",
            image="aGVsbG8=",
            image_mimetype="image/png",
            **shared,
        ),
        "index": IndexNode(
            id_=uuid_of(12), text="The lander's own index.", index_id="lander-index", **shared
        ),
        "document": Document(id_=uuid_of(13), text="A lander in a document.", **shared),
        "multimodal": Node(
            id_=uuid_of(14),
            text_resource=MediaResource(text="A lander, and a picture of it."),
            image_resource=MediaResource(data=b"\x89PNG\r\n\x1a\n", mimetype="image/png"),
            **shared,
        ),
    }


class LoopWatcher(WordEncoder):
    """Notes whether it is called in a thread that runs an event loop, which it would block."""

    def __init__(self) -> None:
        super().__init__()
        self.in_a_loop: list[bool] = []

    def passage_embed(self, texts: Any) -> Any:
        self.in_a_loop.append(runs_a_loop())
        return super().passage_embed(texts)

    def query_embed(self, query: Any) -> Any:
        self.in_a_loop.append(runs_a_loop())
        return super().query_embed(query)


def runs_a_loop() -> bool:
    """Say whether this thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class SparseStoreSuite:
    """Subclass it as `Test...`, and say how a store is made."""

    dense_size: ClassVar[int | None] = None
    """Length of the dense embeddings that nodes and queries must bring; None for a store that needs none."""

    def make(self, encoder: WordEncoder) -> BasePydanticVectorStore:
        """Make an empty store that encodes by this encoder."""
        raise NotImplementedError

    def make_async(self, encoder: WordEncoder) -> BasePydanticVectorStore:
        """Make one of which only async methods are used."""
        return self.make(encoder)

    def make_hybrid(self, encoder: WordEncoder, dense: MockEmbedding) -> BasePydanticVectorStore:
        """Make one for hybrid queries."""
        raise NotImplementedError

    def make_limited(self, encoder: WordEncoder) -> tuple[BasePydanticVectorStore, VectorStoreQueryMode]:
        """Make one that is not set up for a mode which the class has, and name that mode."""
        raise NotImplementedError

    # -- what the tests are made of --------------------------------------------------------------------------

    @pytest.fixture
    def encoder(self) -> WordEncoder:
        return WordEncoder()

    @pytest.fixture
    def store(self, encoder: WordEncoder) -> BasePydanticVectorStore:
        return self.make(encoder)

    @pytest.fixture
    def filled(self, store: BasePydanticVectorStore) -> BasePydanticVectorStore:
        store.add(self.ready(self.four()))
        return store

    def four(self) -> list[TextNode]:
        return [
            TextNode(
                id_=id,
                text=f"lander {NAMES[id]}",
                metadata=metadata,
                excluded_embed_metadata_keys=list(metadata),
            )
            for id, metadata in METADATA.items()
        ]

    def ready(self, nodes: Sequence[BaseNode]) -> list[BaseNode]:
        """Give nodes the dense embedding that the store asks for."""
        if self.dense_size is None:
            return [*nodes]
        return [node.model_copy(update={"embedding": [1.0] * self.dense_size}) for node in nodes]

    def asked(self, query: VectorStoreQuery) -> VectorStoreQuery:
        if self.dense_size is not None:
            query.query_embedding = [1.0] * self.dense_size
        return query

    def ids(self, result: VectorStoreQueryResult) -> list[str]:
        return [node.node_id for node in result.nodes or []]

    def names(self, result: VectorStoreQueryResult) -> str:
        return "".join(sorted(NAMES[id] for id in self.ids(result)))

    # -- sparse retrieval ------------------------------------------------------------------------------------

    def test_nodes_without_a_dense_embedding_are_kept_and_found(self, store: BasePydanticVectorStore) -> None:
        store.add(self.four())

        assert self.ids(store.query(sparse_query("lander b")))[:1] == [B]

    def test_the_score_is_the_dot_product_of_the_two_vectors(
        self, store: BasePydanticVectorStore, encoder: WordEncoder
    ) -> None:
        texts = {A: "moon moon lander", B: "moon rover", C: "nothing of it"}
        store.add(self.ready([TextNode(id_=id, text=text) for id, text in texts.items()]))

        result = store.query(self.asked(sparse_query("moon lander")))

        (query,) = encoder.query_embed("moon lander")
        expected = {id: next(encoder.passage_embed([text])).dot(query) for id, text in texts.items()}
        assert dict(zip(self.ids(result), result.similarities or [], strict=True)) == {
            A: expected[A],
            B: expected[B],
        }

    def test_the_best_nodes_come_first_and_top_k_limits_them(self, filled: BasePydanticVectorStore) -> None:
        result = filled.query(self.asked(sparse_query("lander c", 2)))

        assert self.ids(result)[0] == C
        assert len(self.ids(result)) == 2
        assert result.similarities == sorted(result.similarities or [], reverse=True)

    def test_a_query_that_shares_no_token_finds_nothing(self, filled: BasePydanticVectorStore) -> None:
        assert self.ids(filled.query(self.asked(sparse_query("submarine")))) == []

    def test_a_query_without_a_token_finds_nothing(self, filled: BasePydanticVectorStore) -> None:
        assert self.ids(filled.query(self.asked(sparse_query("?!")))) == []

    def test_a_sparse_query_needs_no_query_embedding(self, filled: BasePydanticVectorStore) -> None:
        assert self.ids(filled.query(sparse_query("lander d", 1))) == [D]

    def test_queries_are_encoded_as_queries(self) -> None:
        class Asymmetric(WordEncoder):
            def query_embed(self, query: Any) -> Any:
                return super().query_embed("rover" if query in ("moon", ["moon"]) else query)

        store = self.make(Asymmetric())
        store.add(self.ready([TextNode(id_=A, text="moon"), TextNode(id_=B, text="rover")]))

        assert self.ids(store.query(self.asked(sparse_query("moon")))) == [B]

    def test_metadata_is_encoded_except_excluded_keys(self, store: BasePydanticVectorStore) -> None:
        metadata = {"topic": "comet", "path": "asteroid"}
        store.add(
            self.ready([TextNode(id_=A, text="it", metadata=metadata, excluded_embed_metadata_keys=["path"])])
        )

        assert self.ids(store.query(self.asked(sparse_query("comet")))) == [A]
        assert self.ids(store.query(self.asked(sparse_query("asteroid")))) == []

    # -- modes -----------------------------------------------------------------------------------------------

    def test_the_default_mode_answers_a_text(self, filled: BasePydanticVectorStore) -> None:
        query = VectorStoreQuery(query_str="lander b", similarity_top_k=1)

        assert self.ids(filled.query(query)) == [B]

    def test_text_search_finds_only_texts_with_one_of_the_words(self, store: BasePydanticVectorStore) -> None:
        store.add(self.ready([TextNode(id_=A, text="moon rover"), TextNode(id_=B, text="the other")]))

        result = store.query(self.asked(sparse_query("a rover", mode=VectorStoreQueryMode.TEXT_SEARCH)))

        assert self.ids(result) == [A]

    @pytest.mark.parametrize(
        "mode", ["semantic_hybrid", "svm", "logistic_regression", "linear_regression", "mmr"]
    )
    def test_an_unsupported_mode_is_an_error(self, filled: BasePydanticVectorStore, mode: str) -> None:
        query = self.asked(sparse_query("lander", mode=VectorStoreQueryMode(mode)))

        with pytest.raises((NotImplementedError, ValueError)):
            filled.query(query)

    def test_hybrid_mode_without_a_dense_encoder_is_an_error(self, encoder: WordEncoder) -> None:
        store, mode = self.make_limited(encoder)
        store.add(self.ready(self.four()))

        with pytest.raises((NotImplementedError, ValueError)):
            store.query(self.asked(sparse_query("lander", mode=mode)))

    # -- hybrid ----------------------------------------------------------------------------------------------

    @pytest.fixture
    def hybrid(self, encoder: WordEncoder) -> BasePydanticVectorStore:
        return self.filled_hybrid(self.make_hybrid(encoder, MockEmbedding(embed_dim=4)))

    def filled_hybrid(self, store: BasePydanticVectorStore) -> BasePydanticVectorStore:
        store.add([node.model_copy(update={"embedding": [0.5] * 4}) for node in self.four()])
        return store

    def hybrid_query(self, text: str, alpha: float | None) -> VectorStoreQuery:
        return sparse_query(text, mode=HYBRID, alpha=alpha, query_embedding=[0.5] * 4)

    def scored(self, result: VectorStoreQueryResult) -> list[str]:
        scores = result.similarities or []
        return [id for id, score in zip(self.ids(result), scores, strict=True) if score > 0.0]

    def test_alpha_0_ignores_the_dense_branch(self, hybrid: BasePydanticVectorStore) -> None:
        assert self.scored(hybrid.query(self.hybrid_query("b", 0.0))) == [B]

    def test_alpha_0_ignores_the_dense_branch_in_async_too(self, encoder: WordEncoder) -> None:
        async def main() -> list[str]:
            store = self.make_hybrid_async(encoder, MockEmbedding(embed_dim=4))
            await store.async_add([node.model_copy(update={"embedding": [0.5] * 4}) for node in self.four()])
            return self.scored(await store.aquery(self.hybrid_query("b", 0.0)))

        assert asyncio.run(main()) == [B]

    def make_hybrid_async(self, encoder: WordEncoder, dense: MockEmbedding) -> BasePydanticVectorStore:
        """Make one for hybrid queries of which only async methods are used."""
        return self.make_hybrid(encoder, dense)

    def test_hybrid_joins_both_branches(self, hybrid: BasePydanticVectorStore) -> None:
        result = hybrid.query(self.hybrid_query("b", None))

        assert self.ids(result)[0] == B  # of equal dense vectors, the one that the words find
        assert self.names(result) == "abcd"

    @pytest.mark.parametrize("alpha", [None, 0.0, 0.3, 1.0])
    @pytest.mark.parametrize("text", ["lander", "lander b", "submarine"])
    def test_hybrid_scores_are_between_0_and_1_also_for_ties(
        self, hybrid: BasePydanticVectorStore, text: str, alpha: float | None
    ) -> None:
        scores = hybrid.query(self.hybrid_query(text, alpha)).similarities or []

        assert all(0.0 <= score <= 1.0 for score in scores)

    # -- filters ---------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("key", "operator", "value", "expected"),
        [pytest.param(*case, id=f"{case[1].value} {case[2]}") for case in OPERATORS],
    )
    def test_filter_operator(
        self, filled: BasePydanticVectorStore, key: str, operator: FilterOperator, value: Any, expected: str
    ) -> None:
        query = sparse_query("lander", filters=all_of(having(key, operator, value)))

        assert self.names(filled.query(self.asked(query))) == expected

    def test_every_operator_has_a_test(self) -> None:
        assert {operator for _, operator, _, _ in OPERATORS} == set(FilterOperator)

    @pytest.mark.parametrize("name", NESTED)
    def test_nested_filter(self, filled: BasePydanticVectorStore, name: str) -> None:
        filters, expected = NESTED[name]

        assert self.names(filled.query(self.asked(sparse_query("lander", filters=filters)))) == expected

    def test_doc_ids_limit_the_search_to_nodes_of_these_documents(
        self, store: BasePydanticVectorStore
    ) -> None:
        store.add(self.ready(self.of_two_sources()))

        assert self.names(store.query(self.asked(sparse_query("lander", doc_ids=["book"])))) == "ac"

    def test_node_ids_limit_the_search_to_these_nodes(self, filled: BasePydanticVectorStore) -> None:
        assert self.names(filled.query(self.asked(sparse_query("lander", node_ids=[B, D])))) == "bd"

    def of_two_sources(self) -> list[TextNode]:
        nodes = self.four()
        for node, source in zip(nodes, ["book", "letter", "book", "letter"], strict=True):
            node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=source)
        return nodes

    # -- nodes come back equal -------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", rich_nodes())
    def test_a_found_node_is_equal(self, store: BasePydanticVectorStore, kind: str) -> None:
        node = rich_nodes()[kind]
        store.add(self.ready([node]))

        (found,) = store.query(self.asked(sparse_query("lander"))).nodes or []

        self.check_equal(found, node)

    @pytest.mark.parametrize("kind", rich_nodes())
    def test_a_read_node_is_equal(self, store: BasePydanticVectorStore, kind: str) -> None:
        node = rich_nodes()[kind]
        store.add(self.ready([node]))

        (found,) = store.get_nodes([node.node_id])

        self.check_equal(found, node)

    def check_equal(self, found: BaseNode, node: BaseNode) -> None:
        found = found.model_copy(update={"embedding": None})
        assert type(found) is type(node)
        assert found == node
        assert found.hash == node.hash

    @pytest.mark.parametrize(
        "id", ["node 1", "17", "ünïcode ☾", "a/b#c"], ids=["a space", "digits", "unicode", "signs"]
    )
    def test_any_string_can_be_an_id(self, store: BasePydanticVectorStore, id: str) -> None:
        store.add(self.ready([TextNode(id_=id, text="lander")]))

        assert self.ids(store.query(self.asked(sparse_query("lander")))) == [id]

    # -- adding, reading, deleting ---------------------------------------------------------------------------

    def test_add_returns_the_ids_in_order(self, store: BasePydanticVectorStore) -> None:
        assert store.add(self.ready(self.four())) == [A, B, C, D]

    def test_adding_no_nodes_returns_no_ids(self, filled: BasePydanticVectorStore) -> None:
        assert filled.add([]) == []

    def test_adding_a_stored_id_replaces_the_node(self, filled: BasePydanticVectorStore) -> None:
        filled.add(self.ready([TextNode(id_=A, text="comet")]))

        assert self.ids(filled.query(self.asked(sparse_query("comet")))) == [A]
        assert self.names(filled.query(self.asked(sparse_query("lander")))) == "bcd"

    def test_add_does_not_change_the_nodes(self, store: BasePydanticVectorStore) -> None:
        nodes = self.ready(list(rich_nodes().values()))
        before = [node.model_copy(deep=True) for node in nodes]

        store.add(nodes)

        assert nodes == before

    def test_get_nodes_skips_missing_ids(self, filled: BasePydanticVectorStore) -> None:
        assert {node.node_id for node in filled.get_nodes([C, uuid_of(99), A])} == {A, C}

    def test_get_nodes_by_filter(self, filled: BasePydanticVectorStore) -> None:
        assert {node.node_id for node in filled.get_nodes(filters=all_of(EN))} == {A, C}

    def test_get_nodes_by_ids_and_filter(self, filled: BasePydanticVectorStore) -> None:
        assert [node.node_id for node in filled.get_nodes([A, B], filters=all_of(EN))] == [A]

    def test_get_nodes_with_no_ids_returns_no_nodes(self, filled: BasePydanticVectorStore) -> None:
        assert filled.get_nodes([], filters=all_of(EN)) == []

    def test_delete_removes_all_nodes_of_a_document(self, store: BasePydanticVectorStore) -> None:
        store.add(self.ready(self.of_two_sources()))

        store.delete("book")

        assert self.names(store.query(self.asked(sparse_query("lander")))) == "bd"

    def test_delete_nodes_by_ids(self, filled: BasePydanticVectorStore) -> None:
        filled.delete_nodes([A, uuid_of(99)])

        assert self.names(filled.query(self.asked(sparse_query("lander")))) == "bcd"

    def test_delete_nodes_by_filter(self, filled: BasePydanticVectorStore) -> None:
        filled.delete_nodes(filters=all_of(EN))

        assert self.names(filled.query(self.asked(sparse_query("lander")))) == "bd"

    def test_delete_nodes_by_ids_and_filter_removes_nodes_that_match_both(
        self, filled: BasePydanticVectorStore
    ) -> None:
        filled.delete_nodes([A, B], filters=all_of(EN))

        assert self.names(filled.query(self.asked(sparse_query("lander")))) == "bcd"

    def test_clear_removes_all_nodes_and_the_store_remains_usable(
        self, filled: BasePydanticVectorStore
    ) -> None:
        filled.clear()
        assert self.ids(filled.query(self.asked(sparse_query("lander")))) == []

        filled.add(self.ready(self.four()[:1]))
        assert self.ids(filled.query(self.asked(sparse_query("lander")))) == [A]

    # -- async -----------------------------------------------------------------------------------------------

    def test_async_methods_do_the_same_as_sync_ones(self, encoder: WordEncoder) -> None:
        async def main() -> None:
            store = self.make_async(encoder)
            assert await store.async_add(self.ready(self.of_two_sources())) == [A, B, C, D]
            query = self.asked(sparse_query("lander", filters=all_of(EN)))
            assert self.names(await store.aquery(query)) == "ac"
            assert {node.node_id for node in await store.aget_nodes([C, A])} == {A, C}
            await store.adelete_nodes([A])
            await store.adelete("letter")
            assert self.names(await store.aquery(self.asked(sparse_query("lander")))) == "c"
            await store.aclear()
            await store.async_add(self.ready(self.four()[:1]))
            assert self.names(await store.aquery(self.asked(sparse_query("lander")))) == "a"

        asyncio.run(main())

    def test_the_model_does_not_run_in_the_event_loop(self) -> None:
        model = LoopWatcher()

        async def main() -> None:
            store = self.make_async(model)
            await store.async_add(self.ready(self.four()))
            await store.aquery(self.asked(sparse_query("lander")))

        asyncio.run(main())
        assert len(model.in_a_loop) >= 2  # for the nodes and for the query
        assert not any(model.in_a_loop)

    # -- under a VectorStoreIndex ----------------------------------------------------------------------------

    @pytest.mark.filterwarnings(
        "ignore::DeprecationWarning"
    )  # of langchain_community, which LlamaIndex tries
    def test_a_vector_store_index_inserts_finds_and_deletes(self, store: BasePydanticVectorStore) -> None:
        index = VectorStoreIndex.from_documents(
            [
                Document(text="The lander stood.", doc_id="one"),
                Document(text="The rover drove.", doc_id="two"),
            ],
            storage_context=StorageContext.from_defaults(vector_store=store),
            embed_model=MockEmbedding(embed_dim=self.dense_size or 1),
        )
        retriever = index.as_retriever(vector_store_query_mode="sparse", similarity_top_k=5)

        assert [found.text for found in retriever.retrieve("rover")] == ["The rover drove."]
        index.delete_ref_doc("two")
        assert retriever.retrieve("rover") == []
