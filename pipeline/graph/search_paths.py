"""Compiled walks through what the beam search keeps (``search_kernels``): best paths and where they meet."""

from __future__ import annotations

import numpy as np

from pipeline.hmm.numba_math import exact


@exact
def endings(arcs, live, final_column):
    """The final arcs out of living tokens.

    Returns:
        (E,) int64 places of the tokens and arcs, (E,) float32 scores of the paths.
    """
    count = 0
    for k in range(len(live)):
        for a in range(live[k].begin, live[k].end):
            count += arcs[a].column == final_column
    token, arc, score = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.float32)
    count = 0
    for k in range(len(live)):
        for a in range(live[k].begin, live[k].end):
            if arcs[a].column == final_column:
                token[count], arc[count], score[count] = k, a, live[k].score + arcs[a].weight
                count += 1
    return token, arc, score


@exact
def trace(search, token, begin, end, arcs):
    """Fill `arcs` (end - begin,) with those of the best path to a token of frame `end` from frame `begin` on.

    Returns:
        The token of frame `begin` that it comes from.
    """
    links = search.links
    for t in range(end - 1, begin - 1, -1):
        best, chosen = np.float32(-np.inf), -1
        for a in range(search.link_first[t], search.link_first[t + 1]):
            if links[a].dst == token and links[a].score > best:
                best, chosen = links[a].score, a
        arcs[t - begin], token = links[chosen].arc, links[chosen].src
    return token


@exact
def meeting(search, frame, living, begin):
    """The last frame from `begin` on where the best paths to all living tokens go through one token; and that token.

    Args:
        frame, living: number of the current frame and of its tokens.
    Returns:
        -1 and 0 if they do not meet.
    """
    links, score, marked, before = search.links, search.score, search.place, search.place_after
    for k in range(living):
        marked[k] = 1
    count, only = living, 0
    for t in range(frame - 1, begin - 1, -1):
        if count == 1:
            break
        there, here = search.token_first[t + 1], search.token_first[t]
        width = there - here
        for k in range(width):
            before[k] = 0
        count = 0
        for a in range(search.link_first[t], search.link_first[t + 1]):
            dst, src = links[a].dst, links[a].src
            if marked[dst] == 1 and links[a].score == score[there + dst]:
                marked[dst] = 2  # of links that are equally good the first counts, as in `trace`
                if before[src] == 0:
                    before[src] = 1
                    count += 1
                    only = src
        frame = t
        marked, before = before, marked
    return (frame, only) if count == 1 else (-1, 0)
