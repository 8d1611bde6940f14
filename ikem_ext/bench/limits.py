"""What the machine can do at most: bytes copied, and numbers multiplied and added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from .clock import seconds_per_call

COPY, ARITHMETIC = "copy", "arithmetic"
MATRIX, CONVOLUTION, TILES = "torch.mm", "convolution", "tile registers"
#: Bits of the vectors at each SIMD level; what is beyond these levels are tiles.
REGISTERS = {"plain": 128, "v2": 128, "v3": 256, "v4": 512}


class Load(NamedTuple):
    """A call that does nothing but what a limit is a limit of.

    Attributes:
        run: the call.
        work: the bytes that it reads and writes, or its multiplications and additions.
    """

    run: Callable[[], Any]
    work: float

    def rate(self, device: torch.device, calls: int) -> float:
        """Work per second, of the fastest call."""
        return self.work / min(seconds_per_call(self.run, device) for _ in range(calls))


@dataclass
class Limits:
    """What is measured among the variants of a case, since on a shared machine it changes by the minute.

    Args:
        loads: `COPY` and `ARITHMETIC`.
    """

    loads: Mapping[str, Load]

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype, quick: bool, convolves: bool = True) -> Limits:
        """The limits of a device for arithmetic in ``dtype``: of all ways to do it the one that is fastest now.

        Where nothing ``convolves``, a convolution is none of them: PyTorch's flags let it round float32 to TF32 where
        products of matrices may not.
        """
        loads = multiplying(device, dtype, quick)
        if not convolves:
            loads.pop(CONVOLUTION, None)
        fastest = max(loads, key=lambda name: loads[name].rate(device, calls=3))
        return cls({COPY: copying(device, quick), ARITHMETIC: loads[fastest]})

    @property
    def runs(self) -> dict[str, Callable[[], Any]]:
        """The calls."""
        return {name: load.run for name, load in self.loads.items()}

    def seconds(self, bytes_moved: float, operations: float, medians: Mapping[str, float]) -> float:
        """The time that it takes at least, given the seconds that the limits' own calls took."""
        wanted = {COPY: bytes_moved, ARITHMETIC: operations}
        return max(wanted[name] * medians[name] / load.work for name, load in self.loads.items())


def copying(device: torch.device, quick: bool) -> Load:
    """A copy of 256 MiB, on a GPU of 1 GiB."""
    source = torch.rand(2**24 if quick else 2**28 if device.type == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    return Load(lambda: target.copy_(source), 2.0 * source.nbytes)


def multiplying(device: torch.device, dtype: torch.dtype, quick: bool) -> dict[str, Load]:
    """Multiply-adds in registers of every width, on a CPU; a product of matrices; a convolution."""
    loads = _registers(dtype, quick) if device.type == "cpu" else {}
    loads[MATRIX] = _product(device, dtype, quick)
    if device.type == "cuda" or _in_onednn(dtype):
        loads[CONVOLUTION] = _convolution(device, dtype, quick)
    return loads


def _registers(dtype: torch.dtype, quick: bool) -> dict[str, Load]:
    """No memory to wait for; of halves where the processor multiplies them, else of the float32 that they become."""
    multiply_adds, rounds = torch.ops.ikem_ext.multiply_adds, 2**14 if quick else 2**20
    for multiplied in (dtype, torch.float32) if dtype != torch.float16 else (torch.float32,):
        loads = {}
        for level in torch.ops.ikem_ext.available_simd_levels().split():
            if operations := multiply_adds(level, multiplied, 1):
                run = partial(multiply_adds, level, multiplied, rounds)
                name = registers_of(REGISTERS[level]) if level in REGISTERS else TILES
                loads[name] = Load(run, float(operations * rounds))
        if loads:
            break
    return loads


def registers_of(bits: int) -> str:
    """What the load on registers of a width is called."""
    return f"registers of {bits} bits"


def vector_bits(rates: Mapping[str, float]) -> int | None:
    """How wide the vector units are, by the rates of `multiplying`; None if no registers were measured.

    Wider registers than the units are served in parts, at the same rate.
    """
    in_registers = {bits: rates[registers_of(bits)] for bits in REGISTERS.values() if registers_of(bits) in rates}
    fastest = max(in_registers.values(), default=0.0)
    return min((bits for bits, rate in in_registers.items() if rate > 0.75 * fastest), default=None)


def _product(device: torch.device, dtype: torch.dtype, quick: bool) -> Load:
    side = 1024 if quick else 8192 if device.type == "cuda" else 2048
    matrix = torch.rand(side, side, device=device).to(dtype)
    product = torch.empty_like(matrix)
    return Load(lambda: torch.mm(matrix, matrix, out=product), 2.0 * side**3)


def _convolution(device: torch.device, dtype: torch.dtype, quick: bool) -> Load:
    """Nine taps over 64 frames of 25 joints, 256 to 256 channels; no padding, whose zeros nobody has to multiply."""
    bodies, channels, taps = 1 if quick else 64 if device.type == "cuda" else 4, 256, 9
    x = torch.rand(bodies, channels, 64, 25, device=device).to(dtype, memory_format=torch.channels_last)
    weight = torch.rand(channels, channels, taps, 1, device=device).to(dtype, memory_format=torch.channels_last)

    def run() -> Tensor:
        with torch.no_grad():
            return conv2d(x, weight)

    return Load(run, 2.0 * run().numel() * channels * taps)


def _in_onednn(dtype: torch.dtype) -> bool:
    """Whether PyTorch has oneDNN convolve on this CPU; what else it has for it is no measure of anything."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
