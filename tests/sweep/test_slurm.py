"""``fpo-sbatch`` on a real SLURM: preempted, killed and timed-out tasks end as if nothing had happened."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import tiny
from hydra import compose, initialize_config_module

from fpo_torchrl.config import register_schemas
from fpo_torchrl.provenance import read_provenance
from fpo_torchrl.sweep import slurm
from fpo_torchrl.sweep.manifest import Sweep

RUN = (
    *(*tiny.GRIDWORLD, "trainer.num_epochs=1"),
    *("actor/velocity_net=custom", "actor.velocity_net._target_=tiny.SlowVelocityMLP"),
    *("total_frames=12800", "eval_interval_frames=12800", "checkpoint_interval_frames=640"),
)
"""A minute of 200 iterations, mostly asleep."""
needs_slurm = [
    pytest.mark.slurm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="SLURM is not installed: make slurm"),
]
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=60
MpiDefault=none
SwitchType=switch/none
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 600) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true\n{call('squeue', '--array')}"
        time.sleep(0.1)


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for it in sockets:
        it.bind(("127.0.0.1", 0))
    ports = [it.getsockname()[1] for it in sockets]
    for it in sockets:
        it.close()
    return ports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Path]:
    """A SLURM of our own on the loopback device: one node of four cores, a partition that preempts another."""
    directory = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (directory / name).mkdir()
    port, node_port = free_ports(2)
    names = {"host": socket.gethostname().partition(".")[0], "user": getpass.getuser(), "directory": directory}
    (directory / "slurm.conf").write_text(CONF.format(port=port, node_port=node_port, **names))
    (directory / "cgroup.conf").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(directory / "slurm.conf"))
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(Path(slurm.__file__).parents[2]), str(Path(tiny.__file__).parent)])
        )
        call("slurmctld", "-c")
        call("slurmd", "-N", "n1")
        try:
            wait_for(lambda: "idle" in call("sinfo", "--noheader", "--format=%T"), "an idle node", 30)
            yield directory
        finally:
            subprocess.run(["scancel", "--user", names["user"]])
            for name in ("slurmd", "slurmctld"):
                os.kill(int((directory / f"{name}.pid").read_text()), signal.SIGTERM)


def fpo_sbatch(*arguments: str) -> str:
    return call(sys.executable, "-c", "from fpo_torchrl.sweep.slurm import main; main()", *arguments)


def is_over(sweep: Sweep) -> bool:
    return not slurm.queued(sweep)


def starts(run_dir: Path) -> list[int]:
    return [start["from_frame"] for start in read_provenance(run_dir).get("starts", [])]


def was_preempted(run_dir: Path) -> bool:
    return read_provenance(run_dir).get("error") == "Preempted: SIGTERM"


def has_checkpoint(run_dir: Path) -> bool:
    return any((run_dir / "checkpoints").glob("checkpoint-*"))


def process_of(run_dir: Path) -> int:
    """The process that trains in a directory, by its command line: the last argument is the index in the array."""
    index, slurm_task = run_dir.name.removeprefix("seed"), str(Path(slurm.__file__).with_name("task.py"))
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().decode(errors="replace").split("\0")
        if slurm_task in words and words[-3:-1] == [str(run_dir.parents[1]), index]:
            return int(path.parent.name)
    raise AssertionError(f"nothing trains in {run_dir}")


def start_alone(directory: Path, *overrides: str) -> BaseProcess:
    """A run that nothing disturbs."""
    return tiny.start(tiny.fpo_train, directory / "alone.log", *overrides, f"run_dir={directory / 'alone'}")


def assert_as_undisturbed(run_dir: Path, alone: BaseProcess, directory: Path) -> None:
    """The final weights, and all other state, are those of the run in one go."""
    alone.join(900)
    assert alone.exitcode == 0
    one, other = (tiny.read_checkpoint(path) for path in (run_dir, directory / "alone"))
    unused = ("rng.python", "rng.numpy")  # of generators that nothing draws from
    assert not [k for k in one if not tiny.same({k: one[k]}, {k: other[k]}) and not k.startswith(unused)]


class TestArray:
    """Four runs: one is preempted, one is killed, and the same command repairs it."""

    pytestmark = needs_slurm

    @pytest.fixture(scope="class")
    def story(self, cluster, tmp_path_factory):
        sweep = Sweep(tmp_path_factory.mktemp("array") / "sweep")
        arguments = (str(sweep.directory), *RUN, "seed=0,1,2,3", "--sbatch=--partition=low")
        outputs = [fpo_sbatch(*arguments)]
        runs = [sweep.run_dir(entry) for entry in sweep.entries()]
        wait_for(lambda: all(map(has_checkpoint, runs)), "a checkpoint of each run")
        call("sbatch", "--partition=high", "--output=/dev/null", "--ntasks=1", "--wrap=sleep 1")
        wait_for(lambda: any(map(was_preempted, runs)), "preemption")
        preempted, killed = sorted(runs, key=was_preempted, reverse=True)[:2]
        os.kill(process_of(killed), signal.SIGKILL)
        wait_for(lambda: is_over(sweep), "the end of the array")
        before_repair = starts(killed)
        outputs += [fpo_sbatch(*arguments)]
        wait_for(lambda: is_over(sweep), "the end of the repair")
        outputs += [fpo_sbatch(*arguments)]
        return runs, preempted, killed, before_repair, outputs

    def test_all_are_finished(self, story):
        assert [read_provenance(run)["status"] for run in story[0]] == ["finished"] * 4

    def test_the_killed_one_went_on_when_the_command_was_run_again(self, story, tmp_path):
        _, _, killed, before_repair, outputs = story
        assert "4 runs in" in outputs[0]
        assert all(f"{number} of them to be submitted" in text for number, text in zip((4, 1, 0), outputs, strict=True))
        assert before_repair == [0]
        assert len(starts(killed)) == 2
        assert starts(killed)[1] > 0
        assert_as_undisturbed(killed, start_alone(tmp_path, *RUN, f"seed={killed.name[-1]}"), tmp_path)

    def test_the_preempted_one_was_requeued_and_went_on(self, story, tmp_path):
        runs, preempted, *_ = story
        assert len(starts(preempted)) == 2
        assert starts(preempted)[1] > 0
        log = "".join(path.read_text() for path in (runs[0].parents[1] / "slurm").iterdir())
        assert "SIGTERM: stopped, and nothing is lost" in log
        assert_as_undisturbed(preempted, start_alone(tmp_path, *RUN, f"seed={preempted.name[-1]}"), tmp_path)


class TestTimeLimit:
    pytestmark = needs_slurm

    def test_it_is_requeued_at_the_limit_and_ends_as_if_there_was_none(self, cluster, tmp_path):
        sweep = Sweep(tmp_path / "sweep")
        run = (*RUN, "total_frames=38400")
        alone = start_alone(tmp_path, *run)
        fpo_sbatch(str(sweep.directory), *run, "--time=4", "--signal-s=60", "--sbatch=--partition=high")
        (entry,) = sweep.entries()
        wait_for(lambda: is_over(sweep), "the end of the job", 1500)
        run_dir = sweep.run_dir(entry)
        assert read_provenance(run_dir)["status"] == "finished"
        assert len(starts(run_dir)) > 1
        assert "SIGUSR1: stopped, and nothing is lost" in next((sweep.directory / "slurm").glob("*.log")).read_text()
        assert_as_undisturbed(run_dir, alone, tmp_path)


class TestLaunchers:
    """The presets for Hydra's own ``-m``."""

    @pytest.mark.parametrize(
        ("name", "plugin", "expected"),
        [
            ("fpo_slurm", "submitit", {"max_num_timeout": 100, "gpus_per_node": None, "mem_gb": 8}),
            ("fpo_slurm_gpu", "submitit", {"max_num_timeout": 100, "gpus_per_node": 1, "mem_gb": 32}),
            ("fpo_local", "submitit", {"timeout_min": 240}),
            ("fpo_joblib", "joblib", {"n_jobs": 2}),
        ],
    )
    def test_they_compose(self, name, plugin, expected):
        pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher")
        register_schemas()
        with initialize_config_module("fpo_torchrl.conf", version_base="1.3"):
            cfg = compose("config", [f"hydra/launcher={name}"], return_hydra_config=True)
        assert {key: cfg.hydra.launcher[key] for key in expected} == expected


