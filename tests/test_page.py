"""draw.html in a real browser: the same digit, features and answer as from predict.py."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, opened, run_here, run_main
from PIL import Image, ImageDraw

import datasets
import predict as program
from analysis.find_digit import see
from analysis.image_files import from_gray
from analysis.page import examples, write_page
from analysis.reader import Reader
from rundir.run import read_run
from utils import UserError

RUNS = {  # together with a shipped network they have every layer that a network can have
    "paper": ["--recipe", "paper", "--set", "max_iterations=40"],
    "arcface": ["--head", "arcface", "--set", "max_iterations=40"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("page")
    for name, flags in RUNS.items():
        run_main("-d", "mnist5k", "--use-cpu", *flags, "--save-dir", folder / name)
    return [program.SHIPPED / "center", *(folder / name for name in RUNS)]


@pytest.fixture(scope="module")
def file(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page for all the runs."""
    path = tmp_path_factory.mktemp("page") / "draw.html"
    done = run_here(program.main, *(word for run in runs for word in ("--run", run)), "--page", path)
    assert done.stdout == f"Wrote {path}\n"
    return path


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    with opened(browser, file) as page:
        page.wait_for_function("!busy")  # the second thread has its networks
        yield page


def test_a_class_without_a_test_image_has_no_example(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.arange(3, dtype=torch.uint8)[:, None, None].expand(3, 28, 28)
    data = SimpleNamespace(test_images=images, test_labels=torch.tensor([2, 0, 2]), classes=(4, 5, 6))
    monkeypatch.setattr("analysis.page.data_of", lambda run: data)
    monkeypatch.setattr("analysis.page.datasets.is_there", lambda name, root: True)
    run: Any = SimpleNamespace(settings=SimpleNamespace(dataset="mine"), plan=SimpleNamespace(data_root="data"))
    assert [image[0, 0] for image in examples(run)] == [1, 0]


ASK = """({pixels, side, drawing}) => new Promise((answer, fail) => {
  setTimeout(() => fail(new Error("no answer from the second thread")), 300_000);
  const bytes = Uint8Array.from(atob(pixels), (c) => c.charCodeAt(0)), answers = [];
  const count = bytes.length / (side * side);
  const next = () => {
    const one = bytes.slice(answers.length * side * side, (answers.length + 1) * side * side);
    const drawn = {ticket: "asked", gray: one, width: side, height: side};
    worker.postMessage(drawing ? drawn : {ticket: "asked", digit: one});
  };
  const listen = ({data}) => {
    if (data.ticket !== "asked") return;
    answers.push({...data, digit: data.digit && Array.from(data.digit)});
    if (answers.length < count) return next();
    worker.removeEventListener("message", listen);
    answer(answers);
  };
  worker.addEventListener("message", listen);
  next();
})"""


def ask(page: Any, pixels: np.ndarray, drawing: bool) -> list[dict[str, Any]]:
    """Return the answers of the page's second thread for digits (N, 28, 28) or drawings (N, S, S)."""
    text = base64.b64encode(pixels.astype(np.uint8).tobytes()).decode()
    return page.evaluate(ASK, {"pixels": text, "side": pixels.shape[1], "drawing": drawing})


def test_features_and_probabilities_are_torchs(page: Any, runs: list[Path], mnist5k: datasets.Digits) -> None:
    digits = mnist5k.test_images[::5].numpy()
    found = np.array([one["found"] for one in ask(page, digits, drawing=False)])  # (200, runs, 2)
    for number, path in enumerate(runs):
        reader = Reader(read_run(path), torch.device("cpu"))
        reader.network.precision = torch.no_grad  # float32
        features, logits = reader.network.outputs(torch.from_numpy(digits))
        extent = float(np.ptp(features.numpy(), axis=0).max())
        assert np.abs(found[:, number] - features.numpy()).max() < 1e-3 * extent, path
        judged = page.evaluate(
            "([n, points]) => points.map((point) => judge(networks[n], point).probabilities)",
            [number, features.tolist()],
        )
        assert np.abs(np.array(judged) - logits.softmax(dim=1).numpy()).max() < 1e-3, path


def drawings(mnist5k: datasets.Digits) -> list[np.ndarray]:
    """Return gray drawings (280, 280): digits scaled up, lines thin and thick, small and large, a dot."""
    some = [np.asarray(Image.fromarray(255 - digit).resize((280, 280))) for digit in mnist5k.test_images[::25].numpy()]
    boxes = {20: (60, 40, 220, 240), 2: (20, 10, 260, 270), 6: (130, 130, 142, 148), 40: (80, 90, 200, 270)}
    for width, box in boxes.items():
        sheet = Image.new("L", (280, 280), 255)
        pen = ImageDraw.Draw(sheet)
        pen.arc(box, 0, 300, fill=0, width=width)
        pen.line((box[0], box[1], box[2], box[1]), fill=90, width=width)
        pen.point((3, 270), fill=0)  # a speck
        some.append(np.asarray(sheet))
    for columns, rows in ((2, 1), (1, 2)):  # apart from each other
        sheet = Image.new("L", (280, 280), 255)
        for number, digit in enumerate(mnist5k.test_images[1 : 1 + columns * rows].numpy()):
            place = (30 + 120 * number * (columns - 1), 20 + 120 * number * (rows - 1))
            sheet.paste(Image.fromarray(255 - digit).resize((112, 112)), place)
        some.append(np.asarray(sheet))
    return some


def test_a_drawing_becomes_the_digit_that_predict_makes_of_it(page: Any, mnist5k: datasets.Digits) -> None:
    drawn = np.array(drawings(mnist5k))
    for number, answer in enumerate(ask(page, drawn, drawing=True)):
        seen = see(from_gray(drawn[number]))
        assert np.abs(np.array(answer["digit"]).reshape(28, 28) - seen.digit.astype(int)).max() <= 3, number  # of 255
        assert answer["several"] == max(1, len(seen.several)), number
    assert len(seen.several) == 2
    assert ask(page, np.full((1, 280, 280), 255), drawing=True)[0]["digit"] is None


def draw_with_the_mouse(page: Any, across: float = 0.5, down: float = 0.8) -> None:
    box = page.locator("#sheet").bounding_box()
    page.mouse.move(box["x"] + across * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"], steps=12)
    page.mouse.up()


def wait_for_answer(page: Any, text: str) -> None:
    page.wait_for_function("(text) => document.getElementById('verdict').textContent.includes(text)", arg=text)


def test_a_person_draws_looks_switches_and_clears(page: Any, runs: list[Path]) -> None:
    wait_for_answer(page, "Draw a digit")
    draw_with_the_mouse(page, down=0.2)
    wait_for_answer(page, "A dot is no digit yet")
    draw_with_the_mouse(page)
    wait_for_answer(page, "from its center")
    answers = set()
    for number in range(len(runs)):
        page.locator(f"input[value='{number}']").check()
        answers.add(page.locator("#verdict").text_content())
    assert len(answers) == len(runs)  # distances differ
    page.wait_for_function("() => $('said').textContent === $('verdict').textContent")  # for screen readers, later
    draw_with_the_mouse(page, across=0.9)
    wait_for_answer(page, "2 separate drawings")
    for button, answer in (("Undo", "from its center"), ("Clear", "Draw a digit"), ("Undo", "from its center")):
        page.get_by_role("button", name=button).click()
        wait_for_answer(page, answer)


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_drawing_plane_and_answer_are_on_one_screen(page: Any, size: tuple[int, int]) -> None:
    width, height = size
    page.set_viewport_size({"width": width, "height": height})
    draw_with_the_mouse(page)
    wait_for_answer(page, "from its center")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [page.locator(what).bounding_box() for what in ("#sheet", "#digits", "#letters", "#plane", "#verdict")]
    assert all(box["y"] >= 0 and box["y"] + box["height"] <= height for box in boxes)


def test_the_border_of_the_unknown_is_seen_whole(page: Any) -> None:
    outside = """(n) => networks[n].centers.flatMap(([x, y]) => { const [l, r, b, t] = networks[n].limits,
      far = networks[n].threshold; return [x - far - l, r - x - far, y - far - b, t - y - far]; })"""
    assert min(page.evaluate(outside, 0)) > 0


def test_examples_and_the_keyboard(page: Any) -> None:
    page.get_by_role("button", name="Example digit 1 of 10").click()
    wait_for_answer(page, "from its center")
    assert page.locator("#letters button").all_text_contents() == list("WEFAHM")
    page.get_by_role("button", name="Watch the letter W being drawn").focus()
    page.keyboard.press("Enter")
    wait_for_answer(page, "from its center")
    page.get_by_role("button", name="Clear").click()
    page.locator("#sheet").focus()
    for key in (" ", *["ArrowDown"] * 15, " "):
        page.keyboard.press(key)
    wait_for_answer(page, "from its center")
    page.keyboard.press(" ")  # a stroke that is not ended
    page.keyboard.press("C")
    wait_for_answer(page, "Draw a digit")
    for key in (" ", *["ArrowUp"] * 15):
        page.keyboard.press(key)
    wait_for_answer(page, "from its center")


@pytest.mark.parametrize(("letters", "answer"), [("EFM", "Unknown"), ("WAH", "Taken for 4")])
def test_the_page_that_comes_with_the_code(browser: Any, letters: str, answer: str) -> None:
    with opened(browser, ROOT / "docs" / "draw.html", reduced_motion="reduce") as page:
        for letter in letters:
            page.get_by_role("button", name=f"Watch the letter {letter} being drawn").click()
            wait_for_answer(page, answer)
            page.get_by_role("button", name="Clear").click()
            wait_for_answer(page, "Draw a digit")


def test_a_run_with_more_features_has_no_plane(tmp_path: Path) -> None:
    run = read_run(program.SHIPPED / "center")
    run.plan = replace(run.plan, settings=replace(run.settings, feat_dim=3))
    with pytest.raises(UserError, match="--page needs a run with two features; it has 3"):
        write_page(tmp_path / "draw.html", [run], [])
