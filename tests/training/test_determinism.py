"""What has no deterministic form is named, and tolerated. `put_` is such an operation on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

from ablate.training.determinism import refused, strict, tolerantly, tolerate

REFUSES = "put_ does not have a deterministic implementation"


def put(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(3).put_(torch.tensor([0]), x)


def named(work: Callable[[], None]) -> list[str]:
    tolerantly(work)
    return refused()


def warn_only() -> bool:
    return torch.is_deterministic_algorithms_warn_only_enabled()


def test_an_operation_that_refuses_is_named_and_the_work_done_again(caplog):
    done = []

    def work() -> torch.Tensor:
        done.append(len(done))
        return put(torch.tensor([2.0]))

    with strict():
        with pytest.raises(RuntimeError, match=REFUSES):
            work()
        assert tolerantly(work).tolist() == [2, 0, 0]
        assert done == [0, 1, 2]
        assert refused() == ["put_"]
        assert warn_only()
        tolerantly(work)
        assert (len(done), refused()) == (4, ["put_"])
    assert caplog.text.count("put_ is not deterministic here") == 1
    assert refused() == []
    assert not torch.are_deterministic_algorithms_enabled()


def test_further_ones_are_named_and_other_warnings_are_heard():
    def work() -> None:
        put(torch.tensor([2.0]))
        warnings.warn("cumsum_cuda does not have a deterministic implementation", stacklevel=1)
        warnings.warn("mind the gap", stacklevel=1)

    with strict(), pytest.warns(UserWarning, match="mind the gap") as heard:
        assert named(work) == ["put_", "cumsum_cuda"]
    assert len(heard) == 1


def test_other_errors_are_errors_and_nothing_is_tolerated():
    with strict():
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            tolerantly(lambda: torch.ones(2, 3) @ torch.ones(2, 3))
        assert not warn_only()
        tolerate([])
        assert not warn_only()
        tolerate(["put_"])
        put(torch.ones(1))


def test_without_the_promise_nothing_is_asked():
    assert tolerantly(lambda: put(torch.ones(1))).tolist() == [1, 0, 0]
    assert not torch.are_deterministic_algorithms_enabled()


def test_attention_keeps_to_plain_products_on_a_gpu_where_something_is_tolerated(monkeypatch):
    def fused() -> list[bool]:
        cuda = torch.backends.cuda
        return [cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()]

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    with strict():
        tolerate(["put_"])
        assert fused() == [True] * 3
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with strict():
        assert fused() == [True] * 3
        tolerate(["put_"])
        assert fused() == [False] * 3
    assert fused() == [True] * 3
