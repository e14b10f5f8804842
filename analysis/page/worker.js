"use strict";
// The page's second thread: a drawing → a digit as in MNIST → features, the same as in predict.py.
// `see` takes the steps of analysis/find_digit.py for black ink on a white ground, without the search for paper,
// frames, lines and shadows.

// ---------------------------------------------------------------- the drawing

const BOX = 20, SIDE = 28, FAINT = 25, THINNEST = 0.09, GAP = 0.2; // as in analysis/find_digit.py

// Rounds as Python and NumPy do: halves to the even number.
function roundHalfEven(value) {
  const low = Math.floor(value), rest = value - low;
  if (rest !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}

// The quantile of ascending values, as in NumPy.
function quantile(sorted, share) {
  const place = share * (sorted.length - 1), low = Math.floor(place), high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (place - low) * (sorted[high] - sorted[low]);
}

// Gray levels (height, width), black ink on white → a digit, uint8 (28, 28), and the number of separate digits; null if
// nothing is drawn.
function see(gray, width, height) {
  const contrast = new Float32Array(gray.length);
  for (let i = 0; i < gray.length; i++) contrast[i] = Math.sqrt(3) * (255 - gray[i]);
  const smooth = Math.min(width, height) > 100 ? uniform(contrast, width, height) : contrast;
  const few = Math.max(1, Math.min(20, Math.floor(gray.length / 200)));
  const strongest = Float32Array.from(smooth).sort();
  if (strongest[strongest.length - few] < FAINT) return null;

  const threshold = otsu(contrast);
  const mask = new Uint8Array(gray.length);
  for (let i = 0; i < mask.length; i++) mask[i] = contrast[i] > threshold ? 1 : 0;
  const boxes = withoutSpecks(mask, width, height), several = apart(boxes);

  const [top, left] = ["top", "left"].map((side) => Math.min(...boxes.map((box) => box[side])));
  const [bottom, right] = ["bottom", "right"].map((side) => Math.max(...boxes.map((box) => box[side])));
  const strong = quantile(contrast.filter((_, i) => mask[i]).sort(), 0.9);
  let w = right - left, h = bottom - top;
  let ink = new Float32Array(w * h);
  const shape = new Uint8Array(w * h);
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x] === 1;
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++) {
      const X = x + left, Y = y + top;
      shape[y * w + x] = mask[Y * width + X];
      const near = at(X, Y) || at(X - 1, Y) || at(X + 1, Y) || at(X, Y - 1) || at(X, Y + 1);
      const share = (contrast[Y * width + X] - 0.3 * threshold) / (strong - 0.3 * threshold);
      ink[y * w + x] = near ? Math.min(1, Math.max(0, share)) : 0;
    }
  const missing = THINNEST * Math.max(w, h) - strokeWidth(shape, w, h);
  if (missing >= 1) { // a thin line on a large sheet
    const size = 2 * roundHalfEven(missing / 2) + 1;
    ink = dilated(ink, w, h, size);
    w += 2 * size; h += 2 * size;
  }
  return { digit: centered(ink, w, h), several };
}

// The mean over 3×3 pixels, mirrored at the edges, as SciPy's uniform_filter.
function uniform(values, width, height) {
  const out = new Float32Array(values.length), half = new Float32Array(values.length);
  const clamp = (i, n) => Math.min(n - 1, Math.max(0, i));
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      half[y * width + x] = (values[clamp(y - 1, height) * width + x] + values[y * width + x] + values[clamp(y + 1, height) * width + x]) / 3;
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      out[y * width + x] = (half[y * width + clamp(x - 1, width)] + half[y * width + x] + half[y * width + clamp(x + 1, width)]) / 3;
  return out;
}

// The threshold that best separates values into two groups (Otsu 1979), over 128 bins.
function otsu(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  const counts = new Float64Array(128), edge = (i) => low + ((high - low) * i) / 128;
  for (const value of values) counts[Math.min(127, Math.floor(((value - low) / (high - low)) * 128))]++;
  let total = 0, all = 0;
  counts.forEach((count, i) => { total += count; all += (count * (edge(i) + edge(i + 1))) / 2; });
  let below = 0, sum = 0, best = -1, place = 0;
  for (let i = 0; i < 127; i++) {
    below += counts[i];
    sum += (counts[i] * (edge(i) + edge(i + 1))) / 2;
    const between = below * (total - below) * (sum / below - (all - sum) / (total - below)) ** 2;
    if (between > best) { best = between; place = i; }
  }
  return edge(place + 1);
}

