// Numbers, tables and maps of the figures. Without JavaScript the page is complete: each figure shows one moment.

const lesson = JSON.parse(document.getElementById("lesson").textContent);
const Floats = lesson.wide ? Float64Array : Float32Array;
const round = lesson.wide ? (x) => x : Math.fround; // As the kernels round after every operation.
const POSITIVE = [217, 95, 2];
const NEGATIVE = [40, 110, 210];
const element = (id) => document.getElementById(id);

function unpack({ shape, data }) {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  return { shape, values: new Floats(bytes.buffer) };
}

// As in numbers.py: so many significant digits, or digits after the point.
function short(value, { digits = 3, places } = {}) {
  if (value === 0) return "0";
  const [mantissa, power] = value.toExponential(digits - 1).split("e");
  const exponent = Number(power);
  let text;
  if (places !== undefined) text = value.toFixed(places);
  else if (exponent >= -3 && exponent <= 4) text = value.toFixed(Math.max(0, digits - 1 - exponent));
  else text = `${mantissa}e${exponent}`;
  return text.replaceAll("-", "−");
}

function placesOfSum(...values) {
  const exponents = values.filter((value) => value).map((value) => Number(value.toExponential(2).split("e")[1]));
  return exponents.length ? Math.max(0, Math.min(2 - Math.min(...exponents), 6 - Math.max(...exponents))) : 0;
}

function bitsOf(value, wide = lesson.wide) {
  const view = new DataView(new ArrayBuffer(wide ? 8 : 4));
  if (wide) view.setFloat64(0, value);
  else view.setFloat32(0, value);
  return [...new Uint8Array(view.buffer)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function put(target, of, value, wide = lesson.wide, format = {}) {
  target.textContent = short(value, format);
  target.dataset.of = of;
  target.dataset.bits = bitsOf(value, wide);
}

function putTable(id, of, values, columns, largest) {
  values.forEach((value, i) => {
    const key = `${id}-${Math.floor(i / columns)}-${i % columns}`;
    put(element(key), `${of}[${Math.floor(i / columns)},${i % columns}]`, value);
    const box = element(`${key}-box`);
    box.classList.toggle("pos", value >= 0);
    box.classList.toggle("neg", value < 0);
    box.setAttribute("fill-opacity", (0.62 * Math.min(1, Math.abs(value) / largest)).toFixed(3));
  });
}

function drawMap(id, values, rows, columns, largest) {
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  values.forEach((value, i) => {
    pixels.data.set(value < 0 ? NEGATIVE : POSITIVE, 4 * i);
    pixels.data[4 * i + 3] = Math.round(255 * Math.min(1, Math.abs(value) / largest) ** 0.8);
  });
  context.putImageData(pixels, 0, 0);
  element(id).setAttribute("href", canvas.toDataURL());
}

// The first number in the words under a map says which of them it is.
function renumber(id, map) {
  const panel = element(id).closest(".panel");
  const note = panel.querySelector(".panel-note");
  note.textContent = note.textContent.replace(/\d+/, map);
  const drawing = panel.querySelector("svg[role=img]");
  drawing?.setAttribute("aria-label", `${panel.querySelector(".panel-title").textContent}, ${note.textContent}`);
}

const largestOf = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;

// Move a frame to a place, in pixels of a map that has the same scale in both directions.
function frameMover(id, columnsOfWindow) {
  const frame = element(id);
  const scale = Number(frame.getAttribute("width")) / columnsOfWindow;
  return (left, top) => {
    frame.setAttribute("x", 1 + left * scale);
    frame.setAttribute("y", 1 + top * scale);
  };
}

function pad({ shape: [rows, columns], values }, padding) {
  const wide = columns + 2 * padding;
  const out = new Floats((rows + 2 * padding) * wide);
  for (let r = 0; r < rows; r++) out.set(values.subarray(r * columns, (r + 1) * columns), (r + padding) * wide + padding);
  return { shape: [rows + 2 * padding, wide], values: out };
}

function windowOf({ shape: [, columns], values }, top, left, k) {
  const out = new Floats(k * k);
  for (let i = 0; i < k; i++) for (let j = 0; j < k; j++) out[i * k + j] = values[(top + i) * columns + left + j];
  return out;
}
