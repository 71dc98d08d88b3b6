"""The page about Qdrant servers: its Compose file has the form of a cluster of three nodes."""

import re
from pathlib import Path

import yaml

PAGE = (Path(__file__).parents[1] / "docs" / "server.md").read_text(encoding="utf-8")


def test_the_compose_file_starts_three_nodes_of_one_cluster() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    compose = yaml.safe_load(block)
    services = compose["services"]

    assert len(services) == 3
    first, *others = services
    assert services[first]["command"] == ["./qdrant", "--uri", f"http://{first}:6335"]
    for name in others:
        bootstrap = ["--bootstrap", f"http://{first}:6335", "--uri", f"http://{name}:6335"]
        assert services[name]["command"] == ["./qdrant", *bootstrap]
        assert services[name]["depends_on"] == [first]
    mounts = [volume for service in services.values() for volume in service["volumes"]]
    assert sorted({mount.split(":")[0] for mount in mounts}) == sorted(compose["volumes"])
    assert len(set(mounts)) == 6, "each node has its own storage"
    ports = [port for service in services.values() for port in service["ports"]]
    assert len(set(ports)) == 6
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for service in services.values():
        assert re.fullmatch(r"qdrant/qdrant:v\d+\.\d+\.\d+", service["image"])
        assert service["environment"]["QDRANT__CLUSTER__ENABLED"] == "true"
        assert "QDRANT_API_KEY" in service["environment"]["QDRANT__SERVICE__API_KEY"]
