"""Run directories, names and pictures from a stranger: each error is one line, and no other file is touched."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import shutil
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TWO_DIGITS, read_image, run_here, run_main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import compare
import predict
from analysis import draw, report_figures
from analysis.find_digit import see
from analysis.image_files import BadImage
from datasets import Digits
from idx import DataError, read_idx
from rundir.checkpoint import load_checkpoint, load_state
from rundir.directory import refuse_links
from rundir.log import read_epochs
from rundir.network import load_network
from rundir.run import read_config, read_run
from training.building import build_training
from training.parallel import Group
from utils import UserError, printable

GIB = 1 << 30
SECONDS = 60  # limit for a case, which needs less than one second


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one epoch on two digits."""
    path = tmp_path_factory.mktemp("hostile") / "run"
    run_main(*TWO_DIGITS, "--max-epoch", 1, "--batch-size", 100, "--save-dir", path)
    return path


# ---------------------------------------------------------------- links to other places


LINKS = {
    "features": "a folder",
    "train": "a folder",
    "batches.csv": "a file",
    "checkpoint.pt": "a file",
    "log_mnist5k.txt": "nothing",
    ".lock": "a file",
    "config.json": "a file",
    "epochs.csv": "nothing",
    "best.pt": "nothing",
    "animation.gif": "nothing",
    "features/epoch_1.npz": "nothing",
}


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_links_are_refused(run: Path, tmp_path: Path, name: str, flag: str) -> None:
    path, outside = shutil.copytree(run, tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("keep me")
    (outside / "epoch_1.npz").write_text("keep me")
    place = path / name
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    place.symlink_to({"a folder": outside, "a file": outside / "file", "nothing": outside / "new"}[LINKS[name]])
    words = ["--resume", path] if flag == "--resume" else ["-d", "mnist5k", "--use-cpu", "--save-dir", path, flag]
    done = run_main(*words, status=2)
    drawn = run_here(draw.main, path, status=2)
    assert all(f"{place}: is a symbolic link" in one.stderr for one in (done, drawn))
    assert sorted((file.name, file.read_text()) for file in outside.iterdir()) == [
        ("epoch_1.npz", "keep me"),
        ("file", "keep me"),
    ]


def test_names_that_were_planted_for_temporaries_are_not_followed(run: Path, tmp_path: Path) -> None:
    path, outside = tmp_path / "run", tmp_path / "outside"
    path.mkdir()
    outside.write_text("keep me")
    for name in (".checkpoint.pt.partial", ".partial-0-checkpoint.pt", ".writable"):
        (path / name).symlink_to(outside)
    (path / "mine.txt").write_text("mine")
    run_main(*TWO_DIGITS, "--max-epoch", 1, "--batch-size", 100, "--save-dir", path)
    assert outside.read_text() == "keep me"
    assert (path / "mine.txt").read_text() == "mine"


# ---------------------------------------------------------------- the terminal, and what never ends


def test_no_name_reaches_the_terminal_as_it_is(run: Path, tmp_path: Path) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "x.png")
    name = "a\x1b]0;owned\x07\rb\nfake.png: 7 (99.9 %).png"
    (tmp_path / "x.png").rename(tmp_path / name)
    done = run_here(predict.main, "--run", run, tmp_path, status=2)
    assert not any(char in done.stdout + done.stderr for char in "\x1b\x07\r")
    assert "\nfake.png" not in done.stdout + done.stderr
    assert printable("é λ\x1b\n") == "é λ\\x1b\\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_named_pipes_are_refused(run: Path, tmp_path: Path) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    for name in ("batches.csv", "features/epoch_1.npz"):
        (path / name).unlink()
        os.mkfifo(path / name)
        with pytest.raises(UserError, match="is not a regular file"):
            refuse_links(path)
    with pytest.raises(UserError, match="not a regular file"):
        read_run(path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadImage, match="not a regular file"):
        read_image(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        read_idx(tmp_path / "pipe.png")


# ---------------------------------------------------------------- sizes


def test_archives_that_promise_more_than_they_hold(run: Path, tmp_path: Path) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    file = path / "features" / "epoch_1.npz"
    for member, shape in (("train_features.npy", (10**11, 2)), ("extra.npy", (1 << 31,))):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, header.getvalue() + bytes(100))
        with pytest.raises(UserError, match="damaged"):
            read_run(path)


