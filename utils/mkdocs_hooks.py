"""Hooks of mkdocs.yml: pages of docs/ link to files of the repository beside it, which the site takes along."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = re.compile(r"\]\(\.\./([^)\s#]+)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the files that pages link to outside of docs/, and those that these link to beside them."""
    from mkdocs.structure.files import File

    wanted = {name for page in Path(config.docs_dir).glob("*.md") for name in OUTSIDE.findall(page.read_text("utf-8"))}
    for name in sorted(wanted):
        if (ROOT / name).is_file():
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Makes links to the repository's files relative to its top, where on_files has put them."""
    return OUTSIDE.sub(r"](\1", markdown) if "/" not in page.file.src_uri else markdown
