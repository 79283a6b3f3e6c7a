#include "tools/bench.h"
#include "tools/bench/devices.h"
#include "tools/bench/roofline.h"
#ifdef DLENS_HAVE_CUDA
#include "kernels/cuda/cuda.h"
#endif

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: dlens bench kernels|model|sweep [--like NAME | --model DIR] [options]\n"
    "       dlens bench [sweep] --predict CARD [--like NAME | --model DIR] [options]\n"
    "\n"
    "How fast it is, on the shapes of a real model. Without a checkpoint: configs and shapes are those of --like, "
    "weights\n"
    "are made up in the device's memory, the same ones everywhere, and nothing is written to the disk.\n"
    "\n"
    "  kernels            every distinct op of one denoising step: checked against the plain C reference, timed alone\n"
    "                     on a working set larger than the caches, held against this machine's measured roof (a large\n"
    "                     product of the type, a large copy) and the vendor's library\n"
    "  model              one denoising step as a whole: ms, share of each kind of op, memory; gaps between ops or, on "
    "a\n"
    "                     GPU, between kernels, and which kernels take the time (by CUPTI, where the build found it)\n"
    "  sweep              images a second for each batch size: conditions, denoising, decoding; the text encoders and\n"
    "                     writing images are left out. On a GPU each size is warmed up before\n"
    "  --predict CARD     no measurement: what a sweep would take on a card, each op at the larger of its FLOPs over "
    "the\n"
    "                     peak and its bytes over the bandwidth, plus a launch. h200, rtx5090, rtx4090, rtx3090, "
    "a6000,\n"
    "                     or a JSON file: {\"name\", \"f16_tflops\", \"bf16_tflops\", \"f32_tflops\", \"gb_per_s\",\n"
    "                     \"memory_gib\", \"launch_us\", \"source\"}\n"
    "\n"
    "  --like NAME        the model: sd15 (default) or another name that dlens synth knows\n"
    "  --scale SCALE      full (default) or tiny: the real size of --like, or its small version for trying things out\n"
    "  --model DIR        a model folder or hub id instead; its own weights are used\n"
    "  --size WxH, --steps N, --guidance G   the model's own (model: 8 steps)\n"
    "  --layers N         images of a sweep, one a layer (all blocks)\n"
    "  --batch N,N,...    images at once (model: 1; sweep: 1,2,4,... up to all; predict: what fits)\n"
    "  --dtype NAME       f32, bf16, f16 (CPU: bf16 where it computes in it, else f32; GPU and --predict: f16, FLUX "
    "bf16);\n"
    "                     model and sweep also e4m3, on a GPU of compute capability 8.9 or later\n"
    "  --rows N           kernels: rows of a step, conditional and unconditional (2; on a GPU 24)\n"
    "  --phase LIST       kernels: of text, prepare, first, step, decode, or all (step)\n"
    "  --filter TEXT      kernels: only ops with TEXT in kind and shape, for example \"conv\" or \"d40 q4096\"\n"
    "  --repeat N         how often each is timed (kernels: about a second's worth)\n"
    "  --ways             kernels, GPU: every way that there is to compute an op, and not only the one chosen\n"
    "  --no-check         kernels: no comparison with the reference, which takes most of the time on a CPU\n"
    "  --plot FILE        kernels: the roofline as a picture, .png or .svg\n"
    "  --against FILE     predict: what `dlens bench kernels --json` measured, beside the prediction\n"
    "  --top N            predict: how many ops are shown (12)\n"
    "  --dry-run          kernels: the list of ops, nothing measured\n"
    "  --device D         cpu (what auto means), cuda, cuda:N     --threads N   of the CPU\n"
    "  --save FILE        also write what --json would print into FILE\n"
    "  --json             one JSON object on stdout   --quiet       errors only\n";

enum {
    LIKE = CLI_OWN,
    SCALE,
    MODEL,
    SIZE,
    STEPS,
    GUIDANCE,
    LAYERS,
    BATCH,
    DTYPE,
    ROWS,
    PHASE,
    FILTER,
    REPEAT,
    NO_CHECK,
    PLOT,
    PREDICT,
    AGAINST,
    TOP,
    SAVE,
    WAYS
};

