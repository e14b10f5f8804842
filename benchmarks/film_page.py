"""Film docs/draw.html in a real browser: a 3 and an A are drawn, with center loss and with softmax alone.

python benchmarks/film_page.py docs/figures/draw.gif       # needs playwright and Chromium
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

PAGE = Path(__file__).resolve().parent.parent / "docs" / "draw.html"
WIDTH, SIZE = 700, {"width": 1000, "height": 950}  # pixels of the film, and of the window


def frames(page: Page, count: int) -> list[Image.Image]:
    """Return so many pictures of what is on the screen."""
    taken = []
    for _ in range(count):
        image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        taken.append(image.resize((WIDTH, WIDTH * image.height // image.width), Image.Resampling.LANCZOS))
        page.wait_for_timeout(30)
    return taken


def main() -> None:
    chromium = shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(PAGE.as_uri())
        page.wait_for_timeout(500)
        film = frames(page, 2)
        for letter, network in (("3", 1), ("A", 1), ("3", 0)):
            page.locator(f"input[value='{network}']").check()
            page.get_by_role("button", name=f"Watch a {letter} being drawn").click()
            film += frames(page, 14)
        browser.close()
    colors = film[-1].quantize(200)
    palette = [frame.quantize(palette=colors, dither=Image.Dither.NONE) for frame in film]
    palette[0].save(sys.argv[1], save_all=True, append_images=palette[1:], duration=180, loop=0, optimize=True)


if __name__ == "__main__":
    main()
