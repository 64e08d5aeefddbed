"""Draws the picture of the README: the path of a frame, and what window and memory reach; light and dark.

python docs/draw_architecture.py    # writes docs/images/architecture-light.svg and architecture-dark.svg
"""

from html import escape
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 880, 452
PALETTES = {
    "light": {
        "ground": "#ffffff", "card": "#f6f8fa", "line": "#8c959f", "ink": "#1f2328", "faint": "#59636e",
        "text": "#d4a72c", "moshi": "#0969da", "user": "#8250df", "memory": "#1a7f37", "memory_soft": "#dafbe1",
        "window": "#bf3989", "window_soft": "#ffeff7",
    },
    "dark": {
        "ground": "#0d1117", "card": "#151b23", "line": "#656c76", "ink": "#f0f6fc", "faint": "#9198a1",
        "text": "#d29922", "moshi": "#4493f8", "user": "#ab7df8", "memory": "#3fb950", "memory_soft": "#12261e",
        "window": "#db61a2", "window_soft": "#2d1626",
    },
}  # fmt: skip
CELL, STEP = 9, 11  # side of a code's square, and from one to the next


class Drawing:
    """The elements of a picture in the colours of a palette."""

    def __init__(self, colours: dict[str, str]) -> None:
        self.colours = colours
        self.elements: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, fill: str, line: str | None, radius: float) -> None:
        """A rectangle with round corners; `fill` and `line` are names of colours."""
        stroke = "" if line is None else f' stroke="{self.colours[line]}"'
        self.elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
            f'fill="{self.colours[fill]}"{stroke}/>'
        )

    def words(self, x: float, y: float, text: str, colour: str, size: float, anchor: str, bold: bool = False) -> None:
        """A line of text; `anchor` is start, middle or end."""
        weight = ' font-weight="600"' if bold else ""
        self.elements.append(
            f'<text x="{x:g}" y="{y:g}" fill="{self.colours[colour]}" font-size="{size:g}" text-anchor="{anchor}"'
            f"{weight}>{escape(text)}</text>"
        )

    def arrow(self, *points: tuple[float, float]) -> None:
        """Lines from point to point, with a head at the last."""
        path = " L".join(f"{x:g} {y:g}" for x, y in points)
        self.elements.append(
            f'<path d="M{path}" fill="none" stroke="{self.colours["line"]}" stroke-width="1.5" '
            'marker-end="url(#head)"/>'
        )

    def svg(self) -> str:
        """The whole file."""
        head = (
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0 L8 4 L0 8 z" fill="{self.colours["line"]}"/></marker>'
        )
        opening = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif">'
        )
        return "\n".join([opening, f"<defs>{head}</defs>", *self.elements, "</svg>\n"])


def draw_streams(draw: Drawing) -> None:
    """The 17 streams as rows of codes, the newest frame on the right."""
    draw.words(24, 30, "17 streams of codes", "ink", 14, "start", bold=True)
    draw.words(24, 47, "one column a frame, 12.5 a second", "faint", 11.5, "start")
    columns, top = 9, 66
    groups = (("text", 1, "text"), ("Moshi's voice: 8 codebooks", 8, "moshi"), ("the user's: 8 codebooks", 8, "user"))
    for label, rows, colour in groups:
        for row in range(rows):
            for column in range(columns):
                draw.box(24 + column * STEP, top + row * STEP, CELL, CELL, colour, None, 1.5)
        for number, line in enumerate(label.split(": ")):
            draw.words(
                132, top + rows * STEP / 2 + 3 + 14 * number - 7 * label.count(": "), line, colour, 11.5, "start"
            )
        top += rows * STEP + 9
    draw.box(24 + (columns - 1) * STEP - 2.5, 61, CELL + 5, 209, "none", "ink", 3)


