"""Pretrain a flow on all handwritten digits, then reinforce one of them: FPO without a critic.

    python benchmarks/digits.py --out benchmarks/results/digits

One actor learns the 8 x 8 digits of scikit-learn by flow matching, then FPO raises the probability that a classifier,
trained apart, gives the chosen digit. A second classifier, which the reward never asks, says how much of that is real.
Needs scikit-learn: ``pip install 'fpo-torchrl[examples]'``.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from digits_plots import draw_curves, draw_sheets
from tensordict import TensorDict
from torch import Tensor

from fpo_torchrl import (
    AntitheticPairs,
    CFMLoss,
    Euler,
    FlowActor,
    FPOLoss,
    IndependentPairs,
    UniformTime,
    VelocityMLP,
    VelocityTarget,
)
from fpo_torchrl.advantage import GroupAdvantage
from fpo_torchrl.files import write_json
from fpo_torchrl.flow import PairSampler
from fpo_torchrl.modules import CosSinTimeEmbedding
from fpo_torchrl.provenance import origin

NUM_PIXELS = 64
PRETRAIN_STEPS, PRETRAIN_BATCH = 3000, 256
NUM_UPDATES, GROUP, MINIBATCH, NUM_EPOCHS = 20, 512, 256, 4

VARIANTS: dict[str, dict[str, Any]] = {
    "group-relative": {},
    "non-negative shift": {"non_negative": True},
    "cfm_coeff 0.3": {"cfm_coeff": 0.3},
    "prior_coeff 0.1": {"prior_coeff": 0.1},
    "data_coeff 0.1": {"data_coeff": 0.1},
    "independent pairs": {"pairs": IndependentPairs()},
}
"""Settings of :func:`reinforce`, by name."""


class Digits(NamedTuple):
    """Images ``[images, 64]`` in [-1, 1], their digits, and two classifiers, each trained on one half.

    ``accuracy`` is that of the reward's classifier on the other half.
    """

    images: Tensor
    labels: Tensor
    reward_model: Any
    judge: Any
    accuracy: float

    def probability(self, images: Tensor, digit: int) -> Tensor:
        """What the reward's classifier gives ``digit``, ``[images, 1]``."""
        return torch.from_numpy(self.reward_model.predict_proba(images.numpy())[:, digit : digit + 1]).float()


def load(seed: int) -> Digits:
    """The data set that ships with scikit-learn, and its classifiers."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float() / 8 - 1
    half = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).numpy() % 2 == 0
    reward_model = MLPClassifier((64,), alpha=1e-2, max_iter=300, random_state=seed)
    reward_model.fit(images[half].numpy(), labels[half])
    judge = KNeighborsClassifier(5).fit(images[~half].numpy(), labels[~half])
    accuracy = reward_model.score(images[~half].numpy(), labels[~half])
    return Digits(images, torch.from_numpy(labels), reward_model, judge, accuracy)


def make_actor(pairs: PairSampler) -> FlowActor:
    """A flow over whole images; there is nothing to observe."""
    net = VelocityMLP(
        0, NUM_PIXELS, hidden_sizes=(256, 256, 256), time_embedding=CosSinTimeEmbedding(16), output_scale=1.0
    )
    return FlowActor(
        net,
        Euler(num_steps=20),
        num_mc_samples=8,
        squash="none",
        target=VelocityTarget(),
        time_sampler=UniformTime(),
        pairs=pairs,
    )


def nothing(size: int) -> TensorDict:
    """As many empty observations."""
    return TensorDict(observation=torch.zeros(size, 0), batch_size=size)


def minibatch(images: Tensor, size: int) -> TensorDict:
    """Random images as actions to imitate."""
    return nothing(size).set("action", images[torch.randint(len(images), (size,))])


def pretrain(actor: FlowActor, images: Tensor) -> None:
    """Flow matching on all digits."""
    loss = CFMLoss(actor)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, PRETRAIN_STEPS)
    for _ in range(PRETRAIN_STEPS):
        optimizer.zero_grad()
        loss(minibatch(images, PRETRAIN_BATCH))["loss_cfm"].backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def draw(actor: FlowActor, size: int) -> TensorDict:
    """Images of the actor's own, with what the update needs."""
    return actor(nothing(size))


