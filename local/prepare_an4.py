#!/usr/bin/env python3
"""Prepares CMU AN4: OUT/{train_all,train,dev,test}, OUT/lexicon.txt, OUT/lm_text.txt, OUT/lm_text_train.txt.

train_all and test are the official parts. AN4 has no development part: train and dev split train_all by speakers, one
fold of
--folds being dev. The lexicon is etc/an4.dic; lm_text.txt holds the transcripts of train_all, lm_text_train.txt those
of train.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from corpus_root import find_corpus, preparation
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_lines

if TYPE_CHECKING:
    import numpy as np
    from lhotse import Recording
    from lhotse.cut import MonoCut

URL = "http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz"
RAW_RATE = 16000  # Hz, of the headerless files
SUFFIXES = (".flac", ".sph", ".wav", ".raw")
_LINE = re.compile(r"(?P<words>.*)\((?P<utterance>[^()\s]+)\)$")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class An4Options:
    """How the training speakers are split."""

    folds: int = Field(
        8, ge=2, le=20, description="Groups of training speakers, each with as many women and men as can be."
    )
    dev_fold: int = Field(
        0, ge=0, description="The group that is dev, 0 to folds - 1; run through all of them to cross-validate."
    )


def prepare(root: Path, work_dir: Path, final_dir: Path, options: An4Options) -> dict:
    """Write the parts, the lexicon and the text; returns facts for the stamp."""
    from pipeline.artifacts.corpus import save_data_dir

    if options.dev_fold >= options.folds:
        raise DataError(f"--dev-fold {options.dev_fold}: there are folds 0 to {options.folds - 1}")
    fillers = {line.split()[0] for _, line in read_lines(root / "etc" / "an4.filler") if line}
    known = write_lexicon(root / "etc" / "an4.dic", work_dir / "lexicon.txt", fillers)
    parts = {"train_all": list(read_part(root, "train", fillers, known, work_dir, final_dir))}
    parts["test"] = list(read_part(root, "test", fillers, known, work_dir, final_dir))
    dev = dev_speakers({cut.supervisions[0].speaker for cut in parts["train_all"]}, options)
    parts["dev"] = [cut for cut in parts["train_all"] if cut.supervisions[0].speaker in dev]
    parts["train"] = [cut for cut in parts["train_all"] if cut.supervisions[0].speaker not in dev]
    for part, cuts in parts.items():
        save_data_dir(work_dir / part, cuts)
    for name, part in (("lm_text.txt", "train_all"), ("lm_text_train.txt", "train")):
        with atomic_write(work_dir / name) as text:
            text.writelines(f"{cut.supervisions[0].text}\n" for cut in parts[part])
    return {"utterances": {part: len(cuts) for part, cuts in parts.items()}, "words": len(known)}


def write_lexicon(source: Path, target: Path, fillers: set[str]) -> set[str]:
    """Write ``WORD phone ...`` lines, variants as lines of their own; returns the words."""
    entries = []
    for line_no, line in read_lines(source):
        word, *phones = line.split() or [""]
        word = re.sub(r"\(\d+\)$", "", word)
        if not word or word in fillers:
            continue
        if not phones:
            raise DataError(f"{source}:{line_no}: word {word!r} has no phones")
        entries.append((word, " ".join(phones)))
    with atomic_write(target) as out:
        out.writelines(f"{word} {phones}\n" for word, phones in entries)
    return {word for word, _ in entries}


def read_part(
    root: Path, part: str, fillers: set[str], known: set[str], work_dir: Path, final_dir: Path
) -> Iterator[MonoCut]:
    """Yield the utterances of an official part; ids put the speaker first, as in Kaldi: ``fash-an251-b``."""
    from pipeline.artifacts.corpus import utterance

    transcripts = {}
    text_file = root / "etc" / f"an4_{part}.transcription"
    for line_no, line in read_lines(text_file):
        match = _LINE.match(line)
        if match is None:
            raise DataError(f"{text_file}:{line_no}: needs 'WORDS (utterance)'")
        words = [word for word in match["words"].split() if word not in fillers]
        unknown = [word for word in words if word not in known]
        if unknown:
            raise DataError(f"{text_file}:{line_no}: word {unknown[0]!r} is not in etc/an4.dic")
        if not words:
            raise DataError(f"{text_file}:{line_no}: empty transcript")
        transcripts[match["utterance"]] = " ".join(words)
    ids_file = root / "etc" / f"an4_{part}.fileids"
    for line_no, line in read_lines(ids_file):
        if not line:
            continue
        relative = Path(line)
        speaker, name = relative.parent.name, relative.name
        if name not in transcripts:
            raise DataError(f"{ids_file}:{line_no}: {name!r} has no line in {text_file.name}")
        utt_id = "-".join([speaker] + [piece for piece in name.split("-") if piece != speaker])
        recording = find_audio(root / "wav" / relative, f"{ids_file}:{line_no}", utt_id, work_dir, final_dir)
        yield utterance(utt_id, recording, transcripts[name], speaker, language="English")


def find_audio(stem: Path, where: str, utt_id: str, work_dir: Path, final_dir: Path) -> Recording:
    """The recording of a file named without its suffix; SPHERE and headerless audio, which lhotse does not read, is
    copied to FLAC.
    """
    import soundfile

    from pipeline.artifacts.corpus import audio_recording, store_audio

    path = next((path for path in (stem.with_name(stem.name + suffix) for suffix in SUFFIXES) if path.is_file()), None)
    if path is None:
        raise DataError(f"{where}: no audio file {stem}{{{','.join(SUFFIXES)}}}")
    if path.suffix in (".flac", ".wav"):
        return audio_recording(utt_id, path)
    if path.suffix == ".raw":
        samples, rate = read_raw(path), RAW_RATE
    else:
        try:
            samples, rate = soundfile.read(str(path), dtype="int16")
        except soundfile.LibsndfileError as err:
            raise DataError(f"{path}: not a readable audio file ({err.error_string})") from None
    relative = Path("audio", f"{utt_id}.flac")
    return store_audio(utt_id, samples, rate, work_dir / relative, final_dir / relative)


def read_raw(path: Path) -> np.ndarray:
    """Read headerless 16-bit audio of either byte order; int16 (T,)."""
    import numpy as np

    raw = path.read_bytes()
    if len(raw) < 4 or len(raw) % 2:
        raise DataError(f"{path}: {len(raw)} bytes are no 16-bit audio")
    # Audio in the wrong byte order is noise: its neighbouring samples differ much more.
    return min((np.frombuffer(raw, order) for order in ("<i2", ">i2")), key=roughness).astype(np.int16)


def roughness(samples: np.ndarray) -> float:
    """Mean absolute difference of neighbouring samples."""
    import numpy as np

    return float(np.abs(np.diff(samples.astype(np.float64))).mean())


def dev_speakers(speakers: set[str], options: An4Options) -> set[str]:
    """Speakers of the dev fold; the first letter of a speaker id is the sex, and each fold gets its share of both."""
    ordered = sorted(speakers)
    return {speaker for number, speaker in enumerate(ordered) if number % options.folds == options.dev_fold}


main = preparation(
    "prepare_an4",
    __doc__,
    An4Options,
    lambda given: find_corpus("an4", given, lambda path: (path / "etc" / "an4_train.fileids").is_file(), URL),
    prepare,
    "Folder with etc/ and wav/: SPHERE, raw, WAV or FLAC.",
)

if __name__ == "__main__":
    main()
