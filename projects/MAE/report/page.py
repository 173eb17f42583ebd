"""The page: results, curves, reconstructions, weights, how to go on, settings, versions."""
import base64
import os
import re

from projects.MAE.report.chart import Series, legend, line_chart
from projects.MAE.report.commands import next_commands
from projects.MAE.report.markup import Markup, element, join, section, table, void
from projects.MAE.report.results import evaluations, metric_name, metric_text, results
from projects.MAE.utils.untrusted_file import open_regular

MOST_PICTURES = 4  # of a run; the first, the last and what lies evenly between
MOST_RESTARTS = 10  # that are told of
PNG = b"\x89PNG\r\n\x1a\n"  # what a picture begins with
# Settings that differ between any two runs and say nothing.
UNINTERESTING = ("train.output_dir", "train.resume", "train.start_iter")


def report(runs):
    """The HTML of a report about one or several `Run`s, which needs nothing beside it."""
    names = _names(runs)
    title = names[0] if len(runs) == 1 else f"{len(runs)} runs compared"
    with open(os.path.join(os.path.dirname(__file__), "page.css")) as file:
        style = Markup(file.read())
    head = element(
        "head",
        void("meta", charset="utf-8"),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void("link", rel="icon", href="data:,"),  # or a browser asks a server for one
        element("title", f"{title}: report"),
        element("style", style),
    )
    parts = [element("h1", title), _introduction(runs), _notes(runs, names)]
    parts += [results(runs, names), evaluations(runs, names)]
    if any(run.began for run in runs):
        parts += [_charts(runs, names), _pictures(runs, names)]
        parts += [_weights(runs, names), _commands(runs, names), _settings(runs, names)]
        parts.append(_versions(runs, names))
    page = element("html", head, element("body", *parts), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _names(runs):
    """A short name for each run: the end of its path that tells it from the others."""
    paths = [os.path.abspath(run.folder).strip("/").split("/") for run in runs]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({i + 1})" for i, name in enumerate(names)]  # a folder given twice


def _introduction(runs):
    if len(runs) > 1:
        return None
    run = runs[0]
    started, ranks, device = map(run.environment.get, ("started", "ranks", "device"))
    said = [f"{run.kind} in {run.folder}"]
    if started:
        said.append(f"started {started}")
    if ranks and device:
        said.append(f"{ranks} {device} {'rank' if ranks == 1 else 'ranks'}")
    return element("p", ", ".join(said), class_="soft")


def _notes(runs, names):
    """What a reader has to know to read the curves right."""
    found = []
    for run, name in zip(runs, names):
        about = f"{name}: " if len(runs) > 1 else ""
        if run.planned and run.iterations < run.planned:
            found.append(f"{about}not finished: {run.iterations:,} of {run.planned:,} iterations.")
        if len(run.restarts) > MOST_RESTARTS:
            found.append(f"{about}gone on with {len(run.restarts):,} times; the last ones:")
        for iteration in run.restarts[-MOST_RESTARTS:]:
            what = "started anew" if iteration == 1 else f"gone on with at iteration {iteration:,}"
            found.append(f"{about}{what}; the figures from there on that were written before are not shown.")
        if run.damaged:
            lines = "1 line" if run.damaged == 1 else f"{run.damaged} lines"
            found.append(f"{about}{lines} of metrics.json could not be read.")
        found += [f"{about}not shown: {text}" for text in run.left_out]
    return join(element("p", text, class_="note") for text in found)


def _charts(runs, names):
    in_epochs = all(run.epochs(1) is not None for run in runs if run.began)
    x_name = "epoch" if in_epochs else "iteration"

    def lines(key, label=None, dashed=False):
        for number, (run, name) in enumerate(zip(runs, names)):
            points = run.curves.get(key, [])
            if in_epochs:
                points = [(run.epochs(iteration), value) for iteration, value in points]
                points = [point for point in points if point[0] is not None]  # above any float
            said = " ".join(part for part in (name if len(runs) > 1 else None, label) if part)
            yield Series(said or metric_name(key), points, number, dashed)

    metrics = sorted({metric for run in runs for metric in run.evaluations})
    losses = [*lines("total_loss", "training")]
    accuracies = []
    for metric in metrics:
        if metric.startswith("Acc@"):
            accuracies += lines(metric, f"top-{metric[4:]}", dashed=metric != "Acc@1")
        elif "loss" in metric:
            losses += lines(metric, "validation", dashed=True)
    drawn = [
        _figure("Loss", losses, x_name, "loss"),
        _figure("Accuracy", accuracies, x_name, "accuracy in %"),
        _figure("Learning rate", [*lines("lr")], x_name, "learning rate"),
        _figure("Throughput", [*lines("samples_per_second")], x_name, "images a second", from_zero=True),
    ]
    for metric in metrics:
        if not metric.startswith("Acc@") and "loss" not in metric:
            name = metric_name(metric)
            drawn.append(_figure(name, [*lines(metric)], x_name, name))
    if not any(drawn):
        return section("Curves", element("p", "There is no metrics.json with figures yet."))
    return section("Curves", element("div", *drawn, class_="charts"))


def _figure(title, series, x_name, y_name, from_zero=False):
    if len({line.colour for line in series}) == 1:
        # Of one run, the colour is free to tell the kinds of figures apart.
        series = [line._replace(colour=number) for number, line in enumerate(series)]
    chart = line_chart(series, x_name, y_name, from_zero)
    return chart and element("figure", element("figcaption", title), chart, legend(series))


def _pictures(runs, names):
    shown = []
    for run, name in zip(runs, names):
        for path in reversed(_selection(run.pictures)):
            with open_regular(path, run.folder) as file:
                picture = file.read()
            if not picture.startswith(PNG):
                continue
            data = base64.b64encode(picture).decode()
            label = re.sub(r"_0*(\d+)", r" \1", os.path.basename(path)[:-4])
            caption = f"{name}, {label}" if len(runs) > 1 else label
            image = void("img", src=f"data:image/png;base64,{data}", alt=f"Reconstructions, {caption}")
            shown.append(element("figure", element("figcaption", caption), image))
    return section("Reconstructions", element("div", *shown, class_="pictures")) if shown else None


def _selection(pictures):
    if len(pictures) <= MOST_PICTURES:
        return pictures
    last = len(pictures) - 1
    return [pictures[round(i * last / (MOST_PICTURES - 1))] for i in range(MOST_PICTURES)]


def _weights(runs, names):
    rows = []
    for run, name in zip(runs, names):
        for found in run.checkpoints:
            card = found["card"]
            known = {k: v for k, v in card.items() if k in run.evaluations}
            metrics = [f"{metric_name(k)} {metric_text(k, v)}" for k, v in known.items()]
            row = [f"{run.folder.rstrip('/')}/{found['name']}", card.get("iteration", "–")]
            rows.append([*row, f"{found['bytes'] / 1e6:,.1f} MB", ", ".join(metrics) or "–"])
    if not rows:
        return section("Weights", element("p", "No checkpoint was saved yet."))
    return section("Weights", table(["checkpoint", "after iteration", "size", "evaluation"], rows))


def _commands(runs, names):
    shown = []
    for run, name in zip(runs, names):
        commands = next_commands(run)
        if len(runs) > 1 and commands:
            shown.append(element("h3", name))
        for what, command in commands:
            shown.append(element("div", element("p", what), element("pre", command), class_="command"))
    if not shown:
        return None
    where = "From the root of the repository. python is that of .venv; words in capitals are to be filled in."
    return section("How to go on", element("p", where, class_="soft"), *shown)


def _settings(runs, names):
    texts = [
        element("details", element("summary", f"config.yaml of {name}"), element("pre", run.config_text))
        for run, name in zip(runs, names)
        if run.config_text
    ]
    if not texts:
        return None
    # A folder of evaluations has none.
    configured = [(run, name) for run, name in zip(runs, names) if run.config]
    if len(configured) < 2:
        return section("Configuration", *texts)
    flat = [dict(_flatten(run.config)) for run, _ in configured]
    keys = sorted({key for found in flat for key in found} - set(UNINTERESTING))
    rows = [[key, *(_value(found, key) for found in flat)] for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    head = ["setting", *(name for _, name in configured)]
    differences = table(head, rows) if rows else element("p", "All settings agree.")
    return section("Configuration: what differs", differences, *texts)


def _flatten(node, path=""):
    """(dotted key, value) of every leaf of nested dicts and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, (dict, list)) and value:
            yield from _flatten(value, name)
        else:
            yield name, value


def _value(flat, key):
    return str(flat[key]) if key in flat else "–"


def _versions(runs, names):
    found = [run.environment.get("versions") for run in runs]
    found = [versions if isinstance(versions, dict) else {} for versions in found]
    rows = list(dict.fromkeys(name for versions in found for name in versions))
    if not rows:
        return None
    body = [[row, *(element("span", v.get(row, "–")) for v in found)] for row in rows]
    return section("Versions", table(["", *names] if len(runs) > 1 else None, body))
