"""The interactive page in a real browser, and the film."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import opened, run_here, run_main
from PIL import Image

import compare
import datasets
from analysis import film, metrics, plots, report, report_figures
from analysis.openset import Scored
from analysis.report import write_report
from rundir.run import Run, read_run, write_config
from training.settings import Plan, Settings

QUICK = ["-d", "mnist5k", "--use-cpu", "--known-classes", "1", "3", "8", "--max-epoch", "2", "--batch-size", "64"]
QUICK += ["--hold-out", "600"]  # half of the images are enough
HELPERS = """() => {
  window.testPlots = () => Bokeh.documents[0].roots().filter((root) => root.name.startsWith("test"));
  window.plot = testPlots().find((root) => root.name === "test-1");  // the second run's test set
  window.points = plot.renderers.find((r) => r.name === "points");
  window.view = Bokeh.index.find_one(plot);
  window.box = () => view.canvas_view.el.getBoundingClientRect();
}"""


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of two epochs on three digits, their film and their report."""
    out = tmp_path_factory.mktemp("report") / "compare"
    for name, weight in (("softmax-1", 0), ("center-1", 0.1)):
        run_main(*QUICK, "--plot", "--weight-cent", weight, "--save-dir", out / "runs" / name)
    done = run_here(compare.main, "--animate", "--report", "--regions", "--out", out, "--", *QUICK)
    assert "2 runs, 2 already trained" in done.stdout
    return out


def test_a_folder_that_is_not_utf8_and_a_run_that_lacks_test_images(compared: Path, tmp_path: Path) -> None:
    path = tmp_path / "l\udce4uf"
    try:
        shutil.copytree(compared / "runs" / "center-1", path)
    except OSError as error:
        pytest.skip(f"the file system takes no such name: {error}")
    run_here(compare.main, "--report", "--out", tmp_path / "whole", "--runs", path)
    assert (tmp_path / "whole" / "report.html").exists()
    file = path / "features" / "epoch_2.npz"
    with np.load(file) as arrays:
        cut = {name: array[::2] if name.startswith("test_") else array for name, array in arrays.items()}
    np.savez(file, **cut)
    done = run_here(compare.main, "--report", "--out", tmp_path / "cut", "--runs", path, status=1)
    assert "damaged (lacks test set images of the report)" in done.stderr


def test_film_has_a_frame_for_each_epoch_and_axes_that_stand_still(compared: Path) -> None:
    with Image.open(compared / "animation.gif") as film:
        shots = []
        for number in range(film.n_frames):
            film.seek(number)
            shots.append(np.asarray(film.convert("L")).astype(int))
        duration = film.info["duration"]
    assert len(shots) == 2
    assert duration == 1500  # the last frame stays three times as long
    first, last = shots
    assert (np.abs(first - last) > 60).any()
    ticks = slice(0, 40)  # numbers and label of the leftmost axis
    assert np.abs(first - last)[:, ticks].max() < 60  # small differences come from the film's palette


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on this machine")
def test_film_as_mp4(compared: Path) -> None:
    assert (compared / "animation.mp4").read_bytes()[4:8] == b"ftyp"


def test_an_ffmpeg_that_fails_leaves_the_gif(compared: Path, tmp_path: Path, capfd) -> None:
    from matplotlib import rc_context

    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    (tmp_path / "film.mp4").touch()  # of an earlier film, which is not this one
    with rc_context({"animation.ffmpeg_path": str(broken)}):
        made = film.animate([compared / "runs" / "center-1"], tmp_path / "film.gif")
    assert made == [tmp_path / "film.gif"]
    assert [path.name for path in tmp_path.iterdir() if path != broken] == ["film.gif"]
    assert "film.mp4 could not be made: ffmpeg failed" in capfd.readouterr().err


