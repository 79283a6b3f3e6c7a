#!/usr/bin/env python3
"""Writes tests/unit/data/sched_ref.txt: diffusers' schedulers on made-up network outputs, for tests/unit/test_sched.c.

A case is a config, a number of steps and, after every call of the network, the timestep and the latents (the bits of
float32 values). The network is f(call, row, element) + input / 4 with f from an integer hash, the same in the test. The
initial latents and DDPM's noise come from torch.Generator("cpu"), seed 17. Run it from the checkout's root.

torch's square root, logarithm and exponential are one unit in the last place off for every fifth or tenth argument;
which ones depends on the machine. The steps are made with correctly rounded functions in their place, so that they can
be compared bit for bit; the line `end` is the untouched library's last latents.
"""
import io
import json
import warnings

import diffusers
import numpy as np
import torch

warnings.filterwarnings("ignore")
np.seterr(divide="ignore")
diffusers.logging.set_verbosity_error()
torch.set_num_threads(1)

N = 24
CLASSES = {
    "pndm": diffusers.PNDMScheduler,
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "dpm++": diffusers.DPMSolverMultistepScheduler,
    "ddpm": diffusers.DDPMScheduler,
    "flow-euler": diffusers.FlowMatchEulerDiscreteScheduler,
}

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, steps_offset=1,
          set_alpha_to_one=False, skip_prk_steps=True, clip_sample=False, trained_betas=None)
SD15 = dict(SD, _class_name="PNDMScheduler")
SD21 = dict(SD, _class_name="DDIMScheduler", prediction_type="v_prediction")
SDXL = dict(SD, _class_name="EulerDiscreteScheduler", prediction_type="epsilon", timestep_spacing="leading",
            interpolation_type="linear", use_karras_sigmas=False, sample_max_value=1.0)
LINEAR = dict(_class_name="DDIMScheduler", beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False)
IF = dict(_class_name="DDPMScheduler", beta_start=0.0001, beta_end=0.02, beta_schedule="squaredcos_cap_v2",
          num_train_timesteps=1000, prediction_type="epsilon", clip_sample=True, clip_sample_range=1.0,
          thresholding=True, dynamic_thresholding_ratio=0.95, sample_max_value=1.5, variance_type="learned_range",
          lambda_min_clipped=-5.1, trained_betas=None)
IF2 = {k: v for k, v in dict(IF, sample_max_value=1.0).items() if k != "lambda_min_clipped"}
FLUX = dict(_class_name="FlowMatchEulerDiscreteScheduler", base_image_seq_len=256, max_image_seq_len=4096,
            base_shift=0.5, max_shift=1.15, num_train_timesteps=1000)
SCHNELL = dict(FLUX, shift=1.0, use_dynamic_shifting=False)
DEV = dict(FLUX, shift=3.0, use_dynamic_shifting=True)

# name, config, override, steps, guidance (0: none), image tokens
CASES = [(f"sd15-{n}", SD15, None, n, 7.5, 0) for n in (1, 2, 3, 4, 10, 50)]
CASES += [
    ("pndm-v-linspace", dict(SD15, prediction_type="v_prediction", timestep_spacing="linspace"), None, 7, 7.5, 0),
    ("pndm-trailing", dict(SD15, timestep_spacing="trailing", set_alpha_to_one=True), None, 8, 2.0, 0),
    ("sd21", SD21, None, 50, 7.5, 0),
    ("sd21-1", SD21, None, 1, 7.5, 0),
    ("sd15-as-ddim", SD15, "ddim", 20, 7.5, 0),
    ("ddim-linear", LINEAR, None, 8, 3.0, 0),
    ("ddim-trailing-v", dict(LINEAR, timestep_spacing="trailing", prediction_type="v_prediction"), None, 6, 0, 0),
    ("ddim-linspace", dict(LINEAR, timestep_spacing="linspace", num_train_timesteps=100), None, 9, 3.0, 0),
    ("sd21-as-pndm", SD21, "pndm", 12, 7.5, 0),
    ("sdxl", SDXL, None, 50, 5.0, 0),
    ("sdxl-1", SDXL, None, 1, 5.0, 0),
    ("sd15-as-euler", SD15, "euler", 12, 7.5, 0),
    ("sd21-as-euler", SD21, "euler", 10, 7.5, 0),
    ("euler-trailing-min", dict(SDXL, timestep_spacing="trailing", final_sigmas_type="sigma_min"), None, 8, 5.0, 0),
    ("sd15-as-dpm", SD15, "dpm++", 50, 7.5, 0),
    ("sd15-as-dpm-1", SD15, "dpm++", 1, 7.5, 0),
    ("sd15-as-dpm-2", SD15, "dpm++", 2, 7.5, 0),
    ("sd15-as-dpm-10", SD15, "dpm++", 10, 7.5, 0),
    ("sd21-as-dpm", SD21, "dpm++", 20, 7.5, 0),
    ("sdxl-as-dpm", SDXL, "dpm++", 20, 5.0, 0),
    ("dpm-order-1", dict(SD15, _class_name="DPMSolverMultistepScheduler", solver_order=1,
                         timestep_spacing="trailing"), None, 8, 5.0, 0),
    ("dpm-sigma-min", dict(SD15, _class_name="DPMSolverMultistepScheduler", final_sigmas_type="sigma_min"), None, 16,
     5.0, 0),
    ("if-as-dpm", IF, "dpm++", 20, 7.0, 0),
    ("if2-as-dpm", IF2, "dpm++", 10, 4.0, 0),
    ("if", IF, None, 100, 7.0, 0),
    ("if2", IF2, None, 50, 4.0, 0),
    ("ddpm-fixed", dict(SD15, _class_name="DDPMScheduler"), None, 10, 7.5, 0),
    ("ddpm-v", dict(SD21, _class_name="DDPMScheduler"), None, 10, 7.5, 0),
    ("schnell-1", SCHNELL, None, 1, 0, 1024),
    ("schnell-4", SCHNELL, None, 4, 0, 1024),
    ("schnell-28", SCHNELL, None, 28, 0, 4096),
    ("dev-512", DEV, None, 28, 0, 1024),
    ("dev-1024", DEV, None, 28, 0, 4096),
    ("flow-shift-3", dict(DEV, use_dynamic_shifting=False), None, 5, 0, 4096),
]


