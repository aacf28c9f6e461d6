"""metrics.csv through interruptions, and the loggers beside it."""

from __future__ import annotations

import csv
import math
import sys

import pytest

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.loggers import LOGGERS, MetricsCSV, build_logger, check_logger, read_metrics, wandb_id


def lines(path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


@pytest.fixture
def written(path):
    """Three rows, of 10, 20 and 30 frames."""
    log = MetricsCSV(path)
    for frames in (10, 20, 30):
        log.log({"frames": frames, "return": frames / 3})
    return path


def reopened(path) -> MetricsCSV:
    log = MetricsCSV(path)
    log.read()
    return log


def test_a_row_is_on_disk_at_once_and_floats_come_back_exactly(written):
    assert lines(written) == [["frames", "return"], ["10", repr(10 / 3)], ["20", repr(20 / 3)], ["30", "10"]]
    assert read_metrics(written)[1] == {"frames": 20.0, "return": 20 / 3}


def test_nan_is_an_empty_cell(path):
    MetricsCSV(path).log({"frames": 1, "return": math.nan})
    assert lines(path)[1] == ["1", ""]
    assert read_metrics(path) == [{"frames": 1.0}]


def test_a_new_column_widens_the_header_and_keeps_the_rows(written):
    log = reopened(written)
    log.log({"frames": 40, "eval": 5.0, "return": 1.0})
    log.log({"frames": 50, "return": 2.0})
    assert lines(written)[0] == ["frames", "return", "eval"]
    assert lines(written)[3:] == [["30", "10", ""], ["40", "1", "5"], ["50", "2", ""]]


def test_truncate_drops_the_rows_after_a_checkpoint(written):
    log = reopened(written)
    log.truncate(20)
    log.log({"frames": 30, "return": -1.0})
    assert [row["frames"] for row in read_metrics(written)] == [10, 20, 30]
    assert read_metrics(written)[-1]["return"] == -1.0


@pytest.mark.parametrize("cut", [1, 3, len("30,10")], ids=["newline", "in a number", "in the first cell"])
def test_a_last_line_cut_short_is_dropped_and_does_not_spoil_the_next(written, cut):
    text = written.read_text().replace("\r\n", "\n")
    written.write_text(text[:-cut])
    assert [row["frames"] for row in read_metrics(written)] == [10, 20]
    log = reopened(written)
    log.truncate(100)
    log.log({"frames": 30, "return": 7.0})
    assert [(row["frames"], row["return"]) for row in read_metrics(written)] == [(10, 10 / 3), (20, 20 / 3), (30, 7.0)]


def test_an_empty_file_is_no_obstacle(path):
    path.write_text("")
    log = reopened(path)
    log.truncate(0)
    log.log({"frames": 1})
    assert read_metrics(path) == [{"frames": 1.0}]


def test_no_logger_unless_asked(tmp_path):
    assert build_logger(None, tmp_path, name="run", project="p", offline=True) is None


def test_tensorboard_writes_events_that_tensorboard_reads(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = build_logger("tensorboard", tmp_path, name="run", project="p", offline=True)
    for step in (64, 128):
        logger.log({"frames": step, "return": step / 2})
    logger.flush()
    (events,) = tmp_path.rglob("events.out.*")
    reader = event_accumulator.EventAccumulator(str(events.parent)).Reload()
    assert [(event.step, event.value) for event in reader.Scalars("return")] == [(64, 32.0), (128, 64.0)]


def test_a_run_keeps_its_own_id_at_wandb(tmp_path):
    first = wandb_id(tmp_path / "a" / "0")
    assert wandb_id(tmp_path / "a" / "0") == first
    assert wandb_id(tmp_path / "b" / "0") != first  # the same job number of another sweep


@pytest.mark.parametrize("kind", LOGGERS)
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, kind):
    monkeypatch.delitem(sys.modules, LOGGERS[kind], raising=False)
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(ConfigError, match=rf"logger={kind} needs .*{kind}.*: pip install fpo-torchrl\[{kind}\]"):
        check_logger(kind)


def test_no_logger_needs_no_package():
    check_logger(None)
