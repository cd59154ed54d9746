"""Options of semi-supervised training; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.e2e.search.options import Method
from pipeline.nn.options import STRICT, TrainOptions

TeacherKind = Literal["fixed", "ema", "cache", "rounds"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sources:
    """What a training reads beside its data and its teacher.

    Attributes:
        tokens: of an end-to-end model. lm: language model for its search.
        lang, ali: of a hybrid model, and the alignment of the labelled data.
        dev, dev_ali: data for the choice of epochs, and of a hybrid model their alignment.
        pseudo: first labels of the unlabelled data: a decoding directory; of a hybrid model, an alignment.
    """

    tokens: Path | None = None
    lm: Path | None = None
    lang: Path | None = None
    ali: Path | None = None
    dev: Path | None = None
    dev_ali: Path | None = None
    pseudo: Path | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SemiSupervisedOptions(TrainOptions):
    """Training on labelled speech, and on unlabelled speech with the labels that a teacher gives it."""

    epochs: int = Field(default=20, ge=1, description="Passes over labelled and unlabelled data together.")
    teacher: TeacherKind = Field(
        default="ema",
        description="Who labels, and when. fixed: the model given, each utterance once; ema: the moving average of the "
        "student's parameters, whenever an utterance is seen (Manohar et al. 2021); cache: the student, an utterance's "
        "label being renewed with a probability when it is seen (Likhomanenko et al. 2020); rounds: the student as it "
        "was when the round began, each utterance once a round (Xu et al. 2020).",
    )
    momentum: float = Field(
        default=0.999, ge=0, lt=1, description="ema: share of the average that an update leaves as it is."
    )
    reference_batch: int = Field(
        default=0,
        ge=0,
        description="Feature frames per update for which momentum and learning rate are meant. An update of k times "
        "as many takes momentum^k, and k times the learning rate (sgd) or sqrt(k) times (adaptive optimizers; "
        "Busbridge et al. 2023). 0: both are taken as they are.",
    )
    soft_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the teacher's posteriors of frames (the CTC output's, of end-to-end models) in the "
        "targets of unlabelled speech; the rest are its best labels.",
    )
    pseudo_weight: float = Field(
        default=1.0, ge=0, description="Weight of an unlabelled frame (token) beside a labelled one."
    )
    renew: float = Field(default=0.1, ge=0, le=1, description="cache: probability with which a label is renewed.")
    renew_by: Literal["constant", "change"] = Field(
        default="constant",
        description="cache, change: the probability is the share of tokens that renewing has lately changed, and at "
        "least --renew, so that labels live longer as they settle (cf. Berrebbi et al. 2022).",
    )
    temperature: float = Field(
        default=0.0,
        ge=0,
        description="The label of a frame is drawn from the posterior to the power of 1 / temperature, and not the "
        "best one (Berrebbi et al. 2022); 0: the best one.",
    )
    round_epochs: int = Field(default=5, ge=1, description="rounds: epochs of a round.")
    method: Method | None = Field(
        default=None,
        description="Search for the tokens of end-to-end models. None: greedy, of CTC where there is a CTC output; "
        "with a language model or for attention alone the model's beam search.",
    )
    beam: int = Field(default=8, ge=1, le=1000, description="Hypotheses kept in a beam search.")
    lm_weight: float = Field(default=0.6, ge=0, description="Weight of the language model in it, where there is one.")
    length_bonus: float = Field(default=0.0, description="Bonus per token in it.")
    min_confidence: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Labels with a lower confidence are left out: the mean posterior of an utterance's tokens "
        "(ctc_greedy) or of the states of its frames (hybrids); exp(score / (tokens + 1)) by the model's log "
        "probability of the tokens (other searches); the mean over words, or frames, of what --pseudo says.",
    )
    start: Literal["teacher", "random"] = Field(
        default="teacher", description="First parameters of the student: those of the model given, or random ones."
    )
    labelled_epochs: int = Field(
        default=0, ge=0, description="First epochs in which unlabelled utterances are not seen."
    )
    repeat_labelled: int = Field(default=1, ge=1, le=1000, description="Times that an epoch sees a labelled utterance.")
    keep: Literal["student", "teacher"] = Field(
        default="student", description="What is evaluated on dev data, and written in the end."
    )
    max_empty: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="The training has collapsed if a larger share of an epoch's labels is empty.",
    )
    min_entropy: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="It has if the entropy of the labels' frequencies is a smaller share of that in the labelled data.",
    )
    ctc_weight: float = Field(
        default=1.0, ge=0, description="attention, transducer: weight of the CTC loss beside the decoder's."
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the target spread evenly over all labels: of states, or of the tokens of attention.",
    )
    choose_by: Literal["loss", "errors"] = Field(
        default="errors",
        description="By what the best epochs on dev data are chosen, see train_e2e; hybrids: the loss.",
    )
    max_seconds: float = Field(default=60.0, gt=0, description="Longer utterances are left out (end-to-end models).")
