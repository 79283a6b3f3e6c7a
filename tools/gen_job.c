#include "lens/choices.h"
#include "lens/model_id.h"
#include "tools/gen.h"
#include "tools/progress.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int open_upscaler(const struct gen_args *a, const struct pipe_opts *o, struct gen_model *m, struct dl_err *e)
{
    if (prompts_check(a->upscale, e) < 0) return dl_fail_in(e, "--upscale");
    if (pipe_open(&m->upscaler, a->upscale, o, e) < 0) return -1;
    const struct pipe *u = m->upscaler;
    if (!u->upscales)
        return dl_fail(e, DL_EUSAGE, "--upscale %s: this is no second stage, which enlarges pictures, but %s",
                       a->upscale, u->dir.class_name);
    if (u->cond_width != m->pipe->cond_width)
        return dl_fail(e, DL_EINPUT, "--upscale %s: it takes text of width %d, and %s gives %d", a->upscale,
                       u->cond_width, m->pipe->title, m->pipe->cond_width);
    return 0;
}

int gen_open(const struct cli *c, const struct gen_args *a, struct gen_model *m, struct dl_err *e)
{
    *m = (struct gen_model){0};
    if (!a->model)
        return dl_fail(e, DL_EUSAGE,
                       "--model DIR is needed: a folder in diffusers layout, or a hub id in the local cache");
    if (prompts_check(a->model, e) < 0) return dl_fail_in(e, "--model"); /* manifests and figures name it */
    if (a->title && prompts_check(a->title, e) < 0) return dl_fail_in(e, "--title");
    if (cli_device(c, &m->be, &m->ctx, e) < 0) return -1;
    struct pipe_opts o = {.be = m->be,
                          .ctx = m->ctx,
                          .text = a->text,
                          .max_tokens = (int)a->max_tokens,
                          .clean_caption = a->clean_caption};
    if (pipe_open(&m->pipe, a->model, &o, e) < 0) return -1;
    if (a->upscale && m->pipe->honours & PIPE_UPSCALE && open_upscaler(a, &o, m, e) < 0) return -1;
    if (a->title) snprintf(m->pipe->title, sizeof m->pipe->title, "%s", a->title);
    return 0;
}

void gen_close(struct gen_model *m)
{
    pipe_close(m->upscaler);
    pipe_close(m->pipe);
    if (m->be) m->be->close(m->ctx);
    *m = (struct gen_model){0};
}

/* Options that other models honour and this one cannot. */
static int refuse_foreign(const struct gen_args *a, const struct pipe *p, struct dl_err *e)
{
    static const struct {
        unsigned bit;
        const char *name, *why;
    } known[] = {
        {PIPE_OTHER, "--other", "says what a second text encoder is fed, and this model has one"},
        {PIPE_POOLED, "--pooled", "is about SDXL's pooled text vector, which this model does not use"},
        {PIPE_MAX_TOKENS, "--max-tokens", "is about T5; CLIP's length is fixed by its position table"},
        {PIPE_UPSCALE, "--upscale", "adds DeepFloyd IF's second stage, and this model has none"},
        {PIPE_CLEAN_CAPTION, "--clean-caption", "is about DeepFloyd IF's prompts; see --text for CLIP"},
        {PIPE_CROP, "--original-size, --crop and --target-size", "are what SDXL is told of the picture"},
        {PIPE_RESIDENT, "--resident",
         "says how the weights of T5-XXL and of FLUX's transformer are read; this model's always stay in memory"},
        {PIPE_VAE, "--vae-tile and --vae-dtype", "are about a VAE, and this model makes pixels without one"},
    };
    if (a->preset && strcmp(a->preset_class, p->dir.class_name))
        return dl_fail(e, DL_EUSAGE, "--preset %s holds the settings of a %s, and %s is a %s", a->preset,
                       a->preset_class, p->title, p->dir.class_name);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (a->given & ~p->honours & known[i].bit)
            return dl_fail(e, DL_EUSAGE, "%s %s (%s: %s)", known[i].name, known[i].why, p->title,
                           p->dir.class_name);
    return 0;
}

static int pick_encoder(const struct gen_args *a, const struct pipe *p, struct dl_err *e)
{
    if (!a->encoder || (!strcmp(a->encoder, "both") && p->honours & PIPE_BOTH)) return p->studied;
    for (int i = 0; i < p->n_encoders; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", i + 1);
        if (!strcmp(a->encoder, p->encoder[i].folder) || !strcmp(a->encoder, number)) return i;
    }
    return dl_fail(e, DL_EUSAGE, "--encoder %s: this model has %s%s%s", a->encoder, p->encoder[0].folder,
                   p->n_encoders > 1 ? " and " : " only", p->n_encoders > 1 ? p->encoder[1].folder : "");
}

