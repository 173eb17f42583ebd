"""From the steps' times to the rows of results.json and the table."""
import json
import os
import statistics


def spread(values):
    """Median, smallest and largest of some numbers."""
    return dict(
        median=round(statistics.median(values), 4),
        smallest=round(min(values), 4),
        largest=round(max(values), 4),
    )


def side_summary(turns, hellos, batch):
    """What a side needed for a step.

    Args:
        turns: what `Side.turn` gave for each step.
        hellos: what each of its processes said when it was ready.
        batch: images of a step.
    """
    seconds = [turn["seconds"] for turn in turns]
    return dict(
        seconds=spread(seconds),
        images_per_second=round(batch / statistics.median(seconds), 2),
        cpu_seconds=spread([turn["cpu_seconds"] for turn in turns]),
        others_cores=spread([turn["others_cores"] for turn in turns]),
        # Memory that processes share counts once for each.
        peak_mb=round(max(sum(a["peak_mb"] for a in turn["answers"]) for turn in turns)),
        baseline_mb=round(sum(hello["baseline_mb"] for hello in hellos)),
        all_seconds=[round(s, 4) for s in seconds],
        **{k: v for k, v in hellos[0].items() if k not in ("pid", "rank", "baseline_mb")},
    )


def compare(sides, peer):
    """Ratios of our side to a peer.

    "speed" and "cpu" (the CPU time a step takes) above 1: ours is faster; "memory" below 1: ours
    takes less.
    """
    ours, theirs = sides["ours"], sides[peer]
    rounds = [b / a for a, b in zip(ours["all_seconds"], theirs["all_seconds"])]
    return dict(
        speed=round(theirs["seconds"]["median"] / ours["seconds"]["median"], 3),
        speed_of_rounds=spread(rounds),
        cpu=round(theirs["cpu_seconds"]["median"] / ours["cpu_seconds"]["median"], 3),
        memory=round(ours["peak_mb"] / theirs["peak_mb"], 3),
    )


def update(path, rows):
    """Write rows to results.json; they replace older ones of the same work, batch and ranks."""

    def key(row):
        return (row["work"], row["batch"], row["ranks"])

    kept = {}
    if os.path.exists(path):
        with open(path) as file:
            kept = {key(row): row for row in json.load(file)}
    kept.update({key(row): row for row in rows})
    with open(path, "w") as file:
        json.dump(list(kept.values()), file, indent=1)
        file.write("\n")


def table(rows):
    """The rows as a Markdown table; ratios above 1 mean faster, or more memory, than the peer."""
    lines = [
        "| work | batch | ranks x threads | images/s | peer | images/s | ratio (rounds) "
        "| at least, goal | memory MB, peer's | ratio (at most) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "error" in row:
            name = f"| {row['work']} | {row['batch']} | {row['ranks']} |"
            lines.append(f"{name} {row['error']} | | | | | | |")
            continue
        ours = row["sides"]["ours"]
        for peer, ratios in row["ratios"].items():
            theirs, rounds = row["sides"][peer], ratios["speed_of_rounds"]
            wanted = peer == row["peer"]
            memory = [str(side.get("peak_mb") or "") for side in (ours, theirs)]
            cells = [
                row["work"],
                str(row["batch"]),
                f"{row['ranks']} x {ours.get('threads') or 1}",
                f"{ours['images_per_second']:.1f}",
                peer,
                f"{theirs['images_per_second']:.1f}",
                f"**{ratios['speed']:.2f}** ({rounds['smallest']:.2f} to {rounds['largest']:.2f})",
                f"{row['at_least']}, {row['goal']}" if wanted else "",
                ", ".join(memory) if all(memory) else "",
                f"{ratios['memory']:.2f}" + (f" ({row['most_memory']})" if wanted else "")
                if "memory" in ratios
                else "",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def profile_table(side, rows, least=0.005):
    """A side's operators as a Markdown table; those below a share of `least` are one line."""
    total = sum(seconds for _, seconds, _ in rows)
    shown = [row for row in rows if row[1] >= least * total]
    rest = [row for row in rows if row[1] < least * total]
    if rest:
        name = f"{len(rest)} others"
        shown.append([name, sum(row[1] for row in rest), sum(row[2] for row in rest)])
    lines = [f"| {side}: operator | share | ms a step | calls |", "|---|---|---|---|"]
    for name, seconds, calls in shown:
        lines.append(f"| {name} | {seconds / total:.1%} | {seconds * 1000:.1f} | {calls:g} |")
    return "\n".join(lines)
