"""Decoding directories: all is loaded, searched, in parts that run side by side where asked for, scored and written."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from pipeline.artifacts import lattice_set, posteriors
from pipeline.artifacts.lattice import Lattice
from pipeline.artifacts.lattice_set import LATTICES, LatticeHeader, LatticeSet, LatticeWriter
from pipeline.artifacts.posteriors import PosteriorWriter
from pipeline.artifacts.shards import join
from pipeline.artifacts.symbols import SymbolTable
from pipeline.base.errors import ConfigError
from pipeline.base.files import read_jsonl, write_jsonl
from pipeline.graph.options import DecodeOptions
from pipeline.parallel.options import ParallelOptions
from pipeline.parallel.parts import Done, Part, as_json, in_process
from pipeline.parallel.run import done_in_parts
from pipeline.tasks.decode import DecodedWords, Keep, check_graph, decode, report
from pipeline.tasks.decoded import Spool, references, write_rows
from pipeline.tasks.lattice_words import Judge, LatticeWords
from pipeline.tasks.model import Model, load_model
from pipeline.tasks.weights import Weights, read_weights

if TYPE_CHECKING:
    from pipeline.graph.decoding import DecodingGraph

# Of a part: what was recognised, in the order of the search, and the names of the words.
_FOUND, _WORDS = "found.jsonl", "words.txt"

PRELOAD = ("pipeline.feats.dataset", "pipeline.gmm.model", "pipeline.graph.decoding", "pipeline.graph.search")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Sources:
    """What a decoding reads.

    Attributes:
        model, graph, data: directories.
        weights_from: decoding directory whose weights are used; None: all are tried.
        transforms: speaker transforms.
        rescore_lm: language model that replaces the graph's in the lattices.
    """

    model: Path
    graph: Path
    data: Path
    weights_from: Path | None = None
    transforms: Path | None = None
    rescore_lm: Path | None = None

    def weights(self, options: DecodeOptions) -> list[Weights]:
        """Pairs of LM weight and word penalty to be tried."""
        if self.weights_from is not None:
            return [read_weights(self.weights_from)]
        return [(w, p) for w in options.lm_weights for p in options.word_penalties]


def decode_directory(
    sources: Sources,
    out_dir: Path,
    options: DecodeOptions,
    row_id: str | None,
    part: str,
    parallel: ParallelOptions = ParallelOptions(),
) -> dict[str, Any]:
    """Recognises, chooses weights and writes a decoding directory.

    Args:
        row_id: id of the row in results.json; None: none is written. part: part of the data that the row names.
    Returns:
        facts for the stamp.
    """
    check_options(sources, options)
    if in_process(parallel, out_dir):
        decoded, words = _search(sources, out_dir, options, Part())
    else:
        references(sources.data)  # makes the index, which the parts find
        arguments = {"sources": as_json(sources), "options": as_json(options)}
        with done_in_parts(decode_part, arguments, out_dir, parallel) as parts:
            decoded, words = gather(parts, sources, out_dir, options)
    judged, stored = options.confidences or options.mbr, out_dir / LATTICES
    heard = None
    if options.lattices or judged:
        lattices = LatticeSet(stored)
        judge: Judge = "mbr" if options.mbr else "best" if judged else "none"
        heard = LatticeWords(lattices.__getitem__, lattices.header, lattices.words, judge)
    hyps, facts = report(decoded, list(words), out_dir, options, heard)
    if heard is not None and judged:
        heard.write_ctm(out_dir)
    if judged and not options.lattices:
        shutil.rmtree(stored)
    if row_id is not None:
        more = [] if heard is None else [heard.oracle_row(row_id, part)]
        write_rows(out_dir, row_id, part, hyps, options, facts, more)
    return facts


def _search(sources: Sources, out_dir: Path, options: DecodeOptions, part: Part) -> tuple[DecodedWords, SymbolTable]:
    """Loads everything and searches a part of the batches; lattices and posteriors go to `out_dir`."""
    from pipeline.artifacts.arpa import Arpa
    from pipeline.base.stamp import artifact_id
    from pipeline.graph.decoding import DecodingGraph
    from pipeline.graph.lm_lattice import LatticeRescorer

    model = load_model(sources.model, options.prior_scale, sources.transforms, options.device, options.blank_penalty)
    graph = DecodingGraph.load(sources.graph)
    check_graph(graph, sources.graph, model.hmm)
    rescorer, lm = None, sources.rescore_lm
    if lm is not None:
        rescorer = LatticeRescorer(Arpa.load(lm / "lm.arpa" if lm.is_dir() else lm), graph.words)
    with contextlib.ExitStack() as stack:
        keep: list[Keep] = []
        if options.posteriors:
            adapted = "" if sources.transforms is None else artifact_id(sources.transforms)
            writer = stack.enter_context(PosteriorWriter(out_dir, model.hmm.tree.id, adapted))
            keep.append(_keep_posteriors(writer, options))
        if options.lattices or options.confidences or options.mbr:
            keep.append(stack.enter_context(_lattice_writer(out_dir / LATTICES, model, graph, options)).write)
        found = decode(model, graph, sources.data, options, sources.weights(options), rescorer, keep, part)
    return found, graph.words


def decode_part(part: Part, out: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Searches a part of the batches, see ``pipeline.parallel.parts.Work``."""
    found, words = _search(Sources(**arguments["sources"]), out, DecodeOptions(**arguments["options"]), part)
    alternatives = found.alternatives
    rows = ([c, found.spool.all_of(c), alternatives.get(c)] for c in found.spool.ids())
    write_jsonl(out / _FOUND, rows)
    words.save(out / _WORDS)
    counts = {name: getattr(found, name) for name in ("failed", "retried", "seconds", "audio_seconds")}
    return counts


