"""COMBO on an offline dataset, with the flags of OfflineRL-Kit's script.

    python run_example/run_combo.py --task hopper-medium-expert --seed 1
"""

from __future__ import annotations

from offlinerlkit_damo.flags import run_command, train_command

if __name__ == "__main__":
    run_command(train_command("combo", "Train COMBO (arXiv 2102.08363) on an offline dataset."))
