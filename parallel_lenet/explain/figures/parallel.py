"""The figures of the chapter on parallel training."""

from dataclasses import replace

from parallel_lenet.explain.drawing import Figure, Line, Map, Panel, Rect, Shape, Text
from parallel_lenet.explain.lesson import Array, Lesson
from parallel_lenet.explain.parallel import blocks, larger_shard, lost_block

WORKERS = 3
PITCH = 56.0  # Distance from one image to the next.


def _pixels(lesson: Lesson, i: int) -> Array:
    stored = lesson.model.images.channels_first(lesson.images[i : i + 1])[0]
    pixels: Array = stored if len(stored) == 3 else stored[0]
    return pixels


def batch(lesson: Lesson) -> Figure:
    """The batch, cut into blocks of two images, and who computes each."""
    shapes: list[Shape] = []
    n = len(lesson.images)
    for i in range(n):
        x = 9 + i * PITCH
        shapes += [
            Map(x, 4, 38, 38, _pixels(lesson, i), grey=True),
            Rect(x, 4, 38, 38, "frame"),
            Text(x + 19, 54, str(i), "tick"),
            Text(x + 19, 108, lesson.numbers("tree0", i), "small"),
        ]
    for k, (start, stop) in enumerate(blocks(lesson)):
        left, right = 2 + start * PITCH, stop * PITCH - 2
        shapes += [
            Rect(left, 1, right - left, 62, "block"),
            Text((left + right) / 2, 78, f"worker {k % WORKERS}", "label"),
        ]
    shapes.append(Text(4, 128, "gradient of the followed weight, image by image", "label", anchor="start"))
    return Figure(
        "batch",
        "One batch, cut into blocks",
        f"A batch of {n} images, the lesson's own first, cut into blocks of two. Each block goes to one of {WORKERS} "
        "workers. Under each image stands its gradient of the followed weight.",
        [Panel(n * PITCH + 4, 138, shapes, zoom=1.4)],
        "Each frame is a block, which one worker computes. The workers share only the weights, which none "
        "of them changes during the step.",
    )


def tree(lesson: Lesson) -> Figure:
    """The additions of one weight's gradients, level by level."""
    numbers = lesson.numbers
    n = len(lesson.images)
    levels: list[Array] = []
    while f"tree{len(levels)}" in numbers.arrays:
        levels.append(numbers[f"tree{len(levels)}"])
    places = [[28 + i * PITCH for i in range(n)]]
    shapes: list[Shape] = []
    step = 0
    rise = 56.0
    for k, level in enumerate(levels):
        y = 16 + k * rise
        if k:
            below = places[-1]
            places.append([sum(below[i : i + 2]) / len(below[i : i + 2]) for i in range(0, len(below), 2)])
        for i in range(len(level)):
            if k:
                step += 1
                for child in places[k - 1][2 * i : 2 * i + 2]:
                    shapes.append(Line(((child, y - rise + 12), (places[k][i], y - 12)), "line", step=step))
            x = places[k][i]
            shapes += [
                Rect(x - 27, y - 12, 54, 24, "result" if k == len(levels) - 1 else "node", step=step),
                Text(x, y, numbers(f"tree{k}", i), "small", step=step),
            ]
    bottom = 16 + len(levels) * rise
    x = places[-1][0]
    shapes += [
        Line(((x, bottom - rise + 12), (x, bottom - 12)), "line", arrow=True, step=step + 1),
        Text(x + 12, bottom - rise / 2 - 2, f"÷ {n}", "strong", anchor="start", step=step + 1),
        Rect(x - 38, bottom - 12, 76, 26, "hit", step=step + 1),
        Text(x, bottom + 1, numbers("batch.mean"), "strong", step=step + 1),
    ]
    return Figure(
        "tree",
        "The tree of additions, and one division",
        f"The {n} gradients of the followed weight in a row. Neighbours are added, then neighbouring sums, until one "
        f"is left. It is divided by {n}.",
        [
            Panel(
                n * PITCH + 4,
                bottom + 18,
                shapes,
                "gradients of one weight",
                "image by image on top, the mean at the end",
                zoom=1.4,
            )
        ],
        "The first row has one gradient per image, the second row what the workers returned: one sum per block. Then "
        "neighbouring sums are added. A number without a neighbour waits for the next row. The division comes once, at "
        "the very end.",
    )


def unequal(lesson: Lesson) -> Figure:
    """The mean of means of two shards of different sizes, beside the mean of all images."""
    numbers = lesson.numbers
    n = len(lesson.images)
    first = larger_shard(lesson)
    shapes: list[Shape] = []
    for k, (start, stop) in enumerate(((0, first), (first, n))):
        left, right = 2 + start * PITCH, stop * PITCH - 2
        middle = (left + right) / 2
        shapes += [
            Rect(left, 1, right - left, 48, "block"),
            Text(middle, 64, f"mean of {stop - start}", "label"),
            Text(middle, 84, numbers("shard.means", k), "strong"),
        ]
        for i in range(start, stop):
            x = 9 + i * PITCH
            shapes += [Map(x, 6, 38, 38, _pixels(lesson, i), grey=True), Rect(x, 6, 38, 38, "frame")]
    answers: list[Shape] = [
        Text(90, 10, "mean of the two means", "label"),
        Rect(40, 20, 100, 30, "wrong"),
        Text(90, 35, numbers("shard.wrong"), "strong"),
        Text(90, 72, f"sum of all, divided by {n}", "label"),
        Rect(40, 82, 100, 30, "result"),
        Text(90, 97, numbers("batch.mean"), "strong"),
    ]
    return Figure(
        "unequal",
        "Two shares of different size",
        f"The batch in two shares of {first} and {n - first} images with the mean gradient of each. The mean of these "
        "two means differs from the mean over all images.",
        [Panel(n * PITCH + 4, 96, shapes, zoom=1.3), "≠", Panel(180, 116, answers)],
        f"In the mean of the two means, an image of the large share counts half of 1/{first}, one of the small share "
        f"half of 1/{n - first}. In the true mean each counts 1/{n}.",
    )