def draw_temporal(draw: Drawing) -> None:
    """The temporal transformer with what a layer is made of."""
    draw.box(284, 54, 298, 222, "card", "line", 8)
    draw.words(433, 30, "Temporal transformer, 32 layers", "ink", 14, "middle", bold=True)
    draw.words(433, 47, "one vector a frame: the sum of 17 embeddings", "faint", 11.5, "middle")
    memory_notes = ("a network per head, one gradient step a frame", "(in a quarter of the layers)")
    parts = (
        (66, 48, "Attention", ("sees the last frames: the window",), "window_soft", "window"),
        (130, 66, "TTT memory", memory_notes, "memory_soft", "memory"),
        (212, 48, "Feed-forward", ("each frame by itself",), "ground", "line"),
    )
    for y, height, title, notes, fill, line in parts:
        draw.box(298, y, 270, height, fill, line, 6)
        draw.words(433, y + 21, title, "ink", 13, "middle", bold=True)
        for number, note in enumerate(notes):
            draw.words(433, y + 38 + 16 * number, note, "faint", 11, "middle")
    for y in (114, 196):
        draw.arrow((433, y), (433, y + 15))


def draw_heads(draw: Drawing) -> None:
    """The text head and the depth transformer, whose codebooks follow one another."""
    draw.words(733, 30, "One frame out", "ink", 14, "middle", bold=True)
    draw.words(733, 47, "text and the 8 codes of Moshi's voice", "faint", 11.5, "middle")
    draw.box(640, 70, 178, 40, "card", "line", 8)
    draw.words(729, 95, "Text head", "ink", 13, "middle", bold=True)
    draw.box(842, 86, CELL, CELL, "text", None, 1.5)
    draw.box(640, 128, 178, 148, "card", "line", 8)
    draw.words(729, 152, "Depth transformer", "ink", 13, "middle", bold=True)
    draw.words(729, 169, "codebook after codebook", "faint", 11.5, "middle")
    for codebook in range(8):
        x, y = 650 + 20.2 * codebook, 184 + 9 * codebook
        draw.box(x, y, 16, 16, "moshi", None, 2)
        draw.words(x + 8, y + 12, str(codebook), "ground", 10.5, "middle", bold=True)
    for codebook in range(8):
        draw.box(842, 158 + codebook * STEP, CELL, CELL, "moshi", None, 1.5)


def draw_paths(draw: Drawing) -> None:
    """From part to part, and from a frame that was made to the next one's input."""
    draw.arrow((232, 165), (282, 165))
    draw.arrow((584, 165), (608, 165), (608, 90), (638, 90))
    draw.arrow((608, 165), (608, 202), (638, 202))
    draw.arrow((818, 90), (838, 90))
    draw.arrow((818, 202), (838, 202))
    draw.arrow((846, 250), (846, 298), (117, 298), (117, 273))
    draw.words(479, 293, "the next frame's input, 80 ms later", "faint", 11.5, "middle")


def draw_reach(draw: Drawing) -> None:
    """A long recording, and what of it window and memory hold at its end."""
    left, right, now = 164, 800, 800
    draw.words(24, 340, "A long recording", "ink", 14, "start", bold=True)
    rows = (
        (358, "attention", "window_soft", "window", 640, "the last 4 minutes, exactly"),
        (388, "TTT memory", "memory_soft", "memory", left, "everything since the start, as weights of fixed size"),
    )  # fmt: skip
    for y, name, fill, line, start, note in rows:
        draw.words(152, y + 15, name, line, 12.5, "end", bold=True)
        draw.box(left, y, right - left, 22, "ground", "line", 4)
        draw.box(start, y, now - start, 22, fill, line, 4)
        draw.words((start + now) / 2, y + 15, note, "ink", 11.5, "middle")
    draw.words(left, 430, "start", "faint", 11.5, "start")
    draw.words(now, 430, "now", "faint", 11.5, "end")


def picture(palette: str) -> str:
    """The SVG in the colours of `light` or `dark`."""
    draw = Drawing({**PALETTES[palette], "none": "none"})
    draw.box(0, 0, WIDTH, HEIGHT, "ground", None, 0)
    for part in (draw_streams, draw_temporal, draw_heads, draw_paths, draw_reach):
        part(draw)
    return draw.svg()


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for palette in PALETTES:
        (IMAGES / f"architecture-{palette}.svg").write_text(picture(palette), encoding="utf-8")