class TestSubmitit:
    """Jobs of ``hydra/launcher=fpo_slurm``: SLURM preempts one, submitit's own signal requeues the other."""

    pytestmark = needs_slurm

    def test_they_are_requeued_and_end_as_if_nothing_had_happened(self, cluster, tmp_path):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
        runs = [tmp_path / "sweep" / str(number) for number in range(2)]
        launcher = {"partition": "low", "mem_gb": 1, "cpus_per_task": 2, "timeout_min": 30}
        options = ["hydra/launcher=fpo_slurm", *(f"hydra.launcher.{key}={value}" for key, value in launcher.items())]
        command = ["-m", *options, f"hydra.sweep.dir={tmp_path}/sweep", *RUN, "seed=0,1"]
        code = "from fpo_torchrl.train import main; main()"
        with (tmp_path / "launcher.log").open("w") as log:
            launched = subprocess.Popen([sys.executable, "-c", code, *command], stdout=log, stderr=log)
        wait_for(lambda: all(map(has_checkpoint, runs)), "a checkpoint of each run")
        call("sbatch", "--partition=high", "--output=/dev/null", "--ntasks=1", "--wrap=sleep 1")
        wait_for(lambda: any(map(was_preempted, runs)), "preemption")
        preempted, signalled = sorted(runs, key=was_preempted, reverse=True)
        array = call("squeue", "--noheader", "--partition=low", "--format=%F").split()[0]
        call("scancel", "--signal=USR2", f"{array}_{signalled.name}")
        assert launched.wait(1200) == 0, (tmp_path / "launcher.log").read_text()
        for run in (preempted, signalled):
            assert len(starts(run)) == 2
            assert_as_undisturbed(run, start_alone(tmp_path, *RUN, f"seed={run.name}"), tmp_path)
            shutil.rmtree(tmp_path / "alone")
