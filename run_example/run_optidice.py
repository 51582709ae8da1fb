"""OptiDICE on an offline dataset, the way the kit's scripts do it.

    python run_example/run_optidice.py --task hopper-medium-expert --seed 1
"""

from __future__ import annotations

from offlinerlkit_damo.flags import run_command, train_command

if __name__ == "__main__":
    run_command(train_command("optidice", "Train OptiDICE (arXiv 2106.10783) on an offline dataset."))
