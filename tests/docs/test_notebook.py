"""The notebook of the documentation runs from first cell to last, and the page shows the same code."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from ablate.models.errors import InputError

DOCS = Path(__file__).parents[2] / "docs"
CELLS = [
    "".join(cell["source"])
    for cell in json.loads((DOCS / "notebook.ipynb").read_text())["cells"]
    if cell["cell_type"] == "code"
]


def run(code: str, names: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line, which a notebook shows."""
    tree = ast.parse(code)
    last = tree.body.pop()
    exec(compile(tree, "notebook", "exec"), names)
    if not isinstance(last, ast.Expr):
        exec(compile(ast.Module([last], []), "notebook", "exec"), names)
        return None
    return eval(compile(ast.Expression(last.value), "notebook", "eval"), names)


def test_every_cell_runs_and_shows_what_the_text_says():
    names: dict[str, Any] = {}
    shown = [run(code, names) for code in CELLS]
    html = shown[1]._repr_html_()
    assert "supported" in html
    assert html.count("<svg") == 2
    effects = names["analysis"].effects.set_index(["kind", "name"])
    for name, truth in (("core", 0.15), ("crossband", 0.02)):
        low, high = effects.loc[("main", name), ["low", "high"]]
        assert low < truth < high
    assert [type(value) for value in shown[3:]] == [Figure] * 3
    with pytest.raises(InputError, match="did you mean 'forest'"):
        names["analysis"].plot("forrest")
    with pytest.raises(InputError, match="no data for the figure 'curves'"):
        names["analysis"].plot("curves")


def test_the_page_has_the_code_of_the_notebook():
    page = (DOCS / "notebook.md").read_text()
    assert page.count("```python\n") == len(CELLS) + 1
    for code in CELLS:
        assert f"```python\n{code}\n```" in page
