"""The JSON API of the page, over HTTP: answers, errors, and what keeps other sites out."""

import json
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.testclient import TestClient

from splade_retriever import SpladeIndex
from splade_retriever.errors import InputError
from splade_retriever.web.server import serve
from tests.bare_encoder import BareEncoder
from tests.web.conftest import served
from tests.words import LetterEncoder, WordEncoder


def post(address: str, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{address}{path}", json=body, headers=headers, timeout=30)


def test_a_search_returns_the_hits_of_the_index_with_explanations(address: str, index: SpladeIndex) -> None:
    answer = post(address, "/api/search", {"query": "why do stars explode", "k": 2}).json()

    hits = index.search("why do stars explode", 2)
    assert [(hit["id"], hit["score"]) for hit in answer["hits"]] == [(hit.id, hit.score) for hit in hits]
    for hit in answer["hits"]:
        contributions = hit["explanation"]["contributions"]
        assert sum(c["score"] for c in contributions) == pytest.approx(hit["score"], abs=1e-4)
    weights = {entry["id"]: entry["weight"] for entry in answer["vector"]}
    assert weights == index.query_vector("why do stars explode").as_dict()
    assert {entry["token"] for entry in answer["vector"] if entry["in_query"]} == {
        "why",
        "do",
        "stars",
        "explode",
    }


def test_a_search_with_weights_scores_by_them(address: str, index: SpladeIndex) -> None:
    (token,) = index.model.tokenizer.encode_batch(["ice"])[0].ids[1:-1]  # type: ignore[attr-defined]

    answer = post(address, "/api/search", {"query": "stars", "weights": [[token, 2.0], [5, 0]]}).json()

    assert [hit["id"] for hit in answer["hits"]] == ["rings"]
    assert [(entry["id"], entry["weight"]) for entry in answer["vector"]] == [(token, 2.0)]


def test_filter_and_syntax_apply(address: str) -> None:
    of_year = post(address, "/api/search", {"query": "star", "filter": {"year": 2020}}).json()
    without = post(address, "/api/search", {"query": "stars -supernova", "syntax": True}).json()

    assert [hit["id"] for hit in of_year["hits"]] == ["supernova"]
    assert "supernova" not in [hit["id"] for hit in without["hits"]]
    assert without["hits"][0]["explanation"]["controls"] == ["exclude supernova"]


def test_explain_names_the_words_that_expansions_come_from(address: str) -> None:
    answer = post(address, "/api/explain", {"query": "explode", "id": "supernova"}).json()

    (explode,) = [c for c in answer["explanation"]["contributions"] if c["token"] == "explode"]
    assert answer["text"][slice(*explode["text_origin"])] == "explosion"


def test_why_not_returns_the_reasons(address: str, index: SpladeIndex) -> None:
    answer = post(address, "/api/why-not", {"query": "lunar", "id": "rings", "k": 1}).json()

    assert answer == json.loads(json.dumps(index.why_not("lunar", "rings", 1).to_dict()))


def test_a_hybrid_index_is_searched_by_both_branches() -> None:
    with SpladeIndex(model=WordEncoder(), dense=LetterEncoder()) as hybrid:
        hybrid.add(["moon rover", "zzz"], ids=["a", "b"])
        with served(hybrid) as url:
            answer = post(url, "/api/search", {"query": "moon"}).json()
            assert httpx.get(f"{url}/api/info").json()["hybrid"] is True

    assert [hit["id"] for hit in answer["hits"]] == ["a", "b"]
    assert answer["hits"][0]["explanation"]["score"] == 1.0


def test_hits_of_an_encoder_without_a_tokenizer_have_scores_and_no_contributions() -> None:
    with SpladeIndex(model=BareEncoder()) as bare:
        bare.add(["moon rover", "moon"], ids=["a", "b"])
        with served(bare) as url:
            answer = post(url, "/api/search", {"query": "moon rover"}).json()

    assert [(hit["id"], hit["score"]) for hit in answer["hits"]] == [("a", 2.0), ("b", 1.0)]
    for hit in answer["hits"]:
        assert (hit["explanation"]["score"], hit["explanation"]["contributions"]) == (hit["score"], [])


def test_documents_of_tenants_are_explained_by_the_tenant_of_the_hit() -> None:
    with SpladeIndex(tenant_field="org") as shared:
        shared.add(["Ice on the Moon.", "Ice on Mars."], [{"org": "a"}, {"org": "b"}], ["1", "1"])
        with served(shared) as url:
            found = post(url, "/api/search", {"query": "mars", "k": 1}).json()["hits"][0]
            body = {"query": "mars", "id": "1", "tenant": found["tenant"]}
            explained = post(url, "/api/explain", body).json()
            missing = post(url, "/api/why-not", body).json()
            without = post(url, "/api/explain", {"query": "mars", "id": "1"}).json()

    assert (found["tenant"], explained["text"], missing["found"]) == ("b", "Ice on Mars.", True)
    assert "Pass tenant=" in without["error"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/api/search", {"query": 5}, "query is an int, expected str"),
        ("/api/search", {}, "The request has no query"),
        ("/api/search", {"query": "a", "kk": 1}, "unknown name 'kk'"),
        ("/api/search", {"query": "a", "k": 0}, "k is 0, expected 1 to 100"),
        ("/api/search", {"query": "a", "k": True}, "k is a bool, expected int"),
        ("/api/search", {"query": "a" * 20_000}, "20,000 characters"),
        ("/api/search", {"query": "a", "filter": {"$what": 1}}, r"\$what"),
        ("/api/search", {"query": "a", "weights": [[1]]}, "expected a pair"),
        ("/api/search", {"query": "a", "weights": [[99_999_999, 1.0]]}, "No token has the id"),
        ("/api/search", {"query": "a", "weights": [[1, "x"]]}, "expected a number"),
        ("/api/search", {"query": '"a', "syntax": True}, "unclosed quote"),
        ("/api/search", [], "The request is a list"),
        ("/api/explain", {"query": "a", "id": "nothing"}, "no document with the id 'nothing'"),
        ("/api/why-not", {"query": "a", "id": "nothing"}, "no document with the id 'nothing'"),
        ("/api/why-not", {"query": "a"}, "The request has no id"),
    ],
)
def test_a_request_that_is_not_valid_is_an_error_with_a_message(
    address: str, path: str, body: Any, message: str
) -> None:
    answer = post(address, path, body)

    assert answer.status_code == 400
    pytest.fail(answer.text) if "error" not in answer.json() else None
    with pytest.raises(ValueError, match=message):
        raise ValueError(answer.json()["error"])


