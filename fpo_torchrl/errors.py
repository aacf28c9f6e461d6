"""Errors that users cause or can remedy, each with the exit code of a command that meets it."""

from __future__ import annotations

GOES_ON = "A run that has a checkpoint goes on from it with fpo-train resume=RUN_DIRECTORY"


class UserError(Exception):
    """No mistake of ours: a command prints the message and the advice without a traceback, and exits with the code.

    ``exit_code`` is explained in docs/cluster.md. ``advice`` is for who sees the command fail; what a run records of
    its error is the message alone.
    """

    exit_code = 1
    advice = ""


class ConfigError(UserError, ValueError):
    """A setting is wrong; the message names it, its value and what is allowed."""

    exit_code = 2


class DamagedFileError(ConfigError):
    """A file is not what was written, or not there; the message names it and says what to do."""

    exit_code = 3


class CheckpointError(UserError, RuntimeError):
    """A checkpoint could not be written or read; the message says why and what to do."""

    exit_code = 3


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not what was written."""


class NoLocksError(UserError, RuntimeError):
    """The file system has no locks."""

    exit_code = 3
    advice = ", but several processes share this directory. Choose one on another"


class NonFiniteError(UserError, RuntimeError):
    """A number that training depends on is NaN or infinite; the message says which and where."""

    exit_code = 4


class InUseError(UserError, RuntimeError):
    """Another process holds the lock."""

    exit_code = 5


class WorkersError(UserError, RuntimeError):
    """The workers are not there."""


class WorkerLostError(WorkersError):
    """A worker, or the connection to it, is gone."""

    exit_code = 6
    advice = f". The last checkpoint is intact. {GOES_ON}"


class WorkersNotStartedError(WorkersError):
    """The workers, or the cluster that they are to run in, did not start."""

    exit_code = 7
    advice = ". If it repeats, look at the cluster and at what is installed there"
