"""Make a small copy of a finished run, to come with the code: weights in half precision, what predict.py needs.

    python benchmarks/ship.py log/published/shipped/runs/center-1 models/shipped/center

The copy is a run directory: predict.py and compare.py read it like any other. Nothing in it runs code when it is
read (`torch.load` with `weights_only`).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from analysis.epochs import loss_name
from analysis.reader import Reader
from rundir.checkpoint import load_checkpoint, save_checkpoint
from rundir.epoch import evaluate_some
from rundir.features import sample_of, save_features
from rundir.network import data_of, load_network
from rundir.run import read_config, read_run
from training.settings import plan_from_json

NEEDED = ("epoch", "best", "elapsed", "sizes", "tail", "checksums", "head", "center_loss")


def slim(path: Path, to: Path, epochs: int) -> dict[str, Any]:
    """Write the copy's config, table of epochs and checkpoint, to be read in float32; return the config."""
    config = json.loads((path / "config.json").read_text())
    flags = re.sub(r"^.*?main\.py|--save-dir \S+|--overwrite", "", config["command"]).split()
    config["command"] = " ".join(["python main.py", *flags])
    config["settings"]["precision"] = "fp32"
    config["asked"]["precision"] = "auto"
    config["why"]["precision"] = "trained in bf16, kept in half precision, read in float32"
    (to / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copy(path / "epochs.csv", to)
    header, *rows = (path / "batches.csv").read_text().splitlines()
    (to / "batches.csv").write_text("\n".join([header, *rows[:: len(rows) // 400 or 1]]) + "\n")  # enough for a curve
    checkpoint = load_checkpoint(path / "checkpoint.pt")
    assert checkpoint.epoch == epochs, f"{path} is not finished"
    kept: dict[str, Any] = asdict(plan_from_json(config, "config.json"))
    kept |= {name: getattr(checkpoint, name, None) or checkpoint.states[name] for name in NEEDED}
    kept["model"] = {name: value.half() for name, value in checkpoint.states["model"].items()}
    save_checkpoint(kept, to / "checkpoint.pt")
    return config


def main(argv: list[str]) -> int:
    """Write the copy that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run on full MNIST, made with --hold-out")
    parser.add_argument("to", type=Path, help="the folder to write")
    args = parser.parse_args(argv)
    run, to, cpu = read_run(args.run), args.to, torch.device("cpu")
    data = data_of(run)
    to.mkdir(parents=True, exist_ok=True)
    config = slim(run.path, to, run.epochs)

    # The features under the weights as they are kept.
    network, sample = load_network(read_config(to), cpu), sample_of(len(data.train_labels))
    test = network.evaluate(data.test_images, data.test_labels)
    train = evaluate_some(network, data.train_images, data.train_labels, sample)
    centers = torch.from_numpy(run.arrays["centers"])
    save_features(to, f"epoch_{run.epochs}", centers, network.decision(), {"train": sample}, train=train, test=test)
    reader = Reader(read_run(to), cpu)  # leaves calibration.json

    size = sum(one.stat().st_size for one in to.rglob("*") if one.is_file())
    kept = f"{test.accuracy:.2f} % as kept here (half precision, read in float32)"
    (to / "README.md").write_text(f"""# {loss_name(run.settings)}

LeNet++ with two features, trained on {len(data.train_labels):,} images of MNIST ({run.settings.hold_out:,} more were
held out to set the threshold of the unknown).

| | |
|---|---|
| trained with | `{config["command"]}` |
| seed, commit | {run.settings.seed}, {(config["git_commit"] or "unknown")[:10]} |
| test accuracy | {run.accuracy:.2f} % as trained ({run.settings.precision}), {kept} |
| unknown | a digit farther than {reader.threshold:.2f} from its center; 1 % of the held-out digits are farther |
| size | {size / 1e6:.2f} MB |
| made by | `python benchmarks/ship.py`, `bash benchmarks/published.sh shipped` |

This network is for trying out `predict.py` and `docs/draw.html`. It knows handwritten digits as MNIST has them, one to
an image; it is not meant for reading forms or checks.
""")
    print((to / "README.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
