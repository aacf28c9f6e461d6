"""Kills a small run at random moments, and breaks what it writes, again and again; counts what came of it.

    python benchmarks/soak.py --kills 100 --out benchmarks/results/soak.json

Each start is the same. Before some of them a file is damaged, some meet a full disk (a limit on the size of files) or
lose write permission, and most are killed. A run that reaches its end is compared with one that nothing happened to;
then another one begins. What must not happen is listed as wrong: another state at the end, a metric row lost, a
traceback, an end without a message.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import io
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fpo_torchrl.checkpoint import verify
from fpo_torchrl.cli import friendly_errors
from fpo_torchrl.errors import CheckpointError, ConfigError, DamagedCheckpointError
from fpo_torchrl.files import write_json
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.provenance import origin
from fpo_torchrl.runs.auto_resume import ensure_trained
from fpo_torchrl.sweep.manifest import composer

SMALL = (
    *("experiment=gridworld", "num_envs=8", "num_threads=1", "progress=false", "render=false", "eval_episodes=2"),
    *("final_eval_episodes=2", "critic.hidden_sizes=[8]", "actor.velocity_net.hidden_sizes=[8]"),
    *("actor.solver.num_steps=2", "actor.num_mc_samples=2", "env.max_episode_steps=7", "trainer.frames_per_batch=64"),
    *("trainer.num_epochs=1", "trainer.minibatch_size=64", "checkpoint_interval_frames=64", "resume=auto"),
    *("total_frames=1280", "eval_interval_frames=640"),
)
"""Twenty short iterations, each with a checkpoint."""
TIMES = ("collect_s", "update_s", "frames_per_s")
STATE = re.compile(r"components/\d+-(actor|critic|optimizer|trainer)/")
CAP_DAC_OVERRIDE, CAPABILITY_VERSION = 1, 0x20080522
"""Root's right to write where permissions forbid it, and what Linux calls the layout below."""


def newest(run_dir: Path) -> Path:
    """The newest checkpoint, whole or not."""
    return max((run_dir / "checkpoints").glob("checkpoint-*"))


def cut(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "checkpoint cut": lambda run_dir, draw: cut(newest(run_dir), draw),
    "checkpoint with a flipped bit": lambda run_dir, draw: flip(newest(run_dir), draw),
    "metrics cut": lambda run_dir, draw: cut(run_dir / "metrics.csv", draw),
    "metrics with a flipped bit": lambda run_dir, draw: flip(run_dir / "metrics.csv", draw),
}
"""What happens to files between two starts."""
KILLED, FULL_DISK, NO_PERMISSION = "killed", "full disk", "write permission lost"


def train(config: str, log: str, max_file_bytes: int | None) -> None:
    """``fpo-train`` in a process of its own: what it prints goes to ``log``, and no file may be larger than given."""
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    obey_permissions()
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    with friendly_errors():
        ensure_trained(OmegaConf.create(config))  # pyright: ignore[reportArgumentType]


def obey_permissions() -> None:
    """Give up root's right to write where permissions forbid it."""
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable ones, 32 of each, twice
    assert libc.capget(header, sets) == 0
    sets[0] &= ~(1 << CAP_DAC_OVERRIDE)
    assert libc.capset(header, sets) == 0


