"""Policies that track one motion, side by side in one animation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from tensordict.nn import TensorDictModule

from fpo_torchrl.envs.humanoid import HumanoidEnv
from fpo_torchrl.evaluation import evaluate

_COLUMNS = 4
_STILL_S = 1.0  # at the end
_INK, _WARNING, _PAPER = (30, 30, 30), (170, 40, 40), (250, 250, 250)


@dataclass
class Take:
    """One policy's episode: a picture before it and after each step, and whether the last step lost the reference."""

    title: str
    pictures: list[np.ndarray]
    is_lost: bool = False


def shoot(title: str, actor: TensorDictModule, env: HumanoidEnv, motion: int, *, noise: str = "zero") -> Take:
    """Film the episode of the copy that tracks ``motion``, with its reference as a ghost, to its end.

    Args:
        title: what stands above the pictures.
        actor: the policy.
        env: made with ``random_start=False``, and a copy for each motion.
        motion (int): the motion's number.
        noise: start noise of a flow; see :func:`~fpo_torchrl.evaluation.evaluate`.
    """
    take, is_over = Take(title, []), False

    def draw(step: int) -> None:
        nonlocal is_over
        if is_over:  # the copy has begun anew
            return
        take.pictures.append(env.render(motion))
        if step:
            take.is_lost = bool(env.lost[motion])
            is_over = take.is_lost or bool(env.out_of_time()[motion])

    length = int(env.motion_library.num_frames[motion]) - 2
    evaluate(actor, env, noise=noise, on_step=draw, max_steps=length, with_spread=False)
    return take


def side_by_side(takes: Sequence[Take], *, step_s: float) -> list[np.ndarray]:
    """Pictures of all takes, up to four in a row: uint8 ``[height, width, 3]``; one that is lost stands still, pale.

    Args:
        takes: at least one.
        step_s (float): length of a control step in seconds.
    """
    length = max(len(take.pictures) for take in takes) + round(_STILL_S / step_s)
    return [_grid([_pane(take, step, step_s) for take in takes]) for step in range(length)]


def _pane(take: Take, step: int, step_s: float) -> np.ndarray:
    last = len(take.pictures) - 1
    picture = Image.fromarray(take.pictures[min(step, last)])
    if is_over := take.is_lost and step >= last:
        picture = Image.blend(picture, Image.new("RGB", picture.size, _PAPER), 0.5)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=_PAPER)
    pen.text((8, 6), take.title, fill=_INK)
    if is_over:
        pen.text((8, 20), f"lost after {last * step_s:.1f} s", fill=_WARNING)
    return np.asarray(picture)


def _grid(panes: list[np.ndarray]) -> np.ndarray:
    columns = min(_COLUMNS, len(panes))
    blank = [np.full_like(panes[0], _PAPER[0])] * (-len(panes) % columns)
    panes = [*panes, *blank]
    rows = [panes[start : start + columns] for start in range(0, len(panes), columns)]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])
