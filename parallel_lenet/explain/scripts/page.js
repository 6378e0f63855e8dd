// A number's name, value and bits beside the pointer.
function tooltips() {
  const box = document.createElement("div");
  box.className = "tooltip";
  box.hidden = true;
  document.body.append(box);
  const show = (event) => {
    const target = event.target.closest("[data-bits]");
    box.hidden = !target;
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
  };
  // A finger taps a number, or scrolls: then pointercancel follows instead of pointerup.
  document.addEventListener("pointerover", (event) => event.pointerType !== "touch" && show(event));
  document.addEventListener("pointerup", (event) => event.pointerType === "touch" && show(event));
  document.addEventListener("pointercancel", () => (box.hidden = true));
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
