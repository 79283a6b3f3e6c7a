#include "lens/model_id.h"
#include "tools/gen.h"

#include <inttypes.h>
#include <stdio.h>

/* Settings that only some models have. */
static void add_honoured(json_t *o, const struct gen_run *g)
{
    static const char *const pooled[] = {"lens", "full", "empty"};
    const struct lens_job *j = g->job;
    const struct pipe *p = g->pipe;
    char text[64];
    if (p->honours & PIPE_OTHER)
        json_object_set_new(o, "other", json_string(j->lens.other_prompt ? "prompt" : "empty"));
    if (p->honours & PIPE_POOLED) json_object_set_new(o, "pooled", json_string(pooled[j->lens.pooled]));
    if (p->honours & PIPE_MAX_TOKENS) json_object_set_new(o, "max_tokens", json_integer(p->cond_tokens));
    if (p->honours & PIPE_CLEAN_CAPTION && !g->snapshots) /* else it was done to a text that is not seen here */
        json_object_set_new(o, "clean_caption", json_string(p->clean_caption ? "on" : "off"));
    if (!(p->honours & PIPE_CROP)) return;
    const struct pipe_gen *n = &j->gen;
    snprintf(text, sizeof text, "%dx%d", n->original_w ? n->original_w : n->width,
             n->original_h ? n->original_h : n->height);
    json_object_set_new(o, "original_size", json_string(text));
    snprintf(text, sizeof text, "%dx%d", n->target_w ? n->target_w : n->width, n->target_h ? n->target_h : n->height);
    json_object_set_new(o, "target_size", json_string(text));
    snprintf(text, sizeof text, "%d,%d", n->crop_x, n->crop_y);
    json_object_set_new(o, "crop", json_string(text));
}

/* The second stage: which one, by its fingerprint, and how. */
static int add_upscale(json_t *o, const struct lens_upscale *up, struct dl_err *e)
{
    char id[SHA256_HEX], seed[24] = "image";
    if (model_fingerprint(&up->pipe->dir, id, e) < 0) return -1;
    if (up->one_seed) snprintf(seed, sizeof seed, "%" PRIu64, up->seed);
    json_object_set_new(o, "upscale", json_string(id));
    json_object_set_new(o, "upscale_steps", json_integer(up->gen.steps));
    json_object_set_new(o, "upscale_guidance", json_real((double)up->gen.guidance));
    json_object_set_new(o, "upscale_seed", json_string(seed));
    return 0;
}

json_t *gen_settings(const struct gen_run *g, struct dl_err *e)
{
    const struct lens_job *j = g->job;
    char rng[32] = "torch-cpu", size[32];
    if (j->rng == RNG_TORCH_CUDA) snprintf(rng, sizeof rng, "torch-cuda:%d", j->rng_sms ? j->rng_sms : RNG_DEFAULT_SMS);
    snprintf(size, sizeof size, "%dx%d", j->gen.width, j->gen.height);
    json_t *o = json_pack(
        "{s:s, s:s, s:i, s:f, s:s, s:s, s:s, s:s, s:s, s:s, s:i}", "encoder",
        j->lens.both ? "both" : g->pipe->encoder[j->lens.encoder].folder, "size", size, "steps", j->gen.steps,
        "guidance", (double)j->gen.guidance, "scheduler",
        j->gen.scheduler == SCHED_FILE ? g->pipe->def.scheduler : sched_kind_name(j->gen.scheduler), "norm",
        g->args->norm ? "on" : "off", "noise", j->noise == LENS_SHARED ? "shared" : "sequential", "rng", rng, "dtype",
        dl_type_name(j->gen.type), "text", g->args->text == TEXT_HF4 ? "hf4" : "hf5", "vae_tile", g->plan->vae_tile);
    if (!o) {
        dl_fail(e, DL_ENOMEM, "no memory for a manifest");
        return NULL;
    }
    json_object_set_new(o, "vae_dtype", json_string(dl_type_name(g->plan->vae_type)));
    add_honoured(o, g);
    if (g->snapshots) json_object_set_new(o, "snapshots", json_string(g->snapshots));
    if (!j->up.pipe || add_upscale(o, &j->up, e) == 0) return o;
    json_decref(o);
    return NULL;
}
