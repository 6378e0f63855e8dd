// Plays the figures of the lesson. Without it the page is complete: each figure shows one moment, with its numbers.

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

function short(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  let text;
  if (size >= 99999.5 || size < 0.00095) text = value.toExponential(1).replace("e+", "e");
  else text = value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : size >= 0.0995 ? 2 : 4);
  return text.replaceAll("-", "−");
}

function bitsOf(value, wide = lesson.wide) {
  const view = new DataView(new ArrayBuffer(wide ? 8 : 4));
  if (wide) view.setFloat64(0, value);
  else view.setFloat32(0, value);
  return [...new Uint8Array(view.buffer)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function put(target, of, value, wide = lesson.wide) {
  target.textContent = short(value);
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

// Buttons, a slider and a line of text under a figure. `show(i, moved)` draws step i and returns the text, as a string
// or as a list of strings and of numbers [name, value]. `stride(i)` is how many steps playing takes at a time.
class Player {
  constructor(name, { length, start, show, label, delay = () => 400, stride = () => 1 }) {
    this.place = element(`play-${name}`);
    Object.assign(this, { length, show, delay, stride, at: start, timer: 0 });
    const bar = document.createElement("div");
    bar.className = "player";
    const button = (text, title, act) => {
      const made = document.createElement("button");
      made.type = "button";
      made.textContent = text;
      made.setAttribute("aria-label", title);
      made.title = title;
      made.addEventListener("click", act);
      bar.append(made);
      return made;
    };
    button("|◀", "first step", () => this.stop().go(0));
    button("◀", "step back", () => this.stop().go(this.at - 1));
    this.toggle = button("▶ Play", "play", () => (this.timer ? this.stop() : this.play()));
    button("▶", "step forward", () => this.stop().go(this.at + 1));
    button("▶|", "last step", () => this.stop().go(this.length - 1));
    this.slider = document.createElement("input");
    Object.assign(this.slider, { type: "range", min: 0, max: length - 1, value: start });
    this.slider.setAttribute("aria-label", label);
    this.slider.addEventListener("input", () => this.stop().go(Number(this.slider.value)));
    bar.append(this.slider);
    this.bar = bar;
    this.text = document.createElement("p");
    this.text.className = "said";
    this.text.setAttribute("role", "status");
    this.place.replaceChildren(bar, this.text);
    for (const words of this.place.parentElement.querySelectorAll(".static")) words.hidden = true;
    this.draw(false);
  }

  go(step) {
    this.at = Math.max(0, Math.min(this.length - 1, step));
    this.slider.value = this.at;
    this.draw(true);
    return this;
  }

  draw(moved) {
    const said = this.show(this.at, moved);
    this.text.replaceChildren(
      ...[said].flat().map((part) => {
        if (typeof part === "string" || typeof part === "number") return String(part);
        const number = document.createElement("data");
        put(number, part.of, part.value, part.wide ?? lesson.wide);
        return number;
      }),
    );
    this.slider.setAttribute("aria-valuetext", this.text.textContent);
  }

  play() {
    if (this.at >= this.length - 1) this.at = -1;
    this.toggle.textContent = "❚❚ Pause";
    this.text.setAttribute("role", "none"); // A screen reader need not read every frame.
    const next = () => {
      this.go(this.at + this.stride(this.at));
      if (this.at >= this.length - 1) this.stop();
      else this.timer = setTimeout(next, this.delay(this.at));
    };
    this.timer = setTimeout(next, 0);
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.toggle.textContent = "▶ Play";
    this.text.setAttribute("role", "status");
    return this;
  }
}

const number = (of, value, wide) => ({ of, value, wide });

function convolution({ stride, padding, at, ...packed }) {
  const [x, w, b, y] = ["x", "w", "b", "y"].map((name) => unpack(packed[name]));
  const [channels, height, width] = x.shape;
  const [filters, rows, columns] = y.shape;
  const k = w.shape[3];
  const inputs = Array.from({ length: channels }, (_, c) =>
    pad({ shape: [height, width], values: x.values.subarray(c * height * width, (c + 1) * height * width) }, padding),
  );
  const most = largestOf(x.values);
  const moveWindow = frameMover("conv-window", k);
  const moveMark = frameMover("conv-mark", 1);
  let [f] = at;
  let product = -1; // Which of the products is being added; -1: all are.
  let shownChannel = -1;
  let summing = 0;

  const show = (i, moved) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const per = k * k;
    const weights = w.values.subarray(f * channels * per, (f + 1) * channels * per);
    const count = product < 0 ? channels * per : product + 1;
    const channel = product < 0 ? 0 : Math.floor(product / per);
    if (channel !== shownChannel) {
      drawMap("conv-input", inputs[channel].values, ...inputs[channel].shape, largestOf(inputs[channel].values));
      shownChannel = channel;
    }
    let sum = 0;
    let last = 0;
    for (let n = 0; n < count; n++) {
      const c = Math.floor(n / per);
      const [top, left] = [row * stride + Math.floor((n % per) / k), column * stride + (n % k)];
      last = round(inputs[c].values[top * inputs[c].shape[1] + left] * weights[n]);
      sum = round(sum + last);
    }
    const seen = windowOf(inputs[channel], row * stride, column * stride, k);
    const slice = weights.subarray(channel * per, (channel + 1) * per);
    const products = seen.map((value, n) => round(value * slice[n]));
    const where = `(${f},${row},${column},${channel})`;
    putTable("conv-x", `window${where}`, seen, k, most);
    putTable("conv-w", `filter${where}`, slice, k, largestOf(slice));
    putTable("conv-p", `products${where}`, products, k, largestOf(products));
    for (const table of ["conv-x", "conv-w", "conv-p"])
      for (let n = 0; n < per; n++) {
        const box = element(`${table}-${Math.floor(n / k)}-${n % k}-box`);
        box.classList.toggle("current", product >= 0 && n === product % per);
        box.classList.toggle("done", product >= 0 && n < product % per);
      }
    moveWindow(column * stride, row * stride);
    moveMark(column, row);
    const map = y.values.subarray(f * rows * columns, (f + 1) * rows * columns);
    drawMap("conv-output", map.map((value, n) => (moved && n > i ? 0 : value)), rows, columns, largestOf(map));
    const answer = number(`output(${f},${row},${column})`, map[i]);
    if (product >= 0 && count < channels * per)
      return [`Product ${count} of ${channels * per}: `, number(`product${where}[${product}]`, last), ", sum so far ",
        number(`running${where}[${product}]`, sum), "."]; // prettier-ignore
    return [`Row ${row}, column ${column}: the sum of all products is `,
      number(`running${where}[${count - 1}]`, sum), ", plus the bias ", number(`bias(${f})`, b.values[f]), " is ", answer,
      "."]; // prettier-ignore
  };

  const player = new Player("convolution", {
    length: rows * columns,
    start: at[1] * columns + at[2],
    label: "position of the window",
    delay: () => 90,
    show,
  });
  const go = player.go.bind(player);
  player.go = (i) => {
    clearInterval(summing);
    product = -1;
    return go(i);
  };
  const add = document.createElement("button");
  add.type = "button";
  add.textContent = "Add number by number";
  add.addEventListener("click", () => {
    player.stop();
    clearInterval(summing);
    product = -1;
    summing = setInterval(() => {
      product += 1;
      if (product >= channels * k * k) {
        clearInterval(summing);
        product = -1;
      }
      player.draw(true);
    }, 350);
  });
  const next = document.createElement("button");
  next.type = "button";
  next.textContent = "Next product";
  next.addEventListener("click", () => {
    player.stop();
    clearInterval(summing);
    product = product + 1 >= channels * k * k ? -1 : product + 1;
    player.draw(true);
  });
  const choice = document.createElement("label");
  choice.append("filter ");
  const select = document.createElement("select");
  for (let n = 0; n < filters; n++) select.append(new Option(String(n), String(n), n === f, n === f));
  select.addEventListener("change", () => {
    f = Number(select.value);
    product = -1;
    player.draw(false);
  });
  choice.append(select);
  player.bar.append(next, add, choice);

  const svg = element("conv-window").closest("svg");
  svg.tabIndex = 0;
  svg.setAttribute("role", "application");
  svg.setAttribute("aria-label", "Input image. Arrow keys move the window.");
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const column = (player.at % columns) + (Math.abs(step) === 1 ? step : 0);
    if (column >= 0 && column < columns && player.at + step >= 0 && player.at + step < rows * columns)
      player.stop().go(player.at + step);
  });
  svg.addEventListener("pointerdown", (event) => {
    const box = element("conv-input").getBoundingClientRect();
    const [ph, pw] = inputs[0].shape;
    const place = (part, of, most) => Math.max(0, Math.min(most - 1, Math.round((part * of - k / 2) / stride)));
    const row = place((event.clientY - box.top) / box.height, ph, rows);
    player.stop().go(row * columns + place((event.clientX - box.left) / box.width, pw, columns));
  });
}