def test_a_request_that_is_too_large_or_no_json_is_refused(address: str) -> None:
    json_type = {"content-type": "application/json"}
    large = httpx.post(f"{address}/api/search", content=b" " * (2 << 20), headers=json_type)
    broken = httpx.post(f"{address}/api/search", content=b"[" * 100_000, headers=json_type)
    form = httpx.post(
        f"{address}/api/search", content=b'{"query": "a"}', headers={"content-type": "text/plain"}
    )

    assert "more than 1,048,576 bytes" in large.json()["error"]
    assert "not JSON" in broken.json()["error"]
    assert "not application/json" in form.json()["error"]
    assert {large.status_code, broken.status_code, form.status_code} == {400}


@pytest.mark.parametrize(
    "host", ["attacker.example", "attacker.example:80", "127.0.0.1.attacker.example", ""]
)
def test_a_request_for_another_host_is_refused(address: str, host: str) -> None:
    answer = post(address, "/api/search", {"query": "star"}, host=host)

    assert answer.status_code in (400, 403)
    assert "hits" not in answer.text
    assert httpx.get(address, headers={"host": host}).status_code in (400, 403)


def test_a_request_of_another_site_is_refused_and_no_answer_allows_one(address: str) -> None:
    answer = post(address, "/api/search", {"query": "star"}, origin="https://attacker.example")
    own = post(address, "/api/search", {"query": "star"}, origin=address)
    asked = httpx.options(f"{address}/api/search", headers={"origin": "https://attacker.example"})

    assert (answer.status_code, own.status_code) == (403, 200)
    for response in (answer, own, asked):
        assert "access-control-allow-origin" not in response.headers


def test_every_answer_has_the_security_headers(address: str) -> None:
    for path in ("/", "/page.js", "/page.css", "/openapi.json", "/api/info", "/nothing"):
        headers = httpx.get(f"{address}{path}").headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_token_protects_the_api_and_not_the_files(index: SpladeIndex) -> None:
    with served(index, token="secret", hosts=None) as url:
        body = {"query": "star"}
        assert post(url, "/api/search", body).status_code == 401
        assert post(url, "/api/search", body, authorization="Bearer wrong").status_code == 401
        assert post(url, "/api/search", body, authorization="Bearer secret").status_code == 200
        assert httpx.get(f"{url}/api/info").status_code == 401
        assert httpx.get(url).status_code == 200


def test_an_address_that_others_can_reach_needs_a_token(index: SpladeIndex) -> None:
    with pytest.raises(
        InputError, match=r"on '0\.0\.0\.0', where others can read the index, without a token"
    ):
        serve(index, host="0.0.0.0", port=1)


@pytest.mark.parametrize(
    ("host", "bound", "requested"),
    [("127.0.0.2", "127.0.0.2", "127.0.0.2:1"), ("[::1]", "::1", "[::1]:1")],
)
def test_any_loopback_address_needs_no_token_and_may_be_requested(
    host: str, bound: str, requested: str, index: SpladeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server: started.append(server.config))

    serve(index, host=host, port=1)

    (config,) = started
    assert config.host == bound
    client = TestClient(config.app)
    assert client.get("/api/info", headers={"Host": requested}).status_code == 200
    assert client.get("/api/info", headers={"Host": "127.0.0.3:1"}).status_code == 403


def test_the_openapi_document_describes_every_path_and_every_name(address: str) -> None:
    document = httpx.get(f"{address}/openapi.json").json()

    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {"/api/info", "/api/search", "/api/explain", "/api/why-not"}
    for path, methods in document["paths"].items():
        if "post" in methods:
            schema = methods["post"]["requestBody"]["content"]["application/json"]["schema"]
            allowed = post(address, path, {"unknown": 1}).json()["error"].split("allowed: ")[1].rstrip(".")
            assert sorted(schema["properties"]) == sorted(allowed.split(", "))


def test_control_characters_of_documents_are_escaped_in_the_json(address: str) -> None:
    answer = post(address, "/api/search", {"query": "comet"})

    assert not {"\x1b", "\u202e"} & set(answer.text)
    assert "\u202e" in answer.json()["hits"][0]["text"]
