"""Scores a real sweep of dlens over the held-out captions, layer by layer.

    python lens_scores.py --work /tmp/lens_scores [--dlens ../../build/dlens] [--json OUT.json] [--plot OUT.png]

Every caption of held_out.json goes through every layer of model/ with the settings of demo.json and its own seed;
score.py reads the pictures back. Prints two Markdown tables: the last layer by kind of caption, and all captions by
layer. A sweep that is there already is resumed.
"""
import argparse
import json
import os
import subprocess

from score import GROUPS, HERE, MEASURES, load, score_images

BY_LAYER = ("background", "colours", "shapes", "bound", "relation")


def sweep(options, entries):
    """Runs dlens; returns {k: [picture of each entry]}."""
    with open(os.path.join(HERE, "demo.json")) as f:
        demo = json.load(f)
    os.makedirs(options.work, exist_ok=True)
    prompts = os.path.join(options.work, "prompts.jsonl")
    with open(prompts, "w") as f:
        for e in entries:
            f.write(json.dumps({"prompt": e["caption"], "seed": e["seed"]}) + "\n")
    out = os.path.join(options.work, "sweep")
    subprocess.run(
        [options.dlens, "sweep", "--model", os.path.join(HERE, "model"), "--prompts", prompts, "--layers", "all",
         "--steps", str(demo["steps"]), "--guidance", str(demo["guidance"]), "--scheduler", demo["scheduler"],
         "--dtype", "f32", "--rng", "torch-cpu", "--quiet", "--out", out],
        check=True, stdout=subprocess.DEVNULL)
    with open(os.path.join(out, "manifest.json")) as f:
        layers = [entry["layer"] for entry in json.load(f)["layers"]]
    return {k: [load(os.path.join(out, f"images/p{i:03d}_s{e['seed']}_k{k:02d}.png")) for i, e in enumerate(entries)]
            for k in layers}


def row(name, values):
    print("| " + " | ".join([name] + [f"{v:.0f}" if isinstance(v, float) else str(v) for v in values]) + " |")


def show(tables, last):
    print("\n| last layer | n | " + " | ".join(MEASURES) + " |\n|---|" + "---|" * (len(MEASURES) + 1))
    for group in GROUPS:
        if group in tables[last]:
            row(group, [tables[last][group]["n"]] + [tables[last][group].get(m, "") for m in MEASURES])
    print("\n| layer, all captions | " + " | ".join(BY_LAYER) + " |\n|---|" + "---|" * len(BY_LAYER))
    for k, table in tables.items():
        row(str(k), [table["everything"].get(m, "") for m in BY_LAYER])


def plot(tables, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), dpi=150)
    for measure in BY_LAYER:
        values = [t["everything"].get(measure) for t in tables.values()]
        axes.plot(list(tables), values, marker="o", markersize=4, label=measure)
    axes.set(xlabel="layer k (0: embeddings)", ylabel="% of 200 captions right", ylim=(-2, 102), xticks=list(tables))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dlens", default=os.path.join(HERE, "..", "..", "build", "dlens"))
    parser.add_argument("--work", required=True, help="folder for the sweep")
    parser.add_argument("--captions", default=os.path.join(HERE, "held_out.json"))
    parser.add_argument("--count", type=int, help="the first captions only")
    parser.add_argument("--json", help="write the tables here")
    parser.add_argument("--plot", help="draw the curves here (PNG)")
    options = parser.parse_args()
    with open(options.captions) as f:
        entries = json.load(f)[: options.count]
    tables = {k: score_images(entries, images) for k, images in sweep(options, entries).items()}
    show(tables, max(tables))
    if options.json:
        with open(options.json, "w") as f:
            json.dump(tables, f, indent=1)
            f.write("\n")
    if options.plot:
        plot(tables, options.plot)


if __name__ == "__main__":
    main()
