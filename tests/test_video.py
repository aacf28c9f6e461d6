"""Animations as files."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from fpo_torchrl.cli import video_file
from fpo_torchrl.errors import ConfigError
from fpo_torchrl.video import write_video

SHADES = [20, 120, 220]


def pictures(height: int = 32, width: int = 48) -> list[np.ndarray]:
    return [np.full((height, width, 3), shade, dtype=np.uint8) for shade in SHADES]


def test_a_gif_shows_every_picture_as_long_as_it_is_told_to(tmp_path):
    write_video(pictures(), tmp_path / "film.gif", duration_s=0.25)
    with Image.open(tmp_path / "film.gif") as animation:
        assert (animation.n_frames, animation.size) == (3, (48, 32))
        assert animation.info["duration"] == 250


def test_a_film_of_another_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ending of a film's path must be one of \.gif, \.mp4, got '\.avi'"):
        write_video(pictures(), tmp_path / "film.avi", duration_s=0.25)


def test_an_mp4_shows_every_picture(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "film.mp4"
    write_video(pictures(), path, duration_s=0.25)
    reader = ffmpeg.read_frames(str(path))
    about = next(reader)
    assert (about["source_size"], about["fps"]) == ((48, 32), 4.0)
    means = [np.frombuffer(frame, dtype=np.uint8).mean() for frame in reader]
    assert means == pytest.approx(SHADES, abs=6)


def test_an_mp4_without_an_encoder_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"pip install fpo-torchrl\[video\], or choose a name that ends in .gif"):
        video_file("--video", tmp_path / "film.mp4")
    assert video_file("--video", tmp_path / "film.gif") == tmp_path / "film.gif"


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--video=.*film.avi must end in .gif or .mp4"):
        video_file("--video", tmp_path / "film.avi")


def test_a_gif_lasts_as_long_as_what_it_shows(tmp_path):
    """It counts in hundredths of a second, of which 1/30 s is no multiple."""
    pictures = [np.full((4, 4, 3), 8 * i, dtype=np.uint8) for i in range(30)]
    write_video(pictures, tmp_path / "film.gif", duration_s=1 / 30)
    with Image.open(tmp_path / "film.gif") as film:
        shown_ms = 0
        for number in range(film.n_frames):
            film.seek(number)
            shown_ms += film.info["duration"]
    assert shown_ms == 1000
