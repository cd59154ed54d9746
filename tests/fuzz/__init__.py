"""Damaged inputs for every reader: what is damaged how, what reads it, and a campaign that counts what happens."""