int gen_lens(const struct gen_args *a, const struct pipe *p, struct pipe_lens *l, struct dl_err *e)
{
    if (p->upscales)
        return dl_fail(e, DL_EUSAGE,
                       "--model %s: this is a second stage (%s), which enlarges pictures: name the first stage here "
                       "and this one with --upscale",
                       a->model, p->dir.class_name);
    if (refuse_foreign(a, p, e) < 0) return -1;
    *l = (struct pipe_lens){
        .encoder = pick_encoder(a, p, e), .norm = a->norm, .other_prompt = a->other_prompt, .pooled = a->pooled};
    if (l->encoder < 0) return -1;
    l->both = a->encoder && !strcmp(a->encoder, "both");
    if (l->both && a->given & PIPE_OTHER)
        return dl_fail(e, DL_EUSAGE, "--other: with --encoder both there is no other encoder");
    if (a->given & PIPE_POOLED && !p->encoder[l->encoder].pooled)
        return dl_fail(e, DL_EUSAGE, "--pooled: the pooled vector is that of %s, and %s is studied (see --other)",
                       p->encoder[!l->encoder].folder, p->encoder[l->encoder].folder);
    return 0;
}

static int read_size(const char *option, const char *text, int *w, int *h, struct dl_err *e)
{
    char end;
    if (sscanf(text, "%dx%d%c", w, h, &end) == 2 && *w > 0 && *h > 0 && *w <= 16384 && *h <= 16384) return 0;
    return dl_fail(e, DL_EUSAGE, "%s %s: expected WxH in pixels, such as 512x512, at most 16384 a side", option, text);
}

/* What SDXL is told of the picture. */
static int read_crop(const struct gen_args *a, struct pipe_gen *g, struct dl_err *e)
{
    char end;
    if (a->original_size && read_size("--original-size", a->original_size, &g->original_w, &g->original_h, e) < 0)
        return -1;
    if (a->target_size && read_size("--target-size", a->target_size, &g->target_w, &g->target_h, e) < 0) return -1;
    if (!a->crop || (sscanf(a->crop, "%d,%d%c", &g->crop_x, &g->crop_y, &end) == 2 && g->crop_x >= 0 &&
                     g->crop_y >= 0 && g->crop_x <= 16384 && g->crop_y <= 16384))
        return 0;
    return dl_fail(e, DL_EUSAGE, "--crop %s: expected X,Y in pixels, such as 0,0", a->crop);
}

/* The type that an option names, one of the first n; `otherwise` for auto (or none). */
static int pick_type(const char *option, const char *text, int n, const struct pipe *p, int otherwise, int *type,
                     struct dl_err *e)
{
    static const char *const names[] = {"auto", "f32", "bf16", "f16", "e4m3"};
    static const int types[] = {0, DL_F32, DL_BF16, DL_F16, DL_E4M3};
    int i = cli_choice(option, text ? text : "auto", n, names, e);
    if (i < 0) return -1;
    *type = i ? types[i] : otherwise;
    if (i && !p->be->supports(p->ctx, types[i]))
        return dl_fail(e, DL_EUSAGE, "%s %s: this %s does not compute in %s; use %s auto", option, text,
                       !strcmp(p->be->name, "cpu") ? "CPU" : "GPU", text, option);
    return 0;
}

static int set_upscale(const struct gen_args *a, struct pipe *u, struct lens_job *job, struct dl_err *e)
{
    if (!a->upscale && a->given & PIPE_UPSCALE)
        return dl_fail(e, DL_EUSAGE, "--upscale-steps, --upscale-guidance and --upscale-seed go with --upscale DIR");
    if (!u) return 0;
    job->up = (struct lens_upscale){.pipe = u, .one_seed = a->upscale_seed_set, .seed = a->upscale_seed};
    job->up.gen =
        (struct pipe_gen){.steps = a->upscale_steps ? (int)a->upscale_steps : u->def.steps,
                          .guidance = isnan(a->upscale_guidance) ? u->def.guidance : (float)a->upscale_guidance,
                          .type = job->gen.type,
                          .vae_type = -1};
    return 0;
}

