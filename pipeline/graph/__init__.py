"""Graphs for decoding and sequence training; the modules whose names end in _k2 alone import k2."""
