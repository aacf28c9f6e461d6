"""The pictures of ``fpo-gridworld``: what a policy does over the grid and at the saddle, and the flow that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from fpo_torchrl.envs.gridworld import MOVE_THRESHOLD
from fpo_torchrl.envs.gridworld_layout import CENTER, SIZE, Layout
from fpo_torchrl.plots import COLOURS, new_figure
from fpo_torchrl.video import write_gif

from .gridworld import GridPolicy, across

Cell = tuple[int, int]
LOW, HIGH, STAY = COLOURS[4], COLOURS[0], "0.6"
"""Colours of actions toward the two sides of the saddle, and of those toward neither."""
CELLS = ListedColormap(["white", "#cfe8d5", "#f3cdc9", "#555b66"])
"""Of free, goal, death and wall."""
LIMIT = 3.0
"""How far the axes of actions reach; the environment clips them to 1."""


def draw_policies(policies: Mapping[str, GridPolicy], starts: list[Cell], path: Path, *, title: str) -> None:
    """A row for each policy: an action in each cell, actions at the saddle, and trajectories.

    Args:
        policies: by name, all on one layout.
        starts: of the trajectories, the first at the saddle.
    """
    figure = new_figure(16, 4.1 * len(policies) + 0.4)
    grid = figure.subplots(len(policies), 4, squeeze=False)
    for row, (name, policy) in zip(grid, policies.items(), strict=True):
        draw_field(row[0], policy)
        draw_cloud(row[1], policy, starts[0])
        draw_saddle(row[2], policy)
        draw_trajectories(row[3], policy, starts)
        row[0].set_ylabel(name, fontsize=14)
    for axes, text in zip(
        grid[0],
        ("one sampled action in each cell", f"sampled actions at {starts[0]}", "along the saddle", "20 episodes each"),
        strict=True,
    ):
        axes.set_title(text, fontsize=11)
    figure.suptitle(title)
    figure.savefig(path, dpi=80)


def draw_field(axes: Axes, policy: GridPolicy) -> None:
    """One sampled action in each free cell, as an arrow of the colour of its side."""
    draw_cells(axes, policy.layout)
    cells = policy.layout.free.nonzero().flip(-1)
    action = policy.samples(cells, 1)[:, 0].clamp(-1, 1)
    colours = side_colours(action[:, across(policy.layout)])
    axes.quiver(*cells.T, *action.T, color=colours, angles="xy", scale_units="xy", scale=1.15, width=0.005)


def draw_cloud(axes: Axes, policy: GridPolicy, cell: Cell) -> None:
    """The actions of one cell in the plane of actions; the dashed square is where the agent stays."""
    actions = policy.samples(torch.tensor([cell]))[0]
    axes.scatter(*actions.T, s=3, alpha=0.5, linewidths=0, c=side_colours(actions[:, across(policy.layout)]))
    action_plane(axes)


def draw_saddle(axes: Axes, policy: GridPolicy) -> None:
    """The deciding coordinate of 100 actions of each saddle cell; between the dashed lines the agent stays."""
    saddle, coordinate = policy.layout.saddle_cells(), across(policy.layout)
    actions = policy.samples(saddle, 100)[..., coordinate]
    place = saddle[:, 1 - coordinate].float()[:, None] + torch.linspace(-0.3, 0.3, 100)
    axes.scatter(place.flatten(), actions.flatten(), s=2.5, linewidths=0, c=side_colours(actions.flatten()))
    for threshold in (-MOVE_THRESHOLD, MOVE_THRESHOLD):
        axes.axhline(threshold, color="0.3", linestyle="--", linewidth=0.8)
    axes.set(xlabel=f"{'xy'[1 - coordinate]} of the cell", ylabel=f"action in {'xy'[coordinate]}", ylim=(-LIMIT, LIMIT))
    axes.spines[["top", "right"]].set_visible(False)


def draw_trajectories(axes: Axes, policy: GridPolicy, starts: list[Cell]) -> None:
    """Twenty episodes from each start, the lines a little apart."""
    draw_cells(axes, policy.layout)
    for colour, start in zip(COLOURS, starts, strict=False):
        rollouts = policy.rollouts(torch.tensor(start).expand(20, 2))
        offset = torch.linspace(-0.3, 0.3, 20)[torch.randperm(20, generator=torch.Generator().manual_seed(0))]
        for points, shift in zip(rollouts.path, offset, strict=True):
            axes.plot(*(points + shift).T, color=colour, linewidth=0.9, alpha=0.6)
        axes.plot(*start, "o", color=colour, markeredgecolor="black", markersize=8)


def draw_cells(axes: Axes, layout: Layout) -> None:
    """The layout, with x to the right and y up."""
    kind = layout.goal.int() + 2 * layout.death.int() + 3 * layout.wall.int()
    axes.imshow(kind, origin="lower", cmap=CELLS, vmin=0, vmax=3)
    axes.set(xticks=[0, CENTER, SIZE - 1], yticks=[0, CENTER, SIZE - 1])


def action_plane(axes: Axes) -> None:
    """Axes of actions."""
    side = 2 * MOVE_THRESHOLD
    square = Rectangle((-MOVE_THRESHOLD, -MOVE_THRESHOLD), side, side, fill=False, linestyle="--", edgecolor="0.3")
    axes.add_patch(square)
    axes.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xlabel="action in x", ylabel="action in y", aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)


def side_colours(coordinate: torch.Tensor) -> list[str]:
    """The colour of each action by the side it moves to."""
    return [HIGH if it > MOVE_THRESHOLD else LOW if it < -MOVE_THRESHOLD else STAY for it in coordinate.tolist()]


def draw_flow(policy: GridPolicy, cells: list[Cell], path: Path, *, num_particles: int = 800) -> None:
    """Animate the flow of a flow policy from noise to action in ``cells``, in the colours of where it ends."""
    points = policy.flow(torch.tensor(cells).unsqueeze(1).expand(-1, num_particles, 2))
    figure = new_figure(3.4 * len(cells), 3.8)
    clouds = []
    for axes, cell, end in zip(np.ravel(figure.subplots(1, len(cells))), cells, points[-1], strict=True):
        action_plane(axes)
        axes.set_title(f"cell {cell}", fontsize=10)
        clouds.append(axes.scatter(*end.T, s=4, linewidths=0, c=side_colours(end[:, across(policy.layout)])))
    title = figure.suptitle("flow time 0.00", fontsize=11)
    figure.canvas.draw()
    figure.set_layout_engine("none")
    frames = []
    for time in torch.linspace(0, 1, 31).tolist():
        step = min(int(time * (len(points) - 1)), len(points) - 2)
        moved = torch.lerp(points[step], points[step + 1], time * (len(points) - 1) - step)
        for cloud, particles in zip(clouds, moved, strict=True):
            cloud.set_offsets(particles)
        title.set_text(f"flow time {time:.2f}")
        figure.canvas.draw()
        frames.append(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
    write_gif([frames[0]] * 6 + frames + [frames[-1]] * 12, path, duration_s=0.08)
