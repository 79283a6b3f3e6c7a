"""Captions: a small grammar that says a scene in many ways.

What is not said has a fixed meaning: white background, large things; "A, B and C" is a row from left to right.
"""
import numpy as np

from scenes import BACKGROUNDS, COLOURS, SHAPES

SYNONYMS = {
    "circle": ("disc", "ball"),
    "square": ("box",),
    "cross": ("plus",),
    "purple": ("violet",),
    "cyan": ("turquoise",),
    "grey": ("gray",),
    "large": ("big", "huge"),
    "small": ("tiny", "little"),
}
OTHER_WORDS = "a an the on of in to left right above over below under inside around with is and background ,".split()
RELATION_WORDS = {
    "left": (("left of", "to the left of"), ("right of", "to the right of")),
    "above": (("above", "over"), ("below", "under")),
}


def words():
    """Every word of the grammar."""
    plain = list(SHAPES) + list(COLOURS) + list(BACKGROUNDS) + ["large", "small"]
    return plain + [s for group in SYNONYMS.values() for s in group] + OTHER_WORDS


class Speaker:
    """Draws captions. plain=True keeps to the plainest words, as in the demo's prompts."""

    def __init__(self, rng, plain=False):
        self.rng, self.plain = rng, plain

    def _chance(self, p):
        return not self.plain and self.rng.random() < p

    def _word(self, word):
        if word in SYNONYMS and self._chance(0.15):
            group = SYNONYMS[word]
            return group[int(self.rng.integers(len(group)))]
        return word

    def _thing(self, thing, size_chance):
        parts = [self._word(thing.colour), self._word(thing.shape)]
        if size_chance is not None and (thing.size == "small" or self._chance(size_chance)):
            parts.insert(0, self._word(thing.size))
        article = "an" if parts[0][0] in "aeiou" else "a"
        return " ".join([article] + parts)

    def _pair(self, scene):
        first, second = scene.things
        if scene.relation == "inside":
            a, b = self._thing(first, None), self._thing(second, None)
            form = 0 if self.plain else int(self.rng.choice(4, p=(0.55, 0.15, 0.15, 0.15)))
            return (f"{a} inside {b}", f"{a} in {b}", f"{b} around {a}", f"{b} with {a} inside")[form]
        a, b = self._thing(first, 0.25), self._thing(second, 0.25)
        if scene.relation == "left" and self._chance(0.08):
            return f"{a} and {b}"
        forward = self.rng.random() < 0.5
        plain, other = RELATION_WORDS[scene.relation][0 if forward else 1]
        word = other if self._chance(0.3) else plain
        if not forward:
            a, b = b, a
        return f"{word} {b} is {a}" if self._chance(0.08) else f"{a} {word} {b}"

    def say(self, scene):
        if scene.relation == "single":
            text = self._thing(scene.things[0], 0.4)
        elif scene.relation == "row":
            a, b, c = (self._thing(t, None) for t in scene.things)
            text = f"{a}, {b} and {c}"
        else:
            text = self._pair(scene)
        ground = self._word(scene.background)
        if scene.background == "white" and not self._chance(0.25):
            return text
        form = 0 if self.plain else int(self.rng.choice(3, p=(0.6, 0.2, 0.2)))
        return (f"{text} on a {ground} background", f"{text} on {ground}", f"{ground} background, {text}")[form]


def held_out_list(count=200, seed=2026):
    """The fixed list of test captions: combinations that training never sees. List of dicts."""
    from scenes import sample

    rng = np.random.default_rng(seed)
    speaker = Speaker(rng)
    kinds = ["single"] * 60 + ["left"] * 55 + ["above"] * 55 + ["inside"] * 20 + ["row"] * 10
    entries = []
    for i, kind in enumerate(kinds[:count]):
        scene = sample(rng, kind, want_held_out=True)
        entries.append(
            {
                "id": i,
                "caption": speaker.say(scene),
                "seed": 1000 + i,
                "relation": scene.relation,
                "things": [{"shape": t.shape, "colour": t.colour, "size": t.size} for t in scene.things],
                "background": scene.background,
            }
        )
    return entries


if __name__ == "__main__":
    import json
    import sys

    with open(sys.argv[1], "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(e) for e in held_out_list()) + "\n]\n")
