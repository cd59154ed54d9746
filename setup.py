"""The packages, which are not all found by name: steps/ is installed as fullsum_steps. The rest is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pipeline", "pipeline.*"]), "fullsum_steps"],
    package_dir={"fullsum_steps": "steps"},
)
