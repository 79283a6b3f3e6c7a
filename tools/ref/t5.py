"""A tiny T5 v1.1 encoder and its reference activations: tests/parity/test_t5.c. Run from the top of the checkout:

  python tools/ref/t5.py tests/parity/data

Writes t5_tiny.json and t5_tiny.safetensors (config and bf16 weights, as a text_encoder folder has them) and
t5.safetensors. The model keeps what is special about the real one: inner width other than the model's, gated GELU,
position buckets that run out (sequences longer than the largest distance), a mask or none, weights that make attention
choose and states grow.

Runs transformers' T5EncoderModel in float32 with one thread, in bfloat16, and in float64 (there with RMS norms that
compute in float64 as well; the library's own take their variance in float32). Stored in t5.safetensors:
  masked/in.ids, masked/in.mask [2][77], long/in.ids [1][150]
  PREFIX/NAME       a tap of the float32 run, channels last, flat; elements 0, s, 2s, ... with s = element count /
                    LIMIT rounded up to an odd number; NAME: hidden_states.K before any norm, final.K after the norm
  f64/PREFIX/NAME   the same of the float64 run
  norm/TAP          [1] L2 norm of the whole tap
  bf16/TAP          [1] relative L2 error of the bfloat16 run against the tap
  f32/TAP           [1] relative L2 error of the float32 run against the float64 run
"""
import copy
import json
import sys

import torch
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel
from transformers.models.t5.modeling_t5 import T5LayerNorm

from refs import stride

LIMIT = 1024
CONFIG = dict(architectures=["T5EncoderModel"], model_type="t5", d_model=48, d_kv=16, d_ff=80, num_layers=3,
              num_heads=4, vocab_size=120, relative_attention_num_buckets=16, relative_attention_max_distance=40,
              layer_norm_epsilon=1e-6, feed_forward_proj="gated-gelu", dense_act_fn="gelu_new", is_gated_act=True,
              dropout_rate=0.1)


class Norm64(T5LayerNorm):
    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def make_model():
    torch.manual_seed(11)
    model = T5EncoderModel(T5Config(**{k: v for k, v in CONFIG.items() if k not in ("dense_act_fn", "is_gated_act")}))
    std = {"q.weight": 3 / (48 * 16) ** 0.5, "k.weight": 48 ** -0.5, "v.weight": 48 ** -0.5, "o.weight": 64 ** -0.5,
           "wi_0.weight": 48 ** -0.5, "wi_1.weight": 48 ** -0.5, "wo.weight": 2 * 80 ** -0.5,
           "relative_attention_bias.weight": 1.5, "shared.weight": 1.0}
    for name, p in model.named_parameters():
        kind = next((v for k, v in std.items() if name.endswith(k)), None)
        with torch.no_grad():
            p.copy_(torch.randn(p.shape) * kind if kind else 1 + 0.3 * torch.randn(p.shape))
            p.copy_(p.bfloat16().float())
    return model.eval()


def run(model, ids, mask):
    states = []
    hooks = [m.register_forward_hook(lambda _m, _a, out: states.append(out if torch.is_tensor(out) else out[0]))
             for m in [model.encoder.embed_tokens, *model.encoder.block]]
    model(ids, attention_mask=mask)
    for h in hooks:
        h.remove()
    taps = {f"hidden_states.{k}": h for k, h in enumerate(states)}
    taps.update({f"final.{k}": model.encoder.final_layer_norm(h) for k, h in enumerate(states)})
    return {k: v.double().reshape(-1) for k, v in taps.items()}


def double(model):
    model = copy.deepcopy(model).double()
    for m in model.modules():
        if isinstance(m, T5LayerNorm):
            m.__class__ = Norm64
    return model


def error(x, ref):
    return ((x - ref).norm() / ref.norm()).float().reshape(1)


def main():
    folder = sys.argv[1]
    torch.set_num_threads(1)
    model = make_model()
    with open(folder + "/t5_tiny.json", "w") as f:
        json.dump(CONFIG, f, indent=2)
        f.write("\n")
    weights = {k: v.bfloat16() for k, v in model.state_dict().items() if k != "encoder.embed_tokens.weight"}
    save_file(weights, folder + "/t5_tiny.safetensors", {"format": "pt"})

    ids = torch.randint(2, CONFIG["vocab_size"], (2, 77))
    mask = torch.ones(2, 77, dtype=torch.int32)
    for row, length in enumerate((9, 60)):
        ids[row, length - 1], ids[row, length:], mask[row, length:] = 1, 0, 0
    inputs = {"masked": (ids, mask), "long": (torch.randint(2, CONFIG["vocab_size"], (1, 150)), None)}
    data = {"masked/in.mask": mask}
    with torch.no_grad():
        for prefix, (ids, mask) in inputs.items():
            data[prefix + "/in.ids"] = ids.int()
            full, half = run(model, ids, mask), run(copy.deepcopy(model).bfloat16(), ids, mask)
            exact = run(double(model), ids, mask)
            for name, x in full.items():
                own = error(x, exact[name])
                for tap, ref in ((f"{prefix}/{name}", x), (f"f64/{prefix}/{name}", exact[name])):
                    step = stride(ref.numel(), LIMIT)
                    data[tap] = ref[::step].float().clone()
                    data["norm/" + tap] = ref.norm().float().reshape(1)
                    if ref is x:
                        data["bf16/" + tap] = error(half[name], ref)
                    data["f32/" + tap] = own.clone()
                rms = exact[name].pow(2).mean().sqrt()
                print(f"{prefix}/{name:18} rms {rms:8.3f}  f32 against f64 {own.item():.2e}"
                      f"  bf16 against f32 {error(half[name], x).item():.2e}")
    save_file(data, folder + "/t5.safetensors", {"made_by": "tools/ref/t5.py", "limit": str(LIMIT)})


main()
