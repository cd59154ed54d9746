"""Where a corpus stands: the one rule for all recipes.

1. the folder given with --corpus-root;
2. ../shared/corpora/NAME beside the checkout;
3. download/NAME in the recipe's folder, filled by a download if the corpus has a public address.
"""

from __future__ import annotations

import http.client
import logging
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.base import cli
from pipeline.base.errors import DataError
from pipeline.base.files import BROKEN_GZIP

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[1]
DOWNLOAD_DIR = Path("download")
_TIMEOUT = 60  # seconds without an answer


def find_corpus(
    name: str,
    given: Path | None,
    is_corpus: Callable[[Path], bool],
    url: str | None = None,
    shared: Path = REPOSITORY.parent / "shared" / "corpora",
    download_dir: Path = DOWNLOAD_DIR,
    layout: str = "",
) -> Path:
    """Find the folder of a corpus, downloading it as the last resort.

    Args:
        name: name of its folder under the places above.
        given: folder from the command line; nothing else is tried if there is one.
        is_corpus: tells whether a folder holds the corpus; its subfolders are tried as well, since archives add a
            level.
        url: address of a .tar.gz archive; None if the corpus has no public one.
        shared, download_dir: the places of points 2 and 3.
        layout: what the folder holds, for the error.
    Raises:
        DataError: names the places tried and how to give another one.
    """
    places = [given] if given is not None else [shared / name, download_dir / name]
    for place in places:
        found = _look(place, is_corpus)
        if found is not None:
            logger.info("%s: found in %s", name, found)
            return found
    tried = ", ".join(str(place) for place in places)
    if given is not None or url is None:
        source = f", which holds {layout}" if layout else ""
        source += "" if url is None else f"; its public address is {url}"
        raise DataError(f"corpus {name} not found in {tried}: name its folder with --corpus-root{source}")
    target = download_dir / name
    if target.exists():
        raise DataError(f"{target}: is not the corpus {name}, or not all of it; remove it, or use --corpus-root")
    partial = _download(name, url, target)
    if _look(partial, is_corpus) is None:
        shutil.rmtree(partial)
        raise DataError(f"{url}: the archive does not hold the corpus {name}; name its folder with --corpus-root")
    partial.rename(target)
    found = _look(target, is_corpus)
    assert found is not None, target
    return found


def preparation(
    command: str,
    text: str | None,
    options: type,
    find: Callable[[Path | None], Path],
    prepare: Callable[[Path, Path, Path, Any], dict],
    holds: str,
) -> click.Command:
    """The command OUT [--corpus-root DIR] of a preparation.

    Args:
        command: its name in stamps. text: what --help says.
        options: dataclass of its options.
        find: folder of the corpus from that of the command line, by ``find_corpus``.
        prepare: (folder of the corpus, where to write, where that will stand, options) -> facts for the stamp.
        holds: about the folder that --corpus-root names.
    """

    @cli.command(help=text)
    @click.argument("out", type=click.Path(path_type=Path))
    @click.option("--corpus-root", type=click.Path(path_type=Path), help=holds)
    @cli.options(options)
    @cli.step_options
    def main(out: Path, corpus_root: Path | None, config: Any, overwrite: bool) -> None:
        with cli.main_guard():
            root = find(corpus_root)
        cli.run_step(
            out,
            inputs={"corpus": root},
            options=config,
            action=lambda tmp: prepare(root, tmp, out, config),
            overwrite=overwrite,
            resume=False,
            command=command,
        )

    return main


def _look(place: Path, is_corpus: Callable[[Path], bool]) -> Path | None:
    if not place.is_dir():
        return None
    below = sorted(path for path in place.iterdir() if path.is_dir())
    return next((path for path in [place, *below] if is_corpus(path)), None)


def _download(name: str, url: str, target: Path) -> Path:
    """Fetch and unpack an archive into a folder beside ``target``, which it returns; nothing is left unless all of it
    arrived.
    """
    logger.info("%s: downloading %s", name, url)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    archive = partial / "archive.tar.gz"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, open(archive, "wb") as out:
            shutil.copyfileobj(response, out)
        with tarfile.open(archive) as tar:
            _extract(tar, partial)
    except (urllib.error.URLError, http.client.HTTPException, OSError, *BROKEN_GZIP, tarfile.TarError) as err:
        shutil.rmtree(partial, ignore_errors=True)
        raise DataError(
            f"corpus {name}: download of {url} failed ({err}); fetch it by hand and use --corpus-root"
        ) from None
    archive.unlink()
    return partial


def _extract(tar: tarfile.TarFile, target: Path) -> None:
    """Unpack plain files and folders only, none of them outside ``target``."""
    root = target.resolve()
    for member in tar.getmembers():
        path = (root / member.name).resolve()
        if not path.is_relative_to(root) or not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"refusing archive member {member.name!r}")
        tar.extract(member, target)
    assert tar.fileobj is not None
    while tar.fileobj.read(1 << 20):
        pass  # behind the last member: only at its end gzip compares its check sum
