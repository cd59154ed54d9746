"""A corpus in one report: what cannot go in and why, its text, the words that a lexicon or a model lacks."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.artifacts.corpus import iter_cuts, validate_data_dir
from pipeline.artifacts.features import FEATURES_JSON
from pipeline.artifacts.lexicon_formats import read_lexicon, read_words
from pipeline.artifacts.oov import WAYS_OUT, UnknownWords
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.files import read_lines
from pipeline.corpora import importer
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.source import LeftOut
from pipeline.tasks.align_corpus import import_options, is_data_dir
from pipeline.tasks.aligner import Aligner


@dataclass
class Report:
    """What was found.

    Attributes:
        lines: what there is, in sentences. problems: what has to be mended before the corpus can be used.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def validate(
    source: Path,
    options: ImportOptions,
    root: Path | None = None,
    lexicon: Path | None = None,
    packed: Path | None = None,
) -> Report:
    """Checks a corpus as its import would, all its audio decoded, and as an alignment with a packed model would.

    Args:
        source: a data directory, or what `pipeline.corpora` reads; the latter is converted into a temporary directory.
        options: of the import; a share of utterances above max_bad that cannot go in is a problem.
        root: see ``import_corpus``.
        lexicon: its words are compared with those of the corpus; with a model, pronunciations that come before its own.
        packed: a packed model.
    """
    report = Report()
    with tempfile.TemporaryDirectory(prefix="fullsum-") as scratch:
        work = Path(scratch)
        aligner = None if packed is None else Aligner.load(packed, work / "model")
        if aligner is not None:
            as_aligned = import_options(aligner.card.language or None, rate=aligner.sampling_rate)
            same = {name: getattr(as_aligned, name) for name in ("rate", "language", "digits")}
            options = replace(options, **{n: value for n, value in same.items() if getattr(options, n) is None})
        data = source
        if is_data_dir(source):
            _check_data_dir(source, report)
        else:
            data = work / "data"
            data.mkdir()
            _check_import(source, root, data, options, report)
        if report.problems and not report.lines:
            return report  # nothing of it can be read any further
        words = Counter(w for _, cut in iter_cuts(data) for w in str(cut["supervisions"][0]["text"]).split())
        if aligner is None and lexicon is not None:
            _check_words(words, UnknownWords(set(read_words(lexicon, options.lexicon_format)), str(lexicon)), report)
        if aligner is not None:
            _check_model(aligner, data, words, lexicon, options, report)
    return report


def _check_data_dir(source: Path, report: Report) -> None:
    """Manifests, audio and features of a data directory."""
    from pipeline.feats.dataset import validate_feats

    try:
        facts = validate_data_dir(source, decode=True)
        told = f"{facts.num_utterances:,} utterances, {facts.num_speakers:,} speakers, {facts.seconds / 60:.1f} min"
        report.lines.append(f"{source}: a data directory; {told}, {facts.sampling_rate} Hz")
        if (source / FEATURES_JSON).is_file():
            feats = validate_feats(source)
            report.lines.append(f"features: {feats.num_frames:,} frames of {feats.dim} {feats.type}")
    except DataError as err:
        report.problems.append(str(err))


def _check_import(source: Path, root: Path | None, data: Path, options: ImportOptions, report: Report) -> None:
    """What the import of a corpus leaves out, by kind."""
    out, facts = LeftOut(), None
    try:
        with _quiet():
            facts = importer.import_corpus(source, root, data, data, replace(options, max_bad=1.0))
    except DataError as err:
        if not (data / importer.LEFT_OUT).is_file():
            raise
        message = str(err)
    for _, line in read_lines(data / importer.LEFT_OUT):
        if line:
            out.add(*line.split("\t", 2))
    if facts is None:
        report.problems.append(f"no utterance can go in:\n{out.summary()}" if out.total else message)
        return
    told = f"{facts['utterances']:,} utterances, {facts['speakers']:,} speakers, {60 * facts['hours']:.1f} min"
    report.lines.append(f"{source}: read as {facts['format']}; {told}, {facts['sampling_rate']} Hz")
    report.lines += [f"text: {kind}: {count:,} transcripts" for kind, count in facts["text"].items()]
    if facts["new_ids"]:
        report.lines.append(f"{facts['new_ids']:,} ids have characters that they cannot keep")
    if facts["bad_times"]:
        report.lines.append(f"{facts['bad_times']:,} utterances: times of words or phones overlap or are outside")
    if out.total:
        share = out.total / (out.total + facts["utterances"])
        told = f"{out.total:,} utterances ({share:.1%}) cannot go in:\n{out.summary()}"
        (report.problems if share > options.max_bad else report.lines).append(told)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The import's own messages name files that go with the temporary directory; the report says the same."""
    logger = logging.getLogger(importer.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_words(words: Counter[str], unknown: UnknownWords, report: Report) -> None:
    unknown.add(words.elements())
    if unknown.counts:
        report.lines.append(f"{unknown.report()}; {WAYS_OUT}")
    else:
        report.lines.append(f"all {unknown.num_words:,} words have a pronunciation")


def _check_model(
    aligner: Aligner, data: Path, words: Counter[str], lexicon: Path | None, options: ImportOptions, report: Report
) -> None:
    """Whether a packed model could align the corpus."""
    own = None if lexicon is None else read_lexicon(lexicon, options.lexicon_format)
    try:
        aligner.check_rate(data)
    except ConfigError as err:
        report.problems.append(str(err))
    unknown = aligner.unknown_words(words.keys(), own)
    name = aligner.card.name
    if not unknown:
        report.lines.append(f"{name}: has pronunciations of all {len(words):,} different words")
        return
    count = sum(words[word] for word in unknown)
    shown = ", ".join(sorted(unknown)[:5])
    told = f"{name}: {count:,} of {sum(words.values()):,} words, {len(unknown):,} of {len(words):,} different ones"
    try:
        aligner.pronounce(unknown, own)
    except DataError as err:
        report.problems.append(f"{told}, are not in its lexicon ({shown}); {err}")
    else:
        report.lines.append(f"{told}, are pronounced from their letters ({shown})")
