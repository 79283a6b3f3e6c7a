"""Reads shapes, colours and relations back from pictures and compares them with the captions' scenes.

    python score.py FOLDER [--captions held_out.json] [--name "{id:03d}.png"] [--json OUT.json]
    python score.py --self            the renderer's own pictures: the scorer's own error
    python score.py --round-trip      the same after the VAE of model/ (encode, decode)

A picture counts as right only if it shows exactly the things asked for, no fewer and no more.
"""
import argparse
import json
import os
from functools import lru_cache

import numpy as np
from PIL import Image

from scenes import BACKGROUNDS, COLOURS, LARGE, MIDDLE, OUTER, SHAPES, SIZE, SMALL, stamp

HERE = os.path.dirname(os.path.abspath(__file__))
PATCH = 24
SMALLEST = 24  # pixels; the smallest thing drawn covers 50 or more


def components(mask):
    """Connected parts (4 neighbours) of a bool mask, as a list of bool masks."""
    labels = np.zeros(mask.shape, np.int32)
    parts = []
    height, width = mask.shape
    for y, x in zip(*np.nonzero(mask)):
        if labels[y, x]:
            continue
        labels[y, x] = len(parts) + 1
        stack, found = [(y, x)], []
        while stack:
            cy, cx = stack.pop()
            found.append((cy, cx))
            for ny, nx in ((cy - 1, cx), (cy + 1, cx), (cy, cx - 1), (cy, cx + 1)):
                if 0 <= ny < height and 0 <= nx < width and mask[ny, nx] and not labels[ny, nx]:
                    labels[ny, nx] = len(parts) + 1
                    stack.append((ny, nx))
        part = np.zeros(mask.shape, bool)
        part[tuple(np.array(found).T)] = True
        parts.append(part)
    return parts


def grow(mask):
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    out[:, 1:] |= mask[:, :-1]
    out[:, :-1] |= mask[:, 1:]
    return out


def shrink(mask):
    return ~grow(~np.pad(mask, 1))[1:-1, 1:-1]


def filled(mask):
    """The mask with its holes closed."""
    padded = np.pad(~mask, 1, constant_values=True)
    outside = components(padded)[0]  # the part that holds the corner
    return ~outside[1:-1, 1:-1]


def box(mask):
    ys, xs = np.nonzero(mask)
    return ys.min(), ys.max() + 1, xs.min(), xs.max() + 1


def patch(cover):
    """A cover in [0, 1], cut to its bounding box, as [PATCH, PATCH]."""
    y0, y1, x0, x1 = box(cover > 0.5)
    cut = Image.fromarray(np.float32(cover[y0:y1, x0:x1]))
    return np.asarray(cut.resize((PATCH, PATCH), Image.BILINEAR))


@lru_cache(maxsize=None)
def templates():
    return [(s, patch(stamp(s, r))) for s in SHAPES for r in (SMALL, MIDDLE, LARGE)]


def shape_of(cover, allowed=SHAPES):
    """(shape, mean squared distance to its template)."""
    seen = patch(cover)
    distance, shape = min((float(np.square(seen - t).mean()), s) for s, t in templates() if s in allowed)
    return shape, distance


def cover_of(image, region, colour, around):
    """How far each pixel of a region has gone from the colour around to the thing's colour."""
    axis = np.array(colour, np.float32) - around
    along = (image - around) @ axis / (axis @ axis)
    return np.clip(along, 0, 1) * region


def read(image):
    """What a picture [SIZE, SIZE, 3] shows: {"background": name, "things": [{shape, colour, box, centre, inside}]}."""
    image = np.asarray(image, np.float32)
    frame = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    middle = np.median(frame, 0)
    background = min(BACKGROUNDS, key=lambda b: np.square(middle - BACKGROUNDS[b]).sum())
    ground = np.array(BACKGROUNDS[background], np.float32)
    names = list(COLOURS)
    palette = np.array([ground] + [COLOURS[n] for n in names], np.float32)
    label = np.square(image[:, :, None] - palette).sum(-1).argmin(-1)
    found = []
    for i, name in enumerate(names):
        for part in components(label == i + 1):
            if part.sum() >= SMALLEST and shrink(part).sum() >= 0.15 * part.sum():
                found.append((name, part))
    # a thing is inside another if the other's hole holds it
    holes = [filled(part) for _, part in found]
    things = []
    for i, (name, part) in enumerate(found):
        outer = None
        for j, hole in enumerate(holes):
            if j != i and (part & hole).sum() > 0.9 * part.sum() and found[j][1].sum() > part.sum():
                outer = j
        around = ground if outer is None else np.array(COLOURS[found[outer][0]], np.float32)
        others = np.zeros_like(part)
        for j, (_, other) in enumerate(found):
            if j != i and j != outer:
                others |= other
        region = grow(grow(part)) & ~others
        if outer is not None:
            region &= holes[outer]
        cover = cover_of(image, region, COLOURS[name], around)
        if (part ^ holes[i]).any():
            cover = np.maximum(cover, shrink(holes[i]) | part)
        if not (cover > 0.5).any():
            continue
        holds = any(j != i and (other & holes[i]).sum() > 0.9 * other.sum() for j, (_, other) in enumerate(found))
        shape, distance = shape_of(cover, OUTER if holds else SHAPES)
        y0, y1, x0, x1 = box(cover > 0.5)
        things.append(
            {
                "shape": shape,
                "distance": round(distance, 4),
                "colour": name,
                "centre": ((x0 + x1) / 2, (y0 + y1) / 2),
                "inside": None if outer is None else found[outer][0],
            }
        )
    return {"background": background, "things": things}


