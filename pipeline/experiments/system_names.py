"""What the ids of systems in results say, in words: "e2e_ctc_nhmm_ctc_1gram" names steps, not what was built."""

from __future__ import annotations

from collections.abc import Iterable

# First parts of an id, longest first -> what was built. {} is what the next part of the id says, see SOURCES.
_KINDS = {
    "nhmm_refined": "neural HMM, boundaries refined",
    "nhmm_corrected": "neural HMM, boundaries refined and corrected",
    "nhmm": "neural HMM",
    "corrected": "GMM, boundaries refined and corrected",
    "refined": "GMM, boundaries refined",
    "mono": "GMM, monophones",
    "tri1": "GMM, triphones",
    "tri2": "GMM, triphones, LDA and MLLT",
    "tri3": "GMM, speaker-adaptive",
    "hybrid": "network on {} alignments",
    "mmi": "network on {} alignments, then MMI",
    "e2e_ctc": "CTC {}",
    "e2e_attention": "attention model {}",
    "e2e_transducer": "RNN-T {}",
    "phones": "phone recogniser,",
    "semi_ctc": "CTC, {}",
    "semi_hybrid": "network, {}",
}
_SOURCES = {
    "gmm": ("GMM", "supervised by GMM alignments"),
    "nhmm": ("neural HMM", "supervised by neural HMM alignments"),
    "sat": ("GMM", "supervised by GMM alignments"),
    "nhmm_sat": ("neural HMM", "supervised by neural HMM alignments"),
    "none": ("no", "alone"),
    "labelled": ("transcripts of some speakers",) * 2,
    "all": ("transcripts of all speakers",) * 2,
    "fixed": ("pseudo-labels by a fixed teacher",) * 2,
    "ema": ("pseudo-labels by a moving average",) * 2,
    "cache": ("pseudo-labels from a cache",) * 2,
    "rounds": ("pseudo-labels in rounds",) * 2,
    "decoded": ("pseudo-labels by decoding",) * 2,
    "decoded_again": ("pseudo-labels by decoding twice",) * 2,
    "by_hybrid": ("pseudo-labels of the hybrid",) * 2,
}
# What further parts say.
_DETAILS = {
    "chenone": "graphemes",
    "chenone_si": "graphemes, not adapted",
    "first_pass": "first pass",
    "second_pass": "second pass",
    "si": "not adapted",
    "greedy": "greedy",
    "own": "the corpus's own speakers",
    "librispeech": "trained on LibriSpeech",
    "speech_silence": "",
}


def system_name(name: str) -> str:
    """Returns what a system is in words; an id that says nothing known stays as it is.

    Args:
        name: id of a row, such as "hybrid_nhmm" or "e2e_ctc_none_1gram".
    """
    kind = _longest(_KINDS, name)
    if kind is None:
        return name
    words, rest = _KINDS[kind], name[len(kind) + 1 :]
    if kind == "phones":
        return f"{words} {system_name(rest)}" if rest else words.rstrip(",")
    if "{}" in words:
        source = _longest(_SOURCES, rest)
        if source is None:
            return name
        words, rest = words.format(_SOURCES[source][kind.startswith("e2e")]), rest[len(source) + 1 :]
        words += ", adapted features" * source.endswith("sat")
    said = _said(rest)
    return name if said is None else ", ".join([words, *said])


def _longest(known: Iterable[str], name: str) -> str | None:
    """The longest of some words with which an id begins, None without one."""
    return max((k for k in known if name == k or name.startswith(f"{k}_")), key=len, default=None)


def _said(rest: str) -> list[str] | None:
    """What is left of an id in words; None: it says something unknown."""
    if rest in ("", *_DETAILS):
        return [_DETAILS[rest]] if _DETAILS.get(rest) else []
    if rest.endswith("gram"):
        lexicon, _, model = rest.rpartition("_")
        number = model.removesuffix("gram")
        if lexicon in ("", "ctc") and (number.isdigit() or number == "n"):
            order = f"{number}-gram"
            return [f"lexicon and {order}" if lexicon else f"with the {order}"]
    for detail in _DETAILS:
        if rest.startswith(f"{detail}_"):
            more = _said(rest[len(detail) + 1 :])
            return None if more is None else [*filter(None, [_DETAILS[detail]]), *more]
    return None
