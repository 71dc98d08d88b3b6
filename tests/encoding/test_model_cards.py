"""Model cards: the list, licences, names, custom models, and a download from end to end."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.model_cards import Catalogue, ModelCard, published
from splade_retriever.errors import InputError, LicenseError, ModelFilesError, UnknownModelError
from tests.encoding.hub_client import Client
from tests.hub_server import COMMIT, HubServer
from tests.tiny import VOCABULARY, tiny_logits, write_tiny_model

OPENSEARCH = "opensearch-project/opensearch-neural-sparse-encoding"
NON_COMMERCIAL = "naver/splade-v3"


pytestmark = pytest.mark.usefixtures("catalogue")


def listed(name: str) -> dict[str, object]:
    (card,) = [entry for entry in SparseTextEmbedding.list_supported_models() if entry["model"] == name]
    return card


def test_the_list_has_fastembeds_keys() -> None:
    fastembed = pytest.importorskip("fastembed", reason="fastembed is not installed (extra `test`)")
    reference = {entry["model"]: entry for entry in fastembed.SparseTextEmbedding.list_supported_models()}

    for name in ("prithivida/Splade_PP_en_v1", f"{OPENSEARCH}-doc-v3-gte"):
        card = listed(name)
        assert reference[name].keys() <= card.keys()
        for key in ("model_file", "license", "size_in_GB", "vocab_size", "additional_files"):
            assert card[key] == reference[name][key]
        assert card["sources"] == {"hf": reference[name]["sources"]["hf"]}


def test_the_list_is_valid_json_and_names_each_model_once() -> None:
    entries = json.loads(json.dumps(SparseTextEmbedding.list_supported_models()))

    names = [entry["model"].lower() for entry in entries]
    assert len(set(names)) == len(names)
    assert all(entry["license"] and entry["description"] and entry["vocab_size"] for entry in entries)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("prithivida/Splade_PP_en_v2", {"license": "apache-2.0", "export_needed": True}),
        ("naver/splade-v3", {"license": "cc-by-nc-sa-4.0", "query_side": "symmetric"}),
        ("naver/splade-v3-distilbert", {"non_commercial": True, "export_needed": True}),
        ("naver/splade-v3-doc", {"query_side": "ones", "non_commercial": True}),
        ("naver/splade-cocondenser-ensembledistil", {"activation": "log1p"}),
        ("naver/splade-cocondenser-selfdistil", {"activation": "log1p"}),
        (f"{OPENSEARCH}-doc-v1", {"query_side": "idf", "activation": "log1p"}),
        (f"{OPENSEARCH}-doc-v2-mini", {"query_side": "idf", "activation": "log1p"}),
        (f"{OPENSEARCH}-doc-v2-distill", {"query_side": "idf", "activation": "log1p"}),
        (f"{OPENSEARCH}-doc-v3-distill", {"query_side": "idf", "activation": "log1p_log1p"}),
        (f"{OPENSEARCH}-doc-v3-gte", {"activation": "log1p_log1p", "export_needed": False}),
        (f"{OPENSEARCH}-multilingual-v1", {"query_side": "idf", "vocab_size": 105879}),
        ("ibm-granite/granite-embedding-30m-sparse", {"vocab_size": 50265, "license": "apache-2.0"}),
    ],
)
def test_each_published_model_is_listed_with_the_settings_that_decide_its_vectors(
    name: str, facts: dict[str, object]
) -> None:
    assert {key: listed(name)[key] for key in facts} == facts


def test_only_asymmetric_models_zero_special_tokens_and_need_a_table() -> None:
    for card in published():
        assert card.zero_special_tokens == (card.query_side != "symmetric")
        assert ("idf.json" in card.files) == (card.query_side == "idf")
        assert card.files[-1] == card.model_file


# -- licences ------------------------------------------------------------------------------------------------


def test_a_non_commercial_licence_is_checked_before_any_download(tmp_path: Path) -> None:
    with HubServer(NON_COMMERCIAL, {}) as hub:
        client = Client(tmp_path, hub.url)
        script = f"from splade_retriever import SparseTextEmbedding as S; S({NON_COMMERCIAL!r})"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=client.environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    assert "LicenseError" in done.stderr
    assert hub.requests == []


def test_the_licence_error_names_the_licence_and_both_settings_that_accept_it() -> None:
    with pytest.raises(LicenseError, match=r"cc-by-nc-sa-4\.0.*accept_license=True.*SPLADE_ACCEPT_LICENSE="):
        SparseTextEmbedding(NON_COMMERCIAL)


@pytest.mark.parametrize("value", ["cc-by-nc-sa-4.0", "mit, CC-BY-NC-SA-4.0", "Naver/Splade-v3"])
def test_a_licence_is_accepted_by_the_environment_variable(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("SPLADE_ACCEPT_LICENSE", value)

    with pytest.raises(ModelFilesError, match="without an ONNX file"):
        SparseTextEmbedding(NON_COMMERCIAL)
    monkeypatch.setenv("SPLADE_ACCEPT_LICENSE", "mit")
    with pytest.raises(LicenseError):
        SparseTextEmbedding(NON_COMMERCIAL)


def test_the_licence_of_a_folder_is_checked_too(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    (folder / "card.json").write_text('{"license": "cc-by-nc-4.0"}', encoding="utf-8")

    with pytest.raises(LicenseError, match=r"cc-by-nc-4\.0"):
        SparseTextEmbedding(folder)
    assert SparseTextEmbedding(folder, accept_license=True).model_name == "tiny"


# -- names ---------------------------------------------------------------------------------------------------


def test_an_unknown_name_raises_an_error_that_suggests_similar_names() -> None:
    with pytest.raises(
        UnknownModelError, match=r"'prithivda/Splade_PP_en_v1'.*mean 'prithivida/Splade_PP_en_v1'"
    ):
        SparseTextEmbedding("prithivda/Splade_PP_en_v1")


def test_a_part_of_a_name_is_completed_and_the_command_that_lists_names_is_named() -> None:
    with pytest.raises(UnknownModelError, match=r"mean 'splade-retriever/minilm-l6-v4'.*`splade models`"):
        SparseTextEmbedding("minilm")


def test_fastembeds_other_spelling_of_a_name_is_an_alias(catalogue: Catalogue) -> None:
    assert catalogue.find("prithvida/SPLADE_PP_en_v1") == catalogue.find("prithivida/Splade_PP_en_v1")
    assert catalogue.find("prithvida/Splade_PP_en_v1") is not None


def test_an_empty_name_is_unknown_and_not_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_tiny_model(tmp_path / "tiny"))

    with pytest.raises(UnknownModelError, match="There is no model ''"):
        SparseTextEmbedding("")


def test_the_bundled_model_has_a_name_too() -> None:
    bundled = SparseTextEmbedding(lazy_load=True)

    assert SparseTextEmbedding(bundled.model_name.upper(), lazy_load=True).fingerprint == bundled.fingerprint
    with pytest.raises(UnknownModelError, match=r"has revision sha256:.*, not sha256:0"):
        SparseTextEmbedding(bundled.model_name, revision="sha256:0", lazy_load=True)


def test_a_folder_with_the_name_of_the_bundled_model_does_not_replace_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = SparseTextEmbedding(lazy_load=True).model_name
    write_tiny_model(tmp_path / name)
    monkeypatch.chdir(tmp_path)

    assert SparseTextEmbedding(name, lazy_load=True).vocab_size == 30522
    assert SparseTextEmbedding(f"./{name}", lazy_load=True).vocab_size == len(VOCABULARY)


def test_a_model_without_an_onnx_file_says_how_to_export_it_and_opens_from_the_export(
    tmp_path: Path,
) -> None:
    name = "prithivida/Splade_PP_en_v2"
    with pytest.raises(ModelFilesError) as caught:
        SparseTextEmbedding(name)
    assert 'pip install "splade-retriever[export]"' in str(caught.value)
    assert f"`splade export {name} Splade_PP_en_v2`" in str(caught.value)
    assert "SparseTextEmbedding('./Splade_PP_en_v2')" in str(caught.value)

    model = SparseTextEmbedding(name, specific_model_path=write_tiny_model(tmp_path / "exported"))

    assert model.model_name == name
    assert model.max_length == 32  # the number of positions of the exported network
    assert str(model.fingerprint["revision"]).startswith("sha256:")


def test_the_command_for_a_non_commercial_model_accepts_its_licence() -> None:
    for accept_license, kind in ((False, LicenseError), (True, ModelFilesError)):
        with pytest.raises(kind) as caught:
            SparseTextEmbedding("naver/splade-v3", accept_license=accept_license)

        assert "`splade export naver/splade-v3 splade-v3 --accept-license`" in str(caught.value)
        assert "SparseTextEmbedding('./splade-v3', accept_license=True)" in str(caught.value)


def test_a_folder_opened_with_a_name_has_that_name(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "v7")

    assert SparseTextEmbedding("me/mine", specific_model_path=folder).fingerprint["model"] == "me/mine"
    assert SparseTextEmbedding(specific_model_path=folder).fingerprint["model"] == "v7"


def test_the_digest_of_a_folder_is_not_requested_from_the_hub() -> None:
    with pytest.raises(UnknownModelError, match="Pass that folder with specific_model_path="):
        SparseTextEmbedding("prithivida/Splade_PP_en_v1", revision="sha256:abc")


# -- custom models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": {"url": "http://x"}}, "expected {'hf': 'owner/name'}"),
        ({"sources": {"hf": "nameonly"}}, "expected {'hf': 'owner/name'}"),
        ({"sources": {"hf": "a/b"}, "activation": "relu"}, "'log1p' or 'log1p_log1p'"),
        ({"sources": {"hf": "a/b"}, "query_side": "bm25"}, "'symmetric' or 'idf' or 'ones'"),
        ({"sources": {"hf": "a/b"}, "max_length": 0}, "max_length=0"),
    ],
)
def test_a_custom_card_with_an_invalid_value_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SparseTextEmbedding.add_custom_model("me/mine", **settings)  # type: ignore[arg-type]


def test_a_name_cannot_be_registered_with_other_settings(catalogue: Catalogue) -> None:
    SparseTextEmbedding.add_custom_model("me/mine", sources={"hf": "a/b"})
    SparseTextEmbedding.add_custom_model("me/mine", sources={"hf": "a/b"})
    with pytest.raises(InputError, match="'me/mine' is registered already"):
        SparseTextEmbedding.add_custom_model("ME/mine", sources={"hf": "a/c"})

    assert listed("me/mine")["sources"] == {"hf": "a/b"}
    assert catalogue.find("Me/Mine") == ModelCard(model="me/mine", source="a/b")


# -- from end to end -----------------------------------------------------------------------------------------

USE = """
import json, sys
from splade_retriever import SparseTextEmbedding
card, arguments, text = json.loads(sys.argv[1])
SparseTextEmbedding.add_custom_model("me/mine", **card)
model = SparseTextEmbedding("me/mine", **arguments)
result = {"fingerprint": model.fingerprint, "query": next(model.query_embed(text)).as_dict()}
if not arguments.get("lazy_load"):
    result["document"] = next(model.embed(text)).as_dict()
