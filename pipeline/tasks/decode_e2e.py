"""Decoding of a data directory with an end-to-end model: search, tuning of weights, hypotheses and their error
rates.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.checkpoint import check_same
from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.hyp import NBEST, Alternative, Hypothesis, NBest, save_nbest
from pipeline.artifacts.model_meta import META, EndToEndMeta, model_kind
from pipeline.artifacts.tokens import Tokens
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.base.files import read_json
from pipeline.base.log import progress_of
from pipeline.e2e.search.options import Method, SearchOptions
from pipeline.e2e.search.results import Found, Weights
from pipeline.parallel.parts import Part
from pipeline.tasks.decoded import BEST, Decoded, Hypotheses, Spool, references, warn_at_the_edge, write_best
from pipeline.tasks.score import Errors

if TYPE_CHECKING:
    import torch

    from pipeline.e2e.model import EndToEnd
    from pipeline.e2e.search.fusion import TokenLm

logger = logging.getLogger(__name__)

MAX_BATCH = 32
PLAIN = ("ctc_greedy", "transducer_greedy", "transducer_viterbi")  # methods without weights


@dataclass
class DecodedTokens(Decoded[Weights, list[Found]]):
    """Hypotheses of tokens, best first.

    Attributes:
        encoder_seconds: time of the encoder.
        search_seconds: time of the searches, by weights.
    """

    encoder_seconds: float = 0.0
    search_seconds: dict[Weights, float] = field(default_factory=dict)

    def hypotheses(self, weights: Weights, tokens: Tokens) -> Hypotheses:
        """Hypotheses in the order of utterance ids."""
        found = self.spool.of(weights)

        def words(cut_id: str) -> tuple[str, ...]:
            best = found[cut_id]
            return tuple(tokens.decode(best[0].tokens).split()) if best else ()

        return Hypotheses(self.refs, words)

    def nbest_lists(self, weights: Weights, tokens: Tokens) -> Iterator[NBest]:
        """N-best lists in the order of utterance ids; of several spellings of the same words the best counts."""
        found = self.spool.of(weights)
        for cut_id in sorted(self.refs):
            lists: dict[tuple[str, ...], Alternative] = {}
            for f in found[cut_id]:
                words = tuple(tokens.decode(f.tokens).split())
                lists.setdefault(words, Alternative(words, f.model, f.lm, f.lm))
            yield NBest(cut_id, *self.refs[cut_id], tuple(lists.values()))

    def real_time_factor(self, weights: Weights) -> float:
        """Seconds of encoder and search per second of audio."""
        return (self.encoder_seconds + self.search_seconds[weights]) / max(self.audio_seconds, 1e-9)


def spool_of(weights: Iterable[Weights]) -> Spool[Weights, list[Found]]:
    """An empty spool for hypotheses of tokens."""
    return Spool(
        weights,
        lambda found: [[list(f.tokens), f.model, f.lm, f.total] for f in found],
        lambda rows: [Found(tuple(t), model, lm, total) for t, model, lm, total in rows],
    )


def choose_method(model: EndToEnd, options: SearchOptions) -> Method:
    """The search that fits the model; ConfigError when the one that is asked for does not."""
    own = "attention" if model.decoder is not None else "transducer" if model.transducer is not None else "ctc"
    defaults: dict[str, Method] = {"attention": "attention", "transducer": "transducer_beam", "ctc": "ctc_prefix"}
    method = options.method or defaults[own]
    if method.startswith("ctc") and model.ctc is None:
        raise ConfigError(f"--method {method}: the model has no CTC output")
    if not method.startswith("ctc") and not method.startswith(own):
        raise ConfigError(f"--method {method}: the model has {own}")
    if method == "transducer_viterbi" and model.options.predictor != "stateless":
        raise ConfigError(f"--method {method} needs a stateless predictor; this one is an LSTM")
    return method


def grid(method: Method, model: EndToEnd, options: SearchOptions, with_lm: bool) -> list[Weights]:
    """All weights that are tried; ConfigError for a language model with a method that takes none."""
    if method in PLAIN:
        if with_lm:
            raise ConfigError(f"--method {method} takes no language model")
        return [Weights()]
    ctc = options.ctc_weights if method == "attention" and model.ctc is not None else (0.0,)
    lm = options.lm_weights if with_lm else (0.0,)
    ilm = options.ilm_weights if method.startswith("transducer") else (0.0,)
    return [Weights(*w) for w in dict.fromkeys(itertools.product(ctc, lm, options.length_bonuses, ilm))]


def load_lm(path: Path, tokens: Tokens, tokens_dir: Path, device: str = "cpu") -> TokenLm:
    """A neural or n-gram language model as a search takes it.

    Args:
        path: directory of steps/train_nn_lm.py or steps/train_lm.py, or an ARPA file over words or tokens.
        device: where a neural one computes.
    """
    if (path / META).is_file() and model_kind(path) == "nn_lm":
        from pipeline.e2e.lm import load_nn_lm

        return load_nn_lm(path, tokens, tokens_dir).to(device)
    from pipeline.artifacts.arpa import Arpa
    from pipeline.e2e.search.fusion import ngram_lm

    return ngram_lm(Arpa.load(path / "lm.arpa" if path.is_dir() else path), tokens)


def decode(
    model: EndToEnd,
    meta: EndToEndMeta,
    data_dir: Path,
    options: SearchOptions,
    method: Method,
    weights: Sequence[Weights],
    lm: TokenLm | None = None,
    part: Part = Part(),
) -> DecodedTokens:
    """Recognises a data directory with each set of weights.

    Args:
        meta: the model's facts (``load_end_to_end``).
        lm: on the device of the search.
        part: which of the batches; they are the same for any number of parts.
    """
    import torch

    from pipeline.feats.dataset import plan
    from pipeline.nn.step import pick_device
    from pipeline.nn.windows import encode_windows

    device = pick_device(options.device)
    model = model.to(device)
    data, frame_shift = _load(data_dir, meta)
    out = DecodedTokens(spool_of(weights), references(data_dir), search_seconds=dict.fromkeys(weights, 0.0))
    batches = plan(data.lens, options.batch_frames, MAX_BATCH)
    batches = batches[part.of_costs([data.lens[rows].sum() for rows in batches])]
    with progress_of(sum(map(len, batches)), f"decode {data_dir}") as done:
        for batch in (data.batch(rows, device) for rows in batches):
            start = time.monotonic()
            with torch.no_grad():
                encoded, lens = encode_windows(model.encode, batch.feats, batch.lens, model.encoder.subsampling)
            out.encoder_seconds += time.monotonic() - start
            out.audio_seconds += batch.num_frames * frame_shift
            found = []
            for w in weights:
                start = time.monotonic()
                with torch.no_grad():
                    found.append(search(model, encoded, lens, options, method, w, lm))
                out.search_seconds[w] += time.monotonic() - start
            for n, results in zip(batch.indices.tolist(), zip(*found)):
                out.spool.put(data.id(n), results)
            done(len(batch.indices))
    return out


def search(
    model: EndToEnd,
    encoded: torch.Tensor,
    lens: torch.Tensor,
    options: SearchOptions,
    method: Method,
    weights: Weights,
    lm: TokenLm | None,
) -> list[list[Found]]:
    """The hypotheses of a batch, best first.

    Args:
        encoded: (N, T', D). lens: (N,).
    """
    from pipeline.e2e.search import attention, ctc, transducer, transducer_viterbi

    number = max(options.nbest, 1)
    if method == "attention":
        posteriors = model.ctc_log_probs(encoded) if weights.ctc else None
        found = attention.AttentionSearch(
            model.decoder, posteriors, lens, weights, options.beam, lm, options.max_length
        )
        return found.search(encoded, number)
    if method == "ctc_greedy":
        return ctc.greedy(model.ctc_log_probs(encoded), lens)
    if method == "ctc_prefix":
        return ctc.CtcPrefixSearch(weights, options.beam, lm).search(model.ctc_log_probs(encoded), lens, number)
    if method == "transducer_greedy":
        return transducer.greedy(model.transducer, encoded, lens, options.max_symbols)
    if method == "transducer_viterbi":
        return transducer_viterbi.best_paths(model.transducer, encoded, lens, options.beam)
    one = method == "transducer_one"
    beam = transducer.TransducerSearch(model.transducer, weights, options.beam, options.max_symbols, one, lm)
    return beam.search(encoded, lens, number)


def _load(data_dir: Path, meta: EndToEndMeta) -> tuple[Any, float]:
    """Utterances with the features that the model was trained on, and their frame shift."""
    from pipeline.feats.dataset import Dataset

    data = Dataset.open(data_dir, meta.feat_options, cache_mib=0)  # utterances are read once
    return data, FeatureFacts.load(data_dir).frame_shift


def latency(model: EndToEnd, frame_shift: float) -> float | None:
    """Seconds for which a latency-controlled encoder waits at most before it puts out a frame, without computing time.

    Its mean is that less half a chunk. None: the encoder sees the whole utterance. Normalisation of features over an
    utterance or a speaker (``--cmvn``) would have to run along in a streaming system and is not counted.

    Args:
        frame_shift: of the features, in seconds.
    """
    from pipeline.nn.encoders import layer_factors

    lookahead = model.encoder.network.lookahead
    if lookahead is None:
        return None
    frames = lookahead * layer_factors(model.options)[0]
    if model.encoder.vgg is not None:
        frames += model.encoder.vgg.lookahead * model.options.subsampling
    seconds = frames * frame_shift
    logger.info("latency of the encoder when streaming: at most %.2f s beside computing", seconds)
    return seconds


def check_inputs(meta: EndToEndMeta, model_dir: Path, tokens: Tokens, tokens_dir: Path, data_dir: Path) -> None:
    """MismatchError naming both directories unless the model was trained for these tokens and on such features."""
    check_same("tokens", meta.tokens_id, model_dir, tokens.id, tokens_dir)
    meta.features.check_same(FeatureFacts.load(data_dir).kind, model_dir, data_dir)


def choose_weights(errors: Mapping[Weights, Errors]) -> Weights:
    """The weights with the fewest errors; of equal ones those nearest to none."""
    return min(errors, key=lambda w: (errors[w].total, abs(w.length), w.lm, w.ilm, w.ctc))


def read_weights(directory: Path, method: Method, with_lm: bool) -> Weights:
    """The weights that another decoding directory chose.

    Args:
        with_lm: whether this search has a language model.
    Raises:
        DataError: there are none. MismatchError: they were chosen for another kind of search.
    """
    path = directory / BEST
    facts = read_json(path)
    try:
        weights = Weights(**{name: float(facts["weights"][name]) for name in asdict(Weights())})
        had_lm = any(float(tried["lm"]) > 0 for tried in facts["tried"])
    except (KeyError, TypeError, ValueError) as e:
        raise DataError(f"{path}: names no weights of an end-to-end model ({e!r})") from None
    if had_lm != with_lm:
        theirs, ours = ("with", "without") if had_lm else ("without", "with")
        raise MismatchError(f"{path}: weights of a search {theirs} a language model, but this one is {ours} (--lm)")
    if method in PLAIN and weights != Weights():
        raise MismatchError(f"{path}: weights of a beam search, but --method {method} takes none")
    if weights.ilm and not method.startswith("transducer"):
        raise MismatchError(f"{path}: weights of a transducer, but this search is by {method}")
    return weights


def report(
    decoded: DecodedTokens, tokens: Tokens, out_dir: Path, options: SearchOptions
) -> tuple[list[Hypothesis], dict[str, Any]]:
    """Chooses the weights with the fewest errors and writes recogs.jsonl.gz, errs.txt, wer.txt, best.json (and
    nbest.jsonl.gz).

    Returns:
        the hypotheses and facts for the stamp.
    """
    found = {w: decoded.hypotheses(w, tokens) for w in decoded.spool.weights}
    hyps, best, errors = write_best(found, out_dir, choose_weights, asdict, lambda w: {"weights": asdict(w)})
    if options.nbest:
        save_nbest(out_dir / NBEST, decoded.nbest_lists(best, tokens))
    warn_at_the_edge(((w.lm, e.total) for w, e in errors.items()), best.lm, "LM weight", "--lm-weights", lowest=0.0)
    rtf = decoded.real_time_factor(best)
    logger.info(
        "%s (weights: %s)", errors[best].line(), ", ".join(f"{k} {v:g}" for k, v in asdict(best).items() if v) or "none"
    )
    logger.info(
        "real-time factor %.4f (encoder %.1f s, search %.1f s for %.1f s of audio)",
        rtf,
        decoded.encoder_seconds,
        decoded.search_seconds[best],
        decoded.audio_seconds,
    )
    return hyps, {
        "wer": errors[best].wer,
        "utterances": len(hyps),
        "real_time_factor": rtf,
        **{f"{k}_weight": v for k, v in asdict(best).items()},
    }
