"""Kill runs at random instants, go on with them, and compare them with runs left alone.

    bash tools/test.sh --version >/dev/null  # installs what is needed
    .venv/bin/python tests/soak/kill_resume.py                          # 200 kills
    .venv/bin/python tests/soak/kill_resume.py --kills 50 --first 200   # 50 more

Pretraining, finetuning (drop path, mixup and cutmix included), probing and the extraction of
features, on 1, 2 and 4 ranks in three layouts, take turns. A kill's number and the seed tell what
is killed, everything, a rank or a worker, and when. It prints a line for each kill and a table, and
ends with status 1 if a bit of a result is another one, or a run took more than 60 s to end.
"""
import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.machine import facts  # noqa: E402
from projects.MAE.digits import write_digits  # noqa: E402
from tests.support import kills  # noqa: E402

# (task, ranks, what ranks beyond those of the layout's two share is data)
JOBS = (
    ("pretraining", 2, "tensor"),
    ("finetuning", 1, "data"),
    (kills.EXTRACTION, 1, "data"),
    ("probing", 2, "data"),
    ("pretraining", 4, "pipeline"),
    ("finetuning", 2, "data"),
    ("probing", 1, "data"),
    ("pretraining", 1, "data"),
    ("finetuning", 4, "tensor"),
    ("probing", 4, "data"),
)
LONGEST_END = 60  # seconds from a kill to the end of the last process
HEAD = ("task", "ranks", "layout", "kills", "of everything", "of a rank", "of a worker")
HEAD += ("ends identical", "longest end after a kill")


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how many (200)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (0)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (0)")
    parser.add_argument("--task", choices=[*kills.TASKS, kills.EXTRACTION], help="all by default")
    options = parser.parse_args(arguments)
    jobs = [job for job in JOBS if options.task in (None, job[0])]
    rows, start = [], time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "digits"
        write_digits(str(data))
        for place, (task, ranks, layout) in enumerate(jobs):
            every = range(options.first, options.first + options.kills)
            numbers = [number for number in every if number % len(jobs) == place]
            if numbers:
                _say(f"== {task}, {ranks} ranks, {layout}")
                folder = Path(scratch) / f"{task}{ranks}"
                folder.mkdir()
                rows.append(_series(task, ranks, layout, data, folder, numbers, options.seed))
    _say(json.dumps(facts()))
    _say(f"{sum(row['kills'] for row in rows)} kills in {time.monotonic() - start:.0f} s")
    _say(f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|")
    for row in rows:
        told = [row[key] for key in ("task", "ranks", "layout", "kills")]
        told += [row[key] for key in (kills.EVERYTHING, kills.RANK, kills.WORKER)]
        told += ["no" if row["differing"] else "yes", f"{row['longest']:.0f} s"]
        _say(f"| {' | '.join(map(str, told))} |")
    return int(any(row["differing"] or row["longest"] > LONGEST_END for row in rows))


def _series(task, ranks, layout, data, folder, numbers, seed):
    settings = ["model.num_classes=10"] if task in ("finetuning", "probing") else []
    found = kills.kill_and_resume(task, ranks, data, folder, numbers, seed, layout, settings, _say)
    for name in found["differing"]:
        _say(f"differs at the end: {name}")
    return found


def _say(line):
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
