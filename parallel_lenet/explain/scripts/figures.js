// What each figure shows at each step.

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
    if (product >= 0 && count < channels * per)
      return [`Product ${count} of ${channels * per}: `, number(`product${where}[${product}]`, last), ", sum so far ",
        number(`running${where}[${product}]`, sum), "."]; // prettier-ignore
    const format = { places: placesOfSum(sum, b.values[f], map[i]) };
    const shown = (of, value) => number(of, value, lesson.wide, format);
    return [`Row ${row}, column ${column}: the sum of all products is `,
      shown(`running${where}[${count - 1}]`, sum), ", plus the bias ", shown(`bias(${f})`, b.values[f]), " is ",
      shown(`output(${f},${row},${column})`, map[i]), "."]; // prettier-ignore
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
    renumber("conv-output", f);
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
      renumber("scatter-dy", f);
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
          : [`${words}: slope `, number(`${name}.slope[${i}]`, table[`${name}_slope`][i], true, { digits: 6 })];
      const narrow = lesson.wide ? [] : [...slope("difference", "32 bits"), ", "];
      return [`Step ${h}. `, ...narrow, ...slope("difference64", "64 bits"), ". The gradient is ",
        number("difference64.gradient", table.gradient, true, { digits: 6 }), "."]; // prettier-ignore
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
