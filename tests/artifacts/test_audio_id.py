"""Audio that is replaced under the same name and length is noticed by the steps that read it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.audio_id import audio_files, audio_id
from pipeline.artifacts.corpus import save_data_dir, store_audio, utterance
from pipeline.base.digests import Digests
from pipeline.base.errors import PipelineError

ROOT = Path(__file__).resolve().parents[2]


def store(audio: Path, name: str, seed: int) -> None:
    """Noise of a second at 8 kHz, coarse enough that all files of it have equal length."""
    samples = np.random.default_rng(seed).integers(-8000, 8000, 8000).astype(np.int16)
    return store_audio(name, samples, 8000, audio / f"{name}.flac", audio / f"{name}.flac")


@pytest.fixture
def data(tmp_path) -> Path:
    """Two utterances whose audio is elsewhere."""
    cuts = [utterance(n, store(tmp_path / "audio", n, i), "A B", "s") for i, n in enumerate(("u1", "u2"))]
    save_data_dir(tmp_path / "data", cuts)
    return tmp_path / "data"


def test_content_counts_and_nothing_else(tmp_path, data):
    audio = tmp_path / "audio"
    assert audio_files(data) == [str(audio / "u1.flac"), str(audio / "u2.flac")]
    before = audio_id(data, Digests())
    store(audio, "u2", 1)  # the same once more
    assert audio_id(data, Digests()) == before
    store(audio, "u2", 7)
    other = audio_id(data, Digests())
    (audio / "u2.flac").unlink()
    lost = audio_id(data, Digests())
    shutil.copy(audio / "u1.flac", audio / "u2.flac")
    assert len({before, other, lost, audio_id(data, Digests())}) == 4


@pytest.mark.parametrize("step", ["compute_feats", "add_noise"])
def test_steps_notice_replaced_audio(tmp_path, data, step):
    def run(*more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "steps" / f"{step}.py"), str(data), str(tmp_path / "out"), *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)

    def content() -> dict[str, bytes]:
        names = [p for p in (tmp_path / "out").rglob("*") if p.suffix in (".bin", ".flac")]
        return {p.name: p.read_bytes() for p in names}

    done = run()
    assert done.returncode == 0, done.stderr
    before = content()
    assert before and "up to date" in run().stderr
    store(tmp_path / "audio", "u2", 7)
    done = run()
    assert done.returncode == 2 and "was made from another 'audio' than there is now" in done.stderr
    assert run("--overwrite").returncode == 0 and content() != before
    (tmp_path / "audio" / "u2.flac").unlink()
    done = run("--overwrite")
    assert done.returncode == 2 and "u2.flac" in done.stderr


def test_audio_that_cannot_be_written(tmp_path):
    """libsndfile tells of a full or failing disk by an error of its own, which says nothing of it."""
    (tmp_path / "a.flac.partial").symlink_to("/dev/full")
    samples = np.random.default_rng(1).integers(-3000, 3000, 1 << 18).astype(np.int16)
    with pytest.raises(PipelineError, match="a.flac: cannot be written"):
        store_audio("a", samples, 8000, tmp_path / "a.flac", tmp_path / "a.flac")
    assert not (tmp_path / "a.flac").exists()
