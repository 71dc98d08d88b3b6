import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import grpc
import pytest
from pydantic import ValidationError
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.grpc import CollectionExists, CollectionExistsResponse
from qdrant_client.http.exceptions import ResponseHandlingException

from splade_retriever.errors import InputError, ServerError, StorageError
from splade_retriever.index.connection import LOAD_RETRY_FOR_S, RETRY_FOR_S, Connection
from splade_retriever.index.options import ServerOptions
from splade_retriever.index.server_client import connect, connection_to
from splade_retriever.index.splade_index import SpladeIndex
from tests.rest_server import RestServer
from tests.words import WordEncoder


class Answers(BaseHTTPRequestHandler):
    """Gives the statuses in `script`, one a request, then 200 and a collection that exists."""

    url: ClassVar[str]
    script: ClassVar[list[int]]
    seen: ClassVar[list[tuple[str, str | None]]]

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("api-key")))
        status = self.script.pop(0) if self.script else 200
        body = json.dumps({"result": {"exists": True}, "status": "ok", "time": 0.0}).encode()
        if status == 0:  # hang up in the middle of the answer
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(body[:5])
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[type[Answers]]:
    class Handler(Answers):
        script: ClassVar[list[int]] = []
        seen: ClassVar[list[tuple[str, str | None]]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        Handler.url = f"http://127.0.0.1:{listening.server_address[1]}"
        yield Handler
        listening.shutdown()
        thread.join()


def ask(url: str, retry_for: float | None = None) -> bool:
    options = ServerOptions(api_key="secret", timeout=2, retry_for=retry_for)
    client = connect(url, options)
    try:
        return connection_to(url, options).send(
            lambda: client.collection_exists("docs"), doing="look for 'docs'"
        )
    finally:
        client.close()


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize("script", [[], [503], [429, 502], [0], [0, 504], [500], [408]])
def test_a_temporary_error_is_retried(answers: type[Answers], script: list[int]) -> None:
    tries = len(script) + 1
    answers.script[:] = script

    assert ask(answers.url)
    assert answers.seen == [("/collections/docs/exists", "secret")] * tries


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize(("status", "error"), [(401, ServerError), (403, ServerError), (400, StorageError)])
def test_a_permanent_error_is_raised_at_once(
    answers: type[Answers], status: int, error: type[Exception]
) -> None:
    answers.script[:] = [status]

    with pytest.raises(error, match=f"Could not look for 'docs'.*{status}"):
        ask(answers.url)
    assert len(answers.seen) == 1


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_a_server_that_stays_busy_is_an_error_when_the_time_is_over(answers: type[Answers]) -> None:
    answers.script[:] = [503] * 10

    with pytest.raises(ServerError, match=r"did not answer.*503.*in [23] tries within [0-7](\.\d)? s"):
        ask(answers.url, retry_for=0.5)
    answers.script[:] = [503]
    with pytest.raises(ServerError, match="in one try"):
        ask(answers.url, retry_for=0)


def test_a_server_that_never_answered_is_an_error_at_once() -> None:
    with socket.socket() as taken:  # a port that is bound and does not listen refuses
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        started = time.perf_counter()

        with pytest.raises(
            ServerError, match=rf"Could not look for collection .*Nothing listens at 127.0.0.1:{port}\."
        ):
            SpladeIndex(f"http://127.0.0.1:{port}", model=WordEncoder())
        assert time.perf_counter() - started < 8.0  # it is not repeated for 10 s
        with pytest.raises(ServerError, match=r"in (one try|2 tries) within [0-7](\.\d)? s"):
            SpladeIndex(f"http://127.0.0.1:{port}", model=WordEncoder(), retry_for=0.2)


def test_errors_of_this_package_are_raised_unchanged() -> None:
    def refuse() -> None:
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        Connection("here").send(refuse, doing="x")


# -- what a server may say beside HTTP's statuses ------------------------------------------------------------


def once(error: Exception) -> Callable[[], str]:
    """A call that fails once."""
    waiting = [error]

    def call() -> str:
        if waiting:
            raise waiting.pop()
        return "done"

    return call


def test_the_retry_waits_as_long_as_the_server_says() -> None:
    started = time.perf_counter()

    assert Connection("here").send(once(ResourceExhaustedResponse("slow down", 1)), doing="x") == "done"
    assert time.perf_counter() - started >= 1.0
    with pytest.raises(ServerError, match="It asks for a pause of 20 s"):
        Connection("here").send(once(ResourceExhaustedResponse("slow down", 20)), doing="x")


def test_an_answer_that_is_not_valid_is_raised_at_once() -> None:
    with pytest.raises(ValidationError) as fault:
        models.CountResult(count="many")
    calls = []

    def call() -> None:
        calls.append(1)
        raise ResponseHandlingException(fault.value)

    with pytest.raises(ServerError, match="Could not count"):
        Connection("here").send(call, doing="count")
    assert calls == [1]


@pytest.fixture
def grpc_server() -> Iterator[tuple[int, list[grpc.StatusCode]]]:
    """A gRPC server that gives the statuses of a script, one a request, and then says that all is there."""
    script: list[grpc.StatusCode] = []

    def exists(request: bytes, context: grpc.ServicerContext) -> bytes:
        if script:
            context.abort(script.pop(0), "as the script says")
        return CollectionExistsResponse(result=CollectionExists(exists=True)).SerializeToString()

    methods = {"CollectionExists": grpc.unary_unary_rpc_method_handler(exists)}
    with ThreadPoolExecutor(2) as pool:
        listening = grpc.server(pool)
        listening.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("qdrant.Collections", methods),)
        )
        port = listening.add_insecure_port("127.0.0.1:0")
        listening.start()
        yield port, script
        listening.stop(None).wait()


