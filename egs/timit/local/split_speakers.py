#!/usr/bin/env python3
"""Splits the speakers of DATA into halves: OUT/tuned (1st, 3rd, 5th ... speaker by name) and OUT/unseen, data
directories of transcripts.

Settings may be chosen by the hand-made times of the one half; what counts is then measured on the other.
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.step_options
def main(data: Path, out: Path, overwrite: bool) -> None:
    def action(tmp: Path) -> dict:
        from pipeline.artifacts.corpus import load_cuts, save_data_dir

        cuts = list(load_cuts(data))
        speakers = sorted({cut.supervisions[0].speaker for cut in cuts})
        tuned = set(speakers[::2])
        for name, members in (("tuned", tuned), ("unseen", set(speakers) - tuned)):
            save_data_dir(tmp / name, [cut for cut in cuts if cut.supervisions[0].speaker in members])
        return {"tuned": len(tuned), "unseen": len(speakers) - len(tuned)}

    cli.run_step(out, {"data": data}, {}, action, overwrite, resume=False, command="split_speakers")


if __name__ == "__main__":
    main()
