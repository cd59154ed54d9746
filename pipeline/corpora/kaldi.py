"""Kaldi data directories: wav.scp, segments, reco2file_and_channel, text, utt2spk or spk2utt, spk2gender."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.artifacts.characters import WHOLE_NUMBER, named, odd_character, split_fields
from pipeline.base.errors import DataError
from pipeline.base.spool import JsonSpool
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.places import Places, roots_above
from pipeline.corpora.source import LeftOut, SourceAudio, SourceUtterance
from pipeline.corpora.text_files import text_lines

WAV_SCP = "wav.scp"
_ARCHIVE = re.compile(r".+:\d+$")  # a place in a file of several recordings
_GENDERS = {"m": "male", "f": "female"}


def is_kaldi(source: Path) -> bool:
    """Whether a directory is Kaldi's."""
    return (source / WAV_SCP).is_file() or ((source / "feats.scp").is_file() and (source / "text").is_file())


def read_kaldi(source: Path, root: Path | None, options: ImportOptions, out: LeftOut) -> Iterator[SourceUtterance]:
    """Utterances of a data directory: those of segments, or one for each recording.

    Args:
        root: directory that the paths of wav.scp start from; None: it is looked for, see `roots_above`.
    """
    if not (source / WAV_SCP).is_file():
        raise DataError(f"{source}: has no {WAV_SCP}; features of Kaldi alone cannot be imported")
    reader = _Reader(source, root, options, out)
    yield from reader.segments() if (source / "segments").is_file() else reader.recordings()
    reader.unused_transcripts()


