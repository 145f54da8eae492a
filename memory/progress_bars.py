"""Progress bars on a terminal, the same for every command: one for each stage, below one another.

rich is imported when a bar is made: planning needs the standard library alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


class ProgressBars:
    """A context that shows bars on ``console`` (None: standard error) while it lasts; nothing where no terminal is.

    ``unit`` is what is counted: bytes are shown as MB, items as "3/20" with the time that is left.
    """

    def __init__(self, unit: Literal["bytes", "items"], console: Console | None = None) -> None:
        from rich import progress
        from rich.console import Console

        console = console or Console(stderr=True)
        counts = progress.DownloadColumn() if unit == "bytes" else progress.MofNCompleteColumn()
        columns = [
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            counts,
            progress.TimeElapsedColumn(),
        ]
        if unit == "items":
            columns.append(progress.TimeRemainingColumn())
        # Elsewhere than on a terminal even an empty display would leave a blank line.
        self._progress = progress.Progress(*columns, console=console, disable=not console.is_terminal)
        self._stage: TaskID | None = None

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, title: str, total: int | None) -> None:
        """Ends the last stage and begins another; ``total`` None: its end is not known."""
        self.end()
        self._progress.start()
        self._stage = self._progress.add_task(title, total=total)

    def advance(self, count: int, title: str | None = None) -> None:
        """So much more of the stage is done; ``title`` is shown from now on."""
        if self._stage is not None:
            self._progress.update(self._stage, advance=count, description=title)

    def reach(self, count: int) -> None:
        """So much of the stage is done in all."""
        if self._stage is not None:
            self._progress.update(self._stage, completed=count)

    def end(self) -> None:
        """Shows the stage as complete."""
        if self._stage is not None:
            done = max(self._progress.tasks[-1].completed, 1)
            self._progress.update(self._stage, total=done, completed=done)
            self._stage = None

    def stop(self) -> None:
        """Ends the stage and the display: lines can be printed below it."""
        self.end()
        self._progress.stop()
