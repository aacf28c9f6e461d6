"""Files that are whole or absent, whenever the process is killed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` so that the file is whole or absent."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` so that a process killed meanwhile leaves the file as it was."""
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, path)
