// From ink to a digit as MNIST has them: the same whole numbers as parallel_lenet/pictures/digit.py.

const FIELD = 28, BOX = 20;

// The quotient of whole numbers, rounded half up.
const rounded = (numerator, denominator) => Math.floor((2 * numerator + denominator) / (2 * denominator));

// The digit, Uint8Array of rows x columns, drawn with ink, 0 to 255, of height x width; null if there is no ink, or next to none.
function digit(ink, height, width, rows = FIELD, columns = FIELD) {
  const box = inked(ink, height, width);
  if (!box) return null;
  const side = Math.max(1, rounded(BOX * Math.min(rows, columns), FIELD));
  const scaled = stretched(shrunk(ink, width, box, side));
  if (!scaled) return null;
  const top = start(scaled.values, scaled.height, scaled.width, scaled.width, 1, rows);
  const left = start(scaled.values, scaled.width, scaled.height, 1, scaled.width, columns);
  const result = new Uint8Array(rows * columns);
  for (let y = 0; y < scaled.height; y++)
    for (let x = 0; x < scaled.width; x++)
      result[(top + y) * columns + left + x] = scaled.values[y * scaled.width + x];
  return result;
}

// The box around all ink; null if there is none.
function inked(ink, height, width) {
  let top = height, bottom = -1, left = width, right = -1;
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      if (ink[y * width + x]) {
        top = Math.min(top, y);
        bottom = y;
        left = Math.min(left, x);
        right = Math.max(right, x);
      }
  return bottom < 0 ? null : {top, left, height: bottom - top + 1, width: right - left + 1};
}

// The ink of the box with its longer side `side`: each pixel is the mean of the area that it covers.
function shrunk(ink, stride, box, side) {
  const longer = Math.max(box.height, box.width);
  const height = Math.max(1, rounded(box.height * side, longer));
  const width = Math.max(1, rounded(box.width * side, longer));
  const across = new Float64Array(box.height * width);
  for (let y = 0; y < box.height; y++)
    for (let x = 0; x < width; x++)
      covered(box.width, width, x, (old, overlap) => {
        across[y * width + x] += overlap * ink[(box.top + y) * stride + box.left + old];
      });
  const values = new Float64Array(height * width);
  for (let y = 0; y < height; y++)
    covered(box.height, height, y, (old, overlap) => {
      for (let x = 0; x < width; x++) values[y * width + x] += overlap * across[old * width + x];
    });
  return {height, width, values: values.map(sum => rounded(sum, box.height * box.width))};
}

// Calls `each` with the old pixels that a new one covers, and how much of them; the unit is a new-th of an old pixel.
function covered(old, size, index, each) {
  const first = index * old, last = first + old;
  for (let i = Math.floor(first / size); i * size < last; i++)
    each(i, Math.min(last, (i + 1) * size) - Math.max(first, i * size));
}

// The same with its darkest pixel 255; 0 if all are 0.
function stretched({height, width, values}) {
  const darkest = Math.max(...values);
  return darkest && {height, width, values: values.map(value => rounded(255 * value, darkest))};
}

// Where on an axis of `field` pixels the box begins: its centre of mass in the middle, all of it on the field.
// The middle is pixel 14 of 0 to 27, as in MNIST.
function start(values, length, others, step, otherStep, field) {
  let mass = 0, moment = 0;
  for (let i = 0; i < length; i++) {
    let sum = 0;
    for (let j = 0; j < others; j++) sum += values[i * step + j * otherStep];
    mass += sum;
    moment += sum * i;
  }
  return Math.min(Math.max(rounded(Math.floor(field / 2) * mass - moment, mass), 0), field - length);
}
