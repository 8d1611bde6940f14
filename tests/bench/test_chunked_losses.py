from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from ikem_ext.bench import chunked_losses, contrast
from ikem_ext.bench.compiling import AUTOTUNED, COMPILED, compiling

CPU = torch.device("cpu")
HOW = ("", f", {COMPILED}", f", {AUTOTUNED}")
LOSSES = [contrast.INFO_NCE, contrast.EXCHANGE, contrast.DISTILLATION]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)


@each_loss
def test_slices_of_any_number_make_the_loss(loss: contrast.Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_losses, "SLICE", 60)  # of 256 keys: four slices and a rest
    for case in contrast._cases("", loss, CPU, torch.float64, clips=5, keys=256):
        expected, *_, chunked = (run() for run in case.variants.values())
        torch.testing.assert_close(chunked, expected, rtol=1e-7, atol=1e-9)


@each_loss
def test_nothing_of_queries_times_queue_is_kept(loss: contrast.Loss) -> None:
    clips, keys = 4, 2 * chunked_losses.SLICE
    inputs = contrast._inputs(CPU, torch.float32, clips, keys, modalities=3)
    arguments = [inputs[name].requires_grad_(name in loss.learners) for name in (*loss.learners, *loss.others)]
    given = [argument.untyped_storage().data_ptr() for argument in arguments]
    kept = {}
    for name in ("published", "chunked"):
        largest = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal largest
            if tensor.untyped_storage().data_ptr() not in given:
                largest = max(largest, tensor.numel())
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            loss.functions[name](*arguments)
        kept[name] = largest
    assert kept["published"] >= clips * keys
    assert kept["chunked"] < clips * keys / 2


def test_what_is_done_for_a_slice_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_losses, "SLICE", 64)
    compiled: list[str] = []

    def imitated(function: object, dynamic: bool, mode: str | None = None) -> object:
        compiled.append(f"{getattr(function, '__name__', '')} {mode}")
        return function

    monkeypatch.setattr(torch, "compile", imitated)
    with compiling(COMPILED, AUTOTUNED):
        functions, on_gpu = (
            contrast._with_compiled(contrast.DISTILLATION.functions, torch.device(device)) for device in ("cpu", "cuda")
        )
    loss = replace(contrast.DISTILLATION, functions=functions)
    peers = [f"{peer}{how}" for peer in ("published", "vectorized", "chunked") for how in HOW]
    assert set(on_gpu) == {"ikem_ext", *peers} == {*functions, "vectorized"}
    assert "vectorized" not in functions
    compiled.clear()
    for case in contrast._cases("", loss, CPU, torch.float64, clips=2, keys=256):
        expected, *results = (run() for run in case.variants.values())
        for result in results:
            torch.testing.assert_close(result, expected, rtol=1e-7, atol=1e-9)
    assert compiled == ["_distillation_of_slice None", "_distillation_of_slice max-autotune"]
