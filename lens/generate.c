#include "lens/choices.h"
#include "lens/latents.h"
#include "lens/lens.h"
#include "lens/outfile.h"
#include "lens/upscale.h"
#include "lens/writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Groups are made so large that a batch can be filled from one. */
enum { GROUP_IMAGES_CPU = 4, GROUP_IMAGES_GPU = 64, FLUSH_SECONDS = 30, QUEUE = 16 };
/* Large pictures: more at once fill no GPU better, and take memory from the first stage. */
enum { UPSCALED_AT_ONCE = 8 };

static const int64_t round_bytes = (int64_t)2 << 30; /* see struct lens_job */

static int prompts_per_group(const struct pipe *p, const struct lens_job *job)
{
    int want = job->gen.batch ? job->gen.batch : !strcmp(p->be->name, "cpu") ? GROUP_IMAGES_CPU : GROUP_IMAGES_GPU;
    int per_prompt = job->n_layers * job->prompt[0].n_seeds, n = (want + per_prompt - 1) / per_prompt;
    return n < job->n_prompts ? n : job->n_prompts;
}

int64_t lens_images(const struct lens_job *job, struct manifest_image **out, struct dl_err *e)
{
    int64_t n = 0, at = 0;
    for (int i = 0; i < job->n_prompts; i++) n += (int64_t)job->prompt[i].n_seeds * job->n_layers;
    struct manifest_image *im = *out = calloc((size_t)n, sizeof *im);
    if (!im) return dl_fail(e, DL_ENOMEM, "no memory for a list of %lld images", (long long)n);
    for (int i = 0; i < job->n_prompts; i++)
        for (int s = 0; s < job->prompt[i].n_seeds; s++)
            for (int j = 0; j < job->n_layers; j++)
                im[at++] = (struct manifest_image){.prompt = i, .seed = job->prompt[i].seeds[s], .k = job->k[j]};
    return n;
}

bool lens_guided(const struct pipe *p, const struct lens_job *job)
{
    const struct lens_upscale *up = &job->up;
    return pipe_guided(p, job->gen.guidance) || (up->pipe && pipe_guided(up->pipe, up->gen.guidance));
}

/* Both stages are there at the same time: the second takes what it needs for a batch or less, and leaves at least an
 * image's room to the first, which then has the rest. */
static int plan_upscaler(struct pipe *p, struct lens_job *job, int64_t images, struct dl_err *e)
{
    struct lens_upscale *up = &job->up;
    struct pipe_gen one = job->gen;
    struct pipe_plan least;
    if (!one.batch) one.batch = 1;
    if (pipe_plan(p, &one, &least, e) < 0) return -1;
    up->gen.reserved_bytes = least.denoiser_bytes + least.vae_bytes + least.keep_bytes + least.work_bytes;
    up->gen.conds = job->gen.conds, up->gen.images = images < UPSCALED_AT_ONCE ? images : UPSCALED_AT_ONCE;
    up->gen.width = job->gen.width * up->pipe->upscales, up->gen.height = job->gen.height * up->pipe->upscales;
    up->pipe->cond_tokens = p->cond_tokens;
    if (pipe_plan(up->pipe, &up->gen, &up->plan, e) < 0) return -1;
    job->gen.reserved_bytes = up->plan.denoiser_bytes + up->plan.keep_bytes + up->plan.work_bytes;
    return 0;
}

int lens_plan(struct pipe *p, struct lens_job *job, struct pipe_plan *out, struct dl_err *e)
{
    int group = prompts_per_group(p, job);
    int64_t images = 0;
    for (int i = 0; i < group; i++) images += (int64_t)job->prompt[i].n_seeds * job->n_layers;
    job->gen.images = images;
    struct lens_upscale *up = &job->up;
    job->gen.conds = group * job->n_layers + (lens_guided(p, job) ? group : 0);
    /* The encoder that gives it is then fed the empty prompt alone. */
    job->gen.one_pooled = p->cond_pooled && !p->encoder[job->lens.encoder].pooled && !job->lens.other_prompt &&
                          !job->stored && !lens_guided(p, job);
    if (up->pipe && plan_upscaler(p, job, images, e) < 0) return -1;
    if (pipe_plan(p, &job->gen, out, e) < 0) return -1;
    int64_t denoise =
        out->denoiser_bytes + out->vae_bytes + out->keep_bytes + out->work_bytes + job->gen.reserved_bytes;
    int64_t text = out->text_bytes + out->text_work_bytes;
    out->peak_bytes = denoise > text ? denoise : text;
    return 0;
}

