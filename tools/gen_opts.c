#include "tools/gen.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char gen_help[] =
    "What is shown\n"
    "  --layers LIST      hidden states k to look through: 1:13, 0:24:4, 1,5,9, all, last (default 1:N+1, all blocks;\n"
    "                     k = 0 is the embeddings, k = N the whole encoder, which is the ordinary image)\n"
    "  --blocks LIST      the same, counting blocks as the NNsight tutorial does: block b is k = b + 1\n"
    "  --encoder NAME     text encoder studied, by folder name or number (the second of two, else the only one);\n"
    "                     SDXL: also both, the first at the same depth as the second\n"
    "  --norm on|off      the encoder's final norm on the chosen state (on)\n"
    "  --other MODE       what the encoder that is not studied is fed: empty (the empty prompt; default) or prompt\n"
    "  --pooled MODE      SDXL, encoder 2: pooled text vector from the lens (default), the full prompt or the empty "
    "one\n"
    "  --max-tokens N     length that T5 pads to (the model's own)\n"
    "How it is generated\n"
    "  --seed S           seed of the noise, 0..2^64-1 or -1 (17)\n"
    "  --seeds S,S,...    several images per prompt and layer; a:b counts from a to b-1\n"
    "  --seed-offset      add the prompt's number to the seed, as the tutorial does for several prompts\n"
    "  --steps N          steps of the scheduler (Stable Diffusion, SDXL: 50; IF: 100; FLUX.1-schnell: 1, dev: 28)\n"
    "  --guidance G       classifier-free guidance, 1 or less turns it off (Stable Diffusion: 7.5; SDXL: 5; IF: 7);\n"
    "                     FLUX.1-dev: guidance that the network is given (3.5)\n"
    "  --size WxH         pixels (the model's own)\n"
    "  --scheduler NAME   pndm, ddim, euler, dpm++, ddpm or flow-euler (the folder's own)\n"
    "  --noise MODE       shared: the same noise for every layer (default); sequential: one generator runs on\n"
    "                     from layer to layer, as in the paper's code\n"
    "  --rng NAME         torch-cuda[:SMS] (default) or torch-cpu: whose noise a seed gives\n"
    "  --dtype NAME       auto, f32, bf16 or (CUDA) f16 (auto: bf16 where the hardware has it); e4m3 (CUDA, compute\n"
    "                     capability 8.9 or later): bf16, with the denoiser's matrix products in 8 bits\n"
    "  --vae-dtype NAME   f32, bf16 or f16 for the VAE alone (as --dtype, where the VAE does not overflow in it)\n"
    "  --resident MODE    FLUX, T5-XXL: all: weights stay in memory; stream: block by block from the file; auto\n"
    "  --upscale DIR      DeepFloyd IF's second stage: enlarge every picture four times, under the same condition;\n"
    "                     the small ones go to stage1/\n"
    "  --upscale-steps N (50), --upscale-guidance G (4), --upscale-seed S (the image's own seed)\n"
    "  --original-size WxH, --crop X,Y, --target-size WxH   what SDXL is told of the picture (its size, uncropped)\n"
    "  --batch N          images at once (auto)\n"
    "  --vae-tile N       decode in tiles of N latent pixels, a multiple of 4; 0 never (auto: when memory is short)\n"
    "What is written\n"
    "  --out DIR          folder for manifest.json, images/, the figure and report.html, a page to look through them;\n"
    "                     an unfinished sweep is resumed there\n"
    "  --titles MODE      layer: cells are titled by k; block: by block, as in the tutorial\n"
    "  --title NAME       the model's name in titles (the folder's)\n"
    "  --save-latents     also write latents.safetensors\n"
    "Running\n"
    "  --device NAME      cpu (what auto means), cuda, cuda:N     --threads N   CPU threads (all)\n"
    "  --choices DIR      on a GPU: compute by the same kernels as the sweep in DIR, which chose them by measurement\n"
    "  --dry-run          print plan, memory and work, make nothing\n"
    "  --json             one JSON object on stdout: out, figures, report, images {total, made, resumed}, plan, "
    "warnings, ...\n"
    "  --quiet            errors only on stderr; the path of the figure (or folder) still goes to stdout\n";

void gen_defaults(struct gen_args *a)
{
    *a = (struct gen_args){.norm = true,
                           .guidance = NAN,
                           .upscale_guidance = NAN,
                           .rng = RNG_TORCH_CUDA,
                           .text = TEXT_HF5,
                           .clean_caption = true,
                           .vae_tile = -1,
                           .seeds = {17},
                           .n_seeds = 1};
}

struct preset {
    const char *name, *class_name, *layers, *prompt, *scheduler, *size;
    bool blocks;
    uint64_t seed;
    int64_t steps;
    double guidance;
    enum lens_noise noise;
};

/* The NNsight tutorial's cells (of the larger models it shows every second block); the paper's code for Stable
 * Diffusion 2.1 (main_sd.py: DPM-Solver++, one generator with seed 42, layers 3, 7, ..., 23 of its annotations). */
