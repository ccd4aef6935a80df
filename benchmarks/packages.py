"""Draw the packages and their imports: `python benchmarks/packages.py` writes docs/pictures/packages.svg."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "packages.svg"
PACKAGES = ("models", "training", "ablations", "studies", "reports")
WIDTH, STEP, TOP, LINE = 130, 165, 150, 20
STYLE = """<style>
  text { font: 14px sans-serif; fill: #222; text-anchor: middle } .part { font-size: 12px; fill: #555 }
  rect { fill: #f5f7fa; stroke: #56708c } path { fill: none; stroke: #56708c; marker-end: url(#tip) }
</style>
<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
  <polygon points="0 0, 8 4, 0 8" fill="#56708c"/>
</marker>"""


def imports(package: str) -> set[str]:
    """The other packages whose modules some module of a package imports."""
    text = "\n".join(path.read_text() for path in (ROOT / package).rglob("*.py"))
    return {found for found in re.findall(r"from ablate\.(\w+)", text) if found in PACKAGES} - {package}


def parts(package: str) -> list[str]:
    """The packages in a package."""
    return sorted(path.parent.name for path in (ROOT / package).glob("*/__init__.py"))


def draw() -> str:
    """The picture: a box for each package, an arrow from each to those that it imports."""
    lines = []
    height = 40 + LINE * max(len(parts(package)) for package in PACKAGES)
    for i, package in enumerate(PACKAGES):
        middle = 10 + STEP * i + WIDTH // 2
        lines.append(f'<rect x="{10 + STEP * i}" y="{TOP}" width="{WIDTH}" height="{height}" rx="6"/>')
        lines.append(f'<text x="{middle}" y="{TOP + 25}">{package}</text>')
        for row, part in enumerate(parts(package), 1):
            lines.append(f'<text class="part" x="{middle}" y="{TOP + 25 + LINE * row}">{part}</text>')
        for other in sorted(imports(package), key=PACKAGES.index):
            end = 10 + STEP * PACKAGES.index(other) + WIDTH // 2
            bow = TOP - 40 * (i - PACKAGES.index(other))
            start = middle - 8 * (len(PACKAGES) - PACKAGES.index(other)) + 16
            lines.append(
                f'<path d="M {start} {TOP} C {start} {bow}, {end + 8 * i} {bow}, {end + 8 * i} {TOP}"/>'
            )
    size = f"0 0 {STEP * len(PACKAGES) - 15} {TOP + height + 10}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}">\n{STYLE}\n'
        + "\n".join(lines)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(draw())
