from __future__ import annotations

import pytest
import torch

from ikem_ext.bench import layers


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_variants_agree(device: str) -> None:
    for case in layers.cases(torch.device(device), torch.float64, quick=True):
        assert list(case.variants) == ["ikem_ext", "published"]
        ours, published = (run() for run in case.variants.values())
        torch.testing.assert_close(ours, published, rtol=1e-7, atol=1e-9, msg=f"{case.title}: {{}}".format)
