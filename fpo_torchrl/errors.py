"""Errors that several parts raise."""

from __future__ import annotations


class ConfigError(ValueError):
    """A setting is wrong; the message names it, its value and what is allowed."""


class DamagedFileError(ConfigError):
    """A file is not what was written, or not there; the message names it and says what to do."""


class NonFiniteError(RuntimeError):
    """A number that training depends on is NaN or infinite; the message says which and where."""
