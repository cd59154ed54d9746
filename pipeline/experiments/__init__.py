"""Grids of experiments: tables, plots, reports, training curves, jobs."""