static const struct preset presets[] = {
    {.name = "tutorial-sd15",
     .class_name = "StableDiffusionPipeline",
     .layers = "all",
     .blocks = true,
     .seed = 17,
     .steps = 50,
     .guidance = 7.5,
     .prompt = "A few people are in the ocean splashing around"},
    {.name = "tutorial-if",
     .class_name = "IFPipeline",
     .layers = "0:23:2",
     .blocks = true,
     .seed = 128998123,
     .steps = 100,
     .guidance = 7,
     .prompt = "A few people are in the ocean splashing around"},
    {.name = "tutorial-sdxl",
     .class_name = "StableDiffusionXLPipeline",
     .layers = "0:31:2",
     .blocks = true,
     .seed = 17,
     .steps = 40,
     .guidance = 5,
     .prompt = "A few people are in the ocean splashing around"},
    {.name = "tutorial-flux",
     .class_name = "FluxPipeline",
     .layers = "0:23:2",
     .blocks = true,
     .size = "512x512",
     .seed = 17,
     .steps = 1,
     .guidance = 0,
     .prompt = "Penguin playing chess at a wooden table in a snowy landscape."},
    {.name = "paper-sd21",
     .class_name = "StableDiffusionPipeline",
     .layers = "3:24:4",
     .scheduler = "dpm++",
     .seed = 42,
     .steps = 50,
     .guidance = 7.5,
     .noise = LENS_SEQUENTIAL},
};

static const struct preset *find_preset(const char *name, struct dl_err *e)
{
    enum { N = sizeof presets / sizeof *presets };
    const char *names[N];
    for (int i = 0; i < N; i++) names[i] = presets[i].name;
    int i = cli_choice("--preset", name, N, names, e);
    return i < 0 ? NULL : &presets[i];
}

void gen_preset_first(struct gen_args *a, int argc, char **argv, const struct option *options)
{
    opterr = 0, optind = 1;
    for (int v; (v = getopt_long(argc, argv, "-:h", options, NULL)) != -1;) {
        const struct preset *p = v == GEN_PRESET ? find_preset(optarg, NULL) : NULL;
        if (!p) continue;
        a->preset = p->name, a->preset_class = p->class_name, a->preset_layers = true;
        a->layers = p->layers, a->blocks = p->blocks, a->titles_block = p->blocks;
        a->scheduler = p->scheduler, a->size = p->size, a->steps = p->steps, a->guidance = p->guidance,
        a->noise = p->noise;
        a->seeds[0] = p->seed, a->n_seeds = 1, a->text = TEXT_HF4;
        a->preset_prompt = p->prompt;
    }
}

static int take_rng(struct gen_args *a, const char *text, struct dl_err *e)
{
    if (!strcmp(text, "torch-cpu")) return a->rng = RNG_TORCH_CPU, 0;
    a->rng = RNG_TORCH_CUDA;
    if (!strcmp(text, "torch-cuda")) return 0;
    if (!strncmp(text, "torch-cuda:", 11)) return cli_int("--rng torch-cuda:SMS", text + 11, 1, 4096, &a->rng_sms, e);
    return dl_fail(e, DL_EUSAGE, "--rng %s: expected torch-cpu, torch-cuda or torch-cuda:SMS", text);
}

static int on_off(const char *option, bool *out, struct dl_err *e)
{
    static const char *const names[] = {"off", "on"};
    int i = cli_choice(option, optarg, 2, names, e);
    *out = i == 1;
    return i < 0 ? -1 : 0;
}

