"""Corpora in the formats of others, read and converted into data directories."""
