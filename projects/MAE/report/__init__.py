"""One self-contained HTML page about a run, or several compared: python -m projects.MAE.report."""
