"""MOBILE on an offline dataset, with the flags of OfflineRL-Kit's script.

    python run_example/run_mobile.py --task hopper-medium-expert --seed 1
"""

from __future__ import annotations

from offlinerlkit_damo.flags import run_command, train_command

if __name__ == "__main__":
    run_command(train_command("mobile", "Train MOBILE (Sun et al., ICML 2023) on an offline dataset."))