def test_runs_without_the_features_of_their_epochs_give_no_film(compared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(compared / "runs" / "center-1", run)
    (run / "features" / "epoch_1.npz").unlink()
    done = run_here(compare.main, "--animate", "--out", tmp_path / "out", "--runs", run, status=2)
    assert done.stderr.count("\n") == 1
    assert "train with --animate" in done.stderr


@pytest.fixture
def page(browser: Any, compared: Path) -> Iterator[Any]:
    with opened(browser, compared / "report.html") as page:
        page.wait_for_selector("body[data-ready]", state="attached")
        page.evaluate(HELPERS)
        yield page


def points(page: Any, column: str) -> np.ndarray:
    """Return a column of the points of the second run's test set."""
    return np.array(page.evaluate("(column) => Array.from(points.data_source.data[column])", column))


def places(page: Any) -> np.ndarray:
    return np.stack([points(page, "x"), points(page, "y")], axis=1)


def test_slider_shows_each_epoch(page: Any, compared: Path) -> None:
    for value, epoch in (("0", 1), ("1", 2)):
        page.locator("#epoch").fill(value)
        assert page.locator("#epoch-shown").text_content() == str(epoch)
        with np.load(compared / "runs" / "center-1" / "features" / f"epoch_{epoch}.npz") as data:
            there = data["test_features"].astype(float)
        np.testing.assert_allclose(np.sort(places(page), axis=0), np.sort(there, axis=0), rtol=1e-5)
    assert "after epoch 2" in page.locator('[data-panel="test-1"] figcaption').text_content()


def place_of(page: Any, point: int) -> tuple[float, float]:
    """Return where a point of the second run's test set lies on the screen."""
    page.wait_for_timeout(300)
    return page.evaluate(
        """(i) => {
          const {x, y} = points.data_source.data, {x_scale, y_scale} = view.frame;
          return [box().x + x_scale.compute(x[i]), box().y + y_scale.compute(y[i])];
        }""",
        point,
    )


def test_a_clicked_point_stays_chosen_until_a_click_beside_all(page: Any) -> None:
    """Even if marking it takes long, as with 10,000 points."""
    page.evaluate("""() => {
      const choose = window.choose;
      window.choose = (...image) => {
        for (const from = performance.now(); performance.now() < from + 300;);
        choose(...image);
      };
    }""")
    page.mouse.click(*place_of(page, 7))
    page.wait_for_timeout(1000)
    assert page.locator("#inspector.picked").count() == 1
    page.mouse.click(*page.evaluate("() => [box().x + 3, box().y + 3]"))
    page.locator("#inspector:not(.picked)").wait_for()


def test_hovering_over_a_point_shows_its_digit(page: Any) -> None:
    x, y = place_of(page, 7)
    page.mouse.move(x - 3, y - 3)
    page.mouse.move(x, y)
    tip = page.locator(".bk-Tooltip")
    tip.locator(".digit").wait_for(state="visible")
    text = tip.locator("div", has=page.locator("small")).last.inner_text()
    shown = int(re.search(r"test image (\d+)", text).group(1))  # type: ignore[union-attr]
    assert re.search(r"to its center \d+\.\d\d", text)
    images = datasets.load("mnist5k", Path("nowhere")).only([1, 3, 8])
    assert f"label {images.classes[images.test_labels[shown]]}" in text
    with Image.open(BytesIO(tip.locator(".digit").screenshot())) as shot:
        pixels = np.asarray(shot.convert("L").resize((28, 28), Image.Resampling.BOX)).astype(float)
    assert np.corrcoef(pixels.ravel(), images.test_images[shown].numpy().ravel())[0, 1] > 0.9


def test_a_click_takes_a_class_away_and_brings_it_back(page: Any) -> None:
    button, panel = page.locator('button[data-digit="3"]'), page.locator('[data-panel="test-1"]')
    count = "() => points.view.filter.booleans.filter(Boolean).length"
    before, all_points = panel.screenshot(), page.evaluate(count)
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    page.wait_for_timeout(300)
    assert page.evaluate(count) < all_points
    assert panel.screenshot() != before
    button.click()
    assert page.evaluate(count) == all_points


def test_a_listed_digit_is_found_in_every_panel_until_its_class_goes(page: Any) -> None:
    button = page.locator(".thumbs button").first
    label = re.match(r"a (\d)", button.get_attribute("aria-label")).group(1)  # type: ignore[union-attr]
    rings = (
        """() => testPlots().map((plot) => plot.renderers.filter((r) => r.data_source.data.x?.length === 1).length)"""
    )
    button.click()
    told = page.locator("#inspector").inner_text()
    assert told.startswith(f"A {label} (test image ")
    assert told.count("from its center") == 2  # in the test set of both runs
    assert button.get_attribute("aria-pressed") == "true"
    assert min(page.evaluate(rings)) == 1
    page.locator(f'button[data-digit="{label}"]').click()
    assert max(page.evaluate(rings)) == 0


def test_a_choice_is_in_view_and_let_go_of(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    inspector = page.locator("#inspector")
    page.locator(".thumbs button").first.click()
    box = inspector.bounding_box()
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= 844
    page.keyboard.press("Escape")
    assert "Click a point" in inspector.inner_text()
    assert page.locator(".thumbs button[aria-pressed=true]").count() == 0


def test_reset_keeps_the_one_scale(page: Any) -> None:
    wide = "() => testPlots().map((plot) => plot.x_range.end - plot.x_range.start)"
    page.locator("#same").check()
    before = page.evaluate(wide)
    page.evaluate("() => testPlots().forEach((plot) => plot.x_range.reset())")
    assert page.evaluate(wide) == pytest.approx(before)
    assert len({round(width, 6) for width in before}) == 1


def test_points_are_colored_by_what_is_asked_for(page: Any, compared: Path) -> None:
    digit, predicted = points(page, "digit"), points(page, "predicted")
    for option, expected in (("predicted", predicted), ("right", digit == predicted), ("digit", digit)):
        page.locator("#color").select_option(option)
        np.testing.assert_array_equal(points(page, "hue"), expected)
    page.locator("#color").select_option("sure")
    assert "99.99 %" in page.locator("#legend").inner_text()
    with np.load(compared / "runs" / "center-1" / "features" / "epoch_2.npz") as data:
        sure = 100 * data["test_scores"][points(page, "number")]
    np.testing.assert_allclose(points(page, "sure"), sure, atol=0.1)


def test_mistakes_are_marked_and_gone_through(page: Any) -> None:
    crosses = """() => { const r = plot.renderers.find((r) => r.glyph.marker?.value === "x");
      return [r.visible, r.view.filter.booleans.filter(Boolean).length]; }"""
    wrong = int((points(page, "digit") != points(page, "predicted")).sum())
    assert page.evaluate(crosses) == [False, wrong]
    page.locator("#mistakes").check()
    assert page.evaluate(crosses) == [True, wrong]
    listed = page.locator(".thumbs.wrong button")
    assert listed.count() >= 2, "the runs make mistakes"
    page.locator("#next").click()
    assert listed.first.get_attribute("aria-pressed") == "true"
    first = page.locator("#inspector").inner_text()
    page.keyboard.press("n")
    assert page.locator("#inspector").inner_text() != first
    page.keyboard.press("p")
    assert page.locator("#inspector").inner_text() == first
    wanted = set(listed.evaluate_all("all => all.map((b) => `${sheetOf(b)},${b.dataset.place}`)"))
    assert len(wanted) < listed.count(), "the two runs share a mistake"
    gone_through = set()
    for _ in wanted:
        page.locator("#next").click()
        gone_through.add(page.evaluate("`${picked.sheet},${picked.place}`"))
    assert gone_through == wanted


def test_nearest_neighbors_are_the_nearest(page: Any) -> None:
    page.locator("#find-number").fill("7")
    page.locator("#find button").click()
    assert "(test image 7)" in page.locator("#inspector").inner_text()
    at, number, place = places(page), points(page, "number"), points(page, "place")
    here = at[number == 7]
    expected = place[np.argsort(np.linalg.norm(at - here, axis=1))[1:7]]
    images = page.locator("#inspector .near").last.locator("button .digit")
    shown = images.evaluate_all(
        "all => all.map((one) => one.style.backgroundPosition.match(/[\\d.]+/g).map((n) => Math.round(n / 34)))"
    )
    assert [100 * row + column for column, row in shown] == expected.tolist()
    page.locator("#find-number").fill("99999")
    page.locator("#find button").click()
    assert page.locator("#find-none").inner_text() == "this image is not shown"


def test_a_lasso_shows_the_images_in_it(page: Any) -> None:
    page.evaluate("plot.toolbar.active_drag = plot.toolbar.tools.find((tool) => tool.type === 'LassoSelectTool')")
    page.locator('[data-panel="test-1"]').scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    left, top, right, bottom = page.evaluate("""() => {
      const {left, top, right, bottom} = view.frame.bbox, {x, y} = box();
      return [x + left + 3, y + top + 3, x + right - 3, y + bottom - 3];
    }""")
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom), (left, top + 9)):
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    page.locator("#grid").wait_for(state="visible")
    title = page.locator("#grid-title").inner_text()
    assert int(title.split()[0]) > 250, "all but the few beyond the border"
    assert re.search(r"\d+ × 1, \d+ × 3, \d+ × 8", title)
    page.locator("#grid-images button").nth(3).click()
    assert page.locator("#inspector .near").count() == 2
    page.keyboard.press("Escape")
    assert page.locator("#grid").is_hidden()


