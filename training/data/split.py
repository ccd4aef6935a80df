"""The pairs of a corpus that are held out for validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from ablate.models.errors import InputError

if TYPE_CHECKING:
    from .pairs import Pair

SHARE = 0.1


def split_validation(
    pairs: Sequence[Pair], seed: int | None = None
) -> tuple[tuple[Pair, ...], tuple[Pair, ...], tuple[str, ...], list[str]]:
    """Hold about a tenth of the pairs out for validation: `(train, validation, speakers, notes)`.

    Holds out whole speakers if names give them, else single files; noisy files of one clean file stay
    together. Candidates are tried in the order of the hashes of their names, so the choice depends only on
    the names (and the seed, if given). A speaker is taken if that brings the share nearer to a tenth.

    Raises:
        InputError: there are fewer than two pairs.
    """
    if len(pairs) < 2:
        raise InputError(f"only {len(pairs)} train pair; at least two are needed, one of them for validation")
    sizes = Counter(pair.speaker for pair in pairs if pair.speaker is not None)
    target = SHARE * len(pairs)

    def place(name: str) -> str:
        return sha256((name if seed is None else f"{seed} {name}").encode()).hexdigest()

    notes = []
    if len(sizes) > 1:
        held: set[str] = set()
        total = 0
        for speaker in sorted(sizes, key=place):
            if abs(total + sizes[speaker] - target) < abs(total - target):
                held.add(speaker)
                total += sizes[speaker]
        if not held:
            held = {min(sizes, key=lambda speaker: (sizes[speaker], place(speaker)))}
        if (share := sum(sizes[speaker] for speaker in held) / len(pairs)) > 2 * SHARE:
            notes.append(f"validation has {share:.0%} of the train files: only {len(sizes)} speakers")
        taken = [pair.speaker in held for pair in pairs]
        speakers = tuple(sorted(held))
    else:
        only = f"there is only one speaker, {next(iter(sizes))}" if sizes else ""
        notes.append(f"validation is split by file: {only or 'file names do not contain the speaker'}")
        clean = [pair.clean_name or pair.name for pair in pairs]
        count = max(1, round(SHARE * len(set(clean))))
        names = set(sorted(set(clean), key=place)[:count])
        taken = [name in names for name in clean]
        speakers = ()
    train = tuple(pair for pair, out in zip(pairs, taken, strict=True) if not out)
    validation = tuple(pair for pair, out in zip(pairs, taken, strict=True) if out)
    return train, validation, speakers, notes
