"""Feature directories: extraction, time convention, normalisation, loading, and their checks on broken input."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import pydantic
import pytest
import soundfile
import torch

from pipeline.artifacts.corpus import audio_recording, checked_cuts, iter_cuts, load_cuts, save_data_dir, utterance
from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts
from pipeline.base.errors import DataError, MismatchError
from pipeline.base.files import read_json, read_jsonl, write_json, write_jsonl
from pipeline.feats.cmvn import CmvnStats
from pipeline.feats.compute import compute_feats, frame_offset, make_extractor
from pipeline.feats.dataset import Dataset, validate_feats
from pipeline.feats.options import FeatureOptions
from tests.feats.whole import load_whole

ROOT = Path(__file__).resolve().parents[2]
PLAIN = FeatLoadOptions(cmvn="none")
TYPES = ("mfcc", "fbank", "gammatone")


def make_data(folder: Path, rate: int = 16000, seconds: tuple[float, ...] = (0.5, 1.003, 0.31, 0.8)) -> Path:
    """Utterances of speaker a (two), b and c with noise of different levels."""
    cuts = []
    for i, (name, duration) in enumerate(zip(("a-1", "a-2", "b-1", "c-1"), seconds)):
        noise = np.random.default_rng(i).standard_normal(round(duration * rate))
        path = folder / "audio" / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(str(path), (noise * 1000 * (i + 1)).astype(np.int16), rate, subtype="PCM_16")
        cuts.append(utterance(name, audio_recording(name, path), "A B", name[0]))
    save_data_dir(folder / "data", cuts)
    return folder / "data"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def mfcc_dir(data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("mfcc")
    compute_feats(data_dir, out, out, FeatureOptions())
    return out


@pytest.fixture
def broken(mfcc_dir, tmp_path):
    """A copy of the feature directory whose manifests name its own feature file."""
    out = tmp_path / "feats"
    shutil.copytree(mfcc_dir, out)
    cuts = list(read_jsonl(out / "cuts.jsonl.gz"))
    for cut in cuts:
        cut["features"]["storage_path"] = str(out / "feats.bin")
    write_jsonl(out / "cuts.jsonl.gz", cuts)
    return out


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("rate", [16000, 8000])
def test_facts_and_shapes(kind, rate, tmp_path):
    data = make_data(tmp_path, rate)
    out = tmp_path / "feats"
    out.mkdir()
    facts = compute_feats(data, out, out, FeatureOptions(type=kind))
    assert facts == FeatureFacts.load(out) == validate_feats(out)
    assert (facts.type, facts.dim, facts.frame_shift, facts.window) == (
        kind,
        {"mfcc": 13, "fbank": 80, "gammatone": 50}[kind],
        0.01,
        0.025,
    )
    assert (facts.sampling_rate, facts.frame_offset, facts.num_utterances) == (rate, 0.005, 4)
    packed = load_whole(out, PLAIN)
    assert packed.offsets.diff().tolist() == [50, 100, 31, 80] and facts.num_frames == 261
    assert packed.feats.dtype == torch.float32 and packed.feats.shape == (261, facts.dim)
    assert packed.cut_ids == ("a-1", "a-2", "b-1", "c-1") and packed.speakers == ("a", "a", "b", "c")


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("rate", [22050, 11025])
def test_the_shift_is_the_one_that_frames_have(kind, rate, tmp_path):
    """10 ms are 220.5 samples at 22,050 Hz; the burst in the last second is found where it is."""
    data = make_data(tmp_path, rate, (0.5, 15.0))
    samples = np.zeros(15 * rate)
    samples[14 * rate : 14 * rate + 200] = 20_000 * (-1.0) ** (np.arange(200) // 5)
    soundfile.write(str(tmp_path / "audio" / "a-2.flac"), samples.astype(np.int16), rate, subtype="PCM_16")
    out = tmp_path / "feats"
    out.mkdir()
    facts = compute_feats(data, out, out, FeatureOptions(type=kind, high_freq=0))
    assert facts == validate_feats(out) and facts.frame_shift != 0.01
    feats = load_whole(out, PLAIN).feats[-round(15.0 / facts.frame_shift) :]
    loud = float((feats - feats[100]).abs().sum(1).argmax()) * facts.frame_shift + facts.frame_offset
    assert loud == pytest.approx(14.0 + 100 / rate, abs=0.013)  # with 10 ms it would be 32 ms late


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("rate, window, shift", [(16000, 0.025, 0.01), (8000, 0.025, 0.01), (16000, 0.032, 0.0125)])
def test_centre_of_frames(kind, rate, window, shift):
    """A short tone burst is loudest in the frames around it, and their weighted centre is the stated one."""
    options = FeatureOptions(type=kind, window=window, frame_shift=shift, dim=13 if kind == "mfcc" else 40, dither=0)
    extractor = make_extractor(options, rate)
    offset = frame_offset(options, rate)
    assert offset == pytest.approx(shift / 2, abs=0.5 / rate)
    rng = np.random.default_rng(0)
    errors = []
    for time in rng.uniform(0.3, 0.7, 12):
        signal = np.zeros(rate, np.float32)
        start = round(time * rate)
        signal[start - 20 : start + 20] = rng.standard_normal(40) * 0.5
        feats = extractor.extract(signal, rate)
        level = {"mfcc": lambda: feats[:, 0], "fbank": lambda: feats.mean(1), "gammatone": lambda: (feats**10).sum(1)}[
            kind
        ]()
        level = level.astype(np.float64) - np.median(level)
        frames = np.arange(len(level))
        window_frames = np.abs((frames + 0.5) * shift - time) < 2 * window
        weights = np.where(window_frames, np.maximum(level, 0), 0)
        errors.append((weights * (frames * shift + offset)).sum() / weights.sum() - time)
    assert abs(np.mean(errors)) < 0.001, np.mean(errors)


def test_gammatone_filters_answer_at_their_centres():
    """A tone at a filter's centre frequency is loudest in that filter, with gain 1 there."""
    from pipeline.feats.gammatone import Gammatone, GammatoneConfig, gammatone_filters, greenwood_frequencies

    config = GammatoneConfig(num_filters=20)
    centres = greenwood_frequencies(100, 7500, 20)
    assert (
        centres[0] == pytest.approx(100)
        and centres[-1] == pytest.approx(7500)
        and (np.diff(np.diff(centres)) > 0).all()
    )
    for i in (3, 10, 16):
        tone = 0.1 * np.sin(2 * np.pi * centres[i] * np.arange(16000) / 16000).astype(np.float32)
        feats = Gammatone(config).extract(tone, 16000)
        assert feats[50].argmax() == i
        assert feats[50, i] == pytest.approx((0.1 * 2 / np.pi) ** 0.1, rel=0.01)  # mean of a rectified sine, 10th root
    assert gammatone_filters(config).shape == (20, 640)


