"""Importing LiBai leaves SciPy's statistics out, and its metric that needs them still works."""
import subprocess
import sys

from tests.support.command import ROOT


def test_statistics_are_imported_when_they_are_called():
    program = (
        "import sys, projects.MAE.engine.setup\n"
        "assert 'scipy.stats' not in sys.modules\n"
        "from libai.evaluation import reg_evaluator\n"
        "print(round(reg_evaluator.pearsonr([1, 2, 3], [1, 2, 4])[0], 4))\n"
        "import scipy.stats\n"
        "assert scipy.stats.spearmanr([1, 2], [2, 1])[0] < 0\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "0.982"
