"""What the runs of a trial are worth while they train."""

from __future__ import annotations

import math

from fpo_torchrl.sweep import progress as progress_module
from fpo_torchrl.sweep.progress import Progress, intermediate_values


def test_intermediate_values_by_hand(tmp_path):
    for name, last in (("a", 8), ("b", 5)):
        (tmp_path / name).mkdir()
        rows = [f"{100 * i},{'' if i < 3 else i}\n" for i in range(1, last + 1)]
        (tmp_path / name / "metrics.csv").write_text("frames,return\n" + "".join(rows))
    runs = [tmp_path / "a", tmp_path / "b"]
    # at 100 and 200 no episode is over: the first value after them counts
    assert intermediate_values(runs, 1000) == {100: 3.0, 200: 3.0, 300: 3.0, 400: 4.0, 500: 5.0}
    assert intermediate_values([*runs, tmp_path / "absent"], 1000) == {}
    assert all(math.isfinite(value) for value in intermediate_values(runs, 1000).values())


def test_progress_is_told_once_and_only_files_that_grew_are_read(tmp_path, monkeypatch):
    path, reads = tmp_path / "metrics.csv", []
    read = progress_module.read_metrics
    monkeypatch.setattr(progress_module, "read_metrics", lambda path: reads.append(path) or read(path))
    progress = Progress([tmp_path], 100)
    assert progress.new() == {}
    path.write_text("frames,return\n10,1\n20,2\n")
    assert progress.new() == {10: 1.0, 20: 2.0}
    assert progress.new() == progress.new() == {}
    assert len(reads) == 1
    with path.open("a") as file:
        file.write("30,3\n")
    assert progress.new() == {30: 3.0}
