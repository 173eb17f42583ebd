"""Measure this project's speed and memory beside PyTorch's, in one run.

Each side is a process (ours: the ranks that tools/train.sh starts) with its model, optimizer and
batches in memory. They step in turn, and who is not at turn is stopped, so that all meet the same
conditions. The peers are a plain PyTorch autoencoder, checked against the golden vectors before it
is timed, and timm's ViT, in an environment that is made in benchmarks/.peer. The quickstart is
compared with an earlier revision of this project instead. Any Python from 3.8 on runs this file;
the project's own is found as tools/train.sh finds it.
"""
import argparse
import os
import signal
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks import machine, quickstart_speed
from benchmarks.peer_environment import NoPeer, peer_python
from benchmarks.results import compare, profile_table, side_summary, table, update
from benchmarks.turns import Side, SideFailed

EXAMPLES = """
examples:
  python3 benchmarks/train_step.py                             everything, half an hour or more
  python3 benchmarks/train_step.py --work pretrain --batch 16
  python3 benchmarks/train_step.py --work finetune inference --steps 15
  python3 benchmarks/train_step.py --work pretrain --batch 16 --ranks 1 --profile
  python3 benchmarks/train_step.py --work quickstart --revision d0ef563
"""
HERE = os.path.join(machine.ROOT, "benchmarks")
NO_PRETRAINED = ["finetune.enable=False"]
# Per work: the recipe, how its model runs, further settings, the peers (the first decides), the
# global batches, and the ratio of images a second that is wanted.
WORKS = {
    "pretrain": dict(
        config="projects/MAE/configs/mae_pretraining.py",
        mode="train",
        settings=[],
        peers=["pytorch", "transformers"],
        batches=[16, 64],
        at_least=1.0,
        goal=1.2,
    ),
    "finetune": dict(
        config="projects/MAE/configs/mae_finetune.py",
        mode="train",
        settings=NO_PRETRAINED + ["train.evaluation.enabled=False"],
        peers=["timm"],
        batches=[16],
        at_least=0.85,
        goal=1.1,
    ),
    "inference": dict(
        config="projects/MAE/configs/mae_finetune.py",
        mode="inference",
        settings=NO_PRETRAINED,
        peers=["timm"],
        batches=[32],
        at_least=1.0,
        goal=1.2,
    ),
}
MOST_MEMORY = 1.3  # times the peer's
WARMUP = 2  # OneFlow compiles its graph in the first step


def our_side(work, batch, args, folder):
    """Start this project's ranks as a user does, with folders of images that are looked for alone."""
    data = os.path.join(folder, "data")
    for split in ("train", "val"):
        os.makedirs(os.path.join(data, split, "class"), exist_ok=True)
    command = [
        "bash",
        os.path.join(machine.ROOT, "tools/train.sh"),
        os.path.join(HERE, "oneflow_step.py"),
        work["config"],
        str(args.ranks),
        "train.device=cpu",
        f"train.global_batch_size={batch}",
        "train.train_micro_batch_size=null",
        "train.num_accumulation_steps=1",
        f"train.output_dir={folder}/output",
        f"dataloader.train.dataset.0.root={data}",
        "train.visualize.after_n_epoch=null",
        "train.tensorboard=False",
        *work["settings"],
        *args.settings,
    ]
    environment = dict(os.environ, BENCHMARK_MODE=work["mode"])
    return Side("ours", command, environment, args.ranks, folder)


def peer_side(name, mode, batch, args, folder):
    """Start a PyTorch peer with a thread a core."""
    script = os.path.join(HERE, "peer_step.py")
    command = [args.peer_python, script, name, mode, str(batch), str(machine.cores())]
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    environment["OMP_NUM_THREADS"] = str(machine.cores())
    return Side(name, command, environment, 1, folder)


def start_sides(work, batch, args, folder):
    """Start our side and its peers, or none of them."""
    sides = []
    try:
        sides.append(our_side(work, batch, args, folder))
        for name in work["peers"]:
            # It is there to judge the PyTorch peer by; one batch is enough.
            if name != "transformers" or batch == min(args.batch or work["batches"]):
                sides.append(peer_side(name, work["mode"], batch, args, folder))
    except BaseException:
        close(sides)
        raise
    return sides


