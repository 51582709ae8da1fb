"""ODICE on an offline dataset, the way the kit's scripts do it.

    python run_example/run_odice.py --task hopper-medium-expert --seed 1
"""

from __future__ import annotations

from offlinerlkit_damo.flags import run_command, train_command

if __name__ == "__main__":
    run_command(train_command("odice", "Train ODICE (arXiv 2402.00348) on an offline dataset."))
