"""Graphs for decoding and sequence training; the only package that imports k2."""