def made_up(call, row, count):
    """[-2, 2), multiples of 2^-22"""
    i = np.arange(count, dtype=np.uint64) + np.uint64(64 * (3 * call + row) + 1)
    h = (i * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
    h = ((h ^ (h >> np.uint64(15))) * np.uint64(2246822519)) & np.uint64(0xFFFFFFFF)
    return torch.from_numpy(((h >> np.uint64(8)).astype(np.float64) / 2**22 - 2).astype(np.float32))


def words(x):
    return " ".join("%08x" % w for w in x.detach().numpy().reshape(-1).astype(np.float32).view("<u4"))


def rounded(library, function):
    """A float32 function computed in double and rounded once."""

    def f(x, *args, **kw):
        if x.dtype != torch.float32:
            return library(x, *args, **kw)
        return torch.tensor(function(x.double().numpy())).float()

    return f


LIBRARY = (torch.Tensor.__pow__, torch.log, torch.exp)
ROOT = rounded(None, np.sqrt)
EXACT = (lambda x, y: ROOT(x) if isinstance(y, float) and y == 0.5 else LIBRARY[0](x, y),
         rounded(torch.log, np.log), rounded(torch.exp, np.exp))


def use(functions):
    torch.Tensor.__pow__, torch.log, torch.exp = functions


def run(out, name, config, override, steps, guidance, tokens):
    own = CLASSES[next(k for k, c in CLASSES.items() if c.__name__ == config["_class_name"])].from_config(config)
    s = CLASSES[override].from_config(own.config) if override else own
    if tokens:
        slope = (1.15 - 0.5) / (4096 - 256)
        mu = tokens * slope + (0.5 - slope * 256)
        s.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    else:
        s.set_timesteps(steps)
    learned = s.config.get("variance_type") == "learned_range"
    shape = (1, 3, 2, 4) if learned else (1, 4, 2, 3)
    g = torch.Generator("cpu").manual_seed(17)
    x = torch.randn(shape, generator=g) * getattr(s, "init_noise_sigma", 1.0)
    print("case", name, override or "file", steps, "%g" % guidance, tokens, len(s.timesteps), file=out)
    print("config", json.dumps(config), file=out)
    print("start", words(x), file=out)
    for call, t in enumerate(s.timesteps):
        inp = s.scale_model_input(x, t) if hasattr(s, "scale_model_input") else x
        u, c, v = (made_up(call, r, N).reshape(shape) for r in range(3))
        u, c, v = u + inp * 0.25, c + inp * 0.25, v * 0.5
        e = u + guidance * (c - u) if guidance else c
        kw = dict(generator=g) if isinstance(s, diffusers.DDPMScheduler) else {}
        x = s.step(torch.cat([e, v], 1) if learned else e, t, x, return_dict=False, **kw)[0]
        print("call", words(torch.tensor(float(t))), words(x), file=out)
    return x


with open("tests/unit/data/sched_ref.txt", "w") as out:
    print(f"# diffusers {diffusers.__version__}, torch {torch.__version__}, tools/ref/sched.py", file=out)
    for case in CASES:
        use(EXACT)
        run(out, *case)
        use(LIBRARY)
        print("end", words(run(io.StringIO(), *case)), file=out)
