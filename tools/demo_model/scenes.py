"""Scenes: one to three flat shapes on a plain background, 48 x 48 pixels.

A scene is a list of objects and a background. Shapes are drawn at 8x and reduced, once for each shape and radius; a
picture is then a few blends of those masks. Centres lie on the 4-pixel grid of the latents, so that each shape leads
to few different latent patterns: a small model learns them in an hour.
"""
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

SIZE = 48
CELL = 4  # pixels to one latent cell
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLOURS = {
    "red": (220, 30, 40),
    "green": (30, 160, 60),
    "blue": (40, 70, 220),
    "yellow": (250, 220, 40),
    "orange": (250, 130, 20),
    "purple": (130, 40, 170),
    "cyan": (40, 200, 220),
    "pink": (250, 130, 190),
}
BACKGROUNDS = {"white": (248, 248, 248), "black": (12, 12, 12), "grey": (128, 128, 128), "brown": (105, 70, 40)}
OUTER = ("circle", "square", "heart")  # shapes that something fits into
SMALL, MIDDLE, LARGE = 7.0, 10.5, 16.0  # radii in pixels


@dataclass(frozen=True)
class Thing:
    shape: str
    colour: str
    size: str  # "large" or "small"
    radius: float
    x: int
    y: int


@dataclass(frozen=True)
class Scene:
    relation: str  # "single", "left", "above", "inside", "row"; right and below are the same, said the other way round
    things: tuple  # in the order of the relation: things[0] is left of, above or inside things[1]
    background: str


def _polygon(points, scale):
    """Inside test of a polygon (even-odd rule) on a grid of sample points."""
    n = points.shape[0]
    ys, xs = np.mgrid[0:scale, 0:scale]
    span = 1.0 / scale
    px, py = (xs + 0.5) * span * 2 - 1, (ys + 0.5) * span * 2 - 1
    inside = np.zeros((scale, scale), bool)
    for i in range(n):
        (x0, y0), (x1, y1) = points[i], points[(i + 1) % n]
        if y0 == y1:
            continue
        crosses = (y0 > py) != (y1 > py)
        inside ^= crosses & (px < (x1 - x0) * (py - y0) / (y1 - y0) + x0)
    return inside


def shape_mask(shape, scale):
    """Mask of a shape in the square [-1, 1]^2, y downwards, as a bool array [scale, scale]."""
    ys, xs = np.mgrid[0:scale, 0:scale]
    x, y = (xs + 0.5) / scale * 2 - 1, (ys + 0.5) / scale * 2 - 1
    if shape == "circle":
        return x * x + y * y <= 0.96
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.86
    if shape == "triangle":
        return _polygon(np.array([(0, -0.98), (1.0, 0.80), (-1.0, 0.80)]), scale)
    if shape == "star":
        angle = np.arange(10) * np.pi / 5 - np.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 1.05, 0.45)
        return _polygon(np.stack([radius * np.cos(angle), radius * np.sin(angle) + 0.06], 1), scale)
    if shape == "heart":
        u, v = x * 1.22, -(y * 1.16) + 0.16
        return (u * u + v * v - 1) ** 3 - u * u * v ** 3 <= 0
    if shape == "cross":
        return ((abs(x) <= 0.32) & (abs(y) <= 0.96)) | ((abs(y) <= 0.32) & (abs(x) <= 0.96))
    raise ValueError(shape)


@lru_cache(maxsize=None)
def stamp(shape, radius):
    """Coverage in [0, 1] of a shape of a radius in pixels, centred in a [SIZE, SIZE] array."""
    over = 8
    big = np.zeros((SIZE * over, SIZE * over), np.float32)
    side = int(round(2 * radius * over))
    mask = shape_mask(shape, side)
    at = (SIZE * over - side) // 2
    big[at : at + side, at : at + side] = mask
    return big.reshape(SIZE, over, SIZE, over).mean((1, 3))


