"""Entropy of attention by layer over the epochs of trainings, in one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.artifacts.model_meta import ENTROPY, META, EndToEndMeta, NetworkMeta, load_meta
from pipeline.base.errors import DataError

TRAINED: tuple[type[NetworkMeta | EndToEndMeta], ...] = (NetworkMeta, EndToEndMeta)


def entropies_of(model_dir: Path) -> list[list[float]]:
    """Nats of each epoch and layer; DataError for a model without attention in its encoder."""
    epochs = load_meta(model_dir, *TRAINED).epochs
    found = [[float(value) for name, value in figures.items() if name.startswith(ENTROPY)] for figures in epochs]
    if not found or not all(found):
        raise DataError(f"{model_dir / META}: its epochs tell no entropy of attention; needed is an encoder with it")
    return found


def draw_entropies(path: Path, models: Mapping[str, list[list[float]]]) -> None:
    """An SVG file with a panel for each model, side by side: nats over epochs, a line for each layer."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "fullsum"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import cm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.8 + 2.6 * len(models), 3.2), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for panel, (name, epochs) in zip(panels, models.items()):
        layers = len(epochs[0])
        for layer in range(layers):
            label = f"layer {layer + 1}" if layer in (0, layers - 1) else None
            colour = cm.viridis(layer / max(layers - 1, 1))  # type: ignore[attr-defined]
            panel.plot(range(1, len(epochs) + 1), [e[layer] for e in epochs], ".-", color=colour, label=label)
        panel.set_title(name)
        panel.set_xlabel("epoch")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("entropy of attention, nats")
    panels[0].set_ylim(bottom=0)
    panels[-1].legend()
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