def test_gammatone_blocks_do_not_show():
    """Filtering block by block equals one long convolution."""
    from pipeline.feats.gammatone import Gammatone, GammatoneConfig, _frames, gammatone_filters, group_delays

    config = GammatoneConfig(num_filters=6)
    signal = np.random.default_rng(0).standard_normal(20000) * 0.1
    feats = Gammatone(config).extract(signal.astype(np.float32), 16000)
    window = np.hanning(400) / np.hanning(400).sum()
    for i, (taps, delay) in enumerate(zip(gammatone_filters(config), group_delays(config))):
        envelope = np.abs(np.convolve(signal, taps)[delay : delay + len(signal)])
        frames = _frames(torch.from_numpy(envelope), 400, 160).numpy() @ window
        np.testing.assert_allclose(feats[:, i], frames**0.1, rtol=1e-4)


def test_extraction_agrees_with_lhotse_on_a_cut(data_dir, tmp_path):
    from lhotse import Fbank, FbankConfig

    compute_feats(data_dir, tmp_path, tmp_path, FeatureOptions(type="fbank", dim=40, dither=0.0))
    cut = load_cuts(data_dir)["a-2"]
    expected = Fbank(FbankConfig(num_filters=40)).extract(cut.load_audio(), 16000)
    np.testing.assert_allclose(load_whole(tmp_path, PLAIN).of(1).numpy(), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(load_cuts(tmp_path)["a-2"].load_features(), load_whole(tmp_path, PLAIN).of(1).numpy())


def test_half_precision(data_dir, mfcc_dir, tmp_path):
    compute_feats(data_dir, tmp_path, tmp_path, FeatureOptions(precision="float16"))
    assert (tmp_path / "feats.bin").stat().st_size * 2 == (mfcc_dir / "feats.bin").stat().st_size
    torch.testing.assert_close(
        load_whole(tmp_path, PLAIN).feats, load_whole(mfcc_dir, PLAIN).feats, rtol=2e-3, atol=2e-3
    )


@pytest.mark.parametrize("norm_vars", [False, True])
@pytest.mark.parametrize("over", ["utterance", "speaker", "global"])
def test_normalisation(mfcc_dir, over, norm_vars):
    raw = load_whole(mfcc_dir, PLAIN)
    packed = load_whole(mfcc_dir, FeatLoadOptions(cmvn=over, norm_vars=norm_vars))
    groups = {"utterance": [[0], [1], [2], [3]], "speaker": [[0, 1], [2], [3]], "global": [[0, 1, 2, 3]]}[over]
    for group in groups:
        frames = torch.cat([packed.of(i) for i in group])
        before = torch.cat([raw.of(i) for i in group])
        torch.testing.assert_close(frames.mean(0), torch.zeros(13), atol=1e-4, rtol=0)
        spread = torch.ones(13) if norm_vars else before.std(0, unbiased=False)
        torch.testing.assert_close(frames.std(0, unbiased=False), spread, atol=1e-4, rtol=1e-4)


def test_global_normalisation_with_statistics_of_other_data(mfcc_dir, tmp_path):
    stats = CmvnStats(13)
    stats.add("x", torch.full((4, 13), 2.0) + torch.tensor([[-1.0], [1.0], [-1.0], [1.0]]))
    stats.save(tmp_path)
    loaded = CmvnStats.load(tmp_path)
    raw = load_whole(mfcc_dir, PLAIN)
    packed = load_whole(mfcc_dir, FeatLoadOptions(cmvn="global"), global_stats=loaded)
    torch.testing.assert_close(packed.feats, raw.feats - 2.0)


def test_order_of_transforms_and_dimension(mfcc_dir):
    from pipeline.feats.transforms import add_deltas, splice

    options = FeatLoadOptions(cmvn="speaker", deltas=2, splice_left=1, splice_right=2)
    base = load_whole(mfcc_dir, FeatLoadOptions(cmvn="speaker"))
    expected = splice(add_deltas(base.feats, base.offsets), base.offsets, 1, 2)
    packed = load_whole(mfcc_dir, options)
    torch.testing.assert_close(packed.feats, expected)
    assert packed.feats.shape[1] == options.output_dim(13) == 13 * 3 * 4


@pytest.mark.parametrize("max_frames", [1, 60, 150, 151, 10_000])
def test_pieces_equal_the_whole(mfcc_dir, max_frames):
    options = FeatLoadOptions(deltas=1)
    whole, data = load_whole(mfcc_dir, options), Dataset.open(mfcc_dir, options, cache_mib=0)
    pieces = list(data.pieces(max_frames))
    assert np.concatenate(pieces).tolist() == list(range(4))
    assert all(len(piece) == 1 or data.lens[piece].sum() <= max_frames for piece in pieces)
    torch.testing.assert_close(torch.cat([data.flat(piece) for piece in pieces]), whole.feats)


@pytest.mark.parametrize("cache_mib", [0, 2048])
def test_views_of_a_data_set(mfcc_dir, cache_mib):
    """Chosen utterances, pieces of utterances, batches, transformed features and moments, against the whole."""
    whole = load_whole(mfcc_dir, FeatLoadOptions())
    data = Dataset.open(mfcc_dir, FeatLoadOptions(), cache_mib=cache_mib)
    some = data.select([3, 1])
    assert some.ids == ["c-1", "a-2"] and some.select(np.array([False, True])).ids == ["a-2"]
    assert some.text(0) == data.text(3) and "cuts.jsonl.gz:4: utterance 'c-1'" in some.where(0)
    batch = some.batch(np.array([1, 0]))
    assert batch.lens.tolist() == [100, 80] and batch.num_frames == 180
    assert torch.equal(batch.feats[0], whole.of(1)) and torch.equal(batch.feats[1, :80], whole.of(3))
    assert batch.feats[1, 80:].abs().max() == 0
    pieces = some.chunks(30)
    assert pieces.lens.tolist() == [30, 30, 20, 30, 30, 30, 10] and pieces.ids[2:4] == ["c-1-60", "a-2-0"]
    assert torch.equal(torch.cat(pieces.each(np.array([5, 2]))), torch.cat([whole.of(1)[60:90], whole.of(3)[60:]]))
    doubled = some.mapped(lambda feats, rows: torch.cat([feats, feats * 2], 1), 26, cache_mib)
    assert torch.equal(doubled.flat(np.array([1])), torch.cat([whole.of(1), whole.of(1) * 2], 1))
    mean, variance = data.moments()
    wide = whole.feats.double()
    torch.testing.assert_close(mean, wide.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(variance, wide.var(0, unbiased=False), rtol=1e-12, atol=1e-12)


def test_selection_and_order(mfcc_dir):
    whole = load_whole(mfcc_dir, FeatLoadOptions())
    some = load_whole(mfcc_dir, FeatLoadOptions(), cut_ids=["c-1", "a-1"])
    assert some.cut_ids == ("c-1", "a-1") and some.speakers == ("c", "a")
    torch.testing.assert_close(some.of(0), whole.of(3))
    torch.testing.assert_close(some.of(1), whole.of(0))
    with pytest.raises(DataError, match="has no utterance 'z'"):
        load_whole(mfcc_dir, FeatLoadOptions(), cut_ids=["z", "a-1"])


def test_dither_makes_digital_silence_finite_and_is_fixed_by_the_id(tmp_path):
    path = tmp_path / "zero.flac"
    soundfile.write(str(path), np.zeros(16000, np.int16), 16000, subtype="PCM_16")
    save_data_dir(tmp_path / "data", [utterance(name, audio_recording(name, path), "A", "s") for name in ("u", "v")])
    out = tmp_path / "out"
    out.mkdir()
    compute_feats(tmp_path / "data", out, out, FeatureOptions())
    packed = load_whole(out, PLAIN)
    assert packed.of(0).std(0).min() > 0 and not torch.equal(packed.of(0), packed.of(1))


def test_features_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "nan.wav"
    signal = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    signal[4000] = np.nan
    soundfile.write(str(path), signal, 16000, subtype="FLOAT")
    save_data_dir(tmp_path / "data", [utterance("u1", audio_recording("u1", path), "A", "s")])
    with pytest.raises(DataError, match="features of utterance 'u1' are not finite"):
        compute_feats(tmp_path / "data", tmp_path, tmp_path, FeatureOptions())


@pytest.mark.parametrize("scale, outcome", [(0.0, "is digital silence"), (32768.0, "where 1 is full scale"), (1.0, "")])
def test_levels_that_no_recording_has(scale, outcome, tmp_path, caplog):
    data = make_data(tmp_path)
    (recording, *_) = load_cuts(data)
    path = Path(recording.recording.sources[0].source)
    samples, rate = soundfile.read(path, dtype="float32")
    soundfile.write(path, samples * scale, rate, format="WAV", subtype="FLOAT")
    out = tmp_path / "out"
    out.mkdir()
    if scale > 1:
        with pytest.raises(DataError, match=rf"utterance '{recording.id}': samples up to .*{outcome}"):
            compute_feats(data, out, out, FeatureOptions())
    else:
        compute_feats(data, out, out, FeatureOptions())
        assert (outcome in caplog.text) if outcome else "silence" not in caplog.text


def test_utterance_shorter_than_a_window(tmp_path):
    data = make_data(tmp_path, seconds=(0.5, 0.02, 0.5, 0.5))
    with pytest.raises(DataError, match="'a-2' lasts 0.02 s, shorter than one window"):
        compute_feats(data, tmp_path, tmp_path, FeatureOptions())


def test_filters_above_the_band(data_dir, tmp_path):
    with pytest.raises(DataError, match="do not fit a sampling rate of 16000 Hz"):
        compute_feats(data_dir, tmp_path, tmp_path, FeatureOptions(high_freq=9000))


@pytest.mark.parametrize("wrong", [dict(dim=24), dict(window=0.005), dict(type="plp"), dict(colour=1)])
def test_wrong_options(wrong):
    with pytest.raises(pydantic.ValidationError):
        FeatureOptions(**wrong)


def test_directory_without_features(data_dir):
    with pytest.raises(DataError, match="has no features"):
        load_whole(data_dir, PLAIN)


def test_truncated_feature_file(broken):
    content = (broken / "feats.bin").read_bytes()
    (broken / "feats.bin").write_bytes(content[:-4])
    with pytest.raises(DataError, match="feats.bin: ends after 13568 bytes, before the features of utterance 'c-1' do"):
        load_whole(broken, PLAIN)
    (broken / "feats.bin").unlink()
    with pytest.raises(DataError, match="feats.bin: no such file"):
        load_whole(broken, PLAIN)


def test_stored_nan_names_the_utterance(broken):
    values = np.fromfile(broken / "feats.bin", "<f4").reshape(261, 13)
    values[170, 3] = np.inf  # frame 20 of the third utterance
    values.tofile(broken / "feats.bin")
    with pytest.raises(DataError, match="utterance 'b-1' are not finite"):
        load_whole(broken, PLAIN)


def test_utterance_without_features(broken):
    cuts = list(read_jsonl(broken / "cuts.jsonl.gz"))
    del cuts[1]["features"]
    write_jsonl(broken / "cuts.jsonl.gz", cuts)
    with pytest.raises(DataError, match=r"cuts\.jsonl\.gz:2: utterance 'a-2' has no features"):
        load_whole(broken, PLAIN)


def test_features_of_another_dimension(broken):
    write_json(broken / "features.json", {**read_json(broken / "features.json"), "dim": 40})
    with pytest.raises(DataError, match="13 features, features.json says 40"):
        load_whole(broken, PLAIN)


def test_wrong_count_in_facts(broken):
    write_json(broken / "features.json", {**read_json(broken / "features.json"), "num_frames": 7})
    with pytest.raises(DataError, match="states 7 frames, there are 261"):
        validate_feats(broken)


def test_frames_that_do_not_last_as_long_as_the_audio(broken):
    write_json(broken / "features.json", {**read_json(broken / "features.json"), "frame_shift": 0.0125})
    with pytest.raises(DataError, match="utterance 'a-1' lasts 0.5 s, its 50 frames do not"):
        validate_feats(broken)


def test_band_by_type():
    assert FeatureOptions().band == FeatureOptions(type="fbank").band == (20.0, -400.0)
    assert FeatureOptions(type="gammatone").band == (100.0, -500.0)
    assert FeatureOptions(low_freq=0, high_freq=3000).band == (0.0, 3000.0)


def test_incomplete_facts(broken):
    entry = read_json(broken / "features.json")
    del entry["window"]
    write_json(broken / "features.json", entry)
    with pytest.raises(DataError, match="features.json: key 'window' is missing"):
        FeatureFacts.load(broken)


def test_speaker_without_statistics(broken):
    entry = read_json(broken / "cmvn.json")
    del entry["speakers"]["b"]
    write_json(broken / "cmvn.json", entry)
    with pytest.raises(DataError, match="cmvn.json: nothing of speaker 'b'"):
        load_whole(broken, FeatLoadOptions())


def test_two_kinds_of_features_do_not_mix(mfcc_dir):
    facts = FeatureFacts.load(mfcc_dir)
    facts.kind.check_same(dataclasses.replace(facts, num_frames=1).kind, "a", "b")
    with pytest.raises(MismatchError, match="a and b do not belong together: dim of their features is 13 and 80"):
        facts.kind.check_same(dataclasses.replace(facts, dim=80).kind, "a", "b")


def test_step_runs_once_and_validates(data_dir, tmp_path, run_script):
    step = [
        sys.executable,
        ROOT / "steps" / "compute_feats.py",
        data_dir,
        tmp_path / "out",
        "--type",
        "fbank",
        "--dim",
        "40",
    ]
    first = run_script(*step)
    assert first.returncode == 0, first.stderr
    again = run_script(*step, "--jobs", "2")
    assert again.returncode == 0 and "up to date" in again.stderr
    assert run_script(*step, "--dim", "23").returncode == 2
    checked = run_script(sys.executable, ROOT / "utils" / "validate_data.py", tmp_path / "out")
    assert checked.returncode == 0 and "261 frames of 40 fbank" in checked.stdout
    (tmp_path / "out" / "feats.bin").write_bytes(b"")
    assert run_script(sys.executable, ROOT / "utils" / "validate_data.py", tmp_path / "out").returncode == 2


def test_threads_share_so_much_audio_at_most(tmp_path, monkeypatch):
    """The features are the same however many utterances are computed at once."""
    from pipeline.feats import compute

    data = make_data(tmp_path)
    seconds = [cut["duration"] for _, cut in iter_cuts(data)]
    found = {}
    for limit, groups in ((3600.0, [4]), (max(seconds), None), (0.1, [1, 1, 1, 1])):
        monkeypatch.setattr(compute, "SECONDS_AT_ONCE", limit)
        with checked_cuts(data, tmp_path) as cuts:
            sizes = [[cut.duration for cut in some] for some in compute._some_at_once(cuts)]
        assert sum(sizes, []) == seconds and all(len(s) == 1 or sum(s) <= limit for s in sizes)
        assert groups is None or [len(s) for s in sizes] == groups
        out = tmp_path / f"feats{limit}"
        out.mkdir()
        compute_feats(data, out, out, FeatureOptions())
        found[limit] = (out / "feats.bin").read_bytes()
    assert len(set(found.values())) == 1


@pytest.mark.parametrize("kind", ["mfcc", "fbank"])
@pytest.mark.parametrize(
    "rate, window, shift",
    [(16000, 0.025, 0.01), (8000, 0.015, 0.01), (16000, 0.032, 0.0125), (11025, 0.025, 0.01), (22050, 0.025, 0.01)],
)
def test_chunks_of_long_audio_do_not_show(kind, rate, window, shift, monkeypatch):
    from pipeline.feats import compute

    options = FeatureOptions(type=kind, window=window, frame_shift=shift, dither=0.0)
    extractor = compute.make_extractor(options, rate)
    longest: list[int] = []
    extract = extractor.extract
    monkeypatch.setattr(extractor, "extract", lambda x, rate: longest.append(len(x)) or extract(x, rate))
    for length in (rate * 3, rate * 3 + 1, rate * 3 + 77, rate * 3 + 159):
        samples = np.random.default_rng(length).standard_normal(length).astype(np.float32)
        whole = compute._in_chunks(samples, rate, extractor, options)
        monkeypatch.setattr(compute, "LONG_SECONDS", 1.0)
        for frames in (1, 7, 100, 239, 240):
            monkeypatch.setattr(compute, "CHUNK_FRAMES", frames)
            longest.clear()
            chunks = compute._in_chunks(samples, rate, extractor, options)
            assert max(longest) <= (frames + 10) * shift * rate, "some frames at a time"
            assert chunks.shape == whole.shape and np.abs(chunks - whole).max() < 1e-4, (length, frames)
        monkeypatch.setattr(compute, "LONG_SECONDS", 600.0)