// Clears the small parts of a mask, joined at sides and corners; returns the boxes of the other parts.
function withoutSpecks(mask, width, height) {
  const part = new Int32Array(mask.length), areas = [0], boxes = [null], stack = [];
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || part[start]) continue;
    areas.push(0);
    boxes.push({ top: height, bottom: 0, left: width, right: 0 });
    part[start] = areas.length - 1;
    stack.push(start);
    while (stack.length) {
      const i = stack.pop(), x = i % width, y = (i - x) / width;
      const box = boxes[boxes.length - 1];
      areas[areas.length - 1]++;
      box.top = Math.min(box.top, y); box.bottom = Math.max(box.bottom, y + 1);
      box.left = Math.min(box.left, x); box.right = Math.max(box.right, x + 1);
      for (let Y = Math.max(0, y - 1); Y <= Math.min(height - 1, y + 1); Y++)
        for (let X = Math.max(0, x - 1); X <= Math.min(width - 1, x + 1); X++) {
          const j = Y * width + X;
          if (mask[j] && !part[j]) { part[j] = areas.length - 1; stack.push(j); }
        }
    }
  }
  const least = 0.05 * Math.max(...areas);
  for (let i = 0; i < mask.length; i++) if (mask[i] && areas[part[i]] < least) mask[i] = 0;
  return boxes.filter((box, i) => box && areas[i] >= least);
}

// The number of separate digits, from the boxes of their parts, as `_apart` in analysis/find_digit.py.
function apart(boxes) {
  const tallest = Math.max(...boxes.map((box) => box.bottom - box.top)), group = boxes.map((_, i) => i);
  const height = (box) => box.bottom - box.top, tall = (box) => height(box) > 0.5 * tallest;
  boxes.forEach((a, i) => boxes.forEach((b, j) => {
    const beside = Math.max(a.left, b.left) - Math.min(a.right, b.right), below = Math.max(a.top, b.top) - Math.min(a.bottom, b.bottom);
    const small = height(a) < height(b) ? a : b, overlap = tall(a) && tall(b) ? 0 : 0.5 * (small.right - small.left);
    if (beside >= -overlap || below >= GAP * tallest || group[i] === group[j]) return;
    const [from, to] = [group[j], group[i]];
    group.forEach((one, k) => { if (one === from) group[k] = to; });
  }));
  return new Set(group.filter((_, i) => tall(boxes[i]))).size;
}

// Four times the mean distance of a shape's pixels to the nearest pixel outside.
function strokeWidth(shape, w, h) {
  const W = w + 2, far = new Int32Array(W * (h + 2)); // distance to the nearest pixel outside in the same column
  for (let y = 1; y <= h; y++)
    for (let x = 1; x <= w; x++) if (shape[(y - 1) * w + x - 1]) far[y * W + x] = far[(y - 1) * W + x] + 1;
  for (let y = h; y > 0; y--)
    for (let x = 1; x <= w; x++) far[y * W + x] = Math.min(far[y * W + x], far[(y + 1) * W + x] + 1);
  let sum = 0, count = 0;
  far.forEach((reach, i) => {
    if (!reach) return;
    let square = reach ** 2;
    for (let dx = 1; dx < reach; dx++) square = Math.min(square, dx ** 2 + Math.min(far[i - dx], far[i + dx]) ** 2);
    sum += Math.sqrt(square);
    count++;
  });
  return (4 * sum) / count;
}

// The largest value within size×size around each pixel, with a margin of `size` on each side.
function dilated(ink, w, h, size) {
  const W = w + 2 * size, H = h + 2 * size, reach = (size - 1) / 2;
  const wide = new Float32Array(W * H), out = new Float32Array(W * H);
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++)
      for (let X = x + size - reach; X <= x + size + reach; X++)
        wide[(y + size) * W + X] = Math.max(wide[(y + size) * W + X], ink[y * w + x]);
  for (let y = 0; y < H; y++)
    for (let Y = Math.max(0, y - reach); Y <= Math.min(H - 1, y + reach); Y++)
      for (let x = 0; x < W; x++) out[y * W + x] = Math.max(out[y * W + x], wide[Y * W + x]);
  return out;
}

// Resizes 8-bit pixels along one axis as Pillow does: filters in fixed point with 22 bits, rounded after each axis.
function resized(pixels, length, other, target, read, write) {
  const scale = length / target, bicubic = scale < 1;
  const stretch = Math.max(scale, 1), support = (bicubic ? 2 : 0.5) * stretch;
  const filter = (x) => {
    if (!bicubic) return x > -0.5 && x <= 0.5 ? 1 : 0;
    const a = -0.5;
    x = Math.abs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
  };
  const out = new Uint8Array(target * other);
  for (let i = 0; i < target; i++) {
    const middle = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(middle - support + 0.5)), last = Math.min(length, Math.trunc(middle + support + 0.5));
    const weights = [];
    for (let j = first; j < last; j++) weights.push(filter((j - middle + 0.5) / stretch));
    const sum = weights.reduce((a, b) => a + b, 0);
    const fixed = weights.map((weight) => Math.trunc((weight / sum) * (1 << 22) + (weight < 0 ? -0.5 : 0.5)));
    for (let k = 0; k < other; k++) {
      let value = 1 << 21;
      fixed.forEach((weight, j) => { value += weight * pixels[read(first + j, k)]; });
      out[write(i, k)] = Math.min(255, Math.max(0, Math.floor(value / (1 << 22))));
    }
  }
  return out;
}

