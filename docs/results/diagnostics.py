"""What runs logged at their end, a row a run: means over the last ten epochs of the figures that docs/results.md and the lab book quote.

    python docs/results/diagnostics.py diagnostics.csv side controls ...

Cells are empty where an algorithm has no such figure; docs/metrics.md says what each is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.report.results import read_progress, run_folders
from offlinerlkit_damo.training.run_folder import contestant_of, is_finished, read_facts

EPOCHS = 10
KEYS = (
    "alpha",
    "rollout_info/reward_mean",
    "damo/refined_reward_fake",
    "damo/refined_reward_real",
    "damo/ell_fake",
    "damo/ell_real",
    "damo/classifier_accuracy",
    "damo/q_batch",
)


def main() -> None:
    """Write the table of all finished runs at the paths given."""
    found = []
    for folder in filter(is_finished, run_folders([Path(text) for text in sys.argv[2:]])):
        facts, progress = read_facts(folder), read_progress(folder)
        results = json.loads((folder / "result" / "results.json").read_text(encoding="utf-8"))
        named = {
            "task": facts["task"]["name"],
            "label": contestant_of(folder) or facts["config"]["algo_name"],
            "seed": facts["config"]["seed"],
            "dynamics": (results["dynamics"] or {}).get("id"),
            "commit": facts["commit"],
            "epochs": len(progress),
        }
        found.append(named | progress.reindex(columns=KEYS).tail(EPOCHS).mean().to_dict())
    table = pd.DataFrame(found).sort_values(["task", "label", "seed", "dynamics"]).round(4)
    with replacing(Path(sys.argv[1])) as temporary:
        table.to_csv(temporary, index=False)


if __name__ == "__main__":
    main()
