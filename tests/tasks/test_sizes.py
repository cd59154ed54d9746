"""Sizes of models by hours of speech: between those of the recipes, and options that the steps know."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pytest

from pipeline.gmm.options import DeltasOptions, LdaMlltOptions, MonoOptions, SatOptions, TieOptions
from pipeline.graph.options import LmOptions
from pipeline.nn.options import NhmmOptions, ViterbiOptions
from pipeline.tasks import sizes
from pipeline.tasks.sizes import aligner_sizes, choose_sizes, interpolated

ROOT = Path(__file__).resolve().parents[2]
KINDS = {
    "mono": MonoOptions,
    "tri1": DeltasOptions,
    "tri2": LdaMlltOptions,
    "tri3": SatOptions,
    "tie": TieOptions,
    "nhmm": NhmmOptions,
    "viterbi": ViterbiOptions,
    "lm": LmOptions,
}


@pytest.mark.parametrize(
    ("hours", "speakers", "models"),
    [
        (0.02, 1, "mono"),
        (0.1, 1, "mono"),
        (0.5, 1, "mono tri1 tri2 hybrid"),
        (0.5, 30, "mono tri1 tri2 tri3 hybrid"),
        (3, 30, "mono tri1 tri2 tri3 hybrid"),
        (30, 300, "mono tri1 tri2 tri3 hybrid"),
    ],
)
def test_what_is_trained(hours, speakers, models):
    found = choose_sizes(hours, speakers, round(hours * 8000))
    assert " ".join(found.models) == models
    for name, values in found.options.items():
        KINDS[name](**values)  # pydantic refuses what a step does not know
    assert set(found.options) == set(KINDS)


def test_the_recipes_own_sizes():
    """At the hours of a recipe the sizes are the recipe's."""
    an4, librispeech = choose_sizes(0.7, 74, 4000).options, choose_sizes(3.5, 207, 35_000).options
    assert an4["mono"] == {"num_gauss": 1000} and an4["tri1"] == {"num_leaves": 500, "num_gauss": 2500}
    assert (an4["viterbi"]["dim"], an4["viterbi"]["layers"], an4["viterbi"]["epochs"]) == (192, 6, 24)
    assert an4["lm"]["order"] == 2 and librispeech["lm"]["order"] == 3
    assert librispeech["tri2"] == {"num_leaves": 2500, "num_gauss": 15_000}
    assert (librispeech["nhmm"]["epochs"], librispeech["nhmm"]["batch_frames"]) == (10, 4000)
    assert choose_sizes(100, 300, 900_000).options["tri3"] == {"num_leaves": 4200, "num_gauss": 40_000}


def test_between_the_recipes():
    """Lines in logarithms: at the geometric mean of two amounts the geometric mean of the values."""
    points = ((1.0, 10.0), (4.0, 90.0))
    assert interpolated(2.0, points, True) == pytest.approx(30.0)
    assert interpolated(0.5, points, True) == 5.0 and interpolated(0.5, points, False) == 10.0
    assert interpolated(0.001, points, True) == pytest.approx(10 / 3) and interpolated(50, points, True) == 90.0
    for name, value in vars(sizes).items():
        if isinstance(value, tuple) and name.isupper():
            assert value == tuple(sorted(value)), name


def test_more_speech_never_makes_smaller_models():
    grid = [math.exp(x / 4) / 50 for x in range(40)]
    for name in ("mono", "tri1", "tri2"):
        found = [choose_sizes(h, 9, 100).options[name]["num_gauss"] for h in grid]
        assert found == sorted(found)


def test_aligners():
    for hours, gauss in ((0.1, 460), (0.5, 900), (3.5, 2000), (30, 2000)):
        first, second = (MonoOptions(**given) for given in aligner_sizes(hours))
        assert first.num_gauss == second.num_gauss == gauss
        changed = {f.name for f in fields(MonoOptions) if getattr(first, f.name) != getattr(second, f.name)}
        assert changed == {"deltas", "num_iters", "grow_iters", "realign_iters"}


@pytest.mark.parametrize("hours", [0.1, 0.5, 3, 30])
def test_the_table_of_the_recipe(hours):
    """egs/own_data/README.md shows what is chosen."""
    chosen = choose_sizes(hours, 50, round(hours * 9000))
    mono, tri1, tri2, net = (chosen.options[name] for name in ("mono", "tri1", "tri2", "viterbi"))
    row = (
        f"| {hours:g} | {' '.join(chosen.models)} | {mono['num_gauss']:,}, {tri1['num_gauss']:,}, {tri2['num_gauss']:,} | "
        f"{tri1['num_leaves']:,}, {tri2['num_leaves']:,} | {net['layers']} x {net['dim']}, {net['epochs']} |"
    )
    assert row in (ROOT / "egs/own_data/README.md").read_text()