def gather(
    parts: Sequence[Done], sources: Sources, out_dir: Path, options: DecodeOptions
) -> tuple[DecodedWords, SymbolTable]:
    """What one search of all batches would have found and written, byte by byte; the words' names."""
    out = DecodedWords(Spool(sources.weights(options)), references(sources.data))
    for part in parts:
        for cut_id, found, alternatives in read_jsonl(part.directory / _FOUND):
            out.spool.put_json(cut_id, found)
            if alternatives is not None:
                out.alternatives[cut_id] = alternatives
        out.failed += part.facts["failed"]
        out.retried += part.facts["retried"]
        out.seconds += part.facts["seconds"]
        out.audio_seconds += part.facts["audio_seconds"]
    places = [part.directory for part in parts]
    if options.posteriors:
        join(places, out_dir, posteriors.POSTERIORS, posteriors.STEM, posteriors.LAYOUT)
    if (places[0] / LATTICES).is_dir():
        own = [place / LATTICES for place in places]
        join(own, out_dir / LATTICES, lattice_set.HEADER, lattice_set.STEM, lattice_set.LAYOUT)
        shutil.copyfile(own[0] / _WORDS, out_dir / LATTICES / _WORDS)
    return out, SymbolTable.load(places[0] / _WORDS)


def _keep_posteriors(writer: PosteriorWriter, options: DecodeOptions) -> Keep:
    """Writes posteriors of the pdfs at the scale of the search."""
    from pipeline.graph.lattices import Lattices

    def take(cut_id: str, lattice: Lattice) -> None:
        writer.write(cut_id, Lattices([lattice]).posteriors(1 / options.acoustic_scale, 0.0)[0])

    return take


def check_options(sources: Sources, options: DecodeOptions) -> None:
    """ConfigError, which names both, for options that do not go together."""
    if sources.rescore_lm is not None:
        for name in ("mbr", "confidences"):
            if getattr(options, name):
                raise ConfigError(
                    f"--{name} and --rescore-lm do not go together: the lattices keep the graph's language model; "
                    "write them (--lattices) and use steps/rescore_lattices.py"
                )


def _lattice_writer(directory: Path, model: Model, graph: DecodingGraph, options: DecodeOptions) -> LatticeWriter:
    header = LatticeHeader(
        graph.lang_id,
        graph.tree_id,
        model.frame_shift,
        model.frame_offset,
        options.acoustic_scale,
        options.lattice_beam,
        graph.word_sequences,
    )
    return LatticeWriter(directory, header, graph.words)
