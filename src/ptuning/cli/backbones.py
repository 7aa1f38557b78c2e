"""`ptuning backbones`: which models can be given prompts."""

from __future__ import annotations

EXAMPLES = """Examples:

    ptuning backbones
"""


def command() -> None:
    """List the supported backbone families, from the code's own table."""
    from ptuning.backbones.families import FAMILIES, POSITION_NOTES
    from ptuning.cli.tables import print_table

    rows = [
        [
            family.model_type + family.part,
            ", ".join(family.attention),
            POSITION_NOTES[family.positions],
            "yes" if family.takes_shifted_positions else "no",
            "yes" if family.gradient_checkpointing else "no",
        ]
        for family in sorted(FAMILIES.values(), key=lambda family: family.model_type)
    ]
    print_table(["model type", "attention", "positions", "positions: shifted", "gradient checkpointing"], rows)