def ask_by_grpc(port: int, retry_for: float | None = None) -> bool:
    client = QdrantClient("127.0.0.1", grpc_port=port, prefer_grpc=True, timeout=5, check_compatibility=False)
    try:
        connection = Connection("here", retry_for=retry_for)
        return connection.send(lambda: client.collection_exists("docs"), doing="look")
    finally:
        client.close()


def test_grpc_errors_are_retried_or_raised_with_the_servers_message(
    grpc_server: tuple[int, list[grpc.StatusCode]],
) -> None:
    port, script = grpc_server
    code = grpc.StatusCode

    script[:] = [code.UNAVAILABLE, code.RESOURCE_EXHAUSTED]
    assert ask_by_grpc(port)
    script[:] = [code.INVALID_ARGUMENT, code.OK]
    with pytest.raises(StorageError, match="Could not look: INVALID_ARGUMENT: as the script says"):
        ask_by_grpc(port)
    assert script == [code.OK], "it was asked once"
    script[:] = [code.UNAUTHENTICATED]
    with pytest.raises(ServerError, match="UNAUTHENTICATED"):
        ask_by_grpc(port)
    script[:] = [code.UNAVAILABLE] * 3
    with pytest.raises(ServerError, match=r"UNAVAILABLE: as the script says.*in (one try|2 tries)"):
        ask_by_grpc(port, retry_for=0.2)


# -- many points at once -------------------------------------------------------------------------------------


def test_four_writes_run_at_once() -> None:
    together = threading.Barrier(4, timeout=20)
    with RestServer() as rest:

        def before(method: str, path: str) -> None:
            if (method, path) == ("PUT", "/collections/splade/points"):
                together.wait()

        rest.before = before
        with SpladeIndex(rest.url, model=WordEncoder()) as index:
            index.add((f"moon {n}" for n in range(1024)), batch_size=1024)
            assert index.count() == 1024


def test_the_other_calls_are_made_if_one_fails() -> None:
    made: list[int] = []

    def call(n: int) -> None:
        made.append(n)
        if n in (2, 3):
            raise InputError(f"no {n}")

    with pytest.raises(InputError, match="no 2"):
        Connection("here").run_concurrently([partial(call, n) for n in range(6)])
    assert sorted(made) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("calls", [1, 6])
def test_calls_at_the_same_time_belong_to_the_load_of_their_caller(calls: int) -> None:
    connection, limits = Connection("here"), list[float]()

    def call() -> None:
        limits.append(connection.retry_for_s)

    with connection.loading():
        connection.run_concurrently([call] * calls)
    connection.run_concurrently([call] * calls)

    assert limits == [LOAD_RETRY_FOR_S] * calls + [RETRY_FOR_S] * calls


def test_settings_of_a_cluster_reach_the_server() -> None:
    bodies: list[dict[str, Any]] = []
    with RestServer() as rest:
        rest.on_request = lambda method, path, body: (
            bodies.append(body) if (method, path) == ("PUT", "/collections/splade") else None
        )
        with SpladeIndex(
            rest.url,
            model=WordEncoder(),
            shard_number=6,
            replication_factor=2,
            on_disk=True,
            datatype="float16",
            timeout=7,
        ):
            pass

    (body,) = bodies
    assert (body["shard_number"], body["replication_factor"]) == (6, 2)
    assert body["sparse_vectors"]["splade"]["index"] == {"on_disk": True, "datatype": "float16"}
