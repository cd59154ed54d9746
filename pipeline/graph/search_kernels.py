"""Compiled loops of the beam search: token passing over an epsilon-free graph, and pruning of what it leaves.

The history of a search is a list of links, each an arc between a token of one frame and one of the next; tokens are
numbered within their frame. Scores of a frame are relative to the best token of the frame before, so that float32 keeps
its precision however long the utterance is. Nothing here allocates: where an array is too small, `advance` returns its
code, the caller makes it larger, and the frame is done again.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pipeline.graph import search_scores
from pipeline.graph.search_scores import fill
from pipeline.hmm import numba_cache, numba_math, numba_scores
from pipeline.hmm.numba_math import frames

SOURCES = tuple(str(module.__file__) for module in (search_scores, numba_math, numba_scores))

ARC = np.dtype([("dst", np.int32), ("column", np.int32), ("weight", np.float32)])  # side by side, for the cache
LIVE = np.dtype([("begin", np.int32), ("end", np.int32), ("state", np.int32), ("score", np.float32)])
NEXT = np.dtype([("state", np.int32), ("score", np.float32), ("src", np.int32), ("arc", np.int32)])
LINK = np.dtype([("src", np.int32), ("dst", np.int32), ("arc", np.int32), ("score", np.float32)])
DONE, MORE_TOKENS, MORE_LINKS, MORE_HISTORY = 0, 1, 2, 3
# Places in `Search.counts`.
FRAME, LIVING, BEST, PRUNED = 0, 1, 2, 3
FAR = np.float32(1e30)  # how much worse than the best path one is that leads nowhere
UNLIMITED = 1e20  # a lattice beam that keeps all that leads somewhere
DELTA = np.float32(0.5)  # where max_active or min_active sets the beam, the next frame's tokens get that much more
BINS = 1024
NEAR = np.float32(1e-6)  # the bins' span where all tokens are equally good
AHEAD = 8  # tokens by which the arcs to come are fetched


class Search(NamedTuple):
    """Memory of one search.

    Attributes:
        live: LIVE, tokens of the current frame: arcs out of the state, the state, the score.
        next: NEXT, tokens of the frame after it, while they are found.
        slot: (S,) int32, where the token of a state lies in `next`, valid if that one is the state's.
        row: (C + 1,) float32 scaled scores of the frame; the last is -inf, for arcs that emit nothing.
        place, place_after: (as next) int32, new numbers of tokens.
        links: LINK, those of frame t at link_first[t]:link_first[t + 1].
        base: (T,) float32 score of the best token of each frame, which is taken off those of the next.
        score, extra: float32 of the tokens of frame t at token_first[t]:token_first[t + 1]: the score, and by how much
            the best path through it is worse than the best of all.
        histogram: (BINS,) int32.
        counts: frames done, tokens in `live`, the best one's place, frames whose history has been pruned.
        beam: (1,) float32, that of the frame to come.
    """

    live: np.ndarray
    next: np.ndarray
    slot: np.ndarray
    row: np.ndarray
    place: np.ndarray
    place_after: np.ndarray
    links: np.ndarray
    base: np.ndarray
    link_first: np.ndarray
    score: np.ndarray
    extra: np.ndarray
    token_first: np.ndarray
    histogram: np.ndarray
    counts: np.ndarray
    beam: np.ndarray


class Limits(NamedTuple):
    """What is kept: beams in units of scaled scores, tokens per frame, frames between two prunings of the history."""

    beam: float
    lattice_beam: float
    min_active: int
    max_active: int
    chunk: int
    lattice: bool


@intrinsic
def prefetch(typingctx, array, index):
    """Have array[index] brought into the cache."""

    def codegen(context, builder, signature, args):
        kind, _ = signature.args
        view = context.make_array(kind)(context, builder, args[0])
        pointer = builder.bitcast(builder.gep(view.data, [args[1]]), cgutils.voidptr_t)
        name, number = "llvm.prefetch.p0i8", ir.IntType(32)
        call = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, call, name)
        builder.call(function, [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, index), codegen


@frames
def expand(arcs, row, live, count, best, slot, after, links, first, beam, lattice):
    """Follow the arcs out of the living tokens.

    The best token goes first: its arcs tell how good the next frame's tokens are at least.

    Args:
        best: place of the best token, whose score is taken off all.
        after: NEXT, filled.
        links: LINK, filled from `first` on if `lattice`.
    Returns:
        Number of next tokens, or minus the code of the array that is too small; end of the links.
    """
    base, cutoff, found, end = live[best].score, np.float32(-np.inf), np.uintp(0), np.uintp(first)
    for a in range(np.uintp(live[best].begin), np.uintp(live[best].end)):
        cutoff = max(cutoff, arcs[a].weight + row[np.uintp(arcs[a].column)] - beam)
    for i in range(np.uintp(count)):
        token, begin, stop = live[i].score - base, np.uintp(live[i].begin), np.uintp(live[i].end)
        if i + np.uintp(AHEAD) < np.uintp(count):
            prefetch(arcs, np.uintp(live[i + np.uintp(AHEAD)].begin))
        if found + (stop - begin) > np.uintp(len(after)):
            return -MORE_TOKENS, end
        if lattice and end + (stop - begin) > np.uintp(len(links)):
            return -MORE_LINKS, end
        for a in range(begin, stop):
            x = token + arcs[a].weight + row[np.uintp(arcs[a].column)]
            if x > cutoff:
                state = arcs[a].dst
                k = np.uintp(slot[np.uintp(state)])
                if k < found and after[k].state == state:
                    if x > after[k].score:
                        after[k].score, after[k].src, after[k].arc = x, i, a
                else:
                    k = found
                    found += np.uintp(1)
                    slot[np.uintp(state)] = k
                    after[k].state, after[k].score, after[k].src, after[k].arc = state, x, i, a
                cutoff = max(cutoff, x - beam)
                if lattice:
                    links[end].src, links[end].dst, links[end].arc, links[end].score = i, k, a, x
                    end += np.uintp(1)
    return np.int64(found), end


@frames
def census(after, count, beam):
    """Of the next frame's tokens the best score, how many are within the beam, and how far the worst is behind."""
    best, worst, within = np.float32(-np.inf), np.float32(np.inf), 0
    for k in range(count):
        best, worst = max(best, after[k].score), min(worst, after[k].score)
    for k in range(count):
        within += best - after[k].score <= beam
    return best, within, best - worst


