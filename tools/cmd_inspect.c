#include "tools/measure.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: dlens inspect DIR [--size WxH] [--dtype NAME] [--batch N] [--measure] [--json]\n"
    "\n"
    "What a model folder holds: components, tensors, parameters; every tensor that is missing, extra or mis-shaped;\n"
    "the layers under all their names; and what a sweep over all layers would need. Nothing is loaded, but:\n"
    "\n"
    "  DIR                folder in diffusers layout, or a hub id that lies in the local Hugging Face cache\n"
    "  --size, --dtype, --batch, --steps, --upscale, --max-tokens, --resident, --device, --threads   as for dlens "
    "sweep\n"
    "  --measure          one evaluation of the denoiser in f32 and in --dtype (bf16, f16 or e4m3) with the folder's "
    "own\n"
    "                     weights: the error of the prediction, and of every block; small unless --size says "
    "otherwise\n"
    "  --json             one JSON object on stdout        --quiet       errors only\n";

enum { INSPECT_MEASURE = GEN_END };

static const struct option options[] = {CLI_OPTIONS,
                                        {"size", required_argument, NULL, GEN_SIZE},
                                        {"dtype", required_argument, NULL, GEN_DTYPE},
                                        {"batch", required_argument, NULL, GEN_BATCH},
                                        {"steps", required_argument, NULL, GEN_STEPS},
                                        {"upscale", required_argument, NULL, GEN_UPSCALE},
                                        {"max-tokens", required_argument, NULL, GEN_MAX_TOKENS},
                                        {"resident", required_argument, NULL, GEN_RESIDENT},
                                        {"measure", no_argument, NULL, INSPECT_MEASURE},
                                        {0}};

struct inspect_args {
    struct gen_args gen;
    bool measure;
};

struct inspect {
    struct cli *cli;
    const struct pipe *pipe;
    json_t *parts, *faults;
    const char *part; /* whose faults come now */
    int told;
};

enum { FAULTS_TOLD = 40 };
static const char *const fault_name[] = {"missing", "mis-shaped", "wrong type", "extra"};

static void fault(void *user, enum bind_fault f, const char *name, const char *text)
{
    struct inspect *i = user;
    json_array_append_new(i->faults,
                          json_pack("{s:s, s:s, s:s}", "fault", fault_name[f], "tensor", name, "text", text));
    if (!i->cli->json && i->told++ < FAULTS_TOLD) printf("  %s: %s: %s\n", fault_name[f], name, text);
}

static void part(void *user, const char *name, const struct st_set *files)
{
    struct inspect *i = user;
    int64_t params = 0, bytes = 0, types[DL_NTYPES + 1] = {0};
    char a[32], list[128] = "";
    for (int64_t j = 0; j < st_set_count(files); j++) {
        const struct st_tensor *t = st_set_at(files, j);
        int64_t n = 1;
        for (int d = 0; d < t->nd; d++) n *= t->dim[d];
        params += n, bytes += t->bytes, types[t->t]++;
    }
    for (int t = 0; t < DL_NTYPES; t++)
        if (types[t])
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", *list ? ", " : "", dl_type_name(t));
    const char *cls = model_dir_class(&i->pipe->dir, name);
    json_array_append_new(i->parts,
                          json_pack("{s:s, s:s, s:I, s:I, s:I, s:s, s:i}", "name", name, "class", cls ? cls : "",
                                    "tensors", (json_int_t)st_set_count(files), "parameters", (json_int_t)params,
                                    "bytes", (json_int_t)bytes, "types", list, "files", st_set_file_count(files)));
    if (!i->cli->json)
        printf("%-16s %-28s %5" PRId64 " tensors %12" PRId64 " parameters  %9s %s in %d file%s\n", name, cls ? cls : "",
               st_set_count(files), params, cli_bytes(a, bytes), list, st_set_file_count(files),
               st_set_file_count(files) == 1 ? "" : "s");
}

/* The layers of the encoder that is studied by default, under the names that other programs give them where they can
 * choose it. diffusers' clip_skip = s feeds the state s blocks before the ordinary one; stable-diffusion.cpp and
 * ComfyUI count the last as 1 and -1. */
