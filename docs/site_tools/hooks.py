"""What MkDocs needs to build the site from pages that also read well in the repository."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)#\s]+)")
"""Where a Markdown link to a file leads."""
UP = re.compile(r"(?<=\]\()\.\./(?=benchmarks/|examples/)")
"""What leads from a page in docs/ to the folders beside it."""


def on_files(files: Files, config: Any) -> Files:
    """Take the results and examples that pages link to, and what those link to, into the site."""
    root = Path(config["config_file_path"]).parent
    pages = [*files.documentation_pages()]
    while pages:
        page = pages.pop()
        for link in LINK.findall(UP.sub("", page.content_string)):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page.src_uri), link))
            if path.startswith(("benchmarks/", "examples/")) and files.get_file_from_path(path) is None:
                found = File.generated(config, path, abs_src_path=str(root / path))
                files.append(found)
                pages += [found] if found.is_documentation_page() else []
    return files


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Lead links to where the site has those files: beside the pages."""
    return UP.sub("", markdown)
