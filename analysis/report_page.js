"use strict";
const FACTS = JSON.parse(document.getElementById("facts").textContent);
const {epochs: EPOCHS, sheet_row: ROW, palettes: PALETTES} = FACTS;
const $ = (id) => document.getElementById(id);
const STEPS = ["50", "90", "99", "99.9", "99.99"];  // percent; the confidences in the legend
let panels = [];
let ranged = new Map();  // run → the panel that stands for its ranges
let hidden = new Set();
let rest = 0;
let picked = null;  // {sheet, place}
let grid = null;  // {sheet, places} of a lasso

$("more").open = matchMedia("(min-width: 60.01rem)").matches;  // on a phone the plots come first

// Each sheet of images becomes the CSS variable --NAME, for the page and for Bokeh's tooltips.
for (const sheet of document.querySelectorAll(".sheet")) {
  const bytes = Uint8Array.from(atob(sheet.textContent), (c) => c.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], {type: "image/png"}));
  document.documentElement.style.setProperty(`--${sheet.dataset.name}`, `url(${url})`);
}

// ---------------------------------------------------------------- start

// Bokeh calls this when its plots are ready.
window.startReport = (found) => {
  panels = found;
  for (const panel of panels) {
    panel.home = [panel.x_range.start, panel.x_range.end, panel.y_range.start, panel.y_range.end];
  }
  ranged = new Map(panels.map((panel) => [panel.run, panel]));
  for (const panel of ranged.values()) {
    for (const range of [panel.x_range, panel.y_range]) {
      for (const end of ["start", "end"]) range.properties[end].change.connect(() => link(panel));
    }
  }
  const same = $("same"), widths = [...ranged.values()].map(({home}) => home[1] - home[0]);
  if (same && Math.max(...widths) <= 3 * Math.min(...widths)) {  // one scale, unless a run is too small for it
    same.checked = true;
    rescale(true);
  }
  listen();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  if (window.matchMedia("(pointer: coarse)").matches) {
    for (const plot of plots()) plot.toolbar.active_drag = null;  // a finger scrolls the page
  }
  restore();
  paint();
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const panel = panels.find((p) => `${p.part}-${p.run}` === entry.target.dataset.panel);
      panel.onScreen = entry.isIntersecting;
      if (panel.onScreen) fill(panel);
    }
  }, {rootMargin: "200px"});
  for (const element of document.querySelectorAll(".panel")) watch.observe(element);
  nameCanvases();
  document.body.dataset.ready = "yes";
};

function listen() {
  $("epoch").addEventListener("input", () => { play(false); show(EPOCHS[$("epoch").value]); remember(); });
  $("play")?.addEventListener("click", () => { play(playing === null); remember(); });
  $("same")?.addEventListener("change", (event) => rescale(event.target.checked));
  $("regions")?.addEventListener("change", () => { panels.forEach(showRegions); remember(); });
  $("color").addEventListener("change", () => { recolor(); remember(); });
  $("mistakes").addEventListener("change", (event) => {
    for (const panel of panels) panel.crosses.visible = event.target.checked;
    remember();
  });
  for (const button of document.querySelectorAll(".classes button")) {
    button.addEventListener("click", () => { toggle(button); remember(); });
  }
  for (const button of document.querySelectorAll(".thumbs button")) {
    button.addEventListener("click", () => window.choose(sheetOf(button), Number(button.dataset.place)));
  }
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("find").addEventListener("submit", (event) => { event.preventDefault(); find(); });
  $("grid-close").addEventListener("click", () => showGrid(null));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") grid ? showGrid(null) : letGo();
    // Letters count only among the mistakes and in the inspector, so that typing elsewhere does nothing.
    if (!event.target.closest?.("#steps, .thumbs, #inspector") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n") step(1);
    if (event.key === "p") step(-1);
  });
  for (const group of [...document.querySelectorAll(".roving"), $("grid-images")]) rove(group);
  window.addEventListener("hashchange", () => { play(false); restore(); recolor(); });
}

