"""A person's own images: found, brought into the form of MNIST, classified, or refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import read_image, run_here, run_main
from PIL import Image
from test_find_digit import picture

import datasets
import predict as program
from analysis.find_digit import see
from analysis.image_files import BadImage, from_gray, sources
from analysis.reader import Reader
from rundir.run import read_run
from training import hardware


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on three digits with 150 training images held out."""
    path = tmp_path_factory.mktemp("runs") / "held-out"
    known = ("--known-classes", 0, 1, 7, "--hold-out", 150)
    done = run_main("-d", "mnist5k", "--use-cpu", *known, "--max-epoch", 4, "--save-dir", path)
    assert "1050 training and 300 test images of the classes 0, 1, 7; 150 training images held out" in done.stdout
    return path


predict = partial(run_here, program.main)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six test digits as pictures of two sizes, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("drawn")
    digits = datasets.load("mnist5k", Path("nowhere")).only([0, 1, 7])
    for label in range(3):
        for number, index in enumerate((digits.test_labels == label).nonzero()[:2, 0].tolist()):
            image = picture(digits.test_images[index].numpy(), 80 + 50 * number, (30, 30, 120), (250, 240, 200))
            image.save(folder / f"{digits.classes[label]}-{number}.jpg")
    (folder / "text.jpg").write_text("not an image")
    return folder


