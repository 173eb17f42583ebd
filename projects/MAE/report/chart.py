"""Line charts as SVG: axes with ticks and names, a colour a series, values to hover over."""
import math
from collections import namedtuple

from projects.MAE.report.markup import element, join

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 12, 44  # margins around the plot
COLOURS = 8  # that page.css has, as .c0 to .c7
MOST_POINTS = 600  # drawn of one line; more can't be told apart
LARGEST, SMALLEST = 1e300, 1e-290  # of what is drawn; differences that are told apart
MOST_DOTS = 60  # a line of more points has no dots

Series = namedtuple("Series", "name points colour dashed")
Series.__doc__ = """A line: its name, [(x, y), ...] of finite numbers, colour 0 to 7, whether dashed."""


def line_chart(series, x_name, y_name, from_zero=False):
    """An SVG of the `Series` that have points; None where none has.

    With from_zero the y axis begins at 0, so that heights can be compared.
    """
    series = [line._replace(points=_drawable(line.points)) for line in series]
    series = [line for line in series if line.points]
    if not series:
        return None
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points]
    x_range = min(0, min(xs)), max(xs)  # from the start of training, wherever the figures begin
    lowest = min(0, min(ys)) if from_zero else min(ys)
    x_ticks, y_ticks = ticks(*x_range, count=9), ticks(lowest, max(ys))
    to_x = _scale(*x_range, LEFT, WIDTH - RIGHT)
    to_y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_axes(x_ticks, y_ticks, to_x, to_y, x_range, x_name, y_name)]
    parts += [_line(line, to_x, to_y, x_name) for line in series]
    frame, about = f"0 0 {WIDTH} {HEIGHT}", f"{y_name} by {x_name}"
    return element("svg", *parts, class_="chart", viewBox=frame, role="img", aria_label=about)


def legend(series):
    """Names of the series beside a piece of their lines; None where one needs no name."""
    series = [line for line in series if line.points]
    if len(series) < 2:
        return None
    return element("ul", *(_legend_entry(line) for line in series), class_="legend")


def _legend_entry(line):
    style = f"line c{line.colour % COLOURS}" + (" dashed" if line.dashed else "")
    sample = element("line", x1=0, y1=6, x2=26, y2=6, class_=style)
    return element("li", element("svg", sample, viewBox="0 0 26 12", width=26, height=12), line.name)


def _drawable(points):
    """Those whose differences a float can hold."""
    return [point for point in points if max(map(abs, point)) < LARGEST]


def ticks(low, high, count=7):
    """Round numbers, evenly spaced, from at most `low` to at least `high`; about `count`."""
    if high - low < SMALLEST:
        spread = abs(low) / 2 if abs(low) > SMALLEST else 1.0
        low, high = low - spread, high + spread
    rough = (high - low) / (count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [index * step for index in range(first, last + 1)]


def tick_text(value, step):
    """A tick's number with as many digits as tell it from its neighbours."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or step < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if abs(step * 10**digits - round(step * 10**digits)) > 1e-6:
        digits += 1  # steps of 2.5
    return f"{value:,.{digits}f}"


def thinned(points, most=MOST_POINTS):
    """At most about `most` of the points: of each stretch its lowest and its highest."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / (most // 2))
    kept = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    if kept[0] != points[0]:
        kept.insert(0, points[0])
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept


def _scale(low, high, start, end):
    """A function from [low, high] to [start, end]; the middle where there is but one value."""
    if high == low:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _axes(x_ticks, y_ticks, to_x, to_y, x_range, x_name, y_name):
    parts = []
    for value in y_ticks:
        y = to_y(value)
        text = tick_text(value, y_ticks[1] - y_ticks[0])
        parts += [_stroke(LEFT, y, WIDTH - RIGHT, y, "grid"), _text(LEFT - 8, y + 4, text, "end")]
    for value in x_ticks:
        if not x_range[0] <= value <= x_range[1]:
            continue
        x = to_x(value)
        parts.append(_stroke(x, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 5, "axis"))
        text = tick_text(value, x_ticks[1] - x_ticks[0])
        # The text of a tick at the right edge ends there.
        anchor = "end" if x > WIDTH - RIGHT - 16 else "middle"
        parts.append(_text(x, HEIGHT - BOTTOM + 19, text, anchor))
    parts.append(_stroke(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_name, "middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    upwards = f"translate(13 {middle}) rotate(-90)"
    name = element("text", y_name, transform=upwards, text_anchor="middle")
    return join([*parts, name])


def _line(line, to_x, to_y, x_name):
    points = thinned(line.points)
    style = f"c{line.colour % COLOURS}"
    path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in points)
    dashed = " dashed" if line.dashed else ""
    parts = [element("polyline", points=path, class_=f"line {style}{dashed}")]
    few = len(points) <= MOST_DOTS
    for x, y in points:
        said = element("title", f"{line.name}, {x_name} {x:,.6g}: {y:.6g}")
        radius = 2.5 if few else 4
        place = dict(cx=f"{to_x(x):.1f}", cy=f"{to_y(y):.1f}", r=radius)
        parts.append(element("circle", said, **place, class_=f"dot {style}" if few else "target"))
    return element("g", *parts, class_="series", data_name=line.name)


def _stroke(x1, y1, x2, y2, style):
    return element("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=style)


def _text(x, y, text, anchor):
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)
