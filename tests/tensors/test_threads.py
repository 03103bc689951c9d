from __future__ import annotations

import threading

import pytest
import torch

from pytest_genmodel.tensors import compare, one_thread
from pytest_genmodel.tensors import threads as module


@pytest.fixture(autouse=True)
def _three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_one_inside_and_restored_after():
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_restored_after_an_exception():
    with pytest.raises(RuntimeError), one_thread():
        raise RuntimeError
    assert torch.get_num_threads() == 3


def test_overlapping_threads_restore_once():
    """The first to enter leaves while the second is still inside."""
    inside, leave = threading.Event(), threading.Event()

    def second() -> None:
        with one_thread():
            inside.set()
            leave.wait()

    worker = threading.Thread(target=second)
    with one_thread():
        worker.start()
        inside.wait()
    assert module._depth == 1
    leave.set()
    worker.join()
    assert module._depth == 0
    with one_thread():
        pass


def test_compare_leaves_the_count_alone():
    tensor = torch.randn(100)
    compare(tensor, tensor + 1)
    assert torch.get_num_threads() == 3
    with pytest.raises(Exception, match="names"):
        compare(tensor, tensor + 1, names=("a", "b"))
    assert torch.get_num_threads() == 3
