"""Where the figures of each epoch go beside the log: TensorBoard always, MLflow when asked."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pipeline.base.errors import ConfigError

logger = logging.getLogger(__name__)

Put = Callable[[Mapping[str, float], int], None]
RUN = "mlflow_run"  # file in the log of a training: the run that it goes on with after an interruption


@contextlib.contextmanager
def tracked(out: Path, epochs_done: int, tracker: str) -> Iterator[Put]:
    """Writes figures of epochs to OUT/log/tensorboard and to what `tracker` names.

    Args:
        out: directory of the training.
        epochs_done: before this process, of which what was written later is taken away.
        tracker: "none" or "mlflow", which is told by its own variables (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME).
    Yields:
        a function that takes figures by name and the number of the epoch, from 1.
    Raises:
        ConfigError: the tracker is not installed.
    """
    from torch.utils.tensorboard import SummaryWriter

    with (
        _mlflow(out) if tracker == "mlflow" else contextlib.nullcontext(lambda *_: None) as more,
        SummaryWriter(str(out / "log" / "tensorboard"), purge_step=epochs_done + 1) as board,
    ):

        def put(figures: Mapping[str, float], epoch: int) -> None:
            for name, value in figures.items():
                board.add_scalar(name, value, epoch)
            more(figures, epoch)

        yield put


@contextlib.contextmanager
def _mlflow(out: Path) -> Iterator[Put]:
    """A run of MLflow under the name of the directory."""
    try:
        import mlflow
    except ImportError:
        raise ConfigError("--tracker mlflow needs the package mlflow: pip install 'fullsum[mlflow]'") from None
    place = out / "log" / RUN
    known = place.read_text(encoding="ascii").strip() if place.is_file() else None
    try:
        run = mlflow.start_run(run_id=known, run_name=f"{out.parent.name}/{out.name.removesuffix('.tmp')}")
    except mlflow.exceptions.MlflowException as err:
        raise ConfigError(f"--tracker mlflow: {err}") from None
    with run:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(run.info.run_id, encoding="ascii")

        def put(figures: Mapping[str, float], epoch: int) -> None:
            try:
                mlflow.log_metrics(dict(figures), step=epoch)
            except mlflow.exceptions.MlflowException as err:  # a server that is away must not stop the training
                logger.warning("MLflow did not take the figures of epoch %d: %s", epoch, err)

        yield put