static void aliases(const struct pipe *p)
{
    const struct pipe_encoder *enc = &p->encoder[p->studied];
    int n = enc->blocks, ordinary = n - enc->left_out;
    printf("\nlayers of %s: k is the position in hidden_states; the norm is applied to every one\n", enc->folder);
    printf("  %4s  %14s", "k", "tutorial block");
    if (enc->clip_skip) printf("  %9s  %20s  %22s", "diffusers", "stable-diffusion.cpp", "ComfyUI");
    printf("\n");
    for (int k = 0; k <= n; k++) {
        char block[16] = "-", skip[32] = "-", sd[32] = "-", comfy[40] = "-";
        if (k > 0) {
            snprintf(block, sizeof block, "%d", k - 1);
            if (k <= ordinary) snprintf(skip, sizeof skip, k == ordinary ? "none" : "skip %d", ordinary - k);
            snprintf(sd, sizeof sd, "clip-skip %d", n - k + 1);
            snprintf(comfy, sizeof comfy, "stop_at_clip_layer %d", k - n - 1);
        }
        printf("  %4d  %14s", k, block);
        if (enc->clip_skip) printf("  %9s  %20s  %22s", skip, sd, comfy);
        printf("%s\n", k == 0          ? "  embeddings"
                       : k != ordinary ? ""
                       : enc->left_out ? "  the ordinary image with --norm off --other prompt"
                                       : "  the ordinary image");
    }
}

static int inspect_run(struct cli *c, void *user, char *line, struct dl_err *e)
{
    const struct inspect_args *args = user;
    const struct gen_args *a = &args->gen;
    struct gen_model m = {0};
    struct prompts ps = {0};
    struct range r = {0};
    struct lens_job job;
    struct pipe_plan plan;
    struct inspect i = {.cli = c, .parts = json_array(), .faults = json_array()};
    int rc = -1;
    (void)line;
    json_object_set_new(c->result, "parts", i.parts);
    json_object_set_new(c->result, "faults", i.faults);
    if (!a->model) return dl_fail(e, DL_EUSAGE, "a model folder is needed");
    if (gen_open(c, a, &m, e) < 0) goto done;
    struct pipe_lens lens;
    if (!m.pipe->upscales && gen_lens(a, m.pipe, &lens, e) < 0) goto done; /* before anything is printed */
    i.pipe = m.pipe;
    m.pipe->report = fault, m.pipe->report_user = &i;
    json_object_set_new(c->result, "model", cli_string(m.pipe->dir.path));
    json_object_set_new(c->result, "class", cli_string(m.pipe->dir.class_name));
    json_object_set_new(c->result, "blocks", json_integer(m.pipe->encoder[m.pipe->studied].blocks));
    if (!c->json) printf("%s: %s\n", m.pipe->dir.path, m.pipe->dir.class_name);
    rc = pipe_check(m.pipe, part, &i, e);
    c->tell_failure = rc < 0; /* what was found is the result */
    if (!c->json && i.told > FAULTS_TOLD) printf("  and %d more (--json lists all)\n", i.told - FAULTS_TOLD);
    if (rc < 0) goto done;
    if (args->measure) {
        rc = measure_run(c, a, &m, e);
        goto done;
    }
    if (m.pipe->upscales) {
        json_object_set_new(c->result, "upscales", json_integer(m.pipe->upscales));
        if (!c->json)
            printf("\na second stage: it enlarges pictures %d times (--upscale beside the first stage's --model)\n",
                   m.pipe->upscales);
        goto done;
    }
    if (!c->json) aliases(m.pipe);
    if (prompts_add(&ps, "", NULL, a->seeds, a->n_seeds, e) < 0 || gen_job(a, &m, &ps, &r, &job, e) < 0 ||
        lens_plan(m.pipe, &job, &plan, e) < 0)
        rc = -1;
    else {
        if (!c->json) printf("\na sweep over %d layers:\n", r.n);
        gen_tell_plan(c, &job, &plan, c->json ? NULL : stdout);
    }
done:
    range_close(&r);
    prompts_close(&ps);
    gen_close(&m);
    return rc;
}

static int take(void *user, int v, struct dl_err *e)
{
    struct inspect_args *a = user;
    if (v == INSPECT_MEASURE) return a->measure = true, 0;
    if (v != CLI_FILE) return gen_take(&a->gen, v, e);
    a->gen.model = optarg;
    return 0;
}

int cmd_inspect(int argc, char **argv)
{
    struct inspect_args a = {0};
    gen_defaults(&a.gen);
    return cli_main(
        argc, argv,
        &(struct cli_main){
            .command = "inspect", .help = help, .options = options, .max_files = 1, .take = take, .run = inspect_run},
        &a);
}
