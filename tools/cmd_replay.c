#include "lens/sha256.h"
#include "lens/snapshot.h"
#include "tools/gen.h"

#include <stdio.h>
#include <stdlib.h>

static const char help_head[] =
    "usage: dlens replay --model DIR --snapshots FILE --out DIR [options]\n"
    "\n"
    "Images from stored hidden states (dlens encode writes them; numpy can edit them). Of the text encoder only the\n"
    "final norm is read from the model.\n"
    "\n"
    "  --model DIR        folder in diffusers layout, or a hub id that lies in the local Hugging Face cache\n"
    "  --snapshots FILE   safetensors with p000.text_encoder.hidden_states [N+1][tokens][dim], and with guidance\n"
    "                     negative.text_encoder.hidden_states (or p000.negative.text_encoder.hidden_states)\n"
    "\n";

enum { SNAPSHOTS = GEN_END };
static const struct option options[] = {
    CLI_OPTIONS, GEN_COMMON_OPTIONS, {"snapshots", required_argument, NULL, SNAPSHOTS}, {0}};

struct replay_args {
    struct gen_args gen;
    const char *snapshots;
};

struct replay {
    struct pipe *pipe;
    struct lens_job *job;
    const struct snapshot *file;
};

static int load(void *user, int first, int n, struct lens_conds *c, struct dl_err *e)
{
    struct replay *r = user;
    return snapshot_conds(r->file, r->pipe, r->job, first, n, c, e);
}

static int replay(struct cli *c, void *user, char *path, struct dl_err *e)
{
    const struct gen_args *a = &((struct replay_args *)user)->gen;
    const char *snapshots = ((struct replay_args *)user)->snapshots;
    struct prompts ps = {.seed_offset = a->seed_offset};
    struct gen_model m = {0};
    struct range r = {0};
    struct lens_job job;
    struct pipe_plan plan;
    struct snapshot *file = NULL;
    int rc = -1;
    if (!snapshots) return dl_fail(e, DL_EUSAGE, "--snapshots FILE is needed: hidden states from dlens encode");
    if (!a->out && !c->dry_run)
        return dl_fail(e, DL_EUSAGE, "--out DIR is needed: the folder for images, manifest and figure");
    if (snapshot_open(&file, snapshots, e) < 0) goto done;
    for (int i = 0; i < snapshot_prompts(file); i++) {
        uint64_t own;
        bool has_own = snapshot_seed(file, i, &own);
        if (prompts_add(&ps, snapshot_text(file, i), snapshot_negative(file, i), has_own ? &own : a->seeds,
                        has_own ? 1 : a->n_seeds, e) < 0)
            goto done;
        if (has_own) ps.p[i].seeds[0] = own, ps.p[i].own_seed = true; /* never offset */
    }
    if (gen_open(c, a, &m, e) < 0 || gen_job(a, &m, &ps, &r, &job, e) < 0) goto done;
    job.stored = true;
    if (lens_plan(m.pipe, &job, &plan, e) < 0) goto done;
    gen_tell_plan(c, &job, &plan, NULL);
    rc = 0;
    if (c->dry_run) goto done;
    char id[SHA256_HEX];
    if (sha256_file(id, snapshots, NULL, e) < 0) {
        rc = -1;
        goto done;
    }
    struct replay s = {.pipe = m.pipe, .job = &job, .file = file};
    struct gen_run g = {.cli = c,
                        .args = a,
                        .pipe = m.pipe,
                        .job = &job,
                        .plan = &plan,
                        .source = {load, &s},
                        .snapshots = id,
                        .stop = cli_catch_interrupt()};
    rc = gen_run(&g, path, e);
done:
    range_close(&r);
    gen_close(&m);
    prompts_close(&ps);
    snapshot_close(file);
    return rc;
}

static int take(void *user, int v, struct dl_err *e)
{
    struct replay_args *a = user;
    if (v != SNAPSHOTS) return gen_take(&a->gen, v, e);
    a->snapshots = optarg;
    return 0;
}

int cmd_replay(int argc, char **argv)
{
    struct replay_args a = {0};
    char help[8192];
    snprintf(help, sizeof help, "%s%s", help_head, gen_help);
    gen_defaults(&a.gen);
    return cli_main(
        argc, argv,
        &(struct cli_main){.command = "replay", .help = help, .options = options, .take = take, .run = replay}, &a);
}
