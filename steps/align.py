#!/usr/bin/env python3
"""Forced alignment of a data directory with any model."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.parallel.options import ParallelOptions
from pipeline.tasks.align import AlignOptions
from pipeline.tasks.align_parts import AlignSources, align_in_parts


@cli.command(context_settings={"show_default": True})
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--transforms",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of speaker transforms (fMLLR) for a model trained with them; without, its speaker-independent "
    "mixtures align, which know nothing of the speakers.",
)
@cli.options(AlignOptions)
@cli.options(ParallelOptions, "parallel")
@cli.step_options
def main(
    data: Path,
    lang: Path,
    model: Path,
    out: Path,
    transforms: Path | None,
    config: AlignOptions,
    parallel: ParallelOptions,
    overwrite: bool,
) -> None:
    """Aligns DATA with MODEL (a GMM or a network) over the pronunciations of LANG and writes OUT, an alignment set.

    The search is exact but for GMMs on the CPU, which have a wide --beam. Utterances that have no path are listed in
    OUT/failed.txt, and above --max-failed the step fails. cf. Kaldi steps/align_si.sh.
    """

    def action(tmp: Path) -> dict:
        report = align_in_parts(AlignSources(data, lang, model, transforms, str(model)), tmp, config, parallel)
        report.check(tmp, config.max_failed)
        return {
            "aligned": report.num_aligned,
            "failed": len(report.failed),
            "frames": report.num_frames,
            "log_like_per_frame": report.total_log_like / max(report.num_frames, 1),
        }

    cli.run_step(
        out,
        inputs={"data": data, "lang": lang, "model": model, "transforms": transforms},
        options=config,
        action=action,
        overwrite=overwrite,
        command="align",
    )


if __name__ == "__main__":
    main()
