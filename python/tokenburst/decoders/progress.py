"""A progress bar that never stops the device."""

from rich.progress import Progress
from torch import Tensor

from tokenburst.decoders.late import LateCopy


class Bar:
    """Context manager: a progress bar, or nothing where it is not shown.

    Args:
        shown: whether it is.
        total: tokens, [B] int64 by row.
    """

    def __init__(self, shown: bool, total: Tensor) -> None:
        self._progress = Progress() if shown else None
        self._late = LateCopy(total.device)
        self._total = int(total.sum()) if shown else 0

    def __enter__(self) -> "Bar":
        if self._progress is not None:
            self._progress.start()
            self._task = self._progress.add_task("tokens", total=self._total)
        return self

    def show(self, tokens: Tensor) -> None:
        """So many tokens [B] are written by now; on a GPU that shows some steps later."""
        if self._progress is not None and (done := self._late(tokens.sum())) is not None:
            self._progress.update(self._task, completed=int(done))

    def __exit__(self, *exception: object) -> None:
        if self._progress is not None:
            self._progress.stop()