def test_the_address_keeps_what_is_seen(page: Any, compared: Path, browser: Any) -> None:
    page.locator("#epoch").fill("0")
    page.locator("#color").select_option("predicted")
    page.locator('button[data-digit="3"]').click()
    page.locator(".thumbs button").first.click()
    page.wait_for_function("location.hash.includes('image=') && location.hash.includes('hidden=3')")
    told, address = page.locator("#inspector").inner_text(), page.url
    with opened(browser, compared / "report.html", address[address.index("#") :]) as again:
        again.wait_for_selector("body[data-ready]", state="attached")
        assert again.locator("#epoch-shown").text_content() == "1"
        assert again.locator("#color").input_value() == "predicted"
        assert again.locator('button[data-digit="3"]').get_attribute("aria-pressed") == "false"
        assert again.locator("#inspector").inner_text() == told


def test_an_address_that_means_nothing_is_ignored(page: Any, compared: Path, browser: Any) -> None:
    sheet = page.evaluate("panels[0].sheet")
    for odd in ("-1", "1.5", "", "99999", "<b>"):
        fragment = f"#image={sheet}:{odd}&epoch=77&color=sky&hidden=x"
        with opened(browser, compared / "report.html", fragment) as again:
            again.wait_for_selector("body[data-ready]", state="attached")
            assert "Click a point" in again.locator("#inspector").inner_text()
            assert again.locator("#epoch-shown").text_content() == "2"
            assert again.locator("#color").input_value() == "digit"


