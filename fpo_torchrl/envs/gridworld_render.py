"""A picture of a GridWorld: its cells and the agent, with x to the right and y up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from .gridworld_layout import Layout

_FREE, _LINE = (250, 250, 251), (225, 228, 233)
_COLOURS = {"goal": (110, 190, 130), "death": (217, 96, 90), "wall": (68, 74, 84)}
_AGENT = (31, 97, 175)
_ANTIALIAS = 4


def draw_gridworld(layout: Layout, cell: tuple[int, int], height: int, width: int) -> np.ndarray:
    """``layout`` with the agent in ``cell`` (x, y), as large as fits in the middle: uint8 ``[height, width, 3]``.

    Raises:
        ValueError: if the picture is too small for its cells to be told apart.
    """
    num_cells = layout.goal.shape[-1]
    pitch = (min(height, width) - 1) // num_cells
    if pitch < 3:
        raise ValueError(
            f"height and width must be at least {3 * num_cells + 1} pixels for {num_cells} cells, got {height}, {width}"
        )
    cells = np.full((num_cells, num_cells, 3), _FREE, dtype=np.uint8)
    for name, colour in _COLOURS.items():
        cells[getattr(layout, name).cpu().numpy()] = colour
    grid = np.full((num_cells * pitch + 1, num_cells * pitch + 1, 3), _LINE, dtype=np.uint8)
    grid[:-1, :-1] = cells[::-1].repeat(pitch, axis=0).repeat(pitch, axis=1)
    grid[::pitch] = grid[:, ::pitch] = _LINE
    x, y = cell
    left, top = x * pitch + 1, (num_cells - 1 - y) * pitch + 1
    inside = (slice(top, top + pitch - 1), slice(left, left + pitch - 1))
    grid[inside] = _with_disc(grid[inside])

    picture = np.full((height, width, 3), 255, dtype=np.uint8)
    top, left = (height - len(grid)) // 2, (width - len(grid)) // 2
    picture[top : top + len(grid), left : left + len(grid)] = grid
    return picture


def _with_disc(square: np.ndarray) -> np.ndarray:
    """The agent in its cell."""
    size = len(square) * _ANTIALIAS
    large = Image.fromarray(square).resize((size, size), Image.Resampling.NEAREST)
    margin = size // 10
    ImageDraw.Draw(large).ellipse((margin, margin, size - 1 - margin, size - 1 - margin), fill=_AGENT)
    return np.asarray(large.reduce(_ANTIALIAS))
