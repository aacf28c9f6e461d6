"""The authors' JAX code as a contender: a client of ``reference_worker.py``."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from timing import Seconds, Work


class Reference:
    """A process with the authors' code, which does one unit of work at a time.

    Args:
        checkout: of github.com/akanazawa/fpo.
        python: interpreter with jax, jax_dataclasses and playground.
        threads (int): cores it may use; 0 for all.

    Raises:
        RuntimeError: from the work, with what the process reported.
    """

    def __init__(self, checkout: Path, python: str, *, threads: int) -> None:
        command = [python, str(Path(__file__).with_name("reference_worker.py")), str(checkout.resolve()), str(threads)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},  # JAX would take three quarters of a GPU
        )

    def work(self, kind: str, *, turn_s: float = 0.05, **request: Any) -> Work:
        """One unit of ``"sample"``, ``"update"`` or ``"iteration"``; the first call compiles it."""
        line = json.dumps({"work": kind, "turn_s": turn_s, **request}) + "\n"

        def ask() -> Seconds:
            requests, answers = self.process.stdin, self.process.stdout
            assert requests is not None
            assert answers is not None
            requests.write(line)
            requests.flush()
            answer = json.loads(answers.readline() or '{"error": "the process ended"}')
            if "error" in answer:
                raise RuntimeError(f"the authors' code failed on {kind}: {answer['error']}")
            return Seconds(**answer)

        return ask

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait()
