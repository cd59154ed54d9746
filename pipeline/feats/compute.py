"""Compute the features of a data directory and write them as a data directory with features."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.corpus import as_cut, checked_cuts, cut_entry, load_samples, save_data_dir
from pipeline.artifacts.cut_checks import LOUDEST
from pipeline.artifacts.cut_spool import CutSpool
from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.index import load_index
from pipeline.base.errors import DataError
from pipeline.base.files import read_jsonl, write_jsonl
from pipeline.base.log import progress_of
from pipeline.feats.cmvn import CmvnStats, frame_sums
from pipeline.feats.options import FeatureOptions
from pipeline.parallel.options import ParallelOptions
from pipeline.parallel.parts import Done, Part, as_json, in_process
from pipeline.parallel.run import done_in_parts

if TYPE_CHECKING:
    from lhotse.cut import MonoCut
    from lhotse.features import FeatureExtractor

    from pipeline.feats.storage import PackedFramesWriter

logger = logging.getLogger(__name__)

FRAMES = "feats.bin"
# Of a part: cuts with features whose frames are counted from the part's own, and the sums of each cut's frames.
_CUTS, _SUMS = "cuts.jsonl", "sums.bin"
LONG_SECONDS = 600.0  # of audio whose features are computed at once
AT_ONCE, SECONDS_AT_ONCE = 16, 3600.0  # utterances that the threads share, at most, and their audio, or one
CHUNK_FRAMES = 12_000  # of longer audio
_COPIED = 16 << 20  # bytes at once

PRELOAD = ("lhotse", "pipeline.feats.storage", "torch")


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


def true_shift(options: FeatureOptions, sampling_rate: int) -> float:
    """Seconds from one frame to the next: a whole number of samples, rounded as the extractors do."""
    wanted = options.frame_shift * sampling_rate
    samples = round(wanted) if options.type == "gammatone" else int(wanted)
    return options.frame_shift if abs(samples - wanted) < 1e-6 else samples / sampling_rate


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
    from pipeline.feats.storage import PackedFramesWriter

    with checked_cuts(data_in, work_dir, check_audio=True) as cuts:
        extractor = make_extractor(options, as_cut(cuts[0]).sampling_rate)
        with PackedFramesWriter(work_dir / FRAMES, options.precision) as writer:
            computed = _computed(cuts, extractor, options, writer)
            return _finish(computed, extractor.config.to_dict(), work_dir, final_dir, options)


def compute_in_parts(
    data_in: Path, work_dir: Path, final_dir: Path, options: FeatureOptions, parallel: ParallelOptions
) -> FeatureFacts:
    """As ``compute_feats``, with the same bytes, in parts that run side by side."""
    if in_process(parallel, work_dir):
        return compute_feats(data_in, work_dir, final_dir, options)
    load_index(data_in)  # checks the manifest as a whole, and the parts find it
    arguments = {"data": str(data_in.resolve()), "options": as_json(options)}
    with done_in_parts(compute_part, arguments, work_dir, parallel) as parts:
        return merge_parts(parts, data_in, work_dir, final_dir, options)


def compute_part(part: Part, out: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Features of a part of the utterances, see ``pipeline.parallel.parts.Work``.

    Args:
        arguments: "data" and "options", those of ``compute_feats``.
    """
    from pipeline.feats.storage import PackedFramesWriter

    data_in, options = Path(arguments["data"]), FeatureOptions(**arguments["options"])
    index = load_index(data_in)
    lines = index.lines[part.of_costs(index.durations)]
    if not len(lines):
        return {}
    with (
        checked_cuts(data_in, out, check_audio=True, lines=range(int(lines[0]), int(lines[-1]) + 1)) as cuts,
        PackedFramesWriter(out / FRAMES, options.precision) as writer,
        open(out / _SUMS, "wb") as sums,
    ):
        extractor = make_extractor(options, index.sampling_rate)

        def entries() -> Iterator[dict[str, Any]]:
            for entry, summed in _computed(cuts, extractor, options, writer):
                sums.write(summed.tobytes())
                yield entry

        write_jsonl(out / _CUTS, entries())
    return {"extractor": extractor.config.to_dict()}


