// The forward pass of a network of parallel_lenet's layers, one image at a time.
// A map is {channels, height, width, values}; values are Float64Array, row by row, channel by channel.

class Network {
  // `description` is that of Sequential, `parameters` the flat vector.
  constructor(description, parameters) {
    this.images = description.images;
    this.layers = description.layers;
    this.parameters = parameters;
  }

  // The class scores (logits) of an image, whose pixels are in the network's unit: channels x height x width.
  scores(pixels) {
    let place = 0;
    const take = count => this.parameters.subarray(place, place += count);
    let map = prepared(this.images, pixels);
    for (const layer of this.layers) map = LAYERS[layer.class](map, layer, take);
    return map.values;
  }
}

// The image normalised, in the middle of a field of background.
function prepared({image_size: [rows, columns], channels, size, mean, std, pixel_min, pixel_max}, pixels) {
  const height = Math.max(rows, size), width = Math.max(columns, size);
  const top = Math.floor((height - rows) / 2), left = Math.floor((width - columns) / 2);
  const black = pixel_min, range = pixel_max === null ? 1 : pixel_max - pixel_min;
  const values = new Float64Array(channels * height * width);
  for (let c = 0; c < channels; c++) {
    const [middle, deviation] = [mean, std].map(each => Array.isArray(each) ? each[c] : each);
    const normalised = pixel =>
      pixel_max === null ? (pixel - middle) / deviation : ((pixel - black) / range - middle) / deviation;
    values.fill(normalised(black), c * height * width, (c + 1) * height * width);
    for (let y = 0; y < rows; y++)
      for (let x = 0; x < columns; x++)
        values[(c * height + top + y) * width + left + x] = normalised(pixels[(c * rows + y) * columns + x]);
  }
  return {channels, height, width, values};
}

function conv2d(map, {filters, kernel_size: k, stride, padding, flip}, take) {
  const input = padded(map, padding);
  const height = Math.floor((input.height - k) / stride) + 1, width = Math.floor((input.width - k) / stride) + 1;
  const size = map.channels * k * k, taken = take(filters * size), biases = take(filters);
  // A true convolution turns each filter by 180 degrees.
  const weights = flip ? taken.map((_, i) => taken[i - i % (k * k) + k * k - 1 - i % (k * k)]) : taken;
  const values = new Float64Array(filters * height * width);
  for (let f = 0, out = 0; f < filters; f++)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++, out++) {
        let sum = biases[f];
        for (let c = 0, weight = f * size; c < map.channels; c++)
          for (let i = 0; i < k; i++) {
            const row = (c * input.height + y * stride + i) * input.width + x * stride;
            for (let j = 0; j < k; j++, weight++) sum += weights[weight] * input.values[row + j];
          }
        values[out] = sum;
      }
  return {channels: filters, height, width, values};
}

function padded(map, padding) {
  if (!padding) return map;
  const height = map.height + 2 * padding, width = map.width + 2 * padding;
  const values = new Float64Array(map.channels * height * width);
  for (let c = 0; c < map.channels; c++)
    for (let y = 0; y < map.height; y++) {
      const row = (c * map.height + y) * map.width;
      values.set(map.values.subarray(row, row + map.width), (c * height + padding + y) * width + padding);
    }
  return {channels: map.channels, height, width, values};
}

// `combine` makes one number of a window's.
function pool2d({channels, height: rows, width: columns, values: input}, {size, stride}, combine) {
  const height = Math.floor((rows - size) / stride) + 1, width = Math.floor((columns - size) / stride) + 1;
  const values = new Float64Array(channels * height * width), window = new Float64Array(size * size);
  for (let c = 0, out = 0; c < channels; c++)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++, out++) {
        for (let i = 0, n = 0; i < size; i++)
          for (let j = 0; j < size; j++, n++)
            window[n] = input[(c * rows + y * stride + i) * columns + x * stride + j];
        values[out] = combine(window);
      }
  return {channels, height, width, values};
}

function dense({values: input}, {units}, take) {
  const weights = take(units * input.length), biases = take(units);
  const values = new Float64Array(units);
  for (let u = 0; u < units; u++) {
    let sum = biases[u];
    for (let i = 0; i < input.length; i++) sum += weights[u * input.length + i] * input[i];
    values[u] = sum;
  }
  return {channels: units, height: 1, width: 1, values};
}

const mean = window => window.reduce((sum, value) => sum + value, 0) / window.length;
const largest = window => window.reduce((most, value) => Math.max(most, value), -Infinity);
const each = (map, change) => ({...map, values: map.values.map(change)});

const LAYERS = {
  Conv2d: conv2d,
  AvgPool2d: (map, layer) => pool2d(map, layer, mean),
  MaxPool2d: (map, layer) => pool2d(map, layer, largest),
  Tanh: (map, {amplitude}) => each(map, value => amplitude * Math.tanh(value)),
  ReLU: map => each(map, value => Math.max(value, 0)),
  Flatten: map => map,
  Dense: dense,
};

// The probabilities of the classes.
function softmax(scores) {
  const most = largest(scores), exponentials = scores.map(score => Math.exp(score - most));
  const sum = exponentials.reduce((total, value) => total + value, 0);
  return exponentials.map(value => value / sum);
}
