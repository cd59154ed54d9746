#!/usr/bin/env python3
"""All steps as one command: `fullsum train-mono` is steps/train_mono.py. A step is imported when it is asked for."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import click

import pipeline

# In the order of a recipe; a test holds it to the directory.
GROUPS = {
    "Packed models": "train_aligner align_corpus validate adapt pack",
    "Data and features": "import_data split_data split_labelled pseudo_label select_data compute_feats transform_feats "
    "perturb_speed add_noise export_shar import_shar",
    "Language": "pronounce_words make_lang train_lm train_g2p make_lexicon train_tokens train_nn_lm",
    "GMM chain": "choose_sizes train_mono train_deltas train_lda_mllt train_sat estimate_fmllr tie_states plot_tree",
    "Networks": "train_nhmm estimate_transitions train_viterbi train_async train_federated make_den_graph "
    "train_sequence train_sequence_async train_e2e train_semisup export_e2e plot_training plot_attention",
    "Alignments": "align refine_ali estimate_bias correct_bias import_ali export_ali score_ali score_durations "
    "score_quality plot_ali",
    "Decoding": "make_graph decode decode_e2e rescore rescore_lattices export_lattices pool_weights score score_stm "
    "score_gap",
    "Reports": "sum_times report",
}
# People align with a packed model and score its times; recipes align with a model directory and score words.
RENAMED = {"train_aligner": "train", "align_corpus": "align", "align": "align-data", "import_data": "import"}
RENAMED |= {"score_ali": "score", "score": "score-words"}


def shown(name: str) -> str:
    """Name of a step as a command."""
    return RENAMED.get(name, name.replace("_", "-"))


COMMANDS = {shown(name): name for names in GROUPS.values() for name in names.split()}


class Steps(click.Group):
    """The steps, each imported only when it runs or tells its options."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        # As a script this directory is on Python's path, installed it is a package.
        module = importlib.import_module(f"{__package__}.{COMMANDS[cmd_name]}" if __package__ else COMMANDS[cmd_name])
        assert isinstance(module.main, click.Command), module
        return module.main

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The names by group, each with what it does."""
        for group, names in GROUPS.items():
            with formatter.section(group):
                formatter.write_dl([(shown(name), about(name)) for name in names.split()])


def about(name: str) -> str:
    """What a step does: the first paragraph of its docstring, read without importing it."""
    text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return " ".join((ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].split())


@click.group(cls=Steps)
@click.version_option(pipeline.__version__, prog_name="fullsum")
def main() -> None:
    """Speech recognition in steps, from features to word error rates.

    Each has --help of its own. Names and options are completed after `eval "$(_FULLSUM_COMPLETE=bash_source fullsum)"`,
    or the same with zsh_source or fish_source.
    """


if __name__ == "__main__":
    main(prog_name="fullsum")