def merge_parts(
    parts: Sequence[Done], data_in: Path, work_dir: Path, final_dir: Path, options: FeatureOptions
) -> FeatureFacts:
    """Writes from the parts what ``compute_feats`` would have written, byte by byte."""
    extractor = next(part.facts["extractor"] for part in parts if part.facts)
    with open(work_dir / FRAMES, "wb") as frames:

        def entries() -> Iterator[tuple[dict[str, Any], npt.NDArray[np.float64]]]:
            before = 0
            for place in (part.directory for part in parts if (part.directory / FRAMES).is_file()):
                with open(place / FRAMES, "rb") as own:
                    shutil.copyfileobj(own, frames, _COPIED)
                for entry, sums in zip(read_jsonl(place / _CUTS), _summed(place / _SUMS, options.feature_dim)):
                    first, num_frames, *rest = entry["features"]["storage_key"].split(",")
                    entry["features"]["storage_key"] = ",".join([str(before + int(first)), num_frames, *rest])
                    yield entry, sums
                before += int(first) + int(num_frames)

        return _finish(entries(), extractor, work_dir, final_dir, options)


def _summed(path: Path, dim: int) -> Iterator[npt.NDArray[np.float64]]:
    with open(path, "rb") as file:
        while block := file.read(3 * dim * 8):
            yield np.frombuffer(block, dtype=np.float64).reshape(3, dim)


def _computed(
    cuts: CutSpool,
    extractor: FeatureExtractor,
    options: FeatureOptions,
    writer: PackedFramesWriter,
) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.float64]]]:
    """Writes the features of cuts; yields the cuts with their places and the sums of their frames."""
    import torch

    with _workers() as pool, progress_of(len(cuts), "features") as done:
        for some in _some_at_once(cuts):
            for cut, feats in zip(some, pool.map(lambda cut: _extract(cut, extractor, options), some)):
                shift = true_shift(options, cut.sampling_rate)
                cut = _with_features(cut, extractor, shift, feats.shape, writer.write(cut.id, feats))
                yield cut_entry(cut), frame_sums(torch.from_numpy(feats))
                done(1)


def _some_at_once(cuts: CutSpool) -> Iterator[list[MonoCut]]:
    """The cuts in order; samples and features of an hour take half a gigabyte, and every thread may have one."""
    some: list[MonoCut] = []
    seconds = 0.0
    for i in range(len(cuts)):
        cut = as_cut(cuts[i])
        if some and (len(some) == AT_ONCE or seconds + cut.duration > SECONDS_AT_ONCE):
            yield some
            some, seconds = [], 0.0
        some.append(cut)
        seconds += cut.duration
    if some:
        yield some


def _finish(
    computed: Iterable[tuple[dict[str, Any], npt.NDArray[np.float64]]],
    extractor: dict[str, Any],
    work_dir: Path,
    final_dir: Path,
    options: FeatureOptions,
) -> FeatureFacts:
    """Writes everything of a data directory but the frames; the sums come in the order of the data, whatever made
    them.
    """
    place = str(Path(final_dir).resolve() / FRAMES)
    stats, num_frames = CmvnStats(options.feature_dim), 0

    def entries() -> Iterator[dict[str, Any]]:
        nonlocal num_frames
        for entry, sums in computed:
            stats.add_sums(entry["supervisions"][0]["speaker"], sums)
            num_frames += entry["features"]["num_frames"]
            entry["features"]["storage_path"] = place
            yield entry

    num_utterances = save_data_dir(work_dir, entries())
    stats.save(work_dir)
    facts = FeatureFacts(
        type=options.type,
        dim=options.feature_dim,
        frame_shift=true_shift(options, extractor["sampling_rate"]),
        window=options.window,
        frame_offset=frame_offset(options, extractor["sampling_rate"]),
        sampling_rate=extractor["sampling_rate"],
        num_utterances=num_utterances,
        num_frames=num_frames,
        extractor={**extractor, "dither": options.dither, "device": "cpu"},
    )
    facts.save(work_dir)
    load_index(work_dir)  # made here, where there is time, and found by the steps that read the features
    return facts