const plots = () => Bokeh.documents.flatMap((d) => d.roots());
const shownEpoch = (run, epoch) => FACTS.runs[run].epochs.filter((e) => e <= epoch).at(-1) ?? FACTS.runs[run].epochs[0];
const sheetOf = (button) => panels.find((p) => p.part === "test" && p.run === Number(button.dataset.run)).sheet;
const nameOf = (panel) => document.querySelector(`[data-panel="${panel.part}-${panel.run}"] strong`).textContent;
const sureness = (code) => 100 * (1 - 10 ** (-code / 1000));  // percent; report_figures.py makes the code

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// One image of a sheet, `width` pixels wide.
function thumbnail(sheet, place, width, label) {
  const image = element("span", label ? {class: "digit", role: "img", "aria-label": label} : {class: "digit"});
  Object.assign(image.style, {
    display: "block", width: `${width}px`, height: `${width}px`,
    backgroundImage: `var(--${sheet})`, backgroundSize: `${width * ROW}px`,
    backgroundPosition: `${-width * (place % ROW)}px ${-width * Math.floor(place / ROW)}px`,
  });
  return image;
}

// A group of buttons is one tab stop; arrow keys move within it.
function oneStop(group, kept = group.querySelector("button")) {
  for (const button of group.querySelectorAll("button")) button.tabIndex = button === kept ? 0 : -1;
}
function rove(group) {
  oneStop(group);
  group.addEventListener("focusin", (event) => oneStop(group, event.target.closest("button") ?? undefined));
  group.addEventListener("keydown", (event) => {
    const way = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    const all = [...group.querySelectorAll("button")], here = all.indexOf(document.activeElement);
    const there = {Home: 0, End: all.length - 1}[event.key] ?? (way ? here + way : -1);
    if (here < 0 || there < 0 || !all[there]) return;
    event.preventDefault();
    all[there].focus();
  });
}

function nameCanvases() {
  for (const figure of document.querySelectorAll("figure[aria-label]")) {
    const open = [figure];
    while (open.length) {
      const node = open.pop();
      if (node.tagName === "CANVAS") { node.setAttribute("role", "img"); node.setAttribute("aria-label", figure.getAttribute("aria-label")); }
      open.push(...(node.shadowRoot?.children ?? []), ...node.children);
    }
  }
}

// ---------------------------------------------------------------- the address