function scatter({ stride, padding, at, ...packed }) {
  const [dy, w, dx] = ["dy", "w", "dx"].map((name) => unpack(packed[name]));
  const [filters, rows, columns] = dy.shape;
  const k = w.shape[2];
  const [height, width] = dx.shape.map((size) => size + 2 * padding);
  const most = largestOf(dx.values);
  const mostError = largestOf(dy.values);
  const moveMark = frameMover("scatter-mark", 1);
  const moveWindow = frameMover("scatter-window", k);
  const per = rows * columns;
  const starts = [new Floats(height * width)]; // The sum before each filter.
  let shownFilter = at[0];

  const add = (sum, i) => {
    const [f, row, column] = [Math.floor(i / per), Math.floor((i % per) / columns), i % columns];
    for (let r = 0; r < k; r++)
      for (let c = 0; c < k; c++) {
        const place = (row * stride + r) * width + column * stride + c;
        sum[place] = round(sum[place] + round(dy.values[i] * w.values[(f * k + r) * k + c]));
      }
  };
  const sumTo = (i) => {
    const f = Math.floor(i / per);
    while (starts.length <= f) {
      const sum = starts.at(-1).slice();
      for (let n = (starts.length - 1) * per; n < starts.length * per; n++) add(sum, n);
      starts.push(sum);
    }
    const sum = starts[f].slice();
    for (let n = f * per; n <= i; n++) add(sum, n);
    return sum;
  };
  const show = (i, moved) => {
    const [f, row, column] = [Math.floor(i / per), Math.floor((i % per) / columns), i % columns];
    const sum = sumTo(moved ? i : filters * per - 1);
    const filter = w.values.subarray(f * k * k, (f + 1) * k * k);
    const where = `(${f},${row},${column})`;
    if (f !== shownFilter) {
      drawMap("scatter-dy", dy.values.subarray(f * per, (f + 1) * per), rows, columns, mostError);
      shownFilter = f;
    }
    const weighted = filter.map((value) => round(dy.values[i] * value));
    put(element("scatter-error"), `error${where}`, dy.values[i]);
    putTable("scatter-w", `slice(${f})`, filter, k, largestOf(filter));
    putTable("scatter-p", `scattered${where}`, weighted, k, largestOf(weighted));
    drawMap("scatter-dx", sum, height, width, most);
    moveMark(column, row);
    moveWindow(column * stride, row * stride);
    if (!moved) return "Press play, or move the slider.";
    if (i < filters * per - 1) return `Filter ${f}, output row ${row}, column ${column}: ${i + 1} of ${filters * per}.`;
    let same = 0;
    for (let r = 0; r < dx.shape[0]; r++)
      for (let c = 0; c < dx.shape[1]; c++)
        same += sum[(r + padding) * width + c + padding] === dx.values[r * dx.shape[1] + c];
    return `All ${filters * per} errors are added. ${same} of ${dx.values.length} numbers are those of the network's code, to the last bit.`;
  };
  const start = (at[0] * rows + at[1]) * columns + at[2];
  new Player("scatter", {
    length: filters * per,
    start,
    label: "output whose filter is added",
    show,
    delay: (i) => (i < 8 ? 500 : 50),
    stride: (i) => (i < 12 ? 1 : Math.ceil(i / 60)),
  });
}

