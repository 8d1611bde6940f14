from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
EDGES = (
    *"0 -0 1. .5 . - -. 1e 1e5 1E+05 1e-5 1e5.0 +1 -+1 +-1 ++1 1f 0b1 1,5 1_000".split(),
    *"1e400 -1e400 1e-400 4.9e-324 2.2e-308 1.7976931348623157e308".split(),
    *"inf -INF infinity infinit nan -nan nan(12) nan(x) 0x1 0x1p3 -0X.8p1".split(),
    "",
    "\t1",
    "1\t",
)


def test_numbers_are_read_alike_without_from_chars(compile_for_host: Callable[..., Path]) -> None:
    """As on macOS, whose standard library has std::from_chars for whole numbers alone."""
    generator = random.Random(0)
    words = list(EDGES)
    words += ["".join(generator.choices("0123456789.-+eEinfaxX", k=generator.randint(1, 9))) for _ in range(5000)]
    words += [repr(struct.unpack("d", generator.randbytes(8))[0]) for _ in range(5000)]
    program = compile_for_host("number", HERE / "number_checks.cpp")
    result = subprocess.run([program], input="\n".join(words), capture_output=True, text=True, check=True)
    assert result.stdout == f"{len(words)} the same\n"
