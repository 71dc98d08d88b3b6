"""A model with random changes, as a folder, and a small folder of texts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from splade_retriever.training import Corpus

State = dict[str, "np.ndarray[Any, Any]"]


@pytest.fixture(scope="package")
def state() -> State:
    """Weights of a model whose trained parts all differ from their start."""
    import torch

    from splade_retriever.training import bundled_folder, load_model
    from splade_retriever.training.model import Splade

    torch.manual_seed(3)
    start = torch.rand(30522) + 0.5
    start[:104] = 0
    model = Splade(load_model(bundled_folder()).encoder, start)
    with torch.no_grad():
        for part in [*model.head.parameters(), *model.encoder.layers[-1].parameters()]:
            part.add_(0.02 * torch.randn_like(part))
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.fixture(scope="package")
def folder(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in int8."""
    from tests.training.folders import write_model

    to = tmp_path_factory.mktemp("start")
    write_model(state, to)
    return to


@pytest.fixture(scope="package")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four files of three sections, one heading of which is in every file, and a file without headings."""
    root = tmp_path_factory.mktemp("texts")
    things = {"ice": "Saturn", "dust": "comet", "rock": "asteroid", "gas": "nebula"}
    for what, where in things.items():
        (root / f"{what}.md").write_text(
            f"# All about {what}\n\n## Where {what} is found\n\nMost {what} is found near a {where}. It was "
            f"seen there by many people with small telescopes, in the evenings of a long clear summer.\n\n"
            f"## How {what} is weighed\n\nNo scale has weighed {what} in space. Its mass is known from its "
            f"pull on a probe which flies past, and from the speed that the probe then has.\n\n"
            f"## Summary\n\nThis was a page on {what}. Nobody has ever touched the {what} of a {where}, but "
            f"instruments have, and they have measured it from afar for many years.\n",
            encoding="utf-8",
        )
    (root / "notes.txt").write_text(
        "Stars twinkle because of the air. It bends their light a little to and fro, and a planet, being "
        "wider in the sky, does not show that.\n",
        encoding="utf-8",
    )
    return root


@pytest.fixture(scope="package")
def corpus(texts: Path) -> "Corpus":
    from splade_retriever.training import Corpus

    return Corpus.read(texts, held_out=0.5)
