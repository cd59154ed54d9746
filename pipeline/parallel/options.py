"""Where the parts of a step run; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict
from pydantic.dataclasses import dataclass

from pipeline.base import cli

_STRICT = ConfigDict(extra="forbid")


def _env(name: str) -> JsonDict:
    """Set by utils/recipe.sh for all steps of a recipe."""
    return {"env": f"FULLSUM_{name}", "stamp": False}


@dataclass(frozen=True, config=_STRICT)
class ParallelOptions:
    """Into how many parts a step divides its utterances, and what runs them; neither changes the result."""

    jobs: int = Field(
        default=1,
        ge=1,
        description="Parts, which run side by side; 1: in this process.",
        json_schema_extra=_env("JOBS"),
    )
    backend: Literal["local", "slurm", "dask"] = Field(
        default="local",
        description="What runs the parts: processes of this machine; jobs of Slurm (needs submitit); workers of dask "
        "(needs distributed, and dask-jobqueue for SGE, PBS, LSF or Slurm).",
        json_schema_extra=_env("BACKEND"),
    )
    cluster: Path | None = Field(
        default=None,
        description="YAML file about the cluster, see docs/clusters.md.",
        json_schema_extra=_env("CLUSTER"),
    )

    def cluster_options(self) -> ClusterOptions:
        """What the file of --cluster says; ConfigError for an unknown or wrong value."""
        options: ClusterOptions = cli.load_options(ClusterOptions, self.cluster, {})
        return options


@dataclass(frozen=True, config=_STRICT)
class ClusterOptions:
    """What --cluster FILE.yaml may say: conf/cluster.yaml of a recipe."""

    threads: int = Field(default=1, ge=1, description="Threads of each part, and cores that are asked for.")
    memory_gib: float = Field(default=4.0, gt=0, description="Memory of each part.")
    minutes: int = Field(default=240, ge=1, description="Time limit of a part, or of a worker of dask.")
    partition: str | None = Field(default=None, description="Partition or queue.")
    account: str | None = Field(default=None, description="Account or project that is charged.")
    setup: tuple[str, ...] = Field(default=(), description="Lines of shell before Python starts, as 'module load ..'.")
    slurm: dict[str, str | int] = Field(
        default_factory=dict, description="Further parameters of sbatch, by the names of its long options."
    )
    retries: int = Field(default=2, ge=0, description="How often a part is started again whose job or worker was lost.")
    queue: Literal["local", "sge", "pbs", "lsf", "slurm"] = Field(
        default="local", description="dask: where workers are started; local: processes of this machine."
    )
    directives: tuple[str, ...] = Field(
        default=(),
        description="dask: further lines of the heads of workers' jobs, in the queue's words, such as '-pe smp 4'.",
    )
    scheduler: str | None = Field(
        default=None, description="dask: address of a scheduler that is running already, such as tcp://head:8786."
    )
    arrival_seconds: float = Field(
        default=60.0, ge=0, description="How long files of a part may take to show up on a shared disk."
    )