def render(scene):
    """The picture of a scene, uint8 [SIZE, SIZE, 3]."""
    image = np.empty((SIZE, SIZE, 3), np.float32)
    image[:] = BACKGROUNDS[scene.background]
    order = scene.things[::-1] if scene.relation == "inside" else scene.things
    for thing in order:
        dy, dx = thing.y - SIZE // 2, thing.x - SIZE // 2
        alpha = np.zeros((SIZE, SIZE), np.float32)
        source = stamp(thing.shape, thing.radius)
        alpha[max(dy, 0) : SIZE + min(dy, 0), max(dx, 0) : SIZE + min(dx, 0)] = source[
            max(-dy, 0) : SIZE - max(dy, 0), max(-dx, 0) : SIZE - max(dx, 0)
        ]
        image += alpha[..., None] * (np.array(COLOURS[thing.colour], np.float32) - image)
    return np.rint(image).astype(np.uint8)


def _pick(rng, items):
    return items[int(rng.integers(len(items)))]


def _size(rng):
    return "small" if rng.random() < 0.3 else "large"


def place(relation, looks, background, rng, still=False):
    """A scene from looks [(shape, colour, size), ...]: chooses the positions (still: the middle ones)."""
    middle = SIZE // 2

    def shift(reach):
        return 0 if still else CELL * int(rng.integers(-reach, reach + 1))

    def jitter():
        return middle + shift(1)

    things = []
    if relation == "single":
        shape, colour, size = looks[0]
        reach = 1 if size == "large" else 2
        x, y = middle + shift(reach), middle + shift(reach)
        things.append(Thing(shape, colour, size, LARGE if size == "large" else SMALL, x, y))
    elif relation == "inside":
        x, y = jitter(), jitter()
        for (shape, colour, _), radius, size in zip(looks, (SMALL, LARGE), ("small", "large")):
            things.append(Thing(shape, colour, size, radius, x, y))
    elif relation == "row":
        for i, (shape, colour, _) in enumerate(looks):
            things.append(Thing(shape, colour, "small", SMALL, 8 + 16 * i, jitter()))
    else:
        for i, (shape, colour, size) in enumerate(looks):
            along = 12 + 24 * i
            if size == "small":
                along += shift(1)
            across = jitter()
            x, y = (along, across) if relation == "left" else (across, along)
            things.append(Thing(shape, colour, size, MIDDLE if size == "large" else SMALL, x, y))
    return Scene(relation, tuple(things), background)


def key(relation, looks, background):
    """What decides whether a scene is held out: the bare combination of shapes and colours (and, alone, background)."""
    if relation == "single":
        shape, colour, size = looks[0]
        return f"single/{shape}/{colour}/{size}/{background}"
    return "/".join(["pair"] + [f"{s}/{c}" for s, c, _ in looks[:2]])


def held_out(relation, looks, background):
    """True for one in ten combinations; a fixed hash (FNV-1a), the same in every run."""
    value = 2166136261
    for byte in key(relation, looks, background).encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return (value >> 7) % 10 == 0


def sample(rng, relation=None, want_held_out=False, still=False):
    """A random scene; of the training set unless want_held_out."""
    while True:
        kind = relation or rng.choice(
            ("single", "left", "above", "inside", "row"), p=(0.30, 0.25, 0.25, 0.12, 0.08)
        )
        count = {"single": 1, "row": 3}.get(kind, 2)
        background = "white" if rng.random() < 0.4 else _pick(rng, tuple(BACKGROUNDS))
        colours = rng.permutation(tuple(COLOURS))[:count]
        looks = [(_pick(rng, SHAPES), str(colours[i]), _size(rng)) for i in range(count)]
        if kind == "inside":
            looks[1] = (_pick(rng, OUTER), looks[1][1], "large")
        if held_out(kind, looks, background) == want_held_out:
            return place(str(kind), looks, background, rng, still)


def contact_sheet(images, columns, zoom=2, gap=2):
    """A PIL image with the given uint8 pictures in rows."""
    rows = (len(images) + columns - 1) // columns
    step = SIZE * zoom + gap
    sheet = Image.new("RGB", (columns * step + gap, rows * step + gap), (200, 200, 210))
    for i, image in enumerate(images):
        tile = Image.fromarray(np.asarray(image)).resize((SIZE * zoom, SIZE * zoom), Image.NEAREST)
        sheet.paste(tile, (gap + i % columns * step, gap + i // columns * step))
    return sheet


if __name__ == "__main__":
    import sys

    generator = np.random.default_rng(1)
    contact_sheet([render(sample(generator)) for _ in range(60)], 10).save(sys.argv[1])
