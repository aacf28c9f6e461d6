"""The pictures of benchmarks/digits.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fpo_torchrl.plots import new_figure

PANELS = {
    "reward": "reward: probability of the digit",
    "judged": "share that a second classifier\ncalls the digit",
    "spread": "spread of the images,\nas a share of that of real ones",
    "coverage": "share of the real images that\nare nearest to some sample",
    "nearest": "distance to the nearest real image",
}


def draw_sheets(sheets: dict[str, Tensor], path: Path, *, rows: int = 8, columns: int = 8) -> None:
    """Sheets of images ``[images, 64]`` side by side, each with its name above."""
    across = (len(sheets) + 1) // 2
    figure = new_figure(2.2 * across, 5)
    for axes, (name, images) in zip(figure.subplots(2, across).flat, sheets.items(), strict=False):
        tiles = torch.nn.functional.pad(images[: rows * columns].clamp(-1, 1).view(-1, 8, 8), (1, 1, 1, 1), value=-1)
        sheet = tiles.view(rows, columns, 10, 10).transpose(1, 2).reshape(10 * rows, 10 * columns)
        axes.imshow(sheet, cmap="gray_r", vmin=-1, vmax=1)
        axes.set_title(name, fontsize=9)
    for axes in figure.axes:
        axes.set_axis_off()
    figure.savefig(path, dpi=130)


def draw_curves(curves: dict[str, list[list[dict[str, float]]]], real: dict[str, float], path: Path) -> None:
    """Each measure over the updates, for each variant: the mean over seeds, and every seed as a thin line."""
    figure = new_figure(11.5, 3.2)
    for number, (axes, (name, title)) in enumerate(zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True)):
        for index, (variant, seeds) in enumerate(curves.items()):
            values = torch.tensor([[update[name] for update in seed] for seed in seeds])
            style: dict[str, Any] = {"color": f"C{index}"}
            axes.plot(values.T, linewidth=0.6, alpha=0.4, **style)
            axes.plot(values.mean(0), linewidth=1.8, label=variant, **style)
        if name in real:
            axes.axhline(real[name], color="gray", linewidth=1, linestyle=":")
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("updates", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_ylim(0, None if number == len(PANELS) - 1 else max(1.02, axes.get_ylim()[1]))
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(curves), fontsize=8
    )
    figure.savefig(path, dpi=130)
