"""Kills a small run at random moments, and breaks what it writes, again and again; counts what came of it.

    python benchmarks/soak.py --kills 100 --out benchmarks/results/soak.json

Each start is the same. Before some of them a file is damaged, some meet a full disk (a limit on the size of files) or
lose write permission, and most are killed. A run that reaches its end is compared with one that nothing happened to;
then another one begins. What must not happen is listed as wrong: another state at the end, a metric row lost, a
traceback, an end without a message.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
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
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fpo_torchrl.auto_resume import ensure_trained
from fpo_torchrl.builders import ConfigError
from fpo_torchrl.cli import EXIT_CHECKPOINT, friendly_errors
from fpo_torchrl.files import write_json
from fpo_torchrl.loggers import read_metrics
from fpo_torchrl.provenance import origin
from fpo_torchrl.sweep.manifest import composer

SMALL = (
    *("experiment=gridworld", "num_envs=8", "num_threads=1", "progress=false", "render=false", "eval_episodes=2"),
    *("final_eval_episodes=2", "critic.hidden_sizes=[8]", "actor.velocity_net.hidden_sizes=[8]"),
    *("actor.solver.num_steps=2", "actor.num_mc_samples=2", "env.max_episode_steps=7", "trainer.frames_per_batch=64"),
    *("trainer.num_epochs=1", "trainer.minibatch_size=64", "checkpoint_interval_frames=64", "resume=auto"),
    *("total_frames=1920", "eval_interval_frames=640"),
)
"""Thirty short iterations, each with a checkpoint."""
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


def state_of(run_dir: Path) -> str:
    """The hash of everything in the newest checkpoint that decides how the run goes on, but for unused generators."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(newest(run_dir)) as archive:
        for name in sorted(filter(STATE.match, archive.namelist())):
            digest.update(archive.read(name))
    return digest.hexdigest()


def rows_of(run_dir: Path) -> list[dict[str, float]]:
    """The metrics without the times."""
    rows = read_metrics(run_dir / "metrics.csv")
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


