"""Writes the report of runs: for the command, at the end of a run, and after an evaluation of one."""
import logging
import os

from projects.MAE.errors import UserError
from projects.MAE.report.evaluations import holds_run
from projects.MAE.report.page import report
from projects.MAE.report.run import read_run
from projects.MAE.utils.disk import replaced

NAME = "report.html"

logger = logging.getLogger("libai." + __name__)


def save_report(folders, path):
    """Write the report of the runs in some folders as one HTML file, whole or not at all.

    Raises:
        UserError: a folder holds no run, or the file can't be written.
    """
    text = report([read_run(folder) for folder in folders])
    try:
        # A run and an evaluation of it may end together. The name of a folder, or of a figure, need
        # not be text.
        with replaced(path) as beside:
            with open(beside, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
    except OSError as error:
        raise UserError(f"{path}: can't be written: {error.strerror}: name another with --out") from None


def report_of_run(folder):
    """Write the run's own report when its work is done; what goes wrong is logged and costs no more."""
    path = os.path.join(folder, NAME)
    try:
        save_report([folder], path)
    except UserError as error:  # no reason to let a run fail that is over
        logger.warning(f"No report: {error}")
    except Exception:  # nor is a defect of the report
        logger.exception("No report, because of a defect; the run itself is complete:")
    else:
        logger.info(f"Report: {path}")


def renew_reports(folder):
    """Make the reports again that an evaluation in this folder belongs to, where there are such: of
    the run in this folder, and of the run this is a folder of."""
    for place in (folder, os.path.dirname(os.path.abspath(folder))):
        # Only a run's own: in another folder the name may be that of a comparison.
        if holds_run(place) and os.path.isfile(os.path.join(place, NAME)):
            report_of_run(place)
