"""Kill runs at 30 random instants, during saves too, and compare them with runs left alone.

    bash tools/test.sh --version >/dev/null  # installs what is needed
    .venv/bin/python tests/soak/kill_resume.py --job pretraining --ranks 2

Without --job and --ranks it goes through pretraining and finetuning (drop path, mixup and cutmix
included), each on 1 and on 2 ranks: about ten minutes each on two idle cores. It prints a line for
each kill and a table, and ends with status 1 if any weight of any run has another bit.
"""
import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.machine import facts  # noqa: E402
from projects.MAE.digits import write_digits  # noqa: E402
from tests.support.kills import JOBS, kill_and_resume  # noqa: E402

DIGITS = 10


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", choices=JOBS, action="append", help="all by default")
    parser.add_argument("--ranks", type=int, action="append", help="1 and 2 by default")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "digits"
        write_digits(str(data))
        for job, ranks in itertools.product(options.job or JOBS, options.ranks or (1, 2)):
            print(f"== {job} on {ranks} ranks", flush=True)
            folder = Path(scratch) / f"{job}{ranks}"
            folder.mkdir()
            settings = [f"model.num_classes={DIGITS}"] if job == "finetuning" else []
            start = time.monotonic()
            found = kill_and_resume(
                job, ranks, data, folder, options.kills, options.seed, settings, report=_report
            )
            rows.append(dict(found, seconds=round(time.monotonic() - start)))
    print(json.dumps(facts()))
    print("| job | ranks | kills | while starting | in a save | tensors that differ | seconds |")
    print("|---" * 7 + "|")
    for row in rows:
        print(
            f"| {row['job']} | {row['ranks']} | {row['kills']} | {row['during_start']} | "
            f"{row['in_a_save']} | {', '.join(row['differing']) or 'none'} | {row['seconds']} |"
        )
    return int(any(row["differing"] for row in rows))


def _report(line):
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
