"""Speed of sampling, update, collection and training, beside a plain torch loop, a Gaussian, and the authors' JAX code.

    python benchmarks/speed/run.py
    python benchmarks/speed/run.py --reference ../fpo --reference-python ../jax/bin/python
    python benchmarks/speed/run.py --device cuda --compile --num-minibatches 32 --backends c mjx
    python benchmarks/speed/run.py --scaling

All contenders of a table take turns in short rounds; a ratio is the median over the rounds of seconds over our seconds,
so that above 1 we are faster. Writes ``speed.json`` and ``speed.md``, or ``scaling.json`` and ``scaling.png``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contenders import PRESETS, make_plain, make_trainer, plain_batch, random_batch
from memory import peak_mb
from profiling import kinds, phases
from reference import Reference
from scaling import scaling
from summary import markdown
from tensordict import TensorDict
from timing import Work, compare, take_turns, unreported
from torch.utils.flop_counter import FlopCounterMode

from fpo_torchrl.files import write_json, write_whole
from fpo_torchrl.machine import available_cores, prepare_machine
from fpo_torchrl.provenance import origin
from fpo_torchrl.trainer import Trainer
from fpo_torchrl.training.collecting import make_collector
from fpo_torchrl.training.gradient import compile_settings

UNROLL = 30
"""Steps of a window in the authors' code; a minibatch of theirs is a number of windows."""


