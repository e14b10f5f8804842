"""A run as ONNX, computed by another program."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_here, run_main

import datasets
import predict
from analysis.reader import Reader
from rundir.run import read_run
from utils import ROOT

KINDS = {  # runs trained here, besides the shipped one
    "biased": ["--set", "head_bias=true", "--set", "feature_prelu=true", "--set", "overlapping_pool=true"],
    "arcface": ["--head", "arcface", "--weight-cent", "0.1", "--feat-dim", "3"],
}


@pytest.fixture(params=["shipped", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS)])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "shipped":
        return ROOT / "models" / "shipped" / "center"
    words = "-d mnist5k --use-cpu --known-classes 1 3 8 --hold-out 900 --max-epoch 1 --batch-size 128".split()
    run_main(*words, *KINDS[request.param], "--save-dir", tmp_path / "run")
    return tmp_path / "run"


def test_onnxruntime_computes_what_torch_does(run: Path, tmp_path: Path) -> None:
    import onnxruntime

    file = tmp_path / "model.onnx"
    done = run_here(predict.main, "--run", run, "--use-cpu", "--export", file)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == f"Wrote {file}"
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    reader = Reader(read_run(run), torch.device("cpu"))
    digits = datasets.load("mnist5k", Path("nowhere")).only(reader.classes.tolist())
    for count in (1, 7, 200):
        images = digits.test_images[:count]
        given = images[:, None].numpy().astype(np.float32) / 255
        features, probabilities, distances = session.run(None, {"images": given})
        with torch.autocast("cpu", enabled=False):
            reader.network.precision = torch.no_grad  # float32, whatever the run was trained in
            expected, logits = reader.network.outputs(images)
        torch.testing.assert_close(torch.from_numpy(features), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.from_numpy(probabilities), logits.softmax(1), rtol=1e-4, atol=1e-5)
        own = np.linalg.norm(features[:, None] - reader.centers, axis=2)
        np.testing.assert_allclose(distances, own, rtol=1e-4, atol=1e-5)
    meta = session.get_modelmeta().custom_metadata_map
    assert json.loads(meta["classes"]) == reader.classes.tolist()
    assert float(meta["unknown_beyond"]) == pytest.approx(reader.threshold, rel=1e-4)


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    done = run_here(predict.main, "--use-cpu", "--export", tmp_path / "model.onnx", status=2)
    assert done.stderr.startswith("predict.py: error: --export needs the packages onnx and onnxscript: pip install")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