int gen_job(const struct gen_args *a, const struct gen_model *m, const struct prompts *ps, struct range *r,
            struct lens_job *job, struct dl_err *e)
{
    struct pipe *p = m->pipe;
    struct pipe_lens lens;
    int kind = SCHED_FILE, type, vae_type;
    if (gen_lens(a, p, &lens, e) < 0 ||
        pick_type("--dtype", a->dtype, 5, p, p->be->supports(p->ctx, DL_BF16) ? DL_BF16 : DL_F32, &type, e) < 0 ||
        pick_type("--vae-dtype", a->vae_dtype, 4, p, -1, &vae_type, e) < 0)
        return -1;
    if (range_parse(r, a->layers ? a->layers : "1:", a->layers && a->blocks ? RANGE_BLOCKS : RANGE_LAYERS,
                    p->encoder[lens.encoder].blocks, e) < 0)
        return a->preset_layers ? dl_fail_in(e, "--preset %s", a->preset) : -1;
    struct pipe_gen *g = &job->gen;
    *job = (struct lens_job){.prompt = ps->p,
                             .n_prompts = ps->n,
                             .k = r->k,
                             .n_layers = r->n,
                             .lens = lens,
                             .noise = a->noise,
                             .rng = a->rng,
                             .rng_sms = (int)a->rng_sms,
                             .save_latents = a->save_latents};
    *g = (struct pipe_gen){.width = p->def.width,
                           .height = p->def.height,
                           .type = type,
                           .vae_tile = (int)a->vae_tile,
                           .vae_type = vae_type,
                           .resident = a->resident};
    g->steps = a->steps ? (int)a->steps : p->def.steps;
    g->guidance = isnan(a->guidance) ? p->def.guidance : (float)a->guidance;
    if (a->size && read_size("--size", a->size, &g->width, &g->height, e) < 0) return -1;
    if (read_crop(a, g, e) < 0) return -1;
    if (a->scheduler && (kind = sched_kind_of(a->scheduler)) < 0)
        return dl_fail(e, DL_EUSAGE, "--scheduler %s: known are pndm, ddim, euler, dpm++, ddpm and flow-euler",
                       a->scheduler);
    g->scheduler = (enum sched_kind)kind;
    int64_t batch = 0;
    if (a->batch && strcmp(a->batch, "auto") && cli_int("--batch", a->batch, 1, 4096, &batch, e) < 0) return -1;
    g->batch = (int)batch;
    if (set_upscale(a, m->upscaler, job, e) < 0) return -1;
    if (a->negative && p->embedded_guidance)
        return dl_fail(e, DL_EUSAGE, "--negative: %s has no negative prompts", p->title);
    if (a->negative && !lens_guided(p, job))
        return dl_fail(e, DL_EUSAGE, "--negative has no effect without guidance: --guidance must be above 1");
    return 0;
}

static int64_t images_of(const struct lens_job *job)
{
    int64_t n = 0;
    for (int i = 0; i < job->n_prompts; i++) n += (int64_t)job->prompt[i].n_seeds * job->n_layers;
    return n;
}

void gen_tell_plan(struct cli *c, const struct lens_job *job, const struct pipe_plan *plan, FILE *out)
{
    char a[32], b[32], d[32], f[32], g[32], text[1024], second[512] = "";
    int64_t images = images_of(job);
    double work =
        (double)images * ((double)plan->step_flops / plan->batch * plan->evaluations + (double)plan->decode_flops);
    if (job->up.pipe) {
        const struct pipe_plan *up = &job->up.plan;
        work += (double)images * (double)up->step_flops / up->batch * up->evaluations;
        snprintf(
            second, sizeof second,
            "\nsecond stage: %d x %d pixels, %d evaluations each, %d at once; denoiser %s, working memory %s beside "
            "the first's",
            job->up.gen.width, job->up.gen.height, up->evaluations, up->batch, cli_bytes(a, up->denoiser_bytes),
            cli_bytes(b, up->keep_bytes + up->work_bytes));
    }
    snprintf(text, sizeof text,
             "plan: %" PRId64 " image%s of %d x %d pixels, %s, %d evaluation%s each, %d at once%s; %.3g TFLOP in all\n"
             "memory: text encoder %s; then denoiser %s%s%s%s, working memory %s; at most %s at a time%s",
             images, images == 1 ? "" : "s", job->gen.width, job->gen.height, dl_type_name(job->gen.type),
             plan->evaluations, plan->evaluations == 1 ? "" : "s", plan->batch, plan->vae_tile ? ", VAE in tiles" : "",
             work * 1e-12, cli_bytes(a, plan->text_bytes + plan->text_work_bytes), cli_bytes(b, plan->denoiser_bytes),
             plan->streamed ? " (streamed block by block)" : "", plan->vae_bytes ? ", VAE " : "",
             plan->vae_bytes ? cli_bytes(d, plan->vae_bytes) : "",
             cli_bytes(f, plan->keep_bytes + plan->work_bytes), cli_bytes(g, plan->peak_bytes), second);
    if (out)
        fprintf(out, "%s\n", text);
    else
        cli_say(c, "%s", text);
    json_object_set_new(
        c->result, "plan",
        json_pack("{s:I, s:s, s:i, s:i, s:i, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "images", (json_int_t)images,
                  "dtype", dl_type_name(job->gen.type), "batch", plan->batch, "evaluations", plan->evaluations,
                  "vae_tile", plan->vae_tile, "streamed", plan->streamed, "text_bytes",
                  (json_int_t)(plan->text_bytes + plan->text_work_bytes), "denoiser_bytes",
                  (json_int_t)plan->denoiser_bytes, "vae_bytes", (json_int_t)plan->vae_bytes, "working_bytes",
                  (json_int_t)(plan->keep_bytes + plan->work_bytes), "peak_bytes", (json_int_t)plan->peak_bytes,
                  "step_flops", (json_int_t)plan->step_flops, "decode_flops", (json_int_t)plan->decode_flops));
}