def close(sides):
    for side in sides:
        side.close()


def take_turns(sides, steps):
    """Step every side in turn. Returns {name of the side: [turn of each step]}."""
    turns = {side.name: [] for side in sides}
    for i in range(-WARMUP, steps):
        for side in sides:
            turn = side.turn("step")
            if i >= 0:
                turns[side.name].append(turn)
            kind = f"step {i + 1}" if i >= 0 else "warm-up"
            print(f"  {kind}, {side.name}: {turn['seconds']:.3f} s", file=sys.stderr)
    return turns


def measure(name, batch, args):
    """One row of the results."""
    work = WORKS[name]
    print(f"{name}, batch {batch}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        sides = start_sides(work, batch, args, folder)
        try:
            turns = take_turns(sides, args.steps)
            profiles = {s.name: profile(s) for s in sides} if args.profile else {}
        finally:
            close(sides)
    found = {s.name: side_summary(turns[s.name], s.hellos, batch) for s in sides}
    peers = [s.name for s in sides[1:]]
    row = dict(
        work=name,
        batch=batch,
        ranks=args.ranks,
        settings=args.settings,
        peer=peers[0],
        ratios={peer: compare(found, peer) for peer in peers},
        at_least=work["at_least"],
        goal=work["goal"],
        most_memory=MOST_MEMORY,
        sides=found,
        **machine.facts(),
    )
    if profiles:
        row["profiles"] = profiles
    return row


def profile(side):
    """[[operator, seconds, calls]] of a step of a side; of one rank, where there are several."""
    return side.turn("profile")["answers"][0]["profile"]


def check_peers(python):
    """Exit unless the peers compute what the golden vectors say."""
    script = os.path.join(HERE, "peer_step.py")
    vectors = os.path.join(machine.ROOT, "tests", "golden")
    done = subprocess.run([python, script, "check", vectors], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("error: the peers don't compute the golden vectors, so nothing is timed")
    print(f"Largest differences of the peers from the golden vectors: {done.stdout.strip()}")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    works = [*WORKS, "quickstart"]
    option = parser.add_argument
    option("--work", nargs="+", choices=works, default=works, help="all by default")
    option("--batch", nargs="+", type=positive, help="global batches, in place of the default")
    option("--steps", type=positive, default=7, help="steps to time, after warm-up (7)")
    option("--ranks", type=positive, default=machine.cores(), help="our ranks (one a core)")
    option("--set", nargs="+", default=[], dest="settings", metavar="KEY=VALUE",
           help="settings of our side")
    option("--profile", action="store_true",
           help="list the share of each operator, too (ours needs g++)")
    option("--revision", default="d0ef563",
           help="what the quickstart is compared with (d0ef563)")
    option("--output", default=os.path.join(HERE, "results.json"), help="rows are added to it")
    return parser.parse_args()


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


def row_or_error(name, batch, args):
    """A row of the results; one with "error" where a side failed, so that the others go on."""
    try:
        return measure(name, batch, args)
    except SideFailed as error:
        print(error, file=sys.stderr)
        reason = str(error).splitlines()[0]
        return dict(work=name, batch=batch, ranks=args.ranks, error=reason, **machine.facts())


def main():
    args = parse_arguments()
    rows = []
    if set(args.work) != {"quickstart"}:
        args.peer_python = peer_python()
        check_peers(args.peer_python)
    for name in args.work:
        if name == "quickstart":
            rows.append(quickstart_speed.measure(args.revision, args.ranks))
        else:
            batches = args.batch or WORKS[name]["batches"]
            rows += [row_or_error(name, batch, args) for batch in batches]
        update(args.output, rows)  # after each, so that an interruption loses one at most
    print(table(rows))
    for row in rows:
        for side, operators in row.get("profiles", {}).items():
            title = f"{row['work']}, batch {row['batch']}, {side}"
            print("\n" + profile_table(title, operators))
    if any("error" in row for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *unused: sys.exit(143))  # with everything cleaned up
    try:
        main()
    except (NoPeer, quickstart_speed.QuickstartFailed) as error:
        sys.exit(f"error: {error}")