@contextlib.contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch has here, each with an utterance of its own, which is too small for more; so sums do not
    depend on the machine.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(before, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # part of the setting is shared by all threads


def _extract(cut: MonoCut, extractor: FeatureExtractor, options: FeatureOptions) -> np.ndarray:
    """Features of one utterance, float32 (T, F)."""
    if cut.duration < options.window:
        raise DataError(f"utterance {cut.id!r} lasts {cut.duration} s, shorter than one window of {options.window} s")
    samples = load_samples(cut)
    _check_level(cut, samples)
    if options.dither:
        noise = np.random.default_rng(zlib.crc32(cut.id.encode())).standard_normal(len(samples), dtype=np.float32)
        samples = samples + noise * np.float32(options.dither / 32768)
    feats = _in_chunks(samples, cut.sampling_rate, extractor, options)
    if not np.isfinite(feats).all():
        raise DataError(
            f"features of utterance {cut.id!r} are not finite; is its audio {cut.recording.sources[0].source} damaged?"
        )
    return feats


def _check_level(cut: MonoCut, samples: npt.NDArray[np.float32]) -> None:
    """Refuses integers that were stored as floating-point samples, and warns of utterances without any sound."""
    loudest = float(np.abs(samples).max(initial=0.0))
    source = cut.recording.sources[0].source
    if loudest > LOUDEST:
        raise DataError(
            f"utterance {cut.id!r}: samples up to {loudest:,.0f} in {source}, where 1 is full scale; "
            "steps/import_data.py converts audio"
        )
    if not loudest:
        logger.warning("utterance %r is digital silence: %s has no sound there", cut.id, source)


def _in_chunks(
    samples: npt.NDArray[np.float32], rate: int, extractor: FeatureExtractor, options: FeatureOptions
) -> npt.NDArray[np.float32]:
    """Features of (T,) samples; of long recordings some frames at a time, as the spectra of an hour take gigabytes.

    A chunk has further frames on either side, which are left out, so that each frame sees the samples that it would see
    in the whole.
    """
    if len(samples) <= LONG_SECONDS * rate or options.type == "gammatone":
        return np.asarray(extractor.extract(samples, rate), dtype=np.float32)
    size = int(options.frame_shift * rate)  # as lhotse's extractors have it, see true_shift
    beside = math.ceil(options.window * rate / size) + 1
    out, frame, end = [], 0, 0
    while end < len(samples):
        first = max(0, frame - beside)
        end = min(len(samples), (frame + CHUNK_FRAMES + beside) * size)
        part = np.asarray(extractor.extract(samples[first * size : end], rate), dtype=np.float32)
        last = len(part) if end == len(samples) else frame - first + CHUNK_FRAMES
        out.append(part[frame - first : last])
        frame += CHUNK_FRAMES
    return np.concatenate(out)


def _with_features(
    cut: MonoCut, extractor: FeatureExtractor, frame_shift: float, shape: tuple[int, ...], key: str
) -> MonoCut:
    """The cut with features; where their file will stand is filled in at the end."""
    from lhotse import Features
    from lhotse.utils import fastcopy

    features = Features(
        type=extractor.name,
        num_frames=shape[0],
        num_features=shape[1],
        frame_shift=frame_shift,
        sampling_rate=cut.sampling_rate,
        start=cut.start,
        duration=cut.duration,
        storage_type="packed_frames",
        storage_path="",
        storage_key=key,
        recording_id=cut.recording.id,
        channels=cut.channel,
    )
    return fastcopy(cut, features=features)