def orders(lesson: Lesson) -> Figure:
    """The bits of one sum in three orders of addition."""
    numbers = lesson.numbers
    rows = (
        ("order.forward", "from left to right"),
        ("order.backward", "from right to left"),
        ("order.tree", "along the tree"),
    )
    reference = _binary(numbers("order.tree").bits)
    per_line = 32
    parts: list[Panel | str] = []
    for name, words in rows:
        number = numbers(name)
        binary = _binary(number.bits)
        shapes: list[Shape] = []
        for i, bit in enumerate(binary):
            x, y = 2 + i % per_line * 9.8, 1 + i // per_line * 20
            differs = bit != reference[i]
            shapes += [
                Rect(x, y, 9.4, 16, "wrong" if differs else _field(i, len(binary))),
                Text(x + 4.7, y + 8, bit, "bit"),
            ]
        bottom = 20 * (-(-len(binary) // per_line)) + 14
        shapes += [
            Text(2, bottom, f"{number.bits} =", "code", anchor="start"),
            Text(316, bottom, replace(number, text=_exact(numbers[name])), "code", anchor="end"),
        ]
        parts.append(Panel(318, bottom + 12, shapes, words, zoom=1.5))
    return Figure(
        "orders",
        "The same numbers, added in three orders",
        "The bits of one sum, added from left to right, from right to left, and along the tree. Bits that differ from "
        "the tree's are marked.",
        parts,
        "Each row is one sum as the computer stores it: one bit for the sign, "
        f"{8 if len(reference) == 32 else 11} for the exponent, the rest for the digits. The marked bits differ from "
        "the sum along the tree.",
    )


def _binary(hexadecimal: str) -> str:
    return f"{int(hexadecimal, 16):0{4 * len(hexadecimal)}b}"


def _field(i: int, n: int) -> str:
    """Sign, exponent or digits, of a float of n bits."""
    return "result" if i == 0 else "node" if i <= (8 if n == 32 else 11) else "cell"


def _exact(value: Array) -> str:
    return str(value).replace("-", "−")


def death(lesson: Lesson) -> Figure:
    """Who computes which block when one worker dies."""
    n = len(blocks(lesson))
    lost = lost_block(lesson)
    names = [f"{start}–{stop - 1}" if stop - start > 1 else str(start) for start, stop in blocks(lesson)]
    shapes: list[Shape] = []
    for worker in range(WORKERS):
        y = 22 + worker * 46
        shapes += [Text(30, y, f"worker {worker}", "label"), Line(((62, y), (338, y)), "axis")]
    boxes = [(min(k, WORKERS - 1), 66.0, k) for k in range(min(n, WORKERS))]
    boxes += [(0, 150.0, k) for k in range(WORKERS, n)]
    for step, (worker, x, k) in enumerate(boxes, start=1):
        y = 22 + worker * 46
        dies = k == lost
        shapes += [
            Rect(x, y - 14, 78, 28, "wrong" if dies else "block", step=step),
            Text(x + 39, y, f"images {names[k]}", "small", step=step),
        ]
        if dies:
            shapes.append(Text(x + 112, y, "✕ dies", "strong", step=len(boxes) + 1))
    worker = 1 if lost % WORKERS != 1 else 0
    y = 22 + worker * 46
    start = (66.0 + 100, 22.0 + min(lost, WORKERS - 1) * 46 - 16)
    shapes += [
        Line((start, (250, y + 16)), "line", arrow=True, step=len(boxes) + 2),
        Rect(236, y - 14, 78, 28, "hit", step=len(boxes) + 2),
        Text(275, y, f"images {names[lost]}", "small", step=len(boxes) + 2),
    ]
    bits: list[Shape] = []
    for i, (name, words) in enumerate((("death.before", "if no worker had died"), ("death.after", "computed again"))):
        number = lesson.numbers(name)
        bits += [
            Text(110, 10 + i * 64, words, "label"),
            Text(70, 32 + i * 64, number, "strong"),
            Text(150, 32 + i * 64, number.bits, "code"),
        ]
    return Figure(
        "death",
        "Three workers, one death",
        f"Three workers compute the blocks. One dies while it computes images {names[lost]}. Another worker computes "
        "the same block again, and the sum has the same bits.",
        [
            Panel(342, 138, shapes, "time runs to the right", zoom=1.3),
            Panel(220, 100, bits, f"followed weight, images {names[lost]}"),
        ],
        "A block's gradient depends only on the weights and the images. So it does not matter who computes it, or how "
        "often.",
    )