void gen_warn_cut(struct cli *c, int i, const struct text_states st[PIPE_ENCODERS])
{
    char who[64];
    bool two = st[PIPE_ENCODERS - 1].hidden; /* which take texts of different lengths */
    if (i < 0)
        snprintf(who, sizeof who, "negative prompt");
    else
        snprintf(who, sizeof who, "prompt %d", i);
    for (int q = 0; q < PIPE_ENCODERS && st[q].hidden; q++) {
        const char *cut = st[q].truncated ? st[q].truncated : "";
        int n = (int)strlen(cut), shown = n;
        if (n > 160) /* a long one is shown up to a whole character */
            for (shown = 150; (cut[shown] & 0xc0) == 0x80; shown--) {
            }
        if (n)
            cli_warn(c, "%s%s%s: longer than %d tokens; cut off: \"%.*s%s\"%s", who, two ? ", " : "",
                     two ? st[q].encoder : "", st[q].tokens, shown, cut,
                     shown < n ? "..." : "", shown < n ? " (dlens tokens shows all of it)" : "");
    }
}

/* ---- the run ---- */

/* The choices of another sweep, or of the run that is resumed here, go to the backend and into the new manifest. A
 * manifest of this folder that cannot be read is manifest_open's to judge. */
static json_t *choices_of(const struct gen_run *g, struct dl_err *e)
{
    const char *from = g->args->choices;
    struct dl_err none = {0};
    struct manifest_doc d;
    json_t *kept = NULL;
    if (from && !g->pipe->be->choose) {
        dl_fail(e, DL_EUSAGE, "--choices: on this device nothing is chosen by measurement, so there is nothing to take");
        return NULL;
    }
    if (manifest_read(&d, from ? from : g->args->out, from ? e : &none) < 0) return from ? NULL : json_object();
    if (choices_recall(g->pipe->be, g->pipe->ctx, &d, &kept, e) < 0)
        dl_fail_in(e, "%s/manifest.json", from ? from : g->args->out);
    manifest_doc_close(&d);
    return kept;
}

static json_t *run_of(const struct gen_run *g, struct dl_err *e)
{
    const struct dl_backend *be = g->pipe->be;
    json_t *choices = choices_of(g, e);
    if (!choices) return NULL;
    json_t *run = json_pack("{s:s, s:i, s:i, s:s, s:b}", "device", be->name, "batch", g->plan->batch, "threads",
                            g->cli->threads, "titles", g->args->titles_block ? "block" : "layer", "save_latents",
                            g->args->save_latents);
    if (be->device) json_object_set_new(run, "gpu", cli_string(be->device));
    if (be->choose) json_object_set(run, "choices", choices);
    json_decref(choices);
    if (!run) dl_fail(e, DL_ENOMEM, "no memory for a manifest");
    return run;
}

