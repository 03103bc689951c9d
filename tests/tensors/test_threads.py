from __future__ import annotations

import signal
import threading
import time

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


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_results_come_in_the_order_of_the_tasks(threads):
    assert list(module.in_threads(lambda number: number * number, range(100), threads)) == [
        number * number for number in range(100)
    ]


def test_first_exception_of_a_thread_ends_the_job():
    done = []

    def work(number):
        if number == 3:
            raise KeyboardInterrupt
        done.append(number)

    with pytest.raises(KeyboardInterrupt):
        list(module.in_threads(work, range(10_000), 2))
    assert len(done) < 10_000


def test_ctrl_c_arrives_between_two_results_and_nowhere_else():
    """Within the pool's own locks it would leave one of them taken, or release it twice."""
    done, seen = [], []

    def work(number):
        seen.append(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
        if number == 3:
            signal.raise_signal(signal.SIGINT)
        done.append(number)
        time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt):
        list(module.in_threads(work, range(10_000), 2))

    assert 0 < len(done) < 10_000
    assert not any(seen)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def _interrupts_as_before():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interrupts_as_before")
def test_ctrl_c_still_arrives_after_two_jobs_that_did_not_end_in_turn():
    """The one that began first ends first, and so cannot put the handler back that it found."""
    first, second = (module.in_threads(lambda number: number, range(9), 2) for _ in range(2))
    assert (next(first), next(second)) == (0, 0)
    first.close()
    second.close()

    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("_interrupts_as_before")
def test_ctrl_c_still_arrives_after_a_job_that_another_thread_ended():
    job = module.in_threads(lambda number: number, range(9), 2)
    assert next(job) == 0
    worker = threading.Thread(target=job.close)
    worker.start()
    worker.join()

    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("_interrupts_as_before")
def test_a_handler_that_only_takes_note_lets_the_job_end():
    noted = []
    signal.signal(signal.SIGINT, lambda number, _: noted.append(number))

    work = lambda number: number or signal.raise_signal(signal.SIGINT)  # noqa: E731
    results = list(module.in_threads(work, range(100), 2))

    assert results[1:] == list(range(1, 100))
    assert noted == [signal.SIGINT]


def test_threads_of_ours_use_one_intra_op_thread_each():
    values = torch.randn(2**18, generator=torch.Generator().manual_seed(0))
    with one_thread():
        right = float(torch.dot(values, values))  # with two threads, the last digits are others
        assert set(module.in_threads(lambda _: float(torch.dot(values, values)), range(6), 3)) == {right}
        assert set(module.in_threads(lambda _: torch.get_num_threads(), range(6), 3)) == {1}


def test_every_thread_has_its_own():
    own = module.PerThread(list)
    barrier = threading.Barrier(3)

    def work(_):
        barrier.wait(timeout=10)
        assert own.get() is own.get()
        return id(own.get())

    assert len(set(module.in_threads(work, range(3), 3))) == 3
