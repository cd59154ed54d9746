#!/usr/bin/env python3
"""How time and peak memory of every step grow with the corpus.

The training part of a small recipe is repeated under new ids and new speakers' names as rare as LibriSpeech's; each
step runs on 1, 10 and 50 times the data as a command of its own, with few iterations, since memory does not depend on
their number. Reported are processor seconds and the high-water mark of resident memory, the growth between the
last two sizes with the index's 250 bytes an utterance left out, and what these extrapolate to at 960 hours. The cache
for features is small here (--cache-mib), so that sizes behave alike: it holds all features or, where they do not fit,
none, and those of 960 hours do not fit into the default either.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import Cost, measure  # noqa: E402

HOURS = 960.0
SPEAKERS_PER_HOUR = 2338 / 960  # LibriSpeech
INDEX_BYTES = 250  # an utterance may take in memory


class Step(NamedTuple):
    """A command: {d} features of mixtures, {f} of networks, {l} data without features, {x} outputs, {r} recipe."""

    name: str
    script: str
    arguments: str
    cached: bool = True  # takes --cache-mib


STEPS = (
    Step("validate_data", "utils/validate_data.py", "{l}", False),
    Step("compute_feats", "steps/compute_feats.py", "{l} {x}/feats --config {r}/conf/mfcc.yaml", False),
    Step("train_mono", "steps/train_mono.py", "{d} {r}/data/lang_phone {x}/mono --num-iters 3 --realign-iters 1,2"
         " --grow-iters 2 --num-gauss 300"),
    Step("align, GMM", "steps/align.py", "{d} {r}/data/lang_phone {x}/mono {x}/mono_ali", False),
    Step("train_deltas", "steps/train_deltas.py", "{d} {r}/data/lang_phone {x}/mono_ali {x}/tri1 --num-iters 3"
         " --realign-iters 2 --grow-iters 2 --num-gauss 600 --num-leaves 200"),
    Step("train_lda_mllt", "steps/train_lda_mllt.py", "{d} {r}/data/lang_phone {x}/mono_ali {x}/tri2 --num-iters 3"
         " --realign-iters 2 --grow-iters 2 --mllt-iters 2 --num-gauss 600 --num-leaves 200"),
    Step("align, LDA+MLLT", "steps/align.py", "{d} {r}/data/lang_phone {x}/tri2 {x}/tri2_ali", False),
    Step("train_sat", "steps/train_sat.py", "{d} {r}/data/lang_phone {x}/tri2_ali {x}/tri3 --model {x}/tri2"
         " --num-iters 3 --realign-iters 2 --grow-iters 2 --fmllr-iters 2 --num-gauss 600 --num-leaves 200"),
    Step("tie_states", "steps/tie_states.py", "{d} {r}/data/lang_phone {x}/mono_ali {x}/tied --num-leaves 200"),
    Step("train_nhmm", "steps/train_nhmm.py", "{f} {r}/data/lang_phone {x}/nhmm --config {r}/conf/nhmm.yaml"
         " --epochs 1"),
    Step("align, neural HMM", "steps/align.py", "{f} {r}/data/lang_phone {r}/exp/nhmm_speech_silence {x}/nhmm_ali"
         " --config {r}/conf/nhmm_align.yaml --confidence", False),
    Step("estimate_transitions", "steps/estimate_transitions.py", "{f} {r}/data/lang_phone {r}/exp/nhmm_speech_silence"
         " {x}/em --rounds 1"),
    Step("train_viterbi", "steps/train_viterbi.py", "{f} {r}/data/lang_phone {x}/mono_ali {x}/hybrid"
         " --config {r}/conf/viterbi.yaml --epochs 1"),
    Step("train_sequence", "steps/train_sequence.py", "{f} {r}/data/lang_phone {r}/exp/hybrid_gmm {x}/mmi"
         " --graph {r}/exp/hybrid_gmm/graph_2gram --epochs 1"),
    Step("train_e2e, CTC", "steps/train_e2e.py", "{f} {r}/data/tokens {x}/ctc --config {r}/conf/e2e.yaml --epochs 1"
         " --ali {x}/mono_ali --aux-layers 3"),
    Step("decode", "steps/decode.py", "{f} {x}/decode --config {r}/conf/decode_fbank.yaml --id x --part train",
         False),
    Step("decode_e2e, greedy", "steps/decode_e2e.py", "{r}/exp/e2e_ctc_gmm {r}/data/tokens {f} {x}/greedy"
         " --method ctc_greedy --id x --part train", False),
    Step("score_ali", "steps/score_ali.py", "{x}/mono_ali {l} {x}/score --id x --part train", False),
)  # fmt: skip


@click.command(help=__doc__)
@click.argument("recipe", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--sizes", default="1,10,50", show_default=True, help="How often the data are repeated.")
@click.option("--step", "chosen", multiple=True, help="Only these steps (with those that they read); may be repeated.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--cache-mib", type=click.IntRange(0), default=64, show_default=True, help="Passed on to the steps.")
@click.option("--work", type=click.Path(path_type=Path), help="Where outputs stay, for a run to go on from.")
@click.option("--measured", is_flag=True, help="Run nothing: report what --work holds already, whatever is missing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line: step, size, seconds, peak_mib.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file to write.")
def main(
    recipe: Path,
    sizes: str,
    chosen: tuple[str, ...],
    threads: int,
    cache_mib: int,
    work: Path | None,
    measured: bool,
    as_json: bool,
    out: Path | None,
) -> None:
    recipe = recipe.resolve()
    wanted = [int(size) for size in sizes.split(",")]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch) if work is None else work.resolve()
        for size in wanted:
            for row in run(recipe, top / f"{size}x", size, chosen, threads, cache_mib, measured):
                rows.append(row)
                if as_json:
                    click.echo(json.dumps(row))
                else:
                    click.echo(f"{size}x {row['step']}: {row['seconds']:.1f} s, {row['peak_mib']:.0f} MiB", err=True)
    if out is not None:
        out.write_text(report(rows, wanted, recipe, threads, cache_mib), encoding="utf-8")


def run(
    recipe: Path, top: Path, size: int, chosen: tuple[str, ...], threads: int, cache_mib: int, measured: bool
) -> Iterator[dict[str, Any]]:
    """Runs the steps on data of one size."""
    parts = {key: top / key for key in "ldf"}
    for key, source in (("l", "local"), ("d", "mfcc"), ("f", "fbank")):
        if not parts[key].is_dir():
            repeat(recipe / "data" / source / "train", parts[key], size)
    facts = json.loads((parts["d"] / "features.json").read_text())
    hours = facts["num_frames"] * facts["frame_shift"] / 3600
    for step in STEPS:
        if chosen and step.name not in chosen:
            continue
        arguments = step.arguments.format(x=top / "exp", r=recipe, **parts).split()
        if step.name == "decode":
            arguments = [str(recipe / "exp/hybrid_gmm"), str(recipe / "exp/hybrid_gmm/graph_2gram"), *arguments]
        if step.cached:
            arguments += ["--cache-mib", str(cache_mib)]
        known = top / "cost" / f"{step.name.replace(' ', '_')}.json"
        if known.is_file():
            cost = Cost(*json.loads(known.read_text()))
        elif measured:
            continue
        else:
            cost = measure(ROOT / step.script, arguments, threads)
            known.parent.mkdir(parents=True, exist_ok=True)
            known.write_text(json.dumps(cost))
        yield {
            "step": step.name,
            "size": size,
            "hours": hours,
            "utterances": facts["num_utterances"],
            "seconds": cost.busy,
            "peak_mib": cost.peak_mib,
        }


def repeat(source: Path, target: Path, size: int) -> None:
    """A data directory that holds the utterances of another one `size` times under new ids; frames and audio are
    those of the other. Speakers get new names as often as needed for SPEAKERS_PER_HOUR.
    """
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    lines = gzip.decompress((source / "cuts.jsonl.gz").read_bytes()).decode().splitlines()
    cuts = [json.loads(line) for line in lines]
    hours = sum(cut["duration"] for cut in cuts) / 3600
    speakers = sorted({cut["supervisions"][0]["speaker"] for cut in cuts})
    groups = max(1, min(size, round(hours * size * SPEAKERS_PER_HOUR / len(speakers))))
    with gzip.open(partial / "cuts.jsonl.gz", "wt", encoding="utf-8", compresslevel=1) as file:
        for number in range(size):
            for cut in cuts:
                file.write(json.dumps(renamed(cut, number, number * groups // size)) + "\n")
    for name in ("recordings", "supervisions"):
        with gzip.open(partial / f"{name}.jsonl.gz", "wt", encoding="utf-8", compresslevel=1) as file:
            for number in range(size):
                for cut in cuts:
                    new = renamed(cut, number, number * groups // size)
                    file.write(json.dumps(new["recording"] if name == "recordings" else new["supervisions"][0]) + "\n")
    if (source / "features.json").is_file():
        facts = json.loads((source / "features.json").read_text())
        facts |= {"num_utterances": len(cuts) * size, "num_frames": facts["num_frames"] * size}
        (partial / "features.json").write_text(json.dumps(facts))
        stats = json.loads((source / "cmvn.json").read_text())
        stats["speakers"] = {f"{s}-r{g}": rows for s, rows in stats["speakers"].items() for g in range(groups)}
        (partial / "cmvn.json").write_text(json.dumps(stats))
    partial.rename(target)


def renamed(cut: dict[str, Any], number: int, group: int) -> dict[str, Any]:
    """Copy `number` of a cut, spoken by a speaker of its group."""
    name = f"{cut['id']}-r{number:04d}"
    supervision = cut["supervisions"][0]
    said = {**supervision, "id": name, "recording_id": name, "speaker": f"{supervision['speaker']}-r{group}"}
    return {**cut, "id": name, "recording": {**cut["recording"], "id": name}, "supervisions": [said]}


def report(rows: list[dict[str, Any]], sizes: list[int], recipe: Path, threads: int, cache_mib: int) -> str:
    """The table as Markdown."""
    from pipeline.base.stamp import cpu_name
    from pipeline.experiments.results_page import markdown_table

    found = {(row["step"], row["size"]): row for row in rows}
    names = list(dict.fromkeys(row["step"] for row in rows))
    lines = []
    for name in names:
        cells = [name]
        for size in sizes:
            row = found.get((name, size))
            cells.append("" if row is None else f"{row['seconds']:.1f} / {row['peak_mib']:,.0f}")
        at_hand = [size for size in (sizes[1:] if len(sizes) > 2 else sizes) if (name, size) in found]
        if len(at_hand) > 1:
            cells += [f"{value:.2f}" if i else f"{value:+.1%}" for i, value in enumerate(growth(found, name, at_hand))]
        elif len(sizes) > 1:
            cells += ["", ""]
        lines.append(cells)
    hours = {row["size"]: row["hours"] for row in rows}
    head = ["step", *(f"{size}x, {hours[size]:.2f} h" for size in sizes)]
    head += ["growth", f"GiB at {HOURS:.0f} h"] if len(sizes) > 1 else []
    return (
        f"# How cost grows with the corpus\n\nWritten by `benchmarks/scaling.py {os.path.relpath(recipe, ROOT)} "
        f"--sizes {','.join(map(str, sizes))} --threads {threads} --cache-mib {cache_mib}`; {cpu_name()}.\n\nProcessor "
        f"seconds / peak memory in MiB of each step on the training part of the recipe, repeated under new ids "
        f"({rows[0]['utterances']:,} utterances at {sizes[0]}x). Growth: of the peak from the last size but one to the "
        f"last that a step has been run at, the index's {INDEX_BYTES} bytes an utterance aside. The last column goes "
        f"on linearly from these two, index included, with what the default of --cache-mib adds there: the features "
        f"of {HOURS:.0f} hours do not fit into it, so that none stay in memory; graphs may take {graphs_mib()} MiB "
        f"until they are found not to fit.\n\n"
        f"{markdown_table(head, lines)}"
    )


def graphs_mib() -> int:
    """What graphs of a training may take by default before they are found not to fit."""
    from pipeline.hmm.graph_source import CACHE_MIB, SHARE

    return CACHE_MIB // SHARE


def growth(found: dict[tuple[str, int], dict[str, Any]], name: str, sizes: list[int]) -> tuple[float, float]:
    """Growth of the peak between two sizes without the index, and GiB at HOURS with it and the default cache."""
    small, large = found[name, sizes[-2]], found[name, sizes[-1]]
    index = (large["utterances"] - small["utterances"]) * INDEX_BYTES / 2**20
    share = (large["peak_mib"] - index) / small["peak_mib"] - 1
    slope = max(large["peak_mib"] - small["peak_mib"], 0.0) / (large["hours"] - small["hours"])
    cache = graphs_mib() if next(step for step in STEPS if step.name == name).cached else 0
    return share, (large["peak_mib"] + slope * (HOURS - large["hours"]) + cache) / 1024


if __name__ == "__main__":
    main()
