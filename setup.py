"""The packages, not all of which are found by name: steps/ is installed as fullsum_steps. See pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pipeline", "pipeline.*"]), "fullsum_steps"],
    package_dir={"fullsum_steps": "steps"},
)
