"""Transition-ids: the one integer per frame that tells phone, HMM-state, pdf-id and whether the state is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass

from pipeline.artifacts.symbols import SymbolTable
from pipeline.artifacts.topo import Topo
from pipeline.artifacts.tree import Tree
from pipeline.base.errors import DataError, MismatchError, naming
from pipeline.base.files import write_json
from pipeline.base.records import STRICT, read_record


@dataclass(frozen=True, config=STRICT)
class _Facts:
    """What transitions.json holds: phone, state, pdf and forward probability of each transition-state."""

    topo_id: str
    tree_id: str
    transition_states: tuple[tuple[str, int, int, float], ...]


class TransitionModel:
    """All (phone, HMM-state, pdf) triples of a tree and a topology, and the probability of leaving each.

    A triple is a transition-state ts; its transition-ids are 2 ts (loop) and 2 ts + 1 (forward). Both are 0-based.
    cf. Kaldi's TransitionModel.

    Attributes:
        phone, state, pdf: (n_ts,) int32.
        forward_prob: (n_ts,) float64 in (0, 1).
        last: (n_ts,) bool, the state is the last one of its phone.
    """

    def __init__(self, tree: Tree, topo: Topo) -> None:
        self.phones: SymbolTable = tree.phones
        self.topo_id, self.tree_id = topo.id, tree.id
        triples, forward, last = [], [], []
        for name in tree.phones:
            if name not in topo.phones:
                continue
            phone, phone_topo = tree.phones.id(name), topo[name]
            for state, pdf_class in enumerate(phone_topo.pdf_classes):
                for pdf in tree.pdfs_of(phone, pdf_class):
                    triples.append((phone, state, pdf))
                    forward.append(phone_topo.forward_prob)
                    last.append(state == phone_topo.num_states - 1)
        table = np.array(triples, dtype=np.int32).reshape(-1, 3)
        self.phone, self.state, self.pdf = table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy()
        self.forward_prob = np.array(forward, dtype=np.float64)
        self.last = np.array(last, dtype=bool)
        self.num_pdfs = tree.num_pdfs
        self._max_state = int(self.state.max(initial=0)) + 1
        self._key = self._keys(self.phone, self.state, self.pdf)
        self._order = np.argsort(self._key)
        self.num_states_of = np.zeros(len(tree.phones), dtype=np.int32)  # by phone id
        np.maximum.at(self.num_states_of, self.phone, self.state + 1)

    @property
    def num_tids(self) -> int:
        return 2 * len(self.phone)

    def _keys(self, phone: npt.NDArray[Any], state: npt.NDArray[Any], pdf: npt.NDArray[Any]) -> npt.NDArray[Any]:
        keys: npt.NDArray[np.int64] = (phone.astype(np.int64) * self._max_state + state) * self.num_pdfs + pdf
        return keys

    def transition_states(
        self, phone: npt.NDArray[Any], state: npt.NDArray[Any], pdf: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Transition-states of many triples; all three arguments (M,) int, the triples must exist."""
        keys = self._keys(np.asarray(phone), np.asarray(state), np.asarray(pdf))
        found: npt.NDArray[np.int64] = self._order[
            np.searchsorted(self._key, keys, sorter=self._order).clip(max=len(self._key) - 1)
        ]
        assert (self._key[found] == keys).all(), "a triple is not of this tree and topology"
        return found.astype(np.int32)

    def log_probs(self) -> npt.NDArray[Any]:
        """(n_tid,) float32 log probability of every transition-id: log(1 - f) for loops, log f for forward."""
        out = np.empty(self.num_tids, dtype=np.float32)
        out[0::2], out[1::2] = np.log1p(-self.forward_prob), np.log(self.forward_prob)
        return out

    def tid_pdf(self) -> npt.NDArray[Any]:
        """(n_tid,) int32, the pdf-id that each transition-id's state emits."""
        return np.repeat(self.pdf, 2)

    def tid_phone(self) -> npt.NDArray[Any]:
        """(n_tid,) int32 phone ids."""
        return np.repeat(self.phone, 2)

    def tid_ends_phone(self) -> npt.NDArray[Any]:
        """(n_tid,) bool: the forward transition out of a phone's last state."""
        out = np.zeros(self.num_tids, dtype=bool)
        out[1::2] = self.last
        return out

    def update(self, counts: npt.NDArray[Any], min_prob: float = 0.01, min_count: float = 5.0) -> float:
        """Maximum-likelihood update from (expected) counts per transition-id, cf. Kaldi gmm-est --transition-*.

        Args:
            counts: (n_tid,) occupancies; states seen less than min_count times keep their probability.
            min_prob: floor for loop and forward probabilities.
        Returns:
            Gain in log-likelihood per counted frame.
        """
        loop, forward = np.asarray(counts, dtype=np.float64).reshape(-1, 2).T
        total = loop + forward
        enough = total >= min_count
        new = np.where(enough, forward / np.maximum(total, 1e-30), self.forward_prob).clip(min_prob, 1 - min_prob)
        new = np.where(enough, new, self.forward_prob)
        gain = (
            forward * (np.log(new) - np.log(self.forward_prob)) + loop * (np.log1p(-new) - np.log1p(-self.forward_prob))
        ).sum()
        self.forward_prob = new
        return float(gain / max(total.sum(), 1.0))

    def save(self, path: str | Path) -> None:
        write_json(
            path,
            {
                "topo_id": self.topo_id,
                "tree_id": self.tree_id,
                "transition_states": [
                    [self.phones.name(int(p)), int(s), int(q), float(f)]
                    for p, s, q, f in zip(self.phone, self.state, self.pdf, self.forward_prob)
                ],
            },
        )

    @classmethod
    def load(cls, path: str | Path, tree: Tree, topo: Topo) -> TransitionModel:
        """Reads the probabilities; MismatchError when the file was written for another tree or topology."""
        facts = read_record(Path(path), _Facts)
        with naming(path):
            model = cls(tree, topo)
            triples = [(model.phones.id(phone), state, pdf) for phone, state, pdf, _ in facts.transition_states]
        for what, told, have in (("topo_id", facts.topo_id, topo.id), ("tree_id", facts.tree_id, tree.id)):
            if told != have:
                raise MismatchError(f"{path}: written for {what} {told}, but the model beside it has {have}")
        probs = np.array([prob for *_, prob in facts.transition_states])
        if triples != list(zip(model.phone.tolist(), model.state.tolist(), model.pdf.tolist())):
            raise DataError(f"{path}: the transition-states are not those of the tree and topology")
        if not ((probs > 0) & (probs < 1)).all():
            raise DataError(f"{path}: a forward probability is outside (0, 1)")
        model.forward_prob = probs
        return model
