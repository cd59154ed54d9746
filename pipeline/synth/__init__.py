"""Synthetic speech with exact word and phone times: a gold standard that needs no download."""