// Ink in [0, 1] → a digit in MNIST's box, with the center of mass in the middle.
function centered(ink, w, h) {
  const scale = BOX / Math.max(w, h);
  const W = Math.max(1, roundHalfEven(scale * w)), H = Math.max(1, roundHalfEven(scale * h));
  let small = Uint8Array.from(ink, (value) => Math.trunc(Math.fround(255 * value)));
  if (W !== w) small = resized(small, w, h, W, (i, k) => k * w + i, (i, k) => k * W + i);
  if (H !== h) small = resized(small, h, W, H, (i, k) => i * W + k, (i, k) => i * W + k);
  let mass = 0, down = 0, across = 0;
  for (let y = 0; y < H; y++)
    for (let x = 0; x < W; x++) {
      const value = small[y * W + x];
      mass += value; down += value * y; across += value * x;
    }
  const place = (center, size) => Math.min(SIDE - size, Math.max(0, roundHalfEven(SIDE / 2 - center)));
  const top = place(down / mass, H), left = place(across / mass, W);
  const there = small.filter((value) => value > 0).sort();
  const factor = Math.fround(255 / Math.max(quantile(there, 0.9), 1));
  const digit = new Uint8Array(SIDE * SIDE);
  for (let y = 0; y < H; y++)
    for (let x = 0; x < W; x++)
      digit[(top + y) * SIDE + left + x] = Math.min(255, Math.trunc(Math.fround(small[y * W + x] * factor)));
  return digit;
}

// ---------------------------------------------------------------- the network

const LAYERS = [[28, 1, 32], [28, 32, 32], [14, 32, 64], [14, 64, 64], [7, 64, 128], [7, 128, 128]]; // side, in, out
let wasm, work, networks;

// Half-precision numbers → float32.
function halves(bytes) {
  const bits = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  return Float32Array.from(bits, (h) => {
    const sign = h & 0x8000 ? -1 : 1, exponent = (h >> 10) & 31, fraction = h & 1023;
    return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -14 * (fraction / 1024);
  });
}

const put = (values) => {
  const at = wasm.reserve(values.length);
  new Float32Array(wasm.memory.buffer, at, values.length).set(values);
  return at;
};

async function load({ code, networks: given }) {
  wasm = (await WebAssembly.instantiate(code)).instance.exports;
  const largest = 32 * 28 * 32;
  work = { a: wasm.reserve(largest), b: wasm.reserve(largest), padded: wasm.reserve(36 * 36 * 32) };
  networks = given.map((network) => {
    let from = 0;
    const weights = halves(network.weights);
    const layers = LAYERS.map(([side, inputs, outputs], i) => {
      const count = 25 * inputs * outputs;
      const layer = { side, inputs, outputs, kernels: put(weights.subarray(from, from + count)), bias: put(network.biases[i]), slope: network.slopes[i] };
      from += count;
      return layer;
    });
    return { ...network, layers };
  });
}

// A digit (28, 28) → its two features.
function features(network, digit) {
  let { a, b } = work;
  const image = new Float32Array(wasm.memory.buffer, a, 28 * 28);
  for (let i = 0; i < image.length; i++) image[i] = (digit[i] - network.mean) / network.std;
  network.layers.forEach((layer, i) => {
    wasm.convolve(a, work.padded, layer.kernels, layer.bias, b, layer.side, layer.inputs, layer.outputs, layer.slope);
    [a, b] = [b, a];
    if (i % 2) {
      wasm.pool(a, b, layer.side, layer.outputs, i === 5 && network.overlapping ? 3 : 2);
      [a, b] = [b, a];
    }
  });
  const maps = new Float32Array(wasm.memory.buffer, a, 3 * 4 * 128);
  return network.feature.map(({ weight, bias }) => { // weight: (3, 3, 128)
    let sum = bias;
    for (let y = 0; y < 3; y++)
      for (let x = 0; x < 3; x++)
        for (let c = 0; c < 128; c++) sum += weight[(y * 3 + x) * 128 + c] * maps[(y * 4 + x) * 128 + c];
    return sum < 0 && network.featureSlope !== null ? network.featureSlope * sum : sum;
  });
}

self.onmessage = async ({ data }) => {
  if (data.code) {
    try { await load(data); } catch { self.postMessage({ failed: true }); return; }
    self.postMessage({ ready: true });
    return;
  }
  const seen = data.digit ? { digit: data.digit, several: 1 } : see(data.gray, data.width, data.height);
  const found = seen && networks.map((network) => features(network, seen.digit));
  self.postMessage({ ticket: data.ticket, digit: null, ...seen, found });
};
