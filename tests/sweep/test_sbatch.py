"""``fpo-sbatch``, as far as it can be seen without SLURM."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.sweep import slurm
from fpo_torchrl.sweep.manifest import Sweep


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