print(json.dumps(result))
"""


def use(client: Client, card: dict[str, object], **arguments: object) -> dict[str, dict[str, object]]:
    request = json.dumps([card, arguments, "the moon"])
    done = subprocess.run(
        [sys.executable, "-c", USE, request],
        env=client.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, dict[str, object]] = json.loads(done.stdout)
    return answer


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    folder = write_tiny_model(tmp_path / "published")
    files = {name: (folder / name).read_bytes() for name in ("model.onnx", "tokenizer.json")}
    files["idf.json"] = b'{"moon": 2.5, "the": 0.25}'
    with HubServer("me/repo", files) as server:
        yield server


def test_a_model_is_downloaded_once_and_opened_offline_the_next_time(hub: HubServer, tmp_path: Path) -> None:
    import numpy as np

    client = Client(tmp_path / "home", hub.url)
    first = use(client, {"sources": {"hf": "me/repo"}, "max_length": 32})
    hub.requests.clear()
    second = use(client, {"sources": {"hf": "me/repo"}, "max_length": 32})

    assert hub.requests == []
    assert second == first
    assert first["fingerprint"]["revision"] == COMMIT
    ids = [2, VOCABULARY.index("the"), VOCABULARY.index("moon"), 3]
    expected = np.log1p(np.maximum(tiny_logits(ids), 0)).max(axis=0)
    assert first["document"] == first["query"]
    assert first["document"] == pytest.approx(
        {str(token_id): expected[token_id] for token_id in np.flatnonzero(expected)}, abs=1e-5
    )


def test_a_process_that_only_encodes_queries_does_not_download_the_network(
    hub: HubServer, tmp_path: Path
) -> None:
    client = Client(tmp_path / "home", hub.url)
    card = {"sources": {"hf": "me/repo"}, "max_length": 32, "query_side": "idf"}

    querying = use(client, card, lazy_load=True)

    assert set(querying["query"].values()) == {2.5, 0.25}
    assert not any("model.onnx" in request for request in hub.requests)

    hub.requests.clear()
    encoding = use(client, card)

    assert any("model.onnx" in request for request in hub.requests)
    assert encoding["fingerprint"] == querying["fingerprint"]
    assert not {str(token_id) for token_id in range(5)} & encoding["document"].keys()
