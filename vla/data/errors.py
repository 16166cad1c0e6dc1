"""The one error for data that can't be used."""

from __future__ import annotations

from pathlib import Path


class DatasetError(ValueError):
    """A data set that can't be used as it is: names the file, the field in it and the way out.

    Attributes:
        file: the file or folder at fault.
        field: the column, key or camera at fault; "" if it is the file as a whole.
        problem: what is wrong.
        fix: what to do about it.
    """

    def __init__(self, file: str | Path, field: str, problem: str, fix: str):
        self.file, self.field, self.problem, self.fix = str(file), field, problem, fix
        where = f"{file}: {field}" if field else str(file)
        super().__init__(f"{where}: {problem}. {fix}.")

    def __reduce__(self) -> tuple[type[DatasetError], tuple[str, str, str, str]]:
        # An error raised in a worker process must arrive as itself; the default would replay only the message.
        return type(self), (self.file, self.field, self.problem, self.fix)
