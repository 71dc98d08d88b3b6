"""The size of batches by device: fixed for processors, by the free memory for GPUs."""

import os
from pathlib import Path

import pytest

from splade_retriever import SparseTextEmbedding
from splade_retriever.encoding.batch_plan import ON_PROCESSOR, free_memory, plan_batches
from splade_retriever.encoding.session import Provider
from tests.mlm_graphs import real_texts

CPU = Provider("CPUExecutionProvider")
CUDA = Provider("CUDAExecutionProvider")
GIB = 1 << 30


def test_batches_of_a_processor_do_not_depend_on_its_memory() -> None:
    assert plan_batches([[CPU]], probe=lambda _: pytest.fail("the memory was asked for")) == ON_PROCESSOR


@pytest.mark.parametrize(
    ("free", "tokens"), [(0, 512), (4 * GIB, 4096), (8 * GIB, 8192), (80 * GIB, 16_384), (None, 4096)]
)
def test_batches_of_a_device_grow_with_its_free_memory_between_limits(free: int | None, tokens: int) -> None:
    plan = plan_batches([[CUDA, CPU]], probe=lambda _: free)
    assert (plan.tokens, plan.min_tokens, plan.workers) == (tokens, tokens // 4, 2)
    assert plan.weights >= 130 * 30_522


def test_the_device_with_the_least_memory_limits_the_batches_of_all() -> None:
    free = {"0": 80 * GIB, "1": 4 * GIB}
    devices = [[Provider.of(CUDA.name, {"device_id": n})] for n in (0, 1)]
    plan = plan_batches(devices, probe=lambda provider: free[dict(provider.options)["device_id"]])
    assert (plan.tokens, plan.workers) == (4096, 4)


def test_the_memory_limit_of_a_provider_counts_as_its_free_memory() -> None:
    assert free_memory(Provider.of(CUDA.name, {"gpu_mem_limit": 2 * GIB})) == 2 * GIB


def test_the_free_memory_is_what_nvidia_smi_reports_of_the_visible_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\ncase "$1" in --id=5) echo 40960;; *) exit 6;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert free_memory(Provider.of(CUDA.name, {"device_id": 5})) == 40 * GIB
    assert free_memory(CUDA) is None, "nvidia-smi fails for device 0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert free_memory(Provider.of(CUDA.name, {"device_id": 1})) == 40 * GIB


def test_without_nvidia_smi_the_free_memory_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert free_memory(CUDA) is None
    assert free_memory(Provider("DmlExecutionProvider")) is None


def test_a_plan_for_a_device_returns_the_vectors_of_the_processors_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, large = SparseTextEmbedding(), SparseTextEmbedding()
    texts = real_texts()[:40]
    expected = list(model.embed(texts))
    large._this_process().plan = plan_batches([[CUDA]], probe=lambda _: 80 * GIB)
    for one, other in zip(expected, large.embed(texts), strict=True):
        assert one.as_dict() == pytest.approx(other.as_dict(), abs=1e-5)