def reinforce(
    weights: dict[str, Tensor],
    data: Digits,
    digit: int,
    *,
    num_updates: int,
    non_negative: bool = False,
    data_coeff: float = 0.0,
    pairs: PairSampler | None = None,
    **fpo_settings: Any,
) -> tuple[list[dict[str, float]], Tensor]:
    """FPO from pretrained ``weights``; what :func:`measure` says of each group, and the last group's images.

    Args:
        weights: of the pretrained actor. data: real images and classifiers. digit: the one to reinforce.
        num_updates: groups to learn from.
        non_negative: of :class:`GroupAdvantage`. data_coeff: weight of flow matching on the real images, all digits.
        pairs: how the pairs of an image are drawn. fpo_settings: of :class:`FPOLoss`.
    """
    actor = make_actor(pairs or AntitheticPairs())
    actor.load_state_dict(weights)
    loss = FPOLoss(actor, normalize_advantage=False, functional=False, **fpo_settings)
    imitation = CFMLoss(actor)
    advantage = GroupAdvantage(non_negative=non_negative)
    optimizer = torch.optim.Adam(actor.parameters(), lr=3e-5, fused=True)
    measures = []
    while True:
        batch = draw(actor, GROUP)
        measures.append(measure(batch["action"], data, digit))
        if len(measures) > num_updates:
            return measures, batch["action"]
        batch["next", "reward"] = data.probability(batch["action"], digit)
        advantage(batch)
        for _ in range(NUM_EPOCHS):
            for index in torch.randperm(GROUP).split(MINIBATCH):
                losses = loss(batch[index])
                total = sum(value for name, value in losses.items() if name.startswith("loss_"))
                if data_coeff:
                    total = total + data_coeff * imitation(minibatch(data.images, MINIBATCH))["loss_cfm"]
                optimizer.zero_grad()
                total.backward()
                torch.nn.utils.clip_grad_norm_(actor.parameters(), 1.0)
                optimizer.step()


def measure(images: Tensor, data: Digits, digit: int) -> dict[str, float]:
    """How good, how real and how diverse images ``[images, 64]`` are.

    ``reward``: mean probability of the digit. ``judged``: share that the second classifier calls the digit.
    ``spread``: mean distance between two images, over that between two real ones of the digit. ``coverage``: share of
    the digit's real images that are the nearest real image of at least one. ``nearest``: mean distance to that image.
    """
    real = data.images[data.labels == digit]
    nearest = torch.cdist(images, data.images).min(-1)
    found = nearest.indices.unique()
    return {
        "reward": data.probability(images, digit).mean().item(),
        "judged": float((data.judge.predict(images.numpy()) == digit).mean()),
        "spread": (torch.pdist(images).mean() / torch.pdist(real).mean()).item(),
        "coverage": (data.labels[found] == digit).sum().item() / len(real),
        "nearest": nearest.values.mean().item(),
    }


def real_nearest(data: Digits) -> float:
    """Mean distance of a real image to the nearest other one."""
    distance = torch.cdist(data.images, data.images)
    return distance.fill_diagonal_(torch.inf).amin(-1).mean().item()


def run(seed: int, digit: int, num_updates: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """One seed: pretrain once, reinforce with each variant; measures and sheets of images."""
    torch.set_num_threads(1)
    started, cpu_started = time.perf_counter(), time.process_time()
    data = load(seed)
    torch.manual_seed(seed)
    pretrained = make_actor(AntitheticPairs())
    pretrain(pretrained, data.images)
    real = data.images[data.labels == digit]
    sheets = {"real": real[torch.randperm(len(real))], "pretrained": draw(pretrained, GROUP)["action"]}
    curves = {}
    for name, settings in VARIANTS.items():
        torch.manual_seed(seed)
        curves[name], sheets[name] = reinforce(
            pretrained.state_dict(), data, digit, num_updates=num_updates, **settings
        )
        print(f"  seed {seed}  {name:<20}", *(f"{key} {v:5.2f} " for key, v in curves[name][-1].items()), flush=True)
    seconds = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu_started}
    result = {"accuracy": data.accuracy, "real_nearest": real_nearest(data), **seconds, "curves": curves}
    return result, sheets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digit", type=int, choices=range(10), default=3, help="what to reinforce; default 3")
    parser.add_argument("--updates", type=int, default=NUM_UPDATES, help=f"default {NUM_UPDATES}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="directory for pictures and numbers")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn")) as pool:
        one_seed = partial(run, digit=arguments.digit, num_updates=arguments.updates)
        results, sheets = zip(*pool.map(one_seed, arguments.seeds), strict=True)
    by_seed = dict(zip(arguments.seeds, results, strict=True))
    write_json(arguments.out / "digits.json", {**origin("cpu"), "digit": arguments.digit, "seeds": by_seed})
    curves = {name: [result["curves"][name] for result in results] for name in VARIANTS}
    draw_sheets(sheets[0], arguments.out / "sheets.png")
    draw_curves(curves, {"nearest": results[0]["real_nearest"], "spread": 1.0}, arguments.out / "curves.png")


if __name__ == "__main__":
    main()
