"""What runs reached: the figures at the top of the page, and the evaluations made of their weights."""
import os
import statistics

from projects.MAE.report.markup import element, section, table


def metric_name(metric):
    """The name of a figure, as a person would call it."""
    if metric.startswith("Acc@"):
        return f"top-{metric[4:]} accuracy"
    return metric.replace("_", " ")


def metric_text(metric, value):
    return f"{value:.2f} %" if metric.startswith("Acc@") else f"{value:.4f}"


def results(runs, names):
    """Tiles of one run's figures, or a table with a column a run."""
    if len(runs) == 1:
        tiles = [element("li", element("b", text), element("span", name)) for name, text in _facts(runs[0])]
        return element("ul", *tiles, class_="tiles") if tiles else None
    facts = [dict(_facts(run)) for run in runs]
    rows = list(dict.fromkeys(name for found in facts for name in found))
    rows = [[row, *(f.get(row, "–") for f in facts)] for row in rows]
    return section("Results", table(["", *names], [*rows, *_evaluation_rows(runs)]))


def evaluations(runs, names):
    """Every evaluation of --eval-only and --knn: the weights, the data and the figures."""
    rows = []
    for run, name in zip(runs, names):
        for found in run.evaluated:
            about = found.about
            row = [name] if len(runs) > 1 else []
            row += [", ".join([found.kind, *_settings(found)]), _weights(run, found)]
            row += [_count(about.get("iteration")), about.get("data", "–"), _images(about)]
            figures = (f"{metric_name(m)} {metric_text(m, v)}" for m, v in found.metrics.items())
            rows.append([*row, ", ".join(figures)])
    if not rows:
        return None
    head = ["", "weights", "after iteration", "data", "images", "figures"]
    return section("Evaluations", table(["run", *head] if len(runs) > 1 else head, rows))


def _facts(run):
    """[(name, text), ...] of what a run reached."""
    if not run.began:
        return []
    done = f"{run.iterations:,}" + (f" of {run.planned:,}" if run.planned else "")
    found = [("iterations", done)]
    epochs = run.epochs(run.iterations)
    if epochs is not None:
        found.append(("epochs", f"{epochs:.1f}"))
    losses = run.curves.get("total_loss")
    if losses:
        found += [("first loss", f"{losses[0][1]:.4f}"), ("last loss", f"{losses[-1][1]:.4f}")]
    for metric in sorted(run.evaluations):
        (where, best), (end, last) = run.best(metric), run.evaluations[metric][-1]
        found.append((f"best {metric_name(metric)}", metric_text(metric, best)))
        if where != end:
            found.append((f"last {metric_name(metric)}", metric_text(metric, last)))
    speeds = [value for _, value in run.curves.get("samples_per_second", [])]
    if speeds:
        found.append(("images a second, median", f"{statistics.median(speeds):,.4g}"))
    return found


def _evaluation_rows(runs):
    """Rows of a comparison: a name, and of each run what its evaluations gave.

    What was evaluated on other or fewer images, or with another k, stands in another row, and the
    rows say so.
    """
    cells = {}  # {(kind, metric): {(data, images, *settings): {run: [(text, weights), ...]}}}
    for number, run in enumerate(runs):
        for found in run.evaluated:
            data = found.about.get("data", "unknown data")
            how = (data, f"{_images(found.about)} images", *_settings(found))
            for metric, value in found.metrics.items():
                row = cells.setdefault((found.kind, metric), {}).setdefault(how, {})
                row.setdefault(number, []).append((metric_text(metric, value), _weights(run, found)))
    rows = []
    for (kind, metric), ways in cells.items():
        for how, row in ways.items():
            told = how if len(ways) > 1 else ()
            name = ", ".join([f"{metric_name(metric)}, {kind}", *told])
            rows.append([name, *(_cell(row.get(number, [])) for number in range(len(runs)))])
    return rows


def _cell(figures):
    """[(text, weights), ...] as a text, which names the weights where there are several."""
    if len(figures) == 1:
        return figures[0][0]
    return ", ".join(f"{text} ({weights})" for text, weights in figures) or "–"


def _weights(run, found):
    """What to call the weights: a checkpoint of the run itself by its name."""
    weights = found.about.get("weights") or "unknown weights"
    inside = os.path.relpath(weights, run.folder)
    return weights if inside.startswith(os.pardir) else inside


def _settings(found):
    """["k=20", "temperature 0.07"] of a k-NN probe, [] of another evaluation."""
    about = found.about
    said = [f"k={about['k']}"] if "k" in about else []
    return said + ([f"temperature {about['temperature']}"] if "temperature" in about else [])


def _images(about):
    if "train_images" in about:
        return f"{_count(about.get('val_images'))}, among {_count(about['train_images'])}"
    return _count(about.get("images"))


def _count(number):
    return "–" if number is None else f"{number:,}"
