"""Line plots as SVG, x on a logarithmic axis; the standard library has none."""

import math
from html import escape
from statistics import median

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 64, 56

# Told apart by people who do not see red or green, too.
COLOURS = ["#0060a8", "#d06000", "#404040", "#8a3ffc"]


def number(value):
    if value >= 1_000_000 and value % 100_000 == 0:
        return f"{value / 1_000_000:g} M"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


def round_up(value):
    """The next number of 1, 2, 2.5, 5 times a power of ten, so that ticks are round."""
    power = 10 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= value * 0.999)


class Plot:
    """`series` is {label: {x: [values of all rounds]}}: a line through the medians, a dot for each round."""

    def __init__(self, title, x_label, y_label, series):
        self.title, self.x_label, self.y_label, self.series = title, x_label, y_label, series
        self.xs = sorted({x for points in series.values() for x in points})
        step = round_up(max(value for points in series.values() for values in points.values() for value in values) / 5)
        top = max(value for points in series.values() for values in points.values() for value in values)
        self.ticks = [step * index for index in range(math.ceil(top / step) + 1)]

    def x(self, value):
        low, high = math.log10(self.xs[0]), math.log10(self.xs[-1])
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(value) - low) / ((high - low) or 1)

    def y(self, value):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.ticks[-1]

    def svg(self):
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            'font-family="sans-serif" font-size="12" role="img">',
            f"<title>{escape(self.title)}</title>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
            f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{escape(self.title)}</text>',
        ]
        lines += self.axes()
        for index, (label, points) in enumerate(self.series.items()):
            lines += self.line(label, points, COLOURS[index % len(COLOURS)], index)
        return "\n".join([*lines, "</svg>", ""])

    def axes(self):
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        for tick in self.ticks:
            at = self.y(tick)
            yield f'<line x1="{LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}" stroke="#dddddd"/>'
            yield f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{number(round(tick, 6))}</text>'
        last = -100.0
        for value in self.xs:
            at = self.x(value)
            yield f'<line x1="{at:.1f}" y1="{bottom}" x2="{at:.1f}" y2="{bottom + 5}" stroke="black"/>'
            if at - last > 34:
                yield f'<text x="{at:.1f}" y="{bottom + 19}" text-anchor="middle">{number(value)}</text>'
                last = at
        yield f'<line x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="black"/>'
        middle = (LEFT + right) / 2
        yield f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">{escape(self.x_label)}</text>'
        middle = (TOP + bottom) / 2
        turn = f'transform="rotate(-90 18 {middle})"'
        yield f'<text x="18" y="{middle}" text-anchor="middle" {turn}>{escape(self.y_label)}</text>'

    def line(self, label, points, colour, index):
        at = [(self.x(x), self.y(median(values))) for x, values in sorted(points.items())]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for x, values in points.items():
            for value in values:
                yield f'<circle cx="{self.x(x):.1f}" cy="{self.y(value):.1f}" r="2" fill="{colour}" fill-opacity="0.5"/>'
        left = LEFT + index * 190
        yield f'<line x1="{left}" y1="42" x2="{left + 24}" y2="42" stroke="{colour}" stroke-width="2"/>'
        yield f'<text x="{left + 30}" y="46">{escape(label)}</text>'