static const struct option options[] = {CLI_OPTIONS,
                                        {"like", required_argument, NULL, LIKE},
                                        {"scale", required_argument, NULL, SCALE},
                                        {"model", required_argument, NULL, MODEL},
                                        {"size", required_argument, NULL, SIZE},
                                        {"steps", required_argument, NULL, STEPS},
                                        {"guidance", required_argument, NULL, GUIDANCE},
                                        {"layers", required_argument, NULL, LAYERS},
                                        {"batch", required_argument, NULL, BATCH},
                                        {"dtype", required_argument, NULL, DTYPE},
                                        {"rows", required_argument, NULL, ROWS},
                                        {"phase", required_argument, NULL, PHASE},
                                        {"filter", required_argument, NULL, FILTER},
                                        {"repeat", required_argument, NULL, REPEAT},
                                        {"no-check", no_argument, NULL, NO_CHECK},
                                        {"plot", required_argument, NULL, PLOT},
                                        {"predict", required_argument, NULL, PREDICT},
                                        {"against", required_argument, NULL, AGAINST},
                                        {"top", required_argument, NULL, TOP},
                                        {"save", required_argument, NULL, SAVE},
                                        {"ways", no_argument, NULL, WAYS},
                                        {0}};

static int take_what(struct bench_args *a, struct dl_err *e)
{
    static const char *const names[] = {"kernels", "model", "sweep"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(optarg, names[i])) return a->what = (enum bench_what)(BENCH_KERNELS + i), 0;
    return dl_fail(e, DL_EUSAGE, "%.100s: expected kernels, model or sweep", optarg);
}

static int take_size(struct bench_sweep *s, struct dl_err *e)
{
    char end;
    if (sscanf(optarg, "%5dx%5d%c", &s->width, &s->height, &end) == 2 && s->width > 0 && s->height > 0) return 0;
    return dl_fail(e, DL_EUSAGE, "--size %s: expected WIDTHxHEIGHT in pixels, such as 512x512", optarg);
}

static int take_batches(struct bench_args *a, struct dl_err *e)
{
    const char *at = optarg;
    a->n_batches = 0;
    for (;;) {
        char one[16] = "";
        size_t n = strcspn(at, ",");
        int64_t v;
        snprintf(one, sizeof one, "%.*s", n < 15 ? (int)n : 15, at);
        if (a->n_batches == BENCH_BUCKETS)
            return dl_fail(e, DL_EUSAGE, "--batch %s: at most %d sizes", optarg, BENCH_BUCKETS);
        if (cli_int("--batch", one, 1, 1024, &v, e) < 0) return -1;
        a->batches[a->n_batches++] = (int)v;
        if (!at[n]) return 0;
        at += n + 1;
    }
}

static int take_phases(struct bench_args *a, struct dl_err *e)
{
    static const char *const names[] = {"text", "prepare", "first", "step", "decode", "all"};
    const char *at = optarg;
    a->phases = 0;
    for (;;) {
        char one[16] = "";
        size_t n = strcspn(at, ",");
        snprintf(one, sizeof one, "%.*s", n < 15 ? (int)n : 15, at);
        int i = cli_choice("--phase", one, 6, names, e);
        if (i < 0) return -1;
        a->phases |= i == 5 ? 31u : 1u << i;
        if (!at[n]) return 0;
        at += n + 1;
    }
}

static int take_int(const char *name, int64_t least, int64_t most, int *out, struct dl_err *e)
{
    int64_t v;
    if (cli_int(name, optarg, least, most, &v, e) < 0) return -1;
    *out = (int)v;
    return 0;
}

