"""What ``fpo-export`` says where the policy that it writes is not the one that earned the return."""

from __future__ import annotations

import json

import pytest

from fpo_torchrl.errors import ConfigError, DamagedFileError
from fpo_torchrl.export.command import doubt_of_zero_noise, export_run


def row(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


@pytest.mark.parametrize(
    ("random", "zero", "words"),
    [
        (row(773.0, 700.0, 800.0), row(0.0, 0.0, 0.0), "earned 0.00 from zero start noise and 773.0 from random one"),
        (row(-100.0, -120.0, -80.0), row(-150.0, -180.0, -121.0), "earned -150.0 from zero"),
        (row(-100.0, -120.0, -80.0), row(-150.0, -180.0, -119.0), None),
        (row(900.0, 850.0, 950.0), row(940.0, 930.0, 950.0), None),
    ],
)
def test_it_doubts_zero_noise_that_earns_clearly_less(random, zero, words, tmp_path):
    path = tmp_path / "evaluation.json"
    assert doubt_of_zero_noise(path, 64) is None
    path.write_text(json.dumps({"random": random, "zero": zero, "frames": 64}))
    doubt = doubt_of_zero_noise(path, 64)
    assert doubt is None if words is None else words in str(doubt)
    assert doubt_of_zero_noise(path, 32) is None  # it was of another policy


def test_a_damaged_evaluation_is_named(tmp_path):
    (tmp_path / "evaluation.json").write_text(json.dumps({"random": row(1.0, 1.0, 1.0)}))
    with pytest.raises(DamagedFileError, match=r"evaluation.json is damaged \(KeyError: 'zero'\)"):
        doubt_of_zero_noise(tmp_path / "evaluation.json", 64)


@pytest.mark.parametrize("wrong", [{"format": "onx"}, {"noise": "random"}])
def test_names_that_are_unknown(wrong, tmp_path):
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigError, match=rf"{name} must be one of .*, got '{value}'"):
        export_run(tmp_path, **wrong)
