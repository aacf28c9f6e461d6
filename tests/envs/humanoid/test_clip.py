"""Motion files: both formats, and every way in which they can be wrong."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from motions import deepmimic_frame, standing, write_deepmimic, write_npz

from fpo_torchrl.envs.humanoid import MotionError, MotionLibrary, load_clip
from fpo_torchrl.envs.humanoid.clip import find_clips
from fpo_torchrl.envs.humanoid.skeleton import HUMANOID

HALF = np.sqrt(0.5)


def placed(tmp_path, **joints) -> dict[str, list[float]]:
    """Where the bodies are in a DeepMimic pose, by name, relative to the pelvis."""
    library = MotionLibrary(
        [load_clip(write_deepmimic(tmp_path / "pose.txt", [deepmimic_frame(**joints)] * 5))], HUMANOID, mirror=False
    )
    pos = library.bodies(torch.tensor([0]), torch.tensor([0])).pos[..., 0]
    return dict(zip(HUMANOID.names, (pos - pos[:, :1]).T.tolist(), strict=True))


def test_a_deepmimic_knee_bends_backward(tmp_path):
    """Its knee at -pi/2: the shin points back."""
    bodies = placed(tmp_path, right_knee=[-np.pi / 2])
    assert bodies["right_foot"] == pytest.approx([-0.40987, -0.084887, -0.421546], abs=1e-5)


def test_a_deepmimic_elbow_bends_forward(tmp_path):
    """Its elbow at pi/2: the forearm points ahead."""
    bodies = placed(tmp_path, left_elbow=[np.pi / 2])
    hand = [-0.02405 + 0.258947, 0.18311, 0.236151 + 0.2435 - 0.274788]
    assert bodies["left_hand"] == pytest.approx(hand, abs=1e-5)


def test_a_deepmimic_shoulder_turns_about_its_forward_axis(tmp_path):
    """A quarter turn about x (forward in both) lifts the left arm sideways to the left, where DeepMimic's z is -."""
    bodies = placed(tmp_path, left_shoulder=[HALF, -HALF, 0, 0])
    assert bodies["left_lower_arm"][1] == pytest.approx(0.18311 - 0.274788, abs=1e-5)
    bodies = placed(tmp_path, left_shoulder=[HALF, HALF, 0, 0])
    assert bodies["left_lower_arm"][1] == pytest.approx(0.18311 + 0.274788, abs=1e-5)


def test_deepmimic_positions_become_z_up(tmp_path):
    frames = [deepmimic_frame(position=[1.0, 2.0, 3.0])] * 5
    clip = load_clip(write_deepmimic(tmp_path / "here.json", frames))
    assert clip.root_pos[:, 0].tolist() == [1.0, -3.0, 2.0]
    assert (clip.name, clip.num_frames, clip.loops) == ("here", 5, False)
    assert clip.fps == pytest.approx(30)


def test_an_npz_is_sorted_by_the_names_of_its_bodies(tmp_path):
    order = np.random.default_rng(0).permutation(15)
    content = standing(6)
    content["local_quat_wxyz"][:, 9] = [HALF, 0, HALF, 0]
    names, quats = content["body_names"][order], content["local_quat_wxyz"][:, order]
    clip = load_clip(write_npz(tmp_path / "mixed.npz", num_frames=6, body_names=names, local_quat_wxyz=quats))
    assert clip.quats[:, HUMANOID.names.index("right_thigh"), 0].tolist() == pytest.approx([HALF, 0, HALF, 0])
    assert (clip.quats[0] == 1).sum() == 14 * 6


def test_quaternions_are_normalised_and_a_large_change_is_told(tmp_path):
    quats = standing(10)["local_quat_wxyz"]
    with pytest.warns(UserWarning, match=r"long\.npz: quaternions are normalised, their length is off by up to 0.2"):
        clip = load_clip(write_npz(tmp_path / "long.npz", local_quat_wxyz=1.2 * quats))
    assert torch.equal(clip.quats[0], torch.ones(15, 10, dtype=torch.float64))


def changed(index, value, entry="local_quat_wxyz"):
    array = standing(10)[entry].copy()
    array[index] = value
    return {entry: array}


