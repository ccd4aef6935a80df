"""The numbers of a document for programs: JSON with a schema, and CSV."""

from __future__ import annotations

import json
from typing import TextIO

import pandas as pd

from ablate.models.console import plain

from ..blocks import Document, Fields, Rows


def render_json(document: Document, out: TextIO) -> None:
    """Write the fields as one JSON object; missing numbers are null."""
    found = {
        k: v for _, block in document.blocks if isinstance(block, Fields) for k, v in block.values.items()
    }
    json.dump(plain(found), out, indent=1, ensure_ascii=False, allow_nan=False)
    out.write("\n")


def render_csv(document: Document, out: TextIO) -> None:
    """Write the rows of all blocks under one header, with full precision."""
    frames = [block.frame for _, block in document.blocks if isinstance(block, Rows)]
    pd.concat(frames, ignore_index=True).to_csv(out, index=False, lineterminator="\n")