static int take(void *user, int v, struct dl_err *e)
{
    struct bench_args *a = user;
    static const char *const scales[] = {"full", "tiny"};
    int i;
    switch (v) {
    case CLI_FILE: return take_what(a, e);
    case LIKE: a->source.like = optarg; break;
    case SCALE:
        if ((i = cli_choice("--scale", optarg, 2, scales, e)) < 0) return -1;
        a->source.tiny = i == 1;
        break;
    case MODEL: a->source.dir = optarg; break;
    case SIZE: return take_size(&a->sweep, e);
    case STEPS: return take_int("--steps", 1, 10000, &a->sweep.steps, e);
    case GUIDANCE: return cli_float("--guidance", optarg, 0, 1000, &a->sweep.guidance, e);
    case LAYERS: return take_int("--layers", 1, 1024, &a->sweep.layers, e);
    case BATCH: return take_batches(a, e);
    case DTYPE: a->dtype = optarg; break;
    case ROWS: return cli_int("--rows", optarg, 1, 2048, &a->rows, e);
    case PHASE: return take_phases(a, e);
    case FILTER: a->filter = optarg; break;
    case REPEAT: return cli_int("--repeat", optarg, 1, 100000, &a->repeat, e);
    case NO_CHECK: a->check = false; break;
    case PLOT: a->plot = optarg; break;
    case PREDICT: a->predict = optarg; break;
    case AGAINST: a->against = optarg; break;
    case SAVE: a->save = optarg; break;
    case WAYS: a->ways = true; break;
    case TOP: return cli_int("--top", optarg, 1, 1000, &a->top, e);
    }
    return 0;
}

int bench_device_open(const struct cli *c, struct bench_args *a, struct bench_device *d, struct dl_err *e)
{
    static const char *const names[] = {"f32", "f16", "bf16", "e4m3"};
    static const int types[] = {DL_F32, DL_F16, DL_BF16, DL_E4M3};
    if (cli_device(c, &d->be, &d->ctx, e) < 0) return -1;
    bool cuda = !strcmp(d->be->name, "cuda");
    a->sweep.type = cuda ? DL_F16 : d->be->supports(d->ctx, DL_BF16) ? DL_BF16 : DL_F32;
    if (cuda && a->source.like && !strncmp(a->source.like, "flux", 4)) a->sweep.type = DL_BF16;
    if (!a->dtype) return 0;
    int i = cli_choice("--dtype", a->dtype, a->what == BENCH_KERNELS ? 3 : 4, names, e);
    if (i < 0) return -1;
    a->sweep.type = types[i];
    if (types[i] == DL_E4M3 && !d->be->supports(d->ctx, DL_E4M3))
        return dl_fail(e, DL_EUSAGE, "--dtype e4m3: this %s does not compute in it", cuda ? "GPU" : "CPU");
    return 0;
}

void bench_device_close(struct bench_device *d)
{
    if (d->be) d->be->close(d->ctx);
    *d = (struct bench_device){0};
}

char *bench_device_text(const struct cli *c, const struct bench_device *d, char out[200])
{
    char line[256], name[128] = "unknown processor";
    if (d->be->device) {
        snprintf(out, 200, "%s", d->be->device);
        return out;
    }
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "model name : %127[^\n]", name) == 1) break;
    if (f) fclose(f);
    if (c->threads)
        snprintf(out, 200, "%s: %s, %d thread%s", d->be->name, name, c->threads, c->threads == 1 ? "" : "s");
    else
        snprintf(out, 200, "%s: %s, all cores", d->be->name, name);
    return out;
}

void bench_tell(struct cli *c, const struct bench_args *a, const struct bench_model *m, const struct pipe_plan *p)
{
    const struct bench_sweep *s = &a->sweep;
    char size[32];
    snprintf(size, sizeof size, "%dx%d", s->width, s->height);
    json_object_set_new(c->result, "model", cli_string(a->source.like ? a->source.like : m->pipe->dir.spec));
    json_object_set_new(c->result, "scale", json_string(a->source.tiny ? "tiny" : "full"));
    json_object_set_new(c->result, "size", json_string(size));
    json_object_set_new(c->result, "dtype", json_string(dl_type_name(s->type)));
    json_object_set_new(c->result, "guidance", json_real(s->guidance));
    json_object_set_new(c->result, "layers", json_integer(s->layers));
    json_object_set_new(c->result, "steps", json_integer(s->steps));
    json_object_set_new(c->result, "evaluations", json_integer(p->evaluations));
    json_object_set_new(c->result, "batch", json_integer(p->batch));
    json_object_set_new(c->result, "step_flops", json_integer(p->step_flops));
    json_object_set_new(c->result, "step_bytes", json_integer(p->step_bytes));
    json_object_set_new(c->result, "weight_bytes", json_integer(p->denoiser_bytes + p->vae_bytes));
    json_object_set_new(c->result, "working_bytes", json_integer(p->keep_bytes + p->work_bytes));
}

