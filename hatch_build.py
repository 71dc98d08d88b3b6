"""Build hook: writes the bill of materials (CycloneDX) of a wheel into `.dist-info/sboms`, see PEP 770.

It lists what is in the wheel: the package and the bundled model, with the data that the model was trained on,
as its card names them. The dependencies are in the wheel's metadata. The same files give the same document.
"""

import hashlib
import json
import re
import tempfile
import uuid
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NAME = "splade-retriever.cdx.json"
BUNDLED = Path("splade_retriever", "bundled")
BUNDLED_DOC = Path("splade_retriever", "bundled_doc")
STOP_WORDS = Path("splade_retriever", "encoding", "stop_words.json")
BASES = ("sentence-transformers/all-MiniLM-L6-v2", "google-bert/bert-base-uncased")
"""What the weights were trained from, and whose vocabulary the tokenizer has; both under Apache-2.0."""


class BillOfMaterials(BuildHookInterface[Any]):
    """Adds the document to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the document; hatchling calls it before it builds a wheel."""
        document = bill_of_materials(Path(self.root), self.metadata.version)
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name, NAME)
        path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        build_data["sbom_files"].append(str(path))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary folder."""
        self._folder.cleanup()


def bill_of_materials(root: Path, version: str) -> dict[str, Any]:
    """Return a document in CycloneDX 1.6 for the files in a source tree.

    Raises:
        ValueError: The model's card has no table of training data.
    """
    card = json.loads((root / BUNDLED / "card.json").read_text(encoding="utf-8"))
    package = f"pkg:pypi/splade-retriever@{version}"
    weights, tokenizer = f"{package}#model.onnx", f"{package}#tokenizer.json"
    table, stop_words = f"{package}#queries.safetensors", f"{package}#stop_words.json"
    components = [
        {
            "type": "machine-learning-model",
            "bom-ref": weights,
            "name": card["model"],
            "description": card["description"],
            "licenses": [_license("Apache-2.0")],
            "hashes": [_sha256(root / BUNDLED / "model.onnx")],
            "pedigree": {"ancestors": [_base(name) for name in BASES[:1]]},
            "modelCard": {"modelParameters": {"datasets": _datasets(root / BUNDLED / "MODEL_CARD.md")}},
        },
        {
            "type": "data",
            "bom-ref": tokenizer,
            "name": f"{card['model']} tokenizer",
            "licenses": [_license("Apache-2.0")],
            "hashes": [_sha256(root / BUNDLED / "tokenizer.json")],
            "pedigree": {"ancestors": [_base(name) for name in BASES[1:]]},
        },
    ]
    components.append(
        {
            "type": "machine-learning-model",
            "bom-ref": table,
            "name": f"{card['model']}-doc",
            "description": "Weights of query tokens; the documents are encoded by the other model.",
            "licenses": [_license("Apache-2.0")],
            "hashes": [_sha256(root / BUNDLED_DOC / "queries.safetensors")],
        }
    )
    components.append(
        {
            "type": "data",
            "bom-ref": stop_words,
            "name": "stop words of Snowball, and of PostgreSQL for Turkish",
            "licenses": [_license("BSD-3-Clause"), _license("PostgreSQL")],
            "hashes": [_sha256(root / STOP_WORDS)],
        }
    )
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": package,
                "name": "splade-retriever",
                "version": version,
                "purl": package,
                "licenses": [_license("Apache-2.0")],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": package, "dependsOn": [weights, tokenizer, table, stop_words]},
            {"ref": weights},
            {"ref": tokenizer},
            {"ref": table},
            {"ref": stop_words},
        ],
    }
    content = json.dumps(document, sort_keys=True)
    return {**document, "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}"}


def _license(identifier: str) -> dict[str, Any]:
    return {"license": {"id": identifier}}


def _sha256(path: Path) -> dict[str, str]:
    return {"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}


def _base(name: str) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "name": name,
        "purl": f"pkg:huggingface/{name}",
        "licenses": [_license("Apache-2.0")],
    }


def _datasets(card: Path) -> list[dict[str, Any]]:
    """Read the training data from the tables of a model card: name, content, licence and attribution."""
    section = card.read_text(encoding="utf-8").partition("\n## Data\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!source|all |-)([\w-]+) \| ([^|]+) \| ([^|]+) \|", section, flags=re.MULTILINE)
    if not rows:
        raise ValueError(f"{card} has no table of training data under '## Data'. Add it.")
    return [
        {
            "type": "dataset",
            "name": name,
            "description": content.strip(),
            "contents": {"properties": [{"name": "licence and attribution", "value": licence.strip()}]},
        }
        for name, content, licence in rows
    ]
