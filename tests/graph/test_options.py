"""Options of graphs, decoding and rescoring that are refused before any work is done."""

from __future__ import annotations

import pytest

from pipeline.base.cli import load_options
from pipeline.base.errors import ConfigError
from pipeline.graph.options import DecodeOptions, RescoreLatticesOptions, RescoreOptions


@pytest.mark.parametrize("options", [DecodeOptions, RescoreOptions, RescoreLatticesOptions])
@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_weights_by_which_scores_are_divided_are_above_0(options: type, weight: float) -> None:
    assert load_options(options, None, {"lm_weights": ["0.5", "1"]}).lm_weights == (0.5, 1.0)
    with pytest.raises(ConfigError, match="--lm-weights: .*greater than 0"):
        load_options(options, None, {"lm_weights": [1.0, weight]})