/* Options that the chosen benchmark does not read. */
static int refuse_idle(const struct cli *c, const struct bench_args *a, struct dl_err *e)
{
    bool kernels = a->what == BENCH_KERNELS && !a->predict, predict = a->predict;
    if (a->source.like && a->source.dir)
        return dl_fail(e, DL_EUSAGE, "--like and --model: one of them names the model");
    if (a->source.dir && a->source.tiny) return dl_fail(e, DL_EUSAGE, "--scale: it belongs to --like");
    if (c->dry_run && !kernels) return dl_fail(e, DL_EUSAGE, "--dry-run: it belongs to dlens bench kernels");
    if (!kernels && (a->filter || a->plot || a->rows || a->phases || !a->check))
        return dl_fail(e, DL_EUSAGE, "%s: it belongs to dlens bench kernels",
                       a->filter   ? "--filter"
                       : a->plot   ? "--plot"
                       : a->rows   ? "--rows"
                       : a->phases ? "--phase"
                                   : "--no-check");
    if (kernels && a->n_batches) return dl_fail(e, DL_EUSAGE, "--batch: kernels take --rows");
    if (kernels && a->sweep.layers) return dl_fail(e, DL_EUSAGE, "--layers: kernels take --rows");
    if (!predict && a->against) return dl_fail(e, DL_EUSAGE, "--against: it belongs to --predict");
    if (!predict && a->top) return dl_fail(e, DL_EUSAGE, "--top: it belongs to --predict");
    if (predict && a->repeat) return dl_fail(e, DL_EUSAGE, "--repeat: a prediction measures nothing");
    if (predict && (a->what == BENCH_KERNELS || a->what == BENCH_MODEL))
        return dl_fail(e, DL_EUSAGE, "--predict: it predicts a sweep; leave out \"%s\"",
                       a->what == BENCH_KERNELS ? "kernels" : "model");
    if ((predict || a->what == BENCH_MODEL) && a->n_batches > 1)
        return dl_fail(e, DL_EUSAGE, "--batch: one size here; several are for dlens bench sweep");
    size_t n = a->plot ? strlen(a->plot) : 0;
    if (a->plot && (n < 5 || (strcmp(a->plot + n - 4, ".png") && strcmp(a->plot + n - 4, ".svg"))))
        return dl_fail(e, DL_EUSAGE, "--plot %s: expected a name that ends in .png or .svg", a->plot);
    if (a->plot && !roofline_built()) return dl_fail(e, DL_EUSAGE, "--plot: this dlens was built without cairo");
    return 0;
}

static int bench(struct cli *c, void *user, char *line, struct dl_err *e)
{
    struct bench_args *a = user;
    (void)line;
    if (a->what == BENCH_NONE && !a->predict)
        return dl_fail(e, DL_EUSAGE, "kernels, model, sweep or --predict CARD is needed; see dlens bench --help");
    if (refuse_idle(c, a, e) < 0) return -1;
    if (!a->source.like && !a->source.dir) a->source.like = "sd15";
    if (!a->phases) a->phases = 1u << TAPE_STEP;
    int rc = a->predict                 ? bench_predict(c, a, e)
             : a->what == BENCH_KERNELS ? bench_kernels(c, a, e)
             : a->what == BENCH_MODEL   ? bench_model(c, a, e)
                                        : bench_sweep(c, a, e);
    if (a->save && json_dump_file(c->result, a->save, JSON_COMPACT | JSON_SORT_KEYS) < 0 && rc == 0)
        return dl_fail(e, DL_EFAIL, "%s: cannot be written: %s", a->save, strerror(errno));
    return rc;
}

int cmd_bench(int argc, char **argv)
{
    struct bench_args a = {.check = true, .sweep = {.guidance = NAN}};
    return cli_main(
        argc, argv,
        &(struct cli_main){
            .command = "bench", .help = help, .options = options, .max_files = 1, .take = take, .run = bench},
        &a);
}