/* State of one generation. */
struct making {
    struct pipe *p;
    const struct lens_job *job;
    const struct pipe_plan *plan;
    struct lens_conds conds; /* of the round under way */
    struct manifest *m;
    const struct lens_progress *pr;
    struct writer *writer;
    struct latents *latents;            /* NULL without save_latents */
    const struct manifest_image *image; /* all of them */
    int64_t n_images, done;
    int batch;
    int64_t count;      /* elements of a latent */
    float *store;       /* [batch][count] */
    float *scratch;     /* [count] */
    struct dl_rng *rng; /* [batch] the images' generators, as their initial noise left them */
    uint8_t *rgb;
    struct upscaler *up; /* NULL: none */
    const char *dir;
    struct pipe *last; /* the pipe whose pictures are the result, and their size */
    const struct pipe_gen *size;
    time_t flushed;
    int step_batch;   /* images of the batch under way */
    int steps_before; /* evaluations that it has behind it in earlier stages */
    struct pipe_cond *group_cond;
    int first_prompt, n_group, n_negative;
    int *negative_row; /* [n_prompts] within the group's conditions */
};

/* Evaluations of the upscaler for a batch of the first stage. */
static int up_steps(const struct making *g)
{
    const struct pipe_plan *up = &g->job->up.plan;
    return g->up ? (g->step_batch + up->batch - 1) / up->batch * up->evaluations : 0;
}

static void tell(void *user, int step, int steps)
{
    struct making *g = user;
    (void)steps;
    if (g->pr && g->pr->tell)
        g->pr->tell(g->pr->user, g->done, g->n_images, g->steps_before + step, g->plan->evaluations + up_steps(g),
                    g->step_batch);
}

static void tell_part(void *user, int step, int steps, double part)
{
    struct making *g = user;
    (void)steps;
    if (g->pr && g->pr->part)
        g->pr->part(g->pr->user, g->done, g->n_images, g->steps_before + step, g->plan->evaluations + up_steps(g),
                    g->step_batch, part);
}

static bool wanted(const struct making *g, int64_t i)
{
    return !manifest_is_done(g->m, i) || (g->latents && !latents_has(g->latents, &g->image[i]));
}

/* Hands the conditions of prompts [first, first + n) to the pipe: all layers, then the distinct negatives. */
static int open_group(struct making *g, int first, int n, struct dl_err *e)
{
    const struct lens_conds *c = &g->conds;
    const int *negative_of = c->negative_of - c->first;
    int rows = 0;
    for (int i = first; i < first + n; i++)
        for (int j = 0; j < c->n_layers; j++)
            g->group_cond[rows++] = c->cond[(int64_t)(i - c->first) * c->n_layers + j];
    for (int i = first; lens_guided(g->p, g->job) && i < first + n; i++) {
        int j = first;
        while (j < i && negative_of[j] != negative_of[i]) j++;
        g->negative_row[i] = j < i ? g->negative_row[j] : rows;
        if (j == i) g->group_cond[rows++] = c->negative[negative_of[i]];
    }
    g->first_prompt = first, g->n_group = n;
    if (g->up && pipe_conditions(g->job->up.pipe, g->group_cond, rows, e) < 0) return -1;
    return pipe_conditions(g->p, g->group_cond, rows, e);
}

/* Initial noise of image i, and its generator after that. Sequential noise runs on from layer to layer of one prompt
 * and seed: what the layers before take, their steps' noise included, is drawn and passed over. */