class _Reader:
    def __init__(self, source: Path, root: Path | None, options: ImportOptions, out: LeftOut) -> None:
        self.source, self.options, self.out = source, options, out
        self.places = Places([root] if root is not None else roots_above(source), options.suffix)
        self.channels = dict(self._channels())
        self.speakers = self._speakers()
        self.texts = self._table("text", required=True)
        self.genders = dict(self._genders())
        self.used: set[str] = set()

    def lines(self, name: str) -> Iterator[tuple[str, str, str]]:
        """(file:line, first field, rest) of the lines of a file that are not empty."""
        for line_no, line in text_lines(self.source / name, self.options.encoding):
            key, _, rest = line.replace("\t", " ").partition(" ")
            odd = odd_character(key)
            if odd is not None:
                self.out.add(key, "odd id", f"{self.source / name}:{line_no}: {key!r} holds {named(odd)}")
            elif key:
                yield f"{self.source / name}:{line_no}", key, rest.strip(" ")

    def once(self, name: str) -> Iterator[tuple[str, str, str]]:
        """The lines of the file that has the utterances."""
        for where, key, rest in self.lines(name):
            if key in self.used:
                self.out.add(key, "stands twice", f"{where}: {key!r} stands in an earlier line already")
                continue
            self.used.add(key)
            yield where, key, rest

    def _table(self, name: str, required: bool = False) -> JsonSpool:
        """First field -> [file:line, rest]."""
        found = JsonSpool()
        if required and not (self.source / name).is_file():
            raise DataError(f"{self.source}: has no file {name!r}")
        for where, key, rest in self.lines(name) if (self.source / name).is_file() else ():
            if key in found:
                self.out.add(key, "stands twice", f"{where}: {key!r} stands in {found[key][0]} already")
            else:
                found[key] = [where, rest]
        return found

    def _speakers(self) -> JsonSpool:
        if (self.source / "utt2spk").is_file() or not (self.source / "spk2utt").is_file():
            return self._table("utt2spk")
        found = JsonSpool()
        for where, speaker, rest in self.lines("spk2utt"):
            for utt_id in split_fields(rest, where):
                found[utt_id] = [where, speaker]
        return found

    def _genders(self) -> Iterator[tuple[str, str]]:
        for where, speaker, rest in self.lines("spk2gender") if (self.source / "spk2gender").is_file() else ():
            if rest.lower() not in _GENDERS:
                raise DataError(f"{where}: gender {rest!r} of {speaker!r} is neither m nor f")
            yield speaker, _GENDERS[rest.lower()]

    def _channels(self) -> Iterator[tuple[str, tuple[str, int]]]:
        """Recording -> its file in wav.scp and its channel."""
        name = "reco2file_and_channel"
        for where, reco, rest in self.lines(name) if (self.source / name).is_file() else ():
            fields = split_fields(rest, where)
            if len(fields) != 2:
                raise DataError(f"{where}: needs 'recording file channel', found {rest!r} behind {reco!r}")
            yield reco, (fields[0], channel_number(fields[1], where))

    def audio(self, reco: str, where: str, entry: list[str] | None, own: bool) -> SourceAudio:
        """Audio of a recording; DataError says why it has none.

        Args:
            own: the entry is that of the recording, not of a file with several. Then sph2pipe -c or the like may have
                taken its channel out of the file already.
        """
        channel = None
        if entry is None:
            raise DataError(f"{where}: recording {reco!r} is not in {WAV_SCP}")
        if reco in self.channels:
            channel = self.channels[reco][1]
        place, file = entry
        if file.endswith("|"):
            if not self.options.allow_commands:
                raise DataError(f"{place}: {reco!r} is a command, {file!r}; --allow-commands runs it")
            return SourceAudio(reco, command=file, channel=channel, maybe_alone=own)
        if not file or file == "-" or file.startswith("|"):
            raise DataError(f"{place}: {reco!r} has no audio file, but {file!r}")
        path = self.places.find(file)
        if path is None:
            if _ARCHIVE.fullmatch(file):
                raise DataError(f"{place}: {file} is a place in an archive; write its recordings to files of their own")
            raise DataError(f"{place}: {self.places.missing(file)}")
        return SourceAudio(reco, path=path, channel=channel, maybe_alone=own)

    def recordings(self) -> Iterator[SourceUtterance]:
        """An utterance for each line of wav.scp."""
        for where, reco, rest in self.once(WAV_SCP):
            yield from self._utterance(reco, reco, where, [where, rest], True, 0.0, None)

    def segments(self) -> Iterator[SourceUtterance]:
        """An utterance for each line of segments."""
        scp = self._table(WAV_SCP)
        for where, utt_id, rest in self.once("segments"):
            with self.out.refusing(utt_id, "no segment"):
                reco, start, end = segment_fields(rest, where)
                # With reco2file_and_channel wav.scp may be by file instead of by recording.
                name = reco if reco in scp or reco not in self.channels else self.channels[reco][0]
                yield from self._utterance(utt_id, reco, where, scp.get(name), name == reco, start, end)

    def _utterance(
        self, utt_id: str, reco: str, where: str, entry: list[str] | None, own: bool, start: float, end: float | None
    ) -> Iterator[SourceUtterance]:
        if utt_id not in self.texts:
            self.out.add(utt_id, "no transcript", f"{where}: {utt_id!r} has no line in {self.source / 'text'}")
            return
        try:
            audio = self.audio(reco, where, entry, own)
        except DataError as err:
            self.out.add(utt_id, "no audio", str(err))
            return
        text_where, text = self.texts[utt_id]
        speaker = self.speakers[utt_id][1] if utt_id in self.speakers else utt_id
        gender = self.genders.get(speaker)
        yield SourceUtterance(utt_id, audio, text, where, speaker, start, end, gender=gender, text_where=text_where)

    def unused_transcripts(self) -> None:
        """Note the transcripts of utterances that have no audio."""
        for utt_id in self.texts:
            if utt_id not in self.used:
                self.out.add(utt_id, "no audio", f"{self.texts[utt_id][0]}: {utt_id!r} has no recording or segment")


def channel_number(name: str, where: str) -> int:
    """Channel from 0 of its name in Kaldi's and NIST's files: A and 1 are the first."""
    if name.upper() in ("A", "B"):
        return "AB".index(name.upper())
    if WHOLE_NUMBER.fullmatch(name) and int(name) >= 1:
        return int(name) - 1
    raise DataError(f"{where}: channel {name!r} is neither A nor B nor a number from 1 on")


def segment_fields(rest: str, where: str) -> tuple[str, float, float | None]:
    """(recording, start, end) of what follows the utterance in a line of segments; an end of -1 is that of the audio.

    Raises:
        DataError: names the line.
    """
    fields = split_fields(rest, where)
    try:
        reco, start, end = fields[0], float(fields[1]), float(fields[2])
        if len(fields) not in (3, 4) or not 0 <= start < float("inf"):
            raise ValueError
        if end == -1:
            return reco, start, None
        if not start < end < float("inf"):
            raise ValueError
    except (ValueError, IndexError):
        raise DataError(
            f"{where}: needs 'utterance recording start end' with times in seconds, found {rest!r}"
        ) from None
    return reco, start, end