class Suite:
    """The tables, at the sizes of the command line."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = (f"device={args.device}", "logger=none", f"num_threads={args.threads}")
        self.reference = open_reference(args)

    def close(self) -> None:
        """End the authors' process."""
        if self.reference is not None:
            self.reference.close()

    def trainer(self, experiment: str, *overrides: str) -> Trainer:
        """A trainer of the suite's task on the suite's device."""
        return make_trainer(experiment, f"task={self.args.task}", "total_frames=1000000000", *self.device, *overrides)

    def update_sizes(self) -> list[str]:
        """The overrides that make a batch of a few reference minibatches."""
        args = self.args
        frames = args.num_minibatches * args.minibatch_size
        sizes = [f"num_envs={args.minibatch_size // UNROLL}", f"trainer.frames_per_batch={frames}"]
        return [*sizes, f"trainer.minibatch_size={args.minibatch_size}", "trainer.num_epochs=1"]

    def sampling(self) -> list[dict[str, Any]]:
        """Actions for a batch of observations, with the pairs that the update needs."""
        trainers = {name: self.trainer(experiment, "num_envs=1") for name, experiment in PRESETS.items()}
        ours, plain = trainers["ours"], make_plain(trainers["ours"])
        rows = []
        for num_observations in self.args.observations:
            observation = torch.randn(num_observations, obs_dim(ours), device=self.args.device)

            def act(actor: Callable[..., Any], observation: torch.Tensor = observation) -> None:
                with torch.no_grad():
                    actor(TensorDict(observation=observation, batch_size=len(observation)))

            actors = {name: trainer.actor for name, trainer in trainers.items()}
            if self.args.compile:
                actors["ours compiled"] = torch.compile(ours.actor, **compile_settings(torch.device(self.args.device)))
            works: dict[str, Work] = {name: partial(act, actor) for name, actor in actors.items()}
            works["plain"] = unreported(partial(plain.act, observation))
            if self.reference is not None:
                sizes = {"obs_dim": obs_dim(ours), "action_dim": ours.actor.action_dim}
                works["reference"] = self.reference.work(
                    "sample", num_observations=num_observations, config={}, **sizes
                )
            table = compare(take_turns(works, rounds=self.args.rounds))
            rows.append({"observations": num_observations, "contenders": table})
        return rows

    def update(self) -> dict[str, Any]:
        """One epoch: advantage, gather, loss, backward, limits and step, for a few reference minibatches."""
        args, overrides = self.args, self.update_sizes()
        trainers = {name: self.trainer(experiment, *overrides) for name, experiment in PRESETS.items()}
        if args.compile:
            trainers["ours compiled"] = self.trainer(PRESETS["ours"], *overrides, "trainer.compile=true")
        batches = {name: random_batch(trainer) for name, trainer in trainers.items()}
        ours, plain = trainers["ours"], make_plain(trainers["ours"])
        works: dict[str, Work] = {
            name: unreported(partial(trainer.learn, batches[name])) for name, trainer in trainers.items()
        }
        works["plain"] = unreported(partial(plain.learn, plain_batch(batches["ours"])))
        square = torch.randn(2, args.matmul_size, args.matmul_size, device=args.device).unbind()
        works["matmul"] = unreported(partial(torch.mm, *square))
        if self.reference is not None:
            batch_size = args.minibatch_size // UNROLL
            config = {
                "batch_size": batch_size,
                "num_envs": batch_size,
                "unroll_length": UNROLL,
                "num_minibatches": args.num_minibatches,
                "num_updates_per_batch": 1,
            }
            sizes = {"obs_dim": obs_dim(ours), "action_dim": ours.actor.action_dim}
            works["reference"] = self.reference.work("update", config=config, **sizes)
        taken = take_turns(works, rounds=args.rounds)
        table = compare(taken)
        with FlopCounterMode(display=False) as counter:
            ours.learn(batches["ours"])
        flops, of_matmul = counter.get_total_flops(), 2 * args.matmul_size**3
        clock = "cpu" if args.device == "cpu" else "wall"
        shares = sorted(
            flops / getattr(mine, clock) / (of_matmul / getattr(best, clock))
            for mine, best in zip(taken["ours"], taken["matmul"], strict=True)
        )
        del table["matmul"]
        return {
            "frames": ours.frames_per_batch,
            "contenders": table,
            "matmul_gflops_per_epoch": flops / 1e9,
            "share_of_matmul_ceiling": shares[len(shares) // 2],
            "kinds": kinds(partial(ours.learn, batches["ours"]), ours.env.device),
        }

    def collection(self) -> list[dict[str, Any]]:
        """Frames collected by back end, by the trainer's collector and by the plain loop."""
        rows = []
        for backend in self.args.backends:
            overrides = (*self.iteration_sizes(), f"env.backend={backend}")
            trainers = {name: self.trainer(experiment, *overrides) for name, experiment in PRESETS.items()}
            collectors = {name: trainer.start() for name, trainer in trainers.items()}
            if self.args.compile:
                ours = self.trainer(PRESETS["ours"], *overrides)
                collectors["ours compiled"] = make_collector(ours.env, ours.actor, ours.frames_per_batch, compile=True)
            batches = {name: iter(collector) for name, collector in collectors.items()}
            works: dict[str, Work] = {name: unreported(partial(next, it)) for name, it in batches.items()}
            plain = make_plain(self.trainer(PRESETS["ours"], *overrides), with_env=True)
            works["plain"] = unreported(plain.collect)
            table = compare(take_turns(works, rounds=self.args.rounds))
            rows.append({"backend": backend, "frames": trainers["ours"].frames_per_batch, "contenders": table})
        return rows

    def iteration_sizes(self) -> list[str]:
        """The overrides that make an iteration of a batch small enough for this machine."""
        args = self.args
        frames = args.iteration_minibatches * args.iteration_windows * UNROLL
        sizes = [f"num_envs={args.num_envs}", f"trainer.frames_per_batch={frames}"]
        minibatch = f"trainer.minibatch_size={args.iteration_windows * UNROLL}"
        return [*sizes, minibatch, f"trainer.num_epochs={args.num_epochs}"]

    def iteration(self) -> dict[str, Any]:
        """Whole iterations of training, collection and update."""
        args, overrides = self.args, self.iteration_sizes()
        trainers = {name: self.trainer(experiment, *overrides) for name, experiment in PRESETS.items()}
        if args.compile:
            trainers["ours compiled"] = self.trainer(PRESETS["ours"], *overrides, "trainer.compile=true")
        iterations = {name: iter(trainer) for name, trainer in trainers.items()}
        works: dict[str, Work] = {name: unreported(partial(next, it)) for name, it in iterations.items()}
        plain = make_plain(self.trainer(PRESETS["ours"], *overrides), with_env=True)
        works["plain"] = lambda: plain.learn(plain.collect())
        if self.reference is not None:
            config = {
                "batch_size": args.iteration_windows,
                "num_envs": args.num_envs,
                "unroll_length": UNROLL,
                "num_minibatches": args.iteration_minibatches,
                "num_updates_per_batch": args.num_epochs,
            }
            works["reference"] = self.reference.work("iteration", task=args.task, config=config)
        table = compare(take_turns(works, rounds=args.rounds))
        frames = trainers["ours"].frames_per_batch
        for row in table.values():
            row["frames_per_s"] = frames / row["median_s"]
        return {"frames": frames, "contenders": table, "phases_s": phases(trainers["ours"])}

    def memory(self) -> dict[str, Any]:
        """Peak memory of a batch and its update, and the bytes of a frame."""
        overrides = [f"task={self.args.task}", *self.device, *self.update_sizes()]
        trainer = self.trainer(PRESETS["ours"], *self.update_sizes())
        batch = random_batch(trainer)
        pairs = [*trainer.actor.pair_keys, trainer.actor.cfm_loss_key]
        return {
            "frames": batch.numel(),
            "peak_mb": {name: peak_mb(name, overrides) for name in (*PRESETS, "plain")},
            "bytes_per_frame": batch.bytes() / batch.numel(),
            "share_of_pairs": sum(batch[key].nbytes for key in pairs) / batch.bytes(),
        }


def obs_dim(trainer: Trainer) -> int:
    """Size of the task's observation."""
    return trainer.env.observation_spec["observation"].shape[-1]


def open_reference(args: argparse.Namespace) -> Reference | None:
    """The authors' code, or None with a message."""
    if args.reference is None:
        print("no --reference: the authors' JAX code is left out (a checkout of github.com/akanazawa/fpo)")
        return None
    if not (args.reference / "playground" / "src" / "flow_policy").is_dir():
        print(f"--reference {args.reference}: no playground/src/flow_policy there, the authors' JAX code is left out")
        return None
    return Reference(args.reference, args.reference_python, threads=args.threads if args.device == "cpu" else 0)


TABLES = ("sampling", "update", "collection", "iteration", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--scaling", action="store_true", help="frames/s against sizes, instead of the tables")
    parser.add_argument("--reference", type=Path, help="checkout of the authors' code")
    parser.add_argument(
        "--reference-python", default="python3", help="interpreter with jax, jax_dataclasses, playground"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--threads", type=int, default=available_cores(), help="of every contender's arithmetic on a CPU"
    )
    parser.add_argument(
        "--compile", action="store_true", help="trainer.compile=true takes part, with a compiled policy"
    )
    parser.add_argument("--task", default="CheetahRun")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--observations", type=int, nargs="+", default=[64, 256, 1024, 2048, 8192])
    parser.add_argument("--minibatch-size", type=int, default=1024 * UNROLL, help="of the update; default the authors'")
    parser.add_argument("--num-minibatches", type=int, default=1, help="in the epoch of the update; the authors' 32")
    parser.add_argument("--backends", nargs="+", default=["c"], help="of the collection: c, mjx, warp")
    parser.add_argument("--num-envs", type=int, default=256, help="of collection and iteration; the authors' 2048")
    parser.add_argument(
        "--iteration-windows", type=int, default=64, help="of 30 steps in a minibatch; the authors' 1024"
    )
    parser.add_argument("--iteration-minibatches", type=int, default=4, help="in an epoch; the authors' 32")
    parser.add_argument("--num-epochs", type=int, default=16, help="of an iteration")
    parser.add_argument("--matmul-size", type=int, default=2048, help="of the products that measure the ceiling")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/speed"))
    args = parser.parse_args()
    if args.scaling and (args.reference is not None or args.compile):
        parser.error("--scaling measures the package as it is, without --reference and --compile")
    prepare_machine(args.threads)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    report: dict[str, Any] = {**origin(args.device), "settings": settings}
    suite = Suite(args)
    if args.scaling:
        scaling(suite.trainer, args.out, report)
        return
    try:
        for table in args.tables:
            start = time.perf_counter()
            report[table] = getattr(suite, table)()
            print(f"{table}: {time.perf_counter() - start:.0f} s", flush=True)
    finally:
        suite.close()
    write_json(args.out / "speed.json", report)
    text = markdown(report)
    write_whole(args.out / "speed.md", text)
    print(text)


if __name__ == "__main__":
    main()