static int noise_of(struct making *g, int64_t i, struct dl_rng *rng, float *out, struct dl_err *e)
{
    const struct lens_job *job = g->job;
    rng_seed(rng, job->rng, g->image[i].seed, job->rng_sms, 0);
    int before = 0;
    if (job->noise == LENS_SEQUENTIAL)
        while (job->k[before] != g->image[i].k) before++;
    for (int d = 0; d <= before * (1 + g->plan->draws); d++)
        if (pipe_noise(g->p, rng, job->gen.width, job->gen.height, job->gen.type, out, e) < 0) return -1;
    return 0;
}

static int layer_index(const struct lens_job *job, int k)
{
    int j = 0;
    while (job->k[j] != k) j++;
    return j;
}

/* Images that start from equal noise get equal numbers. */
static int64_t noise_number(const struct making *g, const int64_t *list, int n, int i)
{
    if (g->job->noise == LENS_SEQUENTIAL) return i;
    for (int j = 0; j < n; j++)
        if (g->image[list[j]].seed == g->image[list[i]].seed) return j;
    return i;
}

/* Decodes a latent of p and gives the picture to the writer, with image i's settings in it. index -1: not the result.
 */
static int write_picture(struct making *g, struct pipe *p, const struct pipe_gen *size, int64_t i, int64_t index,
                         const char *path, const float *latent, struct dl_err *e)
{
    const struct pipe_progress pr = {.stop = g->pr ? g->pr->stop : NULL};
    if (pipe_decode(p, latent, g->rgb, &pr, e) < 0) return -1;
    char *settings = manifest_image_text(g->m, i);
    if (!settings) return dl_fail(e, DL_ENOMEM, "no memory for an image's settings");
    struct dl_png_text text[] = {{"dlens", settings}, {"prompt", g->job->prompt[g->image[i].prompt].text}};
    struct writer_job w = {
        .path = path, .index = index, .rgb = g->rgb, .w = size->width, .h = size->height, .text = text, .n_text = 2};
    int rc = writer_push(g->writer, &w, e);
    free(settings);
    return rc;
}

static bool all_numbers(const float *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(v[i])) return false;
    return true;
}

static int write_image(struct making *g, int64_t i, const float *latent, struct dl_err *e)
{
    if (g->pr && g->pr->spoilt && !all_numbers(latent, pipe_latent_count(g->last, g->size->width, g->size->height)))
        g->pr->spoilt(g->pr->user, &g->image[i]);
    if (g->latents) {
        pipe_unpack(g->last, g->size->width, g->size->height, latent, g->scratch);
        if (latents_put(g->latents, &g->image[i], g->scratch, e) < 0) return -1;
    }
    if (!manifest_is_done(g->m, i) && /* else only its latent was missing */
        write_picture(g, g->last, g->size, i, i, manifest_path(g->m, i), latent, e) < 0)
        return -1;
    g->done++;
    if (g->pr && g->pr->tell) g->pr->tell(g->pr->user, g->done, g->n_images, 0, 0, 0);
    return 0;
}

/* The small picture of image i. */
static int write_small(struct making *g, int64_t i, const float *latent, struct dl_err *e)
{
    char name[NAMES_MAX], path[4096];
    names_image(name, "stage1", g->image[i].prompt, g->image[i].seed, g->image[i].k);
    if (snprintf(path, sizeof path, "%s/%s", g->dir, name) >= (int)sizeof path)
        return dl_fail(e, DL_EUSAGE, "%s: the path is too long", g->dir);
    return write_picture(g, g->p, &g->job->gen, i, -1, path, latent, e);
}