def test_a_sample_that_lacks_what_a_report_shows_labels_no_image_as_another() -> None:
    record = SimpleNamespace(path=Path("log/run"))
    epoch = SimpleNamespace(record=record, number=3, arrays={"train_sample": np.arange(10)})
    for chosen in ([3, 12], [-1]):
        with pytest.raises(UserError, match=r"^log/run: epoch 3: damaged \(lacks training set images"):
            report_figures._columns([epoch], "train", np.array(chosen), (0, 1))


def test_pictures_larger_than_a_photograph(tmp_path: Path) -> None:
    for width, height in ((100_000_000, 1), (13_300, 13_300)):
        data = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        chunk = struct.pack(">I", len(data)) + b"IHDR" + data + struct.pack(">I", zlib.crc32(b"IHDR" + data))
        pixels = bytes(4) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))  # none
        (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + pixels)
        with pytest.raises(BadImage, match="too large"):
            read_image(tmp_path / "large.png")
    Image.new("L", (12_000, 9_000)).save(tmp_path / "phone.jpg")  # decoded at an eighth
    assert read_image(tmp_path / "phone.jpg") is not None


# ---------------------------------------------------------------- the fuzzer

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["<script>", "\x1b[2J", 10**6, -1, 2**63, "1" * 5_000]),
    st.recursive(
        st.none(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
)
CASES = int(os.environ.get("FUZZ_CASES", "25"))
FUZZ = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(FUZZ, max_examples=2_000)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path to every entry of a nested value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """Return a nested value with another entry at that path, or with none for `...`."""
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(place) == 1 and new is ...:
        del copy[place[0]]
    else:
        copy[place[0]] = put(copy[place[0]], place[1:], new)
    return copy


def damaged_bytes(data: st.DataObject, whole: bytes) -> bytes:
    """Return bytes that were cut, overwritten, lengthened or removed."""
    start, length = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, 64))
    kind = data.draw(st.sampled_from(["cut", "overwrite", "insert", "empty"]))
    some = data.draw(st.binary(min_size=length, max_size=length))
    return {
        "cut": whole[:start],
        "overwrite": whole[:start] + some + whole[start + length :],
        "insert": whole[:start] + some + whole[start:],
        "empty": b"",
    }[kind]


def fuzz_config(data: st.DataObject, path: Path, run: Path) -> Callable[[], object]:
    config = json.loads((run / "config.json").read_text())
    place = data.draw(st.sampled_from(places(config)))
    new = data.draw(st.just(...) if place and data.draw(st.booleans()) else ODD)
    (path / "config.json").write_text(json.dumps(put(config, place, None if new is ... and not place else new)))
    return lambda: (read_config(path), read_run(path))


def fuzz_csv(data: st.DataObject, path: Path, run: Path) -> Callable[[], object]:
    (path / "epochs.csv").write_bytes(damaged_bytes(data, (run / "epochs.csv").read_bytes()))
    return lambda: (read_epochs(path), read_run(path))


def fuzz_features(data: st.DataObject, path: Path, run: Path) -> Callable[[], object]:
    with np.load(run / "features" / "epoch_1.npz") as there:
        arrays = dict(there)
    key = data.draw(st.sampled_from(sorted(arrays)))
    change = data.draw(st.sampled_from(["drop", "cut", "type", "values", "shape", "bytes"]))
    file = path / "features" / "epoch_1.npz"
    if change == "drop":
        del arrays[key]
    elif change == "cut":
        arrays[key] = arrays[key][: data.draw(st.integers(0, 3))]
    elif change == "type":
        arrays[key] = arrays[key].astype(data.draw(st.sampled_from(["U3", "c8", "f8", "i8", "?", "V4"])))
    elif change == "values":
        arrays[key] = np.full_like(arrays[key], data.draw(st.sampled_from([0, 1, 255])))
    elif change == "shape":
        arrays[key] = arrays[key][..., None]
    np.savez(file, **arrays)
    if change == "bytes":
        file.write_bytes(damaged_bytes(data, file.read_bytes()))
    return lambda: read_run(path)