@frames
def threshold(after, count, best, within, furthest, limits, histogram):
    """Score below which the next frame's tokens are given up, and the beam of the frame after it.

    cf. Kaldi FasterDecoder::GetCutoff, whose exact ranks are bins of a histogram here; a bin is kept whole.
    """
    beam = np.float32(limits.beam)
    if limits.min_active <= within <= limits.max_active:
        return best - beam, beam
    if count <= min(limits.min_active, limits.max_active):  # so few that all of them and of the next frame are welcome
        return np.float32(-FAR), np.float32(UNLIMITED)
    wanted = limits.max_active if within > limits.max_active else min(limits.min_active, count)
    span = max(min(beam, furthest) if within > limits.max_active else furthest, NEAR)
    histogram[:] = 0
    step = np.float32(BINS) / span
    for k in range(count):
        bin = np.int64((best - after[k].score) * step)
        if bin < BINS:
            histogram[bin] += 1
    edge, total = 0, 0
    while edge < BINS and total < wanted:
        total += histogram[edge]
        edge += 1
    width = span if edge == BINS else np.float32(edge) / step
    return best - width, width + DELTA


@frames
def settle(splits, search, count, first, end, limits):
    """Make the tokens above the threshold the living ones, and note them and their links in the history.

    Args:
        first, end: links of this frame, if the search keeps all of them.
    """
    after, live, place, links = search.next, search.live, search.place, search.links
    frame, score = search.counts[FRAME], search.score
    best, within, furthest = census(after, count, np.float32(limits.beam))
    least, beam = threshold(after, count, best, within, furthest, limits, search.histogram)
    top, living, at = 0, 0, search.token_first[frame + 1]
    for k in range(count):
        x = after[k].score
        place[k] = -1
        if x >= least:
            place[k] = living
            state = after[k].state
            live[living].begin, live[living].end = splits[state], splits[state + 1]
            live[living].state, live[living].score = state, x
            score[at + living] = x
            if x == best:
                top = living
            living += 1
    if limits.lattice:
        to, slack = first, np.float32(limits.lattice_beam)
        for a in range(first, end):
            k = links[a].dst
            if place[k] >= 0 and links[a].score >= after[k].score - slack:
                links[to] = links[a]
                links[to].dst = place[k]
                to += 1
    else:
        to = first
        for k in range(count):
            if place[k] >= 0:
                links[to].src, links[to].dst = after[k].src, place[k]
                links[to].arc, links[to].score = after[k].arc, after[k].score
                to += 1
    search.link_first[frame + 1] = to
    search.token_first[frame + 2] = at + living
    search.counts[FRAME], search.counts[LIVING], search.counts[BEST] = frame + 1, living, top
    search.beam[0] = beam


