"""Published results on VoiceBank+DEMAND, as reference rows: published, not measured here."""

from __future__ import annotations

from dataclasses import dataclass

CAPTION = (
    "Published by their authors on VoiceBank+DEMAND with full training, not measured here; "
    "not comparable with short trainings, small networks or another corpus."
)
CONVENTION = (
    "CSIG, CBAK and COVL of the convention 'ports' do not stand beside this report's csig, cbak and covl: "
    "their scripts hand floats to a port, which gives about .08 more (MP-SENet's issue 30 has one "
    "checkpoint's CSIG, CBAK and COVL both ways: 4.652/4.728, 3.863/3.950, 4.138/4.225). "
    "Metrics csig_ports, cbak_ports and covl_ports compare with them."
)


@dataclass(frozen=True)
class PublishedRow:
    """One published system. Scores are as printed in its paper; None if the paper does not give them.

    Attributes:
        convention: that of its composite measures: one of `metrics.registry.CONVENTIONS`, or `not stated`.
            Empty if the paper does not give composite measures.
    """

    system: str
    pesq_wb: float
    csig: float | None = None
    cbak: float | None = None
    covl: float | None = None
    stoi: float | None = None
    ssnr: float | None = None
    convention: str = ""
    parameters: str = ""
    note: str = ""


PUBLISHED: tuple[PublishedRow, ...] = (
    PublishedRow("noisy", 1.97, 3.35, 2.44, 2.63, 0.91, 1.68, "loizou"),
    PublishedRow("BSRNN", 3.10, stoi=0.95, ssnr=9.56, note="README of the reference implementation"),
    PublishedRow("BSRNN, rerun", 3.07, 4.48, 3.68, 3.85, 0.95, 9.55, "not stated", note="independent rerun"),
    PublishedRow("CMGAN", 3.41, 4.63, 3.94, 4.12, 0.96, convention="ports", parameters="1.83M"),
    PublishedRow("MP-SENet, short", 3.50, 4.73, 3.95, 4.22, 0.96, convention="ports"),
    PublishedRow("MP-SENet, long", 3.60, 4.81, 3.99, 4.34, 0.96, convention="ports", parameters="2.26M"),
    PublishedRow("SEMamba", 3.55, 4.77, 3.95, 4.29, 0.96, convention="ports", parameters="2.26M"),
    PublishedRow("SEMamba + PCS", 3.69, 4.79, 3.63, 4.37, 0.96, convention="ports", parameters="2.26M"),
    PublishedRow("SEMamba, bidirectional", 3.52, parameters="2.26M", note="its own ablation, second hand"),
    PublishedRow(
        "SEMamba, unidirectional",
        3.29,
        parameters="1.41M",
        note="its own ablation, second hand; parameters not matched",
    ),
    PublishedRow("Mamba-SEUNet", 3.59, parameters="6.28M", note="second hand"),
    PublishedRow("Mamba-SEUNet + PCS", 3.73, parameters="6.28M", note="second hand"),
)
