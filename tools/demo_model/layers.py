"""How healthy the text encoder's residual stream is: the norm of every hidden state, and how near each is to the last
one after the final norm. One row a layer; column names in the file's first line."""
import csv
import os

import torch

import tokenizer
from captions import held_out_list
from models import TEXT_LENGTH

COLUMNS = ("stage", "step", "layer", "norm", "cosine_to_last")


@torch.no_grad()
def measure(text):
    """[(norm, cosine)] for layers 0..N over every third caption of the held-out list, words only (no padding)."""
    captions = [entry["caption"] for entry in held_out_list()][::3]
    device = next(text.parameters()).device
    ids = torch.tensor([tokenizer.encode(c, TEXT_LENGTH) for c in captions]).to(device)
    end = tokenizer.build()[0][tokenizer.END]
    used = ids != end
    used[:, 0] = False  # the first token is the same in every caption
    body = getattr(text, "text_model", text)
    states = text(ids, output_hidden_states=True).hidden_states
    last = body.final_layer_norm(states[-1])[used]
    rows = []
    for state in states:
        normed = body.final_layer_norm(state)[used]
        cosine = torch.nn.functional.cosine_similarity(normed, last, dim=-1).mean()
        rows.append((float(state[used].norm(dim=-1).mean()), float(cosine)))
    return rows


def layer_table(text, path, stage, step):
    """Appends the present values to a CSV."""
    text.eval()
    rows = measure(text)
    text.train()
    new = not os.path.exists(path)
    with open(path, "a", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        if new:
            out.writerow(COLUMNS)
        for layer, (norm, cosine) in enumerate(rows):
            out.writerow((stage, step, layer, f"{norm:.3f}", f"{cosine:.4f}"))
