"""Writes the report of runs, for the command and at the end of a run."""
import os

from projects.MAE.errors import UserError
from projects.MAE.report.page import report
from projects.MAE.report.run import read_run

NAME = "report.html"


def save_report(folders, path):
    """Write the report of the runs in some folders as one HTML file, whole or not at all.

    Raises:
        UserError: a folder holds no run, or the file can't be written.
    """
    text = report([read_run(folder) for folder in folders])
    beside = f"{path}.partial"
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(beside, path)
    except OSError as error:
        raise UserError(f"{path}: can't be written: {error.strerror}: name another with --out") from None
