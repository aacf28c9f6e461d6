"""Errors of the command-line tools: one message that says what to do, and a non-zero exit."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import re
import shlex
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from fpo_torchrl.checks import closest
from fpo_torchrl.errors import GOES_ON, CheckpointError, ConfigError, UserError
from fpo_torchrl.files import make_directory
from fpo_torchrl.preemption import Preempted, ending_process
from fpo_torchrl.runs.directory import has_checkpoint
from fpo_torchrl.runs.settings import flatten
from fpo_torchrl.text import drop_output, output_is_closed
from fpo_torchrl.video import VIDEO_WRITERS, load_encoder

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}
"""The errors of a file system that is full or cannot be written to."""
RUN_FILES = (
    *("config.yaml", "provenance.json", "metrics.csv", "learning_curve.png", "evaluation.json", "rollout.gif"),
    "measures.json",
)
"""What other commands read or show of a run, which no other file may replace."""
EXIT_PREEMPTED, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 75, 130, 141
"""Exit codes of what is no error; 75 is EX_TEMPFAIL of sysexits.h, try again, and 141 a shell's for SIGPIPE."""


@contextlib.contextmanager
def friendly_errors() -> Iterator[None]:
    """Turn the errors that users cause into messages, and exit with the code of :mod:`fpo_torchrl.errors`.

    A run that stopped on a signal exits with 75, on Ctrl-C with 130: nothing is wrong, and it can go on.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # lets Hydra's own errors reach this place
    with contextlib.suppress(FileNotFoundError):  # the directory may be gone
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)  # where users have modules of their own; last, so that none hides an installed one
    try:
        with ending_process():
            yield
    except UserError as error:
        fail(f"{error}{error.advice}", error.exit_code)
    except (HydraException, OmegaConfBaseException) as error:
        fail(describe(error), ConfigError.exit_code)
    except ValueError as error:
        if "Config group override" not in str(error):  # what Hydra says to normalizer=null
            raise
        fail(f"{error}; give the name of an option: fpo-train --help lists them", ConfigError.exit_code)
    except BrokenPipeError:
        if not output_is_closed():  # another pipe broke, to a process of a logger's or an encoder's
            raise
        drop_output()
        sys.exit(EXIT_BROKEN_PIPE)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        fail(f"could not write: {error}. Make room or give write access. {GOES_ON}", CheckpointError.exit_code)
    except Preempted as stopped:
        with contextlib.suppress(OSError):  # the terminal may be closed
            print(
                f"{stopped}: stopped, and nothing is lost; {how_to_go_on(stopped.directory)} goes on", file=sys.stderr
            )
        sys.exit(EXIT_INTERRUPTED if stopped.signal == signal.SIGINT else EXIT_PREEMPTED)
    except KeyboardInterrupt:
        fail(f"interrupted. {GOES_ON}", EXIT_INTERRUPTED)


def quoted(value: Path | str) -> str:
    """A path or another text as the value of a setting, whatever characters it has."""
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def how_to_go_on(run_dir: Path | None) -> str:
    """The command that continues what stopped in a directory of one run or of several seeds; None stands for a sweep.

    >>> how_to_go_on(None)
    'the same command'
    """
    if run_dir is None:
        return "the same command"
    if not any(map(has_checkpoint, (run_dir, *run_dir.glob("seed*")))):
        return "the same command with resume=auto"
    is_plain = re.fullmatch(r"[\w./-]+", str(run_dir))
    return "fpo-train " + (f"resume={run_dir}" if is_plain else shlex.quote(f"resume={quoted(run_dir)}"))


def fail(message: str, code: int) -> None:
    """Print ``message`` and leave with ``code``."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def take_defaults(parser: ArgumentParser, function: Callable[..., Any]) -> ArgumentParser:
    """Give a command's options the defaults of the function behind it, whose arguments have their names.

    >>> take_defaults(ArgumentParser(), lambda runs, seed=3: None).get_default("seed")
    3
    """
    arguments = inspect.signature(function).parameters
    parser.set_defaults(**{name: it.default for name, it in arguments.items() if it.default is not it.empty})
    for option in parser._actions:
        if option.nargs == "+" and isinstance(option.default, str):  # it takes several where the function takes one
            option.default = [option.default]
        if option.help and isinstance(option.default, list | tuple):
            option.help = option.help.replace("%(default)s", " ".join(map(str, option.default)))
    return parser