@frames
def advance(arcs, splits, search, limits, scale, source, begin, end):
    """Search on through frames begin..end of a source, where it was left.

    Args:
        arcs, splits: the graph: ARC, those out of state s at splits[s]:splits[s + 1].
        begin: number of the source's first frame in the utterance; `end` that behind its last frame.
    Returns:
        DONE, or the code of an array that is too small.
    """
    counts = search.counts
    while counts[FRAME] < end and counts[LIVING] > 0:
        frame, living, best = counts[FRAME], counts[LIVING], counts[BEST]
        fill(search.row, source, arcs, search.live, living, frame, frame - begin, np.float32(scale))
        first = search.link_first[frame]
        found, last = expand(
            arcs,
            search.row,
            search.live,
            living,
            best,
            search.slot,
            search.next,
            search.links,
            first,
            search.beam[0],
            limits.lattice,
        )
        if found < 0:
            return -found
        if search.token_first[frame + 1] + found > len(search.score):
            return MORE_HISTORY
        if not limits.lattice and first + found > len(search.links):
            return MORE_LINKS
        if found > 0:
            search.base[frame] = search.live[best].score
        else:  # no path is left; the tokens of the last frame that has some stay
            return DONE
        settle(splits, search, found, first, np.int64(last), limits)
        if counts[FRAME] - counts[PRUNED] >= limits.chunk:
            living, at = counts[LIVING], search.token_first[counts[FRAME]]
            for k in range(living):
                search.extra[at + k] = np.float32(0.0)
            prune(search, limits.lattice_beam)
    return DONE


@frames
def prune(search, lattice_beam):
    """Drop from the history the links that are on no path within the beam, and the tokens that no link is left of.

    `extra` of the current frame's tokens must be set: how much worse than the best path their best one can end, 0 where
    that is not known yet, FAR for those that are to go.
    """
    counts, links, extra = search.counts, search.links, search.extra
    frame = counts[FRAME]
    start = frame
    while start > 0:
        start -= 1
        if not back_up(search, start, np.float32(lattice_beam)) and start < counts[PRUNED]:
            break
    for k in range(search.token_first[start + 1] - search.token_first[start]):
        search.place[k] = k
    to, token_to = search.link_first[start], search.token_first[start + 1]
    begin, token_begin = to, token_to
    place, place_after = search.place, search.place_after
    for t in range(start, frame):
        end, token_end = search.link_first[t + 1], search.token_first[t + 2]
        kept = 0
        for k in range(token_begin, token_end):
            place_after[k - token_begin] = kept
            if extra[k] < FAR:
                search.score[token_to + kept], extra[token_to + kept] = search.score[k], extra[k]
                kept += 1
        for a in range(begin, end):
            if links[a].arc >= 0:
                links[to] = links[a]
                links[to].src, links[to].dst = place[links[a].src], place_after[links[a].dst]
                to += 1
        token_to += kept
        search.link_first[t + 1], search.token_first[t + 2] = to, token_to
        begin, token_begin = end, token_end
        place, place_after = place_after, place
    counts[PRUNED] = frame


@frames
def back_up(search, t, lattice_beam):
    """Frame t of the backward pass of `prune`: whether a token's `extra` or a link changed."""
    links, extra, score, changed = search.links, search.extra, search.score, False
    here, there = search.token_first[t], search.token_first[t + 1]
    width = there - here
    new = search.next  # free between two frames
    for k in range(width):
        new[k].score = FAR
    for a in range(search.link_first[t], search.link_first[t + 1]):
        dst, src = there + links[a].dst, links[a].src
        worse = max(extra[dst] + (score[dst] - links[a].score), np.float32(0.0))
        if worse > lattice_beam:
            links[a].arc = -1
            changed = True
        elif worse < new[src].score:
            new[src].score = worse
    for k in range(width):
        changed = changed or new[k].score != extra[here + k]
        extra[here + k] = new[k].score  # whatever was there: nothing, in a frame that has not been pruned before
    return changed


@functools.cache
def drop_stale_code(*more: str) -> None:
    """numba's cache looks at the file of a loop, not at those it calls into: drop what is older than any of them.

    Args:
        more: source files of further functions that the loops here are compiled with.
    """
    stems = [Path(file).stem for file in (__file__, str(search_scores.__file__))]
    numba_cache.drop_stale_code(str(advance.stats.cache_path), stems, [*more, __file__, *SOURCES])


drop_stale_code()