function kernelGradient({ stride, padding, at, largest, ...packed }) {
  const [x, dy, dw] = ["x", "dy", "dw"].map((name) => unpack(packed[name]));
  const input = pad(x, padding);
  const [rows, columns] = dy.shape;
  const k = dw.shape[1];
  const mostSeen = largestOf(x.values);
  const moveWindow = frameMover("kernel-window", k);
  const moveMark = frameMover("kernel-mark", 1);
  const weightedAt = (i) => {
    const seen = windowOf(input, Math.floor(i / columns) * stride, (i % columns) * stride, k);
    return [seen, seen.map((value) => round(dy.values[i] * value))];
  };
  const show = (i, moved) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const last = moved ? i : rows * columns - 1;
    const sum = new Floats(k * k);
    for (let n = 0; n <= last; n++) weightedAt(n)[1].forEach((value, place) => (sum[place] = round(sum[place] + value)));
    const [seen, weighted] = weightedAt(i);
    putTable("kernel-p", `seen(${row},${column})`, seen, k, mostSeen);
    putTable("kernel-w", `weighted(${row},${column})`, weighted, k, largestOf(weighted));
    putTable("kernel-sum", `windows(${last})`, sum, k, largestOf(dw.values));
    moveWindow(column * stride, row * stride);
    moveMark(column, row);
    if (!moved) return "Press play, or move the slider.";
    const said = [`Window at row ${row}, column ${column}, weighted by `, number(`factor(${row},${column})`, dy.values[i])];
    if (i < rows * columns - 1) return [...said, `: ${i + 1} of ${rows * columns} windows are added.`];
    const same = sum.reduce((count, value, place) => count + (value === dw.values[place]), 0);
    return [...said, `. All are added: ${same} of ${k * k} numbers are those of the network's code, to the last bit.`];
  };
  new Player("kernel-gradient", {
    length: rows * columns,
    start: at[0] * columns + at[1],
    label: "window that is added",
    show,
    delay: (i) => (i < 8 ? 500 : 90),
  });
}

