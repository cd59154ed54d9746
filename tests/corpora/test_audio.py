"""Audio of every format: converted sample by sample, and every kind of damage named."""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.artifacts.audio_header import shortage
from pipeline.corpora.audio import AudioProblem, choose_channel, look, store
from pipeline.corpora.resample import resample
from tests.corpora.made import RATE, audio, lines, noise

LOSSLESS = {
    "wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "aiff": ("AIFF", "PCM_16"), "au": ("AU", "PCM_16"),
    "sph": ("NIST", "PCM_16"), "w64": ("W64", "PCM_16"), "caf": ("CAF", "PCM_16"), "rf64": ("RF64", "PCM_16"),
    "wav24": ("WAV", "PCM_24"), "float.wav": ("WAV", "FLOAT"), "double.wav": ("WAV", "DOUBLE"),
    "wavex": ("WAVEX", "PCM_16"), "NIST.WAV": ("NIST", "PCM_16"),
}  # fmt: skip
LOSSY = {"ulaw.sph": ("NIST", "ULAW"), "alaw.wav": ("WAV", "ALAW"), "ogg": ("OGG", "VORBIS"),
         "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III")}  # fmt: skip


def stored(path: Path, tmp_path: Path, rate: int = RATE, named: int | None = None, chosen=None):
    """(what was stored, its samples)."""
    facts = look(str(path))
    out = tmp_path / "out" / "x.flac"
    found = store(facts, choose_channel(facts, named, chosen), rate, "x", out, out)
    return found, soundfile.read(found.path, dtype="int16")[0]


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
def test_formats(tmp_path, name):
    form, subtype = {**LOSSLESS, **LOSSY}[name]
    path = audio(tmp_path / f"a.{name}", format=form, subtype=subtype)
    assert shortage(path) is None
    found, samples = stored(path, tmp_path)
    expected = noise(path.name, 0.5)
    assert found.samples == len(samples) == len(expected) and found.rate == RATE
    if name in LOSSLESS:
        assert (samples == expected).all()
        in_place = name in ("wav", "flac")
        assert (found.path == str(path)) == in_place and (tmp_path / "out").exists() != in_place
    else:
        assert np.corrcoef(samples, expected)[0, 1] > 0.5


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
def test_cut_files(tmp_path, name, share):
    """Each format, cut anywhere: noticed by its header, its decoder or the count of samples."""
    form, subtype = {**LOSSLESS, **LOSSY}[name]
    path = audio(tmp_path / f"a.{name}", seconds=3.0, format=form, subtype=subtype)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(AudioProblem) as err:
        stored(path, tmp_path)
    assert err.value.kind in ("audio cut short", "damaged audio", "not readable as audio", "empty audio file")
    assert str(path) in str(err.value) and not list(tmp_path.rglob("*.flac*"))[name == "flac" :]


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_wav_of_unknown_length(tmp_path, size):
    """Programs that write into a pipe do not know how long it will be."""
    path = audio(tmp_path / "a.wav")
    raw = bytearray(path.read_bytes())
    place = raw.index(b"data") + 4
    raw[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(raw)
    assert stored(path, tmp_path)[0].samples == RATE // 2


def test_header_that_promises_more(tmp_path):
    path = audio(tmp_path / "a.wav")
    raw = bytearray(path.read_bytes())
    place = raw.index(b"data") + 4
    raw[place : place + 4] = (2 * RATE).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(AudioProblem, match="header promises 32,000 bytes of samples, the file has 16,000"):
        look(str(path))


def float_wav(path: Path, samples: np.ndarray) -> Path:
    soundfile.write(str(path), samples, RATE, subtype="FLOAT")
    return path


DAMAGED = {
    "empty audio file": lambda p: p.write_bytes(b""),
    "not readable as audio": lambda p: p.write_text("this is a text"),
    "digital silence": lambda p: soundfile.write(str(p), np.zeros(RATE, dtype=np.int16), RATE),
    "samples out of scale": lambda p: float_wav(p, noise("x", 0.5).astype(np.float32)),
    "samples that are no numbers": lambda p: float_wav(p, np.full(RATE, np.nan, dtype=np.float32)),
    "no audio": lambda p: None,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage(tmp_path, kind):
    path = tmp_path / "a.wav"
    DAMAGED[kind](path)
    with pytest.raises(AudioProblem) as err:
        stored(path, tmp_path)
    assert err.value.kind == kind and str(path) in str(err.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_no_samples(tmp_path):
    for suffix in ("wav", "flac", "ogg"):
        path = tmp_path / f"a.{suffix}"
        soundfile.write(str(path), np.zeros(0, dtype=np.int16), RATE)
        with pytest.raises(AudioProblem) as err:
            stored(path, tmp_path)
        assert err.value.kind == "empty audio file"


def test_damage_inside(tmp_path):
    """A FLAC file with bytes changed in the middle."""
    path = audio(tmp_path / "a.flac", seconds=3.0)
    raw = bytearray(path.read_bytes())
    for place in range(len(raw) // 2, len(raw) // 2 + 4000):
        raw[place] ^= 0x5A
    path.write_bytes(raw)
    with pytest.raises(AudioProblem, match=r"a\.flac: "):
        stored(path, tmp_path)


def test_loud_floats_are_clipped_and_counted(tmp_path):
    wave = np.sin(np.arange(RATE) / 5).astype(np.float32) * 1.2
    found, samples = stored(float_wav(tmp_path / "a.wav", wave), tmp_path)
    assert found.clipped == np.count_nonzero(np.abs(np.rint(wave * 32768)) > 32768) > 0
    assert samples.max() == 32767 and samples.min() == -32768


def test_channels(tmp_path):
    path = audio(tmp_path / "a.wav", channels=2)
    both = noise("a.wav", 0.5, channels=2)
    for named, chosen, expected in ((0, None, both[:, 0]), (1, 0, both[:, 1]), (None, 1, both[:, 1])):
        assert (stored(path, tmp_path, named=named, chosen=chosen)[1] == expected).all()
    mean = np.rint(both.astype(np.float64).mean(axis=1))
    assert np.abs(stored(path, tmp_path, chosen="mean")[1] - mean).max() <= 1
    for named, chosen, kind in ((None, None, "several channels"), (2, None, "no such channel"), (None, 5, "no such")):
        with pytest.raises(AudioProblem) as err:
            stored(path, tmp_path, named=named, chosen=chosen)
        assert err.value.kind.startswith(kind)
    mono = audio(tmp_path / "b.wav")
    assert (stored(mono, tmp_path, chosen="mean")[1] == noise("b.wav", 0.5)).all()
    with pytest.raises(AudioProblem, match="has no channel 1, but 1"):
        stored(mono, tmp_path, named=1)


@pytest.mark.parametrize("old, new", [(44100, 16000), (48000, 16000), (8000, 16000), (22050, 16000), (16000, 8000)])
def test_resampling(old, new):
    """A tone keeps its phase and power, one above the band vanishes, and the cut into blocks does not matter."""
    time = np.arange(old) / old
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    whole = np.concatenate(list(resample([tone], old, new)))
    assert len(whole) == new
    expected = np.sin(2 * np.pi * 1000 * np.arange(new) / new)
    assert np.abs(whole - expected)[200:-200].max() < 2e-3
    rng = np.random.default_rng(0)
    pieces = np.split(rng.standard_normal(3 * old).astype(np.float32), np.sort(rng.integers(0, 3 * old, 7)))
    once = np.concatenate(list(resample([np.concatenate(pieces)], old, new)))
    assert (np.concatenate(list(resample(pieces, old, new))) == once).all()
    if new < old:
        high = np.sin(2 * np.pi * (new * 0.5 + 1500) * time).astype(np.float32)
        assert np.abs(np.concatenate(list(resample([high], old, new)))[200:-200]).max() < 1e-3


def shorten(tmp_path: Path) -> Path:
    """A SPHERE file whose header says that it is packed by shorten."""
    path = audio(tmp_path / "a.sph", format="NIST")
    raw = path.read_bytes()
    head = raw[:1024].replace(b"-s3 pcm", b"-s26 pcm,embedded-shorten-v2.00")[:1024]
    path.write_bytes(head + raw[1024:])
    return path


def test_shorten_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AudioProblem, match=r"a.sph: SPHERE coded as pcm,embedded-shorten.*ffmpeg, which may"):
        look(str(shorten(tmp_path)))


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    """Programs with the command lines of ffmpeg and ffprobe, which read .npy files of float32 samples (T, C)."""
    body = [
        f"#!{sys.executable}",
        "import json, sys, numpy as np",
        "name = sys.argv[-1] if 'ffprobe' in sys.argv[0] else sys.argv[sys.argv.index('-i') + 1]",
        "assert name.startswith('file:'), name",
        "try:",
        "    samples = np.load(name[5:])",
        "except ValueError:",
        "    sys.exit('Invalid data found when processing input')",
        "if 'ffprobe' in sys.argv[0]:",
        "    stream = {'sample_rate': '44100', 'channels': samples.shape[1]}",
        "    seconds = len(samples) / 44100 + ('long' in name)",
        "    print(json.dumps({'streams': [stream], 'format': {'duration': str(seconds)}}))",
        "else:",
        "    sys.stdout.buffer.write(samples.astype('<f4').tobytes())",
        "    sys.stdout.flush()",
        "    sys.exit('cut short' if 'bad' in name else 0)",
    ]
    for name in ("ffmpeg", "ffprobe"):
        program = lines(tmp_path / "bin" / name, *body)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def npy(path: Path, samples: np.ndarray) -> Path:
    buffer = io.BytesIO()
    np.save(buffer, samples.astype(np.float32))
    path.write_bytes(buffer.getvalue())
    return path


def test_what_ffmpeg_reads(tmp_path, fake_ffmpeg):
    wave = np.sin(np.arange(3 * 44100) / 20)[:, None] * [0.5, 0.25]
    path = npy(tmp_path / "a.m4a", wave)
    facts = look(str(path))
    assert (facts.by, facts.rate, facts.channels, facts.frames) == ("ffmpeg", 44100, 2, None)
    found, samples = stored(path, tmp_path, rate=44100, named=1)
    assert (samples == np.rint(wave[:, 1].astype(np.float32) * 32768)).all()
    assert stored(path, tmp_path, rate=16000, named=1)[0].samples == 48000
    with pytest.raises(AudioProblem, match=r"bad.m4a: damaged \(cut short\)"):
        stored(npy(tmp_path / "bad.m4a", wave), tmp_path, named=0)
    with pytest.raises(AudioProblem, match="digital silence|all .* zero"):
        stored(npy(tmp_path / "zero.m4a", 0 * wave), tmp_path, named=0)
    with pytest.raises(AudioProblem, match=r"long.m4a: 3.00 of 4.00 s can be decoded"):
        stored(npy(tmp_path / "long.m4a", wave), tmp_path, named=0)
    (tmp_path / "text.m4a").write_text("this is a text")
    with pytest.raises(AudioProblem, match="text.m4a: not a readable audio file"):
        look(str(tmp_path / "text.m4a"))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg here")
def test_real_ffmpeg(tmp_path):
    import subprocess

    source = audio(tmp_path / "a.wav", seconds=2.0)
    path = tmp_path / "a.m4a"
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(source), "-c:a", "alac", str(path)], check=True)
    found, samples = stored(path, tmp_path)
    assert (samples == noise("a.wav", 2.0)).all()
    short = tmp_path / "a.mkv"
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(source), "-c:a", "flac", str(short)], check=True)
    raw = short.read_bytes()
    short.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(AudioProblem, match="of 2.00 s can be decoded|damaged"):
        stored(short, tmp_path)
