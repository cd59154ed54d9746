"""Decoding directories of end-to-end models: all is loaded, searched, in parts that run side by side where asked for,
scored and written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from pipeline.artifacts.model_meta import EndToEndMeta
from pipeline.artifacts.tokens import Tokens
from pipeline.base.files import read_jsonl, write_jsonl
from pipeline.e2e.search.options import SearchOptions
from pipeline.e2e.search.results import Weights
from pipeline.parallel.options import ParallelOptions
from pipeline.parallel.parts import Done, Part, as_json, in_process
from pipeline.parallel.run import done_in_parts
from pipeline.tasks.decode_e2e import (
    DecodedTokens,
    check_inputs,
    choose_method,
    decode,
    grid,
    latency,
    load_lm,
    read_weights,
    report,
    spool_of,
)
from pipeline.tasks.decoded import references, write_rows

if TYPE_CHECKING:
    from pipeline.e2e.model import EndToEnd
    from pipeline.e2e.search.options import Method

_FOUND = "found.jsonl"  # of a part: utterance and the hypotheses for all weights

PRELOAD = ("pipeline.e2e.model", "pipeline.feats.dataset")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Sources:
    """What a decoding reads.

    Attributes:
        model, tokens, data: directories.
        lm: language model for shallow fusion.
        weights_from: decoding directory whose weights are used; None: all are tried.
    """

    model: Path
    tokens: Path
    data: Path
    lm: Path | None = None
    weights_from: Path | None = None


class _Loaded:
    """Model and tokens, which fit the data, and what is to be tried."""

    network: EndToEnd
    meta: EndToEndMeta
    tokens: Tokens
    method: Method
    weights: list[Weights]

    def __init__(self, sources: Sources, options: SearchOptions) -> None:
        from pipeline.e2e.model import load_end_to_end

        self.network, self.meta = load_end_to_end(sources.model)
        self.tokens = Tokens.load(sources.tokens)
        check_inputs(self.meta, sources.model, self.tokens, sources.tokens, sources.data)
        self.method, with_lm = choose_method(self.network, options), sources.lm is not None
        if sources.weights_from is None:
            self.weights = grid(self.method, self.network, options, with_lm)
        else:
            self.weights = [read_weights(sources.weights_from, self.method, with_lm)]

    def decode(self, sources: Sources, options: SearchOptions, part: Part) -> DecodedTokens:
        """Searches a part of the batches."""
        from pipeline.nn.step import pick_device

        lm = None
        if sources.lm is not None:
            lm = load_lm(sources.lm, self.tokens, sources.tokens, pick_device(options.device))
        return decode(self.network, self.meta, sources.data, options, self.method, self.weights, lm, part)


def decode_directory(
    sources: Sources,
    out_dir: Path,
    options: SearchOptions,
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
    loaded = _Loaded(sources, options)
    if in_process(parallel, out_dir):
        decoded = loaded.decode(sources, options, Part())
    else:
        references(sources.data)  # makes the index, which the parts find
        arguments = {"sources": as_json(sources), "options": as_json(options)}
        with done_in_parts(decode_part, arguments, out_dir, parallel) as parts:
            decoded = gather(parts, sources.data, loaded.weights)
    hyps, facts = report(decoded, loaded.tokens, out_dir, options)
    facts.update(method=loaded.method, latency_seconds=latency(loaded.network, loaded.meta.features.frame_shift))
    if row_id is not None:
        write_rows(out_dir, row_id, part, hyps, options, facts)
    return facts


def decode_part(part: Part, out: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Searches a part of the batches, see ``pipeline.parallel.parts.Work``."""
    sources, options = Sources(**arguments["sources"]), SearchOptions(**arguments["options"])
    found = _Loaded(sources, options).decode(sources, options, part)
    write_jsonl(out / _FOUND, ([c, found.spool.all_of(c)] for c in found.spool.ids()))
    return {
        "encoder_seconds": found.encoder_seconds,
        "search_seconds": list(found.search_seconds.values()),
        "audio_seconds": found.audio_seconds,
    }


def gather(parts: Sequence[Done], data_dir: Path, weights: Sequence[Weights]) -> DecodedTokens:
    """What one search of all batches would have found."""
    out = DecodedTokens(spool_of(weights), references(data_dir), search_seconds=dict.fromkeys(weights, 0.0))
    for part in parts:
        for cut_id, found in read_jsonl(part.directory / _FOUND):
            out.spool.put_json(cut_id, found)
        out.encoder_seconds += part.facts["encoder_seconds"]
        out.audio_seconds += part.facts["audio_seconds"]
        for w, seconds in zip(weights, part.facts["search_seconds"]):
            out.search_seconds[w] += seconds
    return out
