"""The findings of the audit. Does not need torch."""

from __future__ import annotations

from typing import Literal

from ablate.models.config import Frozen
from ablate.models.errors import InputError

Severity = Literal["error", "note"]

CODES: dict[str, tuple[str, Severity]] = {
    "A101": ("dead-parameter", "error"),
    "A102": ("overwritten-init", "error"),
    "A103": ("dominated-branch", "error"),
    "A104": ("saturated", "error"),
    "A105": ("non-finite", "error"),
    "A201": ("toggle-without-effect", "error"),
    "A202": ("contract-violation", "error"),
    "A203": ("hidden-change", "error"),
    "A204": ("reaches-nothing", "error"),
    "A205": ("read-by-nobody", "note"),
    "A301": ("untoggled-difference", "note"),
    "A302": ("capacity-confound", "note"),
    "A303": ("matched", "note"),
    "A401": ("budget", "error"),
    "A402": ("memory", "error"),
    "A403": ("time", "note"),
    "A404": ("not-measured", "note"),
    "A405": ("slow-scan", "note"),
    "A501": ("leak", "error"),
    "A502": ("unequal", "error"),
    "A503": ("noisy-score", "note"),
    "A504": ("single-speaker-validation", "note"),
    "A505": ("validated-on-test", "note"),
    "A506": ("wrong-pairs", "error"),
    "A507": ("doubtful-pairs", "note"),
    "A508": ("low-rate", "note"),
    "A601": ("not-audited", "note"),
    "A602": ("seed-without-effect", "error"),
}
"""Code -> (name, severity)."""


class Finding(Frozen):
    """One thing the audit found.

    Attributes:
        where: a cell, a part of a network by path, a factor, a file.
        evidence: what was measured.
        remedy: what to do about it.
    """

    code: str
    name: str
    severity: Severity
    where: str
    evidence: str
    remedy: str

    @classmethod
    def of(
        cls, code: str, where: str, evidence: str, remedy: str, *, severity: Severity | None = None
    ) -> Finding:
        """A finding with a code of `CODES`; default severity: the code's."""
        name, usual = CODES[code]
        return cls(
            code=code, name=name, severity=severity or usual, where=where, evidence=evidence, remedy=remedy
        )


def errors(findings: list[Finding], waived: frozenset[str] | set[str] = frozenset()) -> list[Finding]:
    """The findings that block a study: errors whose code is not waived."""
    return [f for f in findings if f.severity == "error" and f.code not in waived]


def parse_waivers(text: str | None) -> frozenset[str]:
    """Codes from `A101,A102`.

    Raises:
        InputError: a code is unknown.
    """
    codes = [code.strip() for code in (text or "").split(",") if code.strip()]
    for code in codes:
        if code not in CODES:
            raise InputError(f"unknown audit code {code!r} to waive; known: {', '.join(CODES)}")
    return frozenset(codes)
