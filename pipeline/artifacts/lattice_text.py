"""Lattices in the forms of other toolkits: Kaldi's text archives and HTK's standard lattice format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.artifacts.lattice import Lattice
from pipeline.base.errors import DataError
from pipeline.base.files import FileNames, atomic_write


def kaldi_lines(cut_id: str, lattice: Lattice) -> Iterator[str]:
    """One lattice of a text archive, as lattice-copy ark:FILE ark,t:- writes it before determinisation.

    Lines are source, destination, transition-id (from 1, 0 for none), word id (0 for none) and the costs of graph and
    acoustics, negative natural logs, unscaled; then the final state; an empty line ends the lattice.
    """
    if any(c.isspace() for c in cut_id):
        raise DataError(f"utterance {cut_id!r}: Kaldi's ids hold no blanks")
    plain = lattice.spelled()
    yield cut_id
    columns = (plain.src, plain.dst, plain.tid + 1, plain.label, -plain.graph, -plain.acoustic)
    for src, dst, tid, word, graph, acoustic in zip(*(c.tolist() for c in columns)):
        yield f"{src}\t{dst}\t{tid}\t{word}\t{graph:.9g},{acoustic:.9g}"
    if plain.num_states:
        yield f"{plain.num_states - 1}\t0,0"
    yield ""


def write_kaldi(path: str | Path, lattices: Iterable[tuple[str, Lattice]]) -> None:
    """Writes a text archive of lattices, in the given order (Kaldi wants that of the ids)."""
    with atomic_write(path) as f:
        for cut_id, lattice in lattices:
            f.writelines(line + "\n" for line in kaldi_lines(cut_id, lattice))


def slf_lines(
    cut_id: str, lattice: Lattice, words: Sequence[str], frame_shift: float, lm_weight: float, word_penalty: float
) -> Iterator[str]:
    """A lattice in HTK's format: nodes with times, links with words, acoustic and language scores (natural logs).

    HTK's total of a path is a + lmscale * l + wdpenalty per word, which is ours times the LM weight.

    Args:
        lattice: best of words (``pipeline.graph.determinise.word_lattice``); others have a link per frame.
        words: name of each id.
        frame_shift: seconds.
        lm_weight, word_penalty: as ours; they stand in the head.
    """
    plain = lattice.spelled()
    yield "VERSION=1.0"
    yield f"UTTERANCE={cut_id}"
    yield f"lmscale={lm_weight:g}\twdpenalty={-word_penalty * lm_weight:g}"
    yield f"N={plain.num_states}\tL={plain.num_arcs}"
    for state, frame in enumerate(plain.frame.tolist()):
        yield f"I={state}\tt={frame * frame_shift:.4f}"
    columns = (plain.src, plain.dst, plain.label, plain.acoustic, plain.graph)
    for arc, (src, dst, word, acoustic, graph) in enumerate(zip(*(c.tolist() for c in columns))):
        name = words[word] if word else "!NULL"
        yield f"J={arc}\tS={src}\tE={dst}\tW={name}\ta={acoustic:.6g}\tl={graph:.6g}"


def write_slf(
    directory: str | Path,
    lattices: Iterable[tuple[str, Lattice]],
    words: Sequence[str],
    frame_shift: float,
    lm_weight: float,
    word_penalty: float,
) -> None:
    """Writes ID.slf for each lattice, for which slashes of ids become underscores."""
    d = Path(directory)
    d.mkdir(parents=True, exist_ok=True)
    names = FileNames(d, ".slf")
    for cut_id, lattice in lattices:
        lines = slf_lines(cut_id, lattice, words, frame_shift, lm_weight, word_penalty)
        with atomic_write(d / names.of(cut_id)) as f:
            f.writelines(line + "\n" for line in lines)
