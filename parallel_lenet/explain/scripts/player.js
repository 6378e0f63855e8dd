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
        put(number, part.of, part.value, part.wide ?? lesson.wide, part);
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

const number = (of, value, wide, format) => ({ of, value, wide, ...format });