def state_of(checkpoint: Path) -> str:
    """The hash of everything in a checkpoint that decides how the run goes on, but for random numbers."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(checkpoint) as archive:
        for name in sorted(filter(STATE.match, archive.namelist())):
            if not name.endswith(".tdz"):
                digest.update(archive.read(name))
                continue
            with zipfile.ZipFile(io.BytesIO(archive.read(name))) as tensors:  # which holds times of day too
                for part in sorted(tensors.namelist()):
                    digest.update(tensors.read(part))
    return digest.hexdigest()


def frames_of(checkpoint: Path) -> int:
    """The frame that a checkpoint is of."""
    return int(checkpoint.stem.partition("-")[2])


def whole_checkpoints(run_dir: Path) -> list[Path]:
    """Those that can be resumed from."""
    whole = []
    for path in (run_dir / "checkpoints").glob("checkpoint-*"):
        with contextlib.suppress(DamagedCheckpointError):
            verify(path)
            whole.append(path)
    return whole


def rows_of(run_dir: Path) -> list[dict[str, float]]:
    """The metrics without the times."""
    rows = read_metrics(run_dir / "metrics.csv")
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


class Soak:
    """Runs that are started, killed and broken, and what was seen.

    Args:
        work: an empty directory. seed: of the moments and faults.
        max_s: the longest that a run trains before it is killed; some are killed before that, while they start.
    """

    def __init__(self, work: Path, *, seed: int = 0, max_s: float = 2.0) -> None:
        self.work, self.max_s = work, max_s
        self.draw = random.Random(seed)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["fpo_torchrl.train", "fpo_torchrl.plots"])
        with composer() as composed:
            self.config = composed(SMALL)
        self.count: Counter[str] = Counter()
        self.codes: dict[str, Counter[int]] = {}
        self.wrong: list[str] = []
        undisturbed = work / "undisturbed"
        undisturbed.mkdir()
        self.launch(undisturbed, keep_checkpoints=1000).join()
        self.rows = rows_of(undisturbed)
        self.states = {frames_of(path): state_of(path) for path in whole_checkpoints(undisturbed)}

    def launch(self, run_dir: Path, *, max_file_bytes: int | None = None, **changes: Any) -> BaseProcess:
        """Begin to train in a directory, and return once that has begun, or ended, or by chance before."""
        config = OmegaConf.to_yaml(OmegaConf.merge(self.config, {"run_dir": str(run_dir), **changes}))
        log = run_dir.with_suffix(".log")
        log.write_text("")
        process = self.context.Process(target=train, args=(config, str(log), max_file_bytes))
        process.start()
        while process.is_alive() and "run directory" not in log.read_text() and self.draw.random() > 0.002:
            time.sleep(0.01)
        return process

    def start(self, run_dir: Path, fault: str) -> int:
        """Train until it ends or is killed; returns the exit code and checks what was said."""
        limit = self.draw.randrange(60_000) if fault == FULL_DISK else None
        process = self.launch(run_dir, max_file_bytes=limit)
        if fault != FULL_DISK:
            process.join(self.draw.uniform(0, self.max_s))
        if fault == NO_PERMISSION:
            for path in (run_dir, run_dir / "checkpoints"):
                if path.exists():
                    path.chmod(0o500)
        if fault != KILLED:
            process.join(120)
        process.kill()
        process.join()
        for path in (run_dir, run_dir / "checkpoints"):
            if path.exists():
                path.chmod(0o700)
        code = process.exitcode
        assert code is not None
        self.count[fault] += 1
        self.codes.setdefault(fault, Counter())[code] += 1
        remains = [*run_dir.glob("*.partial"), *run_dir.glob("checkpoints/.check*")]
        self.count["half-written files left behind"] += len(remains)
        self.check_message(run_dir.with_suffix(".log").read_text(), code, fault)
        return code

    def blame(self, what: str) -> None:
        """Take note of something that must not happen."""
        print(f"wrong: {what}", flush=True)
        self.wrong.append(what)

    def check_message(self, said: str, code: int, fault: str) -> None:
        """An end is by a kill, at the end of the run, or with a message."""
        if "Traceback" in said or (code not in (0, -9) and not re.search("^error: ", said, flags=re.M)):
            self.blame(f"{fault}: exit code {code} with the message {said[-500:]!r}")
        elif code not in (0, -9, CheckpointError.exit_code):
            self.blame(f"{fault}: exit code {code}")

    def has_rows(self, run_dir: Path, frames: int) -> bool:
        """Whether the metrics up to ``frames`` are those of the undisturbed run."""
        expected = [row for row in self.rows if row["frames"] <= frames]
        try:
            return not expected or rows_of(run_dir)[: len(expected)] == expected
        except (ConfigError, OSError):
            return False

    def story(self, number: int, enough: Callable[[], bool]) -> None:
        """Start one run again and again until it has reached its end, or ``enough``."""
        run_dir = self.work / f"run{number}"
        run_dir.mkdir()
        metrics_are_damaged, code = False, 1
        while code != 0 and not enough():
            fault = self.draw.choices([KILLED, FULL_DISK, NO_PERMISSION], [8, 1, 1])[0]
            code = self.start(run_dir, fault)
            whole = whole_checkpoints(run_dir)
            for path in whole:
                if state_of(path) != self.states[frames_of(path)]:
                    self.blame(f"{fault}: {path.name} holds another state than the undisturbed run's")
            frames = max(map(frames_of, whole), default=0)
            if self.has_rows(run_dir, frames):
                metrics_are_damaged = False
            elif not metrics_are_damaged:  # if they are, this start was killed before it had repaired them
                self.blame(f"{fault}: rows up to frame {frames} are not those of the undisturbed run")
            if len(whole) == 2 and self.draw.random() < 0.5:
                damage = self.draw.choice([*DAMAGES])
                DAMAGES[damage](run_dir, self.draw)
                metrics_are_damaged |= damage.startswith("metrics")
                self.count[damage] += 1
        self.count["runs that reached their end"] += code == 0
        shutil.rmtree(run_dir)

    def report(self) -> dict[str, Any]:
        """What was done and what was seen."""
        codes = {fault: {str(code): n for code, n in counter.items()} for fault, counter in self.codes.items()}
        return {"counts": dict(self.count), "exit_codes": codes, "wrong": self.wrong}


def soak(work: Path, kills: int, *, minutes: float = math.inf, **settings: Any) -> dict[str, Any]:
    """Kill runs below ``work`` so many times or for so long, with other faults in between; returns the report."""
    deadline = time.monotonic() + 60 * minutes
    it = Soak(work, **settings)

    def enough() -> bool:
        return it.codes.get(KILLED, Counter())[-9] >= kills or time.monotonic() > deadline

    number = 0
    while not enough():
        it.story(number, enough)
        number += 1
        print(f"{it.codes[KILLED][-9]} kills, {len(it.wrong)} wrong", flush=True)
    return it.report()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="default %(default)s")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this time with fewer")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and faults; default %(default)s")
    parser.add_argument("--max-s", type=float, default=2.0, help="longest time to a kill; default %(default)s")
    parser.add_argument("--work", type=Path, default=Path("runs/soak"), help="an empty or new directory")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/soak.json"))
    arguments = parser.parse_args()
    for directory in (arguments.work, arguments.out.parent):
        directory.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    options = {"minutes": arguments.minutes, "seed": arguments.seed, "max_s": arguments.max_s}
    report = soak(arguments.work.resolve(), arguments.kills, **options)
    wall_s = round(time.monotonic() - started)
    settings = {"seed": arguments.seed, "max_s": arguments.max_s, "wall_s": wall_s}
    write_json(arguments.out, {**origin("cpu"), **settings, **report})
    sys.exit(f"{len(report['wrong'])} things went wrong, see {arguments.out}" if report["wrong"] else 0)


if __name__ == "__main__":
    main()