NAMES = np.array(["nose", *HUMANOID.names[1:]])
WRONG_NPZ = {
    "no fps": ({"fps": None}, "lacks the entries .'fps'."),
    "fps of zero": ({"fps": 0.0}, "frames per second must be between 1 and 10000, got 0"),
    "fps of nan": ({"fps": np.nan}, "frames per second must be between 1 and 10000, got nan"),
    "a motion of years": ({"fps": 1e-9}, "frames per second must be between 1 and 10000, got 1e-09"),
    "fps as a word": ({"fps": "fast"}, "frames per second must be between 1 and 10000, got fast"),
    "text": ({"local_quat_wxyz": np.full((10, 15, 4), "a")}, "must be numbers, they are float64 and <U1"),
    "complex": ({"root_pos": np.ones((10, 3), dtype=complex)}, "must be numbers, they are complex128 and float64"),
    "too short": ({"num_frames": 4}, "needs at least 5 frames, this one has 4"),
    "unknown body": ({"body_names": NAMES}, "unknown: .'nose'., missing: .'pelvis'."),
    "wrong shape": ({"root_pos": np.zeros((9, 3))}, r"got \[9, 3\] and \[10, 15, 4\]"),
    "nan": (changed((7, 0), np.nan, "root_pos"), "frame 7: a number is not finite"),
    "infinite rotation": (changed((3, 2, 1), np.inf), "frame 3: a number is not finite"),
    "no rotation": (changed((4, 5), 0.0), "frame 4: a rotation is a quaternion of length 1"),
    "loop": ({"loop": "sometimes"}, 'Loop must be "wrap" or "none", got \'sometimes\''),
    "contradiction": ({"loop": "wrap", **changed((-1, 3), [0, 0, 1, 0])}, r"says that it loops.* is 3\.14 rad away"),
    "one name": ({"body_names": np.array("pelvis")}, "its bodies are not those of the skeleton"),
    "pickled": ({"body_names": np.array([{"a": 1}] * 15, dtype=object)}, "without pickled objects"),
}


@pytest.mark.parametrize("case", WRONG_NPZ)
def test_a_wrong_npz_is_refused(tmp_path, case):
    changes, message = WRONG_NPZ[case]
    path = write_npz(tmp_path / "wrong.npz", **changes)
    with pytest.raises(MotionError, match=rf"wrong\.npz.*{message}"):
        load_clip(path)


WRONG_DEEPMIMIC = {
    "columns": ([deepmimic_frame()] * 6 + [[1.0] * 43], "frame 6: expected 44 numbers, got 43"),
    "text": ([deepmimic_frame()] * 6 + [["a"] * 44], "holds something that is no number"),
    "mixed durations": ([deepmimic_frame(0.1), *[deepmimic_frame()] * 5], "expected one length"),
    "no time": ([deepmimic_frame(0.0)] * 6, "frame 0: the first number is how long the frame lasts, got 0.0 s"),
    "no number": ([[None, *deepmimic_frame()[1:]]] * 6, "how long the frame lasts, got nan s"),
    "empty": ([], "needs at least 5 frames, this one has 0"),
}


@pytest.mark.parametrize("case", WRONG_DEEPMIMIC)
def test_a_wrong_deepmimic_file_is_refused(tmp_path, case):
    frames, message = WRONG_DEEPMIMIC[case]
    with pytest.raises(MotionError, match=rf"wrong\.txt.*{message}"):
        load_clip(write_deepmimic(tmp_path / "wrong.txt", frames))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"no json", "cannot be read as JSON"),
        ("a.json", b'{"Skeleton": {}}', 'a JSON object with the list "Frames"'),
        ("a.json", b'{"Frames": 3}', 'a JSON object with the list "Frames"'),
        ("a.npz", b"", "cannot be read as an npz"),
        ("a.npz", pickle.dumps([1]), "cannot be read as an npz"),
        ("a.bvh", b"HIERARCHY", "expected a file that ends in .txt, .json, .npz"),
    ],
)
def test_what_is_no_motion_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MotionError, match=message):
        load_clip(tmp_path / name)


def test_a_damaged_archive_is_refused_or_loads_what_was_written(tmp_path):
    """Whatever bit is wrong: some say nothing."""
    path, generator = tmp_path / "damaged.npz", np.random.default_rng(0)
    np.savez_compressed(path, **standing(10))
    whole, intact, num_refused = path.read_bytes(), load_clip(path), 0
    for place in generator.integers(8 * len(whole), size=300):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            clip = load_clip(path)
        except MotionError:
            num_refused += 1
        else:
            assert torch.equal(clip.quats, intact.quats)
            assert torch.equal(clip.root_pos, intact.root_pos)
    assert num_refused > 100


def test_a_folder_gives_its_motions_and_leaves_out_what_is_none(tmp_path):
    (tmp_path / "below").mkdir()
    for ending in ("txt", "json", "npz"):
        (tmp_path / f"folder.{ending}").mkdir()
    (tmp_path / "LICENSE.txt").write_text("MIT")
    one, two = write_npz(tmp_path / "one.npz"), write_deepmimic(tmp_path / "below" / "two.txt", [deepmimic_frame()] * 5)
    assert sorted(find_clips(tmp_path)) == sorted([one, two])
    assert find_clips(one) == [one]


@pytest.mark.parametrize("place", ["", "nowhere"])
def test_a_place_without_motions_is_refused(tmp_path, place):
    with pytest.raises(MotionError, match=r"a folder without motions|neither a file nor a folder"):
        find_clips(tmp_path / place)
