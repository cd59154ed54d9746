#!/usr/bin/env python3
"""Adds up the time that several steps took."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("made", type=click.Path(exists=True, file_okay=False, path_type=Path), nargs=-1, required=True)
@click.option("--id", "row_id", default="chain", show_default=True, help="Id of the row for the tables of results.")
@click.option("--part", default="train", show_default=True, help="Part that the row names.")
@cli.step_options
def main(out: Path, made: tuple[Path, ...], row_id: str, part: str, overwrite: bool) -> None:
    """Adds up the seconds in the stamps of the directories MADE and writes OUT: a row of results and times.md.

    times.md has one line per directory: seconds, frames per second where the step counted frames, and peak memory.
    """

    def action(tmp: Path) -> dict:
        from pipeline.base.files import atomic_write, write_json
        from pipeline.base.stamp import read_stamp
        from pipeline.experiments.results_page import markdown_table
        from pipeline.tasks.score import result_row

        lines, seconds = [], {}
        for directory in made:
            stamp = read_stamp(directory)
            took, frames = float(stamp["seconds"]), stamp["facts"].get("frames")
            seconds[directory.name] = round(took, 1)
            speed = f"{frames / max(took, 1e-3):,.0f}" if frames else ""
            lines.append([directory.name, stamp["command"], f"{took:.1f}", speed, f"{stamp['peak_rss_mib']:,.0f}"])
        total = sum(float(line[2]) for line in lines)
        lines.append(["all", "", f"{total:.1f}", "", ""])
        with atomic_write(tmp / "times.md") as f:
            f.write(markdown_table(["output", "step", "seconds", "frames per second", "peak memory, MiB"], lines))
        write_json(tmp / "results.json", [result_row(row_id, part, "seconds", round(total, 1), counts=seconds)])
        return {"seconds": round(total, 1)}

    inputs = {f"made{i}": directory for i, directory in enumerate(made)}
    cli.run_step(out, inputs, {"id": row_id, "part": part}, action, overwrite, command="sum_times")


if __name__ == "__main__":
    main()