def test_another_address_is_followed(page: Any) -> None:
    page.evaluate("location.hash = 'color=right'")
    page.wait_for_function("document.getElementById('legend').textContent === 'wrongright'")
    page.evaluate("location.hash = 'epoch=1'")
    page.wait_for_function("document.getElementById('legend').textContent === ''")
    assert page.locator("#epoch-shown").text_content() == "1"


def test_play_goes_through_the_epochs(page: Any) -> None:
    page.locator("#play").click()
    assert page.locator("#play").inner_text() == "⏸ Pause"
    assert page.locator("#epoch-shown").text_content() == "1"  # from the beginning
    page.wait_for_function("document.getElementById('epoch-shown').textContent === '2'")
    assert page.locator("#play").inner_text() == "▶ Play"


def test_regions_are_those_of_the_head(page: Any, compared: Path) -> None:
    shown = "() => plot.renderers.filter((r) => r.glyph.type === 'Patches').map((r) => r.data_source.data)"
    taken, known = page.evaluate(shown)
    regions = plots.regions_of(plots.read_epoch(compared / "runs" / "center-1", 2))
    for columns, shapes in zip((taken, known), regions.values(), strict=True):
        assert columns["digit"] == [1, 3, 8]
        for xs, ys, shape in zip(columns["xs"], columns["ys"], shapes, strict=True):
            np.testing.assert_allclose(np.array([xs, ys]).T, shape, atol=1e-3)
    page.locator("#regions").uncheck()
    assert all(len(one["xs"]) == 0 for one in page.evaluate(shown))