def test_a_bad_image_does_not_stop_the_rest(run: Path, drawn: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = predict(drawn, "--plot", "--run", run, status=2)
    assert done.stderr == f"predict.py: {drawn / 'text.jpg'}: not an image, or in an unknown format\n"
    lines = done.stdout.splitlines()
    assert "center of its class; 1 % of 150 held-out training digits are" in lines[0]
    form = r".*/(.+?)\.\w+: (.+?) \([\d.]+ %(?:, \d: [\d.]+ %)?, [\d.]+ from its center\)"
    told = dict(re.match(form, line).groups() for line in lines[1:-1])  # type: ignore[union-attr]
    assert sum(answer == name[0] for name, answer in told.items()) >= 5
    assert len(told) == 6
    with Image.open(tmp_path / "predictions.png") as figure:
        assert figure.size[0] > 800


def test_a_second_figure_does_not_replace_the_first(run: Path, drawn: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "predictions.png").write_text("mine")
    shutil.copy(drawn / "1-0.jpg", tmp_path / "一-\U0001f600.jpg")  # letters that the figure's font lacks
    done = predict("--plot", "一-\U0001f600.jpg", "--run", run)
    assert done.stdout.endswith("Wrote predictions-2.png\n")
    assert done.stderr == ""
    assert (tmp_path / "predictions.png").read_text() == "mine"


def test_the_threshold_is_kept_beside_the_run(run: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = predict("--run", run, drawn / "1-0.jpg").stdout
    assert (run / "calibration.json").exists()
    with monkeypatch.context() as only_read:
        only_read.setattr("analysis.reader.held_out_of", lambda run: pytest.fail("calibrated again"))
        assert predict("--run", run, drawn / "1-0.jpg").stdout == first
    for damage in ("[", '{"of": 1}', "[" * 10_000):
        (run / "calibration.json").write_text(damage)
        assert predict("--run", run, drawn / "1-0.jpg").stdout == first


def test_for_programs(run: Path, drawn: Path) -> None:
    done = predict("--json", "--run", run, drawn / "1-0.jpg", drawn / "7-1.jpg")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["image"] for one in found] == [str(drawn / "1-0.jpg"), str(drawn / "7-1.jpg")]
    assert [one["digit"] for one in found] == [1, 7]
    assert all(one["known"] and not one["several"] and len(one["feature"]) == 2 for one in found)
    assert all(one["confidence"] + one["second_confidence"] <= 100.001 for one in found)


def test_the_network_that_comes_with_the_code(drawn: Path) -> None:
    done = predict(drawn / "1-0.jpg")
    assert done.stdout.startswith(f"{program.SHIPPED / 'center'}: unknown means farther than ")
    assert f"{drawn / '1-0.jpg'}: 1 (" in done.stdout


@pytest.mark.parametrize("flag", ["--page", "--export"])
def test_a_file_that_cannot_be_written_is_reported_at_once(flag: str, tmp_path: Path, capsys) -> None:
    for name in (".", "/", tmp_path, tmp_path / "none" / "x.html", "n" * 300 + "/x.html"):
        with pytest.raises(SystemExit) as stopped:
            program.parse([flag, str(name)])
        assert stopped.value.code == 2
        assert f"{flag} {name}: name a file in an existing folder" in capsys.readouterr().err


def test_gpu_minus_one_is_the_cpu(run: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    choose = hardware.choose_device
    monkeypatch.setattr(hardware, "choose_device", lambda *words: asked.append(words) or choose(*words))
    run_here(program.main, "--run", run, "--gpu", "-1", drawn / "0-0.jpg")
    assert asked == [(-1, True)]


def test_between_two_digits(run: Path) -> None:
    reader = Reader(read_run(run), torch.device("cpu"))
    found = reader.read(np.zeros((1, 28, 28), np.uint8))[0]
    here, there = reader.centers[[list(reader.classes).index(digit) for digit in (found.digit, found.second)]]
    way = (found.feature - here) @ (there - here) / ((there - here) ** 2).sum()
    assert found.between == (0.25 < way < 0.75)
    middle = replace(found, known=True, between=True, digit=2, second=1, confidence=73.0, second_confidence=26.0)
    assert program.in_words(middle).startswith("2, or 1: it lies between the two (73.0 %, 1: 26.0 %, ")
    assert program.in_words(replace(middle, known=False)).startswith("unknown, most like 2, or 1: it lies between")
    assert program.in_words(middle, "a box") == "unknown: looks like a box"


def test_separate_digits_are_read_one_by_one(run: Path, drawn: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    parts = [np.asarray(Image.open(drawn / f"{digit}-1.jpg")) for digit in (7, 1)]
    Image.fromarray(np.vstack(parts)).save("two.png")
    done = predict("--run", run, "two.png", "--show", "--plot")
    _, line, first, *rest, wrote = done.stdout.splitlines()
    assert line == "two.png: 2 digits: 7, 1"
    assert first.startswith("two.png (1 of 2): 7 (")
    shown = [one for one in rest if not one.startswith("two.png (2 of 2): 1")]
    assert (len(rest), len(shown)) == (14 + 1 + 14, 14 + 14)
    assert max(map(len, shown)) <= 4 + 28
    assert "@" in "".join(shown)
    assert wrote == "Wrote predictions.png"
    found = json.loads(predict("--run", run, "two.png", "--json").stdout)
    assert [one["digit"] for one in found["several"]] == [7, 1]
    assert not found["known"]
    assert found.keys() - found["several"][0].keys() == {"image", "page", "looks_like", "several"}


# ---------------------------------------------------------------- names of images


def test_every_page_is_read(run: Path, drawn: Path, tmp_path: Path) -> None:
    pages = [Image.open(drawn / f"{digit}-0.jpg") for digit in (1, 7, 0)]
    pages.insert(1, Image.new("RGB", (80, 80), "white"))
    for name in ("scan.tiff", "film.gif", "film.webp", "film.png"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        done = predict("--json", "--run", run, tmp_path / name, status=2)
        assert done.stderr == f"predict.py: {tmp_path / name}, page 2: nothing is drawn on it\n"
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(one["page"], one["digit"]) for one in found] == [(1, 1), (3, 7), (4, 0)], name
    assert f"{tmp_path / 'scan.tiff'}, page 3: 7 (" in predict("--run", run, tmp_path / "scan.tiff", status=2).stdout


def test_folders_in_a_folder_and_patterns(drawn: Path, tmp_path: Path) -> None:
    for digit in (0, 7):
        (tmp_path / "train" / str(digit)).mkdir(parents=True)
        for number in range(2):
            shutil.copy(drawn / f"{digit}-{number}.jpg", tmp_path / "train" / str(digit))
    (tmp_path / "train" / ".hidden").mkdir()
    wanted = [f"{tmp_path}/train/{digit}/{digit}-{number}.jpg" for digit in (0, 7) for number in range(2)]
    assert [name for name, _ in sources([str(tmp_path)])] == wanted
    assert [name for name, _ in sources([f"{tmp_path}/**/*.jpg"])] == wanted
    assert [name for name, _ in sources([f"{tmp_path}/train/[0-3]/*"])] == wanted[:2]
    odd = tmp_path / "train" / "0" / "a[1].jpg"
    shutil.copy(drawn / "0-0.jpg", odd)
    assert [name for name, _ in sources([str(odd)])] == [str(odd)]


def test_what_is_skipped_is_said(run: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not there
    monkeypatch.chdir(tmp_path)
    shutil.copy(drawn / "7-0.jpg", "7.jpg")
    for name in ("a.heic", "b.HEIC", "c.pdf", "notes", ".hidden"):
        Path(name).write_bytes(b"\0\0\0\x18ftypheic")
    Path("more").mkdir()
    said = "heic (needs pip install pillow-heif), notes, pdf"
    first = predict("--run", run, ".", "--plot")
    assert first.stderr == f"predict.py: .: 4 files skipped: {said}\npredict.py: .: 1 folder in it skipped\n"
    second = predict("--run", run, ".", "--plot")  # its own figure is not an image to read
    assert second.stdout.replace("predictions-2", "predictions") == first.stdout
    assert f"5 files skipped: {said}, predictions.png\n" in second.stderr
    Path("more/x.pdf").write_text("")
    done = predict("--run", run, "more", status=2)
    assert done.stderr == "predict.py: more: 1 file skipped: pdf\npredict.py: more: a folder without images\n"


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", closed)
    assert [name for name, _ in sources([str(tmp_path)])] == [str(tmp_path)]
    assert capsys.readouterr().err == f"predict.py: {tmp_path}: cannot be read: Permission denied\n"


def test_a_misspelled_flag_gets_a_suggestion(capsys) -> None:
    with pytest.raises(SystemExit):
        program.parse(["x.png", "--jsn"])
    assert "unrecognized arguments: --jsn; did you mean --json?" in capsys.readouterr().err


def test_heic_is_read_where_its_package_is(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(BadImage, match="HEIC: pip install pillow-heif"):
        read_image(tmp_path / "photo.heic")
    with pytest.raises(BadImage, match="HEIC: pip install pillow-heif"):
        read_image(BytesIO((tmp_path / "photo.heic").read_bytes()))
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(20))
    with pytest.raises(BadImage, match="not an image"):
        read_image(tmp_path / "film.mp4")
    decoder = SimpleNamespace(register_heif_opener=lambda: monkeypatch.setattr(Image, "open", opened))
    opened = partial(lambda plain, _: plain(drawn / "7-0.jpg"), Image.open)
    monkeypatch.setitem(sys.modules, "pillow_heif", decoder)
    assert read_image(tmp_path / "photo.heic").shape == (80, 80, 3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent.png", "cannot be read: No such file or directory"),
        ("https://example.org/7.png", "a URL: download it first, or pipe it into predict.py -"),
        ("none/*.png", "no file matches this pattern"),
        ("n" * 300 + ".png", "cannot be read: File name too long"),
    ],
)
def test_names_that_are_no_files_are_reported_before_the_network_is_loaded(
    run: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.reader.Reader", lambda *_: pytest.fail("loaded"))
    done = predict("--run", run, name, status=2)
    assert done.stderr == f"predict.py: {name}: {said}\n"


def test_a_dangling_link_does_not_stop_the_rest(run: Path, drawn: Path, tmp_path: Path) -> None:
    (link := tmp_path / "x.png").symlink_to("nowhere")
    done = predict("--run", run, link, drawn / "1-0.jpg", status=2)
    assert done.stderr == f"predict.py: {link}: cannot be read: No such file or directory\n"
    assert "1-0.jpg" in done.stdout


def test_a_run_whose_digits_cannot_be_seen(run: Path, drawn: Path, tmp_path: Path, monkeypatch) -> None:
    def blank(image: np.ndarray) -> None:
        raise BadImage("blank")

    monkeypatch.setattr("analysis.reader.see", blank)
    copy = shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("calibration.json"))
    done = predict("--run", copy, drawn / "1-0.jpg", status=2)
    assert "copy: no digit can be seen on its training images" in done.stderr


def test_digits_it_never_saw_are_unknown_more_often(run: Path, mnist5k: datasets.Digits) -> None:
    reader = Reader(read_run(run), torch.device("cpu"), reject=5)
    images = [from_gray(image) for image in mnist5k.test_images[::4].numpy()]
    labels = mnist5k.test_labels[::4].numpy()
    known = np.array([one.known for one in reader.read(np.array([see(image).digit for image in images]))])
    seen = np.isin(labels, [0, 1, 7])
    assert known[seen].mean() > 0.8
    assert known[~seen].mean() < 0.5


def test_stdin(run: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=BytesIO((drawn / "1-0.jpg").read_bytes())))
    done = run_here(program.main, "--run", run, "-")
    assert "stdin: 1 (" in done.stdout
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=BytesIO((drawn / "1-0.jpg").read_bytes())))
    assert run_here(program.main, "--run", run, "-", "-").stdout == done.stdout


@pytest.mark.parametrize("loss", ["softmax", "center"])
def test_the_shipped_calibration_is_of_the_shipped_network(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read, and not made anew, which needs the digits that were held out."""
    monkeypatch.setattr("analysis.reader.held_out_of", lambda run: pytest.fail("calibrates again"))
    Reader(read_run(Path(program.__file__).parent / "models" / "shipped" / loss), torch.device("cpu"))
