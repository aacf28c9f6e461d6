"""Where the study of a search is: in its directory or a database, which it remembers."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("optuna")

from optuna.storages import InMemoryStorage
from searching import SPACE, child, read_trials  # noqa: F401

from fpo_torchrl.errors import ConfigError, DamagedFileError
from fpo_torchrl.sweep import search
from fpo_torchrl.sweep.search import Search


def test_a_study_in_a_database_is_found_again_without_naming_it(tmp_path):
    Search(tmp_path / "s", SPACE, storage=f"sqlite:///{tmp_path}/studies.db").run(2)
    again = Search(tmp_path / "s")
    again.run(0)
    assert (len(again.trials()), len(read_trials(tmp_path / "s"))) == (2, 2)


def test_another_database_is_refused(tmp_path):
    Search(tmp_path / "s", SPACE).run(1)
    with pytest.raises(ConfigError, match=r"--storage sqlite:.*has its study in study\.log"):
        Search(tmp_path / "s", storage=f"sqlite:///{tmp_path}/other.db")
    assert len(read_trials(tmp_path / "s")) == 1
    assert not (tmp_path / "other.db").exists()


def test_a_file_is_the_same_wherever_the_search_goes_on(tmp_path, monkeypatch):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    Search(tmp_path / "s", SPACE, storage="sqlite:///studies.db").run(1)
    monkeypatch.chdir(tmp_path / "b")
    assert len(Search(tmp_path / "s").trials()) == 1
    assert len(Search(tmp_path / "s", storage=f"sqlite:///{tmp_path}/a/studies.db").trials()) == 1
    assert not [*(tmp_path / "b").iterdir()]


def test_of_an_older_version_it_has_to_be_named(tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    Search(tmp_path / "s", SPACE, storage=url).run(1)
    saved = json.loads((tmp_path / "s" / "search.json").read_text())
    assert saved.pop("storage") == url
    (tmp_path / "s" / "search.json").write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match="has its study in a database: give it as --storage"):
        Search(tmp_path / "s")
    assert len(Search(tmp_path / "s", storage=url).trials()) == 1


def test_a_password_is_not_written_down(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "opened", lambda url: InMemoryStorage())
    url = "postgresql://me:secret@host/studies"
    Search(tmp_path / "s", SPACE, storage=url)
    assert "secret" not in (tmp_path / "s" / "search.json").read_text()
    with pytest.raises(ConfigError, match=r"me:\*\*\*@host/studies: give --storage, with the password"):
        Search(tmp_path / "s")
    Search(tmp_path / "s", storage=url)


def test_a_line_that_a_full_disk_cut_off_is_dropped(tmp_path):
    Search(tmp_path / "s", SPACE).run(1)
    journal = tmp_path / "s" / "study.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 0, "wo')
    again = Search(tmp_path / "s")
    again.run(2)
    assert len(Search(tmp_path / "s").trials()) == 2
    assert journal.read_bytes().startswith(whole + b'{"op_code"')


def test_other_damage_is_told_with_its_line(tmp_path):
    Search(tmp_path / "s", SPACE).run(1)
    journal = tmp_path / "s" / "study.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], b'{"op_code": 0, "wo' + lines[2], *lines[3:]]))
    with pytest.raises(DamagedFileError, match=r"study\.log is damaged .* remove its line 3"):
        Search(tmp_path / "s")
    assert not [*(tmp_path / "s").glob("study.log.*")]  # nor a lock left behind
