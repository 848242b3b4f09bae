import threading
from collections.abc import Callable
from functools import partial

import pytest
import torch

from raysem.curation.threads import in_order, one_thread_each


def test_each_thread_computes_alone_and_the_caller_and_later_threads_as_before():
    before = torch.get_num_threads()
    later: list[int] = []
    try:
        torch.set_num_threads(3)
        with one_thread_each(2) as pool:
            assert {pool.submit(torch.get_num_threads).result() for _ in range(8)} == {1}
            assert torch.get_num_threads() == 3
            other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
            other.start()
            other.join()
        assert torch.get_num_threads() == 3
        assert later == [3]
    finally:
        torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_work_and_little_is_made_ahead():
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        return number

    pieces: list[Callable[[], int]] = [partial(work, number) for number in range(50)]
    with one_thread_each(2) as pool:
        for number, found in enumerate(in_order(pool, pieces, num_ahead=3)):
            assert found == number
            assert max(begun) <= number + 4


def test_an_error_of_a_piece_is_raised_and_the_rest_is_left():
    def fail() -> int:
        raise ValueError("piece 1")

    done: list[int] = []
    pieces = [lambda: 0, fail, *(partial(done.append, number) for number in range(100))]
    with one_thread_each(1) as pool, pytest.raises(ValueError, match="piece 1"):
        list(in_order(pool, pieces, num_ahead=2))
    assert len(done) < 5
