"""DAMO on an offline dataset, with the flags of OfflineRL-Kit's scripts.

    python run_example/run_damo.py --task hopper-medium-expert --seed 1
"""

from __future__ import annotations

from offlinerlkit_damo.flags import run_command, train_command

if __name__ == "__main__":
    run_command(train_command("damo", "Train DAMO (arXiv 2502.00850) on an offline dataset."))
