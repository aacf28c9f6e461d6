"""Calls are timed: medians, percentiles, and the threads as they were."""

from __future__ import annotations

import time

import pytest
import torch

from fpo_torchrl.latency import latencies


def test_a_call_that_waits_takes_that_long():
    found = latencies({"waits": lambda: time.sleep(0.003), "returns": lambda: None}, num_calls=40)
    assert 3 <= found["waits"]["median_ms"] <= found["waits"]["p99_ms"]
    assert found["waits"]["cpu_ms"] < 1
    assert found["returns"]["median_ms"] < 1


def test_the_cpu_time_is_of_work_alone():
    def work() -> None:
        started = time.process_time()
        while time.process_time() < started + 0.002:
            pass

    found = latencies({"works": work}, num_calls=40)["works"]
    assert 2 <= found["cpu_ms"] <= found["median_ms"] + 0.1


def test_a_rare_slow_call_shows_in_the_percentile_only():
    count = iter(range(10_000))
    found = latencies({"call": lambda: time.sleep(0.01 if next(count) % 20 == 0 else 0)}, num_calls=200)
    assert found["call"]["median_ms"] < 5
    assert found["call"]["p99_ms"] > 9


def test_it_runs_on_one_thread_without_gradients_and_leaves_both_as_they_were():
    before, seen = torch.get_num_threads(), set()
    torch.set_num_threads(2)
    try:
        latencies({"call": lambda: seen.add((torch.get_num_threads(), torch.is_grad_enabled()))}, num_calls=1)
        with pytest.raises(ZeroDivisionError):
            latencies({"call": lambda: 1 / 0})
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {(1, False)}
    assert torch.is_grad_enabled()
