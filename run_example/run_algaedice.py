"""AlgaeDICE on an offline dataset, the way the kit's scripts do it.

    python run_example/run_algaedice.py --task hopper-medium-expert --seed 1
"""

from __future__ import annotations

from offlinerlkit_damo.flags import run_command, train_command

if __name__ == "__main__":
    run_command(train_command("algaedice", "Train AlgaeDICE (arXiv 1912.02074) on an offline dataset."))
