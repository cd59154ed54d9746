"""Options of graphs, decoding and rescoring that are refused before any work is done."""

from __future__ import annotations

import pytest

from pipeline.base.cli import load_options
from pipeline.base.errors import ConfigError
from pipeline.graph.options import DecodeOptions, LangOptions, LmOptions, RescoreLatticesOptions, RescoreOptions


@pytest.mark.parametrize("options", [DecodeOptions, RescoreOptions, RescoreLatticesOptions])
@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_weights_by_which_scores_are_divided_are_above_0(options: type, weight: float) -> None:
    assert load_options(options, None, {"lm_weights": ["0.5", "1"]}).lm_weights == (0.5, 1.0)
    with pytest.raises(ConfigError, match="--lm-weights: .*greater than 0"):
        load_options(options, None, {"lm_weights": [1.0, weight]})


@pytest.mark.parametrize(
    "options, given, message",
    [
        (LmOptions, {"order": 1, "prune": 1e-7}, "--prune and --min-counts are for --order 2 and more"),
        (LmOptions, {"order": 1, "min_counts": [0, 2]}, "--prune and --min-counts are for --order 2 and more"),
        (LmOptions, {"order": 3, "add": 1.0}, "--add is for --order 1"),
        (LangOptions, {"drop": "-"}, "--drop leaves characters out of graphemes: it needs --unit grapheme"),
        (LangOptions, {"blank": True}, "it needs --silence-states 1"),
    ],
)
def test_options_without_effect_are_refused(options: type, given: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_options(options, None, given)


def test_tokens_take_few_options() -> None:
    """Spellings and states of a lang of tokens are given."""
    load_options(LangOptions, None, {"silence_prob": 0.3, "lexicon_format": "words"}).check_tokens()
    for given, name in (
        ({"position": "word_end"}, "position"),
        ({"stress": False}, "no-stress"),
        ({"oov_word": "<U>"}, "oov-word"),
    ):
        with pytest.raises(ConfigError, match=f"--{name} has no effect there"):
            load_options(LangOptions, None, given).check_tokens()
