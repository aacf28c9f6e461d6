"""A run whose terminal or reader goes away: it stops as it should, or is done, and says so by its exit code."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import tiny

from fpo_torchrl.provenance import read_provenance

TRAIN = (sys.executable, "-m", "fpo_torchrl.train", *tiny.GRIDWORLD, "task=gridworld/two_walls", "render=false")


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_closed_terminal_stops_a_run_with_a_checkpoint(tmp_path):
    run_dir = tmp_path / "run"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*TRAIN, "total_frames=10_000_000", f"run_dir={run_dir}"])
    wait_for((run_dir / "metrics.csv").is_file)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    assert list((run_dir / "checkpoints").glob("checkpoint-*"))


def test_a_run_whose_last_lines_nobody_reads_is_finished(tmp_path):
    run_dir = tmp_path / "run"
    command = [*TRAIN, "total_frames=256", f"run_dir={run_dir}", "progress=false"]  # too few for a warning
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=unbuffered, bufsize=1
    )
    assert process.stdout is not None
    assert "run directory" in process.stdout.readline()  # as head -1 does
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    assert process.wait(120) == 0, errors
    assert read_provenance(run_dir)["status"] == "finished"
    assert "Traceback" not in errors


def test_a_command_whose_output_nobody_reads_ends_quietly(tmp_path):
    process = subprocess.Popen(
        [*TRAIN, "total_frames=64", f"run_dir={tmp_path}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, 141)
    assert "Traceback" not in errors