def output_file(setting: str, path: str | Path, endings: Collection[str]) -> Path:
    """The path of a file that a command is to write, with its directory made.

    Args:
        setting: the option that names it.
        path: what the user gave.
        endings: what it may end in.

    Raises:
        ConfigError: if it has another ending, is a directory, or belongs to a run.
    """
    path = Path(path)
    if path.name in RUN_FILES and (path.parent / "config.yaml").is_file():
        raise ConfigError(f"{setting}={path} would replace a file of the run there: choose another name")
    if path.is_dir():
        raise ConfigError(f"{setting}={path} is a directory; name a file in it that ends in {' or '.join(endings)}")
    if path.suffix not in endings:
        raise ConfigError(f"{setting}={path} must end in {' or '.join(endings)}")
    make_directory(path.parent)
    return path


def video_file(setting: str, path: str | Path) -> Path:
    """As :func:`output_file`, for an animation that can be written here."""
    path = output_file(setting, path, VIDEO_WRITERS)
    if path.suffix == ".mp4":
        load_encoder()
    return path


def meant(name: str, where: str, allowed: Sequence[str], root: Any) -> list[str]:
    """The setting that was likely meant by ``name``: one of those ``allowed`` there, or elsewhere one of that name."""
    here = [f"{where}.{it}".removeprefix(".") for it in closest(name, allowed)]
    found = (key for key, _ in flatten(OmegaConf.to_container(root)) if key.rpartition(".")[2] == name)
    return here or [key for key in found if not key.startswith("hydra.")][:1]


def describe(error: Exception) -> str:
    """What Hydra or OmegaConf objected to, with the settings that would have been accepted."""
    if isinstance(error, OverrideParseException):
        if "=" not in str(error.override):
            return f"{error.override} is no setting=value: write {error.override}=VALUE, without spaces around the ="
        return (
            f"{error.override} cannot be read as setting=value. Text with commas, '=', brackets or "
            "letters beyond ASCII needs quotes of its own inside the shell's: \"run_dir='/my=runs/a'\""
        )
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return f"{error.full_key} has no value: give {error.full_key}=VALUE"
    causes = []
    current: BaseException | None = error
    while current is not None:
        causes.append(current)
        current = current.__cause__
    text = str(error).strip()
    if setting := re.search(r" override \+*task\.(\S+)", text):
        return f"task.{setting[1]}: task is a name, its settings are in env; did you mean env.{setting[1]}?"
    preset = re.search(r"In '(experiment/\S+)': Could not override '((\w+)/[\w/]+)'", text)
    if preset and any(argument.startswith(f"{preset[3]}=") for argument in sys.argv):
        return (
            f"{preset[1]} chooses {preset[2]}, which the {preset[3]} given with it does not have: "
            "take a preset of that algorithm (fpo-train --help lists them), or leave out the experiment"
        )
    for cause in causes:
        node = getattr(cause, "parent_node", None)
        key = getattr(cause, "full_key", None)
        if node is not None and key and "not in" in str(cause):
            allowed = [str(k) for k in node if k != "_target_"]
            where, _, name = key.rpartition(".")
            hint = "".join(f"; did you mean {it}?" for it in meant(name, where, allowed, node._get_root()))
            return f"{key} is not a setting{hint or ';'} allowed in {where or 'the top level'}: {', '.join(allowed)}"
    detail = str(causes[-1]).splitlines()[0] if len(causes) > 1 else ""
    if whole := re.search(r"^Value '(\d+)\.0' of type 'float' could not be converted to Integer", detail):
        detail = f"a whole number is written {int(whole[1]):_}"
    key = getattr(causes[-1], "full_key", None)
    text = re.sub(r"\s*(To append to your|Config search path).*", "", text, flags=re.S)
    where = f"{key}: " if key else ""
    return f"{text}" + (f" ({where}{detail})" if detail and detail not in text else "")