// The address keeps epoch, selection and colors, so that a view can be saved or shared.
let writing = 0;
function remember() {
  clearTimeout(writing);
  writing = setTimeout(writeAddress, 200);  // browsers refuse more than a few changes a second
}
function writeAddress() {
  const state = new URLSearchParams();
  if (Number($("epoch").value) !== EPOCHS.length - 1) state.set("epoch", EPOCHS[$("epoch").value]);
  if (picked) state.set("image", `${picked.sheet}:${picked.place}`);
  if ($("color").value !== "digit") state.set("color", $("color").value);
  if ($("mistakes").checked) state.set("mistakes", "1");
  if ($("regions") && !$("regions").checked) state.set("regions", "0");
  if (hidden.size) state.set("hidden", [...hidden].sort().join("."));
  const text = state.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

function restore() {
  const state = new URLSearchParams(location.hash.slice(1));
  const epoch = EPOCHS.indexOf(Number(state.get("epoch")));
  $("epoch").value = epoch < 0 ? EPOCHS.length - 1 : epoch;
  const by = state.get("color");
  $("color").value = [...$("color").options].some((option) => option.value === by) ? by : "digit";
  $("mistakes").checked = state.get("mistakes") === "1";
  for (const panel of panels) panel.crosses.visible = $("mistakes").checked;
  if ($("regions")) $("regions").checked = state.get("regions") !== "0";
  const off = new Set((state.get("hidden") ?? "").split("."));
  for (const button of document.querySelectorAll(".classes button")) {
    if (off.has(button.dataset.digit) === (button.getAttribute("aria-pressed") === "true")) toggle(button);
  }
  const [sheet, place] = (state.get("image") ?? "").split(":");
  const there = panels.find((panel) => panel.sheet === sheet)?.source.data.place.indexOf(place ? Number(place) : -1) ?? -1;
  picked = there >= 0 ? {sheet, place: Number(place)} : null;
  show(EPOCHS[$("epoch").value]);
}

// ---------------------------------------------------------------- epochs

let playing = null;
function play(on) {
  clearInterval(playing);
  playing = on ? setInterval(advance, 900) : null;
  if ($("play")) $("play").textContent = on ? "⏸ Pause" : "▶ Play";
  if (on && Number($("epoch").value) === EPOCHS.length - 1) advance();
}

function advance() {
  const next = (Number($("epoch").value) + 1) % EPOCHS.length;
  $("epoch").value = next;
  show(EPOCHS[next]);
  if (next === EPOCHS.length - 1) { play(false); remember(); }
}

// Show an epoch in every scatter.
function show(epoch) {
  $("epoch-shown").textContent = epoch;
  $("epoch").setAttribute("aria-valuetext", `epoch ${epoch}`);
  for (const panel of panels) panel.at = shownEpoch(panel.run, epoch);
  for (const span of document.querySelectorAll(".at")) span.textContent = `after epoch ${shownEpoch(Number(span.dataset.run), epoch)}`;
  refill();
  mark();
}

// Fill the scatters on the screen now, the others when the slider rests.
function refill() {
  panels.filter((panel) => panel.onScreen).forEach(fill);
  clearTimeout(rest);
  rest = setTimeout(() => panels.forEach(fill), 300);
}

function fill(panel) {
  if (panel.filled === panel.at) return;
  panel.filled = panel.at;
  const {place, digit} = panel.source.data;
  const [x, y, distance, predicted, code] = ["x", "y", "d", "p", "c"].map((key) => {
    const stored = panel.store.data[key + panel.at];
    return Float32Array.from(place, (j) => stored[j]);
  });
  const hue = {
    digit, predicted, right: predicted.map((label, i) => Number(label === digit[i])), sure: code.map((one) => one / 1000),
  }[$("color").value];
  panel.source.data = {
    ...panel.source.data, x, y, distance, predicted: Uint8Array.from(predicted), sure: code.map(sureness), hue: Float32Array.from(hue),
  };
  showMistaken(panel);
  showCenters(panel);
  showRegions(panel);
}

function showCenters(panel) {
  const shown = panel.centers[panel.at].map(([x, y], k) => ({x, y, digit: panel.classes[k]})).filter((c) => !hidden.has(c.digit));
  panel.center_source.data = {x: shown.map((c) => c.x), y: shown.map((c) => c.y), digit: shown.map((c) => String(c.digit))};
}

function showMistaken(panel) {
  const {digit, predicted} = panel.source.data;
  panel.mistaken.booleans = Array.from(digit, (d, i) => d !== predicted[i] && !hidden.has(d));
}

function showRegions(panel) {
  const there = $("regions")?.checked ? panel.regions[panel.at] : undefined;
  for (const [key, source] of Object.entries(panel.region_sources)) {
    source.data = there?.[key] ?? {xs: [], ys: [], digit: []};
  }
}

function toggle(button) {
  const digit = Number(button.dataset.digit);
  const off = button.getAttribute("aria-pressed") === "true";
  button.setAttribute("aria-pressed", String(!off));
  off ? hidden.add(digit) : hidden.delete(digit);
  for (const panel of panels) {
    panel.visible.booleans = Array.from(panel.source.data.digit, (d) => !hidden.has(d));
    showMistaken(panel);
    if (panel.at !== undefined) showCenters(panel);
  }
  mark();
}

// ---------------------------------------------------------------- one image

// Mark one image in every panel that holds it.
let hit = false;  // whether the tap that is being handled is on a point
window.choose = (sheet, place) => { picked = {sheet, place}; mark(); remember(); };
window.clicked = (sheet, place) => { hit = true; window.choose(sheet, place); };
window.tapped = () => setTimeout(() => { if (!hit) letGo(); hit = false; });  // after `clicked`
function letGo() {
  if (picked === null) return;
  picked = null;
  mark();
  remember();
}

function mark() {
  for (const button of document.querySelectorAll(".thumbs button")) {
    button.setAttribute("aria-pressed", String(picked !== null && sheetOf(button) === picked.sheet && Number(button.dataset.place) === picked.place));
  }
  const inspector = $("inspector"), inside = inspector.contains(document.activeElement);
  inspector.classList.toggle("picked", picked !== null);
  if (picked === null) {
    for (const panel of panels) panel.chosen.data = {x: [], y: []};
    inspector.replaceChildren(element("span", {class: "quiet"}, "Click a point, or one of the digits listed under Mistakes."));
    return;
  }
  const {sheet, place} = picked, lines = [], said = [];
  let label = "", number = 0, part = "";
  for (const panel of panels) {
    if (panel.sheet !== sheet) { panel.chosen.data = {x: [], y: []}; continue; }
    const store = panel.store.data, row = panel.source.data.place.indexOf(place);
    label = panel.source.data.digit[row];
    number = panel.source.data.number[row];
    part = panel.part === "test" ? "test" : "training";
    panel.chosen.data = hidden.has(label) ? {x: [], y: []} : {x: [store["x" + panel.at][place]], y: [store["y" + panel.at][place]]};
    const [predicted, distance, sure] = ["p", "d", "c"].map((key) => store[key + panel.at][place]);
    said.push(`${nameOf(panel)}: predicted ${predicted}, ${sureness(sure).toFixed(1)} %, ${distance.toFixed(2)} from its center`);  // the predicted class's, as in predict.py
    lines.push(element("div", {}, said.at(-1)));
    lines.push(element("div", {class: "near", role: "group", "aria-label": "Nearest in this figure"}, ...neighbors(panel, place)));
  }
  inspector.replaceChildren(
    thumbnail(sheet, place, 84, `image of a ${label}`),
    element("div", {}, element("strong", {}, `A ${label}`), ` (${part} image ${number})`, ...lines),
  );
  if (inside) inspector.focus({preventScroll: true});  // the button that had the focus is gone
  const told = `A ${label}, ${part} image ${number}. ${said.join(". ")}`;
  if (playing === null && $("said").textContent !== told) $("said").textContent = told;
}

// The nearest points in the same figure, as buttons.
function neighbors(panel, place) {
  const [x, y, p] = ["x", "y", "p"].map((key) => panel.store.data[key + panel.at]);
  const far = Array.from(x, (value, j) => (value - x[place]) ** 2 + (y[j] - y[place]) ** 2);
  const nearest = [...far.keys()].filter((j) => j !== place).sort((a, b) => far[a] - far[b]).slice(0, 6);
  return nearest.map((j) => imageButton(panel, j, 34, `nearest: predicted ${p[j]}`));
}

function imageButton(panel, place, width, label) {
  const button = element("button", {type: "button", "aria-label": label, title: label}, thumbnail(panel.sheet, place, width));
  button.addEventListener("click", () => window.choose(panel.sheet, place));
  return button;
}

// Choose the next or previous mistake in the lists of all runs.
function step(way) {
  const seen = new Set();  // runs share mistakes
  const all = [...document.querySelectorAll(".thumbs.wrong button")].filter((button) => {
    const key = `${sheetOf(button)}:${button.dataset.place}`;
    return !seen.has(key) && seen.add(key);
  });
  if (!all.length) return;
  const here = all.findIndex((button) => button.getAttribute("aria-pressed") === "true");
  const there = here < 0 ? (way > 0 ? 0 : all.length - 1) : (here + way + all.length) % all.length;
  all[there].click();
}

function find() {
  const part = $("find-part").value, number = Number($("find-number").value);
  const panel = panels.find((p) => p.part === part && p.source.data.number.indexOf(number) >= 0);
  $("find-none").textContent = panel ? "" : "this image is not shown";
  if (panel) window.choose(panel.sheet, panel.source.data.place[panel.source.data.number.indexOf(number)]);
}

// ---------------------------------------------------------------- several images

const MOST = 300;
window.lassoed = (sheet, places) => showGrid(places.length ? {sheet, places} : null);
function showGrid(found) {
  grid = found;
  $("grid").hidden = grid === null;
  if (grid === null) return;
  const panel = panels.find((p) => p.sheet === grid.sheet), {digit, place: at} = panel.source.data;
  const digits = new Map(Array.from(at, (place, i) => [place, digit[i]])), counts = new Map();
  const places = [...grid.places].sort((a, b) => digits.get(a) - digits.get(b));
  for (const place of places) counts.set(digits.get(place), (counts.get(digits.get(place)) ?? 0) + 1);
  const told = [...counts].map(([digit, count]) => `${count} × ${digit}`).join(", ");
  $("grid-title").textContent = `${places.length} images: ${told}` + (places.length > MOST ? `; the first ${MOST}` : "");
  $("grid-images").replaceChildren(...places.slice(0, MOST).map((place) => imageButton(panel, place, 34, `a ${digits.get(place)}`)));
  oneStop($("grid-images"));
  $("grid-close").focus({preventScroll: true});
}

// ---------------------------------------------------------------- ranges

// Zoom and pan of one run move the other runs too, each relative to its own home.
let linking = false;
function link(moved) {
  if (linking) return;
  linking = true;
  const share = (value, a, b) => (value - a) / (b - a);
  const [x0, x1, y0, y1] = moved.home;
  const u = [share(moved.x_range.start, x0, x1), share(moved.x_range.end, x0, x1), share(moved.y_range.start, y0, y1), share(moved.y_range.end, y0, y1)];
  for (const panel of ranged.values()) if (panel !== moved) place(panel, u);
  linking = false;
}
function place(panel, u) {
  const [x0, x1, y0, y1] = panel.home;
  panel.x_range.setv({start: x0 + u[0] * (x1 - x0), end: x0 + u[1] * (x1 - x0)});
  panel.y_range.setv({start: y0 + u[2] * (y1 - y0), end: y0 + u[3] * (y1 - y0)});
}
function rescale(same) {
  for (const panel of ranged.values()) panel.own ??= panel.home;
  const boxes = [...ranged.values()].map((panel) => panel.own);
  const widest = Math.max(...boxes.flatMap((box) => box.map(Math.abs)));
  linking = true;
  for (const panel of ranged.values()) {
    panel.home = same ? [-widest, widest, -widest, widest] : panel.own;
    place(panel, [0, 1, 0, 1]);
    const [x0, x1, y0, y1] = panel.home;
    panel.x_range.setv({reset_start: x0, reset_end: x1});  // where Bokeh's Reset leads
    panel.y_range.setv({reset_start: y0, reset_end: y1});
  }
  linking = false;
}

// ---------------------------------------------------------------- colors

const theme = () => (window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

// Color the points as chosen.
function recolor() {
  const by = $("color").value, palettes = PALETTES[theme()];
  const [palette, low, high] = {
    right: [palettes.right, -0.5, 1.5],
    sure: [palettes.sure, 0, 4],  // up to 99.99 %, as -log10(1 - p): each step of the legend in the bin of its color
  }[by] ?? [palettes.digit, -0.5, palettes.digit.length - 0.5];
  for (const panel of panels) {
    panel.class_colors.palette = palettes.digit;
    panel.hues.setv({palette, low, high});
    panel.filled = null;
  }
  refill();
  const names = {right: ["wrong", "right"], sure: STEPS.map((step) => `${step} %`)}[by] ?? [];
  $("legend").replaceChildren(...names.map((name, i) => {
    const swatch = element("span", {class: "swatch"});
    swatch.style.background = palette[Math.round((i * (palette.length - 1)) / Math.max(names.length - 1, 1))];
    return element("span", {}, swatch, name);
  }));
}

// Give the plots the page's colors.
function paint() {
  const style = getComputedStyle(document.documentElement);
  const [text, line] = ["--text", "--line"].map((name) => style.getPropertyValue(name).trim());
  const here = PALETTES[theme()].digit, there = PALETTES[theme() === "dark" ? "light" : "dark"].digit;
  here.forEach((color, k) => document.documentElement.style.setProperty(`--digit-${k}`, color));
  for (const plot of plots()) {
    plot.outline_line_color = line;
    for (const grid of plot.center.filter((g) => "grid_line_color" in g)) grid.grid_line_color = line;
    for (const axis of [...plot.below, ...plot.left].filter((a) => "axis_label_text_color" in a)) {
      Object.assign(axis, {axis_label_text_color: text, major_label_text_color: text, axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: line});
    }
    for (const legend of plot.above.filter((a) => "label_text_color" in a)) legend.label_text_color = text;
    for (const {glyph} of plot.renderers) {  // lines and bars
      for (const key of ["line_color", "fill_color"]) {
        const k = there.indexOf(glyph[key]?.value ?? glyph[key]);
        if (k >= 0) glyph[key] = here[k];
      }
    }
  }
  for (const panel of panels) panel.crosses.glyph.line_color = text;
  recolor();
}
