"""Training graphs by content, in memory: what is compiled again in a process, as in rounds of realignment, is looked
up.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.artifacts.lang import Lang
from pipeline.artifacts.tree import Tree

if TYPE_CHECKING:
    from pipeline.hmm.compile import TrainingGraphs

MAX_BYTES = 256 << 20


def content_key(lang: Lang, tree: Tree, transcripts: Sequence[Sequence[int]]) -> tuple[str, str, str]:
    """Equal for equal content: all that training graphs depend on (transition-ids follow from tree and topology)."""
    lang_id = lang.__dict__.get("_content_id")
    if lang_id is None:  # takes as long as compiling a batch does where the lexicon is large
        lang_id = lang.id
        object.__setattr__(lang, "_content_id", lang_id)
    sizes = np.array([len(words) for words in transcripts], dtype=np.int64)
    words = np.fromiter((w for words in transcripts for w in words), dtype=np.int64, count=int(sizes.sum()))
    return lang_id, tree.id, hashlib.sha256(sizes.tobytes() + words.tobytes()).hexdigest()


class GraphCache:
    """Keeps what was used last, up to a number of bytes."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._entries: OrderedDict[tuple, TrainingGraphs] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple) -> TrainingGraphs | None:
        """The graphs of a key, None if they are not here."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: tuple, graphs: TrainingGraphs) -> None:
        """Keeps graphs, in place of those that were not used for the longest time."""
        with self._lock:
            if key in self._entries or graphs.num_bytes > self.max_bytes:
                return
            self._entries[key] = graphs
            self.num_bytes += graphs.num_bytes
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= self._entries.popitem(last=False)[1].num_bytes

    def __len__(self) -> int:
        return len(self._entries)
