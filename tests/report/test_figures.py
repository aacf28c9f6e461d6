"""What the pictures of a report must not do."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fpo_torchrl.plots import new_figure
from fpo_torchrl.report.figures import add_legend, styles


@pytest.mark.parametrize("labels", [["euler", "heun", "midpoint", "rk4", "sde", "random_steps"], ["a"], ["fpo", "ppo"]])
def test_the_legend_fits_into_a_narrow_picture(labels, tmp_path):
    figure = new_figure(4.6, 3.2)
    figure.subplots().set_axis_off()
    add_legend(figure, styles(labels))
    figure.savefig(tmp_path / "picture.png", dpi=120)
    pixels = np.asarray(Image.open(tmp_path / "picture.png").convert("L"))
    assert pixels.min() < 200
    assert pixels[:, [0, 1, -2, -1]].min() == 255  # nothing is cut off at either side
