"""What the processes of one run must have in common. Else they would wait for each other without an end.

Each is asked of all processes at once, and waits for all. In a single process nothing is asked.
"""

from __future__ import annotations

from gentrain.data.build import Packed
from gentrain.errors import UserError
from gentrain.runtime.collectives import all_gather
from gentrain.training.resume import Plan


def check_same_command(command: Plan) -> None:
    """UserError unless all go on from the same, or begin alike. Where pictures lie may differ."""
    meant = (
        command.resumes,
        command.start_from is None,
        command.weights_from is None,
        *(sorted(command.config[section].items()) for section in ("model", "optimizer", "train")),
        command.config["seed"],
    )
    if len(set(all_gather(repr(meant)))) > 1:
        raise UserError(
            "the processes of this run do not agree on what to do; give all the same command, and a run "
            "directory that is seen from all machines"
        )


def check_same_pictures(command: Plan, data: Packed) -> None:
    """UserError unless all have the same ones: each takes its rows of a batch by their numbers.

    It is also where all wait for all before a run is begun, so that none is in which one cannot take part.
    """
    if len(set(all_gather(data.fingerprint))) > 1:
        raise UserError(
            f"data={command.config['data']['name']} has other pictures or labels on one machine than on "
            "another; give all processes of a run the same ones"
        )
