"""Compute the features of a data directory and write them as a data directory with features."""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.artifacts.corpus import as_cut, checked_cuts, load_samples, save_data_dir
from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.index import load_index
from pipeline.base.errors import DataError
from pipeline.base.log import progress_of
from pipeline.feats.cmvn import CmvnStats
from pipeline.feats.options import FeatureOptions

if TYPE_CHECKING:
    from lhotse.cut import MonoCut
    from lhotse.features import FeatureExtractor

logger = logging.getLogger(__name__)

_CHUNK = 256  # utterances that wait in memory


def make_extractor(options: FeatureOptions, sampling_rate: int) -> FeatureExtractor:
    """Returns the lhotse extractor for the options; DataError if the audio's band is too small for them."""
    low, high = options.band
    top = high if high > 0 else sampling_rate / 2 + high
    if not low < top <= sampling_rate / 2:
        raise DataError(f"filters from {low} to {top} Hz do not fit a sampling rate of {sampling_rate} Hz")
    shared: dict[str, Any] = dict(
        sampling_rate=sampling_rate,
        frame_length=options.window,
        frame_shift=options.frame_shift,
        low_freq=low,
        high_freq=high,
    )
    if options.type == "gammatone":
        from pipeline.feats.gammatone import Gammatone, GammatoneConfig

        return Gammatone(GammatoneConfig(num_filters=options.feature_dim, **shared))
    from lhotse import Fbank, FbankConfig, Mfcc, MfccConfig

    if options.type == "fbank":
        return Fbank(FbankConfig(num_filters=options.feature_dim, **shared))
    return Mfcc(MfccConfig(num_ceps=options.feature_dim, num_filters=options.num_mel_bins, **shared))


def frame_offset(options: FeatureOptions, sampling_rate: int) -> float:
    """Centre of frame 0 in seconds.

    lhotse's extractors put (window - shift) / 2 mirrored samples before the first sample, rounded down; so frame i
    covers [i shift - pad, i shift - pad + window), and its centre is i shift + shift / 2 up to half a sample.
    """
    window, shift = int(options.window * sampling_rate), int(options.frame_shift * sampling_rate)
    return (window / 2 - (window - shift) // 2) / sampling_rate


def compute_feats(data_in: Path, work_dir: Path, final_dir: Path, options: FeatureOptions) -> FeatureFacts:
    """Compute and store the features of all utterances, with normalisation statistics per speaker.

    Args:
        data_in: data directory.
        work_dir: where the new data directory is written.
        final_dir: where it will stand; its manifests name the feature file there.
        options: kind of features.
    Returns:
        the facts, which stand in features.json as well.
    Raises:
        DataError: bad data, an utterance shorter than a window, features that are not finite.
    """
    import torch

    from pipeline.feats.storage import PackedFramesWriter

    with checked_cuts(data_in, work_dir, check_audio=True) as cuts:
        sampling_rate = as_cut(cuts[0]).sampling_rate
        extractor = make_extractor(options, sampling_rate)
        final_path = str(Path(final_dir).resolve() / "feats.bin")
        stats, num_frames = CmvnStats(options.feature_dim), 0
        with (
            _single_threaded_workers(options.num_jobs) as pool,
            PackedFramesWriter(work_dir / "feats.bin", options.precision) as writer,
            progress_of(len(cuts), f"features of {data_in}") as done,
        ):

            def computed() -> Iterator[MonoCut]:
                nonlocal num_frames
                for start in range(0, len(cuts), _CHUNK):
                    chunk = [as_cut(cuts[i]) for i in range(start, min(start + _CHUNK, len(cuts)))]
                    for cut, feats in zip(chunk, pool.map(lambda cut: _extract(cut, extractor, options), chunk)):
                        key = writer.write(cut.id, feats)
                        stats.add(cut.supervisions[0].speaker, torch.from_numpy(feats))
                        num_frames += len(feats)
                        yield _with_features(cut, extractor, feats.shape, final_path, key)
                    done(len(chunk))

            num_utterances = save_data_dir(work_dir, computed())
    stats.save(work_dir)
    facts = FeatureFacts(
        type=options.type,
        dim=options.feature_dim,
        frame_shift=options.frame_shift,
        window=options.window,
        frame_offset=frame_offset(options, sampling_rate),
        sampling_rate=sampling_rate,
        num_utterances=num_utterances,
        num_frames=num_frames,
        extractor={**extractor.config.to_dict(), "dither": options.dither, "device": "cpu"},
    )
    facts.save(work_dir)
    load_index(work_dir)  # made here, where there is time, and found by the steps that read the features
    return facts


@contextlib.contextmanager
def _single_threaded_workers(number: int) -> Iterator[ThreadPoolExecutor]:
    """Workers with one torch thread each: the work is spread over utterances, and sums do not depend on the machine."""
    import torch

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # part of the setting is shared by all threads


def _extract(cut: MonoCut, extractor: FeatureExtractor, options: FeatureOptions) -> np.ndarray:
    """Features of one utterance, float32 (T, F)."""
    if cut.duration < options.window:
        raise DataError(f"utterance {cut.id!r} lasts {cut.duration} s, shorter than one window of {options.window} s")
    samples = load_samples(cut)
    if options.dither:
        noise = np.random.default_rng(zlib.crc32(cut.id.encode())).standard_normal(len(samples), dtype=np.float32)
        samples = samples + noise * np.float32(options.dither / 32768)
    feats = np.asarray(extractor.extract(samples, cut.sampling_rate), dtype=np.float32)
    if not np.isfinite(feats).all():
        raise DataError(
            f"features of utterance {cut.id!r} are not finite; is its audio {cut.recording.sources[0].source} damaged?"
        )
    return feats


def _with_features(cut: MonoCut, extractor: FeatureExtractor, shape: tuple[int, ...], path: str, key: str) -> MonoCut:
    from lhotse import Features
    from lhotse.utils import fastcopy

    features = Features(
        type=extractor.name,
        num_frames=shape[0],
        num_features=shape[1],
        frame_shift=extractor.frame_shift,
        sampling_rate=cut.sampling_rate,
        start=cut.start,
        duration=cut.duration,
        storage_type="packed_frames",
        storage_path=path,
        storage_key=key,
        recording_id=cut.recording.id,
        channels=cut.channel,
    )
    return fastcopy(cut, features=features)
