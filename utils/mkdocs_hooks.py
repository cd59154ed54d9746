"""Hooks of mkdocs.yml: pages of docs/ link to files of the repository beside it, which the site takes along."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\(([^)\s#]+)")
OUTSIDE = re.compile(r"\]\(\.\./([^)\s#]+)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the files that pages link to outside of docs/, and those that these link to in turn."""
    from mkdocs.structure.files import File

    waiting = [name for page in Path(config.docs_dir).glob("*.md") for name in OUTSIDE.findall(page.read_text("utf-8"))]
    added: set[str] = set()
    while waiting:
        name = waiting.pop()
        path = ROOT / name
        if name in added or not path.is_file():
            continue
        added.add(name)
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
        if path.suffix == ".md":
            links = LINK.findall(re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.S))
            waiting += [
                os.path.normpath(os.path.join(os.path.dirname(name), link)) for link in links if "://" not in link
            ]
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Makes links to the repository's files relative to its top, where on_files has put them."""
    return OUTSIDE.sub(r"](\1", markdown) if "/" not in page.file.src_uri else markdown