def relation_right(relation, wanted, seen):
    """Whether the seen things, known by their colours, stand as they should."""
    by_colour = {t["colour"]: t for t in seen}
    if any(t["colour"] not in by_colour for t in wanted):
        return False
    places = [by_colour[t["colour"]] for t in wanted]
    if relation == "inside":
        return places[0]["inside"] == wanted[1]["colour"]
    if any(p["inside"] for p in places):
        return False
    for a, b in zip(places, places[1:]):
        dx, dy = b["centre"][0] - a["centre"][0], b["centre"][1] - a["centre"][1]
        if relation == "above":
            dx, dy = dy, dx
        if dx <= abs(dy):
            return False
    return True


def judge(entry, image):
    """{measure: bool} for one picture of an entry of the caption list."""
    seen = read(image)
    wanted, things = entry["things"], seen["things"]
    same_count = len(wanted) == len(things)
    want_pairs = sorted((t["colour"], t["shape"]) for t in wanted)
    seen_pairs = sorted((t["colour"], t["shape"]) for t in things)
    marks = {
        "background": seen["background"] == entry["background"],
        "colours": sorted(t["colour"] for t in wanted) == sorted(t["colour"] for t in things),
        "shapes": sorted(t["shape"] for t in wanted) == sorted(t["shape"] for t in things),
        "bound": same_count and want_pairs == seen_pairs,
    }
    if len(wanted) > 1:
        marks["relation"] = relation_right(entry["relation"], wanted, things)
    marks["all"] = all(marks.values())
    return marks


GROUPS = {
    "single": ("single",),
    "left/right": ("left",),
    "above/below": ("above",),
    "inside": ("inside",),
    "pairs (all three)": ("left", "above", "inside"),
    "row of three": ("row",),
    "everything": ("single", "left", "above", "inside", "row"),
}
MEASURES = ("background", "colours", "shapes", "bound", "relation", "all")


def table(entries, marks):
    """Percentages {group: {measure: value, "n": count}}."""
    result = {}
    for group, relations in GROUPS.items():
        chosen = [m for e, m in zip(entries, marks) if e["relation"] in relations]
        if chosen:
            row = {"n": len(chosen)}
            for measure in MEASURES:
                values = [m[measure] for m in chosen if measure in m]
                if values:
                    row[measure] = round(100 * sum(values) / len(values), 1)
            result[group] = row
    return result


def show(result):
    print(f"{'':20}{'n':>5}" + "".join(f"{m:>12}" for m in MEASURES))
    for group, row in result.items():
        print(f"{group:20}{row['n']:5}" + "".join(f"{row[m]:12}" if m in row else f"{'':12}" for m in MEASURES))


def load(path):
    image = Image.open(path).convert("RGB")
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.BOX)
    return np.asarray(image)


def score_images(entries, images):
    return table(entries, [judge(e, i) for e, i in zip(entries, images)])


def own_scenes(count, seed=99):
    """Entries and pictures of random scenes of the renderer."""
    from scenes import render, sample

    rng = np.random.default_rng(seed)
    scenes = [sample(rng) for _ in range(count)]
    entries = [
        {
            "relation": s.relation,
            "background": s.background,
            "things": [{"shape": t.shape, "colour": t.colour} for t in s.things],
        }
        for s in scenes
    ]
    return entries, [render(s) for s in scenes]


def round_trip(images, vae):
    import torch

    from train_vae import to_tensor

    out = []
    with torch.no_grad():
        for at in range(0, len(images), 50):
            latents = vae.encode(to_tensor(images[at : at + 50])).latent_dist.mean
            back = vae.decode(latents).sample.clamp(-1, 1).add(1).mul(127.5).round().byte()
            out.extend(back.permute(0, 2, 3, 1).numpy())
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--captions", default=os.path.join(HERE, "held_out.json"))
    parser.add_argument("--name", default="{id:03d}.png", help="file name of a caption's picture, from its id")
    parser.add_argument("--json", help="write the table here, too")
    parser.add_argument("--self", action="store_true")
    parser.add_argument("--round-trip", action="store_true")
    parser.add_argument("--count", type=int, default=1000, help="scenes for --self and --round-trip")
    options = parser.parse_args()
    if options.self or options.round_trip:
        entries, images = own_scenes(options.count)
        if options.round_trip:
            from diffusers import AutoencoderKL

            images = round_trip(images, AutoencoderKL.from_pretrained(os.path.join(HERE, "model", "vae")))
    else:
        if not options.folder:
            parser.error("a folder of pictures is needed")
        with open(options.captions) as f:
            entries = json.load(f)
        images = [load(os.path.join(options.folder, options.name.format(id=e["id"]))) for e in entries]
    result = score_images(entries, images)
    show(result)
    if options.json:
        with open(options.json, "w") as f:
            json.dump(result, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
