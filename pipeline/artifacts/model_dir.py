"""What every HMM model directory holds beside its parameters: phones, topology, tree and transitions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.checkpoint import check_same
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_meta import META, model_kind
from pipeline.artifacts.symbols import SymbolTable
from pipeline.artifacts.topo import Topo
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.base.errors import DataError


@dataclass(frozen=True)
class HmmDir:
    """The HMM side of a model or alignment directory, which thereby explains itself."""

    directory: Path
    phones: SymbolTable
    topo: Topo
    tree: Tree
    transitions: TransitionModel

    def check_lang(self, lang: Lang, lang_dir: str | Path) -> None:
        """MismatchError naming both directories unless phones and topology are those of the lang."""
        check_same("topo", self.topo.id, self.directory, lang.topo.id, lang_dir)
        if self.phones != lang.phones:
            raise DataError(f"{self.directory} and {lang_dir} do not belong together: their phones.txt differ")


def save_hmm(directory: str | Path, topo: Topo, tree: Tree, transitions: TransitionModel) -> None:
    """Writes phones.txt topo.json tree.json transitions.json."""
    d = Path(directory)
    d.mkdir(parents=True, exist_ok=True)
    tree.phones.save(d / "phones.txt")
    topo.save(d / "topo.json")
    tree.save(d / "tree.json")
    transitions.save(d / "transitions.json")


def load_hmm(directory: str | Path) -> HmmDir:
    """Reads what save_hmm wrote; DataError or MismatchError when files are missing or contradict each other."""
    d = Path(directory)
    if (d / META).is_file() and not (d / "phones.txt").is_file() and model_kind(d) == "e2e":
        raise DataError(f"{d} is an end-to-end model and has no HMM; steps/export_e2e.py gives it one over its tokens")
    phones = SymbolTable.load(d / "phones.txt")
    topo = Topo.load(d / "topo.json")
    tree = Tree.load(d / "tree.json", phones)
    return HmmDir(d, phones, topo, tree, TransitionModel.load(d / "transitions.json", tree, topo))