class Soak:
    """Runs that are started, killed and broken, and what was seen.

    Args:
        work: an empty directory. seed: of the moments and faults. max_s: the longest that a start is left alone.
    """

    def __init__(self, work: Path, *, seed: int = 0, max_s: float = 3.0) -> None:
        self.work, self.max_s = work, max_s
        self.draw = random.Random(seed)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["fpo_torchrl.train", "fpo_torchrl.plots"])
        with composer() as composed:
            self.config = composed(SMALL)
        self.count: Counter[str] = Counter()
        self.codes: dict[str, Counter[int]] = {}
        self.wrong: list[str] = []
        self.reference = self.directory("undisturbed")
        self.start(self.reference, KILLED, alone_s=600)
        self.rows, self.state = rows_of(self.reference), state_of(self.reference)
        self.count.clear()
        self.codes.clear()

    def directory(self, name: str) -> Path:
        """A new directory for a run."""
        path = self.work / name
        path.mkdir()
        return path

    def start(self, run_dir: Path, fault: str, alone_s: float) -> int:
        """Train until it ends, or is killed after ``alone_s``; returns the exit code and checks what it left."""
        config = OmegaConf.merge(self.config, {"run_dir": str(run_dir)})
        log = run_dir.with_suffix(".log")
        limit = self.draw.randrange(60_000) if fault == FULL_DISK else None
        process = self.context.Process(target=train, args=(OmegaConf.to_yaml(config), str(log), limit))
        process.start()
        if fault == NO_PERMISSION:
            process.join(alone_s)
            for path in (run_dir, run_dir / "checkpoints"):
                if path.exists():
                    path.chmod(0o500)
        process.join(120 if fault in (FULL_DISK, NO_PERMISSION) else alone_s)
        process.kill()
        process.join()
        for path in (run_dir, run_dir / "checkpoints"):
            if path.exists():
                path.chmod(0o700)
        code = process.exitcode
        assert code is not None
        self.count[fault] += 1
        self.codes.setdefault(fault, Counter())[code] += 1
        self.count["half-written files that a kill left"] += len(
            [*run_dir.rglob("*.partial"), *run_dir.rglob(".check*")]
        )
        self.check_message(log.read_text(), code, fault)
        return code

    def blame(self, what: str) -> None:
        """Take note of something that must not happen."""
        print(f"wrong: {what}", flush=True)
        self.wrong.append(what)

    def check_message(self, said: str, code: int, fault: str) -> None:
        """An end is by a kill, at the end of the run, or with a message."""
        if "Traceback" in said or (code not in (0, -9) and not re.search("^error: ", said, flags=re.M)):
            self.blame(f"{fault}: exit code {code} with the message {said[-500:]!r}")
        elif code not in (0, -9, EXIT_CHECKPOINT):
            self.blame(f"{fault}: exit code {code}")

    def check_rows(self, run_dir: Path, fault: str) -> None:
        """No row up to the newest whole checkpoint is lost or another one."""
        frames = [int(path.stem.partition("-")[2]) for path in (run_dir / "checkpoints").glob("checkpoint-*")]
        expected = [row for row in self.rows if row["frames"] <= max(frames, default=0)]
        try:
            found = rows_of(run_dir) if expected else []
        except (ConfigError, OSError) as error:
            self.blame(f"{fault}: {error}")
        else:
            if found[: len(expected)] != expected:
                self.blame(f"{fault}: rows up to frame {max(frames)} are not those of the undisturbed run")

    def story(self, number: int, enough: Callable[[], bool]) -> None:
        """Start one run again and again until it has reached its end, or ``enough``."""
        run_dir = self.directory(f"run{number}")
        damage = None
        while not enough():
            fault = self.draw.choices([KILLED, FULL_DISK, NO_PERMISSION], [8, 1, 1])[0]
            code = self.start(run_dir, fault, alone_s=self.draw.uniform(0, self.max_s))
            if code == 0:
                self.count["runs that reached their end"] += 1
                if state_of(run_dir) != self.state or rows_of(run_dir) != self.rows:
                    self.blame(f"run {number} ended with another state or other rows")
                break
            if damage is None or not damage.startswith("metrics"):
                self.check_rows(run_dir, fault)
            damage = None
            if len([*(run_dir / "checkpoints").glob("checkpoint-*")]) == 2 and self.draw.random() < 0.3:
                damage = self.draw.choice([*DAMAGES])
                DAMAGES[damage](run_dir, self.draw)
                self.count[damage] += 1
        shutil.rmtree(run_dir)

    def report(self) -> dict[str, Any]:
        """What was done and what was seen."""
        codes = {fault: {str(code): n for code, n in counter.items()} for fault, counter in self.codes.items()}
        return {"counts": dict(self.count), "exit_codes": codes, "wrong": self.wrong}


def soak(work: Path, kills: int, **settings: Any) -> dict[str, Any]:
    """Kill runs below ``work`` so many times, with other faults in between; returns the report."""
    it = Soak(work, **settings)
    number = 0
    while it.codes.get(KILLED, Counter())[-9] < kills:
        it.story(number, lambda: it.codes.get(KILLED, Counter())[-9] >= kills)
        number += 1
        print(f"{it.codes[KILLED][-9]}/{kills} kills, {len(it.wrong)} wrong", flush=True)
    return it.report()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and faults; default %(default)s")
    parser.add_argument("--max-s", type=float, default=3.0, help="longest time before a kill; default %(default)s")
    parser.add_argument("--work", type=Path, default=Path("runs/soak"), help="an empty or new directory")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/soak.json"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    report = soak(arguments.work.resolve(), arguments.kills, seed=arguments.seed, max_s=arguments.max_s)
    wall_s = round(time.monotonic() - started)
    settings = {"seed": arguments.seed, "max_s": arguments.max_s, "wall_s": wall_s}
    write_json(arguments.out, {**origin("cpu"), **settings, **report})
    sys.exit(f"{len(report['wrong'])} things went wrong, see {arguments.out}" if report["wrong"] else 0)


if __name__ == "__main__":
    main()
