"""``fpo-sbatch``, as far as it can be seen without SLURM."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.sweep import slurm, task
from fpo_torchrl.sweep.manifest import Sweep
from fpo_torchrl.sweep.workers import state_of


class TestScript:
    def test_its_header(self, tmp_path):
        options = ["--partition=gpu", "--gres=gpu:1"]
        text = slurm.script(Sweep(tmp_path / "my sweep"), [0, 3], options=options, time_limit="4:00:00", signal_s=90)
        lines = text.splitlines()
        assert lines[0] == "#!/bin/bash"
        for option in ("--array=0,3", "--requeue", "--signal=B:USR1@90", "--time=4:00:00", *options):
            assert f"#SBATCH {option}" in lines
        assert lines[-1] == (
            f"exec {sys.executable} -P {Path(slurm.__file__).with_name('task.py')} '{tmp_path}/my sweep' "
            '"$SLURM_ARRAY_TASK_ID"'
        )
        assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0

    def test_a_percent_sign_of_the_directory_is_no_pattern(self, tmp_path):
        text = slurm.script(Sweep(tmp_path / "100%a"), [0], time_limit=None, signal_s=90)
        assert f"#SBATCH --output={tmp_path}/100%%a/slurm/%A_%a.log" in text.splitlines()

    def test_a_dry_run_submits_nothing(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(slurm, "slurm", None)
        slurm.submit([str(tmp_path / "sweep"), "experiment=bandit", "seed=0,1", "--dry-run"])
        assert "2 runs in" in (out := capsys.readouterr().out)
        assert out.splitlines()[-1] == str(tmp_path / "sweep/job.sh")
        assert "#SBATCH --array=0,1\n" in (tmp_path / "sweep/job.sh").read_text()

    @pytest.mark.parametrize(
        ("option", "words"),
        [
            ("--signal-s=-5", "--signal-s -5 is out of range: it must be at least 1"),
            ("--signal-s=0", "--signal-s 0 is out of range"),
            ("--time=a b", "--time 'a b': expected minutes, "),
            ("--time=1:2:3:4", "--time '1:2:3:4': expected minutes, "),
            ("--time=1-", "--time '1-': expected minutes, "),
            ("--time=4h", "--time '4h': expected minutes, "),
            ("--time=", "--time '': expected minutes, "),
            ("--time=2:00", "--time 2:00 is 120 s, and a task is to stop 120 s before it: give a longer one"),
            (
                "--sbatch=--comment=a --job-name=mine",
                "--sbatch --job-name=mine: runs in the queue are found by",
            ),
            ("--sbatch=--comment='half", '--sbatch: No closing quotation in "--comment=\'half"'),
        ],
    )
    def test_what_slurm_would_not_take_is_refused(self, tmp_path, option, words):
        with pytest.raises(ConfigError, match=re.escape(words)):
            slurm.submit([str(tmp_path / "sweep"), "experiment=bandit", "--dry-run", option])
        assert not (tmp_path / "sweep").exists()

    @pytest.mark.parametrize("time", ["90", "90:30", "4:00:00", "2-12", "2-12:30", "2-12:30:15"])
    def test_each_of_slurms_formats_is_a_time(self, tmp_path, time):
        """Those of sbatch's manual."""
        slurm.submit([str(tmp_path), "experiment=bandit", "--dry-run", f"--time={time}", "--sbatch=--comment=a#1"])
        lines = (tmp_path / "job.sh").read_text().splitlines()
        assert f"#SBATCH --time={time}" in lines
        assert "#SBATCH '--comment=a#1'" in lines  # else sbatch would read a, and a comment

    def test_without_slurm_it_says_so(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr(sys, "argv", ["fpo-sbatch", str(tmp_path), "experiment=bandit"])
        with pytest.raises(SystemExit) as stopped:
            slurm.main()
        assert stopped.value.code == 2
        assert "squeue is not there: run this on a machine that submits to SLURM" in capsys.readouterr().err


def test_without_slurm_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="squeue is not there: run this on a machine that submits to SLURM"):
        slurm.submit([str(tmp_path / "sweep"), "experiment=bandit"])
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("taken", [True, False])
def test_a_task_at_its_limit_puts_itself_back_and_no_other(tmp_path, taken):
    """In the last task of an array the job's number is that of the whole array."""
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexit {0 if taken else 1}\n')
    (tmp_path / "scontrol").chmod(0o755)
    job = {"SLURM_JOB_ID": "3", "SLURM_ARRAY_JOB_ID": "3", "SLURM_ARRAY_TASK_ID": "2"}
    environment = {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", "import task; task.requeue()"]
    ended = subprocess.run(
        command, env=environment, cwd=Path(slurm.__file__).parent, capture_output=True, text=True, check=True
    )
    assert (tmp_path / "asked").read_text() == "requeue 3_2\n"
    assert ("does not take task 3_2 back: fpo-sbatch" in ended.stdout) is not taken
    assert ended.stderr == ""


@pytest.mark.parametrize(("code", "state"), [(2, "failed"), (75, "waiting")])
def test_a_run_that_could_not_begin_has_failed(tmp_path, monkeypatch, code, state):
    sweep = Sweep(tmp_path / "sweep")
    (entry,) = sweep.add([["experiment=bandit"]])
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr("fpo_torchrl.train.main", lambda: sys.exit(code))
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(SystemExit):
        task.train_run(str(sweep.directory), "0")
    assert state_of(sweep.run_dir(entry), entry.total_frames) == state


def test_two_at_the_same_time_submit_each_run_once(tmp_path, monkeypatch):
    submitted = []

    def cluster(command):
        if command[0] == "squeue":
            return "0\n1\n" if submitted else ""
        time.sleep(0.2)  # in which the other one asks for the queue
        submitted.append(command)
        return "Submitted batch job 1"

    monkeypatch.setattr(slurm, "slurm", cluster)
    Sweep(tmp_path).add([["experiment=bandit", f"seed={seed}"] for seed in range(2)])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(slurm.submit, [[str(tmp_path)]] * 2))
    assert len(submitted) == 1
