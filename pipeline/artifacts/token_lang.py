"""A lang whose phones are the tokens of an end-to-end model: its CTC output then decodes and aligns like any other
model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.lang import SILENCE, SPOKEN_NOISE, Lang, make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.symbols import EPS
from pipeline.artifacts.tokens import BLANK_ID, UNK_ID, Tokens
from pipeline.artifacts.tree import Tree, leaves
from pipeline.base.errors import DataError, MismatchError

logger = logging.getLogger(__name__)

TOKEN_UNIT = "token"  # the unit of such a lang
_MARK = "="  # put behind a token whose name is that of a special phone


def phone_name(piece: str) -> str:
    """The phone that stands for a token."""
    return piece + _MARK if piece.rstrip(_MARK) in (SILENCE, SPOKEN_NOISE, EPS) or piece.startswith("#") else piece


def token_lang(words: Iterable[str], tokens: Tokens, silence_prob: float = 0.5) -> Lang:
    """Spells words with tokens; one state per token, and silence is CTC's blank.

    Words that the tokens cannot spell are left out, as they could not be recognised.
    """
    words = list(dict.fromkeys(words))
    spelt = {word: tokens.encode_word(word) for word in words}
    left_out = {word: ids for word, ids in spelt.items() if UNK_ID in ids or not ids}
    if len(left_out) == len(words):
        raise DataError(
            f"none of the {len(words)} words can be spelt with the tokens, for example {list(left_out)[:3]}"
        )
    if left_out:
        logger.warning(
            "%d of %d words hold characters that no token has and were left out, for example %s",
            len(left_out),
            len(words),
            ", ".join(list(left_out)[:5]),
        )
    entries = [
        Pronunciation(word, tuple(phone_name(tokens.pieces[i]) for i in ids))
        for word, ids in spelt.items()
        if word not in left_out
    ]
    return make_lang(
        Lexicon(entries), TOKEN_UNIT, silence_prob=silence_prob, speech_states=1, silence_states=1, blank=True
    )


def token_of_pdf(tree: Tree, tokens: Tokens) -> npt.NDArray[Any]:
    """(P,) token id of each pdf-id of a context-free tree over the phones of a ``token_lang``; silence is the blank.

    Raises:
        MismatchError: a phone is no token.
    """
    ids = {phone_name(piece): i for i, piece in enumerate(tokens.pieces)}
    ids[SILENCE] = BLANK_ID
    out = np.full(tree.num_pdfs, -1, dtype=np.int64)
    for root in tree.roots:
        for leaf in leaves(root.node):
            for phone in root.phones:
                name = tree.phones.name(phone)
                if name not in ids or out[leaf.pdf] not in (-1, ids[name]):
                    raise MismatchError(f"phone {name!r} is no token of its own: the lang was not made of these tokens")
                out[leaf.pdf] = ids[name]
    return out
