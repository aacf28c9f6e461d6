"""A search with Optuna: any number of processes work on one study, and a trial is a mean over seeds."""

from __future__ import annotations

import contextlib
import csv
import uuid
import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
import numpy as np
import optuna
from hydra.errors import HydraException
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from optuna.visualization.matplotlib import plot_optimization_history, plot_slice
from sqlalchemy.engine import URL

from fpo_torchrl.errors import ConfigError
from fpo_torchrl.files import is_held, locked, make_directory, replacing, write_json
from fpo_torchrl.preemption import Preempted
from fpo_torchrl.runs.auto_resume import final_return
from fpo_torchrl.runs.hold import LOCK
from fpo_torchrl.sweep.manifest import Entry, Sweep
from fpo_torchrl.sweep.progress import Progress
from fpo_torchrl.sweep.space import SearchSpace
from fpo_torchrl.sweep.storage import (
    FILE,
    JOURNAL,
    UNKNOWN,
    SavedSearch,
    absolute,
    is_search,
    mend_journal,
    opened,
    saved_search,
    without_password,
)
from fpo_torchrl.sweep.workers import Workers, account_of, has_diverged, log_of, state_of


class Search:
    """An Optuna study in a directory, with the runs of its trials beside it.

    The objective is the mean over seeds of the final return. A trial that is stopped or killed is put back with the
    same values, and so goes on from its checkpoints. One with a run that diverged counts as pruned, from which the
    sampler learns; one with a run that failed in another way is recorded as failed, which tells the sampler nothing.

    Args:
        directory: of the search; runs, study and tables are in it.
        space: what is searched; None: as before.
        storage: URL of a database for the study; default the one it is in, and of a new one a journal in the directory,
            for processes that share it.
        pruner: stops trials that are behind; default Optuna's median pruner.

    Raises:
        ConfigError, HydraException: without a space, with another one than before or one in which nothing is right, or
            if the storage cannot be opened, before anything is written.
        ImportError: without Optuna.
    """

    def __init__(
        self,
        directory: Path,
        space: SearchSpace | None = None,
        *,
        storage: str | None = None,
        pruner: optuna.pruners.BasePruner | None = None,
    ) -> None:
        self.sweep = Sweep(directory)
        self.directory = directory
        if not is_search(directory):
            self._check_new(space)
        url = absolute(storage) if storage is not None else None
        if is_search(directory):
            self._check_storage(url)
        database = opened(url.render_as_string(hide_password=False)) if url is not None else None
        self.space, study_name, saved = self._same_search(space, url)
        database = opened(saved) if database is None and saved is not None else database
        self.distributions = self.space.distributions()
        self.workers = Workers(len(self.space.seeds))
        journal = directory / JOURNAL
        mend_journal(journal)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(constant_liar=True)  # other processes' trials are not drawn again
        self.study = optuna.create_study(
            storage=database or JournalStorage(JournalFileBackend(str(journal))),
            study_name=study_name,
            sampler=sampler,
            pruner=pruner or optuna.pruners.MedianPruner(),
            direction="maximize",
            load_if_exists=True,
        )

    def _check_new(self, space: SearchSpace | None) -> None:
        if space is None or not space.distributions():
            raise ConfigError(
                f"{self.directory} holds no search: give settings to choose from, such as "
                "optim.lr=choice(1e-3,1e-4) or optim.lr=tag(log,interval(1e-5,1e-2))"
            )
        space.check()

    def _check_storage(self, url: URL | None) -> None:
        """Refuse to go on in another database than before, or without the one that is not known."""
        saved, given = saved_search(self.directory).storage, without_password(url)
        if url is not None and saved not in (given, UNKNOWN):
            raise ConfigError(f"--storage {given}: {self.directory} has its study in {saved or JOURNAL}")
        if url is None and saved == UNKNOWN and not (self.directory / JOURNAL).is_file():
            raise ConfigError(f"{self.directory} has its study in a database: give it as --storage")
        if url is None and saved is not None and "***" in saved:
            raise ConfigError(f"{self.directory} has its study in {saved}: give --storage, with the password")

    def _same_search(self, space: SearchSpace | None, url: URL | None) -> SavedSearch:
        """What is searched, the study's name, drawn once, since searches may share a database, and where it is."""
        if space is not None and not is_search(self.directory):
            make_directory(self.directory)
            with locked(self.directory / LOCK):  # of processes that begin together, the first decides
                if not is_search(self.directory):
                    name = f"{self.directory.resolve().name}-{uuid.uuid4().hex[:8]}"
                    write_json(
                        self.directory / FILE, {"study_name": name, "storage": without_password(url), **asdict(space)}
                    )
        self._check_storage(url)
        saved = saved_search(self.directory)
        if space is not None and space != saved.space:
            raise ConfigError(
                f"{self.directory} holds a search for {' '.join(saved.space.overrides)} over the seeds "
                f"{saved.space.seeds}: choose another directory for other settings"
            )
        return saved._replace(storage=None) if saved.storage == UNKNOWN else saved

    def run(self, num_trials: int) -> None:
        """Work on trials until the study has ``num_trials``, those of other processes included.

        Raises:
            Preempted: on a signal, after the trial was put back.
        """
        (self.directory / "trials").mkdir(exist_ok=True)
        while True:
            with contextlib.ExitStack() as held:
                with locked(self.directory / LOCK):
                    self._put_back_abandoned()
                    self.write_table()
                    if sum(trial.state != TrialState.WAITING for trial in self.trials()) >= num_trials:
                        return self.draw()
                    trial = self.study.ask(self.distributions)
                    held.enter_context(locked(self._claim(trial.number), wait=False))
                self._run_trial(trial)

    def trials(self) -> list[FrozenTrial]:
        """The trials without those that were put back."""
        every = self.study.get_trials()
        continued = {trial.user_attrs.get("continues") for trial in every}
        return [trial for trial in every if trial.number not in continued]

    def _claim(self, number: int) -> Path:
        return self.directory / "trials" / f"{number}.lock"

    def _put_back_abandoned(self) -> None:
        """Put the trials back whose process was killed."""
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            if not is_held(self._claim(trial.number)):
                self._put_back(trial)

    def _put_back(self, trial: Trial | FrozenTrial) -> None:
        self.study.enqueue_trial(trial.params, user_attrs={"continues": trial.number})
        self.study.tell(trial.number, state=TrialState.FAIL)

    def _run_trial(self, trial: Trial) -> None:
        try:
            entries = self.sweep.add(self.space.points(trial.params))
        except (ConfigError, HydraException) as error:
            self._fail(trial, f"{type(error).__name__}: {error}")
            if not self.sweep.exists:  # nothing says yet that other values are right
                raise
            return
        run_dirs = [self.sweep.run_dir(entry) for entry in entries]
        progress = Progress(run_dirs, entries[0].total_frames)
        behind = False

        def is_decided() -> bool:
            nonlocal behind
            new = progress.new()
            for frames, value in new.items():
                trial.report(value, frames)
            behind = behind or (bool(new) and trial.should_prune())
            return behind or any(map(has_diverged, run_dirs))

        try:
            self.workers.run_all(entries, self._train, stop_when=is_decided)
        except Preempted:
            self._put_back(trial)
            raise
        errors = {run_dir: self._error(entry) for run_dir, entry in zip(run_dirs, entries, strict=True)}
        diverged = [error for run_dir, error in errors.items() if error is not None and has_diverged(run_dir)]
        failed = [error for error in errors.values() if error is not None]
        if diverged:
            self._fail(trial, "; ".join(diverged), TrialState.PRUNED)
        elif failed and behind:
            self.study.tell(trial, state=TrialState.PRUNED)
        elif failed:
            self._fail(trial, "; ".join(failed))
        else:
            self.study.tell(trial, fmean(final_return(run_dir) for run_dir in run_dirs))

    def _fail(self, trial: Trial, error: str, state: TrialState = TrialState.FAIL) -> None:
        trial.set_user_attr("error", error)
        self.study.tell(trial, state=state)

    def _error(self, entry: Entry) -> str | None:
        """Why a run is not done; None if it is."""
        run_dir = self.sweep.run_dir(entry)
        if state_of(run_dir, entry.total_frames) == "done":
            return None
        return account_of(run_dir).get("error") or f"see {log_of(run_dir)}"

    def _train(self, entry: Entry) -> str:
        """Train one run, or wait for another trial of the same values that does."""
        run_dir = self.sweep.run_dir(entry)

        def has_ended() -> bool:
            return has_diverged(run_dir) or state_of(run_dir, entry.total_frames) == "done"

        self.workers.train_or_wait(entry.overrides, run_dir, has_ended=has_ended)
        return self._error(entry) or "done"

    def summary(self) -> str:
        """How many trials ended how, and the best of them."""
        counts = Counter(trial.state.name.lower() for trial in self.trials())
        lines = [f"{sum(counts.values())} trials: " + ", ".join(f"{n} {state}" for state, n in counts.items())]
        if counts["complete"]:
            best = self.study.best_trial
            values = " ".join(f"{name}={value}" for name, value in best.params.items())
            lines.append(f"best: mean return {best.value:.4g} of trial {best.number}, {values}")
        return "\n".join([*lines, f"  {self.directory / 'trials.csv'}"])

    def write_table(self) -> None:
        """Write ``trials.csv``."""
        names = list(self.distributions)
        with replacing(self.directory / "trials.csv") as file:
            writer = csv.writer(file)
            writer.writerow(["number", "state", "value", *names, "error"])
            for trial in self.trials():
                params = [trial.params.get(name) for name in names]
                writer.writerow([trial.number, trial.state.name, trial.value, *params, trial.user_attrs.get("error")])

    def draw(self) -> None:
        """Write ``history.png`` and ``slice.png``, values over trials and over settings, once there is a value."""
        if not any(trial.state == TrialState.COMPLETE for trial in self.study.get_trials()):
            return
        for name, plot in {"history": plot_optimization_history, "slice": plot_slice}.items():
            with warnings.catch_warnings(), plt.rc_context():  # the plots set a style for all that come after
                warnings.simplefilter("ignore")  # that it is experimental, and that one value makes no axis
                figure = np.ravel(plot(self.study))[0].figure
            figure.savefig(self.directory / f"{name}.png", bbox_inches="tight")
            plt.close(figure)
