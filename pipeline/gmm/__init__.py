"""Gaussian mixture acoustic models: training from a flat start, trees, feature transforms, speaker adaptation."""
