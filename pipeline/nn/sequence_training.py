"""Sequence training of a network that exists: a hybrid model or a neural HMM, a graph and transcripts in, a better
model out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.arpa import Arpa
from pipeline.artifacts.checkpoint import check_same
from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.model_meta import NetworkMeta
from pipeline.base.errors import ConfigError, DataError
from pipeline.feats.dataset import Dataset, plan
from pipeline.graph.decoding import DecodingGraph
from pipeline.graph.denominator import GraphSum, LatticeSum
from pipeline.hmm.graph_source import GraphSource
from pipeline.nn.distributed import World
from pipeline.nn.labels import AlignedCuts, LabelFile, Lazy, aligned_labels, check_missing, frames_per_label, word_ids
from pipeline.nn.mmi import FAILED, Denominator, MmiOptions, SequenceObjective
from pipeline.nn.model import AcousticModel, load_acoustic_model, save_acoustic_model
from pipeline.nn.nhmm import long_enough, silence_pdfs
from pipeline.nn.sequence import FrameCrossEntropy, SequenceCriterion
from pipeline.nn.sequence_options import SequenceOptions
from pipeline.nn.train import Criterion, Task, clean_up, pick_device, train

logger = logging.getLogger(__name__)

SequenceTask = Task[SequenceCriterion[SequenceObjective]]
COST_BATCHES = 2  # batches on which the cost of a step is measured


@dataclass(frozen=True)
class Sources:
    """What a sequence training reads beside its data; see ``train_sequence``."""

    lang_dir: Path
    model_dir: Path
    graph_dir: Path | None
    lm: Path | None = None


def train_sequence(
    data_dir: Path,
    sources: Sources,
    out: Path,
    options: SequenceOptions,
    ali_dir: Path | None = None,
    dev_dir: Path | None = None,
) -> dict[str, Any]:
    """Trains a model further by a sequence criterion and writes a model directory like its own.

    Args:
        data_dir: features of the kind that the model was trained on, with transcripts.
        sources: lang and model; the decoding graph of the denominator (of words, or of phones for lattice-free MMI);
            the language model in the graph, for the value of the criterion (without it F lacks the references' scores).
        out: model directory to write; an interrupted training resumes from its checkpoint there.
        ali_dir: alignment of the data by the model's tree, which the numerator keeps to.
        dev_dir: data on which the criterion is followed.
    Returns:
        facts for the stamp.
    """
    model, hmm, meta = load_acoustic_model(sources.model_dir)
    lang = Lang.load(sources.lang_dir)
    hmm.check_lang(lang, sources.lang_dir)
    device = pick_device(options.device)
    denominator = make_denominator(sources, hmm, _transition_scale(meta, options), options, device)
    task = sequence_task(model, hmm, meta, lang, data_dir, sources, denominator, options, ali_dir)
    dev = (
        None
        if dev_dir is None
        else sequence_task(model, hmm, meta, lang, dev_dir, sources, denominator, options, None, held_out=True)
    )
    watch = FrameErrors(model.to(device), dev or task, device, out)
    select_parameters(model, options.update)
    cost = step_cost(model.to(device), task, options, device)
    logger.info("a step of %s takes %.2f times the CPU time of a cross-entropy step", options.criterion, cost)
    objective = task.criterion.objective
    if not World.current().rank:
        objective.on_epoch = lambda failures: failures.write(out / FAILED, task.data)
    history = train(model, task, dev, options.training(meta.feat_options), out, meta.features.frame_shift)
    if World.current().rank:
        return {}
    model.requires_grad_(True)
    save_acoustic_model(
        out,
        model.cpu(),
        hmm,
        meta.features,
        meta.feat_options,
        meta.scales,
        criterion=options.criterion,
        lang_id=lang.id,
        start=str(sources.model_dir),
        epochs=history,
    )
    failed = count_failures(out, objective)
    clean_up(out)
    errors = watch.report(model.to(device))
    logger.info(
        "last epoch: %.1f %% of the frames skipped, because numerator and denominator cancel; %.1f %% rejected",
        *(100 * history[-1].get(name, 0.0) for name in ("cancelled", "rejected")),
    )
    last = {
        k: v
        for k, v in history[-1].items()
        if k in ("loss", "accuracy", "cancelled", "rejected", "dev_loss", "dev_accuracy")
    }
    return {"utterances": len(task.data), "cost_over_ce": cost, **errors, **failed, **last}


def make_denominator(
    sources: Sources, hmm: HmmDir, transition_scale: float, options: SequenceOptions, device: str
) -> Denominator | None:
    """The denominator that the options ask for; None for "realign"."""
    if options.criterion == "realign":
        return None
    if sources.graph_dir is None:
        raise ConfigError(
            f"{options.criterion} needs a decoding graph (--graph): by make_den_graph for lfmmi, else by make_graph"
        )
    graph = DecodingGraph.load(sources.graph_dir)
    check_same("tree", graph.tree_id, sources.graph_dir, hmm.tree.id, hmm.directory)
    check_same("topo", graph.topo_id, sources.graph_dir, hmm.topo.id, hmm.directory)
    if sources.lm is not None and (options.criterion == "lfmmi" or not graph.word.any()):
        raise ConfigError(
            f"--lm {sources.lm}: without it, since the paths of a graph of phones ({sources.graph_dir}) have no words; "
            f"a language model of words would score the references alone"
        )
    log_probs = hmm.transitions.log_probs()
    if options.denominator == "lattice":
        return LatticeSum(graph, log_probs, hmm.transitions.tid_pdf(), transition_scale, options.search(device))
    return GraphSum(graph, log_probs, transition_scale, options.graph_beam, options.graph_max_active, options.retries)


def sequence_task(
    model: AcousticModel,
    hmm: HmmDir,
    meta: NetworkMeta,
    lang: Lang,
    data_dir: Path,
    sources: Sources,
    denominator: Denominator | None,
    options: SequenceOptions,
    ali_dir: Path | None,
    held_out: bool = False,
) -> SequenceTask:
    """The utterances of a data directory and the criterion that knows their references.

    Args:
        held_out: utterances with words that the language model lacks are left out; in training data they are an error.
    """
    facts = FeatureFacts.load(data_dir)
    facts.kind.check_same(meta.features, data_dir, sources.model_dir)
    whole = Dataset.open(data_dir, meta.feat_options, cache_mib=options.cache_mib)
    words = word_ids(whole, lang)
    graphs = GraphSource(lang, hmm.tree, hmm.transitions, words.__getitem__, len(whole), options.cache_mib)
    lens = model.encoder.out_lens(torch.from_numpy(whole.lens)).numpy()
    keep = long_enough(data_dir, whole, graphs, lens, options.max_failed, "--max-failed is the share that may be")
    scores = np.zeros(len(whole)) if sources.lm is None else lm_scores(sources.lm, lang, words, strict=not held_out)
    keep &= np.isfinite(scores)
    labels = None
    if ali_dir is not None:
        ali = AliSet.load(ali_dir)
        ali.check_tree(hmm.tree, hmm.topo, hmm.directory)
        factor, cuts = model.encoder.subsampling, AlignedCuts(ali)
        rate = frames_per_label(ali, facts.frame_shift, factor, data_dir, sources.model_dir)
        present = cuts.present(whole)
        check_missing(whole, present, ali, data_dir, options.max_failed)
        keep &= present
        labels = aligned_labels(whole.select(keep), cuts, lens[keep], rate, False, data_dir)
    data = whole.select(keep)
    smoothed = options.criterion == "bmmi" or options.criterion == "smbr"
    same = same_phone(hmm) if smoothed and options.accuracy == "phone" else None
    lookup = word_ids(data, lang) if isinstance(denominator, LatticeSum) and sources.lm is not None else None
    transitions = torch.from_numpy(hmm.transitions.log_probs()) * _transition_scale(meta, options)
    objective = SequenceObjective(
        graphs.select(keep),
        transitions,
        denominator,
        model.log_prior.detach().clone(),
        _mmi_options(options, meta.scales.prior),
        words=lookup,
        lm_scores=None if sources.lm is None else scores[keep],
        alignment=labels,
        tolerance=options.ali_tolerance,
        same=same,
        ignore=() if options.update_silence else silence_pdfs(hmm.transitions, lang),
        max_failed=options.max_failed,
        max_missing=options.max_missing,
    )
    return Task(data, SequenceCriterion(objective, options.refresh))


def _mmi_options(options: SequenceOptions, prior_scale: float) -> MmiOptions:
    """What the criterion goes by; the model's prior scale where the options have none."""
    return MmiOptions(
        kind=options.criterion if options.criterion in ("smbr", "realign") else "mmi",
        acoustic_scale=options.acoustic_scale,
        prior_scale=prior_scale if options.prior_scale is None else options.prior_scale,
        boost=options.boost if options.criterion == "bmmi" else 0.0,
        accuracy=options.accuracy,
        cross_entropy=options.cross_entropy,
        reject_below=options.reject_below,
        cancel_below=options.cancel_below,
        add_lost=options.lost_references == "add",
    )


def _transition_scale(meta: NetworkMeta, options: SequenceOptions) -> float:
    return meta.scales.transition if options.transition_scale is None else options.transition_scale


def lm_scores(lm: Path, lang: Lang, words: Sequence[Sequence[int]], strict: bool = True) -> np.ndarray:
    """(M,) float64 natural-log probabilities of transcripts; with `strict` -inf becomes an error that names the
    transcript.
    """
    arpa = Arpa.load(lm / "lm.arpa" if lm.is_dir() else lm)
    texts = Lazy(len(words), lambda i: [lang.words.name(w) for w in words[i]])
    out = np.fromiter((arpa.sentence_log_prob(text) for text in texts), dtype=np.float64, count=len(words))
    if strict and not np.isfinite(out).all():
        raise DataError(
            f"{lm}: gives no probability to the transcript {' '.join(texts[int(np.argmin(out))])!r}; use a language "
            f"model with all words of the training transcripts"
        )
    return out


def same_phone(hmm: HmmDir) -> torch.Tensor:
    """(P, P) bool, labels that belong to the states of a common phone."""
    owners = torch.zeros((hmm.tree.num_pdfs, len(hmm.phones)), dtype=torch.bool)
    owners[torch.from_numpy(hmm.transitions.pdf).long(), torch.from_numpy(hmm.transitions.phone).long()] = True
    return owners.float() @ owners.float().T > 0


def select_parameters(model: AcousticModel, update: str) -> None:
    """Only what is to be updated requires a gradient; trained transition probabilities never do."""
    model.requires_grad_(update == "all")
    model.output.requires_grad_(True)
    if model.transitions is not None:
        model.transitions.requires_grad_(False)


class FrameErrors:
    """The share of frames whose most probable state is wrong, before and after a training, by one fixed reference.

    The reference is what the model before it aligns. Sequence training is expected to raise it while words get better.
    """

    def __init__(self, model: AcousticModel, task: SequenceTask, device: str, directory: Path) -> None:
        """Args:
        directory: for the temporary file that holds the reference.
        """
        self._task, self._device = task, device
        objective = task.criterion.objective
        self._labels = LabelFile(directory, model.encoder.out_lens(torch.from_numpy(task.data.lens)).numpy())
        for batch in task.data.batches(20_000, 64, device):
            with torch.no_grad():
                log_post, lens = model(batch.feats, batch.lens)
            for index, states in zip(batch.indices, objective.references(log_post, lens, batch.indices)):
                self._labels[index] = states
        self.before = self.of(model)

    @torch.no_grad()
    def of(self, model: AcousticModel) -> float:
        """The share for a model."""
        wrong, frames = 0, 0
        model.eval()
        for batch in self._task.data.batches(20_000, 64, self._device):
            best = model(batch.feats, batch.lens)[0].argmax(2).cpu().numpy()
            for row, index in enumerate(batch.indices):
                labels = self._labels[index]
                wrong += int((best[row, : len(labels)] != labels).sum())
                frames += len(labels)
        return wrong / max(frames, 1)

    def report(self, model: AcousticModel) -> dict[str, float]:
        """Logs and returns the shares before and now."""
        after = self.of(model)
        logger.info(
            "frame error by the first model's alignment: %.2f %% before, %.2f %% after", 100 * self.before, 100 * after
        )
        return {"frame_error_before": self.before, "frame_error": after}


def step_cost(model: AcousticModel, task: SequenceTask, options: SequenceOptions, device: str) -> float:
    """CPU time of a step of the criterion over one of cross-entropy, lattices included; best of two on a few
    batches.
    """
    lens = model.encoder.out_lens(torch.from_numpy(task.data.lens)).numpy()
    labels = Lazy(len(lens), lambda i: np.zeros(int(lens[i]), dtype=np.int64))
    peers: dict[str, Criterion[AcousticModel]] = {
        "ce": SequenceCriterion(FrameCrossEntropy(labels)),
        "own": SequenceCriterion(task.criterion.objective),
    }
    batches = plan(task.data.lens, options.batch_frames, options.max_batch)
    chosen = np.linspace(0, len(batches) - 1, COST_BATCHES + 2).astype(int)[1:-1]
    taken = dict.fromkeys(peers, 0.0)
    model.train()
    with torch.random.fork_rng(devices=[]):
        for number in chosen.tolist():
            batch = task.data.batch(batches[number], device)
            feats = replace(batch, feats=model.normalise(batch.feats))
            times: dict[str, list[float]] = {name: [] for name in peers}
            for turn in range(3):
                for name, criterion in peers.items():
                    start = time.process_time()
                    criterion(model, feats, 0.0).total.backward()
                    if turn:
                        times[name].append(time.process_time() - start)
            for name in peers:
                taken[name] += min(times[name])
    model.zero_grad(set_to_none=True)
    model.eval()
    return taken["own"] / max(taken["ce"], 1e-9)


def count_failures(out: Path, objective: SequenceObjective) -> dict[str, int]:
    """What went wrong in the last epoch by failed.txt, which outlives an interruption after it; for the stamp."""
    counts = objective.failures.count(out / FAILED)
    logger.info(
        "last epoch: %d references that their lattice lacks, %d that the search lost; left out: %d empty lattices, %d "
        "references without a path; listed in %s",
        *counts.values(),
        FAILED,
    )
    return counts