function difference(table) {
  const [left, right, secant] = ["left", "right", "secant"].map((part) => element(`difference-${part}`));
  const points = secant.getAttribute("points").split(" ").map((point) => point.split(",").map(Number));
  const first = 2; // The step that the page was drawn with.
  const [h0, a0, b0] = [table.steps[first], table.difference64_above[first], table.difference64_below[first]];
  const center = (points[0][0] + points[1][0]) / 2;
  const perUnit = (points[1][0] - center) / h0;
  const perLoss = a0 === b0 ? 0 : (points[1][1] - points[0][1]) / (a0 - b0);
  const yOf = (loss) => points[1][1] + (loss - a0) * perLoss;
  const place = (box, x, y) => {
    box.setAttribute("x", x - 4);
    box.setAttribute("y", y - 4);
  };
  new Player("difference", {
    length: table.steps.length,
    start: first,
    label: "size of the step",
    delay: () => 900,
    show: (i) => {
      const h = table.steps[i];
      const [above, below] = [table.difference64_above[i], table.difference64_below[i]];
      const ends = [[center - h * perUnit, yOf(below)], [center + h * perUnit, yOf(above)]]; // prettier-ignore
      place(left, ...ends[0]);
      place(right, ...ends[1]);
      secant.setAttribute("points", ends.map((end) => end.join(",")).join(" "));
      for (const row of document.querySelectorAll("#difference-table tbody tr"))
        row.classList.toggle("current", Number(row.dataset.row) === i);
      const slope = (name, words) =>
        table[`${name}_slope`][i] === null
          ? [`${words}: the weight does not move`]
          : [`${words}: slope `, number(`${name}.slope[${i}]`, table[`${name}_slope`][i], true)];
      const narrow = lesson.wide ? [] : [...slope("difference", "32 bits"), ", "];
      return [`Step ${h}. `, ...narrow, ...slope("difference64", "64 bits"), ". The gradient is ",
        number("difference64.gradient", table.gradient, true), "."]; // prettier-ignore
    },
  });
}

// Figures that only appear part by part.
function reveal(name, said) {
  const parts = [...document.querySelectorAll(`#figure-${name} [data-step]`)];
  const steps = Math.max(...parts.map((part) => Number(part.dataset.step)));
  new Player(name, {
    length: steps + 1,
    start: steps,
    label: "step",
    delay: () => 700,
    show: (i) => {
      for (const part of parts) part.classList.toggle("later", Number(part.dataset.step) > i);
      return said(i, steps);
    },
  });
}

// A number's name, value and bits beside the pointer.
function tooltips() {
  const box = document.createElement("div");
  box.className = "tooltip";
  box.hidden = true;
  document.body.append(box);
  document.addEventListener("pointerover", (event) => {
    const target = event.target.closest("[data-bits]");
    box.hidden = !target || event.pointerType === "touch";
    if (box.hidden) return;
    const { of, bits } = target.dataset;
    const view = new DataView(new ArrayBuffer(8));
    const isFloat = /^([0-9a-f]{8}|[0-9a-f]{16})$/.test(bits);
    if (isFloat) for (let i = 0; i < bits.length / 2; i++) view.setUint8(i, parseInt(bits.slice(2 * i, 2 * i + 2), 16));
    const value = bits.length === 8 ? view.getFloat32(0) : view.getFloat64(0);
    box.textContent = isFloat ? `${of} = ${value} · bits ${bits}` : of;
    const place = target.getBoundingClientRect();
    box.style.left = `${Math.max(4, Math.min(place.left, document.documentElement.clientWidth - box.offsetWidth - 4))}px`;
    box.style.top = `${place.bottom + 4}px`;
  });
}

const play = { convolution, scatter, "kernel-gradient": kernelGradient, difference };
for (const [name, start] of Object.entries(play)) if (lesson[name] && element(`play-${name}`)) start(lesson[name]);
for (const words of document.querySelectorAll(".scripted")) words.hidden = false;
reveal("tree", (i, steps) =>
  i === 0 ? "The gradients of the images." : i < steps ? `Step ${i} of ${steps}.` : "One division, at the end.");
reveal("death", (i, steps) =>
  i < steps - 1 ? `Blocks given out: ${i}.` : i < steps ? "The worker is gone." : "Another worker computes the block.");
tooltips();

// A link to a function opens it.
function openLinked() {
  const target = location.hash && element(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
addEventListener("hashchange", openLinked);
openLinked();