def test_a_group_is_one_tab_stop(page: Any) -> None:
    buttons = page.locator(".thumbs button, .classes button")
    stops = buttons.evaluate_all("all => all.filter((b) => b.tabIndex >= 0).length")
    assert stops == page.locator(".roving").count()
    page.locator(".classes button").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.digit") == "3"


def test_canvases_have_names(page: Any) -> None:
    names = page.evaluate("""() => [...document.querySelectorAll("figure")].flatMap((figure) => {
      const found = [], open = [figure];
      while (open.length) {
        const node = open.pop();
        if (node.tagName === "CANVAS") found.push(node.getAttribute("aria-label"));
        open.push(...(node.shadowRoot?.children ?? []), ...node.children);
      }
      return found;
    })""")
    assert len(names) >= 7
    assert all(names)


def luminance(color: str) -> float:
    """Return the relative luminance of a color, as WCAG defines it."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_color_stands_out_from_its_ground() -> None:
    palettes = report.page_facts([])["palettes"]
    for theme, ground in (("light", "#ffffff"), ("dark", "#17171b")):
        for color in itertools.chain.from_iterable(palettes[theme].values()):
            low, high = sorted([luminance(color), luminance(ground)])
            assert (high + 0.05) / (low + 0.05) >= 3, (theme, color)


def test_numbers_say_what_they_mean(page: Any) -> None:
    meant = page.locator(".metrics tbody abbr").evaluate_all("all => all.map((one) => [one.textContent, one.title])")
    assert dict(meant) == {name: metric.meaning for name, metric in metrics.METRICS.items()}


def test_zoom_is_linked_between_runs(page: Any) -> None:
    ranges = "() => testPlots().map((plot) => [plot.x_range.start, plot.x_range.end])"
    home = page.evaluate(ranges)
    page.evaluate("""() => {
      const {start, end} = plot.x_range;
      plot.x_range.setv({start: start + 0.25 * (end - start), end: start + 0.5 * (end - start)});
    }""")
    for (left, right), (start, end) in zip(home, page.evaluate(ranges), strict=True):
        width = right - left
        assert ((start - left) / width, (end - left) / width) == pytest.approx((0.25, 0.5))


def test_on_a_phone_the_plots_come_first(browser: Any, compared: Path) -> None:
    with opened(browser, compared / "report.html", viewport={"width": 390, "height": 844}) as page:
        assert page.locator(".panel").first.bounding_box()["y"] < 0.75 * 844
        assert not page.locator("#mistakes").is_visible()
        page.locator("#more summary").click()
        page.locator("#mistakes").check()


def test_nothing_runs_over_the_side(page: Any) -> None:
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def make_run(path: Path, epochs: int, dimension: int = 2, hold_out: int = 0, classes=(1, 3, 8)) -> Run:
    """Write a run directory with random features, and return it as compare.py reads it."""
    rng = np.random.default_rng(epochs)
    (path / "features").mkdir(parents=True)
    digits = datasets.load("mnist5k", Path("nowhere")).only(classes)
    data, _, _ = digits.hold_out(hold_out)
    plan = Plan(settings=Settings(dataset="mnist5k", hold_out=hold_out, feat_dim=dimension, known_classes=classes))
    unseen = [digit for digit in range(10) if digit not in classes]
    write_config(path, plan, SimpleNamespace(data=data, epochs=epochs), unseen, torch.device("cpu"), 1)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"command": "python main.py <b>"}))
    for epoch in range(1, epochs + 1):
        arrays = {"centers": rng.normal(size=(len(classes), dimension)).astype(np.float32)}
        arrays["head"] = np.pad(arrays["centers"], ((0, 0), (0, 1)))
        for part in ("train", "test"):
            labels = getattr(data, f"{part}_labels").numpy().astype(np.uint8)
            features = arrays["centers"][labels] + 0.3 * rng.normal(size=(len(labels), dimension))
            arrays |= {f"{part}_features": features.astype(np.float16), f"{part}_labels": labels}
            arrays |= {f"{part}_predictions": labels, f"{part}_scores": np.ones(len(labels), np.float32)}
        np.savez(path / "features" / f"epoch_{epoch}.npz", **arrays)
    (path / "epochs.csv").write_text(
        "epoch,train_loss,test_loss,test_accuracy,seconds\n" + "".join(f"{e},1,,,9\n" for e in range(1, epochs + 1))
    )
    (path / "batches.csv").write_text("epoch,batch,loss,loss_xent,loss_center,lr\n1,1,1,1,1,0.1\n1,2,1,1,1,0.1\n")
    run = read_run(path)
    run.numbers = {"accuracy": 100.0}
    return run


def test_runs_of_many_kinds_in_one_page(tmp_path: Path) -> None:
    """Different lengths, dimensions and training sets, no mistakes, no evaluations, a folder with a strange name."""
    runs = [
        make_run(tmp_path / "<script>alert(1)</script>", 1, dimension=1),
        make_run(tmp_path / "b", 3, dimension=5),
        make_run(tmp_path / "c", 30, hold_out=150),
        make_run(tmp_path / "d", 2, classes=(0, 1, 2, 3)),
    ]
    scores = np.arange(9.0)
    scored = [Scored(run, "letters", score, scores, scores > 2, scores - 3) for run in runs for score in ("a b", "c")]
    page = write_report(tmp_path / "report.html", runs, scored)[0].read_text()
    assert "<script>alert" not in page
    assert "python main.py <b>" not in page
    sheets = re.findall(r'class="sheet" data-name="(.*?)-\w+"', page)  # of three training and two test sets
    assert (sheets.count("train"), sheets.count("test")) == (3, 2)
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', page).group(1))  # type: ignore[union-attr]
    assert [len(run["epochs"]) for run in facts["runs"]] == [1, 3, 20, 2]
    assert facts["runs"][2]["epochs"][-1] == 30
    assert page.count('aria-label="Histogram, known digits against unknown images.') == 8


def test_centers_that_would_hide_their_classes_are_translucent(tmp_path: Path, monkeypatch) -> None:
    run = make_run(tmp_path / "a", 1)
    for width, alpha in ((3, 1.0), (400, 0.4)):  # of a disc, in pixels
        monkeypatch.setattr(report_figures, "CENTER", width)
        for panel in report_figures.panels(run, 0, {}, regions=False):
            marks = [one.glyph for one in panel["figure"].renderers if one.data_source is panel["center_source"]]
            assert [glyph.fill_alpha for glyph in marks if hasattr(glyph, "fill_alpha")] == [alpha]


def test_a_damaged_earlier_epoch_leaves_the_rest(compared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(compared / "runs" / "center-1", run)
    file = run / "features" / "epoch_1.npz"
    file.write_bytes(file.read_bytes()[:500])
    done = run_here(compare.main, "--animate", "--report", "--out", tmp_path / "out", "--runs", run, status=1)
    assert len(done.stderr.splitlines()) == 2
    for line, what in zip(done.stderr.splitlines(), ("the film", "the report"), strict=True):
        assert line.startswith(f"compare.py: {what} failed: ")
        assert "epoch_1.npz: damaged" in line
    assert (tmp_path / "out" / "comparison.md").exists()
    assert not (tmp_path / "out" / "report.html").exists()
