from __future__ import annotations

import os

import pytest
import torch
import torch.multiprocessing as mp
from allocations import Allocations
from hypothesis import given
from hypothesis import strategies as st

import ikem_ext
from ikem_ext.nn import KeyQueue


@given(st.integers(1, 12), st.lists(st.integers(0, 30), max_size=6))
def test_holds_the_newest_keys(length: int, batches: list[int]) -> None:
    queue = KeyQueue(2, length, 3)
    history = list(queue.keys.clone())  # oldest first, as the pointer starts at 0
    for size in batches:
        keys = torch.randn(2, size, 3)
        queue.enqueue(keys)
        history += list(keys.transpose(0, 1))
    oldest_first = queue.keys.roll(-int(queue.pointer), dims=0)
    torch.testing.assert_close(oldest_first, torch.stack(history[-length:]), rtol=0, atol=0)


def test_entries_carry_the_numbers_of_their_clips() -> None:
    queue = KeyQueue(2, 5, 3, with_clips=True)
    assert queue.clips.tolist() == [-1] * 5
    for numbers in ([10, 11, 12], [13], [14, 15, 16], [17, 18, 19, 20, 21, 22]):
        clips = torch.tensor(numbers)
        queue.enqueue(clips.float().expand(2, 3, -1).mT, clips)
        own = queue.clips >= 0
        assert torch.equal(queue.keys[own, 1, 2], queue.clips[own].float())
    assert sorted(queue.clips.tolist()) == [18, 19, 20, 21, 22]
    assert set(KeyQueue(2, 5, 3).state_dict()) == {"keys", "pointer"}


def test_numbers_of_clips_are_all_there_or_none() -> None:
    keys, clips = torch.randn(2, 4, 3), torch.arange(4)
    with pytest.raises(ValueError, match="clips: expected none, as the queue has no place for them, got"):
        KeyQueue(2, 5, 3).enqueue(keys, clips)
    for wrong in (None, clips[:3]):
        with pytest.raises(ValueError, match=r"clips: expected \(4,\), got"):
            KeyQueue(2, 5, 3, with_clips=True).enqueue(keys, wrong)


def test_starts_with_unit_vectors_from_the_seed() -> None:
    torch.manual_seed(3)
    first = KeyQueue(6, 50, 16)
    torch.manual_seed(3)
    assert torch.equal(first.keys, KeyQueue(6, 50, 16).keys)
    torch.testing.assert_close(first.keys.norm(dim=-1), torch.ones(50, 6))


def test_no_second_queue_is_made() -> None:
    with Allocations() as made:
        queue = KeyQueue(6, 500, 16)
        queue.enqueue(torch.randn(6, 8, 16))
    assert [size for size in made.sizes if size >= queue.keys.nbytes / 2] == [queue.keys.nbytes]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_is_of_the_default_dtype(dtype: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        queue = KeyQueue(2, 5, 4)
        q = torch.randn(2, 3, 4)
    finally:
        torch.set_default_dtype(before)
    queue.enqueue(q)
    assert queue.queue.dtype == dtype
    assert ikem_ext.info_nce(q, q, queue.queue, 0.1).isfinite().all()


def test_runs_on_the_meta_device() -> None:
    with torch.device("meta"):
        queue = KeyQueue(2, 5, 4)
        queue.enqueue(torch.randn(2, 3, 4))
    assert queue.queue.is_meta


def test_keys_that_are_no_real_numbers_are_refused() -> None:
    for dtype in (torch.int64, torch.complex64):
        with pytest.raises(TypeError, match=f"keys: expected a floating dtype, got {dtype}"):
            KeyQueue(2, 5, 4).enqueue(torch.zeros(2, 3, 4, dtype=dtype))


def test_the_concatenated_queue_is_the_same_memory() -> None:
    queue = KeyQueue(6, 50, 16)
    assert queue.queue.shape == (6, 50, 16)
    assert queue.queue.transpose(0, 1).flatten(1).data_ptr() == queue.keys.data_ptr()


def test_is_restored_from_its_state() -> None:
    queue, other = KeyQueue(2, 5, 3), KeyQueue(2, 5, 3)
    queue.enqueue(torch.randn(2, 7, 3))
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.enqueue(torch.ones(2, 2, 3))
    assert torch.equal(queue.keys, other.keys)
    assert int(queue.pointer) == int(other.pointer) == 4


@pytest.mark.parametrize("sizes", [(0, 5, 3), (2, 0, 3), (2, 5, 0)])
def test_empty_queues_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected at least 1, got 0"):
        KeyQueue(*sizes)


def test_keys_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"keys: expected shape \(2, N, 3\), got \(3, 4, 2\)"):
        KeyQueue(2, 5, 3).enqueue(torch.zeros(3, 4, 2))


def _enqueue_in_process(rank: int, store: str, keys: torch.Tensor, out: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    queue = KeyQueue(2, 7, 3)
    queue.enqueue(keys[:, 2 * rank : 2 * rank + 2])
    torch.save(queue.state_dict(), f"{out}.{rank}")
    torch.distributed.destroy_process_group()


def test_two_processes_hold_the_keys_of_both(tmp_path) -> None:
    keys = torch.randn(2, 4, 3)
    out = os.fspath(tmp_path / "state")
    mp.spawn(_enqueue_in_process, (os.fspath(tmp_path / "store"), keys, out), nprocs=2)
    torch.manual_seed(0)
    alone = KeyQueue(2, 7, 3)
    alone.enqueue(keys)
    for rank in range(2):
        state = torch.load(f"{out}.{rank}", weights_only=True)
        assert torch.equal(state["keys"], alone.keys)
        assert int(state["pointer"]) == 4
