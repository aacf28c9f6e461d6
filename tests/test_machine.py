"""Freed memory stays with a process that trains, seen in the pages that the system has to hand out."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from fpo_torchrl.machine import available_cores

PAGES_OF_TWENTY_TENSORS = """
import resource, sys
import torch
from fpo_torchrl.machine import prepare_machine
if sys.argv[1:] == ["prepared"]:
    prepare_machine(1)
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, torch.get_num_threads())
"""


def pages(*arguments: str, **variables: str) -> tuple[int, int]:
    """Pages that twenty tensors of 64 MiB, one after the other, have touched anew, and the threads of torch."""
    command = [sys.executable, "-c", PAGES_OF_TWENTY_TENSORS, *arguments]
    environment = {**os.environ, **variables}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    return int(out[0]), int(out[1])


@pytest.fixture(scope="module")
def ordinary() -> int:
    """Pages without preparation, where every tensor is new to the process."""
    touched, _ = pages()
    if platform.libc_ver()[0] != "glibc" or touched < 1000:
        pytest.skip(f"not glibc, or a system of large pages: {touched} are touched anew")
    return touched


def test_freed_memory_is_used_again(ordinary):
    touched, threads = pages("prepared")
    assert touched < ordinary / 5
    assert threads == 1


def test_a_setting_of_the_users_is_left_alone(ordinary):
    touched, _ = pages("prepared", MALLOC_TRIM_THRESHOLD_="131072")
    assert touched > ordinary / 2


def test_cores_are_those_of_this_process():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
