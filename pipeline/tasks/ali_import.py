"""Known times of phones, such as those of synthetic or hand-labelled speech, as an alignment set like that of any
model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.artifacts.ali import AliHeader, AliWriter, Segment
from pipeline.artifacts.ali_source import Alignment
from pipeline.artifacts.index import load_index
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import DataError
from pipeline.tasks.tiers import GoldTiers, Tiers


def import_times(data_dir: str | Path, lang: Lang, out_dir: str | Path, frame_shift: float) -> int:
    """Writes the gold phone times of a data directory as an AliSet over one pdf per phone state.

    The states of a phone share its frames evenly; what no phone covers is silence.

    Returns:
        number of utterances.
    Raises:
        DataError: no gold times, or a phone that the lang lacks.
    """
    tree = monophone_tree(lang.phones, lang.topo)
    transitions = TransitionModel(tree, lang.topo)
    first_state = {int(phone): i for i, phone in enumerate(transitions.phone) if transitions.state[i] == 0}
    header = AliHeader(lang.topo.id, tree.id, lang.id, frame_shift, 0.0, str(data_dir))
    index, tiers = load_index(data_dir), GoldTiers(data_dir)
    with AliWriter(out_dir, header, tree, lang.topo, transitions, lang.words) as writer:
        for cut_id, tier in tiers.items():
            where = f"{data_dir}: {cut_id}"
            missing = [p.symbol for p in tier.phones if p.symbol not in lang.phones]
            if missing or not tier.phones:
                raise DataError(
                    f"{where}: " + (f"phone {missing[0]!r} is not in the lang" if missing else "no phone has a time")
                )
            tids = _transition_ids(tier, lang, first_state, transitions, frame_shift)
            writer.write(
                Alignment(
                    cut_id,
                    tids,
                    0.0,
                    _words(
                        tier.words,
                        lang.word_ids(index.text(int(index.positions([cut_id])[0])), where),
                        len(tids),
                        frame_shift,
                    ),
                )
            )
    return len(tiers)


def _transition_ids(
    tier: Tiers, lang: Lang, first_state: dict[int, int], transitions: TransitionModel, shift: float
) -> np.ndarray:
    """(T,) int32; frame i belongs to what is spoken in its middle."""
    num_frames = max(1, int(round(tier.duration / shift)))
    middles = (np.arange(num_frames) + 0.5) * shift
    owner = np.full(num_frames, -1)
    for number, segment in enumerate(tier.phones):
        if segment.symbol != "SIL":
            owner[(middles >= segment.start) & (middles < segment.end)] = number
    bounds = np.concatenate([[0], np.nonzero(np.diff(owner))[0] + 1, [num_frames]])
    tids = np.empty(num_frames, dtype=np.int32)
    for begin, end in zip(bounds[:-1], bounds[1:]):
        number = owner[begin]
        phone = lang.silence_id if number < 0 else lang.phones.id(tier.phones[number].symbol)
        states = int(transitions.num_states_of[phone])
        state = (np.arange(end - begin) * states) // (end - begin)
        leaves = np.append(state[1:] != state[:-1], True)
        state[-1] = states - 1  # a phone shorter than its HMM ends all the same
        tids[begin:end] = 2 * (first_state[phone] + state) + leaves
    return tids


def _words(segments: Sequence[Segment], ids: list[int], num_frames: int, shift: float) -> np.ndarray:
    """(W, 2) word ids and first frames; those of the transcript without times of words."""
    if len(segments) != len(ids):
        return np.stack([np.array(ids, dtype=np.int32), np.zeros(len(ids), dtype=np.int32)], axis=1)
    first = [min(int(np.ceil(w.start / shift - 0.5)), num_frames - 1) for w in segments]
    return np.stack([np.array(ids, dtype=np.int32), np.array(first, dtype=np.int32)], axis=1)