static int open_folder(struct gen_run *g, struct manifest **m, struct dl_err *e)
{
    const struct lens_job *job = g->job;
    char id[SHA256_HEX];
    struct manifest_image *im = NULL;
    struct manifest_prompt *mp = calloc((size_t)job->n_prompts, sizeof *mp);
    json_t *settings = gen_settings(g, e);
    json_t *run = run_of(g, e);
    int64_t n = -1;
    int rc = -1;
    if (!mp)
        dl_fail(e, DL_ENOMEM, "no memory for a manifest");
    else if (!settings || !run)
        rc = -1; /* e says why */
    else if (model_fingerprint(&g->pipe->dir, id, e) == 0 && (n = lens_images(job, &im, e)) >= 0) {
        for (int i = 0; i < job->n_prompts; i++)
            mp[i] = (struct manifest_prompt){
                .text = job->prompt[i].text,
                .negative = lens_guided(g->pipe, job) ? lens_negative_of(g->pipe, &job->prompt[i]) : NULL};
        struct manifest_spec s = {.dlens = DLENS_VERSION,
                                  .command = g->cli->command,
                                  .model = {.title = g->pipe->title,
                                            .name = g->pipe->dir.spec,
                                            .class_name = g->pipe->dir.class_name,
                                            .fingerprint = id},
                                  .settings = settings,
                                  .run = run,
                                  .prompt = mp,
                                  .n_prompts = job->n_prompts,
                                  .layer = job->k,
                                  .n_layers = job->n_layers,
                                  .image = im,
                                  .n_images = n};
        rc = manifest_open(m, g->args->out, &s, e);
    }
    free(mp), free(im);
    json_decref(settings), json_decref(run);
    return rc;
}

enum { FIGURES_TOLD = 8 }; /* of more than these, the folder is told */

enum { SPOILT_TOLD = 8 };

struct watch {
    struct progress bar; /* first: what the callbacks are given is both */
    struct cli *cli;
    int64_t spoilt;
};

static void warn_spoilt(void *user, const struct manifest_image *im)
{
    struct watch *w = user;
    if (w->spoilt++ < SPOILT_TOLD)
        cli_warn(w->cli,
                 "prompt %d, seed %" PRIu64 ", layer %d: the model's result is not all numbers, so this picture means "
                 "nothing; try --dtype f32, and look for damaged weights",
                 im->prompt, im->seed, im->k);
}

int gen_run(struct gen_run *g, char *path, struct dl_err *e)
{
    struct manifest *m = NULL;
    struct dl_err late = {0};
    struct watch w = {.cli = g->cli};
    if (!g->args->out) return dl_fail(e, DL_EUSAGE, "--out DIR is needed: the folder for images, manifest and figure");
    if (open_folder(g, &m, e) < 0) return -1;
    int64_t before = manifest_n_done(m), images = images_of(g->job);
    if (manifest_is_resumed(m))
        cli_say(g->cli, "%s: going on, %" PRId64 " of %" PRId64 " images are done", g->args->out, before, images);
    if (manifest_n_lost(m))
        cli_warn(g->cli, "%s: %" PRId64 " finished images are gone or changed and are made again", g->args->out,
                 manifest_n_lost(m));

    progress_open(&w.bar, g->cli);
    w.bar.decoding = (double)g->plan->decode_flops * g->plan->batch / (double)(g->plan->step_flops + 1);
    struct lens_progress pr = {
        .tell = progress_tell, .part = progress_part, .spoilt = warn_spoilt, .user = &w, .stop = g->stop};
    int rc = lens_generate(g->pipe, g->job, g->plan, &g->source, m, g->args->out, &pr, e);
    double median, least;
    progress_step_ms(&w.bar, &median, &least);
    progress_close(&w.bar);
    int64_t done = manifest_n_done(m);
    if (w.spoilt > SPOILT_TOLD)
        cli_warn(g->cli, "%" PRId64 " pictures in all mean nothing", w.spoilt);
    if (manifest_close(m, &late) < 0 && rc == 0) rc = dl_fail(e, late.code, "%s", late.msg);
    if (rc < 0 && e->code == DL_EINTERRUPT) {
        *e = (struct dl_err){0};
        return dl_fail(e, DL_EINTERRUPT,
                       "interrupted: %" PRId64 " of %" PRId64 " images are in %s; the same command goes on from there",
                       done, images, g->args->out);
    }
    if (rc < 0) return rc;

    struct gen_figures f = {.list = json_array(), .line = path};
    rc = gen_show(g->cli, g->args->out, &f, e);
    json_object_set_new(g->cli->result, "images",
                        json_pack("{s:I, s:I, s:I}", "total", (json_int_t)images, "made", (json_int_t)(done - before),
                                  "resumed", (json_int_t)before));
    json_object_set_new(g->cli->result, "out", cli_string(g->args->out));
    json_object_set_new(g->cli->result, "figures", f.list);
    json_object_set_new(g->cli->result, "step_ms", json_real(median));
    json_object_set_new(g->cli->result, "step_ms_min", json_real(least));
    json_object_set_new(g->cli->result, "peak_rss_bytes", json_integer(cli_peak_rss()));
    if (json_array_size(f.list) > FIGURES_TOLD) snprintf(path, 4096, "%s", g->args->out);
    return rc;
}
