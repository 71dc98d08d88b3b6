"""A SPLADE of BERT-base shapes with random weights, in the layout that FastEmbed and this package open.

    python -m benchmarks.bert_base runs/benchmarks/bert-base

12 layers x 768, vocabulary 30,522, 0.53 GB: size, inputs and output are those of Qdrant/Splade_PP_en_v1.
Speed and memory depend on the values of the weights only by how many dimensions are active and how many are
nearly so, since the others are left out of the decoder; its bias is set so that a text has some tens of
active dimensions, as a trained model has. At opset 11 ONNX Runtime fuses attention, for FastEmbed as for
us.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from tests.mlm_graphs import BERT_BASE, save_folder

OPSET = 11


def bert_base(folder: Path) -> Path:
    """Return the model folder, written the first time."""
    if not folder.is_dir():
        new = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        save_folder(new, BERT_BASE, opset=OPSET).rename(folder)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    print(bert_base(parser.parse_args().folder))
