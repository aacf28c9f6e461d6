"""Animations as files: GIF always, MP4 where an encoder is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from fpo_torchrl.checks import check_choice
from fpo_torchrl.errors import ConfigError


def write_gif(pictures: Sequence[np.ndarray], path: str | Path, *, duration_s: float) -> None:
    """Save an animation that shows each of ``pictures`` for ``duration_s`` seconds, over and over."""
    # One palette and no dithering: what stands still does not change, and takes no space.
    palette = Image.fromarray(np.concatenate(pictures[:: max(1, len(pictures) // 4)])).quantize(255)
    first, *rest = (Image.fromarray(it).quantize(palette=palette, dither=Image.Dither.NONE) for it in pictures)
    ends = np.round(100 * duration_s * np.arange(len(pictures) + 1))  # a GIF counts in hundredths of a second
    shown_ms = (10 * np.diff(ends)).astype(int).tolist()
    first.save(path, save_all=True, append_images=rest, duration=shown_ms, loop=0)


def write_mp4(pictures: Sequence[np.ndarray], path: str | Path, *, duration_s: float) -> None:
    """Save a film that shows each of ``pictures`` for ``duration_s`` seconds, once."""
    height, width, _ = pictures[0].shape
    # H.264 halves the resolution of colours, so both sizes must be even.
    film = load_encoder().write_frames(str(path), (width, height), fps=1 / duration_s, macro_block_size=2)
    film.send(None)
    for picture in pictures:
        film.send(np.ascontiguousarray(picture))
    film.close()


VIDEO_WRITERS = {".gif": write_gif, ".mp4": write_mp4}
"""What writes an animation, by the ending of the file's name."""


def load_encoder() -> ModuleType:
    """The package that encodes MP4; ``ConfigError`` where it is not installed."""
    try:
        import imageio_ffmpeg  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"an .mp4 needs a package ({error}): pip install fpo-torchrl[video], or choose a name that ends in .gif"
        ) from error
    return imageio_ffmpeg


def write_video(pictures: Sequence[np.ndarray], path: str | Path, *, duration_s: float) -> None:
    """Save an animation, in the format of the ending of ``path``, that shows each picture for ``duration_s`` seconds.

    Args:
        pictures: uint8 ``[height, width, 3]`` each, all of one size; at least one.
        path: ends in ``.gif`` or ``.mp4``.

    Raises:
        ValueError: for another ending.
        ConfigError: for an ``.mp4`` without an encoder.
    """
    check_choice("the ending of a film's path", ending := Path(path).suffix, VIDEO_WRITERS)
    VIDEO_WRITERS[ending](pictures, path, duration_s=duration_s)