/* Enlarges and writes a batch of the first stage, in batches of the second. */
static int enlarge(struct making *g, const int64_t *list, const struct pipe_image *im, int n, struct dl_err *e)
{
    const struct pipe_plan *up = &g->job->up.plan;
    const struct pipe_progress pr = {.step = tell, .user = g, .stop = g->pr ? g->pr->stop : NULL};
    uint64_t seed[up->batch];
    g->steps_before = g->plan->evaluations;
    for (int at = 0; at < n; at += up->batch) {
        int m = n - at < up->batch ? n - at : up->batch;
        for (int i = 0; i < m; i++) seed[i] = g->image[list[at + i]].seed;
        if (upscaler_run(g->up, im + at, seed, m, &pr, e) < 0) return -1;
        g->steps_before += up->evaluations;
        for (int i = 0; i < m; i++)
            if (write_small(g, list[at + i], im[at + i].latent, e) < 0 ||
                write_image(g, list[at + i], upscaler_picture(g->up, i), e) < 0)
                return -1;
    }
    return 0;
}

static int make_batch(struct making *g, const int64_t *list, int n, struct dl_err *e)
{
    struct pipe_image im[n];
    g->step_batch = n, g->steps_before = 0;
    for (int i = 0; i < n; i++) {
        const struct manifest_image *want = &g->image[list[i]];
        int at = want->prompt - g->first_prompt;
        im[i] = (struct pipe_image){.cond = at * g->job->n_layers + layer_index(g->job, want->k),
                                    .negative = g->negative_row[want->prompt],
                                    .noise = noise_number(g, list, n, i),
                                    .latent = g->store + i * g->count,
                                    .rng = &g->rng[i]};
        if (noise_of(g, list[i], im[i].rng, im[i].latent, e) < 0) return -1;
    }
    const struct pipe_progress pr = {.step = tell, .part = tell_part, .user = g, .stop = g->pr ? g->pr->stop : NULL};
    if (pipe_denoise(g->p, im, n, &pr, e) < 0) return -1;
    if (g->up && enlarge(g, list, im, n, e) < 0) return -1;
    for (int i = 0; !g->up && i < n; i++)
        if (write_image(g, list[i], im[i].latent, e) < 0) return -1;
    choices_note(g->p->be, g->p->ctx, g->m);
    time_t now = time(NULL);
    if (g->latents && now - g->flushed >= FLUSH_SECONDS) {
        g->flushed = now;
        return latents_flush(g->latents, e);
    }
    return 0;
}

static int min_int(int a, int b) { return a < b ? a : b; }

/* The images of prompts [from, to), whose conditions are there. */
static int make_prompts(struct making *g, int from, int to, struct dl_err *e)
{
    int group = prompts_per_group(g->p, g->job);
    int64_t list[g->batch], i = 0;
    while (i < g->n_images && g->image[i].prompt < from) i++;
    for (int first = from; first < to; first += group) {
        int n = min_int(group, to - first), have = 0;
        bool open = false;
        for (; i < g->n_images && g->image[i].prompt < first + n; i++) {
            if (!wanted(g, i)) continue;
            if (!open && open_group(g, first, n, e) < 0) return -1;
            open = true;
            list[have++] = i;
            if (have == g->batch) {
                if (make_batch(g, list, have, e) < 0) return -1;
                have = 0;
            }
        }
        if (have && make_batch(g, list, have, e) < 0) return -1;
    }
    return 0;
}

/* How many prompts are encoded before images are made of them: whole groups. */
static int prompts_per_round(const struct making *g)
{
    const struct pipe *p = g->p;
    int64_t each =
        ((int64_t)p->cond_tokens * p->cond_width + p->cond_pooled) * g->job->n_layers * (int64_t)sizeof(float);
    int64_t most = (g->job->round_bytes ? g->job->round_bytes : round_bytes) / each;
    int group = prompts_per_group(p, g->job);
    return most > g->job->n_prompts ? g->job->n_prompts : most < group ? group : (int)(most - most % group);
}

