"""An index for agents: a server of the Model Context Protocol, and tools of both frameworks."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from splade_retriever import SpladeIndex, __version__
from splade_retriever.errors import InputError
from splade_retriever.index.agent_tools import IndexTools
from tests.bare_encoder import BareEncoder
from tests.words import WordEncoder

mcp = pytest.importorskip("mcp", reason="needs the extra `mcp`")

ROOT = Path(__file__).parent.parent
IDS = ["notes/../moon.md", "/etc/tides 1"]


def fill(index: SpladeIndex) -> None:
    index.add(
        ["The lander reached the Moon. " + "Dust. " * 500, "Tides follow the Moon."],
        [{"year": 2023}, {}],
        IDS,
    )


@pytest.fixture(scope="module")
def index() -> Iterator[SpladeIndex]:
    with SpladeIndex(":memory:") as opened:
        fill(opened)
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agents") / "index"
    with SpladeIndex(folder) as opened:
        fill(opened)
    return folder


def with_client(server: Any, work: Callable[[Any], Awaitable[Any]]) -> Any:
    async def connect() -> Any:
        async with mcp.Client(server) as client:
            return await work(client)

    return asyncio.run(asyncio.wait_for(connect(), 60))


def create(index: SpladeIndex, **options: Any) -> Any:
    from splade_retriever.mcp_server import create_server

    return create_server(index, **options)


async def call(client: Any, name: str, **arguments: Any) -> Any:
    result = await client.call_tool(name, arguments)
    assert not result.is_error, result.content
    return result.structured_content


async def message(client: Any, name: str, **arguments: Any) -> str:
    result = await client.call_tool(name, arguments)
    assert result.is_error
    return str(result.content[0].text)


def test_the_tools_of_the_server_search_get_and_explain_hits_and_misses(index: SpladeIndex) -> None:
    async def work(client: Any) -> None:
        found = await call(client, "search", query="moon lander", k=1, filter={"year": {"$gte": 2000}})
        (hit,) = found["hits"]
        assert (hit["id"], hit["metadata"], hit["cut"], len(hit["text"])) == (
            IDS[0],
            {"year": 2023},
            True,
            2000,
        )
        assert hit["why"][0]["word"] in ("moon", "lander")
        assert hit["score"] == pytest.approx(index.search("moon lander", 1)[0].score)

        explained = await call(client, "explain", query="moon lander", id=IDS[0])
        total = sum(contribution["score"] for contribution in explained["contributions"])
        assert total == pytest.approx(explained["score"], abs=1e-5)

        missing = await call(client, "why_not", query="moon lander", id=IDS[1], k=1)
        assert (missing["found"], missing["rank"], missing["cut_id"]) == (False, 2, IDS[0])
        assert [reason["kind"] for reason in missing["reasons"]] == ["rank"]
        assert "lander" in [part["token"] for part in missing["differences"]]

        got = await call(client, "get", ids=[IDS[1], "no", IDS[1]])
        assert got["documents"] == [{"id": IDS[1], "text": "Tides follow the Moon.", "metadata": {}}]
        assert got["missing"] == ["no"]

    with_client(create(index), work)


def test_wrong_calls_are_answered_with_what_is_wrong(index: SpladeIndex) -> None:
    async def work(client: Any) -> None:
        assert "k is 0, expected 1 to 50" in await message(client, "search", query="moon", k=0)
        assert "unknown operator '$bad'" in await message(
            client, "search", query="m", filter={"y": {"$bad": 1}}
        )
        assert "no document with the id 'no'" in await message(client, "explain", query="moon", id="no")
        assert "no document with the id 'no'" in await message(client, "why_not", query="moon", id="no")
        assert "k is 51, expected 1 to 50" in await message(client, "why_not", query="m", id=IDS[0], k=51)
        assert "at most 100" in await message(client, "get", ids=["x"] * 101)

    with_client(create(index), work)


def test_a_document_with_any_id_is_a_resource(index: SpladeIndex) -> None:
    async def work(client: Any) -> None:
        (template,) = (await client.list_resource_templates()).resource_templates
        assert template.uri_template == "splade://documents/{+id}"
        for id, address in zip(IDS, ("notes%2F..%2Fmoon.md", "%2Fetc%2Ftides%201"), strict=True):
            (content,) = (await client.read_resource(f"splade://documents/{address}")).contents
            assert content.text == index.get([id])[0].text
        with pytest.raises(mcp.MCPError, match="no document with the id 'no'"):
            await client.read_resource("splade://documents/no")

    with_client(create(index), work)


def test_only_a_server_with_write_changes_the_index() -> None:
    async def names(client: Any) -> list[str]:
        return [tool.name for tool in (await client.list_tools()).tools]

    async def work(client: Any) -> None:
        assert await names(client) == ["search", "get", "explain", "why_not", "add", "delete"]
        assert await call(client, "add", texts=["A rover."], ids=["rover"], metadatas=[{"n": 1}]) == {
            "ids": ["rover"]
        }
        assert (await call(client, "search", query="rover"))["hits"][0]["id"] == "rover"
        assert await call(client, "delete", ids=["rover", "no"]) == {"deleted": ["rover"]}

    with SpladeIndex(":memory:") as index:
        assert with_client(create(index), names) == ["search", "get", "explain", "why_not"]
        with_client(create(index, write=True), work)
        assert index.count() == 0


def test_a_search_with_an_encoder_without_a_tokenizer_names_no_words() -> None:
    async def work(client: Any) -> None:
        (hit,) = (await call(client, "search", query="moon"))["hits"]
        assert (hit["id"], hit["score"], hit["why"]) == ("a", 1.0, [])

    with SpladeIndex(model=BareEncoder()) as index:
        index.add(["moon rover"], ids=["a"])
        with_client(create(index), work)


# -- tenants -------------------------------------------------------------------------------------------------


@pytest.fixture
def of_tenants() -> Iterator[SpladeIndex]:
    with SpladeIndex(tenant_field="org.name", model=WordEncoder()) as opened:
        opened.add(["moon of a", "moon of b"], [{"org": {"name": org}} for org in "ab"], ["1", "1"])
        yield opened


def test_the_tools_of_a_tenant_reach_its_documents_only(of_tenants: SpladeIndex) -> None:
    tools = IndexTools(of_tenants, tenant="a")

    assert [hit["text"] for hit in tools.search("moon")["hits"]] == ["moon of a"]
    assert tools.search("moon", filter={"org.name": "b"})["hits"] == []
    assert [document["text"] for document in tools.get(["1"])["documents"]] == ["moon of a"]
    assert tools.explain("moon", "1")["score"] == 1.0
    assert tools.why_not("moon", "1")["rank"] == 1
    assert tools.text_of("1") == "moon of a"
    metadatas: list[dict[str, Any]] = [{"year": 1}, {"org": {"name": "a"}}]
    assert tools.add(["a rover", "ice"], ["2", "3"], metadatas) == {"ids": ["2", "3"]}
    assert tools.add(["dust"], ["4"]) == {"ids": ["4"]}
    assert of_tenants.get(["2"], tenant="a")[0].metadata == {"year": 1, "org": {"name": "a"}}
    with pytest.raises(InputError, match="has 'b' at 'name', where the tenant belongs"):
        tools.add(["moon"], ["1"], [{"org": {"name": "b"}}])
    for wrong in ({"org": "a"}, "a"):
        with pytest.raises(InputError, match="metadata"):
            tools.add(["moon"], ["1"], [wrong])  # type: ignore[list-item]
    assert tools.delete(["1", "2", "3", "4"]) == {"deleted": ["1", "2", "3", "4"]}
    assert [hit.text for hit in of_tenants.scroll()] == ["moon of b"]


def test_a_server_of_a_tenant_reads_its_documents_only(of_tenants: SpladeIndex) -> None:
    async def work(client: Any) -> None:
        assert (await call(client, "get", ids=["1"]))["documents"][0]["text"] == "moon of a"
        (content,) = (await client.read_resource("splade://documents/1")).contents
        assert content.text == "moon of a"
        for tool in (await client.list_tools()).tools:
            assert "tenant" not in tool.input_schema["properties"]

    with_client(create(of_tenants, tenant="a"), work)


def test_without_a_tenant_a_search_finds_all_and_ids_are_an_error(of_tenants: SpladeIndex) -> None:
    tools = IndexTools(of_tenants)

    assert len(tools.search("moon")["hits"]) == 2
    with pytest.raises(InputError, match="Pass tenant="):
        tools.get(["1"])


def test_a_tenant_of_an_index_without_tenants_is_an_error(
    index: SpladeIndex, of_tenants: SpladeIndex
) -> None:
    with pytest.raises(InputError, match="does not separate tenants"):
        IndexTools(index, tenant="a")
    for wrong in ("", 5):
        with pytest.raises(InputError, match="expected a string that is not empty"):
            IndexTools(of_tenants, tenant=wrong)  # type: ignore[arg-type]


def test_the_tools_of_both_frameworks_take_a_tenant_that_the_model_cannot_choose(
    of_tenants: SpladeIndex,
) -> None:
    from splade_retriever import langchain, llama_index

    for tool in langchain.create_tools(of_tenants, write=True, tenant="b"):
        assert "tenant" not in tool.args
    for made in llama_index.create_tools(of_tenants, write=True, tenant="b"):
        assert "tenant" not in json.loads(made.metadata.fn_schema_str)["properties"]
    got = langchain.create_tools(of_tenants, tenant="b")[1].invoke({"ids": ["1"]})
    assert got["documents"][0]["text"] == "moon of b"
    assert llama_index.create_tools(of_tenants, tenant="b")[1].call(ids=["1"]).raw_output == got


# -- the command ---------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def test_the_command_serves_over_stdin_and_stdout(folder: Path) -> None:
    parameters = mcp.StdioServerParameters(
        command=sys.executable,
        args=["-m", "splade_retriever", "mcp", "--index", str(folder)],
        env=environment(),
    )

    async def work(client: Any) -> list[str]:
        found = await call(client, "search", query="moon lander")
        return [hit["id"] for hit in found["hits"]]

    assert with_client(mcp.stdio_client(parameters), work) == IDS


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_the_command_serves_http_on_this_machine_only(host: str, folder: Path) -> None:
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "splade_retriever", "mcp", "--index", str(folder), "--http"]
    url = f"http://{host}:{port}/mcp"

    async def work(client: Any) -> Any:
        return (await call(client, "search", query="tides"))["hits"][0]["id"]

    with subprocess.Popen(
        [*command, "--host", host, "--port", str(port)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_for(host, port)
            assert with_client(url, work) == IDS[1]
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
                answer = httpx.post(
                    url, json=body, headers={"Accept": "application/json, text/event-stream", **headers}
                )
                assert answer.status_code in (403, 421)
        finally:
            process.terminate()


def wait_for(host: str, port: int) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server does not listen")


def test_the_server_has_the_version_of_the_package(index: SpladeIndex) -> None:
    assert create(index).version == __version__


def test_another_address_than_loopback_is_refused(index: SpladeIndex) -> None:
    from splade_retriever.mcp_server import serve

    with pytest.raises(InputError, match="expected a loopback address"):
        serve(index, transport="http", host="0.0.0.0")


def test_an_address_in_brackets_is_served_without_them(
    index: SpladeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcp.server.mcpserver import MCPServer

    from splade_retriever.mcp_server import serve

    started: dict[str, Any] = {}
    monkeypatch.setattr(MCPServer, "run", lambda *_, **options: started.update(options))

    serve(index, transport="http", host="[::1]", port=1)

    assert (started["host"], started["port"]) == ("::1", 1)
    assert "[::1]:1" in started["transport_security"].allowed_hosts


# -- frameworks ----------------------------------------------------------------------------------------------


def test_langchain_tools_have_the_same_shape(index: SpladeIndex) -> None:
    from splade_retriever.langchain import create_tools

    tools = {tool.name: tool for tool in create_tools(index)}
    found = tools["search"].invoke({"query": "moon lander", "k": 1})

    assert list(tools) == ["search", "get", "explain", "why_not"]
    assert [hit["id"] for hit in found["hits"]] == [IDS[0]]
    assert asyncio.run(tools["search"].ainvoke({"query": "moon lander", "k": 1})) == found
    assert tools["explain"].invoke({"query": "m", "id": "no"}).startswith("There is no document")
    assert tools["why_not"].invoke({"query": "moon lander", "id": IDS[1], "k": 1})["rank"] == 2
    assert set(tools["search"].args) == {"query", "k", "filter"}
    assert [tool.name for tool in create_tools(index, write=True)][4:] == ["add", "delete"]


def test_llama_index_tools_have_the_same_shape(index: SpladeIndex) -> None:
    from splade_retriever.llama_index import create_tools

    tools = {tool.metadata.name: tool for tool in create_tools(index)}
    found = tools["search"].call(query="moon lander", k=1).raw_output

    assert list(tools) == ["search", "get", "explain", "why_not"]
    assert [hit["id"] for hit in found["hits"]] == [IDS[0]]
    assert asyncio.run(tools["search"].acall(query="moon lander", k=1)).raw_output == found
    assert tools["why_not"].call(query="moon lander", id=IDS[1], k=1).raw_output["rank"] == 2
    assert "no document" in tools["explain"].call(query="m", id="no").raw_output["error"]
    assert set(json.loads(tools["search"].metadata.fn_schema_str)["properties"]) == {"query", "k", "filter"}
