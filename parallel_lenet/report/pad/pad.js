// The pad: strokes in, the network's answer out.

const PEN = 44, STEP = 8, FAR = 40;  // Of the 560 pixels of the pad's side: the pen's width, and how far a key moves it.
const MOST_BARS = 10, PAUSE = 400;  // Milliseconds without a change after which the answer is read out.

class Pad {
  constructor(root) {
    const data = JSON.parse(root.querySelector("script").textContent);
    const bytes = Uint8Array.from(atob(data.parameters), character => character.charCodeAt(0));
    this.network = new Network(data.description, new Float32Array(bytes.buffer));
    Object.assign(this, {root, strokes: [], stroke: null});
    ({black: this.black, white: this.white, classes: this.classes, names: this.names} = data);
    [this.rows, this.columns] = data.description.images.image_size;
    this.canvas = root.querySelector(".pad-canvas");
    this.seen = root.querySelector(".pad-seen canvas");
    this.pen = root.querySelector(".pad-pen");
    this.status = root.querySelector(".pad-status");
    this.context = this.canvas.getContext("2d", {willReadFrequently: true});
    this.position = {x: this.canvas.width / 2, y: this.canvas.height / 4};
    this.showAnswer(null);
    this.listen();
  }

  listen() {
    this.root.querySelector(".pad-undo").addEventListener("click", () => this.undo());
    this.root.querySelector(".pad-clear").addEventListener("click", () => this.clear());
    this.canvas.addEventListener("pointerdown", event => this.press(event));
    this.canvas.addEventListener("pointermove", event => this.move(event));
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"])
      this.canvas.addEventListener(end, event => { if (event.pointerId === this.pointer) this.lift(); });
    this.canvas.addEventListener("keydown", event => this.key(event));
    this.canvas.addEventListener("blur", () => { this.lift(); this.pen.hidden = true; });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  press(event) {
    if (!event.isPrimary || event.button !== 0) return;
    this.lift();
    this.pointer = event.pointerId;
    this.canvas.setPointerCapture(event.pointerId);
    this.pen.hidden = true;
    this.lower(this.place(event));
  }

  move(event) {
    if (event.pointerId !== this.pointer || !this.stroke) return;
    for (const each of event.getCoalescedEvents?.() ?? []) this.stroke.push(this.place(each));
    this.stroke.push(this.place(event));
    this.changed();
  }

  // Where on the pad an event happened.
  place(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    return {x: x * this.canvas.width, y: y * this.canvas.height};
  }

  lower(point) {
    this.stroke = [point];
    this.strokes.push(this.stroke);
    this.changed();
  }

  lift() {
    if (this.stroke) this.position = {...this.stroke.at(-1)};
    this.stroke = null;
    this.pointer = null;
    this.showPen();
  }

  key(event) {
    const far = event.shiftKey ? FAR : STEP;
    const moves = {ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far]};
    if (event.altKey || event.metaKey || (event.ctrlKey && event.key !== "z")) return;
    if (moves[event.key]) this.step(...moves[event.key]);
    else if (event.key === " ") this.stroke ? this.lift() : this.lower({...this.position});
    else if (event.key === "Backspace" || event.key === "z" && event.ctrlKey) this.undo();
    else if (event.key === "Delete") this.clear();
    else return;
    event.preventDefault();
    this.pen.hidden = false;
    this.showPen();
  }

  step(x, y) {
    const within = value => Math.min(Math.max(value, 0), this.canvas.width);
    this.position = {x: within(this.position.x + x), y: within(this.position.y + y)};
    if (!this.stroke) return;
    this.stroke.push({...this.position});
    this.changed();
  }

  showPen() {
    this.pen.style.left = `${100 * this.position.x / this.canvas.width}%`;
    this.pen.style.top = `${100 * this.position.y / this.canvas.height}%`;
    this.pen.classList.toggle("down", this.stroke !== null);
  }

  undo() {
    this.lift();
    this.strokes.pop();
    this.changed();
  }

  clear() {
    this.lift();
    this.strokes = [];
    this.changed();
  }

  // Draw and answer before the next frame, once for all events until then.
  changed() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
      this.answer();
    });
  }

  draw() {
    const {width, height} = this.canvas;
    this.context.clearRect(0, 0, width, height);
    Object.assign(this.context, {lineWidth: PEN, lineCap: "round", lineJoin: "round"});
    this.context.strokeStyle = getComputedStyle(this.root).color;
    for (const [first, ...others] of this.strokes) {
      this.context.beginPath();
      this.context.moveTo(first.x, first.y);
      this.context.lineTo(first.x + 0.01, first.y);  // So that a click alone leaves a dot.
      for (const point of others) this.context.lineTo(point.x, point.y);
      this.context.stroke();
    }
    this.root.querySelector(".pad-hint").hidden = this.strokes.length > 0;
  }

  answer() {
    const {width, height} = this.canvas;
    const ink = this.context.getImageData(0, 0, width, height).data.filter((_, i) => i % 4 === 3);  // The opacity.
    const seen = digit(ink, height, width, this.rows, this.columns);
    this.show(seen);
    if (!seen) return this.showAnswer(null);
    const {channels} = this.network.images, pixels = new Float64Array(channels * seen.length);
    for (let c = 0; c < channels; c++)
      seen.forEach((value, i) => { pixels[c * seen.length + i] = this.black + value / 255 * (this.white - this.black); });
    this.showAnswer(softmax(this.network.scores(pixels)));
  }

  // What the network sees, white on black.
  show(seen) {
    const context = this.seen.getContext("2d"), image = context.createImageData(this.columns, this.rows);
    for (let i = 0; i < this.rows * this.columns; i++) image.data.fill(seen ? seen[i] : 0, 4 * i, 4 * i + 3);
    for (let i = 3; i < image.data.length; i += 4) image.data[i] = 255;
    context.putImageData(image, 0, 0);
  }

  showAnswer(probabilities) {
    const all = Array.from({length: this.classes}, (_, label) => ({label, value: probabilities ? probabilities[label] : 0}));
    const best = all.reduce((most, each) => each.value > most.value ? each : most);
    const ranked = [...all].sort((one, other) => other.value - one.value);
    const percent = value => `${(100 * value).toFixed(1)} %`;
    const bars = (this.classes > MOST_BARS ? ranked.slice(0, MOST_BARS) : all).map(({label, value}) => {
      const row = document.createElement("li");
      row.innerHTML = '<span></span><span class="pad-bar"><span></span></span><span></span>';
      row.firstChild.textContent = this.names ? this.names[label] : label;
      if (this.names) Object.assign(row.firstChild, {title: this.names[label], dir: "auto"});
      row.querySelector(".pad-bar > span").style.width = `${100 * value}%`;
      row.lastChild.textContent = probabilities ? percent(value) : "";
      row.classList.toggle("best", probabilities !== null && label === best.label);
      return row;
    });
    this.root.querySelector(".pad-bars").replaceChildren(...bars);
    const text = probabilities
      ? `${this.names ? `Class \u2068${this.names[best.label]}\u2069` : `It is a ${best.label}`} (${percent(best.value)}).`
      : "Nothing is drawn yet.";
    clearTimeout(this.timer);  // Read out when the hand rests, not at every movement.
    this.timer = setTimeout(() => {
      this.status.textContent = text;
      this.seen.setAttribute("aria-label", `What the network sees: ${probabilities ? "the drawing" : "nothing yet"}`);
    }, probabilities ? PAUSE : 0);
  }
}

for (const root of document.querySelectorAll(".pad")) new Pad(root);
