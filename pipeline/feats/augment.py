"""Speed perturbation of a data directory; gold times are scaled with the audio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.artifacts.corpus import as_cut, checked_cuts, save_data_dir
from pipeline.base.errors import ConfigError


def perturb_speed(data_in: Path, work_dir: Path, factors: Sequence[float]) -> dict[str, int]:
    """Write a data directory with each utterance once per factor; cf. Kaldi utils/data/perturb_data_dir_speed.sh.

    A copy at factor f lasts 1/f as long and has pitch and formants moved by f, hence another speaker: utterance ``u``
    of speaker ``s`` becomes ``u_sp0.9`` of ``s_sp0.9``. Factor 1 leaves an utterance as it is. The audio is changed
    when it is read, by lhotse.

    Args:
        data_in: data directory.
        work_dir: where the new one is written.
        factors: speeds, each once, e.g. 0.9, 1.0, 1.1.
    Returns:
        facts for the stamp.
    """
    if not factors or len(set(factors)) != len(factors) or not all(0.5 <= factor <= 2 for factor in factors):
        raise ConfigError(f"--factors: {list(factors)} are not different speeds from 0.5 to 2")
    with checked_cuts(data_in, work_dir) as cuts:
        copies = (new for i in range(len(cuts)) for new in _copies(as_cut(cuts[i]), factors))
        return {"utterances": save_data_dir(work_dir, copies)}


def _copies(cut, factors: Sequence[float]) -> Iterator:
    from lhotse.utils import fastcopy

    for factor in factors:
        if factor == 1:
            yield fastcopy(cut, features=None)
            continue
        new = fastcopy(cut, features=None).perturb_speed(factor)
        supervision = new.supervisions[0]
        yield fastcopy(new, supervisions=[fastcopy(supervision, speaker=f"{supervision.speaker}_sp{factor}")])
