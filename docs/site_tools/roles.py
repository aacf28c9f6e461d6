"""Docstrings for Markdown: Sphinx roles such as ``:class:`~torch.Tensor` `` and doctests become code."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|data|mod|attr):`~?([^`]+)`")
DOCTEST = re.compile(r"^(>>> (?:.+\n?)+)", flags=re.M)


class Roles(griffe.Extension):
    """Rewrites every docstring that is read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object, if it has one."""
        if obj.docstring is not None:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = DOCTEST.sub(lambda found: f"```pycon\n{found[1].rstrip()}\n```\n", text)
