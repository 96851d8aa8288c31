"""The table of compare.py as an SVG image: a group of bars for each kind of work, each on a scale of its own."""

from html import escape

WIDTH, LABEL, VALUE = 860, 300, 170
BAR, GAP, GROUP, HEAD, FOOT = 16, 4, 18, 64, 44
OURS = "kms-http"
NAMES = {"bare": "bare axum + aws-lc", "openbao": "OpenBao", "moto": "moto", OURS: "Mini KMS"}
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 17px; font-weight: 600 }
.note { font-size: 12px; fill: #57606a }
.work { font-weight: 600 }
.other { fill: #afb8c1 }
.ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .note { fill: #9198a1 }
  .other { fill: #656c76 }
  .ours { fill: #4493f8 }
}
"""


def text(x, y, content, kind="", anchor="start"):
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(content)}</text>'


def bar(y, server, rate, most):
    """One bar, with its server to the left and its value to the right."""
    length = max(1, round((WIDTH - LABEL - VALUE) * rate / most))
    kind = "ours" if server == OURS else "other"
    return [
        text(LABEL - 10, y + BAR - 4, NAMES.get(server, server), anchor="end"),
        f'<rect x="{LABEL}" y="{y}" width="{length}" height="{BAR}" rx="2" class="{kind}"/>',
        text(LABEL + length + 8, y + BAR - 4, f"{rate:,.0f}"),
    ]


def draw(groups, note):
    """The image. `groups` has a list of (work, {server: operations per second}); `note` says where and when."""
    parts, y = [], HEAD
    for work, rates in groups:
        parts.append(text(20, y + BAR - 4, work, "work"))
        y += BAR + GAP
        for server, rate in rates.items():
            parts += bar(y, server, rate, max(rates.values()))
            y += BAR + GAP
        y += GROUP
    height = y + FOOT - GROUP
    title = "Operations per second, one machine, side by side"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">',
        f"<style>{STYLE}</style>",
        text(20, 30, title, "title"),
        text(20, 48, "Each group has a scale of its own. Longer is faster.", "note"),
        *parts,
        text(20, height - 14, note, "note"),
        "</svg>",
        "",
    ])
