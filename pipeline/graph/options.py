"""Options of the steps around lang, language model, graph, decoding and scoring; imports nothing heavy."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.config import JsonDict
from pydantic.dataclasses import dataclass

from pipeline.artifacts.lexicon_formats import LexiconOptions
from pipeline.base.errors import ConfigError
from pipeline.base.option_values import Device, load_options

_STRICT = ConfigDict(extra="forbid")
_NO_STAMP: JsonDict = {"stamp": False}
_IF_SET: JsonDict = {"stamp": "if_set"}  # options added later: what was made before them stays up to date
LmWeight = Annotated[float, Field(gt=0)]  # acoustic scores are divided by it


@dataclass(frozen=True, config=_STRICT)
class LangOptions(LexiconOptions):
    """How a lang is made from a lexicon."""

    unit: Literal["phone", "grapheme"] = Field(
        default="phone", description="Units: the lexicon's phones, or the letters of its words."
    )
    position: Literal["none", "word_end", "full"] = Field(
        default="none",
        description="word_end: the last phone of a word is a symbol of its "
        "own; full: so are the first, the inner and the only one, as in Kaldi.",
    )
    probs: bool = Field(default=False, description="The same as --lexicon-format kaldi_probs (lexiconp.txt).")
    oov_word: str | None = Field(
        default=None, description="Word for unknown ones, with the phone SPN; none: unknown words are errors."
    )
    silence_prob: float = Field(
        default=0.5, ge=0, lt=1, description="Probability of silence at each word boundary and at both ends."
    )
    speech_states: int = Field(default=3, ge=1, description="HMM-states of each phone.")
    silence_states: int = Field(
        default=3,
        ge=1,
        description="HMM-states of silence. Phones of the TIMIT sample begin 16.5 ms off with three, 17.9 with "
        "one. --blank needs one.",
    )
    speech_forward: float = Field(
        default=1 / 3, gt=0, lt=1, description="Initial probability of leaving a speech state."
    )
    silence_forward: float = Field(
        default=1 / 40, gt=0, lt=1, description="Initial probability of leaving a silence state."
    )
    drop: str = Field(default="", description="Characters that graphemes leave out, for example '.-'.")
    blank: bool = Field(
        default=False,
        description="Silence is CTC's blank: allowed between any two phones, demanded between equal ones. "
        "CTC is this with --speech-states 1 --silence-states 1.",
        json_schema_extra=_IF_SET,
    )

    @model_validator(mode="after")
    def _have_an_effect(self) -> LangOptions:
        if self.blank and self.silence_states != 1:
            raise ValueError("--blank is one state: it needs --silence-states 1")
        if self.drop and self.unit != "grapheme":
            raise ValueError("--drop leaves characters out of graphemes: it needs --unit grapheme")
        return self

    def check_tokens(self) -> None:
        """ConfigError for options that have no effect on a lang of tokens, whose spellings and states are given."""
        read = ("lexicon_format", "probs", "silence_prob")
        plain = load_options(LangOptions, None, {})
        given = [f.name for f in fields(self) if f.name not in read and getattr(self, f.name) != getattr(plain, f.name)]
        if given:
            option = "no-stress" if given[0] == "stress" else given[0].replace("_", "-")
            raise ConfigError(f"--tokens spells the words, one state each: --{option} has no effect there")


@dataclass(frozen=True, config=_STRICT)
class LmOptions:
    """How an n-gram language model is estimated."""

    order: int = Field(default=1, ge=1, le=5, description="1: relative frequencies; 2 and more: back-off Kneser-Ney.")
    add: float = Field(
        default=0.0, ge=0, description="Order 1: count added to every word of the lang; 0 is maximum likelihood."
    )
    min_counts: tuple[int, ...] = Field(
        default=(), description="Order 2 and more: drop rarer n-grams, by order from 1, e.g. 0,0,2."
    )
    prune: float = Field(
        default=0.0, ge=0, description="Order 2 and more: relative-entropy threshold of Stolcke pruning, e.g. 1e-7."
    )

    @model_validator(mode="after")
    def _have_an_effect(self) -> LmOptions:
        if self.order == 1 and (self.prune or any(self.min_counts)):
            raise ValueError("--prune and --min-counts are for --order 2 and more")
        if self.order > 1 and self.add:
            raise ValueError("--add is for --order 1")
        return self


@dataclass(frozen=True, config=_STRICT)
class DecodeOptions:
    """Search, scales and tuning of decoding."""

    acoustic_scale: float = Field(
        default=0.1, gt=0, description="Weight of acoustic scores during the search; beams are in this scale."
    )
    transition_scale: float | None = Field(
        default=None, ge=0, description="Weight of transition log probabilities; none: the model's."
    )
    prior_scale: float | None = Field(
        default=None, ge=0, description="Weight of a network's label prior; none: the model's."
    )
    blank_penalty: float = Field(
        default=0.0,
        description="End-to-end models: taken off the blank's log probability in every frame; more "
        "than 0 against missing words.",
        json_schema_extra=_IF_SET,
    )
    search: Literal["ours", "k2"] = Field(
        default="ours", description="Whose beam search: this package's, on the CPU, or k2's.", json_schema_extra=_IF_SET
    )
    beam: float = Field(default=15.0, gt=0, description="Search beam.")
    lattice_beam: float = Field(default=8.0, gt=0, description="Beam of the lattices on which weights are tuned.")
    min_active: int = Field(
        default=200, ge=0, description="Active states per frame below which the beam is not tightened."
    )
    max_active: int = Field(
        default=7000, ge=1, description="Active states per frame above which the beam is tightened."
    )
    retries: int = Field(
        default=2,
        ge=0,
        description="How often a search that reaches no end is repeated with doubled beam and max_active.",
    )
    lm_weights: tuple[LmWeight, ...] = Field(
        default=tuple(float(w) for w in range(4, 21)),
        min_length=1,
        description="LM weights tried: acoustic scores count 1 / weight against the graph's.",
    )
    word_penalties: tuple[float, ...] = Field(
        default=(0.0, 0.5, 1.0, 2.0, 3.0, 4.0), min_length=1, description="Penalties per word tried."
    )
    nbest: int = Field(
        default=0, ge=0, description="Also write lists of the n best word sequences, for steps/rescore.py."
    )
    posteriors: bool = Field(
        default=False,
        description="Also write the posteriors of the pdfs in each frame, for steps/estimate_fmllr.py.",
        json_schema_extra=_IF_SET,
    )
    lattices: bool = Field(
        default=False,
        description="Also write the lattices, for steps/rescore_lattices.py and steps/export_lattices.py.",
        json_schema_extra=_IF_SET,
    )
    confidences: bool = Field(
        default=False,
        description="Also write the probability of each word to be right, into recogs.jsonl.gz and, with times, into "
        "words.ctm.",
        json_schema_extra=_IF_SET,
    )
    mbr: bool = Field(
        default=False,
        description="Choose the words by minimum Bayes risk (the fewest expected errors over the lattice), with the "
        "weights that are best for best paths; includes --confidences.",
        json_schema_extra=_IF_SET,
    )
    tried: bool = Field(
        default=False,
        description="Also write the texts at all weights, for steps/pool_weights.py.",
        json_schema_extra=_IF_SET,
    )
    max_failed: float = Field(
        default=0.1, ge=0, le=1, description="Share of utterances without lattice above which the step fails."
    )
    batch_frames: int = Field(default=4000, gt=0, description="Feature frames per batch.", json_schema_extra=_NO_STAMP)
    device: Device = Field(default="cpu", description="cpu or cuda.", json_schema_extra=_NO_STAMP)


@dataclass(frozen=True, config=_STRICT)
class RescoreOptions:
    """How n-best lists are ranked with another language model."""

    lm_weights: tuple[LmWeight, ...] = Field(
        default=tuple(float(w) for w in range(4, 21)), min_length=1, description="LM weights tried."
    )
    word_penalties: tuple[float, ...] = Field(
        default=(0.0, 0.5, 1.0, 2.0, 3.0, 4.0), min_length=1, description="Penalties per word tried."
    )
    old_lm: float = Field(
        default=0.0, ge=0, le=1, description="Share of the first language model's log score that stays in the sum."
    )


@dataclass(frozen=True, config=_STRICT)
class RescoreLatticesOptions:
    """How lattices are expanded by another language model, and tuned."""

    lm_weights: tuple[LmWeight, ...] = Field(
        default=tuple(float(w) for w in range(4, 21)), min_length=1, description="LM weights tried."
    )
    word_penalties: tuple[float, ...] = Field(
        default=(0.0, 0.5, 1.0, 2.0, 3.0, 4.0), min_length=1, description="Penalties per word tried."
    )
    old_lm: float = Field(
        default=0.0, ge=0, le=1, description="Share of the first language model's log score that stays in the sum."
    )
    order: int = Field(
        default=4,
        ge=0,
        description="Models over tokens: paths count as one where their last order - 1 words agree, and the better "
        "one's history goes on; 0: only where all words do. N-grams over words know what they tell apart.",
    )
    histories: int = Field(default=32, ge=1, description="Histories per state of a word lattice at most.")
    beam: float = Field(
        default=20.0,
        gt=0,
        description="Histories of a state that are worse by more are dropped, and so are paths of the whole in the "
        "end; at the scale of the search.",
    )
    max_states: int | None = Field(
        default=None,
        ge=1,
        description="States of a word lattice at most, the most probable ones; none: 10,000 and one for each frame.",
    )
    lattices: bool = Field(default=False, description="Also write the lattices with the new scores.")
    confidences: bool = Field(
        default=False,
        description="Also write the probability of each word to be right, into recogs.jsonl.gz and, with times, into "
        "words.ctm.",
    )
    mbr: bool = Field(
        default=False,
        description="Choose the words by minimum Bayes risk, as steps/decode.py does; includes --confidences.",
    )
    tried: bool = Field(default=False, description="Also write the texts at all weights, for steps/pool_weights.py.")
    device: Device = Field(default="cpu", description="cpu or cuda, for neural models.", json_schema_extra=_NO_STAMP)


@dataclass(frozen=True, config=_STRICT)
class ExportLatticesOptions:
    """In which form lattices leave."""

    format: Literal["kaldi", "htk"] = Field(
        default="kaldi",
        description="kaldi: lat.txt, a text archive with the transition-ids that the lattices have; htk: ID.slf, word "
        "lattices with the weights of best.json.",
    )
    beam: float = Field(
        default=8.0,
        gt=0,
        description="htk: word sequences that are worse by more are left out, in units of the LM's scores.",
    )
    max_states: int | None = Field(
        default=None, ge=1, description="htk: states of a word lattice at most; none: 10,000 and one for each frame."
    )


@dataclass(frozen=True, config=_STRICT)
class ScoreStmOptions:
    """How recognised texts are scored against an .stm."""

    dropped: tuple[str, ...] = Field(
        default=("<unk>",), description="Words that count as nothing where they are recognised."
    )
    subsets: tuple[str, ...] = Field(
        default=(),
        description="NAME=PREFIX each: recordings whose names begin with PREFIX also have a row of their own.",
    )

    @field_validator("subsets")
    @classmethod
    def _named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if not all(entry.partition("=")[::2]) or entry.count("=") > 1:
                raise ValueError(f"{entry!r} is not NAME=PREFIX")
        return value


@dataclass(frozen=True, config=_STRICT)
class AliScoreOptions:
    """How alignments are compared with gold times or with each other."""

    same: dict[str, str] = Field(
        default_factory=dict, description="Phone -> phone that it counts as, on both sides; in a --config file."
    )
    drop: tuple[str, ...] = Field(default=(), description="Phones that count as silence, on both sides, beside SIL.")
    match: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="Reference phone -> other phones that match it too; in a --config file."
    )
    tolerances: tuple[float, ...] = Field(
        default=(0.01, 0.02, 0.05), description="Seconds within which a boundary counts as hit."
    )
    words_only: bool = Field(
        default=False,
        description="Leave phones out: for alignments of tokens, which may be named like phones.",
        json_schema_extra={"stamp": "if_set"},
    )
    label_rate: int = Field(
        default=16000,
        ge=1,
        description="Samples per second of .phn and .wrd files.",
        json_schema_extra={"stamp": "if_set"},
    )


@dataclass(frozen=True, config=_STRICT)
class ExportOptions:
    """In which form alignments leave."""

    format: Literal["ctm", "textgrid", "supervisions"] = Field(
        default="ctm",
        description="ctm (phones.ctm, words.ctm), textgrid (Praat, a "
        "file per utterance) or supervisions (lhotse manifest).",
    )
    strip_word_end: bool = Field(
        default=True, description="Take the marker of the position in the word off the phones."
    )