int gen_take(struct gen_args *a, int v, struct dl_err *e)
{
    static const char *const noises[] = {"shared", "sequential"}, *const texts[] = {"hf5", "hf4"},
                             *const titles[] = {"layer", "block"}, *const others[] = {"empty", "prompt"},
                             *const pooled[] = {"lens", "full", "empty"},
                             *const residents[] = {"auto", "all", "stream"};
    int i = 0;
    switch (v) {
    case GEN_MODEL: a->model = optarg; break;
    case GEN_OUT: a->out = optarg; break;
    case GEN_PROMPT: a->prompt = optarg; break;
    case GEN_PROMPTS: a->prompts_file = optarg; break;
    case GEN_LAYERS: a->layers = optarg, a->blocks = a->preset_layers = false; break;
    case GEN_BLOCKS: a->layers = optarg, a->blocks = true, a->preset_layers = false; break;
    case GEN_ENCODER: a->encoder = optarg; break;
    case GEN_STEPS: return cli_int("--steps", optarg, 1, 1000, &a->steps, e);
    case GEN_GUIDANCE: return cli_float("--guidance", optarg, 0, 1000, &a->guidance, e);
    case GEN_SIZE: a->size = optarg; break;
    case GEN_SCHEDULER: a->scheduler = optarg; break;
    case GEN_NEGATIVE: a->negative = optarg; break;
    case GEN_NORM: return on_off("--norm", &a->norm, e);
    case GEN_NOISE:
        a->noise = (i = cli_choice("--noise", optarg, 2, noises, e)) == 1 ? LENS_SEQUENTIAL : LENS_SHARED;
        break;
    case GEN_DTYPE: a->dtype = optarg; break;
    case GEN_BATCH: a->batch = optarg; break;
    case GEN_PRESET: return find_preset(optarg, e) ? 0 : -1; /* its values are there: gen_preset_first */
    case GEN_RNG: return take_rng(a, optarg, e);
    case GEN_SEED: a->n_seeds = 1; return prompts_seed("--seed", optarg, &a->seeds[0], e);
    case GEN_SEEDS: a->n_seeds = i = prompts_seeds("--seeds", optarg, a->seeds, GEN_SEEDS_MAX, e); break;
    case GEN_SEED_OFFSET: a->seed_offset = true; break;
    case GEN_TEXT: a->text = (i = cli_choice("--text", optarg, 2, texts, e)) == 1 ? TEXT_HF4 : TEXT_HF5; break;
    case GEN_TITLES: a->titles_block = (i = cli_choice("--titles", optarg, 2, titles, e)) == 1; break;
    case GEN_SAVE_LATENTS: a->save_latents = true; break;
    case GEN_VAE_TILE:
        a->given |= PIPE_VAE;
        if (!strcmp(optarg, "auto")) return a->vae_tile = -1, 0;
        if (cli_int("--vae-tile", optarg, 0, 4096, &a->vae_tile, e) < 0) return -1;
        if (a->vae_tile % 4) return dl_fail(e, DL_EUSAGE, "--vae-tile %s: expected a multiple of 4", optarg);
        break;
    case GEN_TITLE: a->title = optarg; break;
    case GEN_CHOICES: a->choices = optarg; break;
    case GEN_OTHER:
        a->given |= PIPE_OTHER;
        a->other_prompt = (i = cli_choice("--other", optarg, 2, others, e)) == 1;
        break;
    case GEN_POOLED:
        a->given |= PIPE_POOLED;
        a->pooled = (enum pipe_pooled)(i = cli_choice("--pooled", optarg, 3, pooled, e));
        break;
    case GEN_MAX_TOKENS:
        a->given |= PIPE_MAX_TOKENS;
        return cli_int("--max-tokens", optarg, 2, 4096, &a->max_tokens, e);
    case GEN_UPSCALE: a->given |= PIPE_UPSCALE, a->upscale = optarg; break;
    case GEN_UPSCALE_STEPS:
        a->given |= PIPE_UPSCALE;
        return cli_int("--upscale-steps", optarg, 1, 1000, &a->upscale_steps, e);
    case GEN_UPSCALE_GUIDANCE:
        a->given |= PIPE_UPSCALE;
        return cli_float("--upscale-guidance", optarg, 0, 1000, &a->upscale_guidance, e);
    case GEN_UPSCALE_SEED:
        a->given |= PIPE_UPSCALE, a->upscale_seed_set = true;
        return prompts_seed("--upscale-seed", optarg, &a->upscale_seed, e);
    case GEN_CLEAN_CAPTION: a->given |= PIPE_CLEAN_CAPTION; return on_off("--clean-caption", &a->clean_caption, e);
    case GEN_VAE_DTYPE: a->given |= PIPE_VAE, a->vae_dtype = optarg; break;
    case GEN_ORIGINAL_SIZE: a->given |= PIPE_CROP, a->original_size = optarg; break;
    case GEN_CROP: a->given |= PIPE_CROP, a->crop = optarg; break;
    case GEN_TARGET_SIZE: a->given |= PIPE_CROP, a->target_size = optarg; break;
    case GEN_RESIDENT:
        a->given |= PIPE_RESIDENT;
        a->resident = (enum pipe_resident)(i = cli_choice("--resident", optarg, 3, residents, e));
        break;
    default: break;
    }
    return i < 0 ? -1 : 0;
}

int gen_prompts(const struct gen_args *a, struct prompts *ps, struct dl_err *e)
{
    const char *prompt = a->prompt || a->prompts_file ? a->prompt : a->preset_prompt;
    if (prompt && a->prompts_file) return dl_fail(e, DL_EUSAGE, "--prompt and --prompts exclude each other");
    if (a->negative && prompts_check(a->negative, e) < 0) return dl_fail_in(e, "--negative");
    ps->seed_offset = a->seed_offset;
    if (a->prompts_file) return prompts_read(ps, a->prompts_file, a->negative, a->seeds, a->n_seeds, e);
    if (!prompt) return dl_fail(e, DL_EUSAGE, "--prompt TEXT or --prompts FILE is needed");
    if (prompts_check(prompt, e) < 0) return dl_fail_in(e, "--prompt");
    return prompts_add(ps, prompt, a->negative, a->seeds, a->n_seeds, e);
}
