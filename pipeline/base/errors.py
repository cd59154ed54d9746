"""What can go wrong through no fault of the code: every class here ends a step with exit code 2."""

from __future__ import annotations


class PipelineError(Exception):
    """An error whose message tells the user what to change; anything else that is raised is a bug."""


class DataError(PipelineError):
    """The user's data is wrong. The message starts with where: ``lexicon.txt:17: word 'A' has no phones``."""


class MismatchError(DataError):
    """Two artifacts do not belong together (another topo, tree or lang); the message names both directories."""


class StaleError(PipelineError):
    """An output directory exists, made with other options or inputs than those given now."""


class ConfigError(PipelineError):
    """An option is unknown, missing, of the wrong type or out of its range."""