def fuzz_checkpoint(data: st.DataObject, path: Path, run: Path) -> Callable[[], object]:
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    place = data.draw(st.sampled_from(places(state)))
    odd = st.one_of(
        ODD, st.sampled_from([torch.zeros(3), torch.zeros(2, dtype=torch.int8), torch.zeros(1).expand(1 << 33)])
    )
    new = data.draw(st.just(...) if place and data.draw(st.booleans()) else odd)
    torch.save(put(state, place, None if new is ... and not place else new), path / "checkpoint.pt")
    if data.draw(st.integers(0, 4)) == 0:
        (path / "checkpoint.pt").write_bytes(damaged_bytes(data, (path / "checkpoint.pt").read_bytes()))
    return lambda: (load_network(read_run(path), torch.device("cpu")), go_on(path))


def go_on(path: Path) -> None:
    """Do what --resume does, and a step more."""
    checkpoint = load_checkpoint(path / "checkpoint.pt")
    images = torch.zeros(20, 28, 28, dtype=torch.uint8)
    labels = torch.arange(20) % 10
    digits = Digits("mnist5k", tuple(range(10)), images, labels, images, labels, {})
    with torch.random.fork_rng():
        training = build_training(checkpoint.plan, digits, Group(torch.device("cpu")))
        load_state(training.trainer, checkpoint, path)
        next(training.trainer.train_epoch(training.batches.epoch(1)))
    training.trainer.state_dict()


def fuzz_idx(data: st.DataObject, path: Path, run: Path) -> Callable[[], object]:
    whole = bytes([0, 0, 8, 3]) + struct.pack(">III", 2, 28, 28) + bytes(2 * 784)
    packed = gzip.compress(whole, mtime=0) if data.draw(st.booleans()) else whole
    (path / "images").write_bytes(damaged_bytes(data, packed))
    return lambda: read_idx(path / "images")


def fuzz_picture(data: st.DataObject, path: Path, run: Path) -> Callable[[], object]:
    file = io.BytesIO()
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]))
    Image.fromarray(np.arange(900, dtype=np.uint8).reshape(30, 30)).save(file, kind)
    (path / "picture").write_bytes(damaged_bytes(data, file.getvalue()))
    return lambda: see(read_image(path / "picture")).digit


FUZZERS = [fuzz_config, fuzz_csv, fuzz_features, fuzz_checkpoint, fuzz_idx, fuzz_picture]


@pytest.mark.parametrize("cases", [FUZZ, pytest.param(MANY, marks=pytest.mark.slow)], ids=["some", "many"])
@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_damage_is_one_line(
    fuzzer: Callable[..., Callable[[], object]], cases: settings, run: Path, tmp_path: Path
) -> None:
    """A fuzzer damages a copy of a run: the readers succeed or raise one UserError, and need little memory."""
    path = shutil.copytree(run, tmp_path / "damaged")
    outside = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @cases
    @given(st.data())
    def one(data: st.DataObject) -> None:
        read = fuzzer(data, path, run)  # it rewrites one file of the copy
        said = ""
        start = time.monotonic()
        try:
            read()
        except UserError as error:
            said = str(error)
        assert time.monotonic() - start < SECONDS
        assert len(said.splitlines()) <= 1
        assert len(said) < 1_000

    one()
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == outside
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < GIB, f"{grown:,} bytes more at the peak"


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"null",
        b"5",
        b"[" * 100_000,
        b"9" * 5_000,
        "{}".encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b"",
        b"{}",
        b'{"format": 4}',
        b'{"format": 99}',
        b'{"format": 4, "settings": ' + b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_config_that_is_no_config_is_one_line(run: Path, tmp_path: Path, content: bytes) -> None:
    """For a resumed run, and for commands that read a run."""
    path = shutil.copytree(run, tmp_path / "run")
    (path / "config.json").write_bytes(content)
    for done in (
        run_main("--resume", path, status=2),
        run_here(compare.main, "--runs", path, "--out", tmp_path / "c", status=2),
    ):
        assert len(done.stderr.strip().splitlines()) == 1
        assert "config.json" in done.stderr
    assert (path / "config.json").read_bytes() == content


def test_a_config_of_gigabytes_is_not_read(run: Path, tmp_path: Path) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    with open(path / "config.json", "wb") as file:
        file.truncate(3 << 30)  # a hole: nothing is written
    done = run_main("--resume", path, status=2)
    assert "larger than 1 MiB" in done.stderr


@pytest.mark.parametrize("name", ["batches.csv", "epochs.csv"])
def test_a_folder_where_a_table_should_be(run: Path, tmp_path: Path, name: str) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    (path / name).unlink()
    (path / name).mkdir()
    done = run_main("--resume", path, status=2)
    assert f"{name}: is a folder" in done.stderr