/* Encodes prompts, lets the encoders go, loads the denoiser, makes the images; over and over where there are many. */
static int make_all(struct making *g, const struct lens_source *src, struct dl_err *e)
{
    int n_prompts = g->job->n_prompts, round = prompts_per_round(g), rc = 0;
    int64_t i = 0;
    for (int first = 0; first < n_prompts && rc == 0; first += round) {
        int n = min_int(round, n_prompts - first);
        bool any = false;
        for (; i < g->n_images && g->image[i].prompt < first + n; i++) any |= wanted(g, i);
        if (!any) continue;
        rc = src->conds(src->user, first, n, &g->conds, e);
        pipe_drop_text(g->p);
        if (rc == 0) rc = pipe_load(g->p, e);
        if (rc == 0 && g->up) rc = pipe_load(g->job->up.pipe, e);
        if (rc == 0) rc = make_prompts(g, first, first + n, e);
        lens_conds_close(&g->conds);
        if (first + n == n_prompts) break;
        pipe_unload(g->p);
        if (g->up) pipe_unload(g->job->up.pipe);
    }
    return rc;
}

static int open_upscaler(struct making *g, struct dl_err *e)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/stage1", g->dir) >= (int)sizeof path)
        return dl_fail(e, DL_EUSAGE, "%s: the path is too long", g->dir);
    if (outfile_folder(path, e) < 0) return -1;
    return upscaler_open(&g->up, g->job, e);
}

int lens_generate(struct pipe *p, const struct lens_job *job, const struct pipe_plan *plan,
                  const struct lens_source *src, struct manifest *m, const char *dir, const struct lens_progress *pr,
                  struct dl_err *e)
{
    struct making g = {.p = p, .job = job, .plan = plan, .m = m, .pr = pr, .flushed = time(NULL)};
    struct manifest_image *all = NULL;
    struct dl_err late = {0};
    int rc = -1;
    g.n_images = lens_images(job, &all, e);
    if (g.n_images < 0) return -1;
    g.image = all;
    g.dir = dir;
    g.last = job->up.pipe ? job->up.pipe : p, g.size = job->up.pipe ? &job->up.gen : &job->gen;
    if (job->save_latents && latents_open(&g.latents, dir, g.size->height / g.last->latent_factor,
                                          g.size->width / g.last->latent_factor, g.last->latent_c, e) < 0)
        goto done;
    int64_t left = 0;
    for (int64_t i = 0; i < g.n_images; i++) left += wanted(&g, i);
    g.done = g.n_images - left;
    rc = 0;
    if (!left) goto done;

    rc = -1;
    if (job->up.pipe && open_upscaler(&g, e) < 0) goto done;
    g.batch = plan->batch;
    g.count = pipe_latent_count(p, job->gen.width, job->gen.height);
    g.store = malloc((size_t)(g.batch * g.count) * sizeof(float));
    g.scratch = malloc((size_t)pipe_latent_count(g.last, g.size->width, g.size->height) * sizeof(float));
    g.rng = malloc((size_t)g.batch * sizeof *g.rng);
    g.rgb = malloc((size_t)g.size->width * (size_t)g.size->height * 3);
    g.group_cond = calloc((size_t)job->gen.conds, sizeof *g.group_cond);
    g.negative_row = calloc((size_t)job->n_prompts, sizeof *g.negative_row);
    if (!g.store || !g.scratch || !g.rng || !g.rgb || !g.group_cond || !g.negative_row) {
        dl_fail(e, DL_ENOMEM, "no memory for a batch of %d images", g.batch);
        goto done;
    }
    if (writer_open(&g.writer, QUEUE, manifest_done, m, e) < 0) goto done;
    rc = make_all(&g, src, e);
done:
    /* What was finished is kept, also after a failure. */
    if (writer_close(g.writer, &late) < 0 && rc == 0) rc = dl_fail(e, late.code, "%s", late.msg);
    late = (struct dl_err){0};
    if (g.latents && latents_flush(g.latents, &late) < 0 && rc == 0) rc = dl_fail(e, late.code, "%s", late.msg);
    latents_close(g.latents);
    upscaler_close(g.up);
    free(g.store), free(g.scratch), free(g.rng), free(g.rgb), free(g.group_cond), free(g.negative_row), free(all);
    return rc;
}
